"""The lecture's gates and the published examples, as circuits with their values.

`tests/circuit/test_numbers.py` tests their published numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fbackprop.circuit._circuit import Circuit
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.neurons import from_mlp
from fbackprop.circuit.parser import parse
from fbackprop.errors import hint
from fbackprop.layers.activations import sigmoid
from fbackprop.layers.dense import DenseParams
from fbackprop.losses.regression import squared_error
from fbackprop.networks import mlp


def example(name: str) -> Circuit:
  """Build an example with values for its inputs: `example("cs224n").trace()`.

  Args:
    name: one of `EXAMPLES`.

  Returns:
    The `Circuit`.

  Raises:
    ValueError: no example has this name.

  Example:
    >>> example("cs231n").trace().gradients
    {'x': -4.0, 'y': -4.0, 'z': 3.0}
  """
  if name not in EXAMPLES:
    raise CircuitError(f"there is no example {name!r}; {hint(name, EXAMPLES)}")
  return EXAMPLES[name]()


def at(text: str, **values: float) -> Circuit:
  """Parse a text, and set the values of its inputs."""
  circuit = parse(text)
  nodes = tuple(node._replace(value=values.get(node.name, node.value)) for node in circuit.nodes)
  return Circuit(nodes, circuit.outputs)


def mazur() -> Circuit:
  """Build a 2-2-2 sigmoid net, worked by hand at mattmazur.com, 2015.

  The source numbers the weights neuron by neuron.
  """
  net = mlp([2, 2, 2], sigmoid, output_activation=sigmoid)
  w1: Any = np.array([[0.15, 0.25], [0.20, 0.30]])  # NumPy's float64, whatever JAX's default is.
  w2: Any = np.array([[0.40, 0.50], [0.45, 0.55]])
  b1: Any = np.full(2, 0.35)
  b2: Any = np.full(2, 0.60)
  params = (DenseParams(w1, b1), (), DenseParams(w2, b2), ())
  return from_mlp(net, params, np.array([0.05, 0.10]), np.array([0.01, 0.99]), squared_error)


TWO_LAYERS = """
h1 = relu(w11*x1 + w21*x2 + b1)
h2 = relu(w12*x1 + w22*x2 + b2)
y = v1*h1 + v2*h2 + c
J = 0.5 * square(y - 1)
"""

EXAMPLES: dict[str, Callable[[], Circuit]] = {
  # One gate, its local gradients and the upstream gradient 1.
  "single-gate": partial(at, "f = x * y", x=3.0, y=-4.0),
  # A sum distributes the gradient: CS231n's (x + y) z.
  "add": partial(at, "q = x + y; f = 2 * q", x=-2.0, y=5.0),
  # A product swaps its inputs.
  "multiply": partial(at, "p = x * y * z; f = 2 * p", x=3.0, y=-4.0, z=2.0),
  # A maximum routes the gradient: 2 (x y + max(z, w)). CS231n, optimization-2.
  "max": partial(
    at, "p = x*y; m = max(z, w); q = p + m; f = 2 * q", x=3.0, y=-4.0, z=2.0, w=-1.0
  ),
  # The sigmoid as one gate.
  "sigmoid": partial(at, "y = sigmoid(z); f = 2 * y", z=1.0),
  # A sigmoid neuron gate by gate. CS231n, optimization-2.
  "neuron": partial(
    at, "z = w0*x0 + w1*x1 + w2; y = reciprocal(1 + exp(-z))",
    w0=2.0, x0=-1.0, w1=-3.0, x1=-2.0, w2=-3.0,
  ),
  # Two relu neurons, one linear one, and the squared error of a target.
  "two-layer": partial(
    at, TWO_LAYERS, x1=1.0, x2=2.0, w11=0.5, w21=-1.0, w12=1.0, w22=0.25, b1=0.0, b2=0.5, v1=1.0,
    v2=-0.5, c=0.2,
  ),
  "mazur": mazur,
  # (x + y) z. CS231n, optimization-2.
  "cs231n": partial(at, "q = x + y; f = q * z", x=-2.0, y=5.0, z=-4.0),
  # (x + y) max(y, z), where y is used twice. CS224n, lecture on backpropagation.
  "cs224n": partial(at, "a = x + y; b = max(y, z); f = a * b", x=1.0, y=2.0, z=0.0),
}  # fmt: skip
"""The examples: by name, a function that builds each."""
