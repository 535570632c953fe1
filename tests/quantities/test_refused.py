"""What the functions of `fbackprop.quantities` refuse, and who refuses factors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from fbackprop.train.optimizers import make_update
from tests.support.refusals import refusals

AFFINE = q.Affine(jnp.ones((2, 3)), jnp.ones((2, 2)))
NET = fb.mlp([3, 2], dense=q.captured(fb.dense))
SILENT = fb.dense(3, 2)._replace(name="own", factors=None)
UNEVEN = q.ByParameter(fb.DenseParams(
  q.Outer(jnp.ones((2, 4, 3)), jnp.ones((2, 5, 2))), q.Each(jnp.ones((2, 2)))
))  # fmt: skip
FUNCTIONS = {
  "gradient": q.gradient, "example_gradients": q.example_gradients,
  "example_sqnorms": q.example_sqnorms, "second_moment": q.second_moment, "variance": q.variance,
  "gram": q.gram, "noise_scale": q.noise_scale,
  "clipped_gradient": partial(q.clipped_gradient, max_norm=1.0),
  "health": partial(q.health, net=NET),
}  # fmt: skip


NO_FACTORS = [
  ((fb.DenseParams(jnp.ones((3, 2)), None),), fb.StructureError,
   r"captured\[0\]\.w must be the factors of a layer, got float32\[3, 2\]; every layer"),
  ((), fb.StructureError, "must hold the factors of a layer"),
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
  ((UNEVEN,), fb.ShapeError, r"captured\[0\]\.leaves\.w\.y_bar must have the examples and uses"),
  ((q.ByParameter(jnp.ones(3)),), fb.StructureError, r"leaves must be .*Outer\(x, y_bar\) or Each"),
  ((q.ByParameter(q.Each(jnp.ones(3))),), fb.ShapeError, r"grads must have shape \[\.\.\., N, D\]"),
  ((AFFINE._replace(x=[1.0]),), fb.DtypeError, r"captured\[0\]\.x must be an array, got list"),
]  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("tree", "error", "said"), NO_FACTORS)
def test_a_tree_that_is_not_of_factors(name, tree, error, said):
  with pytest.raises(error, match=f"{name}: .*{said}"):
    FUNCTIONS[name](tree)


BAD_CALLS = [
  (lambda: q.captured(3), TypeError, "make must be a network, or the constructor of a layer"),
  (lambda: q.captured(fb.serial(fb.relu, SILENT)), ValueError, "the layer own states no factors"),
  (lambda: q.captured(lambda: SILENT)(), ValueError, "the layer own states no factors"),
  (lambda: q.captured(fb.dense)(0, 2), ValueError, "d_in must be at least 1"),
  (lambda: q.example_sqnorms(AFFINE, per_layer=1), TypeError, "per_layer must be True or False"),
  (lambda: q.clipped_gradient(AFFINE, 0.0), ValueError, "a finite number above 0, got 0.0"),
  (lambda: q.clipped_gradient(AFFINE, jnp.asarray(-1.0)), ValueError, "above 0, got -1.0"),
  (lambda: q.clipped_gradient(AFFINE, None), TypeError, "max_norm must be a number, got None"),
  (lambda: q.clipped_gradient(AFFINE, np.nan), ValueError, "max_norm must be a finite number"),
  (lambda: q.clipped_gradient(AFFINE, 1e60), ValueError, "in the range of float32, got 1e.60"),
  (lambda: q.clipped_gradient(AFFINE, 1e-44), ValueError, "in the range of float32, got 1e-44"),
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
  (lambda: q.health((AFFINE, AFFINE), NET.parts[0]._replace(name="mine")), ValueError,
   "health: mine must be a layer of its own, or made by serial, skip, repeat, remat or graph"),
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
]  # fmt: skip


test_bad_arguments = refusals(lambda call: call(), BAD_CALLS)


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
    update = make_update(optimizer, NET, fb.squared_error)
    with pytest.raises(fb.StructureError, match=r"make_update: grads\[0\] " + said):
      update(params, optimizer.init(params), (x, targets, None), None, jnp.ones(()), factors)


@pytest.mark.slow
def test_a_step_takes_a_captured_network_as_the_plain_one():
  """Which sums the factors: whoever watches something has such a network."""
  _, x, targets = arguments(NET)
  after = []
  for net in (NET, fb.mlp([3, 2])):
    init, step = fb.train.make_step(net, fb.squared_error, fb.train.gradient_descent(0.1))
    after.append(step(init(jax.random.key(0)), (x, targets))[0].params)
  jax.tree.map(np.testing.assert_array_equal, *after)


def test_who_looks_inside_may_look_at_a_captured_network():
  """`inspect` puts its own signals where the factors stood."""
  seen = fb.inspect(NET, fb.squared_error)(*arguments(NET))
  assert list(seen) == ["0.dense"]
