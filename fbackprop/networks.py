"""The multilayer perceptron: dense layers with an activation between them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.activations import relu
from fbackprop.checks import DtypeError, ShapeError, check_size, describe
from fbackprop.combinators import serial
from fbackprop.linear import Initializer, dense
from fbackprop.types import Layer

# He's variance 2/D_in is derived for a unit that passes half of its input; gelu nearly does.
HE_ACTIVATIONS = ("relu", "gelu")


def mlp(
  sizes: Sequence[int],
  activation: Layer = relu,
  *,
  output_activation: Layer | None = None,
  dense: Callable[..., Layer] = dense,
  bias: bool = True,
  w_init: Initializer | None = None,
  b_init: Initializer | None = None,
  dtype: Any = jnp.float32,
) -> Layer:
  """A feedforward network y = f(x; Θ): `dense`, activation, `dense`, ..., `dense`.

  Args:
    sizes: widths from input to output, at least two: `[64, 128, 10]` has one hidden layer of 128.
    activation: the layer after each hidden `dense`.
    output_activation: the layer after the last `dense`; None leaves the outputs as they are:
      logits, or a regression's values.
    dense: the constructor of the dense layers, called as `fbackprop.dense` is.
    bias: whether the dense layers add b.
    w_init: initialiser of every w; by default `he_normal` where relu or gelu follows (He et al.,
      ICCV 2015), and `glorot_uniform` elsewhere, also in the last layer (Glorot, Bengio,
      AISTATS 2010), from `jax.nn.initializers`.
    b_init: initialiser of every b; by default zeros.
    dtype: floating dtype of parameters, inputs and outputs.

  Returns:
    A `serial` Layer of name "mlp". `jax.tree.leaves(params)` gives w, b, w, b, ... from the first
    layer to the last.

  Raises:
    TypeError: a size isn't an integer, an activation isn't a Layer, `dtype` isn't floating.
    ValueError: fewer than two sizes, or a size below 1.

  Example:
    >>> net = mlp([64, 128, 10])
    >>> params = net.init(jax.random.key(0))
    >>> [leaf.shape for leaf in jax.tree.leaves(params)]
    [(64, 128), (128,), (128, 10), (10,)]
  """
  if not isinstance(sizes, list | tuple):
    raise DtypeError(f"mlp: sizes must be a list or tuple of integers, got {describe(sizes)}")
  if len(sizes) < 2:
    raise ShapeError(f"mlp: sizes must name at least an input and an output width, got {sizes}")
  for i, size in enumerate(sizes):
    check_size("mlp", f"sizes[{i}]", size)
  check_activation("activation", activation)
  if output_activation is not None:
    check_activation("output_activation", output_activation)

  def dense_before(follower: Layer | None, d_in: int, d_out: int) -> Layer:
    follows_he = follower is not None and follower.name in HE_ACTIVATIONS
    init = jax.nn.initializers.he_normal() if w_init is None and follows_he else w_init
    return dense(d_in, d_out, bias=bias, w_init=init, b_init=b_init, dtype=dtype)

  layers: list[Layer] = []
  for d_in, d_out in itertools.pairwise(sizes[:-1]):
    layers += [dense_before(activation, d_in, d_out), activation]
  layers.append(dense_before(output_activation, sizes[-2], sizes[-1]))
  if output_activation is not None:
    layers.append(output_activation)
  return serial(*layers)._replace(name="mlp")


def check_activation(name: str, layer: Any) -> None:
  """Refuses a bare function, a gate, a string: what a newcomer would pass."""
  if not isinstance(layer, Layer):
    hint = "; lift a gate by fbackprop.activation(gate)" if hasattr(layer, "arity") else ""
    raise DtypeError(
      f"mlp: {name} must be a Layer, such as fbackprop.relu, got {describe(layer)}{hint}"
    )
