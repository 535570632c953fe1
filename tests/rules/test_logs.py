"""The signals of `inspect`, logged by the backward pass under `jax.vjp(...).with_logs`."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb

X = jax.random.normal(jax.random.key(0), (6, 3))
TARGETS = jax.random.normal(jax.random.key(1), (6, 2))
NETS = {
  "mlp": fb.mlp([3, 5, 2]),
  "repeated": fb.mlp([3, 4, 4, 4, 2], fb.tanh, repeat_hidden=True),
  "skip and norm": fb.mlp([3, 4, 4, 2], fb.gelu, skip=True, normalization=fb.layer_norm),
  "recomputed": fb.serial(fb.remat(fb.mlp([3, 4])), fb.relu, fb.dense(4, 2)),
  "two equal layers": fb.serial(fb.dense(3, 3), fb.dense(3, 3), fb.dense(3, 2)),
}
TIED = {
  "h": (fb.dense(3, 2), "x"), "a": (fb.tanh, "h"), "y": (fb.transposed("h"), "a"),
  "z": (fb.add, "y", "x"),
}  # fmt: skip
NETS["tied and repeated"] = fb.serial(fb.repeat(fb.graph(TIED, output="z"), 2), fb.dense(3, 2))
HAS_LOGS = hasattr(jax.custom_vjp, "defvjp_with_logs")
# What is tested: the logs where JAX has them, and elsewhere what is said of their absence.


def made(net, prefix=""):
  """The function; None where this JAX has no logs, which must then be said."""
  if HAS_LOGS:
    return fb.as_custom_vjp_with_logs(net, prefix)
  with pytest.raises(NotImplementedError, match=r"need JAX 0\.12 or newer, and this is JAX 0\.1"):
    fb.as_custom_vjp_with_logs(net, prefix)
  return None


assert_same = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_the_logs_are_what_inspect_shows(name, jitted):
  net = NETS[name]
  params, f = net.init(jax.random.key(2)), made(net)
  if f is None:
    return
  y, pull = jax.vjp(f, params, X)
  y_bar = (y - TARGETS) / len(X)  # Of the mean of ½ Σ (y − t)².
  call = jax.jit(lambda pull, y_bar: pull.with_logs(y_bar)) if jitted else type(pull).__call__
  bars, logs = call(pull if jitted else pull.with_logs, y_bar)
  assert_same(dict(logs), dict(fb.inspect(net, fb.squared_error)(params, X, TARGETS)))
  assert_same(bars, jax.vjp(fb.as_custom_vjp(net), params, X)[1](y_bar))
  assert_same(pull(y_bar), bars)


def test_names_tell_networks_and_uses_apart():
  net = NETS["mlp"]
  params, left, right = net.init(jax.random.key(2)), made(net, "left."), made(net, "right.")
  if left is None:
    return
  _, pull = jax.vjp(lambda p, x: left(p, x) + right(p, -x), params, X)
  _, logs = pull.with_logs(TARGETS)
  assert sorted(logs) == [
    f"{side}.{name}" for side in ("left", "right") for name in ("0.dense", "1.relu", "2.dense")
  ]
  np.testing.assert_array_equal(logs["right.0.dense"].x, -X)
  _, twice = jax.vjp(lambda p, x: left(p, x) + left(p, -x), params, X)
  with pytest.raises(ValueError, match=r"Duplicate .* 'left\.0\.dense'"):
    twice(TARGETS)


def test_logs_under_vmap_and_scan_have_its_axis():
  net = NETS["mlp"]
  params, f = net.init(jax.random.key(2)), made(net)
  if f is None:
    return
  stack = jnp.stack([X, 2 * X, 3 * X])

  def in_a_scan(params, stack):
    return jax.lax.scan(lambda carry, x: (carry, f(params, x)), None, stack)[1]

  for function in (jax.vmap(f, (None, 0)), in_a_scan):
    y, pull = jax.vjp(function, params, stack)
    bars, logs = pull.with_logs(jnp.ones_like(y))
    assert logs["0.dense"].y_bar.shape == (3, 6, 5)
    np.testing.assert_array_equal(logs["0.dense"].x, stack)
    whole = jax.vjp(fb.as_custom_vjp(net), params, stack)[1](jnp.ones_like(y))
    assert_same(bars, whole)


def test_nothing_is_computed_for_logs_that_nobody_wants():
  net = NETS["mlp"]
  params, f = net.init(jax.random.key(2)), made(net)
  if f is None:
    return

  def flops(f):
    gradient = jax.jit(jax.grad(lambda p, x: (f(p, x) ** 2).sum()))
    return gradient.lower(params, X).compile().cost_analysis()["flops"]

  assert flops(f) == flops(fb.as_custom_vjp(net))


def test_parameters_need_not_be_kept():
  """`saveable_args` of JAX 0.12: our rule hands the parameters on as they are, to be restored."""
  net = NETS["mlp"]
  params, f = net.init(jax.random.key(2)), fb.as_custom_vjp(net)
  if not HAS_LOGS:
    with pytest.raises(TypeError, match="saveable_args"):
      jax.vjp(f, params, X, saveable_args=(False, True))
    return
  y, pull = jax.vjp(f, params, X, saveable_args=(False, True))
  with pytest.raises(ValueError, match="saveable"):
    pull(y)
  pull.args_res = [params, pull.args_res[1]]
  assert_same(pull(y), jax.vjp(f, params, X)[1](y))


def test_what_is_no_layer_and_no_prefix_is_refused():
  with pytest.raises(TypeError, match="as_custom_vjp_with_logs: net must be a Layer"):
    fb.as_custom_vjp_with_logs(None)
  with pytest.raises(TypeError, match="as_custom_vjp_with_logs: prefix must be a str, got int"):
    fb.as_custom_vjp_with_logs(NETS["mlp"], 3)
