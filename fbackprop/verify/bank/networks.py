"""Networks: skips, tied weights, stale residuals, recomputation, random masks; our own layers."""

import jax
import jax.numpy as jnp

from fbackprop.combinators import remat, repeat, serial, skip
from fbackprop.layers.activations import gelu, relu, tanh
from fbackprop.layers.dense import dense
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.losses.classification import softmax_cross_entropy
from fbackprop.networks import mlp
from fbackprop.transforms import as_custom_vjp, pullback, value_and_grad
from fbackprop.verify.bank.references import layer, layer_backward
from fbackprop.verify.bank.specimen import Example, bug, draw, labels, mlp_params, one_layer, right

# Skips and shared weights.


@bug("x: path", lambda params, x: x + jnp.tanh(layer(params, x)), one_layer(4, 4), (5, 4))
def skip_dropped(params, x, y_bar):
  """The function is x + block(x), and the rule is that of the block alone."""
  return layer_backward(params, x, y_bar * (1 - jnp.tanh(layer(params, x)) ** 2))


@bug("x: path", lambda params, x: x + layer(params[1], jax.nn.relu(layer(params[0], x))),
     mlp_params(4, 6, 4), (5, 4), f_vjp=True)  # fmt: skip
def skip_twice(params, x, y_bar):
  """The identity path of a skip is added at both ends of the block."""
  h = jax.nn.relu(layer(params[0], x))
  second_bar, h_bar = layer_backward(params[1], h, y_bar)
  first_bar, x_bar = layer_backward(params[0], x, h_bar * (h > 0))
  return (first_bar, second_bar), x_bar + y_bar + y_bar


def autoencode(w, x):
  """Encode by w and decode by its transpose."""
  return jnp.tanh(x @ w) @ w.T


@bug("w: path", autoencode, (5, 3), (6, 5))
def tied_once(w, x, y_bar):
  """An autoencoder uses w and w.T; only the decoder's use is counted."""
  h = jnp.tanh(x @ w)
  return y_bar.T @ h, ((y_bar @ w) * (1 - h * h)) @ w.T


@right(autoencode, (5, 3), (6, 5))
def right_autoencoder_tied(w, x, y_bar):
  """w and its transpose in one network: both uses are added in one product."""
  h = jnp.tanh(x @ w)
  z_bar = (y_bar @ w) * (1 - h * h)
  return jnp.concatenate([x, y_bar]).T @ jnp.concatenate([z_bar, h]), z_bar @ w.T


@bug("w: path", lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w), (4, 4), (6, 4), f_vjp=True)
def tied_twice(w, x, y_bar):
  """Two layers share w, and the second one's cotangent is added twice."""
  h = jnp.tanh(x @ w)
  z2_bar = y_bar * (1 - jnp.tanh(h @ w) ** 2)
  z1_bar = (z2_bar @ w.T) * (1 - h * h)
  w_bar = h.T @ z2_bar
  return w_bar + (w_bar + x.T @ z1_bar), z1_bar @ w.T


@right(lambda x, u, v: x @ (u @ v), (6, 5), (5, 2), (2, 4),
       forward=lambda x, u, v: ((x @ u) @ v, (x, u, v)), f_vjp=True)  # fmt: skip
def right_low_rank(x, u, v, y_bar):
  """x (u v) as (x u) v; neither pass forms u v."""
  bar = y_bar @ v.T
  return bar @ u.T, x.T @ bar, (x @ u).T @ y_bar


# One hidden layer.


def tanh_net(params, x):
  """Compute an MLP with one hidden layer of tanh."""
  return layer(params[1], jnp.tanh(layer(params[0], x)))


@bug("params/1/w: wrong point", tanh_net, mlp_params(4, 4, 3), (5, 4))
def wrong_layer_input(params, x, y_bar):
  """The second layer's weights use the network's input, which is as wide as the hidden layer."""
  h = jnp.tanh(layer(params[0], x))
  second_bar, h_bar = layer_backward(params[1], x, y_bar)
  first_bar, x_bar = layer_backward(params[0], x, h_bar * (1 - h * h))
  return (first_bar, second_bar), x_bar


@bug("params/0/w, params/0/b: wrong point, cotangent", tanh_net, mlp_params(4, 5, 3), (6, 4),
     f_vjp=True)  # fmt: skip
def updated_parameters(params, x, y_bar):
  """The rule propagates through the weights after a step of gradient descent on them."""
  h = jnp.tanh(layer(params[0], x))
  second_bar, _ = layer_backward(params[1], h, y_bar)
  updated_w = params[1]["w"] - 0.01 * second_bar["w"]
  first_bar, x_bar = layer_backward(params[0], x, (y_bar @ updated_w.T) * (1 - h * h))
  return (first_bar, second_bar), x_bar


@bug("params/1/w: wrong point", tanh_net, mlp_params(4, 5, 3), (6, 4))
def recomputed_without_bias(params, x, y_bar):
  """The rule recomputes the hidden layer without its bias."""
  h = jnp.tanh(x @ params[0]["w"])
  second_bar, h_bar = layer_backward(params[1], h, y_bar)
  first_bar, x_bar = layer_backward(params[0], x, h_bar * (1 - h * h))
  return (first_bar, second_bar), x_bar


# Dropout.


def dropout(x, key):
  """Drop a quarter of the entries, and divide the others by the keep rate."""
  return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)


@bug("x: constant factor", dropout, (5, 6), lambda: jax.random.key(0))
def dropout_not_scaled(x, key, y_bar):
  """Dropout divides by the keep rate; the rule only masks."""
  return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), y_bar, 0), None


@right(dropout, (5, 6), lambda: jax.random.key(0), f_vjp=True)
def right_dropout_by_key(x, key, y_bar):
  """The rule draws the mask again from the same key."""
  return dropout(y_bar, key), None


@bug("x: other function, wrong point", dropout, (5, 6), lambda: jax.random.key(1))
def dropout_another_key(x, key, y_bar):
  """The rule draws the mask again, from a key that was split once more."""
  again, _ = jax.random.split(key)
  return dropout(y_bar, again), None


@bug("w: wrong point", lambda w, h, key: dropout(h, key) @ w, (4, 3), (5, 4),
     lambda: jax.random.key(2), f_vjp=True)  # fmt: skip
def dropout_ignored_by_weights(w, h, key, y_bar):
  """The weights after a dropout use the activations before it."""
  return h.T @ y_bar, dropout(y_bar @ w.T, key), None


# Our own layers.


def params_of(net):
  """Draw a network's parameters without its initialisers, which are slow."""
  leaves, structure = jax.tree.flatten(jax.eval_shape(net.init, jax.random.key(0)))
  drawn = draw(*(leaf.shape for leaf in leaves), seed=4)
  return jax.tree.unflatten(structure, [0.5 * leaf for leaf in drawn])


def by_pullback(net, key=None):
  """Make the example of a network of four inputs by `pullback`."""

  def f_vjp(params, x):
    return pullback(net)(params, x, key)

  args = (params_of(net), *draw((5, 4)))
  return Example(lambda params, x: net.forward(params, x, key)[0], args, f_vjp)


@right()
def right_mlp_relu():
  """An MLP with relu by `as_custom_vjp`."""
  net = mlp([4, 6, 5, 3], relu)
  return Example(as_custom_vjp(net), (params_of(net), *draw((5, 4))))


@right()
def right_mlp_gelu_layer_norm():
  """An MLP with gelu and layer_norm by `pullback`."""
  return by_pullback(mlp([4, 6, 3], gelu, normalization=layer_norm))


@right()
def right_mlp_dropout():
  """An MLP with dropout, its key closed over."""
  return by_pullback(mlp([4, 6, 3], tanh, dropout=0.5), key=jax.random.key(3))


@right()
def right_repeat():
  """A block repeated in a scan over stacked parameters."""
  return by_pullback(repeat(serial(tanh, dense(4, 4)), 3))


@right()
def right_remat():
  """A block that keeps its input and recomputes the rest."""
  return by_pullback(remat(serial(dense(4, 6), gelu, dense(6, 3))))


@right()
def right_skip_rms_norm():
  """x + block(x), with rms_norm in front."""
  return by_pullback(serial(skip(serial(rms_norm(4), dense(4, 4), gelu)), dense(4, 2)))


@right()
def right_loss_of_a_net():
  """The mean loss of a network with labels, by `value_and_grad`."""
  net = mlp([4, 6, 3], tanh)
  our_gradient = value_and_grad(net, softmax_cross_entropy, input_gradient=True)

  def f(params, x, labels):
    outputs = net.forward(params, x)[0]
    return softmax_cross_entropy.forward(outputs, labels)[0].sum() / max(x.shape[0], 1)

  def f_vjp(params, x, labels):
    loss, bars = our_gradient(params, x, labels)
    return loss, lambda loss_bar: (*jax.tree.map(lambda bar: loss_bar * bar, bars), None)

  return Example(f, (params_of(net), *draw((6, 4), labels(6, 3))), f_vjp)
