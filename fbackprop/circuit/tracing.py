"""A circuit solved: forward through the gates' forward rules, then backward through the others.

The backward pass is the lecture's: at a gate the upstream gradient has arrived from every wire that
leaves it, before its backward rule multiplies it by the local gradients and hands the products
down. No autodiff is called, and nothing recurses. A gate that leads to no output gets no gradient,
and its rule isn't called: log(0) in a statement that nothing uses spoils nothing.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import (
  DtypeError,
  check_available,
  check_floating,
  check_same,
  describe,
)
from fbackprop.circuit.graph import Circuit, CircuitError, GateTrace, Trace, check_value
from fbackprop.hints import hint
from fbackprop.types import Array, Residuals


def forward(
  circuit: Circuit, inputs: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Residuals]]:
  """The value of every node, and what each gate keeps.

  Args:
    circuit: the circuit.
    inputs: an array for each input, all of one shape and dtype, which the constants take too.

  Returns:
    `(values, residuals)`, by the names of the nodes, and of the gates.
  """
  like = next(iter(inputs.values())) if inputs else jnp.zeros(())
  values: dict[str, Array] = {}
  residuals: dict[str, Residuals] = {}
  for node in circuit.nodes:
    if node.op == "input":
      values[node.name] = inputs[node.name]
    elif node.value is not None:  # A constant; a gate has none.
      values[node.name] = jnp.full_like(like, float(node.value))
    else:
      gate = circuit.gate_of[node.op]
      arrived = (values[name] for name in node.inputs)
      values[node.name], residuals[node.name] = gate.forward(*arrived)
  return values, residuals


def weighted_sum(circuit: Circuit, values: Mapping[str, Array]) -> Array:
  """What is differentiated: Σ weight · output. An output of weight 1 is left as it is."""
  terms = [
    values[name] * weight if weight != 1 else values[name] for name, weight in circuit.outputs
  ]
  total = terms[0]
  for term in terms[1:]:
    total = total + term
  return total


def backward(
  circuit: Circuit, values: Mapping[str, Array], residuals: Mapping[str, Residuals]
) -> tuple[dict[str, Array], dict[str, tuple[Array, ...]]]:
  """The gradient of the weighted sum by every node that leads to an output.

  Args:
    circuit: the circuit.
    values: of the nodes, by `forward`.
    residuals: of the gates, by `forward`.

  Returns:
    `(bars, downstream)`: the gradient by each node, and what each gate hands down to its inputs;
    without those that lead to no output.
  """
  bars: dict[str, Array] = {}
  for name, weight in circuit.outputs:
    bars[name] = jnp.full_like(values[name], weight)
  downstream: dict[str, tuple[Array, ...]] = {}
  for node in reversed(circuit.nodes):
    if node.name not in bars or node.name not in residuals:
      continue
    gate = circuit.gate_of[node.op]
    sent = gate.backward(residuals[node.name], bars[node.name])
    downstream[node.name] = sent
    for name, term in zip(node.inputs, sent, strict=True):
      bars[name] = bars[name] + term if name in bars else term
  return bars, downstream


def value_and_grad(circuit: Circuit, given: Mapping[str, Any]) -> tuple[Array, dict[str, Array]]:
  """The value and its gradient by each input; a pure function, for jit, vmap, jvp.

  Args:
    circuit: the circuit.
    given: an array for each input, NumPy's or JAX's, all of one shape and one floating dtype; the
      circuit is computed entry by entry. A Python number stands for an array that is filled with
      it; of numbers alone, the arrays have no axis and JAX's default dtype, float32, or float64
      where x64 is on. An input that has a value of its own may be left out.

  Returns:
    `(value, {name: gradient})`, in the shape and dtype of the inputs: the gradient of each entry
    of the value by that entry of the input.

  Raises:
    TypeError: an input isn't a floating array or a number, or its dtype is another one's.
    ValueError: an input is missing, unknown, or of another shape.

  Example:
    >>> from fbackprop.circuit.parsing import parse
    >>> value, gradients = parse("x * y").value_and_grad(x=jnp.array([1.0, 2.0]), y=3.0)
    >>> print(value, gradients["x"], gradients["y"])
    [3. 6.] [3. 3.] [1. 2.]
  """
  inputs = as_arrays(complete(circuit, given))
  values, residuals = forward(circuit, inputs)
  bars, _ = backward(circuit, values, residuals)
  zero = jnp.zeros_like(values[circuit.nodes[0].name])
  gradients = {name: bars.get(name, zero) for name in circuit.inputs}
  return weighted_sum(circuit, values), gradients


def complete(circuit: Circuit, given: Mapping[str, Any]) -> dict[str, Any]:
  """A value for each input: the one given, or its own; refuses a missing and an unknown one."""
  for name in given:
    if name not in circuit.inputs:
      there = hint(name, circuit.inputs) if circuit.inputs else "it has none"
      if name == "e" and any(node.op == "exp" for node in circuit.nodes):
        there = "e**x is exp(x), unless it is parsed with euler=False"
      raise CircuitError(f"circuit: there is no input {name!r}; {there}")
  found = {n.name: given.get(n.name, n.value) for n in circuit.nodes if n.op == "input"}
  missing = [name for name, value in found.items() if value is None]
  if missing:
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    raise CircuitError(f"circuit: a value is missing for {', '.join(missing[:10])}{more}")
  return found


def as_arrays(values: Mapping[str, Any]) -> dict[str, Array]:
  """The inputs as arrays of one shape and dtype; refuses what differs."""
  numbers = {
    name: as_float(name, value)
    for name, value in values.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }
  arrays = {name: value for name, value in values.items() if name not in numbers}
  first = next(iter(arrays), "")
  for name, value in arrays.items():
    if not hasattr(value, "dtype"):
      raise DtypeError(f"circuit: {name} must be an array or a number, got {describe(value)}")
    check_floating("circuit", name, value)
    check_available("circuit", value.dtype)
    check_same("circuit", (first, name), arrays[first], value)
  like = jnp.zeros(()) if not arrays else jnp.asarray(arrays[first])
  return {
    name: jnp.full_like(like, numbers[name]) if name in numbers else jnp.asarray(value)
    for name, value in values.items()
  }


def trace(circuit: Circuit, given: Mapping[str, Any]) -> Trace:
  """Both numbers of every wire, in float64 whatever JAX is set to.

  Local gradients are what the gate's backward rule makes of the upstream gradient 1. What is handed
  down is what it makes of the upstream gradient that is there; both products are rounded alike but
  for the last digit.

  Args:
    circuit: the circuit.
    given: a finite number for each input; one that has a value of its own may be left out.

  Returns:
    The `Trace`; its numbers are Python's.

  Raises:
    TypeError: a value isn't a number.
    ValueError: it isn't finite, or an input is missing or unknown.

  Example:
    >>> from fbackprop.circuit.parsing import parse
    >>> t = parse("(x+y)*max(y,z)").trace(x=1.0, y=2.0, z=0.0)
    >>> t.value, t.gradients
    (6.0, {'x': 2.0, 'y': 5.0, 'z': 0.0})
    >>> t.contributions["y"]
    (2.0, 3.0)
  """
  numbers = {name: as_number(name, value) for name, value in complete(circuit, given).items()}
  with jax.enable_x64(True):
    values, residuals = forward(circuit, {n: jnp.asarray(v, float) for n, v in numbers.items()})
    bars, downstream = backward(circuit, values, residuals)
    one = jnp.ones(())
    local = {
      node.name: circuit.gate_of[node.op].backward(residuals[node.name], one)
      for node in circuit.nodes
      if node.name in residuals
    }
    value = weighted_sum(circuit, values)
    solved = jax.device_get((values, bars, downstream, local, value))
  values, bars, downstream, local, value = jax.tree.map(float, solved)

  # What leads to no output has the gradient zero.
  all_bars = {node.name: bars.get(node.name, 0.0) for node in circuit.nodes}
  terms: dict[str, list[float]] = {node.name: [] for node in circuit.nodes}
  gates = []
  for node in circuit.nodes:
    if node.name not in residuals:
      continue
    sent = downstream.get(node.name, (0.0,) * len(node.inputs))
    for name, term in zip(node.inputs, sent, strict=True):
      terms[name].append(term)
    upstream = all_bars[node.name]
    gates.append(
      GateTrace(
        node.name, node.op, node.inputs, values[node.name], local[node.name], upstream, sent
      )
    )
  for name, weight in circuit.outputs:
    terms[name].append(weight)
  return Trace(
    circuit,
    values={node.name: values[node.name] for node in circuit.nodes},
    bars=all_bars,
    contributions={name: tuple(found) for name, found in terms.items()},
    gates=tuple(gates),
    value=value,
    gradients={name: all_bars[name] for name in circuit.inputs},
  )


def as_float(name: str, value: float) -> float:
  """A Python number as a float, NaN and infinities too; refuses an integer that is too large."""
  if isinstance(value, int):
    check_value(name, value)
  return float(value)


def as_number(name: str, value: Any) -> float:
  """A Python number of a number or of an array without axes; refuses anything else."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    check_floating("circuit", name, value)
    if value.shape != () or isinstance(value, jax.core.Tracer):
      raise CircuitError(
        f"circuit: trace needs a number for {name}, got {describe(value)}; value_and_grad takes "
        "arrays"
      )
    value = float(value)
  check_value(name, value)
  return float(value)
