"""The evaluator against JAX in float64, and what its noise says about rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.jaxprs import flat, last_reads, without_rules
from fbackprop.verify._vjp import vjp
from fbackprop.verify.interpret.evaluation import Evaluator, Noise
from fbackprop.verify.witnesses.verdicts import compare, spread

X = np.random.default_rng(0).normal(size=(5, 4))
Y = np.random.default_rng(1).normal(size=(4, 3))
KEY = jax.random.key(3)


def loop(x, y):
  def step(carry, row):
    return carry * 0.5 + row, carry @ y

  return jax.lax.scan(step, x[0], x, reverse=True)[1]


def until_small(x, y):
  return jax.lax.while_loop(lambda v: (v**2).sum() > 1e-3, lambda v: 0.3 * v, x)


def branch(x, y):
  return jax.lax.cond(x.sum() > 0, lambda: x @ y, lambda: 2 * (x @ y))


@jax.custom_vjp
def carried(x):
  return jnp.sin(x)


carried.defvjp(lambda x: (jnp.sin(x), x), lambda x, y_bar: (7 * y_bar,))


def in_a_scan(x, y):
  return jax.lax.scan(lambda carry, row: (carry, carried(row)), None, x)[1]


PROGRAMS = {
  "products": lambda x, y: x @ y,
  "batched products": lambda x, y: jnp.einsum("ij,kj,jl->kil", x, x, y),
  "outer": lambda x, y: jnp.tensordot(x, y, 0),
  "smooth": lambda x, y: jnp.tanh(x) + jnp.exp(x) * jnp.log1p(x**2) - jnp.sqrt(1 + x**4),
  "special": lambda x, y: jax.lax.erf(x) + jax.nn.sigmoid(x) + jax.lax.lgamma(jnp.abs(x) + 1),
  "powers": lambda x, y: jnp.abs(x) ** 2.5 + x**3 + (1 + x**2) ** -2,
  "slope of a product": lambda x, y: jax.grad(lambda x: jnp.prod(x, 1).sum())(x),
  "empty scan": lambda x, y: jax.lax.scan(lambda c, r: (c, r @ y), x[0], x[:0])[1],
  "while under vmap": lambda x, y: jax.vmap(until_small, (0, None))(x, y),
  "reductions": lambda x, y: x.sum(0) + x.max(0) * x.min(0) + x.prod(0),
  "arguments": lambda x, y: (x.argmax(1) + 2 * x.argmin(1)).astype(x.dtype),
  "cumulative": lambda x, y: jnp.cumsum(x, 0) + jax.lax.cumsum(x, 1, reverse=True),
  "cumulative maximum": lambda x, y: jax.lax.cummax(x, 0) - jax.lax.cummin(x, 1, reverse=True),
  "shapes": lambda x, y: jnp.concatenate([x.T, y], 1)[1:4:2, ::-1].reshape(-1)[:, None],
  "broadcast": lambda x, y: jnp.broadcast_to(x[:, :, None], (5, 4, 2)).transpose(2, 0, 1),
  "clips": lambda x, y: jnp.clip(x, -0.5, 0.5) + jnp.maximum(x, 0.1) - jnp.minimum(x, 0.2),
  "selection": lambda x, y: jnp.where(x > 0, x, jnp.where(x < -1, 3.0, x**2)),
  "cases": lambda x, y: jax.lax.select_n((jnp.abs(x) * 2).astype(int) % 3, x, 2 * x, 3 * x),
  "integers": lambda x, y: ((x * 10).astype(int) // 3 + (x * 10).astype(int) % 3).astype(x.dtype),
  "rounding": lambda x, y: jnp.floor(x) + jnp.ceil(x) + jnp.sign(x) + jnp.round(3 * x),
  "gather": lambda x, y: x[jnp.array([0, 2, 2, 4]), jnp.array([1, 1, 0, 3])],
  "scatter": lambda x, y: jnp.zeros((3, 4)).at[jnp.array([0, 2, 2, 1, 0])].add(x),
  "sort": lambda x, y: jnp.sort(x, 0) + jax.lax.top_k(x, 2)[0].sum(),
  "convolution": lambda x, y: jax.lax.conv(x[None, None], y[None, None, :2, :2], (1, 1), "SAME"),
  "pad": lambda x, y: jnp.pad(x, ((1, 0), (0, 2))),
  "slices": lambda x, y: jax.lax.dynamic_slice(x, (1, 1), (2, 2)),
  "solve": lambda x, y: jnp.linalg.solve(y @ y.T + jnp.eye(4), x.T),
  "cholesky": lambda x, y: jnp.linalg.cholesky(y @ y.T + jnp.eye(4)),
  "random": lambda x, y: x * jax.random.normal(KEY, x.shape, x.dtype),
  "logsumexp": lambda x, y: jax.nn.logsumexp(100 * x, 1),
  "softmax": lambda x, y: jax.nn.log_softmax(x, 1) + jax.nn.softmax(x, 0),
  "scan": loop,
  "while": until_small,
  "cond": branch,
  "custom rule in a scan": in_a_scan,
  "remat": lambda x, y: jax.checkpoint(jnp.sin)(x),
  "empty": lambda x, y: x[:0] @ y,
  "vmap": lambda x, y: jax.vmap(lambda row: jax.jit(jnp.tanh)(row @ y))(x),
}


def traced(function, *arguments):
  with jax.enable_x64(True):
    program = jax.make_jaxpr(lambda *args: [function(*args)])(*map(jnp.asarray, arguments))
    return flat(program, keep_rules=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_equals_jax_in_float64(name):
  program = traced(PROGRAMS[name], X, Y)
  (got,) = Evaluator().run(program, [X, Y])
  with jax.enable_x64(True):
    want = np.asarray(PROGRAMS[name](jnp.asarray(X), jnp.asarray(Y)))
  assert got.shape == (1, *want.shape)
  np.testing.assert_allclose(got[0], want, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_noise_is_as_large_as_the_rounding_of_float32(name):
  """float32 differs from float64 by some of the spreads that the noise predicts for float32."""
  program = traced(PROGRAMS[name], X, Y)
  x, y = X.astype(np.float32), Y.astype(np.float32)
  noise = Noise(9, 2.0**-23, float(np.finfo(np.float32).tiny))
  (got,) = Evaluator(np.float32, noise).run(program, [x, y])
  if name == "random":  # Other numbers are drawn in another dtype.
    return
  own = np.asarray(PROGRAMS[name](x, y), np.float64)
  error = np.abs(own - got[0])
  assert (error <= 8 * spread(got) + 1e-7 * np.abs(own)).all(), (
    error / (spread(got) + 1e-300)
  ).max()


def test_the_first_sample_is_unperturbed():
  program = traced(PROGRAMS["softmax"], X, Y)
  alone = Evaluator().run(program, [X, Y])[0]
  assert (Evaluator(noise=Noise(4)).run(program, [X, Y])[0][0] == alone[0]).all()


def test_the_same_seed_gives_the_same_samples():
  program = traced(PROGRAMS["products"], X, Y)
  runs = [Evaluator(noise=Noise(4, seed=5)).run(program, [X, Y])[0] for _ in range(2)]
  assert (runs[0] == runs[1]).all()


def test_what_is_correlated_stays_so():
  """x − x is zero in every sample; a thousand copies of one error are a thousand times as much."""

  def cancelling(x):
    y = jnp.exp(x)
    return y - y

  (zero,) = Evaluator(noise=Noise(5)).run(traced(cancelling, X), [X])
  assert (zero == 0).all()
  one = np.array(0.3)

  def shared(x):
    return jnp.broadcast_to(jnp.exp(x), (10_000,)).sum()

  (once,) = Evaluator(noise=Noise(200)).run(traced(jnp.exp, one), [one])
  (often,) = Evaluator(noise=Noise(200)).run(traced(shared, one), [one])
  assert spread(often) > 5_000 * spread(once)


def test_exact_operations_add_nothing():
  (got,) = Evaluator(noise=Noise(5)).run(traced(lambda x: jnp.maximum(-x.T, 0.0)[::-1], X), [X])
  assert got.shape[0] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_narrowing_cast_rounds_and_does_not_loosen_the_bound(dtype):
  program = traced(lambda x: jnp.exp(x).astype(dtype).astype(x.dtype), X)
  (got,) = Evaluator(noise=Noise(5)).run(program, [X])
  exact = np.exp(X)
  assert np.abs(got[0] - exact).max() > 1e-9
  assert spread(got).max() < 1e-14


def test_reduce_precision_rounds_too():
  program = traced(lambda x: jax.lax.reduce_precision(x, 8, 7), X)
  (got,) = Evaluator(noise=Noise(3)).run(program, [X])
  np.testing.assert_array_equal(got[0], X.astype(jnp.bfloat16).astype(np.float64))


def test_a_cast_to_what_the_user_works_in_is_exact():
  program = traced(lambda x: jnp.exp(x).astype(jnp.float32).astype(x.dtype), X)
  (got,) = Evaluator(np.float32).run(program, [X])
  np.testing.assert_array_equal(got[0], np.exp(X))


def test_a_fragile_comparison_spreads_over_both_branches():
  x = np.array([0.1 + 0.2 - 0.3, 0.5])  # Zero but for rounding, and clear of it.

  def step(x):
    return jnp.where(jnp.sin(x) * 1e0 + 0.1 - 0.1 > 0, 1.0, -1.0)

  evaluator = Evaluator(noise=Noise(5))
  (got,) = evaluator.run(traced(step, x), [x])
  assert evaluator.fragile == 1
  assert spread(got)[0] > 0.5
  assert {*got[:, 0]} == {1.0, -1.0}
  assert (got[:, 1] == 1.0).all()


def test_exact_equality_is_not_fragile():
  x = np.array([1.0, 2.0])
  evaluator = Evaluator(noise=Noise(5))
  (got,) = evaluator.run(traced(lambda x: jnp.where(jnp.exp(x) == jnp.exp(x), x, 0.0), x), [x])
  assert evaluator.fragile == 0
  assert (got == x).all()


def test_what_float64_cannot_evaluate_is_named():
  def callback(x):
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    return jax.pure_callback(lambda v: np.sin(v).astype(np.float32), shape, x.astype(jnp.float32))

  evaluator = Evaluator(noise=Noise(3))
  (got,) = evaluator.run(traced(callback, X), [X])
  assert evaluator.foreign == ["pure_callback"]
  np.testing.assert_allclose(got[0], np.sin(X), atol=1e-6)
  assert spread(got).max() > 1e-9


def test_the_watch_sees_both_sides_of_every_comparison():
  seen = {}

  def watch(place, name, a, b):
    seen[name] = (float(a.min()), float(b.max()))

  def compared(x):
    return jnp.where(x > 0.25, jnp.abs(x), jnp.clip(x, -1.0, 3.0)) + jnp.maximum(x, 0.75)

  Evaluator(watch=watch).run(traced(compared, X), [X])
  assert seen["gt"][1] == 0.25
  assert seen["abs"][1] == 0.0
  assert seen["max"][1] == 0.75 or seen["clamp"][1] == 3.0


@pytest.mark.slow
def test_flat_programs_have_no_calls_and_no_rules():
  def function(x):
    return jax.jit(lambda v: carried(v) + jax.nn.relu(v))(x)

  with jax.enable_x64(True):
    program = jax.make_jaxpr(lambda x: [function(x)])(jnp.asarray(X))
    names = {e.primitive.name for e in flat(program, keep_rules=False).jaxpr.eqns}
    kept = {e.primitive.name for e in flat(program, keep_rules=True).jaxpr.eqns}
    stripped = without_rules(lambda x: [function(x)], jnp.asarray(X))
    slope = jax.grad(lambda x: stripped(x)[0].sum())(jnp.asarray(X))
  assert not {"jit", "custom_vjp_call", "custom_jvp_call"} & names
  assert "custom_jvp_call" in kept
  np.testing.assert_allclose(slope, np.cos(X) + (X > 0), rtol=1e-12)


def test_sources_are_the_last_reads():
  program = traced(lambda a, b, c: (a + 1) * b + a, X, X, X)
  first, second, unread = last_reads(program)
  assert first > second > unread == -1


def comparison(got, want, error=1e-16, **options):
  rng = np.random.default_rng(0)

  def samples(x):
    x = np.asarray(x, float)
    return np.concatenate([x[None], x[None] + error * rng.normal(size=(4, *x.shape))])

  return compare([samples(got)], [samples(want)], 1.0, options.get("may_be_vacuous", False))[0]


def test_a_difference_beyond_the_bound_is_wrong():
  want = np.ones((3, 4))
  got = want.copy()
  got[1, 2] += 1e-9
  found = comparison(got, want)
  assert found.worst == (1, 2)
  assert found.is_wrong.sum() == 1
  assert not comparison(want + 1e-16, want).is_wrong.any()


@pytest.mark.parametrize(("got", "want", "wrong"), [
  (np.nan, 1.0, True), (np.inf, 1.0, True), (1.0, np.nan, True), (np.nan, np.nan, False),
  (0.0, np.inf, True),
])  # fmt: skip
def test_numbers_that_are_not_finite(got, want, wrong):
  assert bool(comparison([got, 1.0], [want, 1.0]).is_wrong[0]) == wrong


def test_a_vacuous_bound_is_neither_right_nor_wrong():
  found = comparison(np.ones(4), np.zeros(4), error=1.0, may_be_vacuous=True)
  assert found.is_vacuous.all()
  assert not found.is_wrong.any()


def test_allowance_multiplies_the_bound():
  samples = [np.full((3, 2), 1.0)]
  narrow, wide = (compare(samples, samples, allowance, False)[0].bound for allowance in (1.0, 7.0))
  np.testing.assert_allclose(wide, 7 * narrow)


def test_the_spread_of_tiny_numbers_does_not_underflow():
  samples = 1e-270 * np.array([[1.0, 2.0], [1.0 + 1e-15, 2.0], [1.0, 2.0 + 1e-15]])
  assert (spread(samples) > 1e-286).all()


def test_rows_and_columns_lend_their_spread():
  samples = np.zeros((3, 4, 4))
  samples[1:] = 1e-10
  samples[1:, 2, 3] = 0.0  # Still by chance.
  assert spread(samples)[2, 3] > 1e-11
  samples[1:, :, 0] = 0.0  # A column that is exactly zero is so for a reason.
  assert (spread(samples)[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_scalar_of_many_digits_was_rounded_when_it_was_traced(dtype):
  """1/6 was, and may differ by that from a division by 6; 3/8 is what it says."""
  unit = float(jnp.finfo(dtype).eps) / 2
  for constant, was_rounded in ((1 / 6, True), (1 / 7, True), (0.375, False), (-1024.0, False)):
    evaluator = Evaluator(dtype, Noise(4, constants=unit))
    value = np.asarray(jnp.asarray(constant, dtype))
    samples = evaluator.constant(value, value)
    assert (np.ptp(samples) > 0) == was_rounded, constant


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_mean_of_six_in_a_narrow_dtype_is_no_false_alarm(dtype):
  def mean_of_squares(x):
    return (x**2).mean()

  def mean_of_squares_vjp(x):
    return mean_of_squares(x), lambda y_bar: (2 * x * (jnp.full_like(x, 1 / x.size) * y_bar),)

  x = jnp.asarray(X[:, 0].repeat(2)[:6], dtype)
  report = vjp(mean_of_squares, x, f_vjp=mean_of_squares_vjp, level="quick")
  assert report.ok, report.table()
  assert "in its own dtype" in report.regimes


@pytest.mark.slow
def test_random_numbers_are_those_of_their_own_dtype():
  """Drawn in float64 they would be others."""
  key, a = jax.random.key(0), jnp.array([0.5, 2.0, 3.0], jnp.float32)
  program = jax.make_jaxpr(lambda key, a: jax.random.gamma(key, a))(key, a)
  (y,) = Evaluator(np.float32).run(program, (key, a))
  np.testing.assert_allclose(y[0], jax.random.gamma(key, a), rtol=1e-5)
