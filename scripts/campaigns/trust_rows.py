"""The rows of docs/trust.md: descriptions of checks and test points, reasons for omitting one."""

CHECKS = {
  "maths": "the rule in float64 against autodiff, entry by entry, at every test point",
  "differences": "the rule against one-sided differences of the function",
  "forward": "the rule's output against the function's",
  "numerics": "the rule in its own dtype, compiled, in σ of its rounding error",
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
  "in its own dtype": "its dtype is float64, or it can't be traced in float64",
  "signs changed": "no positive argument",
  **dict.fromkeys(
    ("other labels", "smallest label everywhere", "largest label everywhere"), "no integer argument"
  ),
  "found: the other side of a comparison": "no comparison, or both sides reached",
}
"""Why a check or a test point doesn't apply."""
COUNT = "outside the domain"  # Reports count it like a check.
TEST_POINTS = (
  "as given", "in its own dtype", "redrawn", "some entries zero", "ties", "small",
  "10 times larger", "1e4 times larger", "columns of scale 1e-4 to 1e4", "loss times 2^40",
  "loss times 2^-40", "one argument zero", "signs changed", "other labels",
  "smallest label everywhere", "largest label everywhere", "found: the other side of a comparison",
)  # fmt: skip
"""The rows of test points, but for the sizes."""
NOT_FINITE = "the function isn't finite there"  # The reason for all other rows of test points.


def row_of(regime: str) -> str:
  """Return the row of a test point: a search has found those without one of their own."""
  if regime in TEST_POINTS or regime.startswith("N = "):
    return regime
  return "one argument zero" if regime.endswith(" zero") else TEST_POINTS[-1]
