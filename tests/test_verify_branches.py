"""The search reaches what the given arguments don't: clips, masks, branches, one label."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.arguments import signature_of
from fbackprop.verify.regimes import as_numpy, find_batch
from fbackprop.verify.rules import rule_of

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
LABELS = jnp.array([0, 2, 1, 0, 1])


def product(x, w):
  return x @ w


def product_vjp(limit, x, w):
  def pull(y_bar):
    return limit(y_bar @ w.T), limit(x.T @ y_bar)

  return x @ w, pull


def as_it_is(bar):
  return bar


def clipped(bar):
  return jnp.clip(bar, -1e3, 1e3)


def clipped_by_norm(bar):
  norm = jnp.sqrt((bar * bar).sum())
  return jnp.where(norm > 1e4, bar * (1e4 / norm), bar)


@pytest.mark.parametrize("limit", [clipped, clipped_by_norm])
def test_a_clip_that_the_arguments_do_not_reach(limit):
  report = vjp(product, X, W, f_vjp=functools.partial(product_vjp, limit))
  assert report.verdict == "fail", report.table()
  found = report.findings[0]
  assert found.check == "maths"
  assert found.regime != "as given"


def test_a_threshold_that_only_zero_is_below():
  """At zero 0 is right: only a number that is small, and isn't zero, tells."""

  def square_vjp(x):
    return x * x, lambda y_bar: (jnp.where(jnp.abs(x) < 1e-5, 0 * x, 2 * x * y_bar),)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  report = vjp(lambda x: x * x, x, f_vjp=square_vjp)
  assert report.verdict == "fail"


def test_a_number_that_is_asked_for_by_name():
  def sine_vjp(x):
    return jnp.sin(3 * x), lambda y_bar: (jnp.where(x == 0.75, 0 * x, 3 * jnp.cos(3 * x) * y_bar),)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  assert vjp(lambda x: jnp.sin(3 * x), x, f_vjp=sine_vjp).verdict == "fail"


def test_without_a_clip_it_passes():
  report = vjp(product, X, W, f_vjp=functools.partial(product_vjp, as_it_is))
  assert report.verdict == "pass", report.table()


def square(x):
  return x * x


def masked(x, y_bar):
  return jnp.where(x > 40, jnp.zeros_like(x), 2 * x * y_bar)


def branch_on_the_sum(x, y_bar):
  def plain(x):
    return x

  def doubled(x):
    return 2 * x

  return y_bar * jax.lax.cond(x.sum() > 50, plain, doubled, x)


def dropped_where_small(x, y_bar):
  return jnp.where(jnp.abs(x) < 1e-3, jnp.zeros_like(x), 2 * x * y_bar)


@pytest.mark.parametrize("backward", [masked, branch_on_the_sum, dropped_where_small])
def test_a_branch_that_the_arguments_do_not_take(backward):
  def rule(x):
    return square(x), lambda y_bar: (backward(x, y_bar),)

  report = vjp(square, X, f_vjp=rule)
  assert report.verdict == "fail", report.table()
  assert report.findings[0].regime != "as given"


def test_a_label_that_is_ignored():
  def picked(x, labels):
    return jnp.take_along_axis(x, labels[:, None], 1)[:, 0]

  def rule(ignored, x, labels):
    def pull(y_bar):
      kept = jnp.where(labels == ignored, jnp.zeros_like(y_bar), y_bar)
      return jnp.zeros_like(x).at[jnp.arange(x.shape[0]), labels].set(kept), None

    return picked(x, labels), pull

  report = vjp(picked, X, LABELS, f_vjp=functools.partial(rule, 3))  # No example has it.
  assert report.verdict == "fail", report.table()


def test_both_sides_are_counted():
  def rule(x):
    return square(x), lambda y_bar: (jnp.where(x > 40, 2 * x, x + x) * y_bar,)

  report = vjp(square, X, f_vjp=rule)
  assert report.ok, report.table()
  (branches,) = (c for c in report.checks if c.check == "branches")
  assert branches.times == 2
  assert branches.detail == "of 2 sides of comparisons"


# --- The axis of examples -------------------------------------------------------------------------


def loss(params, x, labels):
  scores = jnp.tanh(x @ params["w"])
  return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1).mean()


def gram(x):
  return x @ x.T


def symmetric(x):
  return x + x.T


def squared(a, b):
  return a * b


def rows_and_one(x, shift):
  return x + shift[None]


def scalar(x):
  return 2 * x


@pytest.mark.parametrize(
  ("f", "args", "leaves"),
  [
    (product, (X, W), {0}),
    (product, (X[:4], W), {0}),  # Four examples, and four inputs of each.
    (squared, (X, X), {0, 1}),
    (rows_and_one, (X, X[0]), {0}),
    (loss, ({"w": W}, X, LABELS), {1, 2}),
    (loss, ({"w": W}, X[:4], LABELS[:4]), {1, 2}),
    (symmetric, (X[:4],), None),
    (scalar, (jnp.float32(1.0),), None),
    (square, (X,), {0}),
  ],
)
def test_the_axis_of_examples_is_found(f, args, leaves):
  signature, own = signature_of(f, args)
  rule, outputs = rule_of(f, None, signature, own)
  found = find_batch(rule, as_numpy(own), outputs)
  assert (None if found is None else set(found)) == leaves
