"""The rule under JAX's transformations (vmap, scan, remat, two devices), and its derivative.

A rule that is right eagerly may be wrong where an axis is mapped (a batching rule, a reduction over
the wrong axis) or where it is differentiated again. Each lane of a mapped program must equal the
verified result of the rule for that lane alone. The second order is compared with autodiff's: the
gradient of <weights, cotangents> with respect to leaves and cotangents.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Program
from fbackprop.verify.checks import exact
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, not_checked, reported
from fbackprop.verify.checks.own_dtype import compare_mode
from fbackprop.verify.checks.problem import Baseline, Problem
from fbackprop.verify.checks.test_points import find_batch, is_symmetric
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.programs import evaluate_flat
from fbackprop.verify.report.findings import Finding
from fbackprop.verify.witnesses.comparison import compare
from fbackprop.verify.witnesses.kinks import find_ties
from fbackprop.verify.witnesses.rule import Leaves, Rule, in_dtypes_of, replaced
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, evaluate, traced_rule

Backward = Callable[..., Leaves]


def check_transformations(problem: Problem, baseline: Baseline) -> Evidence:
  """Check the rule under vmap, scan, remat and on two devices."""
  witnesses = baseline.witnesses
  lanes = [
    [*problem.leaves, *problem.y_bar],
    [*problem.redrawn(), *problem.draw(3)],
    [*problem.leaves, *problem.draw(4)],
  ][: 2 if problem.is_large else 3]
  alone: dict[tuple[int, ...], Values] = {}
  found = Evidence()
  for check, mapped in mapped_inputs(problem, witnesses).items():
    found += check_lanes(problem, witnesses, check, mapped, lanes, alone, found.has_failed)
  if problem.rule.f_vjp is None:
    found += check_remat(problem, witnesses)
  return found + check_devices(problem)


def mapped_inputs(problem: Problem, witnesses: Witnesses) -> dict[str, list[bool]]:
  """Return the mapped inputs by check: all, the cotangent, each argument; keys are never mapped."""
  names = problem.rule.signature.names
  dtypes = [a.dtype for a in witnesses.rule.in_avals]
  everything = [not jnp.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes]
  found = {"vmap": everything, "scan": everything}
  if problem.y_bar:
    found["vmap of the cotangent"] = [i >= len(names) for i in range(len(dtypes))]
  argument_of = [name.partition("/")[0] for name in names] + [""] * len(problem.y_bar)
  arguments = dict.fromkeys(argument_of[: len(names)])
  if len(arguments) > 1 and not problem.is_large:
    for argument in arguments:
      pairs = zip(argument_of, everything, strict=True)
      mapped = [own == argument and is_array for own, is_array in pairs]
      if any(mapped):
        found[f"vmap of {argument}"] = mapped
  return found


def check_lanes(
  problem: Problem,
  witnesses: Witnesses,
  check: str,
  mapped: list[bool],
  lanes: list[list[Any]],
  alone: dict[tuple[int, ...], Values],
  has_failed: bool,
) -> Evidence:
  """Compare each lane of stacked inputs with the rule's result for it alone, cached in `alone`."""
  try:
    program = mapped_program(witnesses, mapped, len(lanes), check == "scan")
  except Exception as error:
    if not is_mappable(witnesses, mapped, len(lanes)):
      return not_checked(f"{check}: the function itself can't be mapped")
    message = f"under {check} the rule raises {exact.as_rule_error(error)}"
    return reported(Finding("fail", check, message=message, cause="mode: raises"))
  found = Evidence(checks=(check,))
  inputs = [
    np.stack([np.asarray(lane[i]) for lane in lanes]) if m else lanes[0][i]
    for i, m in enumerate(mapped)
  ]
  stacks = witnesses.evaluator(None).run(program, inputs)
  count = len(witnesses.signature.names)
  for k in range(len(lanes)):
    which = tuple(k if m else 0 for m in mapped)
    if which not in alone:
      own = [lanes[lane][i] for i, lane in enumerate(which)]
      alone[which] = evaluate(Setting(witnesses, own[:count], own[count:]), problem.noise(k))
    values = alone[which]
    if not values.is_finite:
      continue
    got = [s[:, k] for s in stacks]
    found += compare_mode(problem, check, f"wrong under {check}", got, values, f"lane {k}")
    if has_failed or found.has_failed:
      break
  return found


def check_remat(problem: Problem, witnesses: Witnesses) -> Evidence:
  """Check the function under `jax.checkpoint`."""
  rule = problem.rule._replace(f=jax.checkpoint(problem.rule.f))
  try:
    program = traced(witnesses, backward_of(witnesses, rule), avals_of(witnesses))
  except Exception as error:
    return not_checked(f"remat: {type(error).__name__}")
  found = Evidence(checks=("remat",))
  at = Setting(witnesses, problem.leaves, problem.y_bar)
  values = evaluate(at, problem.noise())
  if values.is_endless:
    return found
  got = witnesses.evaluator(None).run(program, at.inputs)
  return found + compare_mode(problem, "remat", "wrong under remat", got, values)


def check_devices(problem: Problem) -> Evidence:
  """Compare a compilation for two devices with one device, if there are two."""
  rule, leaves = problem.rule, problem.own_leaves
  if len(jax.devices()) < 2:
    return not_checked("two devices: there is one")
  batch = find_batch(rule, problem.leaves, problem.outputs)
  if batch is None or leaves[next(iter(batch))].shape[0] % 2:
    return not_checked("two devices: no axis of an even number of examples")
  y_bar = in_dtypes_of(problem.outputs, problem.y_bar)
  try:
    got = sharded_backward(rule, leaves, y_bar, batch)
  except Exception as error:
    return not_checked(f"two devices: {type(error).__name__}")
  found = Evidence(checks=("two devices",))
  want = exact.compiled(rule, leaves, y_bar)
  for name, g, w in zip(problem.float_names, got, want, strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
    limit = 1e3 * float(jnp.finfo(g.dtype).eps) * float(np.max(np.abs(b), initial=0.0))
    if (np.abs(a - b) > limit).any():
      cause = "mode: wrong on two devices"
      return found + reported(Finding("fail", "two devices", leaf=name, cause=cause))
  return found


def check_second_order(problem: Problem, baseline: Baseline) -> Evidence:
  """Compare the rule's own derivative, where it has one, with autodiff's."""
  witnesses, signature = baseline.witnesses, problem.rule.signature
  if witnesses.truth is None:
    return Evidence()
  try:
    rule, truth = second_order_programs(witnesses)
  except Exception as error:
    name = type(error).__name__
    return not_checked(f"second order: the rule can't be differentiated ({name})")
  rng = np.random.default_rng([problem.seed, 6])
  other = problem.redrawn()
  names = [*problem.float_names, *(f"cotangent {i}" for i in range(len(problem.y_bar)))]
  # If the function holds an argument constant, as a loss its targets, its rule may do so too, and
  # the dependence of the other cotangents on it isn't the rule's concern.
  values = evaluate(Setting(witnesses, other, problem.y_bar), problem.noise())
  constants = {i for i, bar in enumerate(values.bars_want or ()) if bar.size and not np.any(bar)}
  found = Evidence()
  for where, leaves in ((AS_GIVEN, problem.leaves), ("redrawn", other)):
    weights = [rng.normal(size=np.shape(leaves[i])) for i in signature.floats]
    at = Setting(witnesses, leaves, problem.y_bar)
    evaluator = witnesses.evaluator(problem.noise())
    got, want = (evaluator.run(program, [*at.inputs, *weights]) for program in (rule, truth))
    if evaluator.is_endless or not all(np.isfinite(w[0]).all() for w in want):
      continue
    for i, leaf in enumerate(signature.floats):
      # Only symmetric directions stay within the symmetric matrices.
      if is_symmetric(np.asarray(leaves[leaf])):
        got[i], want[i] = (g[i] + np.swapaxes(g[i], -1, -2) for g in (got, want))
    differences = compare(got, want, 2 * problem.allowance, True)
    differences = [d for d in differences if d.leaf not in constants]
    if any(d.is_vacuous.any() for d in differences):
      found += not_checked(f"some entries, second order, {where}: their bounds are vacuous")
    wrong = [d for d in differences if d.is_wrong.any()]
    if wrong and find_ties(at):  # At a tie there is no second derivative.
      found += not_checked(f"second order, {where}: something is tied, and the rule differs there")
      continue
    found += Evidence(checks=("second order",))
    if wrong:
      finding = problem.finding("fail", "second order", where, names[wrong[0].leaf], wrong[0])
      return found + reported(finding._replace(cause="mode: wrong only in second order"))
  return found


# --- Programs -------------------------------------------------------------------------------------


def avals_of(witnesses: Witnesses) -> list[jax.ShapeDtypeStruct]:
  """Return the abstract values of the rule's program: leaves, then cotangents."""
  return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in witnesses.rule.in_avals]


def backward_of(witnesses: Witnesses, rule: Rule) -> Backward:
  """Return the cotangents as a function of leaves and cotangents of the float outputs."""
  count = len(witnesses.forward.out_avals)
  return lambda *inputs: traced_rule(rule, witnesses.outputs, *inputs)[count:]


def traced(witnesses: Witnesses, function: Callable[..., Any], avals: Sequence[Any]) -> Program:
  """Trace a function, in float64 if the rule was."""
  with jax.enable_x64(True) if witnesses.is_wide else contextlib.nullcontext():
    return jax.make_jaxpr(function)(*avals)


def stacked_avals(avals: Sequence[Any], mapped: Sequence[bool], lanes: int) -> list[Any]:
  """Return the shapes of the inputs, with an axis of lanes in front of the mapped ones."""
  return [
    jax.ShapeDtypeStruct((lanes, *a.shape) if stacked else a.shape, a.dtype)
    for a, stacked in zip(avals, mapped, strict=True)
  ]


def mapped_program(
  witnesses: Witnesses, mapped: Sequence[bool], lanes: int, use_scan: bool
) -> Program:
  """Trace the rule under vmap, or inside a scan.

  Args:
    witnesses: the programs of one lane.
    mapped: for each input, whether it is stacked.
    lanes: the number of lanes.
    use_scan: whether to use scan instead of vmap.
  """
  backward = backward_of(witnesses, witnesses.source)

  def by_vmap(*inputs: Any) -> Leaves:
    return jax.vmap(backward, in_axes=tuple(0 if m else None for m in mapped))(*inputs)

  def by_scan(*inputs: Any) -> Leaves:
    places = [i for i, m in enumerate(mapped) if m]

    def step(carry: None, own: list[Any]) -> tuple[None, Leaves]:
      return carry, backward(*replaced(inputs, places, own))

    return list(jax.lax.scan(step, None, [inputs[i] for i in places])[1])

  avals = stacked_avals(witnesses.rule.in_avals, mapped, lanes)
  return traced(witnesses, by_scan if use_scan else by_vmap, avals)


def is_mappable(witnesses: Witnesses, mapped: Sequence[bool], lanes: int) -> bool:
  """Return whether the function without its rule can be mapped so: not every kernel can."""
  avals = witnesses.forward.in_avals
  own = mapped[: len(avals)]
  function = jax.vmap(witnesses.source.forward, in_axes=tuple(0 if m else None for m in own))
  try:
    if any(own):
      traced(witnesses, function, stacked_avals(avals, own, lanes))
  except Exception:  # Any exception means that it can't.
    return False
  return True


def second_order_programs(witnesses: Witnesses) -> tuple[Program, Program]:
  """Trace the gradient of ⟨weights, cotangents⟩ by leaves and cotangents, of the rule and of A.

  Both programs take the inputs of the rule's program, then a weight for each cotangent.
  """
  truth = witnesses.truth
  assert truth is not None
  count = len(witnesses.forward.out_avals)
  avals = avals_of(witnesses)
  weights = [avals[i] for i in witnesses.signature.floats]
  moving = [i for i, a in enumerate(avals) if is_float(a.dtype)]

  def autodiff(*inputs: Any) -> Leaves:
    return evaluate_flat(truth, False, *inputs)[count:]

  def derivative(function: Backward) -> Program:
    def gradient(*inputs: Any) -> Leaves:
      own, own_weights = inputs[: len(avals)], inputs[len(avals) :]

      def product(*movable: Any) -> Any:
        bars = function(*replaced(own, moving, movable))
        return sum(jnp.vdot(w, b.astype(w.dtype)) for w, b in zip(own_weights, bars, strict=True))

      return list(jax.grad(product, tuple(range(len(moving))))(*(own[i] for i in moving)))

    return traced(witnesses, gradient, [*avals, *weights])

  return derivative(backward_of(witnesses, witnesses.source)), derivative(autodiff)


def sharded_backward(rule: Rule, leaves: Leaves, y_bar: Leaves, batch: dict[int, int]) -> Leaves:
  """Run the rule compiled for two devices, with the examples divided between them."""
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
  return exact.compiled(rule, own, bars)
