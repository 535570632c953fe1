"""Structure: trees, shapes, dtypes, None, and an output that differs from the function's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw, labels, layer_params, mlp_params
from fbackprop.verify.bank.references import (
  chosen,
  layer,
  layer_backward,
  linear,
  shift,
  softmax_backward,
  wide_linear,
)
from fbackprop.verify.bank.specimen import bug, right


def two_layers(params, x):
  """Compute two layers without an activation."""
  return layer(params[1], layer(params[0], x))


@bug(two_layers, mlp_params(4, 5, 3), (6, 4), causes="structure", f_vjp=True)
def list_for_tuple(params, x, y_bar):
  """The parameters are a tuple of dictionaries, and their cotangents a list."""
  second_bar, h_bar = layer_backward(params[1], layer(params[0], x), y_bar)
  first_bar, x_bar = layer_backward(params[0], x, h_bar)
  return [first_bar, second_bar], x_bar


@bug(layer, layer_params(4, 3), (5, 4), leaves="params/b, params",
     causes="structure, no gradient", f_vjp=True)  # fmt: skip
def leaf_missing(params, x, y_bar):
  """The bias is absent from the cotangent's dictionary."""
  return {"w": x.T @ y_bar}, y_bar @ params["w"].T


@bug(layer, layer_params(4, 3), (5, 4), leaves="x", causes="structure, no gradient", f_vjp=True)
def argument_missing(params, x, y_bar):
  """The function has two arguments, and the rule returns one cotangent."""
  return ({"b": y_bar.sum(0), "w": x.T @ y_bar},)


@bug(layer, layer_params(4, 3), (5, 4), leaves="x", causes="no gradient", f_vjp=True)
def none_for_float(params, x, y_bar):
  """The input is treated as data, and its cotangent is None."""
  return {"b": y_bar.sum(0), "w": x.T @ y_bar}, None


@bug(layer, layer_params(4, 3), (5, 4), leaves="params/b", causes="structure", f_vjp=True)
def bias_kept_axis(params, x, y_bar):
  """keepdims leaves the bias's cotangent as [1, D], which broadcasts in every update."""
  return {"b": y_bar.sum(0, keepdims=True), "w": x.T @ y_bar}, y_bar @ params["w"].T


@bug(shift, (5, 3), (3,), leaves="b", causes="structure", f_vjp=True)
def bias_not_summed(x, b, y_bar):
  """The bias's cotangent is [N, D], one for each example."""
  return y_bar, y_bar


def modulate(a, b):
  """Compute a tanh(b)."""
  return a * jnp.tanh(b)


@bug(modulate, (5, 3), (5, 3), leaves="a, b", causes="permuted, structure, wrong point", f_vjp=True)
def order_swapped(a, b, y_bar):
  """The cotangents of two arguments of one shape are returned in reverse order."""
  t = jnp.tanh(b)
  return y_bar * a * (1 - t * t), y_bar * t


@bug(wide_linear, (6, 4), (4, 3), leaves="w", causes="dtype", dtype=jnp.bfloat16, f_vjp=True)
def wide_cotangent(x, w, y_bar):
  """The arguments are bfloat16, the products float32, and the cotangent remains float32."""
  return y_bar @ w.T, jnp.dot(x.T, y_bar, preferred_element_type=jnp.float32)


@bug(linear, (6, 4), (4, 3), leaves="w", causes="dtype, precision", f_vjp=True)
def narrow_cotangent(x, w, y_bar):
  """The cotangent of float32 weights is returned in bfloat16."""
  return y_bar @ w.T, (x.T @ y_bar).astype(jnp.bfloat16)


def shifted_softmax(x, shift):
  """Compute the softmax of x + shift, which doesn't depend on the shift."""
  return jax.nn.softmax(x + shift, axis=-1)


@bug(shifted_softmax, (5, 3), (), leaves="shift", causes="dtype, structure", f_vjp=True)
def python_zero(x, shift, y_bar):
  """The shift's cotangent is rightly zero, but a Python float."""
  return softmax_backward(shifted_softmax(x, shift), y_bar), 0.0


@bug(chosen, (5, 3), labels(5, 3), leaves="labels", causes="structure, dtype", f_vjp=True)
def labels_with_gradient(logits, labels, y_bar):
  """The integer labels get a float cotangent."""
  one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
  return y_bar[:, None] * one_hot, jnp.zeros(labels.shape, logits.dtype)


def without_bias(params, x):
  """Compute x w alone, and keep the arguments."""
  return x @ params["w"], (params, x)


@bug(layer, layer_params(4, 3), (5, 4), causes="forward", forward=without_bias)
def output_without_bias(params, x, y_bar):
  """The forward rule omits the bias."""
  return layer_backward(params, x, y_bar)


def exponential(x):
  """Compute eˣ."""
  return jnp.exp(x)


def clamped(x):
  """Compute eˣ up to 1000."""
  return jnp.minimum(jnp.exp(x), 1e3), (x,)


@bug(exponential, (5, 3), causes="forward", forward=clamped, level="standard", f_vjp=True)
def output_clamped(x, y_bar):
  """The forward rule clamps large outputs, which this call doesn't have."""
  return (y_bar * jnp.exp(x),)


# Right rules with unusual arguments and outputs.


class Affine(NamedTuple):
  """A layer's parameters; b is None without a bias."""

  w: Any
  b: Any


def affine(p, x):
  """Compute x w + b, or x w without a bias."""
  return x @ p.w if p.b is None else x @ p.w + p.b


def affine_backward(p, x, y_bar):
  """Pull a cotangent back through `affine`; None for a b that is None."""
  return Affine(x.T @ y_bar, None if p.b is None else y_bar.sum(0)), y_bar @ p.w.T


def body_and_head(params, x):
  """Compute one hidden layer of tanh."""
  return affine(params["head"], jnp.tanh(affine(params["body"], x)))


def none_and_empty():
  """Draw parameters with a bias that is None and an empty tuple."""
  w1, b1, w2 = draw((4, 5), (5,), (5, 3))
  return {"body": Affine(w1, b1), "empty": (), "head": Affine(w2, None)}


@right(body_and_head, none_and_empty, (6, 4), f_vjp=True)
def right_none_leaves(params, x, y_bar):
  """The parameters are NamedTuples in a dictionary, with one bias None, and an empty tuple."""
  h = jnp.tanh(affine(params["body"], x))
  head_bar, h_bar = affine_backward(params["head"], h, y_bar)
  body_bar, x_bar = affine_backward(params["body"], x, h_bar * (1 - h * h))
  return {"body": body_bar, "empty": (), "head": head_bar}, x_bar


@right(chosen, (5, 3), labels(5, 3), f_vjp=True)
def right_float0(logits, labels, y_bar):
  """The labels' cotangent is a float0 array, as from jax.vjp."""
  logits_bar = jnp.zeros_like(logits).at[jnp.arange(labels.shape[0]), labels].add(y_bar)
  return logits_bar, np.zeros(labels.shape, jax.dtypes.float0)


def masked(x, mask, scale):
  """Scale the entries where the mask is true, and set the others to 0."""
  return jnp.where(mask, scale * x, 0)


def mask_of_signs():
  """Draw a boolean mask."""
  return draw((5, 3), (5, 3))[1] > 0


@right(masked, (5, 3), mask_of_signs, ())
def right_mask_and_scalar(x, mask, scale, y_bar):
  """A boolean mask and a float scale that is a scalar array."""
  kept = jnp.where(mask, y_bar, 0)
  return scale * kept, None, jnp.vdot(kept, x)


def normal_log_density(x, mean, log_scale):
  """Compute the log density of a normal distribution, up to a constant."""
  z = (x - mean) * jnp.exp(-log_scale)
  return -0.5 * z * z - log_scale


@right(normal_log_density, (), (), ())
def right_scalars(x, mean, log_scale, y_bar):
  """Three scalars, and a scalar out."""
  inverse = jnp.exp(-log_scale)
  z = (x - mean) * inverse
  return -y_bar * z * inverse, y_bar * z * inverse, y_bar * (z * z - 1)


def moments(x):
  """Compute mean and variance over the examples."""
  return {"mean": x.mean(0), "var": x.var(0)}


@right(moments, (6, 3))
def right_several_outputs(x, bars):
  """Mean and variance as a dictionary, each with its cotangent."""
  return ((bars["mean"] + 2 * bars["var"] * (x - x.mean(0))) / max(x.shape[0], 1),)


def first_layer(params, x):
  """Compute the first layer alone."""
  return layer(params[0], x)


@right(first_layer, mlp_params(4, 3, 2), (5, 4), f_vjp=True)
def right_unused_parameter(params, x, y_bar):
  """A parameter that the function doesn't use has a zero cotangent."""
  used = {"b": jnp.einsum("no->o", y_bar), "w": x.T @ y_bar}
  return (used, jax.tree.map(jnp.zeros_like, params[1])), y_bar @ params[0]["w"].T
