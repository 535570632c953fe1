"""Loops compiled by JAX against the same loops evaluated equation by equation."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.deadline import OutOfTimeError, time_limit, waited
from fbackprop.verify.interpret import loops, primitives
from fbackprop.verify.interpret.evaluation import Evaluator, Noise
from fbackprop.verify.witnesses.verdicts import spread

X = np.random.default_rng(0).normal(size=(4, 4))
B = np.arange(1.0, 5.0)
INTERPRETED, COMPILED = 10**9, 1


def recurrent(w, x):
  """A scan with outputs, in which a cond looks at the first sample alone."""

  def step(h, row):
    h = jnp.tanh(w @ h + row)
    h = jax.lax.cond(h[0] > 0, lambda h: 0.5 * h, lambda h: h + 0.1, h)
    return h, (h**2).sum()

  return jax.lax.scan(step, x, jnp.outer(jnp.linspace(-1.0, 1.0, 30), x), reverse=True)


def steepest(w, x):
  """Steepest descent for (w wᵀ + 4) y = x, which ends by a tolerance, with a count of floats."""
  m = w @ w.T + 4 * jnp.eye(4)

  def improve(state):
    y, turn = state
    r = x - m @ y
    return y + r * (r @ r) / (r @ (m @ r)), turn + 1.0

  def is_far(state):
    return (jnp.abs(x - m @ state[0]).max() > 1e-8) & (state[1] < 500.0)

  return jax.lax.while_loop(is_far, improve, (jnp.zeros_like(x), 0.0))


def nested(w, x):
  """In each iteration of a while loop a scan, and a root for each lane by a loop under vmap."""

  def root(a):
    return jax.lax.while_loop(lambda y: jnp.abs(y * y - a) > 1e-9, lambda y: (y + a / y) / 2, a)

  def body(state):
    h, turn = state
    h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(w @ h + x / (i + 1)), h)
    return jax.vmap(root)(1 + h**2) - 1, turn + 1

  return jax.lax.while_loop(lambda s: s[1] < 12, body, (x, 0))[0]


def turning(w, x):
  """A carry of complex numbers."""

  def step(z, _):
    return z * jnp.exp(1j * w[0]) + 0.1 * x, z.real

  with jax.numpy_dtype_promotion("standard"):
    z, rows = jax.lax.scan(step, x + 0j, None, length=40)
  return jnp.abs(z), rows


def evaluated(f, args, long, monkeypatch, *, noise=None, stacked=False):
  monkeypatch.setattr(loops, "LONG", long)
  evaluator = Evaluator(noise=noise)
  with jax.enable_x64(True):
    own = [a[0] for a in args] if stacked else args
    program = jax.make_jaxpr(f)(*map(jnp.asarray, own))
  run = evaluator.run_stacked if stacked else evaluator.run
  return run(program, args), evaluator


@pytest.mark.parametrize("f", [recurrent, steepest, nested, turning])
def test_values_and_spreads(f, monkeypatch):
  both = [
    evaluated(f, (X, B), long, monkeypatch, noise=Noise(samples=17))[0]
    for long in (INTERPRETED, COMPILED)
  ]
  for slow, fast in zip(*both, strict=True):
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-11, atol=1e-13)
    if fast.dtype.kind != "f" or not np.ptp(slow, axis=0).any():
      continue
    ratio = np.median(spread(fast)) / np.median(spread(np.asarray(slow)))
    assert 1 / 8 < ratio < 30, ratio


@pytest.mark.slow
def test_it_is_compiled(monkeypatch):
  """Otherwise the comparison would be of the same with itself."""
  used = []
  kept = loops.run

  def run(*args):
    found = kept(*args)
    used.append(1)
    return found

  monkeypatch.setattr(loops, "run", run)
  for f in (recurrent, steepest, nested, turning):
    before = len(used)
    evaluated(f, (X, B), COMPILED, monkeypatch, noise=Noise())
    assert len(used) > before
  before = len(used)
  evaluated(steepest, (X, B), INTERPRETED, monkeypatch)
  assert len(used) == before


def test_separate_points(monkeypatch):
  """Each iterates by itself; one that doesn't end has no result."""

  def root(a):
    def is_off(y):
      return jnp.abs(y * y - a) > 1e-9

    return jax.lax.while_loop(is_off, lambda y: (y + a / y) / 2, 1.0)

  points = (np.array([2.0, 3.0, 400.0, -1.0]),)
  slow, fast = (
    evaluated(root, points, long, monkeypatch, stacked=True) for long in (INTERPRETED, COMPILED)
  )
  np.testing.assert_allclose(fast[0][0], slow[0][0], rtol=1e-14)
  np.testing.assert_allclose(fast[0][0][:3], np.sqrt(points[0][:3]), rtol=1e-9)
  assert np.isnan(fast[0][0][3])
  assert fast[1].is_endless
  assert slow[1].is_endless


@pytest.mark.slow
@pytest.mark.parametrize("long", [INTERPRETED, COMPILED])
def test_a_loop_that_goes_on(long, monkeypatch):
  """It is nearer to its limit; one that ends by a count isn't changed."""
  monkeypatch.setattr(loops, "LONG", long)
  errors, counts = [], []
  for goes_on in (False, True):
    evaluator = Evaluator(goes_on=goes_on)
    with jax.enable_x64(True):
      solver, counted = (
        jax.make_jaxpr(f)(jnp.asarray(X), jnp.asarray(B)) for f in (steepest, nested)
      )
    y = evaluator.run(solver, (X, B))[0][0]
    errors.append(np.abs(y - np.linalg.solve(X @ X.T + 4 * np.eye(4), B)).max())
    counts.append(evaluator.run(counted, (X, B))[0][0])
  assert errors[1] < 0.1 * errors[0]
  np.testing.assert_allclose(*counts, rtol=1e-8)


def test_an_endless_loop(monkeypatch):
  def f(x):
    return jax.lax.while_loop(lambda v: v < 2.0, lambda v: v + 0 * x, x)

  (y,), evaluator = evaluated(f, (np.ones(()),), COMPILED, monkeypatch)
  assert evaluator.is_endless
  assert np.isnan(y).all()


def long_recurrence(w, x):
  return jax.lax.fori_loop(0, 300, lambda _, h: jnp.tanh(w @ h + x), x)


def long_recurrence_vjp(w, x, factor=1.0):
  y, pull = jax.vjp(lambda w, x: jax.lax.scan(
    lambda h, _: (jnp.tanh(w @ h + x), None), x, None, length=300)[0], w, x)  # fmt: skip
  return y, lambda y_bar: (pull(y_bar)[0], factor * pull(y_bar)[1])


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.0001, "fail")])
@pytest.mark.parametrize("long", [INTERPRETED, COMPILED])
def test_verdicts(factor, verdict, long, monkeypatch):
  monkeypatch.setattr(loops, "LONG", long)
  w, x = jnp.asarray(0.3 * X, jnp.float32), jnp.asarray(0.1 * B, jnp.float32)

  def rule(w, x):
    return long_recurrence_vjp(w, x, factor)

  report = vjp(long_recurrence, w, x, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()
  assert verdict == "pass" or report.findings[0].leaf == "x"


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_a_loop_of_twenty_thousand_turns(factor, verdict):
  """(1 + x/n)^n, whose factor is rounded alike in each turn: errors add up to n roundings."""

  def power(x, n):
    def turn(state):
      return state[0] + 1, state[1] * (1 + x / n)

    return jax.lax.while_loop(lambda state: state[0] < n, turn, (0, jnp.ones_like(x)))[1]

  def rule(x, n):
    y = power(x, n)
    return y, lambda y_bar: (factor * y_bar * y / (1 + x / n), None)

  report = vjp(power, jnp.linspace(0.1, 1.0, 5), 20_000, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def test_the_time_limit_ends_the_wait_for_a_compilation():
  started = threading.Event()

  def compilation():
    started.set()
    time.sleep(1.0)

  with time_limit(0.1), pytest.raises(OutOfTimeError):
    waited(compilation)
  assert started.is_set()
  with time_limit(60.0):
    waited(started.clear)
  assert not started.is_set()


@pytest.mark.parametrize("held", [loops.held, primitives.held])
def test_a_constant_condition_holds_a_number(held):
  """It is an array of NumPy without axes, whose `reshape` takes no empty list of sizes."""
  for goes_on, want in ((True, 2.0), (False, 1.0)):
    assert held(np.array(goes_on), np.array(2.0), np.array(1.0)) == want
