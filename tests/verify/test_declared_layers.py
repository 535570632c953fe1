"""Layers whose backward rule is meant to differ from the derivative: straight-through, clipped."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fbackprop as fb
from fbackprop import verify
from fbackprop.train import Monitor, StopRules, fit
from fbackprop.types import Layer


def round_layer(factor=1.0, declared=True):
  """A straight-through rounding to quarters."""

  def forward(params, x, key=None):
    return jnp.round(4 * x) / 4, ()

  def backward(params, residuals, y_bar):
    return (), factor * y_bar

  slope = (lambda params, x, key=None: x) if declared else None
  return Layer("round", lambda key: (), forward, backward, slope=slope)


def clip_layer(factor=1.0, declared=True):
  """The identity, with its cotangent clipped to 1e-4."""

  def forward(params, x, key=None):
    return x, ()

  def backward(params, residuals, y_bar):
    return (), factor * jnp.clip(y_bar, -1e-4, 1e-4)

  return Layer("clip", lambda key: (), forward, backward, linear=not declared)


LAYERS = [round_layer, clip_layer]


def net_of(layer):
  return fb.serial(fb.dense(3, 5), layer, fb.tanh, fb.dense(5, 2))


def call_of(net):
  x = jax.random.normal(jax.random.key(1), (6, 3))
  return net.init(jax.random.key(0)), x, jax.random.normal(jax.random.key(2), (6, 2))


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
  ("options", "ok"), [({}, True), ({"factor": 1.01}, False), ({"declared": False}, False)]
)
def test_the_live_check(layer, options, ok):
  net = net_of(layer(**options))
  check = verify.make_live_check(net, fb.squared_error)
  found = check(*call_of(net))
  assert found.ok is ok
  assert (found.rel_error < 1e-9) is ok


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_checked_run(layer):
  net = net_of(layer())
  _, x, y = call_of(net)
  result = fit(
    net, fb.squared_error, (x, y), optimizer=optax.sgd(0.05), stop=StopRules(max_steps=6),
    key=jax.random.key(0), monitor=Monitor(check_every=3),
  )  # fmt: skip
  assert [check.ok for _, check in result.checks] == [True] * 3


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.5, "fail")])
def test_a_layer_and_a_network_that_holds_it(layer, factor, verdict):
  own = layer(factor=factor)
  params, x, _ = call_of(fb.serial(own))
  assert verify.layer(own, (), x, level="quick").verdict == verdict
  net = net_of(own)
  params, x, _ = call_of(net)
  report = verify.layer(net, params, x, level="quick")
  assert report.verdict == verdict
  if verdict == "fail":
    assert report.findings[0].leaf == f"input of 1.{own.name}"
