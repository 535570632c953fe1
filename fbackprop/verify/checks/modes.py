"""The same rule under JAX's transformations, and its own derivative."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Program
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.programs import evaluate_flat
from fbackprop.verify.witnesses.arguments import Leaves
from fbackprop.verify.witnesses.rules import Rule
from fbackprop.verify.witnesses.traces import Witnesses, traced_rule

Backward = Callable[..., Leaves]


def avals_of(witnesses: Witnesses) -> list[jax.ShapeDtypeStruct]:
  """What the rule's program takes: leaves, then cotangents."""
  return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in witnesses.rule.in_avals]


def backward_of(rule: Rule, witnesses: Witnesses) -> Backward:
  """The cotangents as a function of leaves and cotangents of the float outputs."""
  count = len(witnesses.forward.out_avals)
  return lambda *inputs: traced_rule(rule, witnesses.outputs, *inputs)[count:]


def mapped_program(
  rule: Rule, witnesses: Witnesses, mapped: Sequence[bool], lanes: int, use_scan: bool = False
) -> Program:
  """The rule under vmap, or inside a scan, some of its inputs stacked.

  Args:
    rule: the rule.
    witnesses: of one lane.
    mapped: for each input, whether it is stacked.
    lanes: how many there are.
    use_scan: a scan in the place of vmap.
  """
  backward = backward_of(rule, witnesses)
  avals = [
    jax.ShapeDtypeStruct((lanes, *a.shape) if stacked else a.shape, a.dtype)
    for a, stacked in zip(avals_of(witnesses), mapped, strict=True)
  ]

  def by_vmap(*inputs: Any) -> Leaves:
    return jax.vmap(backward, in_axes=tuple(0 if m else None for m in mapped))(*inputs)

  def by_scan(*inputs: Any) -> Leaves:
    rows = [x for x, m in zip(inputs, mapped, strict=True) if m]

    def step(carry: None, own: list[Any]) -> tuple[None, Leaves]:
      moving = iter(own)
      full = [next(moving) if m else x for x, m in zip(inputs, mapped, strict=True)]
      return carry, backward(*full)

    return list(jax.lax.scan(step, None, rows)[1])

  return in_traced_dtype(witnesses, by_scan if use_scan else by_vmap, avals)


def takes_stacks(rule: Rule, witnesses: Witnesses, mapped: Sequence[bool], lanes: int) -> bool:
  """Whether the function, without its rule, can be mapped so: not every kernel can."""
  own = [
    jax.ShapeDtypeStruct((lanes, *a.shape) if stacked else a.shape, a.dtype)
    for a, stacked in zip(witnesses.forward.in_avals, mapped, strict=False)
  ]
  axes = tuple(0 if m else None for m in mapped[: len(own)])
  if not any(mapped[: len(own)]):
    return True
  try:
    in_traced_dtype(witnesses, lambda *leaves: jax.vmap(rule.forward, in_axes=axes)(*leaves), own)
  except Exception:  # Whatever it raises.
    return False
  return True


def remat_program(rule: Rule, witnesses: Witnesses) -> Program:
  """The rule of a function under `jax.checkpoint`."""
  own = rule._replace(f=jax.checkpoint(rule.f))
  return in_traced_dtype(witnesses, backward_of(own, witnesses), avals_of(witnesses))


def in_traced_dtype(
  witnesses: Witnesses, function: Callable[..., Any], avals: Sequence[Any]
) -> Program:
  """Traced in float64 if the rule was."""
  if witnesses.is_wide:
    with jax.enable_x64(True):
      return jax.make_jaxpr(function)(*avals)
  return jax.make_jaxpr(function)(*avals)


def second_order_programs(rule: Rule, witnesses: Witnesses) -> tuple[Program, Program]:
  """The gradient of ⟨weights, cotangents⟩ by leaves and cotangents: of the rule, and of A.

  Both take the inputs of the rule's program, then a weight for each cotangent.
  """
  assert witnesses.truth is not None
  count = len(witnesses.forward.out_avals)
  backward, truth = backward_of(rule, witnesses), witnesses.truth
  avals = avals_of(witnesses)
  weights = [
    jax.ShapeDtypeStruct(avals[i].shape, avals[i].dtype) for i in witnesses.signature.floats
  ]
  moving = [i for i, a in enumerate(avals) if is_float(a.dtype)]

  def autodiff(*inputs: Any) -> Leaves:
    return evaluate_flat(truth, False, *inputs)[count:]

  def derivative(function: Backward) -> Callable[..., Leaves]:
    def gradient(*inputs: Any) -> Leaves:
      own, own_weights = inputs[: len(avals)], inputs[len(avals) :]

      def product(*movable: Any) -> Any:
        full = list(own)
        for i, value in zip(moving, movable, strict=True):
          full[i] = value
        bars = function(*full)
        return sum(jnp.vdot(w, b.astype(w.dtype)) for w, b in zip(own_weights, bars, strict=True))

      return list(jax.grad(product, tuple(range(len(moving))))(*(own[i] for i in moving)))

    return gradient

  return (
    in_traced_dtype(witnesses, derivative(backward), [*avals, *weights]),
    in_traced_dtype(witnesses, derivative(autodiff), [*avals, *weights]),
  )


def sharded_backward(
  rule: Rule, leaves: Leaves, y_bar: Leaves, batch: dict[int, int], outputs: Sequence[Any]
) -> Leaves:
  """The rule compiled for two devices, examples divided between them."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  size = leaves[next(iter(batch))].shape[0]
  own = [jax.device_put(x, rows if i in batch else whole) for i, x in enumerate(leaves)]
  bars = [
    b if b.dtype == jax.dtypes.float0
    else jax.device_put(b, rows if b.ndim and b.shape[0] == size else whole)
    for b in y_bar
  ]  # fmt: skip
  backward, moving = rule.of_floats(bars)
  return jax.jit(backward)(own, moving)
