"""What is compared with what, and how a peer's convention becomes ours.

Ours are of one example's loss each, not divided by N: ½ Σ_c (y_c − t_c)² is the squared error.
Torch's loss is s times that, and with it every gradient that BackPACK takes of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scripts.interop.problems import SQUARED_ERROR, WIDTHS, Problem, Tree
from scripts.interop.witness import GAMMA

THRESHOLD = 1e-12
BACKPACK, OPACUS, JAX_PRIVACY = "backpack-for-pytorch", "opacus", "jax-privacy"
IMPORTED = {BACKPACK: "backpack", OPACUS: "opacus", JAX_PRIVACY: "jax_privacy"}


class Facts(NamedTuple):
  """What a conversion may ask of a problem: C is `bound`, and `norms` are our ‖g_i‖."""

  problem: Problem
  bound: float
  norms: np.ndarray
  largest: float
  """The largest entry of any example's gradient."""


Convert = Callable[[Tree, Facts], Tree]
"""Makes ours of theirs."""


class Comparison(NamedTuple):
  """One of theirs with one of ours.

  Attributes:
    package: as pip knows it.
    theirs: the name in what their runner returns.
    ours: the name in what `ours.quantities` returns.
    conversion: what is done to theirs, in words.
    convert: does it.
    shown: what ours is called in the tables, if its name there doesn't say it.
  """

  package: str
  theirs: str
  ours: str
  conversion: str
  convert: Convert
  shown: str = ""

  @property
  def key(self) -> tuple[str, str, str]:
    """What tells it from the others."""
    return self.package, self.theirs, self.ours


def loss_scale(problem: Problem, reduction: str) -> float:
  """s: how many times our loss of an example torch's has in its total."""
  whole = 2.0 if problem.loss == SQUARED_ERROR else 1.0
  if reduction == "sum":
    return whole
  return whole / (problem.n * (WIDTHS[-1] if problem.loss == SQUARED_ERROR else 1))


def times(tree: Tree, factor: float) -> Tree:
  """Every array, times a number."""
  return [leaf * factor for leaf in tree]


def as_it_is(tree: Tree, facts: Facts) -> Tree:
  """Nothing to convert."""
  return tree


def over_n(tree: Tree, facts: Facts) -> Tree:
  """What was divided by N is multiplied by it."""
  return times(tree, facts.problem.n)


def over_bound(tree: Tree, facts: Facts) -> Tree:
  """What was divided by C is multiplied by it."""
  return times(tree, facts.bound)


def undefined_as_zero(tree: Tree, facts: Facts) -> Tree:
  """The variance of one example, NaN in NumPy too, as BackPACK has it."""
  return [np.nan_to_num(leaf) for leaf in tree] if facts.problem.n == 1 else tree


def descale(reduction: str, power: int) -> Convert:
  """Divides by s, or by s² what holds products of two gradients."""

  def convert(tree: Tree, facts: Facts) -> Tree:
    return times(tree, loss_scale(facts.problem, reduction) ** -power)

  return convert


def sum_parameters(reduction: str) -> Convert:
  """BackPACK has a squared norm for each parameter: their sum, by s²."""

  def convert(tree: Tree, facts: Facts) -> Tree:
    return times([np.sum(tree, axis=0)], loss_scale(facts.problem, reduction) ** -2)

  return convert


def unbias(reduction: str) -> Convert:
  """BackPACK divides by N where we divide by N − 1; of one example it has 0."""

  def convert(tree: Tree, facts: Facts) -> Tree:
    n = facts.problem.n
    squared = times(tree, loss_scale(facts.problem, reduction) ** -2)
    return times(squared, n / (n - 1)) if n > 1 else squared

  return convert


def compare_backpack(reduction: str) -> list[Comparison]:
  """Its four quantities of torch's own loss, summed or averaged."""
  rows: list[tuple[str, str, str, Convert]] = [
    ("BatchGrad", "example_gradients", "÷ s", descale(reduction, 1)),
    ("BatchL2Grad", "example_sqnorms", "Σ over parameters, ÷ s²", sum_parameters(reduction)),
    ("SumGradSquared", "second_moment", "÷ s²", descale(reduction, 2)),
    ("Variance", "variance", "÷ s², · N / (N − 1)", unbias(reduction)),
  ]
  return [
    Comparison(BACKPACK, f"{name}, {reduction}", ours, words, convert)
    for name, ours, words, convert in rows
  ]


WITNESS = "vmap(jax.grad)"
STABLE = "clipped_gradient with γ"

COMPARISONS: tuple[Comparison, ...] = (
  *(
    Comparison("jax", f"{WITNESS}, {ours}", ours, "by definition", convert)
    for ours, convert in (
      ("example_gradients", as_it_is),
      ("example_sqnorms", as_it_is),
      ("second_moment", as_it_is),
      ("variance", undefined_as_zero),
      ("clipped_gradient", as_it_is),
    )
  ),
  *compare_backpack("sum"),
  *compare_backpack("mean"),
  Comparison(OPACUS, "p.grad, sum", "clipped_gradient, stable", "none", as_it_is, STABLE),
  Comparison(
    OPACUS, "p.grad, mean", "clipped_gradient, stable", "· expected batch size", over_n, STABLE
  ),
  Comparison(OPACUS, "p.grad, sum", "clipped_gradient", "none", as_it_is),
  Comparison(OPACUS, "norms, sum", "norms", "none", as_it_is, "√example_sqnorms"),
  Comparison(OPACUS, "norms, mean", "norms", "none", as_it_is, "√example_sqnorms"),
  Comparison(JAX_PRIVACY, "clipped_grad", "clipped_gradient", "none", as_it_is),
  Comparison(JAX_PRIVACY, "normalize_by=N", "clipped_gradient", "· N", over_n),
  Comparison(JAX_PRIVACY, "rescale_to_unit_norm", "clipped_gradient", "· C", over_bound),
  Comparison(
    JAX_PRIVACY,
    "first example NaN",
    "clipped_gradient, but the first",
    "none",
    as_it_is,
    "clipped_gradient of the others",
  ),
  Comparison(JAX_PRIVACY, "grad_norms", "norms", "none", as_it_is, "√example_sqnorms"),
)


def threshold_of(comparison: Comparison, facts: Facts, theirs: Tree) -> float:
  """1e-12, and where Opacus's γ isn't in ours, what γ makes at most.

  Its coefficient is min(1, C / (‖g_i‖ + γ)), which is below ours by c_i γ / (‖g_i‖ + γ) at most,
  and no entry of g_i is above `largest`.
  """
  if comparison.key != (OPACUS, "p.grad, sum", "clipped_gradient"):
    return THRESHOLD
  ours = np.minimum(1, facts.bound / facts.norms)
  with_gamma = np.minimum(1, facts.bound / (facts.norms + GAMMA))
  most = max(float(np.abs(leaf).max()) for leaf in theirs)
  return THRESHOLD + float((ours - with_gamma).sum()) * facts.largest / most
