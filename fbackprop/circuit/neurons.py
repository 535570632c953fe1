"""The expansion of a small network into gates, with every weight on a wire of its own."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, StructureError, check_shape, check_unit, describe
from fbackprop.circuit._circuit import Circuit, build
from fbackprop.circuit.graph import GATES, CircuitError, Node
from fbackprop.combinators import check_length, is_chain
from fbackprop.layers.activations import softmax
from fbackprop.losses.classification import softmax_cross_entropy
from fbackprop.losses.regression import squared_error
from fbackprop.types import Gate, Layer, Loss, Params


def from_mlp(net: Layer, params: Params, x: Any, target: Any, loss: Loss) -> Circuit:
  """Expand a network of dense and activation layers, and its loss, into gates.

  The inputs of the circuit are the features x1, x2, ..., the weights w1_2_3 (layer 1, from unit 2
  to unit 3), and the biases b1_3, with the given values as defaults; targets are constants. A
  neuron consists of multiplication gates, the summation gate z1_3 and the activation h1_3.

  The gradients are those of `fb.value_and_grad`: for `squared_error` equal to 1e-12 of the largest
  in float64. `softmax_cross_entropy` is expanded into naive gates, -Σ t log(e^z / Σ e^z): equal to
  1e-12 of the largest for logits within ±300, whereas beyond ±700 e^z overflows float64, which is
  why the loss itself is one rule.

  Args:
    net: a chain of `dense` layers and activations of one gate, such as an `fb.mlp`.
    params: its parameters.
    x: one example `[D_in]`.
    target: for `squared_error` `[C]`; for `softmax_cross_entropy` a label, or probabilities `[C]`.
    loss: `squared_error` or `softmax_cross_entropy`.

  Returns:
    The `Circuit`; `circuit.trace()` solves it at these values, and `trace(w1_1_1=0.5)` at others.

  Raises:
    TypeError: `net` isn't a Layer, or contains another layer; `loss` is another loss; an array
      isn't of real numbers.
    ValueError: the shape of `params`, `x` or `target` doesn't fit.

  Example:
    >>> import jax
    >>> from fbackprop.networks import mlp
    >>> net = mlp([2, 1])
    >>> c = from_mlp(net, net.init(jax.random.key(0)), np.ones(2), np.zeros(1), squared_error)
    >>> c.inputs
    ('x1', 'x2', 'w1_1_1', 'w1_2_1', 'b1_1')
  """
  check_unit("from_mlp", "net", net, Layer)
  check_unit("from_mlp", "loss", loss, Loss)
  x = as_reals("x", x, "D_in")
  made = Expansion()
  units = [made.node(f"x{i}", "input", value=value) for i, value in enumerate(x, 1)]
  depth, suffix = 0, ""
  for layer, own in flatten(net, params):
    if layer.name == "dense" and hasattr(own, "w"):
      depth, suffix = depth + 1, ""
      units = made.dense(depth, own, units)
    elif (gate := dict(layer.options).get("gate")) is not None:
      op = made.op_of(gate)
      units = [made.node(f"h{depth}_{j}{suffix}", op, unit) for j, unit in enumerate(units, 1)]
      suffix += "_"  # An activation may follow an activation.
    else:
      advice = "; softmax_cross_entropy takes logits" if layer.name == softmax.name else ""
      wanted = "from_mlp: net must be a chain of dense layers and activations of one gate"
      raise DtypeError(f"{wanted}, it has the layer {layer.name!r}{advice}")
  if loss.name == squared_error.name:
    made.squared_error(units, as_reals("target", target, len(units)))
  elif loss.name == softmax_cross_entropy.name:
    made.softmax_cross_entropy(units, np.asarray(target))
  else:
    known = f"{squared_error.name} or {softmax_cross_entropy.name}"
    raise DtypeError(f"from_mlp: loss must be {known}, got {loss.name!r}")
  return build(made.nodes, "loss", made.gates)


def as_reals(name: str, value: Any, *shape: int | str) -> np.ndarray:
  """Convert to an array of real numbers of a shape; raise for anything else."""
  try:
    array = np.asarray(value)
  except ValueError:  # Ragged lists.
    array = np.asarray(None)
  if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
    raise DtypeError(f"from_mlp: {name} must be an array of real numbers, got {describe(value)}")
  check_shape("from_mlp", name, array, shape)
  return array


def flatten(net: Layer, params: Params) -> Iterator[tuple[Layer, Params]]:
  """Yield the layers of a chain with their parameters, nested chains flattened."""
  if not is_chain(net):
    yield net, params
    return
  check_length(params, net.parts)
  for part, own in zip(net.parts, params, strict=True):
    yield from flatten(part, own)


class Expansion:
  """The nodes of an expanded network; each method adds nodes and returns the names of its outputs.

  Attributes:
    nodes: the nodes, in topological order.
    gates: the gates that aren't in `fbackprop.gates`, by their ops.
  """

  def __init__(self) -> None:
    self.nodes: list[Node] = []
    self.gates: dict[str, Gate] = {}

  def node(self, name: str, op: str, *inputs: str, value: Any = None) -> str:
    self.nodes.append(Node(name, op, inputs, None if value is None else float(value)))
    return name

  def dense(self, depth: int, params: Any, units: list[str]) -> list[str]:
    """Add the weights, multiplication gates and summation gates of a layer."""
    w = as_reals(f"w of layer {depth}", params.w, len(units), "D_out")
    b = () if params.b is None else as_reals(f"b of layer {depth}", params.b, w.shape[1])
    sums = []
    for j, column in enumerate(w.T, 1):
      terms = []
      for i, (unit, value) in enumerate(zip(units, column, strict=True), 1):
        weight = self.node(f"w{depth}_{i}_{j}", "input", value=value)
        terms.append(self.node(f"p{depth}_{i}_{j}", "multiply", unit, weight))
      if len(b):
        terms.append(self.node(f"b{depth}_{j}", "input", value=b[j - 1]))
      sums.append(self.node(f"z{depth}_{j}", "add", *terms))
    return sums

  def op_of(self, gate: Gate) -> str:
    """Return the op of a gate, which is its name; that of a foreign gate is made unique."""
    ops = (gate.name, *(f"{gate.name}_{i}" for i in range(2, len(self.gates) + 3)))
    op = next(op for op in ops if {**GATES, **self.gates}.get(op, gate) == gate)
    if op not in GATES:
      self.gates[op] = gate
    return op

  def squared_error(self, units: list[str], target: np.ndarray) -> None:
    """Add the gates of ½ Σ (y - t)²."""
    squares = []
    for j, (unit, value) in enumerate(zip(units, target, strict=True), 1):
      error = self.node(f"e{j}", "subtract", unit, self.node(f"t{j}", "constant", value=value))
      squares.append(self.node(f"s{j}", "square", error))
    total = self.node("sum", "add", *squares)
    self.node("loss", "multiply", self.node("half", "constant", value=0.5), total)

  def softmax_cross_entropy(self, units: list[str], target: np.ndarray) -> None:
    """Add the gates of -Σ t log(e^z / Σ e^z)."""
    if np.issubdtype(target.dtype, np.integer) and target.shape == ():
      if not 0 <= target < len(units):
        labels = f"from 0 to {len(units) - 1}"
        raise CircuitError(f"from_mlp: target must be a label {labels}, got {target}")
      target = np.arange(len(units)) == target
    elif not np.issubdtype(target.dtype, np.floating):
      problem = f"must be a label or probabilities [C], got {describe(target)}"
      raise StructureError(problem, "target", "from_mlp")
    check_shape("from_mlp", "target", target, (len(units),))
    exponentials = [self.node(f"e{j}", "exp", unit) for j, unit in enumerate(units, 1)]
    total = self.node("sum", "add", *exponentials)
    terms = []
    for j, (e, share) in enumerate(zip(exponentials, target, strict=True), 1):
      if share != 0:  # As in the loss: 0 log 0 is 0.
        terms.append(self.node(f"l{j}", "log", self.node(f"q{j}", "divide", e, total)))
      if share not in (0, 1):
        weight = self.node(f"t{j}", "constant", value=share)
        terms[-1] = self.node(f"m{j}", "multiply", weight, terms[-1])
    if not terms:
      raise CircuitError("from_mlp: target is zero everywhere, so that there is no loss")
    expected = self.node("expected", "add", *terms) if len(terms) > 1 else terms[0]
    self.node("loss", "negate", expected)
