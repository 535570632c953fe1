"""The rows of chains, skips, repetitions, rematerialisation, and networks that combine them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.combinators import serial, skip
from fbackprop.layers.activations import gelu, relu, sigmoid, silu, tanh
from fbackprop.layers.dense import dense
from fbackprop.layers.dropout import dropout
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.networks import mlp
from fbackprop.repetition import remat, repeat
from fbackprop.types import Array, Layer
from fbackprop.verify.cases.case import CLASSES, Case, Primals
from fbackprop.verify.cases.layers import (
  ACTIVATIONS,
  RATE,
  Reference,
  affine,
  drawn_row,
  dropped,
  layer_normed,
  layer_row,
  mask_of,
  rms_normed,
)

REFERENCES = {row.title: row.reference for row in ACTIVATIONS}


def chain_of(*references: Reference) -> Reference:
  """Return the reference of a chain, given the references of its layers."""

  def reference(params: Any, x: Array) -> Array:
    for layer_params, f in zip(params, references, strict=True):
      x = f(layer_params, x)
    return x

  return reference


def copy_of(params: Any, i: int) -> Any:
  """Return the parameters of copy i of a repeated layer."""
  return jax.tree.map(lambda leaf: leaf[i], params)


# --- Chains ---------------------------------------------------------------------------------------


def make_chain(dtype: Any) -> Layer:
  return serial(dense(3, 4, dtype=dtype), tanh, dense(4, 2, bias=False, dtype=dtype))


def make_nested(dtype: Any) -> Layer:
  return serial(make_chain(dtype), gelu, dense(2, CLASSES, dtype=dtype))


def make_empty(dtype: Any) -> Layer:
  return serial()


chain = chain_of(affine, REFERENCES["tanh"], affine)
nested = chain_of(chain, REFERENCES["gelu"], affine)

# --- Skip, repeat, remat --------------------------------------------------------------------------


def make_skip(dtype: Any) -> Layer:
  return skip(serial(dense(3, 5, dtype=dtype), tanh, dense(5, 3, dtype=dtype)))


def skipped(params: Any, x: Array) -> Array:
  return x + chain(params, x)


def make_repeat(dtype: Any) -> Layer:
  """Build a repetition in the form of least memory: the activation comes first."""
  return repeat(serial(tanh, dense(3, 3, dtype=dtype)), 3)


def repeated(params: Any, x: Array) -> Array:
  for i in range(3):
    x = affine(copy_of(params[1], i), jnp.tanh(x))
  return x


# The variance of three features can nearly vanish, and normalisation would then amplify every
# rounding error; this eps bounds the amplification.
TAME = 0.5


def make_repeat_of_skip(dtype: Any) -> Layer:
  norm = layer_norm(3, eps=TAME, dtype=dtype)
  return repeat(skip(serial(dense(3, 3, dtype=dtype), norm, gelu)), 2)


def repeated_skip(params: Any, x: Array) -> Array:
  for i in range(2):
    own, norm, _ = copy_of(params, i)
    x = x + REFERENCES["gelu"]((), layer_normed(norm, affine(own, x), TAME))
  return x


def make_remat(dtype: Any) -> Layer:
  return remat(make_nested(dtype))


def make_noisy(dtype: Any) -> Layer:
  """Build dropout in a remat in a repeat, and another dropout in the chain around it."""
  block = serial(tanh, dropout(RATE), dense(3, 3, dtype=dtype))
  return serial(dropout(RATE), repeat(remat(block), 2), dense(3, 2, dtype=dtype))


def masks_of(shape: tuple[int, ...], key: Array) -> Primals:
  """Return the masks of a random layer followed by two copies of another one, in a chain.

  A chain derives keys by counting its random parts; a repeat splits its key.
  """
  keys = jax.random.split(jax.random.fold_in(key, 1), 2)
  return tuple(mask_of(jax.random.fold_in(k, 0), shape) for k in (key, *keys))


def noisy_masks(params: Any, x: Array, key: Array) -> Primals:
  return masks_of(x.shape, key)


def noisy(params: Any, x: Array, first: Array, *inner: Array) -> Array:
  x = dropped((), x, first)
  for i, mask in enumerate(inner):
    x = affine(copy_of(params[1][2], i), dropped((), jnp.tanh(x), mask))
  return affine(params[2], x)


# A loop hides which copy a parameter belongs to from the law on reading parameters;
# `test_structure.py` covers `repeat`.
COMPOSITIONS = (
  layer_row("chain", make_chain, 3, chain),
  layer_row("chain_nested", make_nested, 3, nested, rest=True, title="serial"),
  layer_row("chain_empty", make_empty, 3, chain_of()),
  layer_row("skip", make_skip, 3, skipped, title="skip"),
  layer_row("repeat", make_repeat, 3, repeated, reads_own_params=True, title="repeat"),
  layer_row(
    "repeat_skip", make_repeat_of_skip, 3, repeated_skip, reads_own_params=True, slow=True
  ),
  layer_row("remat", make_remat, 3, nested, reads_own_params=True, title="remat"),
  drawn_row("noisy", make_noisy, 3, noisy, noisy_masks, reads_own_params=True, slow=True),
)  # fmt: skip

# --- Multilayer perceptrons -----------------------------------------------------------------------


def make_mlp(dtype: Any, sizes: tuple[int, ...], **options: Any) -> Layer:
  return mlp(sizes, dtype=dtype, **options)


def mlp_row(
  name: str,
  sizes: tuple[int, ...],
  activation: Layer,
  last: Layer | None = None,
  rest: bool = False,
  title: str = "",
  **options: Any,
) -> Case:
  """Return the row of a multilayer perceptron with hidden blocks of dense and activation."""
  hidden = (affine, REFERENCES[activation.name]) * (len(sizes) - 2)
  reference = chain_of(*hidden, affine, *([REFERENCES[last.name]] if last else []))
  options = {**options, "activation": activation, "output_activation": last}
  make = partial(make_mlp, sizes=sizes, **options)
  return layer_row(name, make, sizes[0], reference, rest, title=title)


def make_deep(dtype: Any, **options: Any) -> Layer:
  return mlp([3, 4, 4, 4, CLASSES], tanh, normalization=rms_norm, dtype=dtype, **options)


def deep(params: Any, x: Array) -> Array:
  into, blocks, norm, _, last = params
  x = affine(into, x)
  for i in range(2):
    block_norm, _, own = copy_of(blocks, i)
    x = affine(own, jnp.tanh(rms_normed(block_norm, x)))
  return affine(last, jnp.tanh(rms_normed(norm, x)))


def make_everything(dtype: Any) -> Layer:
  options = {"dropout": RATE, "skip": True, "repeat_hidden": True, "dtype": dtype}
  return mlp([3, 4, 4, 4, CLASSES], silu, normalization=layer_norm, **options)


def everything_masks(params: Any, x: Array, key: Array) -> Primals:
  return masks_of((len(x), 4), key)


def everything(params: Any, x: Array, first: Array, *inner: Array) -> Array:
  into, norm, _, _, blocks, last = params

  def block(own: Any, norm: Any, x: Array, mask: Array) -> Array:
    return dropped((), jax.nn.silu(layer_normed(norm, affine(own, x))), mask)

  x = block(into, norm, x, first)
  for i, mask in enumerate(inner):
    own, block_norm, _, _ = copy_of(blocks, i)
    x = x + block(own, block_norm, x, mask)
  return affine(last, x)


MLPS = (
  mlp_row("mlp_relu", (3, 6, 5, CLASSES), relu, rest=True, title="mlp"),
  mlp_row("mlp_tanh", (3, 5, 2, CLASSES), tanh),
  mlp_row("mlp_gelu", (3, 5, CLASSES), gelu),
  mlp_row("mlp_output_activation", (3, 5, CLASSES), tanh, sigmoid),
  mlp_row("mlp_no_bias", (3, 6, CLASSES), silu, bias=False, title="mlp, no bias"),
  layer_row(
    "mlp_deep", partial(make_deep, repeat_hidden=True), 3, deep, reads_own_params=True, slow=True,
    title="mlp, rms_norm, repeat",
  ),
  drawn_row(
    "mlp_everything", make_everything, 3, everything, everything_masks, reads_own_params=True,
    slow=True, title="mlp, everything",
  ),
)  # fmt: skip
