"""NaN where the function is finite and has differences is wrong, though autodiff is NaN as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.witnesses.arrays import rounded_to_half

RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 4, 3)))


def norm(x):
  return jnp.sqrt((x * x).sum(-1))


def norm_bar(x, y_bar, is_guarded):
  n = norm(x)[..., None]
  return y_bar[..., None] * x / (jnp.where(n == 0, 1.0, n) if is_guarded else n)


def distance(x, y):
  return norm(x - y)


def ratio(x):
  return jnp.where(x == 0, 1.0, jnp.sin(x) / jnp.where(x == 0, 1.0, x))


def ratio_bar(x, y_bar):
  return y_bar * (jnp.cos(x) * x - jnp.sin(x)) / x**2


def rule_of(f, backward):
  copy = jax.custom_vjp(f)
  copy.defvjp(lambda *args: (f(*args), args), lambda args, y_bar: backward(*args, y_bar))
  return copy


def of_norm(is_guarded):
  return rule_of(norm, lambda x, g: (norm_bar(x, g, is_guarded),))


def of_distance(is_guarded):
  def backward(x, y, g):
    bar = norm_bar(x - y, g, is_guarded)
    return bar, -bar

  return rule_of(distance, backward)


@pytest.mark.parametrize(
  ("f", "args", "where", "leaf"),
  [
    (of_norm(False), (X.at[1].set(0),), "as given", "x"),
    (of_norm(False), (X,), "a row of zeros", "x"),
    (of_distance(False), (X, Y), "equal arguments", "x, y"),
    (rule_of(ratio, lambda x, g: (ratio_bar(x, g),)), (X.at[1, 2].set(0),), "as given", "x"),
    (rule_of(ratio, lambda x, g: (ratio_bar(x, g),)), (X,), "some entries zero", "x"),
  ],
)
def test_no_number_where_differences_have_one(f, args, where, leaf):
  report = vjp(f, *args)
  assert report.verdict == "fail", report.table()
  first = report.findings[0]
  assert first.leaf in leaf.split(", ")
  assert first.index is not None
  assert first.cause.startswith("not finite")
  assert where == "as given" or first.regime != "as given"


@pytest.mark.slow
@pytest.mark.parametrize(("f", "args"), [(of_norm(True), (X,)), (of_distance(True), (X, Y))])
def test_the_guarded_rule_passes(f, args):
  assert vjp(f, *args).ok
  assert vjp(f, *(x.at[1].set(0) for x in args)).ok


@pytest.mark.slow
def test_an_infinite_slope_is_no_number_either():
  f = rule_of(jnp.sqrt, lambda x, g: (g * 0.5 / jnp.sqrt(x),))
  assert vjp(f, jnp.array([0.0, 1.0, 2.0])).ok


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_masked_logits_pass_without_a_warning():
  """An entry of minus infinity stays, at points whose other entries are rounded or searched."""
  rule = rule_of(
    lambda x: jax.nn.logsumexp(jnp.maximum(x, -jnp.inf), -1),
    lambda x, g: (g[:, None] * jax.nn.softmax(x),),
  )
  assert vjp(rule, X.at[1, 2].set(-jnp.inf)).verdict == "pass"
  np.testing.assert_array_equal(rounded_to_half(np.array([-np.inf, 0.9, 2.1])), [-np.inf, 1.0, 2.0])
