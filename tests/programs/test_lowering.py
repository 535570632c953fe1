"""Programs written for a GPU and a TPU, on a CPU: `jax.export` lowers and serializes them.

That a program is lowered says that each of its operations exists there, not that it is fast or how
it rounds. A program that is serialized, read back and called on a CPU must give the same bits.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train.loop import Member, make_chunk, start_loop
from fbackprop.train.stop_rules import stop_numbers
from fbackprop.verify.cases import CASES
from tests.support.witness import draw, pull

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")

ACCELERATORS = ("cuda", "tpu")
EVERYWHERE = ("cpu", *ACCELERATORS)
NET = fb.mlp([4, 8, 8, 3], normalization=fb.layer_norm, dropout=0.1, skip=True)
CAPTURED = fb.mlp(
  [4, 8, 3], dense=fb.quantities.captured(fb.dense),
  normalization=fb.quantities.captured(fb.layer_norm),
)  # fmt: skip
BATCH = (jnp.ones((6, 4)), jnp.arange(6) % 3)


with_each_net = pytest.mark.parametrize(
  ("net", "options"),
  [(NET, {}), (CAPTURED, {"clip_examples": 1.0, "watch": ["noise_scale"]})],
  ids=["plain", "captured"],
)


def export(f, *arguments, platforms=EVERYWHERE):
  return jax.export.export(jax.jit(f), platforms=platforms)(*arguments)


def read_back(exported):
  return jax.export.deserialize(exported.serialize()).call


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_every_rule_is_lowered_for_accelerators(case):
  view, primals, y_bar = draw(case, "float32")

  def backward(primals, y_bar):
    return pull(view, primals, y_bar)

  exported = export(backward, primals, y_bar, platforms=ACCELERATORS)
  assert exported.platforms == ACCELERATORS


@pytest.mark.slow
@pytest.mark.parametrize(
  "optimizer",
  [fb.train.gradient_descent(0.1), optax.adam(0.1), optax.adamw(0.1), optax.lbfgs()],
  ids=["gradient_descent", "adam", "adamw", "lbfgs"],
)
@with_each_net
def test_every_step_is_lowered_for_accelerators(net, options, optimizer):
  init, step = fb.train.make_step(net, fb.softmax_cross_entropy, optimizer, **options)
  state = jax.eval_shape(init, jax.random.key(0))
  assert export(step, state, BATCH, platforms=ACCELERATORS).platforms == ACCELERATORS


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", ["exact", "fast"])
@pytest.mark.parametrize("batch_size", [2, 6])
def test_the_compiled_loop_is_lowered_for_accelerators(batch_size, shuffle):
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, optax.adam(0.1))
  loop = jax.eval_shape(
    lambda key: start_loop(init(key), 6, jnp.dtype("float32"), shuffle), jax.random.key(0)
  )
  numbers = stop_numbers(fb.train.StopRules(9, tol=0.1), jnp.dtype("float32"), is_validated=False)
  chunk = make_chunk(step, batch_size, 9, shuffle)
  arguments = loop, fb.train.Batch(*BATCH), numbers, jnp.int32(9), Member(jax.random.key(1))
  assert export(chunk, *arguments, platforms=ACCELERATORS).platforms == ACCELERATORS


@pytest.mark.slow
def test_a_gradient_is_read_back_with_any_number_of_examples():
  net = fb.mlp([4, 8, 3], normalization=fb.layer_norm)
  f, params = fb.value_and_grad(net, fb.softmax_cross_entropy), net.init(jax.random.key(0))
  (n,) = jax.export.symbolic_shape("n")
  shapes = jax.ShapeDtypeStruct((n, 4), "float32"), jax.ShapeDtypeStruct((n,), "int32")
  call = read_back(export(f, params, *shapes))
  for count in (1, 6, 7):
    x = jax.random.normal(jax.random.key(count), (count, 4))
    labels = jnp.arange(count) % 3
    loss, grads = call(params, x, labels)
    want, want_grads = jax.jit(f)(params, x, labels)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    # The batch is symbolic: XLA may sum in another order, of at most seven terms.
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    chex.assert_trees_all_close(grads, want_grads, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_forward_pass_can_be_differentiated_after_it_was_read_back():
  """`as_custom_vjp` is written with its backward pass: ours, not autodiff's."""
  net = fb.mlp([4, 8, 3])
  params, x = net.init(jax.random.key(0)), BATCH[0]
  exported = export(fb.as_custom_vjp(net), params, x)
  call = jax.export.deserialize(exported.serialize(vjp_order=1)).call

  def loss(f):
    return jax.grad(lambda params, x: (f(params, x) ** 2).sum(), (0, 1))(params, x)

  # The same products, in programs that XLA fuses differently: a few last places.
  chex.assert_trees_all_close(loss(call), loss(fb.as_custom_vjp(net)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@with_each_net
def test_a_training_step_is_read_back_to_the_bit(net, options):
  """Its state, its batch and its info are records that a reader must know."""
  init, step = fb.train.make_step(
    net, fb.softmax_cross_entropy, fb.train.gradient_descent(0.1), **options
  )
  state, batch = init(jax.random.key(0)), fb.train.Batch(*BATCH)
  call = read_back(export(step, state, batch))
  got, want = call(state, batch), step(state, batch)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  chex.assert_trees_all_equal(got[0].params, want[0].params)
  chex.assert_trees_all_equal(got[1], want[1])


@pytest.mark.slow
def test_quantities_are_read_back():
  """Factors, signals, health and noise scale are records too."""
  params, (x, labels) = CAPTURED.init(jax.random.key(0)), BATCH

  def look(params, x, labels):
    factors = fb.pullback(CAPTURED)(params, x)[1](jnp.ones((6, 3)))[0]
    signals = fb.inspect(CAPTURED, fb.softmax_cross_entropy)(params, x, labels)
    quantities = fb.quantities
    return factors, signals, quantities.health(factors, CAPTURED), quantities.noise_scale(factors)

  got = read_back(export(look, params, x, labels))(params, x, labels)
  want = jax.jit(look)(params, x, labels)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  chex.assert_trees_all_equal(got, want)
