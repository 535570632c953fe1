"""The rows of single layers: activations, dense, normalisation, dropout."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.layers import activations
from fbackprop.layers.dense import dense
from fbackprop.layers.dropout import dropout
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.types import Array, Layer
from fbackprop.verify.cases.case import CLASSES, Case, Generator, Primals, Reference, always
from fbackprop.verify.cases.gates import GATES

Make = Callable[[Any], Layer]


def params_and_x(rng: Generator, n: int, dtype: Any, make: Make, d_in: int) -> Primals:
  """Draw inputs, and parameters in the shapes of `init` with nonzero biases."""
  shapes = jax.eval_shape(make(dtype).init, jax.random.key(0))

  def drawn(leaf: Any) -> np.ndarray:
    return (0.7 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

  return jax.tree.map(drawn, shapes), rng.normal(size=(n, d_in)).astype(dtype)


def at_rest(dtype: Any, make: Make, d_in: int) -> list[Primals]:
  """Return x = 0 and b = 0, where every pre-activation is exactly zero."""
  params, x = params_and_x(np.random.default_rng(0), 2, dtype, make, d_in)

  def without_bias(leaf: np.ndarray) -> np.ndarray:
    return leaf if leaf.ndim > 1 else np.zeros_like(leaf)

  return [(jax.tree.map(without_bias, params), np.zeros_like(x))]


def layer_row(
  name: str, make: Make, d_in: int, reference: Reference, rest: bool = False, **fields: Any
) -> Case:
  """Return the row of a layer of `d_in` features; `rest` adds the point where all is zero."""
  kinks = partial(at_rest, make=make, d_in=d_in) if rest else None
  draw = partial(params_and_x, make=make, d_in=d_in)
  return Case(name, make, draw, reference, kinks)._replace(**fields)


# --- Activations ----------------------------------------------------------------------------------


def without_params(function: Reference, params: Any, x: Array) -> Array:
  return function(x)


# The fast suite tests only these, since the rows of the gates test the same rules.
FAST = ("relu", "softmax")


def activation_rows() -> list[Case]:
  """Return a row for each activation layer, in alphabetical order."""
  references = {case.make(None).name: case.reference for case in GATES}
  references[activations.softmax.name] = jax.nn.softmax
  layers = {u.name: u for u in vars(activations).values() if isinstance(u, Layer)}
  return [
    layer_row(
      name, partial(always, layer), 3, partial(without_params, references[name]),
      rest=name in FAST, slow=name not in FAST, title=name,
    )
    for name, layer in sorted(layers.items())
  ]  # fmt: skip


# --- Dense ----------------------------------------------------------------------------------------


def affine(params: Any, x: Array) -> Array:
  return x @ params.w if params.b is None else x @ params.w + params.b[None, :]


def make_dense(dtype: Any, bias: bool = True) -> Layer:
  return dense(3, CLASSES, bias=bias, dtype=dtype)


# --- Normalisation --------------------------------------------------------------------------------


def layer_normed(params: Any, x: Array, eps: float = 1e-5) -> Array:
  centered = x - x.mean(1, keepdims=True)
  x_hat = centered / jnp.sqrt((centered**2).mean(1, keepdims=True) + eps)
  return x_hat * params.scale[None, :] + params.shift[None, :]


def rms_normed(params: Any, x: Array, eps: float = 1e-5) -> Array:
  return x / jnp.sqrt((x**2).mean(1, keepdims=True) + eps) * params.scale[None, :]


def make_norm(dtype: Any, norm: Callable[..., Layer], eps: float = 1e-5) -> Layer:
  return norm(4, eps=eps, dtype=dtype)


def norm_row(
  name: str, norm: Callable[..., Layer], reference: Reference, eps: float = 1e-5, **fields: Any
) -> Case:
  make = partial(make_norm, norm=norm, eps=eps)
  kinks = partial(equal_features, make=make)
  return layer_row(name, make, 4, partial(reference, eps=eps), kinks=kinks, **fields)


def equal_features(dtype: Any, make: Make) -> list[Primals]:
  """Return features without variance, and features that are all zero: eps decides the result."""
  params, _ = params_and_x(np.random.default_rng(0), 2, dtype, make, 4)
  return [(params, np.array([[2.0] * 4, [0.0] * 4], dtype))]


# --- Dropout --------------------------------------------------------------------------------------

RATE = 0.3


def mask_of(key: Array, shape: tuple[int, ...]) -> Array:
  """Return the mask: a function of the key and the shape, whatever the dtype."""
  return jax.random.bernoulli(key, jnp.float32(1 - RATE), shape)


def dropped(params: Any, x: Array, mask: Array) -> Array:
  return jnp.where(mask, x / (1 - RATE), 0.0)


def with_key(rng: Generator, n: int, dtype: Any, make: Make, d_in: int) -> Primals:
  params, x = params_and_x(rng, n, dtype, make, d_in)
  return params, x, jax.random.key(int(rng.integers(2**31)))


def drawn_row(
  name: str, make: Make, d_in: int, reference: Reference, masks: Any, **fields: Any
) -> Case:
  """Return the row of a random layer, which gets a key where its reference gets the masks."""
  draw = partial(with_key, make=make, d_in=d_in)
  return Case(name, make, draw, reference, constants=masks)._replace(**fields)


ACTIVATIONS = tuple(activation_rows())
LAYERS = (
  layer_row("dense", make_dense, 3, affine, title="dense"),
  layer_row("dense_no_bias", partial(make_dense, bias=False), 3, affine, title="dense, no bias"),
  norm_row("layer_norm", layer_norm, layer_normed, title="layer_norm"),
  norm_row("layer_norm_eps", layer_norm, layer_normed, eps=0.5, slow=True),
  norm_row("rms_norm", rms_norm, rms_normed, title="rms_norm"),
  drawn_row(
    "dropout", partial(always, dropout(RATE)), 3, dropped,
    lambda params, x, key: (mask_of(key, x.shape),), title="dropout",
  ),
)  # fmt: skip
