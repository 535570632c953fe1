"""What the laws are written in: one view of every unit, the truth about it, and the comparison.

The truth is autodiff of a row's reference, always in float64 and with the very numbers that our
rule was given, so that only our own rounding counts. It comes with a scale. The cotangent of a
leaf is a sum over outputs o,

  leaf_bar_i = Σ_o J_oi · y_bar_o   (o runs over examples and features),

and its `scale` is the largest |J_oi · y_bar_o| of the leaf. Rounding is proportional to that term,
not to what the sum comes to: a bound relative to the sum would fail right rules where terms
cancel, and an absolute one would pass wrong rules where everything is small.
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
  # 34 eps. Only our side rounds, for the witness computes with the same numbers in float64. Right
  # rules stay below 6 eps here; the rest is room for other machines' exp, tanh and erfc.
  "float32": 4e-6,
  # Central differences of step 1e-5 in float64: truncated at step² = 1e-10 times the third
  # derivative, rounded at eps / step = 2e-11, times the terms of the sum.
  "differences": 1e-8,
}


class View(NamedTuple):
  """A Gate, a Layer or a Loss, all alike: `f(*primals) -> y`, `f_vjp(*primals) -> (y, pull)`.

  Attributes:
    names: of the primals that get a cotangent, in order; what comes after them is constant
      (targets, a key).
    batched: for each primal, whether its leaves have the axis of N examples in front.
    f, f_vjp: as above.
    compiled: `(primals, y_bar) -> (y, cotangents)`, compiled as a whole. Compiling takes nearly all
      of the time of the laws: they share this program, and with it the number of examples.
    constants: of the row, see `Case`.
  """

  names: tuple[str, ...]
  batched: tuple[bool, ...]
  f: Callable[..., Any]
  f_vjp: Callable[..., Any]
  compiled: Callable[[tuple[Any, ...], Any], Any]
  constants: Callable[..., tuple[Any, ...]] | None = None

  def compiled_pull(self, primals, y_bar):
    return self.compiled(primals, y_bar)[1]


class Truth(NamedTuple):
  """What a tree should be, and, leaf by leaf, the largest term that was summed for it."""

  want: Any
  scale: Any


@functools.cache
def view_of(case: Any, dtype: str, count: int) -> View:
  """The view of a row, made once, so that what is compiled for one law serves the next."""
  return unify(case.make(jnp.dtype(dtype)), count)._replace(constants=case.constants)


def unify(unit: Any, count: int) -> View:
  """The view of a unit that is called with `count` primals."""
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

  return View(names, batched, f, f_vjp, jax.jit(value_and_cotangents))


def pull(view: View, primals: Any, y_bar: Any) -> Any:
  """Our cotangents, for one y_bar, operation by operation."""
  return view.f_vjp(*primals)[1](y_bar)


def as_jax(tree: Any) -> Any:
  """NumPy's arrays as JAX's; keys are that already."""
  return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), tree)


def random_like(rng: np.random.Generator, tree: Any) -> Any:
  """Standard normal numbers in the shapes and dtypes of a tree."""
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def generator(case: Any, *more: int) -> np.random.Generator:
  """Numbers that depend on the row's id and on nothing that happens before."""
  return np.random.default_rng([zlib.crc32(case.id.encode()), *more])


N = 7


def draw(case: Any, dtype: str, n: int = N, variant: int = 0) -> tuple[View, tuple[Any, ...], Any]:
  """The view of a row, primals for n examples, and a cotangent of the output."""
  rng = generator(case, n, variant)
  primals = as_jax(case.primals(rng, n, jnp.dtype(dtype)))
  view = view_of(case, dtype, len(primals))
  return view, primals, random_like(rng, jax.eval_shape(view.f, *primals))


def draw_kinks(case: Any, dtype: str) -> list[tuple[View, tuple[Any, ...], Any]]:
  """The same at each of the row's kinks and ties, repeated up to N examples."""
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
  """The primals of some of the examples: `rows` is an index or a slice."""
  return tuple(
    jax.tree.map(lambda leaf: leaf[rows], primal) if batched else primal
    for primal, batched in zip(primals, view.batched, strict=True)
  )


def split(view: View, primals: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  """The primals that get a cotangent, and the constants."""
  return primals[: len(view.names)], primals[len(view.names) :]


def reference_primals(view: View, primals: tuple[Any, ...]) -> tuple[Any, ...]:
  """The primals as the reference takes them, widened."""
  active, constants = split(view, primals)
  return wide((*active, *(constants if view.constants is None else view.constants(*primals))))


def wide(tree: Any) -> Any:
  """The same numbers in NumPy's float64; integers, keys and structure as they are."""

  def widened(leaf):
    return np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(widened, tree)


# --- The truth ------------------------------------------------------------------------------------


def value_and_terms(reference: Any, active: Any, constants: Any, y_bar: Any) -> Any:
  """y, and J_oi · y_bar_o for every output o, which becomes the first axis of every leaf."""
  y, pull_back = jax.vjp(lambda *active: reference(*active, *constants), *active)
  rows = jnp.diag(y_bar.reshape(-1)).reshape(y.size, *y.shape)
  return y, jax.vmap(pull_back)(rows)


def jvp_terms(reference: Any, active: Any, constants: Any, y_bar: Any, tangents: Any) -> Any:
  """How these terms move with the primals and with y_bar."""

  def first_order(active, y_bar):
    return value_and_terms(reference, active, constants, y_bar)[1]

  return jax.jvp(first_order, (active, y_bar), tangents)[1]


def grad_terms(reference: Any, active: Any, constants: Any, y_bar: Any, weights: Any) -> Any:
  """The gradient of Σ weights · cotangents by the primals and by y_bar, for every output."""

  def first_order(active, y_bar):
    rows = value_and_terms(reference, active, constants, y_bar)[1]
    products = jax.tree.map(lambda w, leaf: (w[None] * leaf).reshape(y_bar.size, -1), weights, rows)
    return sum(leaf.sum(1) for leaf in jax.tree.leaves(products))

  by_active, by_y_bar = jax.jacrev(first_order, (0, 1))(active, y_bar)
  return (*by_active, by_y_bar)


# For one example, so that one compilation serves every batch. It takes longer than all the runs
# will, hence as little optimisation as there is.
compiled = {
  function: jax.jit(
    function, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
  )
  for function in (value_and_terms, jvp_terms, grad_terms)
}


def evaluate(
  function: Any, reference: Any, view: View, primals: Any, y_bar: Any, extra: Any = ()
) -> list[Any]:
  """What one of these functions gives for each example.

  `extra` is what `function` takes besides, in trees that are batched as the primals are.
  """
  active_axes, constant_axes = split(view, view.batched)
  active, constants = split(view, reference_primals(view, primals))
  if view.constants is not None:
    constant_axes = (True,) * len(constants)
  extra_axes = {jvp_terms: ((active_axes, True),), grad_terms: (active_axes,)}.get(function, ())
  axes = (active_axes, constant_axes, True, *extra_axes)
  arguments = (active, constants, *wide((y_bar, *extra)))

  with jax.enable_x64(True):
    ones = (jax.tree.map(functools.partial(example, n), axes, arguments) for n in range(len(y_bar)))
    return jax.device_get([compiled[function](reference, *one) for one in ones])


def true_value(reference: Any, view: View, primals: Any, y_bar: Any) -> Any:
  """What `f(*primals)` should be; y_bar is there for the sake of the program, which is shared."""
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
  """What `pull(y_bar)` should be, or, by `jvp_terms` and `grad_terms`, its derivatives."""
  rows = evaluate(function, reference, view, primals, y_bar, extra)
  if function is value_and_terms:
    rows = [terms for _, terms in rows]
  # A row has an entry for each primal, and by `grad_terms` one more, for y_bar.
  likes, batched = [*wide(split(view, primals)[0])], [*split(view, view.batched)[0]]
  if function is grad_terms:
    likes, batched = [*likes, wide(y_bar)], [*batched, True]
  sums = [sum_of_rows(like, [row[i] for row in rows], batched[i]) for i, like in enumerate(likes)]
  return Truth(tuple(s.want for s in sums), tuple(s.scale for s in sums))


def example(n: int, batched: bool, tree: Any) -> Any:
  """The batch of one example out of a batch; all of what isn't batched."""
  return jax.tree.map(lambda leaf: leaf[n : n + 1], tree) if batched else tree


def sum_of_rows(like: Any, rows: list[Any], batched: bool) -> Truth:
  """The sum over outputs, and over examples unless each has its own; and the largest term."""

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
  """`params_bar[0].w` and the like, each with its leaf."""
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
  """Each leaf's name, what came and what was wanted, which have one shape."""
  got_leaves, want_leaves = leaves_of(names, got), leaves_of(names, want)
  if [name for name, _ in got_leaves] != [name for name, _ in want_leaves]:
    raise AssertionError(f"{where}: got the leaves {got_leaves} want {want_leaves}")
  pairs = []
  for (name, got_leaf), (_, want_leaf) in zip(got_leaves, want_leaves, strict=True):
    if got_leaf.shape != want_leaf.shape:
      raise AssertionError(f"{where}: {name} got shape {got_leaf.shape} want {want_leaf.shape}")
    pairs.append((name, np.asarray(got_leaf), np.asarray(want_leaf)))
  return pairs


def assert_close(
  where: str, names: tuple[str, ...], got: Any, truth: Truth, tolerance: float
) -> None:
  """Every entry of every leaf lies within `tolerance` times the leaf's scale; NaN never does."""
  scales = jax.tree.leaves(truth.scale)
  pairs = paired_leaves(where, names, got, truth.want)
  for (name, got_leaf, want), scale in zip(pairs, scales, strict=True):
    bound = tolerance * float(scale)
    wrong = ~(np.abs(got_leaf - want) <= bound)
    if wrong.any():
      index = tuple(int(i) for i in np.argwhere(wrong)[0])
      raise AssertionError(
        f"{where}: {name}{list(index)} got {got_leaf[index]!r} want {want[index]!r} bound "
        f"{bound:.1e}; {int(wrong.sum())} of {wrong.size} entries are wrong"
      )


def assert_bitwise(where: str, names: tuple[str, ...], got: Any, want: Any) -> None:
  """The same numbers to the last bit; NaN equals NaN, and -0.0 equals 0.0."""
  for name, got_leaf, want_leaf in paired_leaves(where, names, got, want):
    wrong = ~((got_leaf == want_leaf) | (np.isnan(got_leaf) & np.isnan(want_leaf)))
    if wrong.any():
      index = tuple(int(i) for i in np.argwhere(wrong)[0])
      raise AssertionError(
        f"{where}: {name}{list(index)} got {got_leaf[index]!r} want {want_leaf[index]!r} bound 0"
      )


def tolerance(dtype: Any) -> float:
  return TOLERANCE[jnp.dtype(dtype).name]
