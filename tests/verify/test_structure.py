"""Structure that arguments happen to have: broken where f allows it, and listed where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp

RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
SYMMETRIC = A + A.T
POSITIVE = A @ A.T + jnp.eye(3)


def rule_of(f, backward):
  """A copy of f with a rule."""
  copy = jax.custom_vjp(f)
  copy.defvjp(lambda *args: (f(*args), args), lambda args, y_bar: backward(*args, y_bar))
  return copy


def apply(a, x):
  return x @ a


def weighted(x, p):
  return (p * x).sum(1) / p.sum(1)


def cross_entropy(z, t):
  return -(t * jax.nn.log_softmax(z)).sum(1)


def share(x, p):
  return (x - weighted(x, p)[:, None]) / p.sum(1, keepdims=True)


WRONG = {
  "symmetric": (apply, lambda a, x, g: (x.T @ g, g @ a), (SYMMETRIC, X), "x"),
  "identity": (apply, lambda a, x, g: (x.T @ g, g @ a), (jnp.eye(3), X), "x"),
  "diagonal": (
    apply, lambda a, x, g: (x.T @ g, g * jnp.diagonal(a)[None]), (jnp.diag(X[0]), X), "x",
  ),
  "probabilities": (
    weighted,
    lambda x, p, g: (g[:, None] * p, g[:, None] * (x - weighted(x, p)[:, None])),
    (X, jax.nn.softmax(X)), "x, p",
  ),
  "one-hot": (
    cross_entropy,
    lambda z, t, g: (g[:, None] * (jax.nn.softmax(z) - t), -g[:, None] * jax.nn.log_softmax(z)),
    (X, jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3)), "z",
  ),
  "mask": (
    lambda x, m: x * m**2, lambda x, m, g: (g * m, 2 * g * x * m),
    (X, jnp.asarray(RNG.integers(0, 2, (4, 3)), jnp.float32)), "x",
  ),
  "positive": (jnp.abs, lambda x, g: (g,), (jnp.abs(X),), "x"),
  "negative": (jnp.abs, lambda x, g: (-g,), (-jnp.abs(X),), "x"),
  "triangular": (
    apply, lambda a, x, g: (jnp.tril(x.T @ g), g @ a.T), (jnp.tril(A), X), "a",
  ),
  "equal rows": (
    apply, lambda a, x, g: (jnp.outer(x[0], g.sum(0)), g @ a.T), (A, jnp.tile(X[:1], (4, 1))), "a",
  ),
  "ones": (lambda x, s: x * s, lambda x, s, g: (g, g * x), (X, jnp.ones((4, 3))), "x"),
  "zeros": (
    lambda x, b: (x + b) ** 2, lambda x, b, g: (2 * x * g, 2 * (x + b) * g),
    (X, jnp.zeros((4, 3))), "x",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_rule_that_assumes_the_structure_fails(name):
  f, backward, args, leaves = WRONG[name]
  report = vjp(rule_of(f, backward), *args)
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf in leaves.split(", ")
  assert report.findings[0].index is not None


def log_determinant(a):
  return 2 * jnp.log(jnp.diagonal(jnp.linalg.cholesky(a))).sum()


RIGHT = {
  "symmetric": (
    apply, lambda a, x, g: (x.T @ g, g @ a.T), (SYMMETRIC, X), "a not symmetric", "",
  ),
  "probabilities": (
    weighted,
    lambda x, p, g: (g[:, None] * p / p.sum(1, keepdims=True), g[:, None] * share(x, p)),
    (X, jax.nn.softmax(X)), "p not normalized", "",
  ),
  "one-hot": (
    cross_entropy,
    lambda z, t, g: (
      g[:, None] * (jax.nn.softmax(z) * t.sum(1, keepdims=True) - t),
      -g[:, None] * jax.nn.log_softmax(z),
    ),
    (X, jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3)), "t other than zeros and ones", "",
  ),
  "positive": (
    lambda x: x * x, lambda x, g: (2 * x * g,), (jnp.abs(X),), "x with other signs", "",
  ),
  # JAX symmetrizes its operand: the rule is one of symmetric matrices.
  "symmetrized": (
    log_determinant, lambda a, g: (g * jnp.linalg.inv(a),), (POSITIVE,), "",
    "a but for symmetric matrices",
  ),
  # Undefined below zero.
  "root": (
    jnp.sqrt, lambda x, g: (g / (2 * jnp.sqrt(x)),), (jnp.abs(X) + 0.5,), "",
    "x below zero, but for being finite there",
  ),
  "permutation": (
    lambda x, order: x[order], lambda x, order, g: (jnp.zeros_like(x).at[order].set(g), None),
    (X, jnp.array([2, 0, 3, 1])), "", "order but for permutations: its integers never repeat",
  ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_passes_and_the_structure_is_broken_or_listed(name):
  f, backward, args, regime, left_out = RIGHT[name]
  report = vjp(rule_of(f, backward), *args)
  assert report.ok, report.table()
  assert not regime or regime in report.regimes
  assert not left_out or left_out in report.not_checked
