"""Bugs of whole networks: skips, tied weights, stale residuals, recomputation, random masks."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_mlp
from fbackprop.verify.bank.specimen import Example, Specimen


def dense(p, x):
  return x @ p["w"] + p["b"]


def dense_backward(p, x, y_bar):
  return {"b": y_bar.sum(0), "w": x.T @ y_bar}, y_bar @ p["w"].T


def skip_dropped():
  """y = x + block(x), and the rule is that of the block alone."""

  @jax.custom_vjp
  def block(params, x):
    return x + jnp.tanh(dense(params, x))

  def block_fwd(params, x):
    h = jnp.tanh(dense(params, x))
    return x + h, (params, x, h)

  def block_bwd(residuals, y_bar):
    params, x, h = residuals
    return dense_backward(params, x, y_bar * (1 - h * h))

  block.defvjp(block_fwd, block_bwd)
  return Example(block, (draw_mlp([4, 4])[0], *draw((5, 4))))


def skip_twice():
  """The identity path of a skip is added at both ends of the block."""

  def block(params, x):
    return x + dense(params[1], jax.nn.relu(dense(params[0], x)))

  def f_vjp(params, x):
    h = jax.nn.relu(dense(params[0], x))

    def pullback(y_bar):
      second_bar, h_bar = dense_backward(params[1], h, y_bar)
      first_bar, x_bar = dense_backward(params[0], x, h_bar * (h > 0))
      return (first_bar, second_bar), x_bar + y_bar + y_bar

    return block(params, x), pullback

  return Example(block, (draw_mlp([4, 6, 4]), *draw((5, 4))), f_vjp)


def tied_once():
  """An autoencoder with w and w.T: only the decoder's use of w is counted."""

  @jax.custom_vjp
  def autoencode(w, x):
    return jnp.tanh(x @ w) @ w.T

  def autoencode_fwd(w, x):
    h = jnp.tanh(x @ w)
    return h @ w.T, (w, x, h)

  def autoencode_bwd(residuals, y_bar):
    w, _, h = residuals
    z_bar = (y_bar @ w) * (1 - h * h)
    return y_bar.T @ h, z_bar @ w.T

  autoencode.defvjp(autoencode_fwd, autoencode_bwd)
  return Example(autoencode, draw((5, 3), (6, 5)))


def tied_twice():
  """Two layers share w, and the second one's cotangent is added twice."""

  def net(w, x):
    return jnp.tanh(jnp.tanh(x @ w) @ w)

  def f_vjp(w, x):
    h = jnp.tanh(x @ w)
    y = jnp.tanh(h @ w)

    def pullback(y_bar):
      z2_bar = y_bar * (1 - y * y)
      w_bar = h.T @ z2_bar
      z1_bar = (z2_bar @ w.T) * (1 - h * h)
      w_bar = w_bar + (w_bar + x.T @ z1_bar)
      return w_bar, z1_bar @ w.T

    return y, pullback

  return Example(net, draw((4, 4), (6, 4)), f_vjp)


def wrong_layer_input():
  """The second layer's weights take the input of the net; it's as wide as the hidden layer."""

  @jax.custom_vjp
  def net(params, x):
    return dense(params[1], jax.nn.sigmoid(dense(params[0], x)))

  def net_fwd(params, x):
    h = jax.nn.sigmoid(dense(params[0], x))
    return dense(params[1], h), (params, x, h)

  def net_bwd(residuals, y_bar):
    params, x, h = residuals
    second_bar, h_bar = dense_backward(params[1], x, y_bar)
    first_bar, x_bar = dense_backward(params[0], x, h_bar * h * (1 - h))
    return (first_bar, second_bar), x_bar

  net.defvjp(net_fwd, net_bwd)
  return Example(net, (draw_mlp([4, 4, 3]), *draw((5, 4))))


def updated_parameters():
  """The rule goes back through the weights after a step of gradient descent on them."""

  def net(params, x):
    return dense(params[1], jnp.tanh(dense(params[0], x)))

  def f_vjp(params, x):
    h = jnp.tanh(dense(params[0], x))

    def pullback(y_bar):
      second_bar, _ = dense_backward(params[1], h, y_bar)
      updated = {name: p - 0.01 * second_bar[name] for name, p in params[1].items()}
      first_bar, x_bar = dense_backward(params[0], x, (y_bar @ updated["w"].T) * (1 - h * h))
      return (first_bar, second_bar), x_bar

    return net(params, x), pullback

  return Example(net, (draw_mlp([4, 5, 3]), *draw((6, 4))), f_vjp)


def recomputed_without_bias():
  """The hidden layer is computed again in the rule, without its bias."""

  @jax.custom_vjp
  def net(params, x):
    return dense(params[1], jnp.tanh(dense(params[0], x)))

  def net_fwd(params, x):
    return net(params, x), (params, x)

  def net_bwd(residuals, y_bar):
    params, x = residuals
    h = jnp.tanh(x @ params[0]["w"])
    second_bar, h_bar = dense_backward(params[1], h, y_bar)
    first_bar, x_bar = dense_backward(params[0], x, h_bar * (1 - h * h))
    return (first_bar, second_bar), x_bar

  net.defvjp(net_fwd, net_bwd)
  return Example(net, (draw_mlp([4, 5, 3]), *draw((6, 4))))


def keep_mask(key, shape, rate):
  return jax.random.bernoulli(key, 1 - rate, shape)


def mask_not_scaled():
  """Dropout divides by the keep rate, the rule only masks."""

  @jax.custom_vjp
  def dropout(x, key):
    return jnp.where(keep_mask(key, x.shape, 0.25), x / 0.75, 0)

  def dropout_fwd(x, key):
    mask = keep_mask(key, x.shape, 0.25)
    return jnp.where(mask, x / 0.75, 0), mask

  def dropout_bwd(mask, y_bar):
    return jnp.where(mask, y_bar, 0), None

  dropout.defvjp(dropout_fwd, dropout_bwd)
  return Example(dropout, (*draw((5, 6)), jax.random.key(0)))


def mask_of_another_key():
  """The mask is drawn again in the rule, from a key that was split once more."""

  @jax.custom_vjp
  def dropout(x, key):
    return jnp.where(keep_mask(key, x.shape, 0.5), 2 * x, 0)

  def dropout_fwd(x, key):
    return dropout(x, key), key

  def dropout_bwd(key, y_bar):
    again, _ = jax.random.split(key)
    return jnp.where(keep_mask(again, y_bar.shape, 0.5), 2 * y_bar, 0), None

  dropout.defvjp(dropout_fwd, dropout_bwd)
  return Example(dropout, (*draw((5, 6)), jax.random.key(1)))


def mask_ignored_by_weights():
  """The weights after a dropout take the activations before it."""

  def layer(w, h, key):
    return jnp.where(keep_mask(key, h.shape, 0.5), 2 * h, 0) @ w

  def f_vjp(w, h, key):
    def pullback(y_bar):
      h_bar = jnp.where(keep_mask(key, h.shape, 0.5), 2 * (y_bar @ w.T), 0)
      return h.T @ y_bar, h_bar, None

    return layer(w, h, key), pullback

  return Example(layer, (*draw((4, 3), (5, 4)), jax.random.key(2)), f_vjp)


BUGS = (
  Specimen("skip-dropped", skip_dropped, ("x",), ("path",)),
  Specimen("skip-twice", skip_twice, ("x",), ("path",)),
  Specimen("tied-once", tied_once, ("w",), ("path",)),
  Specimen("tied-twice", tied_twice, ("w",), ("path",)),
  Specimen("wrong-layer-input", wrong_layer_input, ("params/1/w",), ("wrong point",)),
  Specimen(
    "updated-parameters",
    updated_parameters,
    ("params/0/w", "params/0/b"),
    ("wrong point", "cotangent"),
  ),
  Specimen("recomputed-without-bias", recomputed_without_bias, ("params/1/w",), ("wrong point",)),
  Specimen("dropout-not-scaled", mask_not_scaled, ("x",), ("constant factor",)),
  Specimen("dropout-another-key", mask_of_another_key, ("x",), ("other function", "wrong point")),
  Specimen("dropout-ignored-by-weights", mask_ignored_by_weights, ("w",), ("wrong point",)),
)
