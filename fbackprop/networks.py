"""The multilayer perceptron: dense layers with activations between them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop import gates
from fbackprop.checks import DtypeError, ShapeError, check_flag, check_size, check_that, describe
from fbackprop.combinators import repeat, serial
from fbackprop.combinators import skip as skipped
from fbackprop.errors import noted
from fbackprop.layers.activations import relu
from fbackprop.layers.dense import Initializer, dense
from fbackprop.layers.dropout import dropout as make_dropout
from fbackprop.types import Gate, Layer


def mlp(
  sizes: Sequence[int],
  activation: Layer = relu,
  *,
  output_activation: Layer | None = None,
  dense: Callable[..., Layer] = dense,
  bias: bool = True,
  normalization: Callable[..., Layer] | None = None,
  dropout: float = 0.0,
  skip: bool = False,
  repeat_hidden: bool = False,
  w_init: Initializer | None = None,
  b_init: Initializer | None = None,
  dtype: Any = jnp.float32,
) -> Layer:
  """Build a feedforward network y = f(x; Θ): `dense`, activation, `dense`, ..., `dense`.

  A hidden block is dense, normalization, activation, dropout. `skip` and `repeat_hidden` act on
  the blocks from a hidden width to an equal one.

  Args:
    sizes: widths from input to output, at least two: `[64, 128, 10]` has one hidden layer of 128.
    activation: the layer after each hidden `dense`.
    output_activation: the layer after the last `dense`; None leaves the outputs as they are:
      logits, or a regression's values.
    dense: the constructor of the dense layers, called as `fbackprop.dense` is.
    bias: whether the dense layers add b.
    normalization: the constructor of the layer after each hidden `dense`, called as
      `fbackprop.layer_norm` is; None for none.
    dropout: rate of the dropout after each hidden activation; 0 for none.
    skip: whether a block from a hidden width to an equal one computes x + block(x).
    repeat_hidden: whether a run of such blocks is one compiled loop (`fbackprop.repeat`): the same
      function, with stacked parameters, and a compile time that doesn't grow with depth.
    w_init: initialiser of every w, from `jax.nn.initializers`. By default it is the `initializer`
      of the gate that follows: `he_normal` before relu, leaky_relu, relu6, gelu, gelu_tanh, silu
      and mish (He et al., ICCV 2015), `lecun_normal` before selu (Klambauer et al., NIPS 2017), and
      `glorot_uniform` elsewhere, also in the last layer (Glorot, Bengio, AISTATS 2010).
    b_init: initialiser of every b; by default zeros.
    dtype: floating dtype of parameters, inputs and outputs.

  Returns:
    A `serial` Layer of name "mlp". `jax.tree.leaves(params)` of a plain one gives w, b, w, b, ...
    from the first layer to the last.

  Raises:
    TypeError: a size isn't an integer, an activation isn't a Layer, a constructor doesn't give
      one, `dtype` isn't floating.
    ValueError: fewer than two sizes, a size below 1, or a rate that isn't from 0 to below 1.

  Example:
    >>> from fbackprop.layers.normalization import layer_norm
    >>> net = mlp([64, 128, 10])
    >>> params = net.init(jax.random.key(0))
    >>> [leaf.shape for leaf in jax.tree.leaves(params)]
    [(64, 128), (128,), (128, 10), (10,)]
    >>> deep = mlp([64, *[128] * 1000, 10], normalization=layer_norm, repeat_hidden=True)
    >>> [part.name for part in deep.parts]
    ['dense', 'repeat', 'layer_norm', 'relu', 'dense']
  """
  is_list = isinstance(sizes, list | tuple)
  check_that("mlp", "sizes", sizes, is_list, "be a list or tuple of integers")
  if len(sizes) < 2:
    problem = f"must name at least an input and an output width, got {sizes}"
    raise ShapeError(problem, "sizes", "mlp")
  for i, size in enumerate(sizes):
    check_size("mlp", f"sizes[{i}]", size)
  check_activation("activation", activation)
  if output_activation is not None:
    check_activation("output_activation", output_activation)

  def dense_before(follower: Layer | None, d_in: int, d_out: int) -> Layer:
    init = init_before(follower) if w_init is None else w_init
    return make("dense", dense, d_in, d_out, bias=bias, w_init=init, b_init=b_init, dtype=dtype)

  for name, flag in (("skip", skip), ("repeat_hidden", repeat_hidden)):
    check_flag("mlp", name, flag)
  noise = [layer] if (layer := make_dropout(dropout)).draws else []

  def after_dense(width: int) -> list[Layer]:
    if normalization is None:
      return [activation, *noise]
    return [make("normalization", normalization, width, dtype=dtype), activation, *noise]

  def make_block(width: int) -> list[Layer]:
    # In a loop the activation goes first: see `repeat`. Around a skip there is nothing to share.
    within, after = dense_before(activation, width, width), after_dense(width)
    return [skipped(serial(within, *after))] if skip else [*after, within]

  layers: list[Layer] = []
  d_in = sizes[0]
  for width, run in itertools.groupby(sizes[1:-1]):
    more = len(list(run)) - 1
    into, after = dense_before(activation, d_in, width), after_dense(width)
    if repeat_hidden and more:
      block = make_block(width)
      blocks = [repeat(block[0] if skip else serial(*block), more)]
    else:
      blocks = [layer for _ in range(more) for layer in make_block(width)]
    layers += [into, *after, *blocks] if skip else [into, *blocks, *after]
    d_in = width
  layers.append(dense_before(output_activation, d_in, sizes[-1]))
  if output_activation is not None:
    layers.append(output_activation)
  return serial(*layers)._replace(name="mlp")


def init_before(follower: Layer | None) -> Initializer | None:
  """Choose a dense layer's initialiser by the layer that follows; None for Glorot's."""
  if follower is None:
    return None
  # A gate of the reader's own may state none, but have the name of one of ours.
  for gate in (dict(follower.options).get("gate"), getattr(gates, follower.name, None)):
    if isinstance(gate, Gate) and gate.initializer is not None:
      return getattr(jax.nn.initializers, gate.initializer)()
  return None


def make(name: str, constructor: Any, *sizes: int, **options: Any) -> Layer:
  """Call a constructor that the user has passed; raise if it doesn't return a layer."""
  is_function = callable(constructor) and not isinstance(constructor, Layer)
  wanted = "be the constructor of a layer, such as fbackprop.dense or fbackprop.layer_norm"
  check_that("mlp", name, constructor, is_function, wanted)
  with noted(f"while mlp called {name} with {sizes} and {', '.join(options)}"):
    layer = constructor(*sizes, **options)
  if not isinstance(layer, Layer):
    raise DtypeError(f"must construct a Layer, it gave {describe(layer)}", name, "mlp")
  return layer


def check_activation(name: str, layer: Any) -> None:
  """Raise for a bare function, a gate or a string: what a newcomer would pass."""
  if not isinstance(layer, Layer):
    hint = "; lift a gate by fbackprop.activation(gate)" if hasattr(layer, "arity") else ""
    problem = f"must be a Layer, such as fbackprop.relu, got {describe(layer)}{hint}"
    raise DtypeError(problem, name, "mlp")
