"""`jax.vmap` of a right rule with an output that the mapped arguments don't reach."""

import chex
import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from fbackprop.verify import vjp

X = jax.random.normal(jax.random.key(0), (4, 3))
W = jax.random.normal(jax.random.key(1), (3,))


def penalised(scale=1.0, extra=0.0):
  """sin(x·w), and a penalty on w whose gradient is `scale` times too large."""

  @jax.custom_vjp
  def rule(x, w):
    return jnp.sin(x @ w), 0.5 * (w**2).sum()

  def backward(kept, y_bar):
    x, w = kept
    along = y_bar[0] * jnp.cos(x @ w)
    return along * w, along * x * (1 + extra) + scale * y_bar[1] * w

  rule.defvjp(lambda x, w: (rule(x, w), (x, w)), backward)
  return rule


def mapped(rule):
  return jax.vmap(rule, (0, None), (0, None))


def twice_mapped(rule):
  return jax.vmap(mapped(rule), (0, None), (0, None))


def in_a_scan(rule):
  def f(x, w):
    return jax.lax.scan(lambda total, _: (total + sum(mapped(rule)(x, w))[0], None), 0.0, x)[0]

  return f


def in_jit(rule):
  return jax.jit(jax.vmap(rule, (0, None)))  # The penalty is repeated for each example.


def of_a_fixed_power(rule):
  return lambda x, w, power: mapped(rule)(x**power, w)


CASES = {
  "a penalty": (mapped, (X, W)),
  "twice mapped": (twice_mapped, (X.reshape(2, 2, 3), W)),
  "in a scan": (in_a_scan, (X, W)),
  "in jit, the penalty repeated": (in_jit, (X, W)),
  "with a fixed integer": (of_a_fixed_power, (X, W, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_right_rule_passes_and_the_fault_is_named_as_that_of_jax(case):
  make, args = CASES[case]
  report = vjp(make(penalised()), *args)
  assert report.verdict == "pass", report
  (note,) = [f for f in report.findings if f.check == "vmap"]
  assert note.kind == "note"
  assert "JAX < 0.12 counts the cotangent of a shared output once per example" in note.message


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_rule_still_fails(case):
  make, args = CASES[case]
  for rule in (penalised(scale=1.001), penalised(extra=0.01), penalised(scale=len(X))):
    report = vjp(make(rule), *args, level="quick")
    assert report.verdict == "fail", report
    assert {f.leaf for f in report.findings if f.kind == "fail"} == {"w"}


def test_nothing_is_said_where_no_output_is_shared():
  def both_mapped(x, w):
    return jax.vmap(penalised())(x, jnp.broadcast_to(w, x.shape))

  def unmapped(x, w):
    return penalised()(x[0], w)

  for f in (both_mapped, unmapped):
    report = vjp(f, X, W, level="quick")
    assert report.verdict == "pass", report
    assert not report.findings


def blind_forward(params, x, key=None):
  return jnp.broadcast_to(params, (x.shape[0], 2)), x


def blind_backward(params, x, y_bar):
  return y_bar.sum(0) * (1 + 0 * x.sum()), jnp.zeros_like(x)


BLIND = fb.Layer("blind", lambda key: jnp.array([1.0, 2.0]), blind_forward, blind_backward)


@pytest.mark.slow
@pytest.mark.parametrize(
  "net", [BLIND, fb.mlp([3, 4, 2]), fb.serial(fb.dense(3, 3), BLIND)], ids=lambda net: net.name
)
@pytest.mark.parametrize("axes", [(None, 0), (0, 0)], ids=["x", "params and x"])
def test_our_own_functions_are_right_when_vmap_reaches_no_output(net, axes):
  params, stack = net.init(jax.random.key(0)), jnp.stack([jnp.stack([X[0], X[1]]), X[2:]])
  if axes[0] == 0:
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
  f, targets = fb.as_custom_vjp(net), jnp.ones((2, 2))

  def total(f, params):
    """Of the networks, and once of a penalty on the parameters."""
    penalty = sum((leaf**2).sum() for leaf in jax.tree.leaves(params))
    return (jax.vmap(f, axes)(params, stack) ** 2).sum() + penalty

  got = jax.grad(total, 1)(f, params)
  want = jax.grad(total, 1)(lambda p, x: net.forward(p, x)[0], params)
  chex.assert_trees_all_close(got, want, rtol=2e-6, atol=1e-6)
  each = jax.vmap(fb.value_and_grad(net, fb.squared_error), (axes[0], 0, None))
  _, grads = each(params, stack, targets)
  for i in range(2):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], params) if axes[0] == 0 else params
    _, alone = fb.value_and_grad(net, fb.squared_error)(own, stack[i], targets)
    mine = jax.tree.map(lambda leaf, i=i: leaf[i], grads)
    chex.assert_trees_all_close(mine, alone, rtol=2e-6, atol=1e-6)
