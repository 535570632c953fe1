"""Functions that close over NumPy arrays of 64 bits, which a trace in float64 mustn't spoil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import verify


def rules():
  """Yield fresh rules by name: what JAX remembers is by the array."""
  scale, places = np.array([2.0, -1.0, 0.5]), np.array([2, 0, 1])
  yield "factor", lambda x: x * scale, lambda x, y_bar: y_bar * scale
  yield "dot", lambda x: jnp.dot(x, scale), lambda x, y_bar: y_bar * scale
  yield "index", lambda x: x[places], lambda x, y_bar: jnp.zeros_like(x).at[places].add(y_bar)
  yield "jit", jax.jit(lambda x: x * scale), lambda x, y_bar: y_bar * scale
  yield "loop", lambda x: jax.lax.map(lambda a: a * scale, x), lambda x, y_bar: y_bar @ scale


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, *_ in rules()])
@pytest.mark.parametrize("is_separate", [False, True])
def test_a_rule_is_verified_and_works_afterwards(name, is_separate):
  f, pull = next((f, pull) for own, f, pull in rules() if own == name)
  x = jnp.array([1.0, -2.0, 3.0])
  rule = jax.custom_vjp(f)
  rule.defvjp(lambda x: (f(x), x), lambda x, y_bar: (pull(x, y_bar).astype(x.dtype),))
  separate = {"f_vjp": lambda x: (f(x), lambda y_bar: (pull(x, y_bar).astype(x.dtype),))}
  before = np.asarray(f(x))
  assert before.dtype == np.float32
  report = verify.vjp(
    f if is_separate else rule, x, level="quick", **(separate if is_separate else {})
  )
  assert report.verdict == "pass", report
  for g in (f, jax.jit(f), rule):
    assert g(x).dtype == jnp.float32
    np.testing.assert_array_equal(g(x), before)
  assert jax.grad(lambda x: rule(x).sum())(x).dtype == jnp.float32


@pytest.mark.slow
def test_training_continues_after_a_gradient_check():
  weights = np.array([[0.5, 2.0]])

  def forward(z, targets):
    return jnp.sum(weights * (z - targets) ** 2, -1), (z, targets)

  def backward(residuals, losses_bar):
    z, targets = residuals
    return 2 * weights * (z - targets) * losses_bar[:, None]

  loss = fb.squared_error._replace(name="weighted", forward=forward, backward=backward)
  net = fb.mlp([3, 4, 2])
  params, x, y = net.init(jax.random.key(0)), jnp.ones((8, 3)), jnp.zeros((8, 2))
  check = verify.make_live_check(net, loss)
  assert check(params, x, y).ok
  value, grads = fb.value_and_grad(net, loss)(params, x, y)
  assert value.dtype == jax.tree.leaves(grads)[0].dtype == jnp.float32
  assert check(params, x[:4], y[:4]).ok
