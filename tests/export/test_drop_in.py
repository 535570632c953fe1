"""Our backward pass inside of other people's training: transformations of JAX, flax, equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fbackprop as fb
from tests.support.exchanged import assert_near

NET = fb.mlp([3, 4, 2], fb.tanh)
PARAMS = NET.init(jax.random.key(0))
X = jax.random.normal(jax.random.key(1), (6, 3))
TARGETS = jax.random.normal(jax.random.key(2), (6, 2))
OURS = fb.as_custom_vjp(NET)


def plain(params, x):
  """The network without its rule, which autodiff differentiates."""
  return NET.forward(params, x)[0]


def loss_of(f):
  """The mean squared error of a network's function."""
  return lambda params, x=X, t=TARGETS: 0.5 * ((f(params, x) - t) ** 2).sum(-1).mean()


def of_each(f):
  one = loss_of(f)
  return jax.vmap(jax.grad(lambda p, x, t: one(p, x[None], t[None])), (None, 0, 0))(
    PARAMS, X, TARGETS
  )


def on_two_devices(f):
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

  def own(params, x, t):
    # jax.grad sums over the devices by itself, as the parameters are the same on each.
    return jax.tree.map(lambda g: g / 2, jax.grad(loss_of(f))(params, x, t))

  return jax.shard_map(own, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())(
    PARAMS, X, TARGETS
  )


TRANSFORMATIONS = {
  "vmap of grad": of_each,
  "jvp of grad": lambda f: jax.jvp(jax.grad(loss_of(f)), (PARAMS,), (PARAMS,)),
  "hessian": lambda f: jax.hessian(loss_of(f))(PARAMS),
  "checkpoint": lambda f: jax.grad(loss_of(jax.checkpoint(f)))(PARAMS),
  "shard_map": on_two_devices,
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_of_jax_gives_what_it_gives_without_the_rule(name):
  found, wanted = (jax.jit(lambda f=f: TRANSFORMATIONS[name](f))() for f in (OURS, plain))
  for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    assert_near(ours, theirs)


@pytest.mark.slow
def test_the_rule_runs_under_grad():
  """Another backward pass shows in the gradient, so that the comparisons above are of ours."""
  doubled = NET._replace(backward=lambda *a: jax.tree.map(lambda g: 2 * g, NET.backward(*a)))
  found = jax.grad(loss_of(fb.as_custom_vjp(doubled)))(PARAMS)
  wanted = jax.grad(loss_of(plain))(PARAMS)
  assert_near(found[0].w, 2 * wanted[0].w)


def descended():
  """Three steps of gradient descent by `make_step`."""
  init, step = fb.train.make_step(NET, fb.squared_error, fb.train.gradient_descent(0.1))
  state = init(jax.random.key(0), PARAMS)
  step = jax.jit(step)
  for _ in range(3):
    state, _ = step(state, fb.train.Batch(X, TARGETS))
  return state.params


@pytest.fixture(scope="module")
def three_steps():
  return descended()


@pytest.mark.slow
def test_in_a_plain_loop_of_optax(three_steps):
  optimizer = optax.sgd(0.1)
  params, state = PARAMS, optimizer.init(PARAMS)
  gradient = jax.jit(jax.grad(loss_of(OURS)))
  for _ in range(3):
    updates, state = optimizer.update(gradient(params), state)
    params = optax.apply_updates(params, updates)
  for ours, theirs in zip(*map(jax.tree.leaves, (params, three_steps)), strict=True):
    assert_near(ours, theirs)


def test_in_a_module_of_flax(three_steps, as_a_user_has_it):
  class Model(nnx.Module):
    def __init__(self):
      self.params = nnx.data(jax.tree.map(nnx.Param, PARAMS))

    def arrays(self):
      is_param = lambda leaf: isinstance(leaf, nnx.Param)  # noqa: E731
      return jax.tree.map(lambda leaf: leaf[...], self.params, is_leaf=is_param)

    def __call__(self, x):
      return OURS(self.arrays(), x)

  model = Model()
  optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    grads = nnx.grad(lambda model: 0.5 * ((model(X) - TARGETS) ** 2).sum(-1).mean())(model)
    optimizer.update(model, grads)

  for _ in range(3):
    step(model, optimizer)
  for ours, theirs in zip(*map(jax.tree.leaves, (model.arrays(), three_steps)), strict=True):
    assert_near(ours, theirs)


def test_in_a_module_of_equinox(three_steps):
  class Model(eqx.Module):
    params: fb.types.Params

    def __call__(self, x):
      return OURS(self.params, x)

  model = Model(PARAMS)

  @eqx.filter_jit
  def step(model):
    grads = eqx.filter_grad(lambda m: 0.5 * ((m(X) - TARGETS) ** 2).sum(-1).mean())(model)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

  for _ in range(3):
    model = step(model)
  for ours, theirs in zip(*map(jax.tree.leaves, (model.params, three_steps)), strict=True):
    assert_near(ours, theirs)


# --- Quantities of their own parameters -----------------------------------------------------------


def clipped_by_hand(grads, bound):
  """Sum each example's gradients, clipped to a norm."""
  leaves = jax.tree.leaves(grads)
  norms = np.sqrt(sum((np.asarray(g).reshape(len(X), -1) ** 2).sum(1) for g in leaves))
  factors = np.minimum(1, bound / norms)
  assert (factors < 1).any()
  return [np.einsum("n,n...->...", factors, g) for g in leaves]


def clip(net, params, bound):
  captured = fb.quantities.captured(net)
  wanted = {"clipped_gradient": {"max_norm": bound}}
  look = jax.jit(fb.quantities.compute(captured, fb.squared_error, wanted))
  return look(params, X, TARGETS)[2]["clipped_gradient"]


def test_clipping_of_an_equinox_mlp():
  """And the clipped gradient in the structure of theirs, for their optimizer."""
  theirs = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
  net, params = fb.export.from_equinox(theirs)
  found = fb.export.to_equinox(net, clip(net, params, 0.5), theirs)

  def one(model, x, t):
    return 0.5 * ((model(x) - t) ** 2).sum()

  each = eqx.filter_jit(eqx.filter_vmap(eqx.filter_grad(one), in_axes=(None, 0, 0)))
  wanted = clipped_by_hand(each(theirs, X, TARGETS), 0.5)
  for ours, own in zip(jax.tree.leaves(eqx.filter(found, eqx.is_array)), wanted, strict=True):
    assert_near(ours, own)


@pytest.mark.slow
def test_clipping_of_a_flax_mlp(as_a_user_has_it):
  rngs = nnx.Rngs(0)
  theirs = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.tanh, nnx.Linear(4, 2, rngs=rngs))
  net, params = fb.export.from_flax(theirs)
  found = clip(net, params, 0.5)
  graph, state = nnx.split(theirs)

  def one(state, x, t):
    return 0.5 * ((nnx.merge(graph, state)(x) - t) ** 2).sum()

  each = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(state, X, TARGETS)
  wanted = clipped_by_hand(each, 0.5)  # In the order of names: bias, kernel.
  ours = [leaf for layer in (found[0], found[2]) for leaf in (layer.b, layer.w)]
  for own, by_hand in zip(ours, wanted, strict=True):
    assert_near(own, by_hand)
