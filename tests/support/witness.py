"""The language of the laws: one view of every unit, the truth about it, and the comparison.

The truth is autodiff of a row's reference, always in float64 and at exactly our rule's arguments,
so that only our own rounding counts. It has a scale. The cotangent of a leaf is a sum over outputs
o,

  leaf_bar_i = Σ_o J_oi · y_bar_o   (o runs over examples and features),

and its `scale` is the largest |J_oi · y_bar_o| of the leaf. Rounding errors are proportional to
that term, not to the sum: a bound relative to the sum would fail right rules where terms cancel,
and an absolute bound would pass wrong rules where all numbers are small.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb

TOLERANCE = {
  # Relative to the largest term that is summed for the leaf: see `witness.Truth`. An error of
  # rounding is a small multiple of eps of that term, whatever the sum came to; so no bound below is
  # relative to a result, or grows with the size of an array.
  #
  # 4,500 eps, as DESIGN states the law. Both sides round, each in its own order: sums of fewer than
  # 100 terms, three layers, exp and erfc of a few ULP. Right rules stay below 10 eps.
  "float64": 1e-12,
  # 34 eps. Only our side rounds, since the witness computes with the same numbers in float64. Right
  # rules stay below 6 eps here; the rest is a margin for other machines' exp, tanh and erfc.
  "float32": 4e-6,
  # Central differences of step 1e-5 in float64: truncation error step² = 1e-10 times the third
  # derivative, rounding error eps / step = 2e-11 times the terms of the sum.
  "differences": 1e-8,
}


class View(NamedTuple):
  """A Gate, a Layer or a Loss in one form: `f(*primals) -> y`, `f_vjp(*primals) -> (y, pull)`.

  Attributes:
    names: the names of the primals that get a cotangent, in order; later primals are constants
      (targets, a key).
    batched: for each primal, whether its leaves have a leading axis of N examples.
    f, f_vjp: as above.
    compiled: `(primals, y_bar) -> (y, cotangents)`, compiled as a whole. Compilation takes nearly
      all of the time of the laws, so they share this program, and with it the number of examples.
    compiled_quickly: the same by `jit_quickly`, for shapes and places of a single law.
    constants: the row's, see `Case`.
  """

  names: tuple[str, ...]
  batched: tuple[bool, ...]
  f: Callable[..., Any]
  f_vjp: Callable[..., Any] | None = None
  compiled: Callable[[tuple[Any, ...], Any], Any] | None = None
  compiled_quickly: Callable[[tuple[Any, ...], Any], Any] | None = None
  constants: Callable[..., tuple[Any, ...]] | None = None

  def compiled_pull(self, primals, y_bar):
    return self.compiled(primals, y_bar)[1]


class Truth(NamedTuple):
  """The true values of a tree, and the largest term in the sum for each leaf."""

  want: Any
  scale: Any


# Without LLVM's optimisation, which takes half of the time of a compilation: for programs that run
# once, and in which not the compiler but a transformation of JAX's is looked at.
jit_quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def view_of(case: Any, dtype: str, count: int) -> View:
  """Return the view of a row, cached, so that later laws reuse its compiled programs."""
  return unify(case.make(jnp.dtype(dtype)), count)._replace(constants=case.constants)


def unify(unit: Any, count: int) -> View:
  """Return the view of a unit that is called with `count` primals."""
  if isinstance(unit, fb.Gate):
    names, batched = tuple(f"input {i}" for i in range(count)), (True,) * count
  elif isinstance(unit, fb.Layer):
    names, batched = ("params", "x"), (False, True, False)[:count]
  else:
    names, batched = ("outputs",), (True, True)

  def f(*primals):
    return unit.forward(*primals)[0]

  def f_vjp(*primals):
    y, residuals = unit.forward(*primals)

    def pull(y_bar):
      if isinstance(unit, fb.Layer):
        return unit.backward(primals[0], residuals, y_bar)
      bars = unit.backward(residuals, y_bar)
      return bars if isinstance(unit, fb.Gate) else (bars,)

    return y, pull

  def value_and_cotangents(primals, y_bar):
    y, pull = f_vjp(*primals)
    return y, pull(y_bar)

  compiled = jax.jit(value_and_cotangents), jit_quickly(value_and_cotangents)
  return View(names, batched, f, f_vjp, *compiled)


def pull(view: View, primals: Any, y_bar: Any) -> Any:
  """Return our cotangents for one y_bar, operation by operation."""
  return view.f_vjp(*primals)[1](y_bar)


def as_jax(tree: Any) -> Any:
  """Convert NumPy arrays to JAX's; keys are JAX's already."""
  return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), tree)


def random_like(rng: np.random.Generator, tree: Any) -> Any:
  """Draw standard normal numbers in the shapes and dtypes of a tree."""
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def generator(case: Any, *more: int) -> np.random.Generator:
  """Return a generator that depends on the row's id alone."""
  return np.random.default_rng([zlib.crc32(case.id.encode()), *more])


N = 7


def draw(case: Any, dtype: str, n: int = N, variant: int = 0) -> tuple[View, tuple[Any, ...], Any]:
  """Draw the view of a row, primals for n examples, and a cotangent of the output."""
  return drawn(case, dtype, n, variant, jax.config.jax_enable_x64)


@functools.cache  # The laws share most of their draws, and the shapes of parameters are traced.
def drawn(
  case: Any, dtype: str, n: int, variant: int, x64: bool
) -> tuple[View, tuple[Any, ...], Any]:
  """Draw these, once; labels are int64 only with `x64`."""
  rng = generator(case, n, variant)
  primals = as_jax(case.primals(rng, n, jnp.dtype(dtype)))
  view = view_of(case, dtype, len(primals))
  return view, primals, random_like(rng, jax.eval_shape(view.f, *primals))


def draw_kinks(case: Any, dtype: str) -> list[tuple[View, tuple[Any, ...], Any]]:
  """Draw the same at each of the row's kinks and ties, repeated up to N examples."""
  drawn = []
  for i, primals in enumerate(map(as_jax, case.kinks(jnp.dtype(dtype)))):
    view = view_of(case, dtype, len(primals))
    n = len(jax.tree.leaves(primals[view.batched.index(True)])[0])
    assert n <= N, case.id
    primals = take(view, primals, np.arange(N) % n)
    y_bar = random_like(generator(case, i), jax.eval_shape(view.f, *primals))
    drawn.append((view, primals, y_bar))
  return drawn


def take(view: View, primals: tuple[Any, ...], rows: Any) -> tuple[Any, ...]:
  """Select the primals of some of the examples; `rows` is an index or a slice."""
  return tuple(
    jax.tree.map(lambda leaf: leaf[rows], primal) if batched else primal
    for primal, batched in zip(primals, view.batched, strict=True)
  )


def split(view: View, primals: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  """Split primals into those that get a cotangent, and the constants."""
  return primals[: len(view.names)], primals[len(view.names) :]


def wide(tree: Any) -> Any:
  """Convert numbers to NumPy's float64; keep integers, keys and structure."""

  def widened(leaf):
    return np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(widened, tree)


# --- The truth ------------------------------------------------------------------------------------


def value_and_terms(reference: Any, active: Any, constants: Any, y_bar: Any) -> Any:
  """Return y, and J_oi · y_bar_o with the output o as the first axis of every leaf."""
  y, pull_back = jax.vjp(lambda *active: reference(*active, *constants), *active)
  rows = jnp.diag(y_bar.reshape(-1)).reshape(y.size, *y.shape)
  return y, jax.vmap(pull_back)(rows)


def jvp_terms(reference: Any, active: Any, constants: Any, y_bar: Any, tangents: Any) -> Any:
  """Return the derivative of these terms along tangents of the primals and of y_bar."""

  def first_order(active, y_bar):
    return value_and_terms(reference, active, constants, y_bar)[1]

  return jax.jvp(first_order, (active, y_bar), tangents)[1]


def grad_terms(reference: Any, active: Any, constants: Any, y_bar: Any, weights: Any) -> Any:
  """Return the gradient of Σ weights · cotangents by the primals and by y_bar, for every output."""

  def weighted_sum(row, active, y_bar):
    """The sum for one output, which `row` selects."""
    pull_back = jax.vjp(lambda *active: reference(*active, *constants), *active)[1]
    products = jax.tree.map(jnp.multiply, weights, pull_back(row * y_bar))
    return sum(leaf.sum() for leaf in jax.tree.leaves(products))

  rows = jnp.eye(y_bar.size, dtype=y_bar.dtype).reshape(-1, *y_bar.shape)
  by_active, by_y_bar = jax.vmap(jax.grad(weighted_sum, (1, 2)), (0, None, None))(
    rows, active, y_bar
  )
  return (*by_active, by_y_bar)


# Compiled for one example, so that one compilation serves every batch.
compiled = {
  function: jit_quickly(function, static_argnums=0)
  for function in (value_and_terms, jvp_terms, grad_terms)
}


def evaluate(
  function: Any, reference: Any, view: View, primals: Any, y_bar: Any, extra: Any = ()
) -> list[Any]:
  """Evaluate one of these functions for each example.

  `extra` are the further arguments of `function`, in trees that are batched like the primals.
  """
  active_axes, constant_axes = split(view, view.batched)
  active, constants = split(view, primals)
  if view.constants is not None:
    constants = view.constants(*primals)
    constant_axes = (True,) * len(constants)
  extra_axes = {jvp_terms: ((active_axes, True),), grad_terms: (active_axes,)}.get(function, ())
  axes = (active_axes, constant_axes, True, *extra_axes)
  arguments = wide((active, constants, y_bar, *extra))

  with jax.enable_x64(True):
    ones = (jax.tree.map(functools.partial(example, n), axes, arguments) for n in range(len(y_bar)))
    return jax.device_get([compiled[function](reference, *one) for one in ones])


def true_value(reference: Any, view: View, primals: Any, y_bar: Any) -> Any:
  """Return the true value of `f(*primals)`; y_bar is an argument only of the shared program."""
  rows = evaluate(value_and_terms, reference, view, primals, y_bar)
  return np.concatenate([y for y, _ in rows])


def true_sum(
  reference: Any,
  view: View,
  primals: Any,
  y_bar: Any,
  function: Any = value_and_terms,
  extra: Any = (),
) -> Truth:
  """Return the truth of `pull(y_bar)`, or, by `jvp_terms` and `grad_terms`, of its derivatives."""
  rows = evaluate(function, reference, view, primals, y_bar, extra)
  if function is value_and_terms:
    rows = [terms for _, terms in rows]
  # A row has an entry for each primal, and from `grad_terms` one more, for y_bar.
  likes, batched = [*wide(split(view, primals)[0])], [*split(view, view.batched)[0]]
  if function is grad_terms:
    likes, batched = [*likes, wide(y_bar)], [*batched, True]
  sums = [sum_of_rows(like, [row[i] for row in rows], batched[i]) for i, like in enumerate(likes)]
  return Truth(tuple(s.want for s in sums), tuple(s.scale for s in sums))


def example(n: int, batched: bool, tree: Any) -> Any:
  """Return one example of a batch as a batch, with all unbatched leaves."""
  return jax.tree.map(lambda leaf: leaf[n : n + 1], tree) if batched else tree


def sum_of_rows(like: Any, rows: list[Any], batched: bool) -> Truth:
  """Return the sum over outputs, and over examples for a shared leaf; and the largest term."""

  def want(leaf, *rows):
    if not rows:
      return np.zeros(leaf.shape)
    each = [row.sum(0) for row in rows]
    return np.concatenate(each) if batched else np.sum(each, axis=0)

  def scale(leaf, *rows):
    return max((np.abs(row).max(initial=0.0) for row in rows), default=0.0)

  return Truth(jax.tree.map(want, like, *rows), jax.tree.map(scale, like, *rows))


# --- The comparison -------------------------------------------------------------------------------


def leaves_of(names: tuple[str, ...], trees: Any) -> list[tuple[str, Any]]:
  """Yield each leaf with its name, such as `params_bar[0].w`."""
  found = []
  for name, tree in zip(names, trees, strict=True):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found.append((name + jax.tree_util.keystr(path), leaf))
  return found


def bars(names: tuple[str, ...]) -> tuple[str, ...]:
  return tuple(f"{name}_bar" for name in names)


def paired_leaves(
  where: str, names: tuple[str, ...], got: Any, want: Any
) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """Yield each leaf's name, got and wanted values; raise unless they have one shape."""
  got_leaves, want_leaves = leaves_of(names, got), leaves_of(names, want)
  if [name for name, _ in got_leaves] != [name for name, _ in want_leaves]:
    raise AssertionError(f"{where}: got the leaves {got_leaves} want {want_leaves}")
  pairs = []
  for (name, got_leaf), (_, want_leaf) in zip(got_leaves, want_leaves, strict=True):
    if got_leaf.shape != want_leaf.shape:
      raise AssertionError(f"{where}: {name} got shape {got_leaf.shape} want {want_leaf.shape}")
    pairs.append((name, np.asarray(got_leaf), np.asarray(want_leaf)))
  return pairs


def raise_if_any(wrong: Any, place: str, got: np.ndarray, want: np.ndarray, bound: str) -> None:
  """Raise with the first of the wrong entries, if there is one."""
  if wrong.any():
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise AssertionError(
      f"{place}{list(index)} got {got[index]!r} want {want[index]!r} bound {bound}; "
      f"{int(wrong.sum())} of {wrong.size} entries are wrong"
    )


def assert_close(
  where: str, names: tuple[str, ...], got: Any, truth: Truth, tolerance: float
) -> None:
  """Raise unless every entry of every leaf is within `tolerance` times its scale; NaN never is."""
  scales = jax.tree.leaves(truth.scale)
  pairs = paired_leaves(where, names, got, truth.want)
  for (name, got_leaf, want), scale in zip(pairs, scales, strict=True):
    bound = tolerance * float(scale)
    wrong = ~(np.abs(got_leaf - want) <= bound)
    raise_if_any(wrong, f"{where}: {name}", got_leaf, want, f"{bound:.1e}")


def assert_bitwise(where: str, names: tuple[str, ...], got: Any, want: Any) -> None:
  """Raise unless the numbers are bitwise equal, but NaN equals NaN, and -0.0 equals 0.0."""
  for name, got_leaf, want_leaf in paired_leaves(where, names, got, want):
    wrong = ~((got_leaf == want_leaf) | (np.isnan(got_leaf) & np.isnan(want_leaf)))
    raise_if_any(wrong, f"{where}: {name}", got_leaf, want_leaf, "0")


def tolerance(dtype: Any) -> float:
  return TOLERANCE[jnp.dtype(dtype).name]
