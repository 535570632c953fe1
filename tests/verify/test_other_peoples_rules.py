"""Rules as other people write them, right ones beside wrong ones: what the bank has no row for.

Forms of rules within rules, calls of `jvp`, points at which f is not smooth, and structures that
the arguments have by chance. Each case is a function of no arguments that returns f, its arguments
and options; its decorator states the verdict and the leaf that is named first.
"""

import enum
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import jvp, vjp
from fbackprop.verify.bank.specimen import draw, example

CASES = []
# Drawn once: a float32 array of each shape that the cases take.
X, MATRIX, ROWS = draw((5,), (3, 3), (4, 3))
POSITIVE = jnp.abs(X) + 0.5


def case(verdict, leaf=None, verify=vjp, level="quick"):
  """Add a case to the table."""

  def declare(make):
    name, marks = make.__name__, [pytest.mark.slow] if level == "standard" else []
    own = f"{name}-{verify.__name__}-{level}"
    CASES.append(pytest.param(make, verify, level, verdict, leaf, id=own, marks=marks))
    return make

  return declare


@pytest.mark.parametrize(("make", "verify", "level", "verdict", "leaf"), CASES)
def test_the_verdict_and_the_leaf(make, verify, level, verdict, leaf):
  f, args, *options = make()
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    report = verify(f, *args, level=level, **dict(*options))
  assert report.verdict == verdict, report.table()
  if leaf is not None:
    assert report.findings[0].leaf == leaf, report.table()


def carrying(f, rule, **options):
  """The function with a rule that keeps all arguments."""
  return example(f, rule, **options).f


def with_tangents(f, rule):
  return example(f, rule, custom_jvp=True).f


# --- Rules of JAX that aren't a custom_vjp --------------------------------------------------------


def cube_by_gradient(factor):
  @jax.custom_gradient
  def cube(x):
    return x**3, lambda y_bar: y_bar * factor * x**2

  return cube, (X,)


@case("pass")
def custom_gradient():
  return cube_by_gradient(3)


@case("fail")
def custom_gradient_of_another_function():
  return cube_by_gradient(2)


def cube_root_by_solver(factor):
  def newton(f, x):
    def step(_, x):
      return x - f(x) / jax.grad(lambda z: f(z).sum())(x)

    return jax.lax.fori_loop(0, 30, step, x)

  def tangent_solve(g, y):
    return factor * y / g(jnp.ones_like(y))

  def cube_root(a):
    return jax.lax.custom_root(lambda x: x**3 - a, jnp.ones_like(a), newton, tangent_solve)

  return cube_root, (POSITIVE,)


@case("pass")
def custom_root():
  return cube_root_by_solver(1)


@case("fail", "a")
def custom_root_doubled():
  return cube_root_by_solver(2)


def of_library_function(slope):
  sinh = jax.custom_jvp(jnp.sinh)
  sinh.defjvps(lambda x_dot, y, x: x_dot * slope(x, y))
  return sinh, (X,)


@case("pass")
def a_rule_of_a_library_function():
  return of_library_function(lambda x, y: jnp.cosh(x))


@case("fail", "x")
def a_wrong_rule_of_a_library_function():
  return of_library_function(lambda x, y: y)


def over_a_wrong_tangent(factor):
  """A VJP rule that doesn't use the wrong JVP rule within its function."""
  exp = with_tangents(jnp.exp, lambda x, x_dot: 2 * jnp.exp(x) * x_dot)

  def rule(x, y_bar):
    return (y_bar * (jnp.exp(x) * x + factor * jnp.exp(x)),)

  return carrying(lambda x: exp(x) * x, rule), (X,)


@case("pass")
def a_right_rule_over_a_wrong_one():
  return over_a_wrong_tangent(1)


@case("fail", "x")
def a_wrong_rule_over_a_wrong_one():
  return over_a_wrong_tangent(2)


# --- `jvp` ----------------------------------------------------------------------------------------


def sine_with_slope(slope):
  return with_tangents(lambda x: jnp.sin(x), lambda x, x_dot: slope(x) * x_dot), (X,)


@case("pass", verify=jvp)
def jvp_of_a_custom_jvp():
  return sine_with_slope(jnp.cos)


@case("fail", "x", verify=jvp)
def jvp_of_a_wrong_custom_jvp():
  return sine_with_slope(lambda x: 1.01 * jnp.cos(x))


@case("pass", verify=jvp)
def jvp_of_a_custom_vjp():
  return carrying(lambda x: jnp.sin(x), lambda x, y_bar: (y_bar * jnp.cos(x),)), (X,)


@case("fail", "x", verify=jvp)
def jvp_of_a_wrong_custom_vjp():
  return carrying(lambda x: jnp.sin(x), lambda x, y_bar: (2 * y_bar * jnp.cos(x),)), (X,)


@case("pass", verify=jvp)
def jvp_of_a_function_without_rules():
  return lambda x: x**3, (X,)


@case("pass", verify=jvp)
def jvp_of_a_dictionary():
  def f(p):
    return p["a"] * jnp.exp(p["b"])

  def rule(p, p_dot):
    return jnp.exp(p["b"]) * (p_dot["a"] + p["a"] * p_dot["b"])

  return with_tangents(f, rule), ({"a": X, "b": POSITIVE},)


@case("pass", verify=jvp)
def jvp_with_another_slope_at_a_kink():
  """Autodiff of the maximum has one half."""

  def f_jvp(primals, tangents):
    return jnp.maximum(*primals, 0), tangents[0] * (primals[0] > 0)

  return lambda x: jnp.maximum(x, 0), (X.at[0].set(0),), {"f_jvp": f_jvp}


@case("fail", "x", verify=jvp)
def jvp_with_no_slope_at_a_kink():
  def f_jvp(primals, tangents):
    return jnp.maximum(*primals, 0), tangents[0] * jnp.heaviside(primals[0], 1.5)

  return lambda x: jnp.maximum(x, 0), (X.at[0].set(0),), {"f_jvp": f_jvp}


@case("pass", verify=jvp)
@case("pass", verify=jvp, level="standard")
def jvp_in_bfloat16_inside():
  """Each sum of tangents is rounded, so that no rule is linear to the last bit."""

  def product(x, w):
    return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(x.dtype)

  def f_jvp(primals, tangents):
    (x, w), (x_dot, w_dot) = primals, tangents
    return product(x, w), product(x_dot, w) + product(x, w_dot)

  return product, (ROWS, MATRIX), {"f_jvp": f_jvp}


# --- Static arguments -----------------------------------------------------------------------------


class Mode(enum.Enum):
  SUM = 1


@case("pass")
def a_rule_that_takes_an_enumeration():
  def f(x, mode, axis):
    return jnp.sin(x).sum(axis)

  def rule(x, mode, axis):
    return f(x, mode, axis), lambda y_bar: (jnp.cos(x) * jnp.expand_dims(y_bar, axis), None, None)

  return f, (ROWS, Mode.SUM, 1), {"f_vjp": rule}


@case("pass")
def a_static_argument_of_a_jit():
  @partial(jax.jit, static_argnames="p")
  def power(x, p):
    return carrying(lambda x: x**p, lambda x, y_bar: (y_bar * p * x ** (p - 1),))(x)

  return power, (POSITIVE, 3.0)


def carrying_static(f, rule):
  carried = jax.custom_vjp(f, nondiff_argnums=(1,))
  carried.defvjp(lambda x, s: (f(x, s), x), lambda s, x, y_bar: (rule(s, x, y_bar),))
  return carried


@pytest.mark.parametrize(("factor", "verdict"), [(1, "pass"), (2, "fail")])
def test_a_number_that_is_static_deeper_inside(factor, verdict):
  def rule(delta, x, y_bar):
    return factor * y_bar * (jnp.abs(x) < delta).astype(x.dtype)

  clip = carrying_static(lambda x, delta: jnp.clip(x, -delta, delta), rule)
  report = vjp(lambda x, delta: clip(2 * x, delta).sum(), X, 0.7, level="quick")
  assert report.verdict == verdict, report.table()
  assert "the derivative by delta: f takes no traced value there" in report.not_checked


@case("pass", verify=jvp)
@case("pass")
def positional_arguments_beside_a_static_one():
  """`*args` have no names that Python would accept for parameters."""
  return lambda *args: args[0](args[1]), (jnp.sin, X)


@case("pass")
def an_inverse_permutation_beside_a_square_matrix():
  """The permutation alone could have fewer entries, but then it would be none."""

  def rule(x, w, order, y_bar):
    rows_bar = y_bar @ w.T
    return rows_bar[jnp.argsort(order)], x[order].T @ y_bar, None

  return carrying(lambda x, w, order: x[order] @ w, rule), (MATRIX, MATRIX, jnp.array([1, 2, 0]))


# --- Points at which f isn't smooth ---------------------------------------------------------------


def norm(x):
  return jnp.sqrt((x * x).sum(-1))


def norm_at_zero(divisor):
  def rule(x, y_bar):
    return (y_bar[:, None] * x / divisor(norm(x))[:, None],)

  return carrying(norm, rule), (ROWS.at[1].set(0),)


@case("pass")
def a_norm_with_slope_zero_at_zero():
  return norm_at_zero(lambda y: jnp.where(y == 0, 1, y))


@case("fail")
def a_norm_that_is_nan_at_zero():
  return norm_at_zero(lambda y: y)


@case("pass")
def a_root_whose_slope_is_infinite_at_zero():
  rule = carrying(jnp.sqrt, lambda x, y_bar: (y_bar * 0.5 / jnp.sqrt(x),))
  return rule, (POSITIVE.at[0].set(0),)


@case("fail", "x")
def rule_and_autodiff_are_both_nan():
  def f(x):
    return jnp.where(x == 0, 0.0, x**3 * jnp.log(x * x))

  rule = carrying(f, lambda x, y_bar: (y_bar * (3 * x * x * jnp.log(x * x) + 2 * x * x),))
  return rule, (X.at[0].set(0),)


# --- Declared slopes ------------------------------------------------------------------------------


@case("pass")
def a_straight_through_idiom_that_is_declared():
  def f(x):
    return x + jax.lax.stop_gradient(jnp.round(x) - x)

  return f, (3 * X,), {"slope": lambda x: x}


@case("fail", "x")
def a_stop_gradient_that_is_not_declared():
  return lambda x: x**2 * jax.lax.stop_gradient(x), (X,)


def on_the_host(x):
  out = jax.ShapeDtypeStruct(x.shape, x.dtype)
  return jax.pure_callback(np.sinh, out, x, vmap_method="broadcast_all")


@case("fail", "x")
def a_wrong_rule_of_a_callback_that_is_called_a_surrogate():
  rule = carrying(on_the_host, lambda x, y_bar: (3 * y_bar * jnp.cosh(x),))
  return rule, (X,), {"surrogate": True}


@case("pass")
def a_cast_to_bfloat16_and_back():
  return lambda x: 2 * x.astype(jnp.bfloat16).astype(x.dtype), (X,)


# --- Structures that the arguments have by chance -------------------------------------------------


@case("fail", "p", level="standard")
def probabilities_taken_as_normalised():
  def mean(p, x):
    return (p * x).sum(-1) / p.sum(-1)

  def rule(p, x, y_bar):
    return y_bar[:, None] * (x - mean(p, x)[:, None]), y_bar[:, None] * p

  return carrying(mean, rule), (jax.nn.softmax(ROWS), draw((4, 3), seed=1)[0])


@case("fail", "logits", level="standard")
def targets_taken_as_one_hot():
  def loss(logits, targets):
    return -(targets * jax.nn.log_softmax(logits)).sum(-1)

  def rule(logits, targets, y_bar):
    bar = y_bar[:, None]
    return bar * (jax.nn.softmax(logits) - targets), -bar * jax.nn.log_softmax(logits)

  return carrying(loss, rule), (ROWS, jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3))


@case("fail", "x", level="standard")
def numbers_taken_as_positive():
  return carrying(lambda x: jnp.abs(x), lambda x, y_bar: (y_bar,)), (POSITIVE,)


# --- Rounding -------------------------------------------------------------------------------------


@case("pass")
def an_entry_that_nearly_cancels():
  x = jnp.array([[1e3, -1e3, 1.0], [1.0, 2.0, 3.0]])
  w = jnp.array([[1.0, 1], [1.0000001, 1], [1e-4, 2]])
  return carrying(lambda x, w: x @ w, lambda x, w, y_bar: (y_bar @ w.T, x.T @ y_bar)), (x, w)


def in_float16(function, slope):
  """A function of float16, and its rule."""

  def f(x):
    return function(x.astype(jnp.float16)).astype(x.dtype)

  def rule(x, y_bar):
    return ((y_bar.astype(jnp.float16) * slope(x.astype(jnp.float16))).astype(x.dtype),)

  return carrying(f, rule), (X,)


@case("pass")
def cotangents_that_underflow_in_float16_where_they_are_scaled():
  return in_float16(lambda x: x * 0.01, lambda x: jnp.full_like(x, 0.01))


@case("pass")
def a_result_that_underflows_in_float16():
  """Autodiff of the function has no more digits there than the rule has."""
  return in_float16(lambda x: x * 3e-7, lambda x: jnp.full_like(x, 3e-7))


@case("fail", "x")
def a_wrong_slope_that_underflows_in_float16():
  return in_float16(lambda x: x * 3e-7, lambda x: jnp.full_like(x, 3.3e-7))


def underflows_beside(x, w):
  """Only w is rounded to float16."""
  return x * 2.0**-22 + w.astype(jnp.float16).astype(w.dtype)


@case("fail", "x")
def a_rule_that_underflows_where_autodiff_does_not():
  def rule(x, w, y_bar):
    narrow = y_bar.astype(jnp.float16)
    return (narrow * jnp.float16(2.0**-22)).astype(x.dtype), narrow.astype(w.dtype)

  return carrying(underflows_beside, rule), (X, X)


@case("pass")
def a_phase_that_float16_rounds_away():
  """Differences of the function without its rounding have no part in that of the rule."""
  return in_float16(lambda x: jnp.sin(300 * x), lambda x: 300 * jnp.cos(300 * x))


@case("fail", "w")
def a_product_in_bfloat16_of_a_function_in_float32():
  def rule(x, w, y_bar):
    w_bar = jnp.dot(x.T, y_bar, preferred_element_type=jnp.bfloat16)
    return y_bar @ w.T, w_bar.astype(w.dtype)

  return carrying(lambda x, w: x @ w, rule), (ROWS, MATRIX)


def in_numpy(function, slope):
  def rule(x):
    x = np.asarray(x)
    return function(np, x), lambda y_bar: (np.asarray(y_bar) * slope(x),)

  return partial(function, jnp), (100 * X,), {"f_vjp": rule}


@case("pass")
def a_cancellation_in_numpy():
  """1 + tanh has few digits where x is negative; the rule's operations can't be perturbed."""
  return in_numpy(lambda xp, x: xp.logaddexp(x / 9, 0 * x), lambda x: (1 + np.tanh(x / 18)) / 18)


@case("pass")
def a_phase_that_float32_rounds_in_numpy():
  return in_numpy(lambda xp, x: xp.sin(50 * x), lambda x: 50 * np.cos(50 * x))


@case("pass", level="standard")
def a_function_that_rounds_beyond_its_slope():
  """The slope of sinc beside zero is lost in float32, in JAX's own rule too: no fault of a rule's.

  Its mathematics is verified in float64, and the report says that its rounding isn't.
  """
  sinc = carrying(lambda x: jnp.sinc(x), lambda x, y_bar: jax.vjp(jnp.sinc, x)[1](y_bar))
  return sinc, (jnp.array([1e-5, 2e-5, 3e-5]),)


@case("pass", level="standard")
def an_optimization_barrier_of_two_arrays():
  def product(x, y):
    x, y = jax.lax.optimization_barrier((x, y))
    return x * y

  return carrying(product, lambda x, y, y_bar: (y_bar * y, y_bar * x)), (X, POSITIVE)
