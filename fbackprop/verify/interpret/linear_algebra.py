"""Factorisations and triangular systems, by LAPACK: JAX would compile each for each shape.

Every array has the axis of samples in front, and may have axes of a batch behind it. A singular
matrix raises, and is left to JAX, which has infinities and NaN for results.
"""

import functools
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Solver = Callable[..., list[np.ndarray]]


def by_matrix(
  function: Callable[..., tuple[np.ndarray, ...]], *arrays: np.ndarray
) -> list[np.ndarray]:
  """Apply a function of matrices to those of each sample and batch entry, and stack its results."""
  batch = np.broadcast_shapes(*(x.shape[:-2] for x in arrays))
  own = [np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in arrays]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SciPy warns of singular matrices.
    rows = [function(*(x[place] for x in own)) for place in np.ndindex(batch)]
  stacked = (np.stack(column) for column in zip(*rows, strict=True))
  return [x.reshape(*batch, *x.shape[1:]) for x in stacked]


@functools.cache
def scipy_linalg() -> Any:
  """Import SciPy's linear algebra, which takes as long as the checks of a small rule."""
  return import_module("scipy.linalg")


def triangular_solve(params: Any, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
  """Solve a x = b, or x a = b, for a triangle of a."""
  is_left, is_conjugate = params["left_side"], params["conjugate_a"]
  options = {"unit_diagonal": params["unit_diagonal"], "check_finite": False}

  def solved(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    own = np.conj(a) if is_conjugate else a
    # x a = b is a' x' = b', of the other triangle.
    transposed = params["transpose_a"] == is_left
    x = scipy_linalg().solve_triangular(
      own, b if is_left else b.T, trans=int(transposed), lower=params["lower"], **options
    )
    return (x if is_left else x.T,)

  if 0 in (*a.shape, *b.shape):
    raise np.linalg.LinAlgError("an empty system")
  return by_matrix(solved, a, b)


def lu(params: Any, a: np.ndarray) -> list[np.ndarray]:
  """Factorise with partial pivoting; return the factors, the pivots and the permutation."""

  def factorised(a: np.ndarray) -> tuple[np.ndarray, ...]:
    factors, pivots = scipy_linalg().lu_factor(a, check_finite=False)
    if not np.diagonal(factors).all():
      raise np.linalg.LinAlgError("a singular matrix")
    order = np.arange(a.shape[0], dtype=np.int32)
    for row, other in enumerate(pivots):
      order[[row, other]] = order[[other, row]]
    return factors, pivots.astype(np.int32), order

  if 0 in a.shape:
    raise np.linalg.LinAlgError("an empty matrix")
  return by_matrix(factorised, a)


def cholesky(params: Any, a: np.ndarray) -> list[np.ndarray]:
  """Factorise a positive definite matrix, of which the lower triangle is read."""
  return [np.linalg.cholesky(a)]


SOLVERS: dict[str, Solver] = {"triangular_solve": triangular_solve, "lu": lu, "cholesky": cholesky}
