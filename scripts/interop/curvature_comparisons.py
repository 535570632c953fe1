"""The compared pairs of curvature, and the conversion of a peer's convention to ours.

Ours are of the mean loss, with ½ Σ_c (y_c − t_c)² for the squared error, and A and G are means over
examples. A conversion is a change of layout, and a factor for each of the two losses: of the
numbers, or of G in a pair of factors.
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop import curvature as c
from scripts.interop.comparisons import THRESHOLD
from scripts.interop.curvature_peers import DAMPING, SAMPLES, Given
from scripts.interop.problems import CROSS_ENTROPY, SQUARED_ERROR, WIDTHS, Problem, Tree
from scripts.interop.rows import tree_error

BACKPACK, CURVLINOPS = "backpack-for-pytorch", "curvlinops-for-pytorch"
LAPLAX, KFAC_JAX = "laplax", "kfac-jax"
PACKAGES = (BACKPACK, CURVLINOPS, LAPLAX, KFAC_JAX)
LAYERS, C = len(WIDTHS) - 1, WIDTHS[-1]
Row = dict[str, Any]


# --- Ours -----------------------------------------------------------------------------------------


def ours_of(given: Given) -> dict[str, Tree]:
  """Compute every compared quantity by the public functions; x64 must be on."""
  return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
          for name, tree in compiled(given.problem, *given[1:]).items()}  # fmt: skip


@partial(jax.jit, static_argnums=0)
def compiled(problem: Problem, data: Any, v: Any) -> dict[str, Any]:
  """Compute every compared quantity as trees, in one program."""
  net = fb.mlp(WIDTHS, getattr(fb, problem.activation), bias=problem.bias, dtype=jnp.float64)
  structure = jax.tree.structure(jax.eval_shape(net.init, jax.random.key(0)))
  params, v = (jax.tree.unflatten(structure, jax.tree.leaves(tree)) for tree in (data.weights, v))
  loss = fb.softmax_cross_entropy if problem.loss == CROSS_ENTROPY else fb.squared_error
  at = params, data.x, data.targets
  blocks, empirical, eigen, eigen_empirical = (
    c.kronecker_factors(net, loss, kind=kind, eigen=eigen)(*at)
    for eigen in (False, True) for kind in ("exact", "empirical")
  )  # fmt: skip
  apart = [
    (block.a[:-1, :-1], block.g, block.g) if problem.bias else (block.a, block.g)
    for block in blocks if block
  ]  # fmt: skip
  times_v = c.ggn_vector_product(net, loss)(*at, v)
  return {
    "hessian_vector_product": c.hessian_vector_product(net, loss)(*at, v),
    "ggn_vector_product": times_v,
    "vᵀ ggn_vector_product": jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, v, times_v)),
    "fisher_vector_product, empirical": c.fisher_vector_product(net, loss, kind="empirical")(
      *at, v
    ),
    "ggn_diagonal": c.ggn_diagonal(net, loss)(*at),
    "example_ggn_diagonals": c.example_ggn_diagonals(net, loss)(*at),
    "hessian_diagonal": c.hessian_diagonal(net, loss)(*at),
    "kronecker_factors": blocks,
    "kronecker_factors, without the 1": apart,
    "kronecker_factors, empirical": empirical,
    "matrices": c.matrices(blocks),
    "trace": c.trace(blocks),
    "product, eigen": c.product(eigen, v),
    "product, eigen, empirical": c.product(eigen_empirical, v),
    **{
      f"solve, {method}": c.solve(blocks, v, damping=DAMPING, method=method)
      for method in ("eigenvalues", "pi", "exact")
    },
  }


# --- Conversions ----------------------------------------------------------------------------------


def transpose_weights(tree: Tree, problem: Problem) -> Tree:
  """Swap the last two axes of each weight, also of one with N in front."""
  return [
    leaf if is_bias else leaf.swapaxes(-1, -2)
    for leaf, is_bias in zip(tree, [False, problem.bias] * len(tree), strict=False)
  ]


def swap_factors(tree: Tree, problem: Problem) -> Tree:
  """Put A before G in each layer's factors, `[G, A]`, or `[G, A, G]` with that of the bias."""
  size = len(tree) // LAYERS
  layers = [tree[i : i + size] for i in range(0, len(tree), size)]
  return [leaf for g, a, *bias in layers for leaf in (a, g, *bias)]


def swap_names(tree: Tree, problem: Problem) -> Tree:
  """Put w before b, which stand in the order of their names."""
  if not problem.bias:
    return tree
  return [leaf for b, w in zip(tree[::2], tree[1::2], strict=True) for leaf in (w, b)]


def move_bias(tree: Tree, problem: Problem) -> Tree:
  """Move the rows and columns of b to the end of each block of [b; w]."""
  if not problem.bias:
    return tree
  return [np.roll(m, (-d, -d), (0, 1)) for m, d in zip(tree, WIDTHS[1:], strict=True)]


def cut(tree: Tree, problem: Problem) -> Tree:
  """Cut a vector `[P]` into parameters."""
  shapes = [s for pair in pairwise(WIDTHS)
            for s in ((pair, pair[1:]) if problem.bias else (pair,))]  # fmt: skip
  parts = np.split(tree[0], np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
  return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


LAYOUTS: dict[str, Callable[[Tree, Problem], Tree]] = {
  "W [D_out, D_in]": transpose_weights,
  "G before A": swap_factors,
  "b before w": swap_names,
  "b first": move_bias,
  "flat": cut,
}
FACTORS: dict[str, Callable[[int], float]] = {
  "1": lambda n: 1.0,
  "1/N": lambda n: 1 / n,
  "N": lambda n: n,
  "1/2": lambda n: 1 / 2,
  "1/(2N)": lambda n: 1 / (2 * n),
  "C/2": lambda n: C / 2,
  "N C/2": lambda n: n * C / 2,
  "C/4": lambda n: C / 4,
  "N/4": lambda n: n / 4,
}


class Comparison(NamedTuple):
  """A pair of one of their quantities and one of ours.

  Attributes:
    package: the package's pip name.
    theirs: the name in their runner's result.
    ours: the name in the result of `ours_of`.
    layouts: the names of the changes of layout, in order.
    entropy, squared: the names of the factors for the two losses; None if it isn't compared.
    of_g: whether the factor is one of G alone.
    is_drawn: whether theirs is an estimate by random numbers.
  """

  package: str
  theirs: str
  ours: str
  layouts: tuple[str, ...] = ()
  entropy: str | None = "1"
  squared: str | None = "1"
  of_g: bool = False
  is_drawn: bool = False

  def factor(self, loss: str) -> str | None:
    """Return the name of the factor for a loss."""
    return self.squared if loss == SQUARED_ERROR else self.entropy


W, PAIR = ("W [D_out, D_in]",), "kronecker_factors"
TORCH: dict[str, Any] = {"layouts": W, "squared": "C/2"}
FACTORS_OF_TORCH: dict[str, Any] = {"squared": "C/2", "of_g": True}
COMPARISONS: tuple[Comparison, ...] = (
  Comparison(BACKPACK, "hessian_vector_product", "hessian_vector_product", **TORCH),
  Comparison(BACKPACK, "ggn_vector_product", "ggn_vector_product", **TORCH),
  Comparison(BACKPACK, "DiagGGNExact", "ggn_diagonal", **TORCH),
  Comparison(BACKPACK, "DiagGGNMC", "ggn_diagonal", **TORCH, is_drawn=True),
  Comparison(BACKPACK, "BatchDiagGGNExact", "example_ggn_diagonals", W, "N", "N C/2"),
  Comparison(BACKPACK, "DiagHessian", "hessian_diagonal", **TORCH),
  *(
    Comparison(BACKPACK, name, f"{PAIR}, without the 1", ("G before A",), is_drawn=is_drawn,
               **FACTORS_OF_TORCH)
    for name, is_drawn in (("KFLR", False), ("KFAC", True))
  ),
  Comparison(CURVLINOPS, "HessianLinearOperator", "hessian_vector_product", **TORCH),
  Comparison(CURVLINOPS, "GGNLinearOperator", "ggn_vector_product", **TORCH),
  # A product has entries of both signs, which cancel where their errors do not; this has none.
  Comparison(CURVLINOPS, "FisherMCLinearOperator, vᵀFv", "vᵀ ggn_vector_product", squared="C/2",
             is_drawn=True),
  Comparison(CURVLINOPS, "EFLinearOperator", "fisher_vector_product, empirical", W, "1", "C/4"),
  Comparison(CURVLINOPS, "KFAC, type-2", PAIR, **FACTORS_OF_TORCH),
  Comparison(CURVLINOPS, "KFAC, mc", PAIR, **FACTORS_OF_TORCH, is_drawn=True),
  Comparison(CURVLINOPS, "KFAC, empirical", f"{PAIR}, empirical", (), "1", "C/4", of_g=True),
  Comparison(CURVLINOPS, "KFAC, type-2, trace", "trace", squared="C/2"),
  Comparison(CURVLINOPS, "EKFAC, type-2", "product, eigen", **TORCH),
  Comparison(CURVLINOPS, "EKFAC, empirical", "product, eigen, empirical", W, "1", "C/4"),
  # A damping isn't scaled with the loss: of the same loss only.
  Comparison(CURVLINOPS, "inverse", "solve, eigenvalues", W, "1", None),
  Comparison(CURVLINOPS, "inverse, heuristic", "solve, pi", W, "1", None),
  Comparison(CURVLINOPS, "inverse, exact", "solve, exact", W, "1", None),
  Comparison(LAPLAX, "create_hessian_mv", "hessian_vector_product", (), "1/N", "1/(2N)"),
  Comparison(LAPLAX, "create_ggn_mv", "ggn_vector_product", (), "1/N", "1/(2N)"),
  Comparison(LAPLAX, "create_diagonal_curvature", "ggn_diagonal", ("flat",), "1/N", "1/(2N)"),
  Comparison(KFAC_JAX, "multiply_hessian", "hessian_vector_product", ("b before w",), "1", "1/2"),
  Comparison(KFAC_JAX, "multiply_ggn", "ggn_vector_product", ("b before w",), "1", "1/2"),
  Comparison(KFAC_JAX, "multiply_fisher", "ggn_vector_product", ("b before w",), "1", "1/2"),
  *(
    Comparison(KFAC_JAX, name, PAIR, (), "1", "1/2", of_g=True, is_drawn=is_drawn)
    for name, is_drawn in (
      ("ggn_exact", False), ("fisher_exact", False), ("ggn_curvature_prop", True),
      ("fisher_gradients", True),
    )
  ),
  Comparison(KFAC_JAX, "fisher_empirical", f"{PAIR}, empirical", (), "N", "N/4", of_g=True),
  Comparison(KFAC_JAX, "to_diagonal_block_dense_matrix", "matrices", ("b first",), "1", "1/2"),
)  # fmt: skip

PLANTS = {
  **{f"layout {i}": f"the layout “{name}” taken for ours" for i, name in enumerate(LAYOUTS)},
  "factor": "the factor of the loss left out",
  "loss": "the factor of the other loss",
  "divided": "theirs divided by N once more",
  "halved": "theirs without a ½ of theirs",
}
"""Wrong conventions. The comparison must detect each of them in every row that it changes."""


def convert(
  comparison: Comparison, theirs: Tree, problem: Problem, plant: str | None = None
) -> Tree:
  """Convert theirs to ours, or by a wrong convention."""
  for i, name in enumerate(LAYOUTS):
    if name in comparison.layouts and plant != f"layout {i}":
      theirs = LAYOUTS[name](theirs, problem)
  other = comparison.entropy if problem.loss == SQUARED_ERROR else comparison.squared
  chosen = other if plant == "loss" else comparison.factor(problem.loss)
  factor = 1.0 if plant == "factor" or chosen is None else FACTORS[chosen](problem.n)
  if plant == "divided":
    factor = factor / problem.n
  if plant == "halved":
    factor = factor * 2
  size = max(1, len(theirs) // LAYERS)
  return [
    leaf if comparison.of_g and i % size == 0 else leaf * factor for i, leaf in enumerate(theirs)
  ]


# --- Rows -----------------------------------------------------------------------------------------


class Measured(NamedTuple):
  """The numbers of all packages for one problem; the keys of `theirs` are (package, name)."""

  problem: Problem
  ours: dict[str, Tree]
  theirs: dict[tuple[str, str], Tree]


def threshold_of(comparison: Comparison, problem: Problem) -> float:
  """Return 1e-12, or six standard errors of a mean of normal squares."""
  return 6 * (2 / (problem.n * SAMPLES)) ** 0.5 if comparison.is_drawn else THRESHOLD


def make_rows(
  comparisons: list[Comparison], everything: list[Measured], plant: str | None = None
) -> list[Row]:
  """Return a row for each comparison and problem; `changed` if a planted convention changes it."""
  rows = []
  for comparison in comparisons:
    for problem, ours, theirs in everything:
      if comparison.factor(problem.loss) is None:
        continue
      raw = theirs[comparison.package, comparison.theirs]
      right, taken = convert(comparison, raw, problem), convert(comparison, raw, problem, plant)
      error, threshold = distance(ours[comparison.ours], taken), threshold_of(comparison, problem)
      rows.append({
        **comparison._asdict(), "layouts": list(comparison.layouts), "problem": problem.name,
        "error": error, "threshold": threshold, "ok": error <= threshold,
        "changed": plant is not None and distance(right, taken) > THRESHOLD,
      })  # fmt: skip
  return rows


def distance(ours: Tree, theirs: Tree) -> float:
  """Compute the largest relative difference of an array: max |ours − theirs| / max |theirs|."""
  if len(ours) != len(theirs):
    return float("inf")
  return max(tree_error([a], [b]) for a, b in zip(ours, theirs, strict=True))


def control(comparisons: list[Comparison], everything: list[Measured]) -> dict[str, dict[str, Any]]:
  """Count the rows that each planted convention changes, and those in which it was detected."""
  found = {}
  for plant, meaning in PLANTS.items():
    oks = [row["ok"] for row in make_rows(comparisons, everything, plant) if row["changed"]]
    found[plant] = {"meaning": meaning, "rows": len(oks), "found": oks.count(False)}
  return found


def grouped(rows: list[Row]) -> list[list[Row]]:
  """Group the rows by comparison, preserving their order."""
  return [list(own) for _, own in groupby(rows, itemgetter("package", "theirs"))]


def table_of(rows: list[Row], versions: dict[str, str]) -> list[str]:
  """Format the comparisons in Markdown, with the largest difference over the problems."""
  lines = [
    "| theirs | ours | their layout | cross-entropy | squared error | difference |",
    "|---|---|---|---|---|---|",
  ]
  package = None
  for group in grouped(rows):
    first, error = group[0], max(row["error"] for row in group)
    if first["package"] != package:
      package = first["package"]
      lines.append(f"| **{package} {versions[package]}** | | | | | |")
    shown = f"{error:.0e}" if error else "0"
    if first["is_drawn"]:
      shown = f"{error:.1%} drawn".replace("%", " %")
    of = "G · " if first["of_g"] else "· "
    factors = [
      "" if name == "1" else "not compared" if name is None else of + name
      for name in (first["entropy"], first["squared"])
    ]
    names = [", ".join([f"`{name}`", *rest]) for name, *rest in
             (first[side].split(", ") for side in ("theirs", "ours"))]  # fmt: skip
    cells = [*names, ", ".join(first["layouts"])]
    lines.append(f"| {' | '.join([*cells, *factors, shown])} |")
  return lines
