"""The rule at other points: the regimes, other sizes of a batch, both sides of comparisons."""

import jax
import numpy as np

from fbackprop.verify.checks import exact
from fbackprop.verify.checks.batch_sizes import batch_regimes, find_batch
from fbackprop.verify.checks.branch_search import MOST_NUMBERS, MOST_SITES, Coverage, search
from fbackprop.verify.checks.one_point import check_maths
from fbackprop.verify.checks.test_points import Regime, kept
from fbackprop.verify.checks.verification import Verification
from fbackprop.verify.report.findings import RuleError
from fbackprop.verify.witnesses.traces import (
  Witnesses,
  gather_witnesses,
)


def check_regimes(v: Verification, witnesses: Witnesses) -> None:
  """The battery, at these shapes and at other sizes of the batch."""
  signature = v.rule.signature
  batch = find_batch(v.rule, v.leaves, v.outputs)
  if v.level != "quick":
    v.not_checked += kept(signature, v.leaves)
  if v.is_large:
    v.not_checked.append('regimes left out as the arguments are large: see level="deep"')
  for regime in v.regimes():
    if v.has_failed:
      return
    check_point(v, witnesses, regime, v.y_bar)
  if batch is None:
    v.not_checked.append("other sizes of a batch: no axis of examples was found")
    return
  level = "large" if v.is_large else v.level
  for regime in batch_regimes(v.rule, v.leaves, batch, level, v.seed):
    if v.has_failed:
      return
    check_batch(v, regime)


def check_point(
  v: Verification, witnesses: Witnesses, regime: Regime, y_bar: list[np.ndarray]
) -> None:
  """A regime; one in which the function isn't finite is counted apart."""
  values = check_maths(v, witnesses, regime, y_bar)
  if values is None:
    v.counts["outside the domain"] = v.counts.get("outside the domain", 0) + 1


def check_batch(v: Verification, regime: Regime) -> None:
  """A batch of another size: traced anew, and run."""
  own = v.rule.signature.in_own_dtypes(regime.leaves)
  try:
    outputs = jax.tree.leaves(jax.eval_shape(v.rule.forward, *own))
  except Exception as error:
    v.not_checked.append(f"{regime.name}: f raises {type(error).__name__}")
    return
  y_bar = v.draw(outputs, 1)
  try:
    rule = v.rule._replace(
      out_structure=jax.tree.structure(
        jax.eval_shape(lambda *x: v.rule.f(*v.rule.signature.arguments(x)), *own)
      )
    )
    exact.shapes_of_call(rule, own, exact.own_cotangents(outputs, y_bar))
    witnesses = gather_witnesses(rule, own, outputs)
  except RuleError as error:
    finding = exact.of_error(error, regime.name)
    if regime.name == "N = 0" and error.check == "raises":
      finding = finding._replace(kind="note", cause="")  # Few rules are meant for nothing at all.
    v.add(finding)
    return
  check_maths(v, witnesses, regime, y_bar)


def check_branches(v: Verification, witnesses: Witnesses) -> None:
  """The other side of every comparison."""
  if v.has_failed:
    return
  coverage = Coverage(witnesses)
  coverage.look(v.leaves, v.y_bar)
  for regime in (r for r in v.regimes() if not r.only_finite):
    coverage.look(regime.leaves, [b * regime.loss_scale for b in v.y_bar])
  most = MOST_SITES["large" if v.is_large else v.level]
  points, left = search(coverage, v.leaves, v.y_bar, most)
  for name, leaves, y_bar in points:
    if not v.has_failed:
      check_point(v, witnesses, Regime(name, leaves), y_bar)
  if left_out := coverage.numbers[MOST_NUMBERS:]:
    v.not_checked.append(f"branches: integers of {', '.join(map(str, left_out[:8]))}, ...")
  for name in coverage.one_sided_integers:
    v.not_checked.append(f"branches: the other side of a comparison of integers, {name}")
  if coverage.seen:
    v.counts["branches"] = 2 * len(coverage.seen) - left
    v.details["branches"] = f"of {2 * len(coverage.seen)} sides of comparisons"
