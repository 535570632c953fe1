"""Primitives that pick, place or order entries, and factorisations: NumPy's against JAX."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fbackprop.jaxprs import equations_of
from fbackprop.verify.interpret import indexing, linear_algebra
from fbackprop.verify.interpret.evaluation import Evaluator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 3))
PLACES = (np.array([0, 3, -1, 7, 2]), np.array([[0, 1], [3, 3]]))
CORNERS = np.array([[0, 1], [3, 4], [2, -3]])
MODES = ("clip", "fill", "promise_in_bounds")


def check(function, *args):
  """Compare with JAX: the arguments as they are, and two samples of which the second is scaled."""
  with jax.enable_x64(True):
    program, compiled = jax.make_jaxpr(function)(*args), jax.jit(function)
    scaled = [1.5 * x if x.dtype.kind in "fc" else x for x in args]
    wants = [jax.tree.leaves(compiled(*own)) for own in (args, scaled)]
    alone = Evaluator().run(program, args)
    both = Evaluator().run_stacked(
      program, [np.stack(pair) for pair in zip(args, scaled, strict=True)]
    )
  for got, pair, want, other in zip(alone, both, *wants, strict=True):
    assert got.dtype == np.asarray(want).dtype or got.dtype.kind == "f"
    for found, true in ((got[0], want), (pair[0], want), (pair[-1], other)):
      np.testing.assert_allclose(found, np.asarray(true), rtol=1e-9, atol=1e-10)
  return {e.primitive.name for e in equations_of(program)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "bool", "complex128"])
def test_gather(dtype, mode):
  def taken(x, k):
    x = (8 * x).astype(dtype) if dtype != "bool" else x > 0
    views = (x.at[k], x.at[:, k], x.at[:, k, 1], x.at[k, :, k % 3])
    return [view.get(mode=mode) for view in views]

  for places in PLACES:
    x = abs(X) if dtype == "uint8" else X
    assert "gather" in check(taken, x.astype("float32") if dtype == "float32" else x, places)


def test_gather_outside_of_an_operand_gives_what_is_asked_for():
  check(lambda x, k: x.at[k].get(mode="fill", fill_value=7.0), X, PLACES[0])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["clip", "drop", "promise_in_bounds"])
@pytest.mark.parametrize("name", ["add", "multiply", "subtract", "min", "max", "set"])
def test_scatter(name, mode):
  if (name, mode) == ("set", "clip"):
    mode = "drop"  # Of several entries for one place, any may remain.

  def placed(x, k):
    rows = jnp.arange(15.0).reshape(5, 3)
    return getattr(x.at[k], name)(2.5, mode=mode), getattr(x.at[k], name)(rows, mode=mode)

  names = check(placed, X, PLACES[0])
  assert any(n.startswith("scatter") for n in names)


@pytest.mark.parametrize("mode", MODES)
def test_windows_with_axes_between(mode):
  numbers = lax.GatherDimensionNumbers((0, 2), (2,), (0, 1))
  check(lambda x, k: lax.gather(x, k, numbers, (2, 3, 1), mode=mode), X, CORNERS)
  numbers = lax.ScatterDimensionNumbers((0, 2), (2,), (0, 1))
  new = RNG.normal(size=(2, 3, 3))
  check(lambda x, k, new: lax.scatter_add(x, k, new, numbers, mode=mode), X, CORNERS, new)


@pytest.mark.parametrize(
  "function",
  [
    jax.vmap(lambda row, k: row[k], in_axes=(0, None)),
    jax.vmap(lambda row, k: row.at[k].add(1.0), in_axes=(0, None)),
    lambda x, k: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    lambda x, k: jax.ops.segment_sum(x, k[:4], 3),
    lambda x, k: jax.ops.segment_max(x, abs(k[:4]), 8),
    lambda x, k: jax.ops.segment_prod(x, k[:4], 4),
    lambda x, k: x.at[1].apply(jnp.sin),
    lambda x, k: x[k[:0]],
    lambda x, k: jnp.argwhere(x > 0, size=7, fill_value=3),
  ],
)
def test_what_is_made_of_gathers_and_scatters(function):
  check(function, X, PLACES[0])


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jnp.sort(x, 1),
    lambda x: jnp.sort(jnp.where(x > 1, jnp.nan, jnp.where(x < -1, -0.0, x)), 1),
    lambda x: lax.sort((jnp.round(x), x, x[::-1]), dimension=1, num_keys=2),
    lambda x: jnp.argsort(x, 0, descending=True),
    lambda x: lax.top_k(x, 2),
    lambda x: jnp.median(x, 1),
    lambda x: jnp.sort(lax.complex(x, x[::-1]), 1),
    lambda x: jnp.split(x, [1, 4], 1),
    lambda x: lax.split(x, (1, 0, 3), 0),
    lambda x: jnp.pad(x, ((1, 1), (2, 0), (0, 0)), mode="reflect"),
  ],
)
def test_order_and_slices(function):
  check(function, X)


def test_padding():
  cases = itertools.product((-2, 0, 3), (-1, 2), (0, 2))
  check(lambda x: [lax.pad(x, 1.5, [case, (0, 1, 0), (0, 0, 1)]) for case in cases], X)


def test_slices_that_are_placed_at_run_time():
  def sliced(x, corners):
    found = []
    for at in corners:
      found.append(lax.dynamic_slice(x, list(at), (2, 3, 1)))
      found.append(lax.dynamic_update_slice(x, x[:2, :3, :1], list(at)))
    return found

  check(sliced, X, np.array([[0, 1, 0], [9, 9, 9], [-1, 0, 2]]))


def test_bits():
  def shifted(x):
    n = (100 * x).astype(jnp.int32)
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return (
      *(lax.shift_right_logical(n, jnp.full(n.shape, by, n.dtype)) for by in (3, 31, 40)),
      bits, lax.bitcast_convert_type(bits, jnp.float32), lax.bitcast_convert_type(bits, jnp.int16),
    )  # fmt: skip

  check(shifted, X.astype("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_triangular_systems(batch, is_complex):
  a = RNG.normal(size=(*batch, 3, 3)) + 3 * np.eye(3)
  a = a + 1j * RNG.normal(size=a.shape) if is_complex else a
  names = ("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal")
  cases = [
    dict(zip(names, case, strict=True)) for case in itertools.product((False, True), repeat=5)
  ]

  def solved(a):
    right = a[..., :2]
    return [
      lax.linalg.triangular_solve(a, right if case["left_side"] else right.mT, **case)
      for case in cases
    ]

  check(solved, a)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 4), (2, 3, 3)])
def test_factorisations(shape):
  a = RNG.normal(size=shape)
  check(lax.linalg.lu, a)
  if shape[-1] == shape[-2]:
    positive = a @ np.swapaxes(a, -1, -2) + np.eye(shape[-1])
    check(lambda a: (jnp.linalg.cholesky(a), jnp.linalg.inv(a), jnp.linalg.det(a)), positive)


@pytest.mark.slow
def test_what_has_no_factors_has_those_of_jax():
  """Infinities and NaN, where LAPACK raises."""
  check(lambda a: lax.linalg.cholesky(a, symmetrize_input=False), -np.eye(3))
  check(lax.linalg.lu, np.ones((3, 3)))
  zero = np.zeros((2, 2))
  check(lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True), zero, np.ones((2, 1)))


def test_none_of_them_is_left_to_jax(monkeypatch):
  """JAX would compile each for each shape."""
  monkeypatch.setattr(Evaluator, "by_jax", None)
  names = check(lambda x, k: (x[k], x.at[k].set(1.0), jnp.sort(x), jnp.pad(x, 1)), X, PLACES[0])
  assert names >= {"gather", "scatter", "sort", "pad"}
  assert set(indexing.EXACT).isdisjoint({*indexing.ROUNDED, *linear_algebra.SOLVERS})
