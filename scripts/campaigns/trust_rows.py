"""The rows of docs/trust.md: descriptions of checks and test points, reasons for omitting one."""

from collections.abc import Callable
from typing import NamedTuple

CHECKS = {
  "maths": "the rule in float64 against autodiff, entry by entry, at every test point",
  "differences": "the rule against one-sided differences of the function",
  "forward": "the rule's output against the function's",
  "numerics": "the rule in its own dtype, op by op and compiled, in σ of its rounding error",
  "branches": "both sides of the comparisons in the program",
  "structure": "trees and shapes of the cotangents",
  "dtype": "dtypes and weak types of the cotangents",
  "zero cotangent": "zero gives exactly zero",
  "scaled cotangent": "a power of two scales the result bitwise",
  "repeated call": "the same call after another one is bitwise equal",
  "donated arguments": "the same result with donated arguments",
  "arguments unchanged": "no argument is modified",
  "vmap": "a batch of three, over everything",
  "vmap of the cotangent": "over the cotangent only",
  "vmap of params": "over the parameters only",
  "vmap of x": "over the data only",
  "vmap of rows": "over labels or target indices only",
  "scan": "three steps of `lax.scan`",
  "two devices": "compiled for two devices, with the examples sharded over them",
  "remat": "under `jax.checkpoint`",
  "second order": "the derivative of the rule against that of autodiff",
}
REASONS = {
  "branches": "no comparison in the program",
  "vmap of params": "no parameters",
  "vmap of x": "no other argument",
  "vmap of rows": "no such argument",
  "remat": "the rule is separate from the function",
}
COUNT = "outside the domain"  # Reports count it like a check.


class Group(NamedTuple):
  """Test points that share a row: those of one name, or of one kind.

  Attributes:
    name: the name of the row.
    holds: whether a test point belongs to it.
    reason: the reason for its absence where it doesn't apply.
  """

  name: str
  holds: Callable[[str], bool]
  reason: str = "the function isn't finite there"


def named(name: str, reason: str = Group._field_defaults["reason"]) -> Group:
  """Return the group of one name."""
  return Group(name, name.__eq__, reason)


def is_zero_argument(regime: str) -> bool:
  return regime.endswith(" zero") and regime != "some entries zero"


def is_size(regime: str) -> bool:
  return regime.startswith("N = ")


NO_LABELS = "no integer argument"
NAMED = (
  named("as given"),
  named("in its own dtype", "its dtype is float64, or it can't be traced in float64"),
  named("redrawn"),
  named("some entries zero"),
  named("ties"),
  named("small"),
  named("10 times larger"),
  named("1e4 times larger"),
  named("columns of scale 1e-4 to 1e4"),
  named("loss times 2^40"),
  named("loss times 2^-40"),
  Group("one argument zero", is_zero_argument),
  named("signs changed", "no positive argument"),
  named("other labels", NO_LABELS),
  named("smallest label everywhere", NO_LABELS),
  named("largest label everywhere", NO_LABELS),
)


def is_other_side(regime: str) -> bool:
  """Return whether the search for the other side of a comparison found the test point."""
  return not is_size(regime) and not any(group.holds(regime) for group in NAMED)


OTHER_SIDE = Group(
  "found: the other side of a comparison", is_other_side, "no comparison, or both sides reached"
)
