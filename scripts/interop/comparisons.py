"""The compared pairs, and the conversion of a peer's convention to ours.

Our quantities are for one example's loss each, not divided by N: ½ Σ_c (y_c − t_c)² is the squared
error. Torch's loss is s times that, and so is every gradient of it by BackPACK.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from scripts.interop.problems import SQUARED_ERROR, WIDTHS, Problem, Tree
from scripts.interop.witness import GAMMA

THRESHOLD = 1e-12
BACKPACK, OPACUS, JAX_PRIVACY = "backpack-for-pytorch", "opacus", "jax-privacy"


class Measured(NamedTuple):
  """The numbers of all packages for one problem; the keys of `theirs` are (package, name).

  C is `bound`, and `largest` is the largest entry of any example's gradient.
  """

  problem: Problem
  bound: float
  largest: float
  ours: dict[str, Tree]
  witness: dict[str, Tree]
  theirs: dict[tuple[str, str], Tree]


Convert = Callable[[Tree, Measured], Tree]
"""A conversion of their number to ours."""


class Comparison(NamedTuple):
  """A pair of one of their quantities and one of ours.

  Attributes:
    package: the package's pip name.
    theirs: the name in their runner's result.
    ours: the name in the result of `ours.quantities`.
    conversion: the conversion of theirs, in words.
    convert: the conversion.
    shown: the name of ours in the tables, if it differs.
  """

  package: str
  theirs: str
  ours: str
  conversion: str
  convert: Convert
  shown: str = ""

  def is_undefined(self, measured: Measured) -> bool:
    """Return whether ours is NaN by convention: the unbiased variance of one example."""
    return self.ours == "variance" and measured.problem.n == 1


def loss_scale(problem: Problem, reduction: str) -> float:
  """Return s, the factor of an example's loss in torch's total."""
  whole, outputs = (2.0, WIDTHS[-1]) if problem.loss == SQUARED_ERROR else (1.0, 1)
  return whole if reduction == "sum" else whole / (problem.n * outputs)


def times(tree: Tree, factor: float) -> Tree:
  """Multiply every array by a number."""
  return [leaf * factor for leaf in tree]


def as_it_is(tree: Tree, measured: Measured) -> Tree:
  """Return the tree unconverted."""
  return tree


def over_n(tree: Tree, measured: Measured) -> Tree:
  """Multiply by N what was divided by it."""
  return times(tree, measured.problem.n)


def undefined_as_zero(tree: Tree, measured: Measured) -> Tree:
  """Replace the variance of one example, NaN in NumPy too, by 0, as in BackPACK."""
  return [np.nan_to_num(leaf) for leaf in tree] if measured.problem.n == 1 else tree


def descale(tree: Tree, measured: Measured, reduction: str, power: int) -> Tree:
  """Divide by s, or by s² for products of two gradients."""
  return times(tree, loss_scale(measured.problem, reduction) ** -power)


def sum_parameters(tree: Tree, measured: Measured, reduction: str) -> Tree:
  """Sum BackPACK's squared norms of the parameters, divided by s²."""
  return descale([np.sum(tree, axis=0)], measured, reduction, 2)


def unbias(tree: Tree, measured: Measured, reduction: str) -> Tree:
  """Convert BackPACK's division by N to ours by N − 1; for one example it has 0."""
  n = measured.problem.n
  return times(descale(tree, measured, reduction, 2), n / max(n - 1, 1))


WITNESS = "vmap(jax.grad)"
STABLE = "clipped_gradient with γ"

COMPARISONS: tuple[Comparison, ...] = (
  *(
    Comparison("jax", f"{WITNESS}, {ours}", ours, "by definition", convert)
    for ours, convert in (
      ("example_gradients", as_it_is), ("example_sqnorms", as_it_is), ("second_moment", as_it_is),
      ("variance", undefined_as_zero), ("clipped_gradient", as_it_is),
    )
  ),
  *(
    Comparison(BACKPACK, f"{name}, {reduction}", ours, words, partial(convert, reduction=reduction))
    for reduction in ("sum", "mean") for name, ours, words, convert in (
      ("BatchGrad", "example_gradients", "÷ s", partial(descale, power=1)),
      ("BatchL2Grad", "example_sqnorms", "Σ over parameters, ÷ s²", sum_parameters),
      ("SumGradSquared", "second_moment", "÷ s²", partial(descale, power=2)),
      ("Variance", "variance", "÷ s², · N / (N − 1)", unbias),
    )
  ),
  Comparison(OPACUS, "p.grad, sum", "clipped_gradient, stable", "none", as_it_is, STABLE),
  Comparison(OPACUS, "p.grad, mean", "clipped_gradient, stable", "· expected batch size", over_n,
             STABLE),
  Comparison(OPACUS, "p.grad, sum", "clipped_gradient", "none", as_it_is),
  Comparison(OPACUS, "norms, sum", "norms", "none", as_it_is, "√example_sqnorms"),
  Comparison(OPACUS, "norms, mean", "norms", "none", as_it_is, "√example_sqnorms"),
  Comparison(JAX_PRIVACY, "clipped_grad", "clipped_gradient", "none", as_it_is),
  Comparison(JAX_PRIVACY, "normalize_by=N", "clipped_gradient", "· N", over_n),
  Comparison(JAX_PRIVACY, "rescale_to_unit_norm", "clipped_gradient", "· C",
             lambda tree, measured: times(tree, measured.bound)),
  Comparison(JAX_PRIVACY, "first example NaN", "clipped_gradient, but the first", "none", as_it_is,
             "clipped_gradient of the others"),
  Comparison(JAX_PRIVACY, "grad_norms", "norms", "none", as_it_is, "√example_sqnorms"),
)  # fmt: skip


def threshold_of(comparison: Comparison, measured: Measured, theirs: Tree) -> float:
  """Return 1e-12, or the largest effect of Opacus's γ where ours has none.

  Opacus's coefficient is min(1, C / (‖g_i‖ + γ)), which is below ours by at most c_i γ / (‖g_i‖ +
  γ), and no entry of g_i is above `largest`.
  """
  if comparison[:3] != (OPACUS, "p.grad, sum", "clipped_gradient"):
    return THRESHOLD
  ours = np.minimum(1, measured.bound / measured.ours["norms"][0])
  with_gamma = np.minimum(1, measured.bound / (measured.ours["norms"][0] + GAMMA))
  most = max(float(np.abs(leaf).max()) for leaf in theirs)
  return THRESHOLD + float((ours - with_gamma).sum()) * measured.largest / most
