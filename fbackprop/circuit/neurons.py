"""A small network taken apart: its neurons, and every weight on a wire of its own."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, StructureError, check_shape, check_unit, describe
from fbackprop.circuit.graph import GATES, Circuit, CircuitError, Node, build
from fbackprop.combinators import check_length, is_chain
from fbackprop.layers.activations import softmax
from fbackprop.losses import softmax_cross_entropy, squared_error
from fbackprop.types import Gate, Layer, Loss, Params


def from_mlp(net: Layer, params: Params, x: Any, target: Any, loss: Loss) -> Circuit:
  """Expands a network of dense and activation layers, and its loss, into gates.

  Inputs of the circuit are the features x1, x2, ..., the weights w1_2_3 (layer 1, from unit 2 to
  unit 3), and the biases b1_3, all with the values that they are given here; targets are constants.
  A neuron is its multiplication gates, the summation gate z1_3 and the activation h1_3.

  The gradients are those of `fb.value_and_grad`: for `squared_error` equal to 1e-12 of the largest
  in float64. `softmax_cross_entropy` is written out in naive gates, -Σ t log(e^z / Σ e^z): equal to
  1e-12 of the largest for logits within ±300, while beyond ±700 e^z is no float64 any more, which
  is why the loss itself is one rule.

  Args:
    net: a chain of `dense` layers and of activations of one gate, as `fb.mlp` makes it.
    params: its parameters.
    x: one example `[D_in]`.
    target: of `squared_error` `[C]`; of `softmax_cross_entropy` a label, or probabilities `[C]`.
    loss: one of these two.

  Returns:
    The `Circuit`; `circuit.trace()` solves it at these values, and `trace(w1_1_1=0.5)` at others.

  Raises:
    TypeError: `net` isn't a Layer, or has a layer that is neither; `loss` isn't one of the two;
      an array isn't of real numbers.
    ValueError: `params`, `x` or `target` don't fit.

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
  x = as_reals("x", x)
  check_shape("from_mlp", "x", x, ("D_in",))
  units = [f"x{i}" for i in range(1, len(x) + 1)]
  nodes = [Node(name, "input", (), float(v)) for name, v in zip(units, x, strict=True)]
  gates: dict[str, Gate] = {}
  depth = 0
  for layer, own in chained(net, params):
    if layer.name == "dense" and hasattr(own, "w"):
      depth += 1
      units = add_dense(nodes, depth, own, units)
    elif (gate := dict(layer.options).get("gate")) is not None:
      units = add_activation(nodes, gates, depth, gate, units)
    else:
      advice = "; softmax_cross_entropy takes logits" if layer.name == softmax.name else ""
      raise DtypeError(
        f"from_mlp: net must be a chain of dense layers and activations of one gate, it has the "
        f"layer {layer.name!r}{advice}"
      )
  if loss.name == squared_error.name:
    add_squared_error(nodes, units, as_reals("target", target))
  elif loss.name == softmax_cross_entropy.name:
    add_softmax_cross_entropy(nodes, units, np.asarray(target))
  else:
    raise DtypeError(
      f"from_mlp: loss must be squared_error or softmax_cross_entropy, got {loss.name!r}"
    )
  return build(nodes, "loss", gates)


def as_reals(name: str, value: Any) -> np.ndarray:
  """An array of real numbers; refuses what is none."""
  try:
    array = np.asarray(value)
  except ValueError:  # Lists of unequal lengths.
    array = np.asarray(None)
  if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
    raise DtypeError(f"from_mlp: {name} must be an array of real numbers, got {describe(value)}")
  return array


def chained(net: Layer, params: Params) -> Iterator[tuple[Layer, Params]]:
  """The layers of a chain with their parameters, chains in chains unrolled."""
  if not is_chain(net):
    yield net, params
    return
  check_length(params, net.parts)
  for part, own in zip(net.parts, params, strict=True):
    yield from chained(part, own)


def add_dense(nodes: list[Node], depth: int, params: Any, units: list[str]) -> list[str]:
  """The weights, multiplication gates and summation gates of a layer; returns its outputs."""
  w = as_reals(f"w of layer {depth}", params.w)
  check_shape("from_mlp", f"w of layer {depth}", w, (len(units), "D_out"))
  b = None if params.b is None else as_reals(f"b of layer {depth}", params.b)
  if b is not None:
    check_shape("from_mlp", f"b of layer {depth}", b, (w.shape[1],))
  sums = []
  for j in range(w.shape[1]):
    terms = []
    for i, unit in enumerate(units):
      weight = f"w{depth}_{i + 1}_{j + 1}"
      nodes.append(Node(weight, "input", (), float(w[i, j])))
      nodes.append(Node(f"p{depth}_{i + 1}_{j + 1}", "multiply", (unit, weight)))
      terms.append(nodes[-1].name)
    if b is not None:
      nodes.append(Node(f"b{depth}_{j + 1}", "input", (), float(b[j])))
      terms.append(nodes[-1].name)
    nodes.append(Node(f"z{depth}_{j + 1}", "add", tuple(terms)))
    sums.append(nodes[-1].name)
  return sums


def add_activation(
  nodes: list[Node], gates: dict[str, Gate], depth: int, gate: Gate, units: list[str]
) -> list[str]:
  """A gate for each unit; one that isn't ours is called by its own name, or by a free one."""
  op, count = gate.name, 1
  while {**GATES, **gates}.get(op, gate) != gate:
    count += 1
    op = f"{gate.name}_{count}"
  if op not in GATES:
    gates[op] = gate
  taken = {node.name for node in nodes}
  outputs = []
  for j, unit in enumerate(units):
    name = f"h{depth}_{j + 1}"
    while name in taken:  # An activation after an activation.
      name += "_"
    nodes.append(Node(name, op, (unit,)))
    outputs.append(name)
  return outputs


def add_squared_error(nodes: list[Node], units: list[str], target: Any) -> None:
  """½ Σ (y - t)²."""
  check_shape("from_mlp", "target", target, (len(units),))
  for j, unit in enumerate(units, 1):
    nodes += [
      Node(f"t{j}", "constant", (), float(target[j - 1])),
      Node(f"e{j}", "subtract", (unit, f"t{j}")),
      Node(f"s{j}", "square", (f"e{j}",)),
    ]
  squares = tuple(f"s{j}" for j in range(1, len(units) + 1))
  half = Node("half", "constant", (), 0.5)
  nodes += [Node("sum", "add", squares), half, Node("loss", "multiply", ("half", "sum"))]


def add_softmax_cross_entropy(nodes: list[Node], units: list[str], target: Any) -> None:
  """-Σ t log(e^z / Σ e^z)."""
  if np.issubdtype(target.dtype, np.integer) and target.shape == ():
    if not 0 <= target < len(units):
      raise CircuitError(
        f"from_mlp: target must be a label from 0 to {len(units) - 1}, got {target}"
      )
    target = np.arange(len(units)) == target
  elif not np.issubdtype(target.dtype, np.floating):
    raise StructureError(
      f"from_mlp: target must be a label or probabilities [C], got {describe(target)}"
    )
  check_shape("from_mlp", "target", target, (len(units),))
  exponentials = tuple(f"e{j}" for j in range(1, len(units) + 1))
  for e, unit in zip(exponentials, units, strict=True):
    nodes.append(Node(e, "exp", (unit,)))
  nodes.append(Node("sum", "add", exponentials))
  terms = []
  for j, e in enumerate(exponentials, 1):
    if target[j - 1] == 0:  # As in the loss: 0 log 0 is 0.
      continue
    nodes += [Node(f"q{j}", "divide", (e, "sum")), Node(f"l{j}", "log", (f"q{j}",))]
    terms.append(f"l{j}")
    if target[j - 1] != 1:
      nodes += [
        Node(f"t{j}", "constant", (), float(target[j - 1])),
        Node(f"m{j}", "multiply", (f"t{j}", f"l{j}")),
      ]
      terms[-1] = f"m{j}"
  if len(terms) > 1:
    nodes.append(Node("expected", "add", tuple(terms)))
    terms = ["expected"]
  if not terms:
    raise CircuitError("from_mlp: target is zero everywhere, so that there is no loss")
  nodes.append(Node("loss", "negate", (terms[0],)))
