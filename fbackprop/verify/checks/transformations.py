"""The rule under JAX's transformations (vmap, scan, remat, two devices), and its derivative.

A rule that is right eagerly may be wrong where an axis is mapped (a batching rule, a reduction over
the wrong axis) or where it is differentiated again. Each lane of a mapped program must equal the
verified result of the rule for that lane alone. The second order is compared with autodiff's: the
gradient of <weights, cotangents> with respect to leaves and cotangents.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import jaxprs
from fbackprop.jaxprs import Program, evaluate_flat
from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.maths import compare_mode
from fbackprop.verify.checks.test_points import find_batch
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import Finding
from fbackprop.verify.witnesses import kinks, traces, verdicts
from fbackprop.verify.witnesses.arrays import is_symmetric
from fbackprop.verify.witnesses.rule import Function, Leaves, Rule, as_rule_error, replaced
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, evaluate


def check_transformations(problem: Problem) -> Iterator[Evidence]:
  """Check the rule under vmap, scan, remat and on two devices."""
  lanes = [
    [*problem.leaves, *problem.y_bar],
    [*problem.test_points[0].leaves, *problem.rule.draw(problem.seed, 3)],
    [*problem.leaves, *problem.rule.draw(problem.seed, 4)],
  ][: 2 if problem.is_large else 3]

  @cache
  def alone(is_noisy: bool, *which: int) -> Values:
    """Evaluate the rule at a point that takes each input from one of the lanes."""
    own, count = [lanes[lane][i] for i, lane in enumerate(which)], len(problem.leaves)
    at = Setting(problem.witnesses, own[:count], own[count:])
    return evaluate(at, problem.noise(max(which)) if is_noisy else None)

  has_failed = False
  for check, mapped in mapped_inputs(problem).items():
    found = sum(check_lanes(problem, check, mapped, lanes, alone, has_failed), Evidence())
    has_failed |= found.has_failed
    yield found
  if problem.rule.f_vjp is None:
    yield from check_remat(problem)
  yield from check_devices(problem)


def mapped_inputs(problem: Problem) -> dict[str, list[bool]]:
  """Return the mapped inputs by check: all, the cotangent, each argument; keys are never mapped."""
  avals, names = problem.witnesses.rule.in_avals, problem.signature.names
  everything = [not jnp.issubdtype(a.dtype, jax.dtypes.prng_key) for a in avals]
  found = {"vmap": everything, "scan": everything}
  argument_of = [name.partition("/")[0] for name in names] + [""] * len(problem.y_bar)
  found["vmap of the cotangent"] = [not argument for argument in argument_of]
  arguments = list(dict.fromkeys(argument_of[: len(names)]))
  # JAX's own operations are batched rightly along any operands, once the rule is a program of them.
  is_foreign = jaxprs.holds_foreign_code(problem.witnesses.rule)
  is_asked = len(arguments) > 1 and not problem.is_large and is_foreign
  for argument in arguments if is_asked else ():
    pairs = zip(argument_of, everything, strict=True)
    found[f"vmap of {argument}"] = [own == argument and is_array for own, is_array in pairs]
  return {check: mapped for check, mapped in found.items() if any(mapped)}


def check_lanes(
  problem: Problem,
  check: str,
  mapped: list[bool],
  lanes: list[list[Any]],
  alone: Callable[..., Values],
  has_failed: bool,
) -> Iterator[Evidence]:
  """Compare each lane of stacked inputs with the rule's result for it alone."""
  witnesses, count = problem.witnesses, len(problem.leaves)
  try:
    backward = backward_of(witnesses, witnesses.source)
    if check != "vmap" and not jaxprs.holds_foreign_code(witnesses.rule):
      # One mode runs the rule's Python code again, and one is enough: JAX maps its own operations.
      whole, y_count = jaxprs.function_of(witnesses.rule), len(witnesses.forward.out_avals)
      backward = lambda *inputs: whole(*inputs)[y_count:]  # noqa: E731
    program = mapped_program(witnesses, backward, mapped, len(lanes), check == "scan")
  except Exception as error:
    if is_mappable(witnesses, mapped[:count], len(lanes)):
      message = f"under {check} the rule raises {as_rule_error(error)}"
      yield reported(Finding("fail", check, message=message, cause="mode: raises"))
    else:
      yield not_checked(f"{check}: the function itself can't be mapped")
    return
  yield evidence.ran(check)
  inputs = [
    np.stack([np.asarray(lane[i]) for lane in lanes]) if m else lanes[0][i]
    for i, m in enumerate(mapped)
  ]
  stacks = witnesses.evaluator(None).run(program, inputs)
  for k in range(len(lanes)):
    which = [k if m else 0 for m in mapped]
    got, what = [s[:, k] for s in stacks], f"wrong under {check}"
    found = Evidence()
    for is_noisy in (False, True):  # The rounding matters only where the lanes differ.
      values = alone(is_noisy, *which)
      if values.is_finite:
        found = compare_mode(problem, check, what, got, values, f"lane {k}")
      if not found.has_failed:
        break
    if values.is_finite:
      yield found
      if has_failed or found.has_failed:
        return


def check_remat(problem: Problem) -> Iterator[Evidence]:
  """Check the function under `jax.checkpoint`."""
  witnesses, rule = problem.witnesses, problem.rule._replace(f=jax.checkpoint(problem.rule.f))
  try:
    program = witnesses.traced(backward_of(witnesses, rule), witnesses.rule.in_avals)
  except Exception as error:
    yield not_checked(f"remat: {type(error).__name__}")
    return
  yield evidence.ran("remat")
  if not problem.values.is_endless:
    got = witnesses.evaluator(None).run(program, problem.given.inputs)
    yield compare_mode(problem, "remat", "wrong under remat", got, problem.values)


def check_devices(problem: Problem) -> Iterator[Evidence]:
  """Compare a compilation for two devices with one device, if there are two."""
  rule, leaves, y_bar = problem.rule, problem.own_leaves, problem.own_y_bar
  if len(jax.devices()) < 2:
    yield not_checked("two devices: there is one")
    return
  batch = find_batch(rule, problem.leaves)
  if batch is None or leaves[batch[0]].shape[0] % 2:
    yield not_checked("two devices: no axis of an even number of examples")
    return
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
  sharding, axes = jax.sharding.NamedSharding, jax.sharding.PartitionSpec
  whole, rows = sharding(mesh, axes()), sharding(mesh, axes("data"))
  size = leaves[batch[0]].shape[0]

  def placed(b: Any) -> Any:
    return jax.device_put(b, rows if b.ndim and b.shape[0] == size else whole)

  try:
    own = [jax.device_put(x, rows if i in batch else whole) for i, x in enumerate(leaves)]
    got = problem.compiled(own, [placed(b) if is_float(b.dtype) else b for b in y_bar])[1]
  except Exception as error:
    yield not_checked(f"two devices: {type(error).__name__}")
    return
  yield evidence.ran("two devices")
  for name, g, w in zip(problem.signature.float_names, got, problem.results[1], strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
    # Where the function computes in a narrower dtype, two partial sums are rounded to that.
    unit = max(1e3 * float(jnp.finfo(g.dtype).eps), 8 * problem.witnesses.coarsest)
    limit = unit * float(np.max(np.abs(b), initial=0.0))
    if (np.abs(a - b) > limit).any():
      cause = "mode: wrong on two devices"
      yield reported(Finding("fail", "two devices", leaf=name, cause=cause))
      return


def check_second_order(problem: Problem) -> Iterator[Evidence]:
  """Compare the rule's own derivative, where it has one, with autodiff's."""
  witnesses, signature = problem.witnesses, problem.signature
  if witnesses.truth is None:
    return
  try:
    both = second_order_programs(witnesses, witnesses.truth)
  except Exception as error:
    yield not_checked(f"second order: the rule can't be differentiated ({type(error).__name__})")
    return
  rng = np.random.default_rng([problem.seed, 6])
  names = [*signature.float_names, *(f"cotangent {i}" for i in range(len(problem.y_bar)))]
  redrawn = problem.given._replace(leaves=problem.test_points[0].leaves)
  # If the function holds an argument constant, as a loss its targets, its rule may do so too, and
  # the dependence of the other cotangents on it isn't the rule's concern.
  bars = evaluate(redrawn, None).bars_want or ()
  constants = {i for i, bar in enumerate(bars) if bar.size and not np.any(bar)}
  for where, at in ((AS_GIVEN, problem.given), ("redrawn", redrawn)):
    weights = [rng.normal(size=leaf.shape) for leaf in at.float_leaves]
    differences = second_order_differences(problem, both, at, weights)
    if differences is None:
      continue
    note = f"some entries, second order, {where}: their bounds are vacuous"
    cause = "mode: wrong only in second order"
    differences = [d for d in differences if d.leaf not in constants]
    found = evidence.compared("second order", where, names, differences, cause, note)
    if found.has_failed and kinks.find_ties(at):  # At a tie there is no second derivative.
      yield not_checked(f"second order, {where}: something is tied, and the rule differs there")
      continue
    yield evidence.ran("second order") + found
    if found.has_failed:
      return


def second_order_differences(
  problem: Problem, programs: Sequence[Program], at: Setting, weights: Leaves
) -> list[verdicts.Difference] | None:
  """Compare both derivatives at a point, perturbed if they differ; None where they aren't known."""
  found: list[verdicts.Difference] | None = None
  for noise in (None, problem.noise()):
    # To a cast to a narrower dtype there is no second derivative but that of no rounding.
    evaluator = problem.witnesses.unrounded(noise)
    got, want = (evaluator.run(program, [*at.inputs, *weights]) for program in programs)
    if evaluator.is_endless or not all(np.isfinite(w[0]).all() for w in want):
      return None
    for i, leaf in enumerate(at.float_leaves):
      # Only symmetric directions stay within the symmetric matrices.
      if is_symmetric(leaf):
        got[i], want[i] = (g[i] + np.swapaxes(g[i], -1, -2) for g in (got, want))
    tolerance = problem.witnesses.tolerance
    found = verdicts.compare(got, want, 2 * problem.allowance, True, tolerance)
    if not any(d.is_wrong.any() for d in found):
      break
  return found


# --- Programs -------------------------------------------------------------------------------------


def backward_of(witnesses: Witnesses, rule: Rule) -> Callable[..., Leaves]:
  """Return the cotangents as a function of leaves and cotangents of the float outputs."""
  count = len(witnesses.forward.out_avals)
  return lambda *inputs: traces.traced_rule(rule, *inputs)[count:]


def mapped_program(
  witnesses: Witnesses, function: Function, mapped: Sequence[bool], lanes: int, use_scan: bool
) -> Program:
  """Trace a function under vmap, or inside a scan.

  Args:
    witnesses: the programs of one lane.
    function: a function of all inputs, or of the first of them.
    mapped: for each input, whether it is stacked.
    lanes: the number of lanes.
    use_scan: whether to use scan instead of vmap.
  """
  places = [i for i, is_mapped in enumerate(mapped) if is_mapped]
  by_vmap = jax.vmap(function, in_axes=tuple(0 if m else None for m in mapped))

  def by_scan(*inputs: Any) -> Leaves:
    rows = [inputs[i] for i in places]
    return jax.lax.map(lambda own: function(*replaced(inputs, places, own)), rows)

  pairs = zip(mapped, witnesses.rule.in_avals[: len(mapped)], strict=True)
  avals = [jax.ShapeDtypeStruct((lanes,) * is_mapped + a.shape, a.dtype) for is_mapped, a in pairs]
  return witnesses.traced(by_scan if use_scan else by_vmap, avals)


def is_mappable(witnesses: Witnesses, mapped: Sequence[bool], lanes: int) -> bool:
  """Return whether the function without its rule can be mapped so: not every kernel can."""
  try:
    if any(mapped):
      mapped_program(witnesses, witnesses.source.forward, mapped, lanes, False)
  except Exception:  # Any exception means that it can't.
    return False
  return True


def second_order_programs(witnesses: Witnesses, truth: Program) -> list[Program]:
  """Trace the gradient of ⟨weights, cotangents⟩ by leaves and cotangents, of the rule and of A.

  Both programs take the inputs of the rule's program, then a weight for each cotangent.
  """
  count = len(witnesses.forward.out_avals)
  avals = witnesses.rule.in_avals
  weights = [avals[i] for i in witnesses.signature.floats]
  moving = [i for i, a in enumerate(avals) if is_float(a.dtype)]

  def derivative(function: Callable[..., Leaves]) -> Program:
    def gradient(*inputs: Any) -> Leaves:
      own, weights = inputs[: len(avals)], inputs[len(avals) :]

      def product(*inputs: Any) -> Leaves:
        bars = function(*inputs)[count:]
        return [sum(jnp.vdot(w, b.astype(w.dtype)) for w, b in zip(weights, bars, strict=True))]

      one = jnp.ones((), jnp.result_type(*weights))
      return traces.reverse_mode(product, len(avals), moving, *own, one)[1:]

    return witnesses.traced(gradient, [*avals, *weights])

  return [
    derivative(jaxprs.function_of(witnesses.rule)),
    derivative(partial(evaluate_flat, truth, False)),
  ]
