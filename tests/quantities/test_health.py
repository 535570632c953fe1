"""What `health` counts, and where it says that the first number isn't finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import quantities as q


def block_net():
  """A loop whose block has two layers: in the tree they stand apart, in time they take turns."""
  dense, norm = q.captured(fb.dense), q.captured(fb.rms_norm)
  return fb.serial(dense(2, 2), fb.repeat(fb.skip(fb.serial(norm(2), fb.tanh, dense(2, 2))), 3))


ORDER = ["0.dense", *(f"1.{layer}[{i}]" for i in range(3) for layer in ("0.rms_norm", "2.dense"))]
look = jax.jit(lambda factors: q.health(factors, block_net()))


@functools.cache
def sound():
  """Factors of `block_net`, all of them ones."""
  ones, stack = jnp.ones((4, 2)), jnp.ones((3, 4, 2))
  return (q.Affine(ones, ones), (q.Scaling(stack, stack), (), q.Affine(stack, stack)))


@pytest.mark.slow
def test_the_order_of_layers_is_that_of_the_computation():
  assert q.layer_order(block_net()) == ORDER
  assert list(look(sound()).layers) == ["0.dense", "1.0.rms_norm", "1.2.dense"]


PLANTED = [
  ([], None, 0),
  # (which of the tree's layers, x or ȳ, which copy)
  ([(0, 0, None)], "0.dense", 1),
  ([(2, 0, 1)], "1.2.dense[1]", 1),
  ([(2, 0, 0), (1, 0, 1)], "1.2.dense[0]", 1),
  ([(2, 0, 1), (1, 0, 1)], "1.0.rms_norm[1]", 1),
  ([(1, 1, 2), (2, 1, 1)], "1.0.rms_norm[2]", -1),
  ([(0, 1, None), (1, 1, 0), (2, 1, 0)], "1.2.dense[0]", -1),
  ([(2, 0, 2), (2, 1, 2), (0, 1, None)], "1.2.dense[2]", 1),
]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("planted", "layer", "direction"), PLANTED)
def test_the_first_that_is_not_finite(planted, layer, direction, value):
  first, (norm, _, last) = sound()
  nodes = [list(node) for node in (first, norm, last)]
  for node, side, copy in planted:
    index = (2, 1) if copy is None else (copy, 2, 1)
    nodes[node][side] = nodes[node][side].at[index].set(value)
  tree = (q.Affine(*nodes[0]), (q.Scaling(*nodes[1]), (), q.Affine(*nodes[2])))
  got = look(tree)
  assert int(got.first_layer) == (-1 if layer is None else ORDER.index(layer))
  assert int(got.direction) == direction


@pytest.mark.slow
def test_health_counts():
  x = jnp.asarray([[1.0, -2.0, np.inf], [0.0, 1e-40, 2.0]], jnp.float32)
  y_bar = jnp.asarray([[0.0, 3.0, 0.0, 1.0], [0.0, 4.0, 5.0, np.inf]], jnp.float32)
  net = q.captured(fb.dense)(3, 4)
  report = jax.jit(lambda factors: q.health(factors, net))(q.Affine(x, y_bar)).layers["dense"]
  assert (report.dead, report.saturated) == (1 / 4, 3 / 8)
  assert (report.x_overflow, report.y_bar_overflow) == (1, 1)
  assert (report.x_underflow, report.y_bar_underflow) == (1, 0)
  assert np.isinf(report.x_rms)
  np.testing.assert_allclose(report.y_bar_rms, np.inf)
  got = look(jax.tree.map(lambda factor: factor * jnp.asarray([0.5, 1.5]).reshape(
    (1,) * (factor.ndim - 1) + (2,)), sound()))  # fmt: skip
  for layer in got.layers.values():
    np.testing.assert_allclose(layer.x_rms, np.full(layer.x_rms.shape, np.sqrt(5 / 4)), rtol=1e-6)


NET_OF_FOUR = q.captured(fb.dense)(4, 4, bias=False)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("dtype", "subnormal"), [("float16", 1e-6), ("bfloat16", 1e-39), ("float64", 1e-310)]
)
def test_underflow_is_that_of_the_working_dtype(dtype, subnormal):
  with jax.enable_x64(True):
    x = jnp.asarray(np.array([[subnormal, 1e-4, 0.0, -subnormal]]).astype(dtype))
    report = jax.jit(lambda x: q.health(q.Linear(x, x), NET_OF_FOUR))(x).layers["dense"]
    assert (report.x_underflow, report.y_bar_underflow, report.saturated) == (2, 2, 1 / 4)


def test_health_of_no_examples_is_zero():
  empty = jax.tree.map(lambda factor: factor[..., :0, :], sound())
  got = look(empty)
  assert not any(leaf.any() for leaf in jax.tree.leaves(got.layers))
  assert (got.first_layer, got.direction) == (-1, 0)
