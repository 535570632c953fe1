"""Right rules in other words, at other lengths and in float64: none of them may fail.

A variant is an edit that says the same (`SPELLINGS`), which is made sure of as a mutant's
difference is: its numbers are those of the rule. By its hash it gets the given arguments, others of
other lengths, or float64, as far as the right rule itself takes them.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.verify import jvp
from fbackprop.verify.bank import Example
from fbackprop.verify.report import Report
from fbackprop.verify.self_test import verified
from scripts.campaigns import results
from scripts.campaigns.mutants.fairness import Yardstick, is_float_array, wrong_leaves, yardstick
from scripts.campaigns.mutants.rules import Rule, all_rules
from scripts.campaigns.mutants.selection import Candidate, candidates, hash_of
from scripts.campaigns.mutants.sources import tree_of
from scripts.campaigns.mutants.spellings import SPELLINGS

ARGUMENTS = ("given", "other lengths", "float64")
# Points beyond this number are those of other lengths; see `fairness.points_of`.
RESIZED = 6


def verified_variants(name: str) -> tuple[str, list[Any]]:
  """Return a rule's variants, each with its operator, arguments, hash, verdict and finding."""
  results.keep_compiled("mutants")
  rule = all_rules()[name]
  try:
    by = yardstick(rule)
  except Exception:  # A rule that can't be called in this dtype has no variants.
    return name, []
  tree = tree_of(rule.function)
  own = Candidate("as it is", tree, rule.function, hash_of(rule.name, tree))
  same = [
    own,
    *(c for c in candidates(rule, SPELLINGS) if wrong_leaves(rule, c.function, by) == ()),
  ]
  return name, [verdict_on(rule, one, by) for one in same]


def verdict_on(rule: Rule, one: Candidate, by: Yardstick) -> list[Any]:
  """Return the verdict on one variant."""
  kind, example = with_arguments(rule.build(one.function), by, int(one.hash, 16))
  began = time.monotonic()
  with jax.enable_x64(kind == "float64"):
    options = {"seconds": 60.0, **example.options}
    report = report_on(rule, example._replace(options=options), "quick")
  said = "" if report.ok or not report.findings else report.reason[:120]
  return [one.operator, kind, one.hash, report.verdict, said, round(time.monotonic() - began, 2)]


def report_on(rule: Rule, example: Example, level: str) -> Report:
  """Return the report on an example, in the mode that its rule has: its tangents, too."""
  if rule.mode == "vjp":
    return verified(example, level)
  return jvp(example.f, *example.args, f_jvp=example.f_jvp, level=level, **example.options)


def with_arguments(example: Example, by: Yardstick, number: int) -> tuple[str, Example]:
  """Return an example with the arguments that a number chooses, and their name."""
  kind = ARGUMENTS[number % len(ARGUMENTS)]
  longer = [point.args for point in by.points if point.seed >= RESIZED]
  if kind == "other lengths" and longer:
    args = longer[number % len(longer)]
    return kind, example._replace(args=jax.tree.map(narrowed, args))
  if kind == "float64" and by.is_double:
    with jax.enable_x64(True):
      return kind, example._replace(args=jax.tree.map(widened, example.args))
  return "given", example


def widened(x: Any) -> Any:
  """Return a leaf in float64."""
  return jnp.asarray(x, jnp.float64) if is_float_array(x) else x


def narrowed(x: Any) -> Any:
  """Return a leaf in float32, and integers in int32."""
  if is_float_array(x):
    return jnp.asarray(x, jnp.float32)
  if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer):
    return jnp.asarray(x, jnp.int32)
  return x
