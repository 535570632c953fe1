"""The checker on rules that are right, in every form that a rule has, and on small errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl

import fbackprop as fb
from fbackprop.verify import vjp

RNG = np.random.default_rng(0)
DTYPES = ("float64", "float32", "bfloat16")


def draw(*shape, dtype="float32"):
  return jnp.asarray(RNG.normal(size=shape), dtype)


def affine(x, w, b):
  return jnp.tanh(x @ w + b)


def affine_vjp(x, w, b):
  y = affine(x, w, b)

  def pull(y_bar):
    z_bar = y_bar * (1 - y * y)
    return z_bar @ w.T, x.T @ z_bar, z_bar.sum(0, keepdims=True)

  return y, pull


def carrying(f, forward, backward):
  """The function with its rule attached."""
  carried = jax.custom_vjp(functools.wraps(f)(lambda *args: f(*args)))
  carried.defvjp(forward, backward)
  return carried


def affine_forward(x, w, b):
  y = affine(x, w, b)
  return y, (x, w, y)


def affine_backward(kept, y_bar):
  x, w, y = kept
  z_bar = y_bar * (1 - y * y)
  return z_bar @ w.T, x.T @ z_bar, z_bar.sum(0, keepdims=True)


CARRIED = carrying(affine, affine_forward, affine_backward)


def layer_args(dtype="float32"):
  return draw(6, 4, dtype=dtype), draw(4, 3, dtype=dtype), draw(1, 3, dtype=dtype)


def assert_pass(report):
  assert report.verdict == "pass", report.table()
  assert report.ok
  assert 0 <= report.max_sigma < 16


@pytest.mark.slow
@pytest.mark.parametrize("level", ["quick", "standard"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["carried", "f_vjp"])
def test_a_right_rule_passes(form, dtype, level):
  with jax.enable_x64(dtype == "float64"):
    args = layer_args(dtype)
    report = (
      vjp(CARRIED, *args, level=level)
      if form == "carried"
      else vjp(affine, *args, f_vjp=affine_vjp, level=level)
    )
  assert_pass(report)
  assert set(report.verified) == {"x", "w", "b"}
  assert report.level == level
  assert not report.findings


@pytest.mark.slow
def test_a_right_rule_passes_at_the_deepest_level():
  assert_pass(vjp(affine, *layer_args(), f_vjp=affine_vjp, level="deep"))


# --- Arguments of every kind ----------------------------------------------------------------------


def weighted(params, batch, labels, key):
  """A dict with a None in it, a tuple, integers and a key."""
  scale, mask = params["scale"], jax.random.bernoulli(key, jnp.float32(0.5), batch[0].shape)
  rows = scale * batch[0] * mask.astype(scale.dtype) + batch[1]
  return jnp.take_along_axis(rows, labels[:, None], 1)[:, 0]


def weighted_vjp(params, batch, labels, key):
  mask = jax.random.bernoulli(key, jnp.float32(0.5), batch[0].shape).astype(batch[0].dtype)

  def pull(y_bar):
    rows_bar = jnp.zeros_like(batch[0]).at[jnp.arange(len(labels)), labels].add(y_bar)
    masked = rows_bar * mask
    scale_bar = (masked * batch[0]).sum(0, keepdims=True)
    return {"scale": scale_bar, "shift": None}, (masked * params["scale"], rows_bar), None, None

  return weighted(params, batch, labels, key), pull


@pytest.mark.slow
def test_trees_none_integers_and_keys():
  params = {"scale": draw(1, 3), "shift": None}
  args = params, (draw(5, 3), draw(5, 3)), jnp.array([0, 2, 1, 1, 0]), jax.random.key(1)
  report = vjp(weighted, *args, f_vjp=weighted_vjp, level="quick")
  assert_pass(report)
  assert set(report.verified) == {"params/scale", "batch/0", "batch/1"}


def power(x, n, scale):
  return scale * x**n


def power_vjp(x, n, scale):
  return power(x, n, scale), lambda y_bar: (y_bar * scale * n * x ** (n - 1), None, y_bar * x**n)


def test_scalars_and_no_axis_of_examples():
  report = vjp(power, jnp.float32(1.5), 3, 0.5, f_vjp=power_vjp)
  assert_pass(report)
  assert any("batch" in reason for reason in report.not_checked)


def test_an_empty_batch():
  x, w, b = layer_args()
  assert_pass(vjp(affine, x[:0], w, b, f_vjp=affine_vjp))


# --- Sensitivity ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_part_in_a_billion_of_one_entry_of_160_000_is_found():
  x, w = draw(30, 400), draw(400, 400)
  true = np.abs(np.asarray(x).T @ np.ones((30, 400)))
  middle = np.argsort(true, axis=None)[true.size // 2]
  index = tuple(int(i) for i in np.unravel_index(middle, true.shape))

  def product(x, w):
    return x @ w

  def rule(factor, x, w):
    def pull(y_bar):
      w_bar = x.T @ y_bar
      # In float32 the factor is 1, and the entry is right: only the formula is wrong.
      return y_bar @ w.T, w_bar.at[index].multiply(jnp.asarray(factor, w.dtype))

    return product(x, w), pull

  report = vjp(product, x, w, f_vjp=functools.partial(rule, 1 + 1e-9), level="quick")
  assert report.verdict == "fail"
  found = report.findings[0]
  assert (found.check, found.leaf, found.index, found.wrong) == ("maths", "w", index, 1)
  assert found.size == 160_000
  assert abs(found.got / found.want - 1 - 1e-9) < 1e-11
  assert_pass(vjp(product, x, w, f_vjp=functools.partial(rule, 1.0), level="quick"))


def test_a_factor_of_a_ten_thousandth_is_found_in_every_dtype():
  def slightly(x, w, b):
    y, pull = affine_vjp(x, w, b)

    def wrong(y_bar):
      x_bar, w_bar, b_bar = pull(y_bar)
      return x_bar, w_bar * 1.0001, b_bar

    return y, wrong

  for dtype in DTYPES:
    with jax.enable_x64(dtype == "float64"):
      report = vjp(affine, *layer_args(dtype), f_vjp=slightly, level="quick")
    found = report.findings[0]
    assert (report.verdict, found.check, found.leaf) == ("fail", "maths", "w"), dtype
    assert found.cause.startswith("constant factor"), found.cause


@pytest.mark.slow
def test_a_rule_that_refuses_float64_is_traced_as_it_is():
  def picky(factor, x, w, b):
    if x.dtype != jnp.float32:
      raise TypeError("float32 alone")
    y, pull = affine_vjp(x, w, b)

    def scaled(y_bar):
      x_bar, w_bar, b_bar = pull(y_bar)
      return x_bar, w_bar * factor, b_bar

    return y, scaled

  right = vjp(affine, *layer_args(), f_vjp=functools.partial(picky, 1.0))
  assert_pass(right)
  assert any("can't be traced with float64" in reason for reason in right.not_checked)
  wrong = vjp(affine, *layer_args(), f_vjp=functools.partial(picky, 1.0001))
  assert wrong.verdict == "fail"
  assert wrong.findings[0].leaf == "w"
  assert any("can't be traced with float64" in reason for reason in wrong.not_checked)


# --- Layers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_layers_of_every_kind_pass():
  options = {"normalization": fb.layer_norm, "dropout": 0.3, "skip": True}
  plain = fb.remat(fb.mlp([3, 4, 4, 2], fb.gelu, **options))
  repeated = fb.repeat(fb.serial(fb.gelu, fb.dense(3, 3)), 2)
  for net in (plain, repeated):
    params, key = net.init(jax.random.key(0)), jax.random.key(1) if net.draws else None
    assert_pass(fb.verify.layer(net, params, draw(5, 3), key=key, level="quick"))


@pytest.mark.slow
def test_the_layer_that_is_wrong_is_named_in_a_deep_network():
  def without_slope(params, residuals, y_bar):
    return fb.gelu.backward(params, residuals, y_bar)[0], y_bar

  widths = [4, 5, 5, 5, 5, 3]
  layers = [part for a, b in itertools.pairwise(widths) for part in (fb.dense(a, b), fb.gelu)]
  layers[5] = fb.gelu._replace(backward=without_slope)
  net = fb.serial(*layers)
  report = fb.verify.layer(net, net.init(jax.random.key(0)), draw(6, 4), level="quick")
  assert report.verdict == "fail"
  assert report.findings[0].leaf.startswith("input of 5"), report.table()


def test_larger_matrices_are_multiplied_in_one_thread():
  """Threads that wait for a core, as beside another worker of the tests, wait actively."""
  seen = []

  def watched(x, w):
    seen.append({pool["num_threads"] for pool in threadpoolctl.threadpool_info()
                 if pool["user_api"] == "blas"})  # fmt: skip
    return x @ w

  before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
  x, w = np.ones((100, 60), np.float32), np.ones((60, 4), np.float32)
  assert vjp(watched, x, w, level="quick").verdict == "pass"
  assert seen[-1] == {1}
  assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before
