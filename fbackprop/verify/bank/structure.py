"""Bugs of structure: trees, shapes, dtypes, None, and an output that isn't the function's."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_labels, draw_mlp
from fbackprop.verify.bank.specimen import Example, Specimen


def dense(params, x):
  """x w + b."""
  return x @ params["w"] + params["b"]


def list_for_tuple():
  """The parameters are a tuple of dictionaries, their cotangents come in a list."""

  def net(params, x):
    return dense(params[1], dense(params[0], x))

  def f_vjp(params, x):
    h = dense(params[0], x)

    def pullback(y_bar):
      params_bar = []
      for p, a in zip(params[::-1], (h, x), strict=True):
        params_bar.insert(0, {"b": y_bar.sum(0), "w": a.T @ y_bar})
        y_bar = y_bar @ p["w"].T
      return params_bar, y_bar

    return net(params, x), pullback

  return Example(net, (draw_mlp([4, 5, 3]), *draw((6, 4))), f_vjp)


def leaf_missing():
  """The bias is absent from the cotangent's dictionary."""

  def f_vjp(params, x):
    def pullback(y_bar):
      return {"w": x.T @ y_bar}, y_bar @ params["w"].T

    return dense(params, x), pullback

  return Example(dense, (draw_mlp([4, 3])[0], *draw((5, 4))), f_vjp)


def argument_missing():
  """Two arguments, and one cotangent."""

  def f_vjp(params, x):
    def pullback(y_bar):
      return ({"b": y_bar.sum(0), "w": x.T @ y_bar},)

    return dense(params, x), pullback

  return Example(dense, (draw_mlp([4, 3])[0], *draw((5, 4))), f_vjp)


def none_for_float():
  """The input is taken for data, and its cotangent is None."""

  def f_vjp(params, x):
    def pullback(y_bar):
      return {"b": y_bar.sum(0), "w": x.T @ y_bar}, None

    return dense(params, x), pullback

  return Example(dense, (draw_mlp([4, 3])[0], *draw((5, 4))), f_vjp)


def bias_kept_axis():
  """keepdims leaves the bias's cotangent as [1, D], which broadcasts in every update."""

  def f_vjp(params, x):
    def pullback(y_bar):
      return {"b": y_bar.sum(0, keepdims=True), "w": x.T @ y_bar}, y_bar @ params["w"].T

    return dense(params, x), pullback

  return Example(dense, (draw_mlp([4, 3])[0], *draw((5, 4))), f_vjp)


def bias_not_summed():
  """The bias's cotangent is [N, D], one for each example."""

  def shift(x, b):
    return x + b

  def f_vjp(x, b):
    def pullback(y_bar):
      return y_bar, y_bar

    return x + b, pullback

  return Example(shift, draw((5, 3), (3,)), f_vjp)


def order_swapped():
  """The cotangents of two arguments of one shape come in the other order."""

  def modulate(a, b):
    return a * jnp.tanh(b)

  def f_vjp(a, b):
    t = jnp.tanh(b)

    def pullback(y_bar):
      return y_bar * a * (1 - t * t), y_bar * t

    return a * t, pullback

  return Example(modulate, draw((5, 3), (5, 3)), f_vjp)


def wide_cotangent():
  """Arguments in bfloat16, computed in float32, and the cotangent stays float32."""

  def linear(x, w):
    return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)

  def f_vjp(x, w):
    def pullback(y_bar):
      w_bar = jnp.dot(x.T, y_bar, preferred_element_type=jnp.float32)
      return y_bar @ w.T, w_bar

    return linear(x, w), pullback

  return Example(linear, draw((6, 4), (4, 3), dtype=jnp.bfloat16), f_vjp)


def narrow_cotangent():
  """The cotangent of float32 weights is returned in bfloat16."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      return y_bar @ w.T, (x.T @ y_bar).astype(jnp.bfloat16)

    return x @ w, pullback

  return Example(linear, draw((6, 4), (4, 3)), f_vjp)


def python_zero():
  """softmax doesn't see a shift, whose cotangent is rightly zero: but as a Python float."""

  def shifted_softmax(x, shift):
    return jax.nn.softmax(x + shift, axis=-1)

  def f_vjp(x, shift):
    y = shifted_softmax(x, shift)

    def pullback(y_bar):
      return y * (y_bar - (y * y_bar).sum(-1, keepdims=True)), 0.0

    return y, pullback

  return Example(shifted_softmax, draw((5, 3), ()), f_vjp)


def labels_with_gradient():
  """The integer labels get a float cotangent."""

  def chosen(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

  def f_vjp(logits, labels):
    def pullback(y_bar):
      one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
      return y_bar[:, None] * one_hot, jnp.zeros(labels.shape, logits.dtype)

    return chosen(logits, labels), pullback

  return Example(chosen, (*draw((5, 3)), draw_labels(5, 3)), f_vjp)


def output_without_bias():
  """The forward rule leaves out the bias."""

  @jax.custom_vjp
  def layer(params, x):
    return dense(params, x)

  def layer_fwd(params, x):
    return x @ params["w"], (params, x)

  def layer_bwd(residuals, y_bar):
    params, x = residuals
    return {"b": y_bar.sum(0), "w": x.T @ y_bar}, y_bar @ params["w"].T

  layer.defvjp(layer_fwd, layer_bwd)
  return Example(layer, (draw_mlp([4, 3])[0], *draw((5, 4))))


def output_clamped():
  """The forward rule clamps large outputs, which this call doesn't have."""

  def exponential(x):
    return jnp.exp(x)

  def f_vjp(x):
    y = jnp.minimum(jnp.exp(x), 1e3)

    def pullback(y_bar):
      return (y_bar * jnp.exp(x),)

    return y, pullback

  return Example(exponential, draw((5, 3)), f_vjp)


BUGS = (
  Specimen("list-for-tuple", list_for_tuple, (), ("structure",)),
  Specimen("leaf-missing", leaf_missing, ("params/b", "params"), ("structure", "no gradient")),
  Specimen("argument-missing", argument_missing, ("x",), ("structure", "no gradient")),
  Specimen("none-for-float", none_for_float, ("x",), ("no gradient",)),
  Specimen("bias-kept-axis", bias_kept_axis, ("params/b",), ("structure",)),
  Specimen("bias-not-summed", bias_not_summed, ("b",), ("structure",)),
  Specimen("order-swapped", order_swapped, ("a", "b"), ("permuted", "structure", "wrong point")),
  Specimen("wide-cotangent", wide_cotangent, ("w",), ("dtype",)),
  Specimen("narrow-cotangent", narrow_cotangent, ("w",), ("dtype", "precision")),
  Specimen("python-zero", python_zero, ("shift",), ("dtype", "structure")),
  Specimen("labels-with-gradient", labels_with_gradient, ("labels",), ("structure", "dtype")),
  Specimen("output-without-bias", output_without_bias, (), ("forward",)),
  Specimen("output-clamped", output_clamped, (), ("forward",), level="standard"),
)
