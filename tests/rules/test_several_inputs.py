"""A tree of arrays as x: networks of several inputs, wherever an array x is taken."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop.quantities import captured, compute
from fbackprop.train import Batch, StopRules, gradient_descent, make_step
from tests.support.runs import descend

RNG = np.random.default_rng(0)
N = 20
A, B = (jnp.asarray(RNG.normal(size=(N, d)), jnp.float32) for d in (3, 2))
TARGETS = jnp.asarray(RNG.normal(size=(N, 2)), jnp.float32)
LABELS = jnp.asarray(np.arange(N) % 2, jnp.int32)
# The leaves of each are A and B in this order, which in a dict is that of the names.
TREES = {"tuple": (A, B), "dict": {"sizes": B, "prices": A}, "nested": [{"x": A}, (B,)]}


def joined_forward(params, x, key=None):
  """Inputs side by side, in the order of the tree's leaves."""
  leaves, structure = jax.tree.flatten(x)
  return jnp.concatenate(leaves, 1), jax.tree.unflatten(structure, [leaf[:0] for leaf in leaves])


def joined_backward(params, like, y_bar):
  leaves, structure = jax.tree.flatten(like)
  ends = np.cumsum([leaf.shape[1] for leaf in leaves])[:-1].tolist()
  return (), jax.tree.unflatten(structure, jnp.split(y_bar, ends, 1))


JOINED = fb.Layer("joined", lambda key: (), joined_forward, joined_backward)


def net_of(wrap=lambda make: make):
  """Two inputs side by side, computed again in the backward pass, then an mlp."""
  return fb.serial(fb.remat(JOINED), *fb.mlp([5, 8, 2], fb.tanh, dense=wrap(fb.dense)).parts)


NET = net_of()
PARAMS = NET.init(jax.random.key(0))


def mean_loss(params, x, targets):
  return fb.squared_error.forward(NET.forward(params, x)[0], targets)[0].mean()


assert_near = partial(chex.assert_trees_all_close, rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_gradients_have_the_structure_of_x(name):
  x = TREES[name]
  want = jax.value_and_grad(mean_loss, (0, 1))(PARAMS, x, TARGETS)
  run = fb.value_and_grad(NET, fb.squared_error, input_gradient=True)
  assert_near(jax.jit(run)(PARAMS, x, TARGETS), want)
  y, backward = fb.pullback(NET)(PARAMS, x)
  assert_near(backward(jnp.ones_like(y)), jax.grad(lambda *p: NET.forward(*p)[0].sum(), (0, 1))(
    PARAMS, x
  ))  # fmt: skip
  through = fb.as_custom_vjp(NET)

  def of_custom_vjp(params, x, targets):
    return fb.squared_error.forward(through(params, x), targets)[0].mean()

  assert_near(jax.value_and_grad(of_custom_vjp, (0, 1))(PARAMS, x, TARGETS), want)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dict", "nested"])  # Of which a part is a tuple.
def test_what_looks_inside_takes_it(name):
  x = TREES[name]
  seen = fb.inspect(NET, fb.squared_error)(PARAMS, x, TARGETS)
  assert list(seen) == ["0.joined", "1.dense", "2.tanh", "3.dense"]
  assert_near(seen["0.joined"].x, x)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
  # What was joined, [N, 5], and the hidden layer's output, [N, 8].
  assert fb.residual_bytes(NET, shapes) == 4 * N * (5 + 8)
  found = compute(net_of(captured), fb.squared_error, ("example_gradients", "noise_scale", "gram"))
  loss, grads, more = jax.jit(found)(PARAMS, x, TARGETS)
  assert_near((loss, grads), jax.value_and_grad(mean_loss)(PARAMS, x, TARGETS))
  assert more["gram"].shape == (N, N)
  assert fb.verify.layer(NET, PARAMS, jax.tree.map(lambda a: a[:4], x), level="quick").verdict == (
    "pass"
  )


def fit_on(x):
  stop = StopRules(max_epochs=3, validation_fraction=0.2)
  often = {"eval_every": 4, "check_every": 4, "test": (x, LABELS)}
  return descend(NET, Batch(x, LABELS), stop, batch_size=6, **often)


@functools.cache
def fit_on_one_array():
  return fit_on(jnp.concatenate([A, B], 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dict", "nested"])
def test_fit_is_that_of_one_array(name):
  """A tree is split, shuffled, gathered and scored leaf by leaf: the run of the joined arrays."""
  want, got = fit_on_one_array(), fit_on(TREES[name])
  assert_near(got.state.params, want.state.params)
  assert got.evaluations[-1].test_accuracy == want.evaluations[-1].test_accuracy
  assert all(check.ok for _, check in got.checks)


@pytest.mark.slow
def test_a_step_takes_it():
  init, step = make_step(NET, fb.squared_error, gradient_descent(0.1))
  _, info = step(init(jax.random.key(0)), ((A, B), TARGETS))
  assert float(info.weight) == N
  assert bool(info.finite)


@pytest.mark.slow
def test_it_is_split_over_a_mesh():
  mesh = jax.make_mesh((2,), ("data",), devices=jax.devices("cpu")[:2])
  run = jax.jit(fb.value_and_grad(NET, fb.squared_error, input_gradient=True))
  x, targets = jax.device_put(((A, B), TARGETS), NamedSharding(mesh, PartitionSpec("data")))
  with jax.set_mesh(mesh):
    got = run(jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec())), x, targets)
  assert_near(jax.device_get(got), run(PARAMS, (A, B), TARGETS))


REFUSED = {
  "no array": ((A, 1.0), TypeError, r"x\[1\] must be an array, got float 1.0"),
  "no array in a dict": (
    {"a": A, "b": "no"}, TypeError, r"x\['b'\] must be an array, got str 'no'",
  ),
  "integers": ((A, LABELS), TypeError, r"x\[1\] must have a floating dtype, got int32\[20\]"),
  "another N": (
    {"a": A, "b": B[:7]},
    ValueError,
    r"x\['b'\] must have the 20 examples of .*x\['a'\] in front, got float32\[7, 2\]",
  ),
  "no axis": ((A, B[0, 0]), ValueError, r"x\[1\] must have the number N of examples in front"),
  "nothing": ((), TypeError, r"x must be an array, got tuple \(\); several inputs are a tuple"),
  "None": (None, TypeError, "x must be an array, got NoneType None"),
  "numbers": ([[1.0], [2.0]], TypeError, "x must be an array, got list"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_leaf_that_does_not_fit_is_named(name):
  x, error, message = REFUSED[name]
  calls = {
    "value_and_grad": lambda: fb.value_and_grad(NET, fb.squared_error)(PARAMS, x, TARGETS),
    "residual_bytes": lambda: fb.residual_bytes(NET, x),
    "as_custom_vjp": lambda: fb.as_custom_vjp(NET)(PARAMS, x),
    "compute": lambda: compute(net_of(captured), fb.squared_error, ())(PARAMS, x, TARGETS),
    "fit": lambda: descend(NET, (x, TARGETS), 1, loss=fb.squared_error),
  }  # fmt: skip
  for where, call in calls.items():
    with pytest.raises(error, match=rf"{where}: .*{message.removeprefix('x')}"):
      call()


def test_targets_of_another_number_are_refused():
  with pytest.raises(fb.ShapeError, match=r"got x float32\[20, 3\] and targets float32\[7, 2\]"):
    fb.value_and_grad(NET, fb.squared_error)(PARAMS, (A, B), TARGETS[:7])


def test_a_skip_needs_one_array():
  with pytest.raises(TypeError, match="skip: x must be an array, got tuple"):
    fb.skip(JOINED).forward((), (A, B))
