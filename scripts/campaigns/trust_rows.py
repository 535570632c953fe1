"""The rows of docs/trust.md: descriptions of checks and test points, reasons for omitting one."""

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
NOT_FINITE, NO_LABELS = "the function isn't finite there", "no integer argument"
TEST_POINTS = {
  "as given": NOT_FINITE,
  "in its own dtype": "its dtype is float64, or it can't be traced in float64",
  "redrawn": NOT_FINITE,
  "some entries zero": NOT_FINITE,
  "ties": NOT_FINITE,
  "small": NOT_FINITE,
  "10 times larger": NOT_FINITE,
  "1e4 times larger": NOT_FINITE,
  "columns of scale 1e-4 to 1e4": NOT_FINITE,
  "loss times 2^40": NOT_FINITE,
  "loss times 2^-40": NOT_FINITE,
  "one argument zero": NOT_FINITE,
  "signs changed": "no positive argument",
  "other labels": NO_LABELS,
  "smallest label everywhere": NO_LABELS,
  "largest label everywhere": NO_LABELS,
  "found: the other side of a comparison": "no comparison, or both sides reached",
}
"""The rows of test points, but for the sizes, with the reason where one doesn't apply."""


def row_of(regime: str) -> str:
  """Return the row of a test point: a search has found those without one of their own."""
  if regime in TEST_POINTS or regime.startswith("N = "):
    return regime
  return "one argument zero" if regime.endswith(" zero") else [*TEST_POINTS][-1]
