"""The rows of docs/trust.md: what each check is, which regimes there are, why one may not apply."""

from collections.abc import Callable
from typing import NamedTuple

CHECKS = {
  "maths": "the rule in float64 against autodiff, entry by entry, in every regime",
  "differences": "the rule against one-sided differences of the function",
  "forward": "the rule's output is the function's",
  "numerics": "the rule in its own dtype, as it is and compiled, in σ of its rounding",
  "branches": "both sides of the comparisons in the program",
  "structure": "trees, shapes",
  "dtype": "dtypes and weak types of the cotangents",
  "zero cotangent": "zero gives exactly zero",
  "scaled cotangent": "a power of two scales to the last bit",
  "repeated call": "the same call after another one, to the last bit",
  "donated arguments": "the same with arguments given away",
  "arguments unchanged": "nothing is written into an argument",
  "vmap": "three lanes at once: of everything",
  "vmap of the cotangent": "of the cotangent alone",
  "vmap of params": "of the parameters alone",
  "vmap of x": "of the data alone",
  "vmap of rows": "of labels, or of which targets, alone",
  "scan": "three lanes, one after the other, in `lax.scan`",
  "two devices": "compiled for two devices, the examples divided between them",
  "remat": "under `jax.checkpoint`",
  "second order": "the derivative of the rule against that of autodiff",
}
REASONS = {
  "branches": "no comparison in the program",
  "vmap of params": "no parameters",
  "vmap of x": "there is no other argument",
  "vmap of rows": "no such argument",
  "remat": "a rule that stands beside the function, not in it",
}
COUNT = "outside the domain"  # Reports count it as they count checks.


class Group(NamedTuple):
  """Regimes that share a row: those of one name, or of one kind.

  Attributes:
    name: of the row.
    holds: whether a regime belongs to it.
    reason: why it may not apply.
  """

  name: str
  holds: Callable[[str], bool]
  reason: str = "the function isn't finite there"


def named(name: str, reason: str = Group._field_defaults["reason"]) -> Group:
  """One regime."""
  return Group(name, name.__eq__, reason)


def is_zero_argument(regime: str) -> bool:
  return regime.endswith(" zero") and regime != "some entries zero"


def is_size(regime: str) -> bool:
  return regime.startswith("N = ")


NO_LABELS = "no integer argument"
NAMED = (
  named("as given"),
  named("in its own dtype", "float64 is its own, or it can't be traced in float64"),
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
  named("signs changed", "no argument that is positive"),
  named("other labels", NO_LABELS),
  named("smallest label everywhere", NO_LABELS),
  named("largest label everywhere", NO_LABELS),
)


def is_other_side(regime: str) -> bool:
  """Whether it was found by the search for the other side of a comparison."""
  return not is_size(regime) and not any(group.holds(regime) for group in NAMED)


OTHER_SIDE = Group(
  "found: the other side of a comparison", is_other_side, "none, or both sides were seen"
)
