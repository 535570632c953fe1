"""What the three witnesses say together: oracle faults, kinks, semantics, and no verdict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp

Z = jnp.array([0.0, 0.0, -1.5, 0.5, 2.0])
T = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0])


def entropy(z, t):
  return jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z)))


def entropy_vjp(shift, z, t):
  return entropy(z, t), lambda y_bar: (y_bar * (jax.nn.sigmoid(z) - t + shift), -y_bar * z)


@pytest.mark.slow
def test_the_right_rule_where_autodiff_is_wrong_is_an_oracle_fault():
  report = vjp(entropy, jnp.zeros(1), jnp.ones(1), f_vjp=functools.partial(entropy_vjp, 0))
  assert report.verdict == "oracle fault", report.table()
  assert not report.ok
  found = report.findings[0]
  assert (found.kind, found.leaf, found.index) == ("oracle fault", "z", (0,))
  ratio = found.got / found.want  # −1/2 of autodiff's −1.
  assert ratio == pytest.approx(0.5)


def test_a_wrong_rule_is_wrong_there_too():
  rule = functools.partial(entropy_vjp, 0.25)
  assert vjp(entropy, jnp.zeros(1), jnp.ones(1), f_vjp=rule).verdict == "fail"
  assert vjp(entropy, Z, T, f_vjp=rule).verdict == "fail"


def relu_vjp(at_zero, z):
  def pull(y_bar):
    return (y_bar * jnp.where(z > 0, 1.0, jnp.where(z == 0, at_zero, 0.0)).astype(z.dtype),)

  return jax.nn.relu(z), pull


@pytest.mark.slow
@pytest.mark.parametrize(
  ("at_zero", "ties", "verdict"),
  [
    (0.0, "any", "pass"),
    (0.5, "any", "pass"),
    (1.0, "any", "pass"),
    (2.0, "any", "fail"),
    (-0.5, "any", "fail"),
    (0.0, "reference", "pass"),
    (0.5, "reference", "fail"),
    (1.0, "reference", "fail"),
    (2.0, "reference", "fail"),
  ],
)
def test_a_slope_at_a_kink_is_a_policy(at_zero, ties, verdict):
  def relu(z):
    return jax.nn.relu(z)

  report = vjp(relu, Z, f_vjp=functools.partial(relu_vjp, at_zero), ties=ties)
  assert report.verdict == verdict, report.table()


def maximum_vjp(share_a, share_b, a, b):
  def pull(y_bar):
    return (
      y_bar * jnp.where(a > b, 1.0, jnp.where(a == b, share_a, 0.0)).astype(a.dtype),
      y_bar * jnp.where(b > a, 1.0, jnp.where(a == b, share_b, 0.0)).astype(a.dtype),
    )

  return jnp.maximum(a, b), pull


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shares", "verdict"),
  [((0.5, 0.5), "pass"), ((1.0, 0.0), "pass"), ((1.0, 1.0), "fail"), ((0.0, 0.0), "fail")],
)
def test_the_slopes_of_a_tied_maximum_have_to_sum_to_one(shares, verdict):
  def maximum(a, b):
    return jnp.maximum(a, b)

  a, b = jnp.array([1.0, 2.0, -1.0]), jnp.array([1.0, 0.5, 3.0])
  report = vjp(maximum, a, b, f_vjp=functools.partial(maximum_vjp, *shares))
  assert report.verdict == verdict, report.table()


# --- Semantics ------------------------------------------------------------------------------------


def rounded(x):
  return x + jax.lax.stop_gradient(jnp.sin(x) - x)


def rounded_vjp(x):
  return rounded(x), lambda y_bar: (y_bar,)


def test_a_stop_gradient_that_changes_the_slope_must_be_declared():
  x = jnp.array([0.3, -1.2, 2.5])
  report = vjp(rounded, x, f_vjp=rounded_vjp)
  assert report.verdict == "fail"
  assert report.findings[0].check == "differences"
  assert "surrogate=True" in report.findings[0].message
  assert vjp(rounded, x, f_vjp=rounded_vjp, surrogate=True).ok


def test_a_function_without_a_rule_is_told_so():
  def cube(x):
    return x**3

  report = vjp(cube, Z)
  assert report.ok
  assert [(f.kind, f.check) for f in report.findings] == [("note", "rule")]


# --- No verdict, and numbers that aren't finite ---------------------------------------------------


def square(x):
  return x * x


def through_numpy(dtype, factor, x):
  """A rule that leaves JAX, and computes in one dtype whatever it is given."""

  def pull(y_bar):
    def product(x, y_bar):
      return (factor * 2 * x.astype(dtype) * y_bar.astype(dtype)).astype(dtype)

    shape = jax.ShapeDtypeStruct(x.shape, dtype)
    bar = jax.pure_callback(product, shape, x, y_bar, vmap_method="expand_dims")
    return (bar.astype(x.dtype),)

  return square(x), pull


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-5])
def test_a_vacuous_bound_is_no_pass(factor):
  rule = functools.partial(through_numpy, np.dtype("float16"), np.float16(factor))
  report = vjp(square, Z, f_vjp=rule)
  assert report.verdict in ("no verdict", "fail"), report.table()
  assert any("pure_callback" in text for text in [report.table(), *report.not_checked])


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.0001, "fail")])
def test_a_bound_as_wide_as_float32_is_said_to_be_so(factor, verdict):
  rule = functools.partial(through_numpy, np.dtype("float32"), np.float32(factor))
  report = vjp(square, Z, f_vjp=rule)
  assert report.verdict == verdict, report.table()
  assert any("pure_callback: evaluated in its own dtype" in r for r in report.not_checked)


def test_a_nan_where_the_truth_is_finite_is_wrong():
  def rule(x):
    return square(x), lambda y_bar: (y_bar * 2 * x * x / x,)  # 0/0 at zero.

  report = vjp(square, Z, f_vjp=rule)
  assert report.verdict == "fail"
  assert report.findings[0].cause.startswith("not finite")


def test_a_nan_at_zero_is_found_from_elsewhere():
  def rule(x):
    return square(x), lambda y_bar: (y_bar * 2 * x * x / x,)

  report = vjp(square, Z[2:], f_vjp=rule)
  assert report.verdict == "fail"
  assert report.findings[0].regime != "as given"


def test_a_reference_that_is_nan_itself_says_nothing_against_a_rule():
  def root(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0 * x)

  def root_vjp(x):
    safe = jnp.where(x > 0, x, jnp.ones_like(x))

    def pull(y_bar):
      return (jnp.where(x > 0, y_bar * 0.5 / jnp.sqrt(safe), jnp.zeros_like(y_bar)),)

    return root(x), pull

  # Autodiff gives 0 · ∞ where x isn't positive.
  elsewhere = vjp(root, jnp.array([1.0, 0.25, 4.0]), f_vjp=root_vjp)
  assert elsewhere.verdict == "pass", elsewhere.table()
  report = vjp(root, jnp.array([1.0, -0.25, 4.0]), f_vjp=root_vjp)
  assert report.verdict == "oracle fault", report.table()

  def wrong(x):
    y, pull = root_vjp(x)
    return y, lambda y_bar: (jnp.where(x > 0, pull(y_bar)[0], 1e-3 * y_bar),)

  assert vjp(root, jnp.array([1.0, -0.25, 4.0]), f_vjp=wrong).verdict == "fail"


# --- A zero cotangent where the derivative leaves the range ---------------------------------------


def outer_slope(scale):
  """f(a, b) = a · b of numbers whose product f keeps small, and whose slope by a may be too large.

  The rule makes the slope first and multiplies it by the cotangent: right, and 0 · ∞ at zero where
  the slope is beyond float16.
  """

  def f(a, b):
    return (a * b * jnp.asarray(scale, a.dtype)).sum()

  def f_vjp(a, b):
    slopes = b * jnp.asarray(scale, a.dtype), a * jnp.asarray(scale, a.dtype)
    return f(a, b), lambda bar: tuple(slope * bar for slope in slopes)

  return f, f_vjp


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["in range", "out of range"])
def test_zero_times_a_slope_beyond_the_range_is_no_fault(scale):  # Of float16: 65,504.
  f, f_vjp = outer_slope(scale)
  a, b = jnp.asarray([0.001, 2.0], jnp.float16), jnp.asarray([1000.0, 0.5], jnp.float16)
  report = vjp(f, a, b, f_vjp=f_vjp, level="quick")
  assert not [finding for finding in report.findings if finding.check == "zero cotangent"]
  assert report.verdict != "fail"


@pytest.mark.parametrize("bad", [jnp.nan, 1.0])
def test_what_is_wrong_at_a_zero_cotangent_alone_is_a_fault(bad):
  def f_vjp(x):
    def pull(bar):
      return (jnp.where(bar == 0, jnp.asarray(bad, x.dtype), jnp.cos(x) * bar),)

    return jnp.sin(x), pull

  report = vjp(jnp.sin, jnp.asarray([0.5, 2.0], jnp.float32), f_vjp=f_vjp, level="quick")
  assert report.verdict == "fail"
  assert "zero cotangent" in {finding.check for finding in report.findings}
