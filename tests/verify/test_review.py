"""Rules that once passed, right rules that once failed, and input that nobody can use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify import UnusableError

Z = jnp.array([[0.3, -1.2, 0.7], [1.5, 0.2, -0.4]])


@pytest.mark.slow
def test_second_order_of_a_function_with_a_maximum_that_is_not_tied():
  def stopped(z):
    p = jax.lax.stop_gradient(jax.nn.softmax(z, -1))
    return jax.nn.logsumexp(z, -1), lambda y_bar: (y_bar[:, None] * p,)

  report = fb.verify.vjp(lambda z: jax.nn.logsumexp(z, -1), Z, f_vjp=stopped)
  assert (report.verdict, report.findings[0].check) == ("fail", "second order")


@pytest.mark.slow
def test_second_order_of_a_rule_of_symmetric_matrices():
  def log_determinant(a):
    return 2 * jnp.log(jnp.diagonal(jnp.linalg.cholesky(a))).sum()

  def rule(a):
    return log_determinant(a), lambda y_bar: (y_bar * jnp.linalg.inv(a),)

  a = Z.T @ Z + jnp.eye(3)
  report = fb.verify.vjp(log_determinant, (a + a.T) / 2, f_vjp=rule)
  assert report.ok, report.table()
  assert "a but for symmetric matrices" in report.not_checked


@pytest.mark.parametrize("seed", range(4))
def test_the_size_of_a_scalar_cotangent_is_not_the_cotangent(seed):
  def rule(z):
    return jnp.sin(z).sum(), lambda y_bar: (jnp.sqrt(y_bar * y_bar) * jnp.cos(z),)

  report = fb.verify.vjp(lambda z: jnp.sin(z).sum(), Z, f_vjp=rule, level="quick", seed=seed)
  assert report.verdict == "fail"


def test_weights_that_are_all_alike_are_redrawn():
  def rule(x, w):
    return x @ w, lambda y_bar: (y_bar @ w, x.T @ y_bar)  # w, where wᵀ is meant.

  report = fb.verify.vjp(jnp.matmul, Z, jnp.ones((3, 3)), f_vjp=rule, level="quick")
  assert (report.verdict, report.findings[0].check) == ("fail", "maths")


def test_what_every_regime_keeps_is_told():
  def f(x, labels):
    return x * x * jnp.where(labels >= 0, 1.0, 2.0)

  def rule(x, labels):
    return f(x, labels), lambda y_bar: (2 * x * y_bar * jnp.where(labels >= 0, 1.0, 2.0), None)

  report = fb.verify.vjp(f, jnp.array([0.5, 1.5, 2.5]), jnp.array([0, 1, 1]), f_vjp=rule)
  assert report.ok
  assert "labels but for sorted integers" in report.not_checked
  assert "x with other signs" in report.regimes
  assert "some integers -1" in report.regimes


def test_a_rule_that_could_not_be_run_has_verified_nothing():
  report = fb.verify.vjp(jnp.sin, Z, f_vjp=lambda x: (jnp.sin(x), lambda y_bar: (None,)))
  assert report.verdict == "fail"
  assert report.verified == ()


def test_python_numbers_among_the_outputs():
  def f(x):
    return {"y": jnp.sin(x), "count": len(x)}

  def rule(x):
    return f(x), lambda y_bar: (y_bar["y"] * jnp.cos(x),)

  assert fb.verify.vjp(f, Z, f_vjp=rule, level="quick").ok


@pytest.mark.parametrize("y", ["text", object()])
def test_an_output_that_is_no_array_is_a_failure(y):
  report = fb.verify.vjp(jnp.sin, Z, f_vjp=lambda x: (y, lambda y_bar: (y_bar,)), level="quick")
  assert (report.verdict, report.findings[0].check) == ("fail", "structure")


@pytest.mark.parametrize(
  "argument",
  [
    np.array([object()], object),
    np.array(["a"]),
    np.array(["2020-01-01"], "datetime64[D]"),
    np.ma.array([1.0, 2.0], mask=[0, 1]),
    2**80,
    np.array([1 + 1j]),
    1j,
  ],
  ids=["objects", "strings", "dates", "masked", "large", "complex", "complex number"],
)
def test_arguments_that_cannot_be_used(argument):
  with pytest.raises(UnusableError):
    fb.verify.vjp(lambda x, other: x, Z, argument, level="quick")


def test_deleted_traced_and_complex_values_cannot_be_used():
  deleted = Z + 1
  deleted.delete()
  with pytest.raises(UnusableError, match="deleted"):
    fb.verify.vjp(jnp.sin, deleted, level="quick")
  with pytest.raises(UnusableError, match="outside of jit"):
    jax.jit(lambda x: fb.verify.vjp(jnp.sin, x, level="quick").ok)(Z)
  with pytest.raises(UnusableError, match="complex"):
    fb.verify.vjp(lambda x: (x, x * 1j), Z, level="quick")


@pytest.mark.slow
def test_complex_numbers_inside_of_a_function():
  def power(x):
    z = jnp.fft.fft(x)
    return jnp.real(z * jnp.conj(z))

  def rule(x):
    z = jnp.fft.fft(x)
    return power(x), lambda y_bar: (2 * jnp.real(jnp.fft.fft(y_bar.astype(z.dtype) * jnp.conj(z))),)

  report = fb.verify.vjp(power, Z[0], f_vjp=rule)
  assert report.ok, report.table()
  assert not any("own dtype" in reason for reason in report.not_checked)


@pytest.mark.parametrize("factor", [1.0, 1.015625])
def test_a_rule_of_bfloat16_alone_has_no_verdict_where_its_constants_are_unknown(factor):
  third = jnp.asarray(1 / 3, jnp.bfloat16)

  def f(x):
    return x * third

  def rule(x):
    assert x.dtype == jnp.bfloat16
    return f(x), lambda y_bar: (y_bar * third * jnp.asarray(factor, x.dtype),)

  report = fb.verify.vjp(f, Z.astype(jnp.bfloat16), f_vjp=rule, surrogate=True, level="quick")
  assert report.verdict in ("no verdict", "fail"), report.table()


@pytest.mark.slow
def test_an_implicit_rule_of_a_loop_with_a_tolerance_is_not_complained_of():
  """Autodiff differentiates the turns that were made; the rule is that of the limit."""

  def root(a):
    def improve(y):
      return 0.5 * (y + a / y)

    return jax.lax.while_loop(lambda y: jnp.any(jnp.abs(y * y - a) > 1e-6 * a), improve, a)

  def root_vjp(a):
    y = root(a)
    return y, lambda y_bar: (y_bar / (2 * y),)

  def wrong_vjp(a):
    y = root(a)
    return y, lambda y_bar: (y_bar / y,)

  a = jnp.array([2.0, 3.0, 5.0])
  kinds = [
    {f.kind for f in fb.verify.vjp(root, a, f_vjp=rule, level="quick").findings}
    for rule in (root_vjp, wrong_vjp)
  ]
  assert "fail" not in kinds[0]
  assert "fail" in kinds[1]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "verdict"), [(jnp.float32, "fail"), (jnp.bfloat16, "pass")])
def test_a_narrow_product_is_excused_only_where_the_function_computes_in_it(dtype, verdict):
  x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(5, 4), (4, 3)]))

  def product(a, b, dtype):
    return jnp.dot(a.astype(dtype), b.astype(dtype)).astype(jnp.float32)

  def f(x, w):
    return product(x, w, dtype)

  def rule(x, w):
    y, pull = jax.vjp(f, x, w)

    def pullback(y_bar):
      x_bar, w_bar = pull(y_bar)
      narrow = jnp.dot(x.T, y_bar, preferred_element_type=jnp.bfloat16)
      return x_bar, narrow.astype(jnp.float32) if dtype == jnp.float32 else w_bar

    return y, pullback

  report = fb.verify.vjp(f, x, w, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()
