"""Rules that need the values of their arguments, as those in NumPy do: traced as a callback."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.report import RuleError
from fbackprop.verify.witnesses.rule import in_dtypes_of, rule_of, signature_of

X, W = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).normal(size=(2, 3, 3)))


def layer(x, w, labels):
  return jnp.tanh(x @ w), labels


def in_numpy(x, w, labels):
  assert all(isinstance(a, np.ndarray) for a in (x, w, labels))
  y = np.tanh(x @ w)

  def pull(y_bar):
    z_bar = np.asarray(y_bar[0]) * (1 - y * y)
    return z_bar @ w.T, x.T @ z_bar, None

  return (y, labels), pull


def in_jax(x, w, labels):
  y = jnp.tanh(x @ w)

  def pull(y_bar):
    z_bar = y_bar[0] * (1 - y * y)
    return z_bar @ w.T, x.T @ z_bar, None

  return (y, labels), pull


def by_value(x, w, labels):
  assert float(np.asarray(x)[0, 0]) < 10
  return in_jax(*map(jnp.asarray, (x, w, labels)))


def rule(f_vjp):
  args = X, W, jnp.arange(3)
  signature, leaves = signature_of(layer, args)
  return rule_of(layer, f_vjp, signature, leaves), leaves


@pytest.mark.parametrize(
  ("f_vjp", "by_callback"),
  [
    (lambda *args: in_numpy(*map(np.asarray, args)), True),
    (by_value, True),
    (in_jax, False),
    (None, False),
  ],
)
def test_a_rule_that_needs_values_is_recognized(f_vjp, by_callback):
  assert rule(f_vjp)[0].by_callback == by_callback


def test_another_error_is_left_to_the_checks():
  def broken(x, w, labels):
    raise KeyError("own")

  assert not rule(broken)[0].by_callback


@pytest.mark.parametrize("transform", [jax.jit, jax.remat])
def test_it_gives_what_the_rule_in_jax_gives(transform):
  (ours, leaves), (theirs, _) = rule(lambda *args: in_numpy(*map(np.asarray, args))), rule(in_jax)
  y_bar = in_dtypes_of(ours.outputs, ours.draw(0, 0))
  backward = transform(lambda *leaves: ours.both(leaves, y_bar)[1])
  for got, want in zip(backward(*leaves), theirs.both(leaves, y_bar)[1], strict=True):
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_outputs_keep_their_structure_and_dtypes():
  own, leaves = rule(lambda *args: in_numpy(*map(np.asarray, args)))

  def outputs(leaves):
    return own.pullback(leaves)[0]

  y, labels = jax.jit(outputs)(leaves)
  np.testing.assert_allclose(y, layer(X, W, 0)[0], rtol=1e-5)
  assert (y.dtype, labels.dtype) == (jnp.float32, jnp.int32)


@pytest.mark.slow
def test_under_vmap_it_is_called_for_each_example():
  own, leaves = rule(lambda *args: in_numpy(*map(np.asarray, args)))
  y_bar = in_dtypes_of(own.outputs, own.draw(0, 0))
  pairs = [jnp.stack([a, 2 * a]) for a in leaves]
  both = jax.vmap(lambda own_leaves: own.both(own_leaves, y_bar)[1])(pairs)
  for i, (pair, factor) in enumerate(zip(both, (1, 1), strict=True)):
    single = own.call([leaf * factor for leaf in leaves], y_bar)[1][i]
    np.testing.assert_allclose(pair[0], single, rtol=1e-5, atol=1e-6)


def test_a_wrong_structure_is_told_as_the_rule_s():
  def short(x, w, labels):
    return (np.tanh(np.asarray(x) @ np.asarray(w)), labels), lambda y_bar: (np.asarray(x),)

  own, leaves = rule(short)
  with pytest.raises(RuleError, match="tuple of 3 cotangents"):
    own.call(leaves, in_dtypes_of(own.outputs, own.draw(0, 0)))


def saturated(share, x):
  """The slope of tanh where it is all but flat: in NumPy, 1 − y² cancels."""
  y = np.tanh(np.asarray(x))
  return y, lambda y_bar: ((share * np.asarray(y_bar) * (1 - y * y)).astype(np.float32),)


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "pass"), (1.001, "fail")])
@pytest.mark.parametrize("x", [[0.5, 5.0, 5.5, -6.0], [7.0, 8.0]])
def test_what_numpy_rounds_within_is_not_judged(share, verdict, x):
  x = np.array(x, np.float32)
  report = vjp(jnp.tanh, x, f_vjp=functools.partial(saturated, share), level="quick")
  assert report.verdict == verdict, report.table()


@pytest.mark.parametrize("level", ["quick", "standard"])
def test_a_permutation_of_rows_is_none_of_fewer(level):
  """At a batch of one row, the rule is called with an index that isn't a permutation."""

  def rule(x, places):
    x, places = np.asarray(x), np.asarray(places)
    return x[places], lambda y_bar: (np.asarray(y_bar)[np.argsort(places)], None)

  x = np.arange(4.0, dtype=np.float32).reshape(2, 2)
  report = vjp(lambda x, places: x[places], x, np.array([1, 0]), f_vjp=rule, level=level)
  assert report.verdict == "pass", report.table()
