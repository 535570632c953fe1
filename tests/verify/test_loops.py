"""Functions and rules that hold a loop that ends by a tolerance, and so are known to that only."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

from fbackprop import jaxprs
from fbackprop.verify import vjp

A = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)
B = jnp.arange(1.0, 5.0)
cg = partial(jax.scipy.sparse.linalg.cg, tol=1e-5)


def passes(f, *args, **options):
  report = vjp(f, *args, level="quick", **options)
  assert report.verdict == "pass", report.table()
  return report


def fails(leaf, f, *args, **options):
  report = vjp(f, *args, level="quick", **options)
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf == leaf, report.table()
  assert report.findings[0].index, report.table()
  return report


# --- The loop is the rule's -----------------------------------------------------------------------


def definite(a):
  return a @ a.T + 4 * jnp.eye(4)


def solved(a, b):
  return jnp.linalg.solve(definite(a), b)


def solved_vjp(a, b, factor=1.0, both=1.0):
  """By conjugate gradients: A_bar is known to their tolerance."""
  m = definite(a)
  x = solved(a, b)

  def pull(y_bar):
    b_bar = cg(lambda v: m @ v, y_bar)[0]
    m_bar = -jnp.outer(b_bar, x)
    return factor * (m_bar + both * m_bar.T) @ a, b_bar

  return x, pull


@pytest.mark.slow
def test_a_rule_that_solves_iteratively():
  report = passes(solved, A, B, f_vjp=solved_vjp)
  assert any("a loop in the rule ends by a tolerance" in r for r in report.not_checked)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"factor": 1.01}, {"factor": 2.0}, {"both": 0.0}])
def test_a_wrong_rule_that_solves_iteratively(options):
  fails("a", solved, A, B, f_vjp=partial(solved_vjp, **options))


@pytest.mark.slow
def test_a_rule_with_a_loop_that_is_not_linear():
  """A clipped cotangent is off by more than a tolerance."""

  def rule(a, b):
    x, pull = solved_vjp(a, b)
    return x, lambda y_bar: pull(jnp.clip(y_bar, -0.5, 0.5))

  assert vjp(solved, A, B, f_vjp=rule, level="quick").verdict == "fail"


# --- The loop is the function's, and of JAX's own rules -------------------------------------------


@pytest.mark.parametrize(
  "solver", ["cg", "bicgstab", pytest.param("gmres", marks=pytest.mark.slow)]
)
def test_a_solver_of_jax(solver):
  """4 I is solved in one step: a small perturbation changes nothing that the solver sees."""

  def f(a, b):
    return getattr(jax.scipy.sparse.linalg, solver)(lambda v: a @ (a.T @ v), b)[0]

  passes(f, 4 * jnp.eye(4), B)


def root(a, factor=1.0):
  def newton(f, y):
    def improve(y):
      return y - f(y) / jax.jvp(f, (y,), (jnp.ones_like(y),))[1]

    return jax.lax.while_loop(lambda y: jnp.any(jnp.abs(f(y)) > 1e-5), improve, y)

  def tangent(g, y):
    return factor * y / g(jnp.ones_like(y))

  a = jnp.abs(a)
  return jax.lax.custom_root(lambda y: y**3 + y - a, jnp.ones_like(a), newton, tangent)


@pytest.mark.slow
def test_an_implicit_derivative_by_custom_root():
  passes(root, B)


@pytest.mark.parametrize("factor", [1.01, 0.5])
def test_a_wrong_implicit_derivative_by_custom_root(factor):
  fails("a", partial(root, factor=factor), B)


# --- The loop is of both --------------------------------------------------------------------------


def fixed_point(w, x):
  """y = tanh(w y + x), with w scaled to a contraction."""
  w = contraction(w)

  def is_off(pair):
    return jnp.abs(pair[1] - pair[0]).max() > 1e-6

  return jax.lax.while_loop(is_off, lambda p: (p[1], jnp.tanh(w @ p[1] + x)), (x + 1, x))[1]


def contraction(w):
  return 0.5 * w / (1 + jnp.abs(w).sum())


def fixed_point_vjp(w, x, factor=1.0, turns=200):
  y = fixed_point(w, x)

  def pull(y_bar):
    own, pull_w = jax.vjp(contraction, w)
    slope = 1 - y**2

    def is_off(state):
      before, now, turn = state
      return (jnp.abs(now - before).max() > 1e-6) & (turn < turns)

    def again(state):
      _, now, turn = state
      return now, y_bar + own.T @ (slope * now), turn + 1

    u = jax.lax.while_loop(is_off, again, (y_bar + 1, y_bar, 0))[1]
    return (*pull_w(jnp.outer(slope * u, y)), factor * slope * u)

  return y, pull


@pytest.mark.slow
def test_a_fixed_point_and_its_implicit_rule():
  passes(fixed_point, 0.5 * A, 0.1 * B, f_vjp=fixed_point_vjp)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"factor": 1.01}, {"turns": 0}])
def test_a_wrong_implicit_rule_of_a_fixed_point(options):
  """The second one is jaxopt's bug of old: the backward loop isn't run at all."""
  report = vjp(
    fixed_point, 3 * A, 0.1 * B, f_vjp=partial(fixed_point_vjp, **options), level="quick"
  )
  assert report.verdict == "fail", report.table()
  assert report.findings[0].index, report.table()


def newton(a, tolerance=1e-5):
  """The root of y³ + y = a, by iterations from 1."""

  def improve(y):
    return y - (y**3 + y - a) / (3 * y**2 + 1)

  def is_far(y):
    return jnp.abs(y**3 + y - a).max() > tolerance

  return jax.lax.while_loop(is_far, improve, jnp.ones_like(a))


def newton_vjp(a, factor=1.0, tolerance=1e-5):
  y = newton(a, tolerance)
  return y, lambda y_bar: (factor * y_bar / (3 * y**2 + 1),)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.01, 1.0003])
def test_a_wrong_rule_of_the_limit(factor):
  """An error that further iterations don't change isn't that of a tolerance."""
  passes(newton, B, f_vjp=newton_vjp)
  fails("a", newton, B, f_vjp=partial(newton_vjp, factor=factor))


@pytest.mark.slow
def test_a_loop_that_ends_far_from_its_limit():
  """One iteration is no root: autodiff of it isn't the rule of the limit, and neither is wrong."""
  early = partial(newton, tolerance=1.0)
  report = vjp(early, B, f_vjp=partial(newton_vjp, tolerance=1.0), level="quick")
  assert report.verdict == "no verdict", report.table()
  assert "ends too early here" in report.findings[0].message
  fails("a", early, B, f_vjp=partial(newton_vjp, tolerance=1.0, factor=3.0))


def least_squares(w, c, is_dual=False):
  """The minimum of ½ xᵀ(w wᵀ + I)x + cᵀx where x ≥ 0, by an interior point method."""
  q = w @ w.T + jnp.eye(4)

  def improve(state):
    x, z = state
    mu = 0.1 * jnp.mean(x * z)
    step = jnp.linalg.solve(q + jnp.diag(z / x), mu / x - q @ x - c)
    dual = mu / x - z - z / x * step
    share = jnp.minimum(1.0, 0.9 / jnp.maximum(jnp.max(-step / x), jnp.max(-dual / z)))
    return x + share * step, z + share * dual

  def is_far(state):
    return jnp.mean(state[0] * state[1]) > 1e-5

  x, z = jax.lax.while_loop(is_far, improve, (jnp.ones(4, c.dtype), jnp.ones(4, c.dtype)))
  return (x, z) if is_dual else x


def least_squares_vjp(w, c, factor=1.0, both=1.0):
  x, z = least_squares(w, c, is_dual=True)

  def pull(y_bar):
    q = w @ w.T + jnp.eye(4)
    c_bar = -jnp.linalg.solve(q + jnp.diag(z / x), y_bar)
    q_bar = jnp.outer(c_bar, x)
    return (q_bar + both * q_bar.T) @ w, factor * c_bar

  return x, pull


C = jnp.array([-1.0, 0.5, -2.0, -0.3])


@pytest.mark.slow
def test_a_quadratic_program_by_an_interior_point_method():
  passes(least_squares, A, C, f_vjp=least_squares_vjp)


@pytest.mark.slow
@pytest.mark.parametrize(("leaf", "options"), [("c", {"factor": 1.03}), ("w", {"both": 0.0})])
def test_a_wrong_rule_of_a_quadratic_program(leaf, options):
  fails(leaf, least_squares, A, C, f_vjp=partial(least_squares_vjp, **options))


# --- Loops that end by a count --------------------------------------------------------------------


def lanczos(a, v, again=False):
  """The diagonal and the off-diagonal of a + aᵀ in the Krylov space of v, of dimension 3."""
  a = a + a.T
  q = v / jnp.sqrt(v @ v)

  def step(carry, _):
    q, before, beta = carry
    w = a @ q - beta * before
    alpha = q @ w
    w = w - alpha * q
    if again:  # The same up to rounding.
      w = w - (q @ w) * q
    beta = jnp.sqrt(w @ w)
    return (w / beta, q, beta), jnp.stack([alpha, beta])

  return jax.lax.scan(step, (q, jnp.zeros_like(q), jnp.zeros((), q.dtype)), None, length=3)[1]


def lanczos_vjp(a, v, factor=1.0):
  y, pull = jax.vjp(partial(lanczos, again=True), a, v)

  def pullback(y_bar):
    a_bar, v_bar = pull(y_bar)
    return a_bar, factor * v_bar

  return y, pullback


LARGER = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)), jnp.float32)


@pytest.mark.slow
def test_lanczos():
  passes(lanczos, LARGER, jnp.arange(1.0, 7.0), f_vjp=lanczos_vjp)


@pytest.mark.slow
def test_a_wrong_lanczos_has_no_tolerance():
  """It ends by a count, so that an error of a ten-thousandth is one."""
  fails("v", lanczos, LARGER, jnp.arange(1.0, 7.0), f_vjp=partial(lanczos_vjp, factor=1.0001))


@pytest.mark.slow
def test_a_count_of_floats_is_exact():
  """A continued fraction that asks whether its float count is odd."""
  passes(partial(jax.scipy.special.expn, 2), jnp.array([0.5, 1.5, 3.0]))


# --- Which loops end by a tolerance ---------------------------------------------------------------


def counted(x):
  return jax.lax.fori_loop(0, 3, lambda _, v: 0.5 * v, x)


def flagged(x):
  """The condition reads a boolean that the body computes from floats."""

  def body(state):
    v, _, turn = state
    return 0.5 * v, jnp.abs(v).max() > 1e-3, turn + 1

  return jax.lax.while_loop(lambda s: s[1] & (s[2] < 50), body, (x, jnp.array(True), 0))[0]


def inside(x):
  return jax.lax.map(flagged, x[:, None])


@pytest.mark.parametrize(("f", "want"), [(counted, False), (flagged, True), (inside, True)])
def test_which_loops_end_by_a_tolerance(f, want):
  assert jaxprs.ends_by_tolerance(jax.make_jaxpr(f)(B)) == want


def test_a_solver_inside_of_a_primitive():
  def f(a, b):
    return cg(lambda v: a @ v, b)[0]

  assert jaxprs.ends_by_tolerance(jax.make_jaxpr(f)(4 * jnp.eye(4), B))


# --- An adaptive solver, whose adjoint is another one ---------------------------------------------


def decay(y, a):
  return odeint(lambda y, t, a: -a * y * (1 + t), y, jnp.linspace(0.0, 1.0, 3), a)


def decay_with(factor):
  """The solution with its own adjoint, the cotangent of the rate being multiplied by a factor."""

  def rule(y, a):
    out, pull = jax.vjp(decay, y, a)

    def pullback(out_bar):
      y_bar, a_bar = pull(out_bar)
      return y_bar, factor * a_bar

    return out, pullback

  return rule


@pytest.mark.slow
def test_an_adaptive_solver():
  passes(decay, jnp.array([1.0, 2.0]), jnp.float32(0.5), f_vjp=decay_with(1.0))


@pytest.mark.slow
def test_a_wrong_adaptive_solver():
  report = vjp(
    decay, jnp.array([1.0, 2.0]), jnp.float32(0.5), f_vjp=decay_with(1.01), level="quick"
  )
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf == "a"
