"""The rule under vmap, scan, remat and on two devices, and its own derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.checks import exact, modes
from fbackprop.verify.checks.batch_sizes import find_batch
from fbackprop.verify.checks.own_dtype import compare_mode, compiled
from fbackprop.verify.checks.test_points import is_symmetric, value_regimes
from fbackprop.verify.checks.verification import Verification
from fbackprop.verify.report.findings import Finding
from fbackprop.verify.witnesses.comparison import compare
from fbackprop.verify.witnesses.kinks import find_ties
from fbackprop.verify.witnesses.traces import (
  Values,
  Witnesses,
  evaluate,
)


def check_modes(v: Verification, witnesses: Witnesses) -> None:
  """vmap of everything, of the cotangent, of each argument; scan; remat; two devices."""
  if v.has_failed:
    return
  signature = v.rule.signature
  other = value_regimes(signature, v.leaves, "quick", v.seed)[0].leaves
  lanes = [
    [*v.leaves, *v.y_bar],
    [*other, *v.draw(v.outputs, 3)],
    [*v.leaves, *v.draw(v.outputs, 4)],
  ]
  count = len(signature.names)
  is_key = [jnp.issubdtype(a.dtype, jax.dtypes.prng_key) for a in witnesses.rule.in_avals]
  everything = [not key for key in is_key]
  variants = [("vmap", everything), ("scan", everything)]
  if v.y_bar:
    variants.append(("vmap of the cotangent", [i >= count for i in range(len(everything))]))
  by_argument: dict[str, list[int]] = {}
  for i, name in enumerate(signature.names):
    by_argument.setdefault(name.partition("/")[0], []).append(i)
  if len(by_argument) > 1 and not v.is_large:
    for name, places in by_argument.items():
      mapped = [i in places and not is_key[i] for i in range(len(everything))]
      if any(mapped):
        variants.append((f"vmap of {name}", mapped))
  alone: dict[tuple[int, ...], Values] = {}
  for check, mapped in variants:
    check_lanes(v, witnesses, check, mapped, lanes[: 2 if v.is_large else 3], alone)
  if v.rule.f_vjp is None:
    check_remat(v, witnesses)
  check_devices(v)


def check_lanes(
  v: Verification,
  witnesses: Witnesses,
  check: str,
  mapped: list[bool],
  lanes: list[list[Any]],
  alone: dict[tuple[int, ...], Values],
) -> None:
  """Some inputs stacked: each lane must be what the rule gives alone, kept in `alone`."""
  try:
    program = modes.mapped_program(v.rule, witnesses, mapped, len(lanes), check == "scan")
  except Exception as error:
    if not modes.takes_stacks(v.rule, witnesses, mapped, len(lanes)):
      v.not_checked.append(f"{check}: the function itself can't be mapped")
      return
    message = f"under {check} the rule raises {exact.as_rule_error(error)}"
    v.add(Finding("fail", check, message=message, cause="mode: raises"))
    return
  v.count(check)
  inputs = [
    np.stack([np.asarray(lane[i]) for lane in lanes]) if m else lanes[0][i]
    for i, m in enumerate(mapped)
  ]
  stacks = witnesses.evaluator(None).run(program, inputs)
  count = len(v.rule.signature.names)
  for k in range(len(lanes)):
    which = tuple(k if m else 0 for m in mapped)
    if which not in alone:
      own = [lanes[lane][i] for i, lane in enumerate(which)]
      alone[which] = evaluate(witnesses, own[:count], own[count:], v.noise(k))
    values = alone[which]
    if values.is_endless or not all(np.isfinite(y[0]).all() for y in values.y_want):
      continue
    got = [s[:, k] for s in stacks]
    compare_mode(v, check, f"wrong under {check}", got, values.bars, values, f"lane {k}")
    if v.has_failed:
      return


def check_remat(v: Verification, witnesses: Witnesses) -> None:
  """The function under `jax.checkpoint`."""
  try:
    program = modes.remat_program(v.rule, witnesses)
  except Exception as error:
    v.not_checked.append(f"remat: {type(error).__name__}")
    return
  v.count("remat")
  values = evaluate(witnesses, v.leaves, v.y_bar, v.noise())
  if values.is_endless:
    return
  got = witnesses.evaluator(None).run(program, [*v.leaves, *v.y_bar])
  compare_mode(v, "remat", "wrong under remat", got, values.bars, values)


def check_devices(v: Verification) -> None:
  """Compiled for two devices, if there are two."""
  if len(jax.devices()) < 2:
    v.not_checked.append("two devices: there is one")
    return
  batch = find_batch(v.rule, v.leaves, v.outputs)
  if batch is None or v.leaves[next(iter(batch))].shape[0] % 2:
    v.not_checked.append("two devices: no axis of an even number of examples")
    return
  y_bar = exact.own_cotangents(v.outputs, v.y_bar)
  try:
    got = modes.sharded_backward(v.rule, v.own_leaves, y_bar, batch, v.outputs)
  except Exception as error:
    v.not_checked.append(f"two devices: {type(error).__name__}")
    return
  v.count("two devices")
  want = compiled(v, v.own_leaves, y_bar)
  for name, g, w in zip(v.rule.signature.float_names, got, want, strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
    limit = 1e3 * float(jnp.finfo(g.dtype).eps) * float(np.max(np.abs(b), initial=0.0))
    if (np.abs(a - b) > limit).any():
      v.add(Finding("fail", "two devices", leaf=name, cause="mode: wrong on two devices"))
      return


def check_second_order(v: Verification, witnesses: Witnesses) -> None:
  """The rule's own derivative, where it has one."""
  if v.has_failed or witnesses.truth is None:
    return
  try:
    rule, truth = modes.second_order_programs(v.rule, witnesses)
  except Exception as error:
    v.not_checked.append(f"second order: the rule can't be differentiated ({type(error).__name__})")
    return
  rng = np.random.default_rng([v.seed, 6])
  floats = v.rule.signature.floats
  other = value_regimes(v.rule.signature, v.leaves, "quick", v.seed)[0].leaves
  names = [*v.rule.signature.float_names, *(f"cotangent {i}" for i in range(len(v.y_bar)))]
  # What the function holds constant, as a loss its targets, its rule may hold constant too: that
  # the other cotangents depend on it is then no matter of the rule's.
  values = evaluate(witnesses, other, v.y_bar, v.noise())
  constants = {i for i, bar in enumerate(values.bars_want or ()) if bar.size and not np.any(bar)}
  for regime, leaves in (("as given", v.leaves), ("redrawn", other)):
    weights = [rng.normal(size=np.shape(leaves[i])) for i in floats]
    inputs = [*leaves, *v.y_bar, *weights]
    evaluator = witnesses.evaluator(v.noise())
    got, want = evaluator.run(rule, inputs), evaluator.run(truth, inputs)
    if evaluator.is_endless or not all(np.isfinite(w[0]).all() for w in want):
      continue
    for i in (
      i for i, leaf in enumerate(floats) if is_symmetric(np.asarray(leaves[leaf]))
    ):  # Among symmetric matrices only symmetric directions lead on.
      got[i], want[i] = (g[i] + np.swapaxes(g[i], -1, -2) for g in (got, want))
    found = compare(got, want, 2 * v.allowance, True)
    if any(d.is_vacuous.any() for d in found if d.leaf not in constants):
      v.not_checked.append(f"some entries, second order, {regime}: their bounds are vacuous")
    wrong = [d for d in found if d.is_wrong.any() and d.leaf not in constants]
    if wrong and find_ties(witnesses, leaves):
      # There it has no second derivative.
      v.not_checked.append(f"second order, {regime}: something is tied, and the rule differs there")
      continue
    v.count("second order")
    if wrong:
      v.add(
        v.finding_of("fail", "second order", regime, names[wrong[0].leaf], wrong[0])._replace(
          cause="mode: wrong only in second order"
        )
      )
      return
