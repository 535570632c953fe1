"""The lecture's gates and the published examples, as circuits with their values.

The numbers that were published for them are tests: see `tests/test_circuit_numbers.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fbackprop.circuit.graph import Circuit, CircuitError
from fbackprop.circuit.neurons import from_mlp
from fbackprop.circuit.parsing import parse
from fbackprop.hints import hint
from fbackprop.layers.activations import sigmoid
from fbackprop.layers.dense import DenseParams
from fbackprop.losses import squared_error
from fbackprop.networks import mlp


def example(name: str) -> Circuit:
  """An example by its name, its inputs with their values: `example("cs224n").trace()`.

  Args:
    name: one of `EXAMPLES`.

  Returns:
    The `Circuit`.

  Raises:
    ValueError: there is no such example.

  Example:
    >>> example("cs231n").trace().gradients
    {'x': -4.0, 'y': -4.0, 'z': 3.0}
  """
  if name not in EXAMPLES:
    raise CircuitError(f"there is no example {name!r}; {hint(name, EXAMPLES)}")
  return EXAMPLES[name]()


def at(text: str, **values: float) -> Circuit:
  """A text's circuit, its inputs with values."""
  circuit = parse(text)
  nodes = tuple(node._replace(value=values.get(node.name, node.value)) for node in circuit.nodes)
  return Circuit(nodes, circuit.outputs)


def single_gate() -> Circuit:
  """One gate, its local gradients and the upstream gradient 1."""
  return at("f = x * y", x=3.0, y=-4.0)


def add() -> Circuit:
  """A sum hands the gradient on: CS231n's (x + y) z."""
  return at("q = x + y; f = 2 * q", x=-2.0, y=5.0)


def multiply() -> Circuit:
  """A product swaps its inputs."""
  return at("p = x * y * z; f = 2 * p", x=3.0, y=-4.0, z=2.0)


def maximum() -> Circuit:
  """A maximum routes the gradient: 2 (x y + max(z, w)). CS231n, optimization-2."""
  return at("p = x*y; m = max(z, w); q = p + m; f = 2 * q", x=3.0, y=-4.0, z=2.0, w=-1.0)


def sigmoid_gate() -> Circuit:
  """The sigmoid as one gate."""
  return at("y = sigmoid(z); f = 2 * y", z=1.0)


def neuron() -> Circuit:
  """A sigmoid neuron gate by gate. CS231n, optimization-2."""
  text = "z = w0*x0 + w1*x1 + w2; y = reciprocal(1 + exp(-z))"
  return at(text, w0=2.0, x0=-1.0, w1=-3.0, x1=-2.0, w2=-3.0)


def two_layer() -> Circuit:
  """Two relu neurons, one linear one, and the squared error of a target."""
  text = """
    h1 = relu(w11*x1 + w21*x2 + b1)
    h2 = relu(w12*x1 + w22*x2 + b2)
    y = v1*h1 + v2*h2 + c
    J = 0.5 * square(y - 1)
  """
  return at(
    text, x1=1.0, x2=2.0, w11=0.5, w21=-1.0, w12=1.0, w22=0.25, b1=0.0, b2=0.5, v1=1.0, v2=-0.5,
    c=0.2,
  )  # fmt: skip


def mazur() -> Circuit:
  """A 2-2-2 sigmoid net, worked by hand at mattmazur.com, 2015. He numbers neuron by neuron."""
  net = mlp([2, 2, 2], sigmoid, output_activation=sigmoid)
  w1: Any = np.array([[0.15, 0.25], [0.20, 0.30]])  # NumPy's float64, whatever JAX is set to.
  w2: Any = np.array([[0.40, 0.50], [0.45, 0.55]])
  b1: Any = np.full(2, 0.35)
  b2: Any = np.full(2, 0.60)
  params = (DenseParams(w1, b1), (), DenseParams(w2, b2), ())
  return from_mlp(net, params, np.array([0.05, 0.10]), np.array([0.01, 0.99]), squared_error)


def cs231n() -> Circuit:
  """(x + y) z. CS231n, optimization-2."""
  return at("q = x + y; f = q * z", x=-2.0, y=5.0, z=-4.0)


def cs224n() -> Circuit:
  """(x + y) max(y, z), where y is used twice. CS224n, lecture on backpropagation."""
  return at("a = x + y; b = max(y, z); f = a * b", x=1.0, y=2.0, z=0.0)


EXAMPLES: dict[str, Callable[[], Circuit]] = {
  "single-gate": single_gate,
  "add": add,
  "multiply": multiply,
  "max": maximum,
  "sigmoid": sigmoid_gate,
  "neuron": neuron,
  "two-layer": two_layer,
  "mazur": mazur,
  "cs231n": cs231n,
  "cs224n": cs224n,
}
"""The examples: what makes each, by its name."""
