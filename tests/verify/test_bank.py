"""The bank of `fbackprop.verify`: each bug is a bug somewhere, each right rule is right."""

import contextlib
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify.bank import BUGS, RIGHT
from fbackprop.verify.bank.specimen import KINDS

ALL = {specimen.name: specimen for specimen in (*BUGS, *RIGHT)}


@pytest.fixture(autouse=True)
def _as_users_find_it():
  """The bank is written as people write, with `x @ w + b` and the like."""
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def is_float(a):
  return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)


def is_none(a):
  return a is None


def in_float64(tree):
  return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)) if is_float(a) else a, tree)


def draw_like(tree, seed):
  generator = np.random.default_rng(seed)
  return jax.tree.map(lambda a: jnp.asarray(generator.normal(size=a.shape), a.dtype), tree)


# Two ways to the cotangents: `cotangents(args, bar) -> (y, args_bar)`.


def by_rule(specimen):
  example = specimen.make()
  f = example.f
  if example.f_jvp is not None:
    f = jax.custom_jvp(f)
    f.defjvp(example.f_jvp)

  def cotangents(args, bar):
    if example.f_vjp is not None:
      y, pullback = example.f_vjp(*args)
      return y, pullback(bar)
    return vjp_of_floats(f, args, bar)

  return cotangents


def arguments_of(example):
  """The arguments, with those that are given by keyword."""
  return (*example.args, *example.options.get("kwargs", {}).values())


def vjp_of_floats(f, args, bar):
  """jax.vjp, with None for a static argument, which isn't traced."""
  places = [
    i for i, arg in enumerate(args) if all(isinstance(x, jax.Array) for x in jax.tree.leaves(arg))
  ]

  def of_arrays(*arrays):
    filled = list(args)
    for place, array in zip(places, arrays, strict=True):
      filled[place] = array
    return f(*filled)

  y, pullback = jax.vjp(of_arrays, *(args[place] for place in places))
  bars = dict(zip(places, pullback(bar), strict=True))
  return y, tuple(bars.get(i) for i in range(len(args)))


def by_autodiff(specimen):
  """Autodiff of the function, every custom rule within it stripped, or of the one that is meant."""
  example = specimen.make()  # Made anew, since a jit within it may hold a trace with the rule.
  meant = TRUTHS.get(specimen.name) or example.options.get("slope")
  has_tangents = specimen.make.__module__.endswith(".tangents")

  def cotangents(args, bar):
    with contextlib.ExitStack() as stack:
      for kind in (jax.custom_vjp, jax.custom_jvp)[: 1 + has_tangents]:
        stack.enter_context(mock.patch.object(kind, "__call__", lambda self, *a: self.fun(*a)))
      y, bars = vjp_of_floats(meant or example.f, args, bar)
      return example.f(*args) if meant else y, bars

  return cotangents


def by_forward_mode(specimen):
  """The same for a function of one array whose loop has no reverse mode."""
  f = specimen.make().f

  def cotangents(args, bar):
    with mock.patch.object(jax.custom_vjp, "__call__", lambda self, *a: self.fun(*a)):
      jacobian = jax.jacfwd(f)(*args)
      return f(*args), (jnp.tensordot(bar, jacobian, bar.ndim),)

  return cotangents


def differs(rule, truth, args, bar, tolerance):
  """Whether two (y, args_bar) differ: in tree, dtype, shape or numbers.

  Both are traced into one program: to compile each operation by itself would take minutes.
  """
  leaves, structure = jax.tree.flatten((args, bar))
  traced = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
  otherwise_built = []

  def both(traced):
    rest = iter(traced)
    filled = [next(rest) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
    flat = [
      jax.tree.flatten(cotangents(*jax.tree.unflatten(structure, filled)), is_leaf=is_none)
      for cotangents in (rule, truth)
    ]
    pairs = list(zip(*(leaves for leaves, _ in flat), strict=False))
    otherwise_built.append(
      flat[0][1] != flat[1][1] or any(kind_of(got) != kind_of(want) for got, want in pairs)
    )
    return [pair for pair in pairs if kind_of(pair[0]) is not None]

  pairs = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(traced)
  return otherwise_built[0] or any(numbers_differ(*pair, tolerance) for pair in pairs)


def differs_untraced(found, wanted, tolerance):
  """Whether the numbers of two (y, args_bar) differ, None and float0 aside."""
  pairs = zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
  return any(numbers_differ(*pair, tolerance) for pair in pairs)


def kind_of(leaf):
  """Dtype and shape; None for what stands for an integer's cotangent."""
  if leaf is None or getattr(leaf, "dtype", None) == jax.dtypes.float0:
    return None
  return (leaf.dtype, leaf.shape) if hasattr(leaf, "dtype") else type(leaf)


def numbers_differ(got, want, tolerance):
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  error = np.abs(got - want).max(initial=0)
  return not error <= tolerance * np.abs(want).max(initial=0)


# The circumstances in which a bug shows that the arguments of its example hide.


def mapped(cotangents):
  def stacked(args, bar):
    pair = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), (args, bar))
    return jax.vmap(cotangents)(*pair)

  return stacked


def differentiated(cotangents):
  def second(args, bar):
    bars, pullback = jax.vjp(lambda a: cotangents(a, bar)[1], args)
    return bars, pullback(draw_like(bars, 3))

  return second


def called_between(specimen):
  """The rule's pullback, after other calls with the double of the arguments."""
  f_vjp = specimen.make().f_vjp

  def cotangents(args, bar):
    y, pullback = f_vjp(*args)
    for _ in range(4):
      f_vjp(*jax.tree.map(lambda a: 2 * a, args))[1](bar)
    return y, pullback(bar)

  return cotangents


def rows(n, *places):
  """The arguments at some places with N examples."""
  return lambda args: tuple(
    jnp.resize(a, (n, *a.shape[1:])) if i in places else a for i, a in enumerate(args)
  )


def times(factor, place=0):
  return lambda args: tuple(factor * a if i == place else a for i, a in enumerate(args))


MODES = {
  "vmap-mean": mapped,
  "vmap-first-for-all": mapped,
  "residuals-stopped": differentiated,
  "weights-stopped": differentiated,
  "slope-of-the-slope": differentiated,
  "table-without-slope": differentiated,
}
STATES = ("last-residual", "kept-by-shape", "counted-calls", "running-mean", "accumulated")
ARGUMENTS = {
  "absolute-always-positive": times(-1),
  "soft-labels-sum": times(2, 1),
  "binary-saturated": times(1e3),
  "logsumexp-overflow": times(1e3),
  "label-zero-as-padding": times(0, 1),
  "equal-labels": times(0, 1),
  "norm-at-zero": times(0),
  "product-by-division": lambda args: (args[0].at[0, 0].set(0),),
  "tile-remainder-dropped": rows(13, 0),
  "tile-clamped": rows(13, 0),
  "odd-batch-counts-last-twice": rows(5, 0),
  "hard-coded-batch": rows(8, 0, 1),
  "single-example": rows(1, 0, 1),
  "empty-batch": rows(0, 1),
  "cotangent-clipped": times(100, 1),
  "clipped-by-norm": times(100, 0),
  "masked-above-three": times(10),
  "relu6-unbounded": times(10),
  "softplus-shortcut": times(30),
  "small-inputs-dropped": times(1e-4),
  "branch-on-the-sum": lambda args: (10 * jnp.abs(args[0]),),
  "ratio-at-zero": times(0),
  "power-by-logarithm": times(-1),
  "tanh-overflow": times(1e3),
  "output-clamped": times(10),
  "matrix-taken-as-symmetric": lambda args: (args[0].at[0, 1].set(3), args[1]),
  "taken-as-sorted": times(-1),
  "tangent-beyond-twenty": times(100),
  "resolvent-above-one": times(10),
  "ids-set-for-add": lambda args: (args[0], args[1].at[1].set(4)),
  "segments-of-equal-size": lambda args: (args[0], args[1].at[1].set(1)),
  "mask-of-nothing": times(0, 1),
  "length-of-zero": times(0, 1),
  "length-of-all": lambda args: (args[0], args[1].at[0].set(5)),
  "episode-that-ends-last": lambda args: (args[0], args[1].at[-1].set(1)),
  "flag-ignored": lambda args: (args[0], ~args[1]),
  "sums-in-tiles-of-four": lambda args: (args[0][:, :7],),
  "odd-key-left-out": lambda args: (args[0], args[1][:, :3], args[2][:, :3]),
  "pool-padded-in-front": lambda args: (args[0][:, :5],),
}


def resolved(x):
  """The solution of h + tanh(h) = x, by enough steps of Newton's method."""
  h = x
  for _ in range(30):
    h = h - (h + jnp.tanh(h) - x) / (2 - jnp.tanh(h) ** 2)
  return h


# Bugs that raise: the arguments, and the error.
RAISING = {
  "odd-batch-raises": (rows(5, 0), TypeError, "reshape"),
  "tangent-by-size": (tuple, NotImplementedError, "Transpose rule .* for 'abs'"),
}
# Functions of the same values, for those that JAX can't differentiate without their rules.
TRUTHS = {
  "tangent-of-a-linear-solve": jnp.linalg.solve,
  **dict.fromkeys(
    ("resolvent-above-one", "resolvent-at-the-argument", "right-resolvent"), resolved
  ),
  **dict.fromkeys(("bessel-tripled", "right-bessel"), jax.scipy.special.i0),
  **dict.fromkeys(("density-exponents", "right-density"), lambda x: 6 * x**2 - 8 * x**3 + 3 * x**4),
}
# Rules in NumPy aren't traced.
UNTRACED = ("numpy-without-slope", "branch-in-python", "right-numpy")
# What a dtype in the rule would hide in float64 is compared in the dtypes of the example.
IN_OWN_DTYPE = (
  "wide-cotangent",
  "right-loop-in-float32",
  "right-bfloat16-arguments",
  "right-bfloat16-softmax",
  "right-float32-by-name",
  "right-sums-in-float32",
  "right-preferred-float32",
  "needless-bfloat16",
  "half-slope-at-output",
  "right-half-tanh",
  "right-mixed-linear",
  "right-float8-round-trip",
  "right-shape-and-dtype",
)
# The rounding of a dtype that is narrower than the arguments'.
TOLERANCES = {
  "right-half-tanh": 2.0**-9, "right-mixed-linear": 2.0**-6, "right-float8-round-trip": 2.0**-3,
}  # fmt: skip
# At a kink each of them has a slope of its own that isn't autodiff's: compared off the kink.
OFF_THE_KINK = (
  "right-relu-slope-zero",
  "right-relu-slope-one",
  "right-absolute-slope-zero",
  "right-pool-to-the-first",
  "right-tangent-half-at-zero",
)


def test_names_are_unique_and_there_are_enough():
  assert len(ALL) == len(BUGS) + len(RIGHT)
  assert len(BUGS) >= 60
  assert len(RIGHT) >= 40
  tables = (
    RAISING,
    MODES,
    STATES,
    ARGUMENTS,
    TRUTHS,
    UNTRACED,
    IN_OWN_DTYPE,
    TOLERANCES,
    OFF_THE_KINK,
  )
  assert {name for table in tables for name in table} <= ALL.keys()


def paths_of(example):
  names = inspect.signature(example.f).parameters
  for name, arg in zip(names, arguments_of(example), strict=False):  # A key may be left out.
    yield name
    for path, _ in jax.tree_util.tree_leaves_with_path(arg):
      yield "/".join((name, jax.tree_util.keystr(path, simple=True, separator="/")))


@pytest.mark.parametrize("name", ALL)
def test_a_specimen_says_what_it_is(name):
  specimen = ALL[name]
  assert inspect.getdoc(specimen.make).endswith(".")
  assert set(specimen.causes) <= set(KINDS)
  assert len(specimen.causes) <= 3
  assert bool(specimen.causes) == (specimen in BUGS)
  one, other = specimen.make(), specimen.make()
  jax.tree.map(np.testing.assert_array_equal, *map(concrete, (one.args, other.args)))
  assert set(specimen.leaves) <= set(paths_of(one))


def is_key(a):
  return jnp.issubdtype(getattr(a, "dtype", np.float64), jax.dtypes.prng_key)


def concrete(args):
  """Keys as their numbers."""
  return jax.tree.map(
    lambda a: jax.random.key_data(a) if is_key(a) else a,
    args,
  )


def output_bar(specimen, args):
  """A cotangent of the output; tiny, where a rule is linear for tiny ones alone."""
  example = specimen.make()
  bar = draw_like(jax.eval_shape(lambda: example.f(*args)), 7)
  return bar if example.options.get("linear", True) else jax.tree.map(lambda b: 1e-6 * b, bar)


def itself(cotangents):
  return cotangents


@pytest.mark.slow
@pytest.mark.parametrize("name", [s.name for s in BUGS if s.name not in RAISING])
def test_a_bug_is_a_bug(name):
  specimen = ALL[name]
  mode = MODES.get(name, itself)
  rule = called_between(specimen) if name in STATES else by_rule(specimen)
  args = ARGUMENTS.get(name, tuple)(arguments_of(specimen.make()))
  with jax.enable_x64(name not in IN_OWN_DTYPE):
    args = args if name in IN_OWN_DTYPE else in_float64(args)
    bar = output_bar(specimen, args)
    if name in (*STATES, *UNTRACED):
      assert differs_untraced(rule(args, bar), by_autodiff(specimen)(args, bar), 1e-9)
    else:
      assert differs(mode(rule), mode(by_autodiff(specimen)), args, bar, 1e-9)


@pytest.mark.parametrize("name", RAISING)
def test_a_bug_that_raises_raises(name):
  specimen, (change, error, message) = ALL[name], RAISING[name]
  args = change(specimen.make().args)
  with pytest.raises(error, match=message):
    by_rule(specimen)(args, output_bar(specimen, args))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_hidden_bug_is_hidden(name):
  specimen = ALL[name]
  with jax.enable_x64(True):
    args = in_float64(specimen.make().args)
    bar = output_bar(specimen, args)
    assert not differs(by_rule(specimen), by_autodiff(specimen), args, bar, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [s.name for s in RIGHT])
def test_a_right_rule_is_right(name):
  specimen = ALL[name]
  args = specimen.make().args
  if name in OFF_THE_KINK:
    args = tuple(a + 0.1 * b for a, b in zip(args, draw_like(args, 5), strict=True))
  tolerance = 1e-7 if name in TRUTHS else 1e-12
  if name in IN_OWN_DTYPE:
    narrow = 2.0**-7 if args[0].dtype == jnp.bfloat16 else 1e-5
    tolerance = TOLERANCES.get(name, narrow)
  with jax.enable_x64(name not in IN_OWN_DTYPE):
    args = args if name in IN_OWN_DTYPE else in_float64(args)
    bar = output_bar(specimen, args)
    witness = by_forward_mode if name == "right-newton-root" else by_autodiff
    if name in UNTRACED:
      assert not differs_untraced(by_rule(specimen)(args, bar), witness(specimen)(args, bar), 1e-12)
    else:
      assert not differs(by_rule(specimen), witness(specimen), args, bar, tolerance)
