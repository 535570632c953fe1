"""Structure: trees, shapes, dtypes, None, and an output that differs from the function's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, draw, labels, mlp_params, one_layer, right


@bug("structure", lambda params, x: ref.layer(params[1], ref.layer(params[0], x)),
     mlp_params(4, 5, 3), (6, 4), f_vjp=True)  # fmt: skip
def list_for_tuple(params, x, y_bar):
  """The parameters are a tuple of dictionaries, and their cotangents a list."""
  second_bar, h_bar = ref.layer_backward(params[1], ref.layer(params[0], x), y_bar)
  first_bar, x_bar = ref.layer_backward(params[0], x, h_bar)
  return [first_bar, second_bar], x_bar


@bug("params/b, params: structure, no gradient", ref.layer, one_layer(4, 3), (5, 4), f_vjp=True)
def leaf_missing(params, x, y_bar):
  """The bias is absent from the cotangent's dictionary."""
  return {"w": x.T @ y_bar}, y_bar @ params["w"].T


@bug("x: structure, no gradient", ref.layer, one_layer(4, 3), (5, 4), f_vjp=True)
def argument_missing(params, x, y_bar):
  """The function has two arguments, and the rule returns one cotangent."""
  return ({"b": y_bar.sum(0), "w": x.T @ y_bar},)


@bug("x: no gradient", ref.layer, one_layer(4, 3), (5, 4), f_vjp=True)
def none_for_float(params, x, y_bar):
  """The input is treated as data, and its cotangent is None."""
  return {"b": y_bar.sum(0), "w": x.T @ y_bar}, None


@bug("params/b: structure", ref.layer, one_layer(4, 3), (5, 4), f_vjp=True)
def bias_kept_axis(params, x, y_bar):
  """keepdims leaves the bias's cotangent as [1, D], which broadcasts in every update."""
  return {"b": y_bar.sum(0, keepdims=True), "w": x.T @ y_bar}, y_bar @ params["w"].T


@bug("b: structure", ref.shift, (5, 3), (3,), f_vjp=True)
def bias_not_summed(x, b, y_bar):
  """The bias's cotangent is [N, D], one for each example."""
  return y_bar, y_bar


@bug("a, b: permuted, structure, wrong point", lambda a, b: a * jnp.tanh(b), (5, 3), (5, 3),
     f_vjp=True)  # fmt: skip
def order_swapped(a, b, y_bar):
  """The cotangents of two arguments of one shape are returned in reverse order."""
  t = jnp.tanh(b)
  return y_bar * a * (1 - t * t), y_bar * t


@bug("w: dtype", ref.wide_linear, (6, 4), (4, 3), dtype=jnp.bfloat16, f_vjp=True)
def wide_cotangent(x, w, y_bar):
  """The arguments are bfloat16, the products float32, and the cotangent remains float32."""
  return y_bar @ w.T, jnp.dot(x.T, y_bar, preferred_element_type=jnp.float32)


@bug("w: dtype, precision", ref.linear, (6, 4), (4, 3), f_vjp=True)
def narrow_cotangent(x, w, y_bar):
  """The cotangent of float32 weights is returned in bfloat16."""
  return y_bar @ w.T, (x.T @ y_bar).astype(jnp.bfloat16)


@bug("shift: dtype, structure", lambda x, shift: ref.softmax(x + shift), (5, 3), (), f_vjp=True)
def python_zero(x, shift, y_bar):
  """The shift's cotangent is rightly zero, but a Python float."""
  return ref.softmax_backward(ref.softmax(x + shift), y_bar), 0.0


@bug("labels: structure, dtype", ref.chosen, (5, 3), labels(5, 3), f_vjp=True)
def labels_with_gradient(logits, labels, y_bar):
  """The integer labels get a float cotangent."""
  one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
  return y_bar[:, None] * one_hot, jnp.zeros(labels.shape, logits.dtype)


@bug("forward", ref.layer, one_layer(4, 3), (5, 4), forward=lambda p, x: (x @ p["w"], (p, x)))
def output_without_bias(params, x, y_bar):
  """The forward rule omits the bias."""
  return ref.layer_backward(params, x, y_bar)


@bug("forward", lambda x: jnp.exp(x), (5, 3), level="standard", f_vjp=True,
     forward=lambda x: (jnp.minimum(jnp.exp(x), 1e3), (x,)))  # fmt: skip
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


def none_and_empty():
  """Draw parameters with a bias that is None and an empty tuple."""
  w1, b1, w2 = draw((4, 5), (5,), (5, 3))
  return {"body": Affine(w1, b1), "empty": (), "head": Affine(w2, None)}


@right(lambda params, x: affine(params["head"], jnp.tanh(affine(params["body"], x))),
       none_and_empty, (6, 4), f_vjp=True)  # fmt: skip
def right_none_leaves(params, x, y_bar):
  """The parameters are NamedTuples in a dictionary, with one bias None, and an empty tuple."""
  h = jnp.tanh(affine(params["body"], x))
  head_bar, h_bar = affine_backward(params["head"], h, y_bar)
  body_bar, x_bar = affine_backward(params["body"], x, h_bar * (1 - h * h))
  return {"body": body_bar, "empty": (), "head": head_bar}, x_bar


@right(ref.chosen, (5, 3), labels(5, 3), f_vjp=True)
def right_float0(logits, labels, y_bar):
  """The labels' cotangent is a float0 array, as from jax.vjp."""
  logits_bar = jnp.zeros_like(logits).at[jnp.arange(labels.shape[0]), labels].add(y_bar)
  return logits_bar, np.zeros(labels.shape, jax.dtypes.float0)


@right(lambda x, m, s: jnp.where(m, s * x, 0), (5, 3), lambda: draw((5, 3), (5, 3))[1] > 0, ())
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


@right(lambda x: {"mean": x.mean(0), "var": x.var(0)}, (6, 3))
def right_several_outputs(x, bars):
  """Mean and variance as a dictionary, each with its cotangent."""
  return ((bars["mean"] + 2 * bars["var"] * (x - x.mean(0))) / max(x.shape[0], 1),)


@right(lambda params, x: ref.layer(params[0], x), mlp_params(4, 3, 2), (5, 4), f_vjp=True)
def right_unused_parameter(params, x, y_bar):
  """A parameter that the function doesn't use has a zero cotangent."""
  used = {"b": jnp.einsum("no->o", y_bar), "w": x.T @ y_bar}
  return (used, jax.tree.map(jnp.zeros_like, params[1])), y_bar @ params[0]["w"].T
