"""Examples without gradient, with inf and NaN, no examples and one; health; and bad input."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from fbackprop.train.optimizers import make_update
from tests.cases_of_quantities import assert_near, from_rows

# --- Examples that aren't as others ---------------------------------------------------------------

ODD = {"plain": 0, "zero": 1, "inf": 2, "nan": 3}
"""Which row of the batch has which gradient."""


def tree_of(rows):
  """Factors of four kinds, of the rows named, by their own seed each."""
  rng = np.random.default_rng(1)
  n = len(ODD)
  x, y_bar, x_hat = (rng.normal(size=(n, d)).astype(np.float32) for d in (3, 2, 2))
  y_bar[ODD["zero"]] = 0
  y_bar[ODD["inf"], 0], y_bar[ODD["nan"], 0] = np.inf, np.nan
  x, y_bar, x_hat = (jnp.asarray(v[[ODD[row] for row in rows]]) for v in (x, y_bar, x_hat))
  return (
    q.Affine(x, y_bar),
    q.Linear(x, y_bar),
    q.Elementwise(x_hat, y_bar),
    q.Scaling(x_hat, y_bar),
  )


CLIPPINGS = ("flat", "automatic", "per_layer")


@jax.jit
def everything(factors):
  return {
    "gradient": q.gradient(factors),
    "example_gradients": q.example_gradients(factors),
    "example_sqnorms": q.example_sqnorms(factors),
    "second_moment": q.second_moment(factors),
    "variance": q.variance(factors),
    "gram": q.gram(factors),
    "cosine_similarities": q.cosine_similarities(factors),
    "noise_scale": q.noise_scale(factors),
    "global_norm": q.global_norm(factors),
    "clipped": [q.clipped_gradient(factors, 0.5, clipping=clipping) for clipping in CLIPPINGS],
  }


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_an_example_without_gradient():
  """It adds nothing, has no direction, and brings no NaN."""
  both, alone = everything(tree_of(["plain", "zero"])), everything(tree_of(["plain"]))
  trace, sqnorm = both.pop("noise_scale")[1:]  # Of two, ‖G‖² is g_0 · g_1, here 0: no scale.
  np.testing.assert_allclose(trace, both["example_sqnorms"][0] / 2, rtol=1e-6)
  np.testing.assert_allclose(sqnorm, 0, atol=1e-6)
  assert all(np.isfinite(leaf).all() for leaf in leaves(both))
  for quantity in ("gradient", "second_moment", "global_norm", "clipped"):
    for a, b in zip(leaves(both[quantity]), leaves(alone[quantity]), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)
  assert all(not leaf[1].any() for leaf in leaves(both["example_gradients"]))
  assert both["example_sqnorms"][1] == 0
  assert not both["gram"][1].any()
  assert not both["gram"][:, 1].any()
  cosines = np.asarray(both["cosine_similarities"])
  np.testing.assert_allclose(cosines, [[1, 0], [0, 0]], atol=1e-6)


def test_only_examples_without_gradient():
  got = everything(tree_of(["zero", "zero"]))
  noise = got.pop("noise_scale")
  assert not any(leaf.any() for leaf in leaves(got))
  assert (noise.trace, noise.sqnorm) == (0, 0)
  assert np.isnan(noise.scale)


def test_without_a_stability_constant_the_automatic_clipping_of_nothing_is_nan():
  clipped = q.clipped_gradient(tree_of(["zero"]), 1.0, clipping="automatic", stability=0)
  assert all(np.isnan(leaf).all() for leaf in leaves(clipped))


@pytest.mark.parametrize("row", ["inf", "nan"])
def test_an_example_that_is_not_finite(row):
  """It stays in its own rows, and shows in every sum over examples."""
  got, alone = everything(tree_of(["plain", row])), everything(tree_of(["plain"]))
  wrong = np.isinf if row == "inf" else np.isnan
  # In what belongs to one example the other is as if alone.
  for quantity in ("example_gradients", "example_sqnorms", "gram"):
    for a, b in zip(leaves(got[quantity]), leaves(alone[quantity]), strict=True):
      np.testing.assert_allclose(a[:1] if quantity != "gram" else a[:1, :1], b, rtol=1e-6)
  assert wrong(got["example_sqnorms"][1])
  assert not np.isfinite(got["gram"][1, 1])
  np.testing.assert_allclose(got["cosine_similarities"][0, 0], 1, rtol=1e-6)
  assert np.isnan(got["cosine_similarities"][1]).all()
  assert np.isnan(got["cosine_similarities"][:, 1]).all()
  # Sums: what is wrong with one entry of the gradient is wrong in that entry.
  for quantity in ("gradient", "second_moment"):
    bias = got[quantity][0].b
    assert wrong(bias[0])
    assert np.isfinite(bias[1])
  assert np.isnan(got["variance"][0].b[0])
  assert np.isfinite(got["variance"][0].b[1])
  assert all(np.isnan(leaf) for leaf in got["noise_scale"])
  assert not np.isfinite(got["global_norm"])
  # A clipped one can't be told from a finite one, so that all of its layers' entries are NaN.
  assert all(np.isnan(leaf).all() for leaf in leaves(got["clipped"]))


def test_a_norm_whose_square_overflows_is_not_clipped_to_nothing():
  factors = q.Linear(jnp.full((1, 1), 1e15), jnp.full((1, 1), 1e15))
  assert np.isinf(q.example_sqnorms(factors)[0])
  assert np.isnan(q.clipped_gradient(factors, 1.0).w).all()


def test_no_examples():
  empty = jax.tree.map(lambda factor: factor[:0], tree_of(["plain"]))
  got = everything(empty)
  for quantity in ("gradient", "second_moment", "global_norm", "clipped"):
    assert not any(leaf.any() for leaf in leaves(got[quantity])), quantity
  assert got["example_sqnorms"].shape == (0,)
  assert got["gram"].shape == got["cosine_similarities"].shape == (0, 0)
  assert got["example_gradients"][0].w.shape == (0, 3, 2)
  for quantity in ("variance", "noise_scale"):
    assert all(np.isnan(leaf).all() for leaf in leaves(got[quantity])), quantity


def test_the_mean_of_no_examples_is_zero():
  run = jax.jit(q.compute(NET, fb.squared_error, ("example_sqnorms", "variance")))
  params, x, targets = arguments(NET)
  loss, grads, found = run(params, x[:0], targets[:0])
  assert loss == 0
  assert jax.tree.structure(grads) == jax.tree.structure(params)
  assert not any(leaf.any() for leaf in leaves(grads))
  assert found["example_sqnorms"].shape == (0,)
  assert all(np.isnan(leaf).all() for leaf in leaves(found["variance"]))


def test_one_example():
  got = everything(tree_of(["plain"]))
  for quantity in ("variance", "noise_scale"):
    assert all(np.isnan(leaf).all() for leaf in leaves(got[quantity])), quantity
  squares = sum((leaf.astype(np.float64) ** 2).sum() for leaf in leaves(got["gradient"]))
  np.testing.assert_allclose(got["example_sqnorms"][0], squares, rtol=1e-6)
  np.testing.assert_allclose(got["global_norm"], np.sqrt(squares), rtol=1e-6)
  assert got["cosine_similarities"].shape == (1, 1)


def test_the_witness_sees_a_wrong_rule():
  """Without the 1 of the bias, or with the sum where the mean belongs, the comparison fails."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(2)
    factors = q.Affine(jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 2))))
    want = from_rows(jax.tree.map(np.asarray, q.example_gradients(factors)), (0,))
    assert_near(q.example_sqnorms(factors), *want["example_sqnorms"])
    for quantity, wrong in (
      ("example_sqnorms", q.example_sqnorms(q.Linear(*factors))),
      ("global_norm", q.global_norm(factors) / 4),
      ("second_moment", jax.tree.map(lambda g: g / 4, q.second_moment(factors))),
      ("variance", jax.tree.map(lambda g: g * 3 / 4, q.variance(factors))),
    ):
      with pytest.raises(AssertionError):
        assert_near(wrong, *want[quantity])


# --- Health ---------------------------------------------------------------------------------------


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


def test_the_order_of_layers_is_that_of_the_computation():
  assert q.layer_order(block_net()) == ORDER
  assert list(look(sound()).layers) == ["0.dense", "1.0.rms_norm", "1.2.dense"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
  ("planted", "layer", "direction"),
  [
    ([], None, 0),
    # (which of the tree's layers, x or ȳ, which copy)
    ([(0, 0, None)], "0.dense", 1),
    ([(2, 0, 1)], "1.2.dense[1]", 1),
    ([(2, 0, 0), (1, 0, 1)], "1.2.dense[0]", 1),
    ([(2, 0, 1), (1, 0, 1)], "1.0.rms_norm[1]", 1),
    ([(1, 1, 2), (2, 1, 1)], "1.0.rms_norm[2]", -1),
    ([(0, 1, None), (1, 1, 0), (2, 1, 0)], "1.2.dense[0]", -1),
    ([(2, 0, 2), (2, 1, 2), (0, 1, None)], "1.2.dense[2]", 1),
  ],
)
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
  assert not any(leaf.any() for leaf in leaves(got.layers))
  assert (got.first_layer, got.direction) == (-1, 0)


# --- Refused --------------------------------------------------------------------------------------

AFFINE = q.Affine(jnp.ones((2, 3)), jnp.ones((2, 2)))
NET = fb.mlp([3, 2], dense=q.captured(fb.dense))
FUNCTIONS = {
  "gradient": q.gradient, "example_gradients": q.example_gradients,
  "example_sqnorms": q.example_sqnorms, "second_moment": q.second_moment, "variance": q.variance,
  "gram": q.gram, "noise_scale": q.noise_scale,
  "clipped_gradient": partial(q.clipped_gradient, max_norm=1.0),
  "health": partial(q.health, net=NET),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
  ("tree", "error", "said"),
  [
    ((fb.DenseParams(jnp.ones((3, 2)), None),), fb.StructureError,
     r"captured\[0\]\.w must be the factors of a layer, got float32\[3, 2\]; every layer"),
    ((), fb.StructureError, "captured holds no layer's factors"),
    ((AFFINE._replace(y_bar=jnp.ones((3, 2))),), fb.ShapeError,
     r"captured\[0\]\.x and captured\[0\]\.y_bar must be \[\.\.\., N, D_in\]"),
    ((q.Scaling(jnp.ones((2, 3)), jnp.ones((2, 2))),), fb.ShapeError,
     r"x_hat and captured\[0\]\.y_bar must be \[\.\.\., N, D\], both"),
    ((AFFINE._replace(x=jnp.ones(3)),), fb.ShapeError, r"captured\[0\]\.x and"),
    ((AFFINE, jax.tree.map(lambda f: f[:1], AFFINE)), fb.ShapeError,
     r"captured\[1\] must have the 2 examples of the first layer, got float32\[1, 3\]"),
    ((AFFINE._replace(x=jnp.ones((2, 3), jnp.int32)),), fb.DtypeError,
     r"captured\[0\]\.x must have a floating dtype"),
    ((AFFINE._replace(x=jnp.ones((2, 3), jnp.float16)),), fb.DtypeError,
     r"captured\[0\]\.y_bar must have dtype float16"),
    ((AFFINE._replace(x=[1.0]),), fb.DtypeError, r"captured\[0\]\.x must be an array, got list"),
  ],
)  # fmt: skip
def test_a_tree_that_is_not_of_factors(name, tree, error, said):
  with pytest.raises(error, match=f"{name}: .*{said}"):
    FUNCTIONS[name](tree)


@pytest.mark.parametrize(
  ("call", "error", "said"),
  [
    (lambda: q.captured(fb.mlp), TypeError, "make must be fbackprop.dense, fbackprop.layer_norm"),
    (lambda: q.captured(fb.dense(2, 2)), TypeError, "got the Layer 'dense'"),
    (lambda: q.captured(q.captured(fb.dense)), TypeError, "make must be"),
    (lambda: q.captured(fb.dense)(0, 2), ValueError, "d_in must be at least 1"),
    (lambda: q.example_sqnorms(AFFINE, per_layer=1), TypeError, "per_layer must be True or False"),
    (lambda: q.clipped_gradient(AFFINE, 0.0), ValueError, "max_norm must be above 0, got 0.0"),
    (lambda: q.clipped_gradient(AFFINE, jnp.asarray(-1.0)), ValueError, "above 0, got -1.0"),
    (lambda: q.clipped_gradient(AFFINE, None), TypeError, "max_norm must be a number, got None"),
    (lambda: q.clipped_gradient(AFFINE, np.nan), ValueError, "max_norm must be a finite number"),
    (lambda: q.clipped_gradient(AFFINE, jnp.ones(2)), ValueError, r"max_norm must have shape \[\]"),
    (lambda: q.clipped_gradient(AFFINE, jnp.asarray(1)), TypeError, "max_norm must have a float"),
    (lambda: q.clipped_gradient(AFFINE, 1.0, clipping="flatt"), ValueError,
     "clipping must be one of flat, automatic, per_layer, got 'flatt'.*did you mean 'flat'"),
    (lambda: q.clipped_gradient(AFFINE, 1.0, stability=-1.0), ValueError, "stability must be"),
    (lambda: q.gram(AFFINE, q.Linear(*AFFINE)), ValueError, "other must be the factors of the n"),
    (lambda: q.gram(AFFINE, AFFINE._replace(x=jnp.ones((2, 4)))), ValueError,
     r"other\.x must have the widths of float32\[2, 3\], got float32\[2, 4\]"),
    (lambda: q.health(AFFINE, None), TypeError, "health: net must be a Layer"),
    (lambda: q.health(AFFINE, NET), ValueError, "captured must be of the network.*chain of 1"),
    (lambda: q.health((AFFINE,), fb.serial(fb.repeat(NET.parts[0], 2))), ValueError,
     r"captured must be of the network, which has a copy \[0\] of 0\.dense"),
    (lambda: q.layer_order(3), TypeError, "layer_order: net must be a Layer"),
    (lambda: q.compute(3, fb.squared_error, ()), TypeError, "compute: net must be a Layer"),
    (lambda: q.compute(NET, 3, ()), TypeError, "compute: loss must be a Loss"),
    (lambda: q.compute(NET, fb.squared_error, "gram"), TypeError, "names must be a tuple of names"),
    (lambda: q.compute(NET, fb.squared_error, (1,)), TypeError, "names must hold names"),
    (lambda: q.compute(NET, fb.squared_error, ("gramm",)), ValueError,
     "no quantity 'gramm'; did you mean 'gram'"),
    (lambda: q.compute(NET, fb.squared_error, ("gram", "gram")), ValueError, "got 'gram' twice"),
    (lambda: q.compute(NET, fb.squared_error, ("clipped_gradient",)), TypeError,
     "clipped_gradient takes other options, .*'max_norm'"),
    (lambda: q.compute(NET, fb.squared_error, {"gram": {"norm": 1}}), TypeError, "gram takes othe"),
    (lambda: q.compute(NET, fb.squared_error, {"gram": 1}), TypeError, "of gram must be a mapping"),
  ],
)  # fmt: skip
def test_bad_arguments(call, error, said):
  with pytest.raises(error, match=said):
    call()


def arguments(net):
  return net.init(jax.random.key(0)), jnp.ones((2, 3)), jnp.zeros((2, 2))


def test_compute_refuses_what_it_can_not_read():
  plain = fb.mlp([3, 2])
  with pytest.raises(fb.StructureError, match=r"captured\[0\]\.w must be the factors of a layer"):
    q.compute(plain, fb.squared_error, ())(*arguments(plain))
  params, x, targets = arguments(NET)
  run = q.compute(NET, fb.squared_error, ())
  with pytest.raises(fb.ShapeError, match="compute: x and targets must have the same number N"):
    run(params, x, targets[:1])
  with pytest.raises(TypeError, match="compute: key must be made by"):
    run(params, x, targets, 3)


def test_what_expects_a_gradient_refuses_factors():
  """By name, and not by an error of shapes somewhere below."""
  params, x, targets = arguments(NET)
  factors = fb.pullback(NET)(params, x)[1](targets)[0]
  said = r"must be a gradient, got the factors Affine\(x, y_bar\) of a captured layer"
  with pytest.raises(fb.StructureError, match=r"value_and_grad: grads\[0\] " + said):
    fb.value_and_grad(NET, fb.squared_error)(params, x, targets)
  with pytest.raises(fb.StructureError, match=r"as_custom_vjp: params_bar\[0\] " + said):
    jax.grad(lambda params: fb.as_custom_vjp(NET)(params, x).sum())(params)
  descent = fb.train.gradient_descent(0.1)
  with pytest.raises(fb.StructureError, match=r"gradient_descent: grads\[0\] " + said):
    descent.update(factors, descent.init(params))
  for optimizer in (descent, optax.adam(0.1)):
    init, step = fb.train.make_step(NET, fb.squared_error, optimizer)
    with pytest.raises(fb.StructureError, match=said):
      step(init(jax.random.key(0)), (x, targets))
    update = make_update(optimizer, NET, fb.squared_error)
    with pytest.raises(fb.StructureError, match=r"make_update: grads\[0\] " + said):
      update(params, optimizer.init(params), (x, targets, None), None, jnp.ones(()), factors)


def test_who_looks_inside_may_look_at_a_captured_network():
  """`inspect` puts its own signals where the factors stood."""
  seen = fb.inspect(NET, fb.squared_error)(*arguments(NET))
  assert list(seen) == ["0.dense"]
