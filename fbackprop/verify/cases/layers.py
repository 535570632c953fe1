"""The rows of layers: single ones, chains, skips, repetitions, and networks that combine them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import gates
from fbackprop.combinators import remat, repeat, serial, skip
from fbackprop.graphs import graph, shared, transposed
from fbackprop.layers import activations
from fbackprop.layers.activations import gelu, relu, sigmoid, silu, tanh
from fbackprop.layers.convolution import conv1d
from fbackprop.layers.dense import dense
from fbackprop.layers.dropout import dropout
from fbackprop.layers.merging import add, concatenate, multiply, split
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.layers.recurrence import recurrent
from fbackprop.networks import mlp
from fbackprop.types import Array, Layer
from fbackprop.verify.cases.case import CLASSES, Case, Generator, Primals, Reference, always
from fbackprop.verify.cases.gates import GATES

Make = Callable[[Any], Layer]


def params_and_x(rng: Generator, n: int, dtype: Any, make: Make, d_in: int) -> Primals:
  """Draw inputs, and parameters in the shapes of `init` with nonzero biases."""
  shapes = jax.eval_shape(make(dtype).init, jax.random.key(0))
  params = jax.tree.map(lambda x: (0.7 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
  return params, rng.normal(size=(n, d_in)).astype(dtype)


def at_rest(dtype: Any, make: Make, d_in: int) -> list[Primals]:
  """Return x = 0 and b = 0, where every pre-activation is exactly zero."""
  params, x = params_and_x(np.random.default_rng(0), 2, dtype, make, d_in)
  params = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else np.zeros_like(leaf), params)
  return [(params, np.zeros_like(x))]


def layer_row(
  name: str, make: Make, d_in: int, reference: Reference, rest: bool = False, **fields: Any
) -> Case:
  """Return the row of a layer of `d_in` features; `rest` adds the point where all is zero.

  A row with `constants` is that of a random layer, which gets a key where its reference gets them.
  """
  kinks = partial(at_rest, make=make, d_in=d_in) if rest else None
  draw = partial(with_key if "constants" in fields else params_and_x, make=make, d_in=d_in)
  return Case(name, make, draw, reference, kinks)._replace(**fields)


# --- Activations ----------------------------------------------------------------------------------


def without_params(function: Reference, params: Any, x: Array) -> Array:
  return function(x)


# The fast suite tests only these, since the rows of the gates test the same rules.
FAST = ("relu", "softmax")

# By name, as functions of x alone.
FUNCTIONS = {case.make(None).name: case.reference for case in GATES} | {"softmax": jax.nn.softmax}
ACTIVATIONS = tuple(
  layer_row(
    name, partial(always, layer), 3, partial(without_params, FUNCTIONS[name]), rest=name in FAST,
    slow=name not in FAST, title=name,
  )
  for name, layer in sorted(vars(activations).items()) if isinstance(layer, Layer)
)  # fmt: skip
REFERENCES = {row.title: row.reference for row in ACTIVATIONS}

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


def norm_row(
  name: str, norm: Callable[..., Layer], reference: Reference, eps: float = 1e-5, **fields: Any
) -> Case:
  def make(dtype: Any) -> Layer:
    return norm(4, eps=eps, dtype=dtype)

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


LAYERS = (
  layer_row("dense", make_dense, 3, affine, title="dense"),
  layer_row("dense_no_bias", partial(make_dense, bias=False), 3, affine, title="dense, no bias"),
  norm_row("layer_norm", layer_norm, layer_normed, title="layer_norm"),
  norm_row("layer_norm_eps", layer_norm, layer_normed, eps=0.5, slow=True),
  norm_row("rms_norm", rms_norm, rms_normed, title="rms_norm"),
  layer_row(
    "dropout", partial(always, dropout(RATE)), 3, dropped, title="dropout",
    constants=lambda params, x, key: (mask_of(key, x.shape),),
  ),
)  # fmt: skip

# --- Sequences ------------------------------------------------------------------------------------

PLACES = {"length": 6, "c_in": 2, "c_out": 3, "taps": 3}
# Three places, at both ends over zeros; the last point of padding meets no tap.
STRIDED = {"length": 7, "c_in": 2, "c_out": 3, "taps": 4, "stride": 2, "padding": 1}


def make_conv1d(dtype: Any, options: dict[str, Any]) -> Layer:
  return conv1d(**options, dtype=dtype)


def lax_conv(params: Any, x: Array, options: dict[str, Any]) -> Array:
  """Return the same by `jax.lax`, which shares nothing with the rule."""
  n, zeros = x.shape[0], options.get("padding", 0)
  y = jax.lax.conv_general_dilated(
    x.reshape(n, options["length"], options["c_in"]), params.w,
    window_strides=(options.get("stride", 1),), padding=[(zeros, zeros)],
    dimension_numbers=("NWC", "WIO", "NWC"),
  )  # fmt: skip
  return (y + params.b[None, None, :]).reshape(n, -1)


def make_recurrent(dtype: Any, **options: Any) -> Layer:
  return recurrent(3, 2, 4, **options, dtype=dtype)


def unrolled(params: Any, x: Array, function: Reference, all_steps: bool) -> Array:
  """Return the states of three steps, or the last one, step by step."""
  state, states = jnp.zeros((x.shape[0], 4)), []
  for t in range(3):
    state = function(x[:, 2 * t : 2 * t + 2] @ params.w + state @ params.u + params.b[None, :])
    states.append(state)
  return jnp.concatenate(states, 1) if all_steps else state


SEQUENCES = (
  layer_row(
    "conv1d", partial(make_conv1d, options=STRIDED), 14, partial(lax_conv, options=STRIDED),
    title="conv1d",
  ),
  layer_row(
    "conv1d_plain", partial(make_conv1d, options=PLACES), 12, partial(lax_conv, options=PLACES),
    slow=True,
  ),
  layer_row(
    "recurrent", make_recurrent, 6, partial(unrolled, function=jnp.tanh, all_steps=False),
    reads_own_params=True, title="recurrent",
  ),
  layer_row(
    "recurrent_all", partial(make_recurrent, gate=gates.gelu, all_steps=True), 6,
    partial(unrolled, function=FUNCTIONS["gelu"], all_steps=True),
    reads_own_params=True, slow=True,
  ),
)  # fmt: skip

# --- Chains ---------------------------------------------------------------------------------------


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


def make_chain(dtype: Any) -> Layer:
  return serial(dense(3, 4, dtype=dtype), tanh, dense(4, 2, bias=False, dtype=dtype))


def make_nested(dtype: Any) -> Layer:
  return serial(make_chain(dtype), gelu, dense(2, CLASSES, dtype=dtype))


chain = chain_of(affine, REFERENCES["tanh"], affine)
nested = chain_of(chain, REFERENCES["gelu"], affine)

# --- Skip, repeat, remat --------------------------------------------------------------------------


def make_skip(dtype: Any) -> Layer:
  return skip(serial(dense(3, 5, dtype=dtype), tanh, dense(5, 3, dtype=dtype)))


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
  layer_row("chain_empty", lambda dtype: serial(), 3, chain_of()),
  layer_row("skip", make_skip, 3, lambda params, x: x + chain(params, x), title="skip"),
  layer_row("repeat", make_repeat, 3, repeated, reads_own_params=True, title="repeat"),
  layer_row(
    "repeat_skip", make_repeat_of_skip, 3, repeated_skip, reads_own_params=True, slow=True
  ),
  layer_row(
    "remat", lambda dtype: remat(make_nested(dtype)), 3, nested, reads_own_params=True,
    title="remat",
  ),
  layer_row(
    "noisy", make_noisy, 3, noisy, constants=lambda params, x, key: masks_of(x.shape, key),
    reads_own_params=True, slow=True,
  ),
)  # fmt: skip

# --- Graphs ---------------------------------------------------------------------------------------

# Names in alphabetical order, which is that of a dict's leaves, go along the computation.


def make_graph(dtype: Any) -> Layer:
  """Build a fork, a sum, a product and a concatenation."""
  nodes = {
    "a": (dense(3, 4, dtype=dtype), "x"), "b": (tanh, "a"),
    "c": (dense(4, 4, bias=False, dtype=dtype), "b"), "d": (add, "b", "c", "a"),
    "e": (multiply, "d", "c"), "f": (concatenate, "e", "x"), "g": (dense(7, 2, dtype=dtype), "f"),
  }  # fmt: skip
  return graph(nodes, output="g")


def forked(params: Any, x: Array) -> Array:
  a = affine(params["a"], x)
  c = jnp.tanh(a) @ params["c"].w
  return affine(params["g"], jnp.concatenate([(jnp.tanh(a) + c + a) * c, x], 1))


def make_gated(dtype: Any) -> Layer:
  """Build a linear unit with a gate, and a node's part that nobody reads."""
  nodes = {
    "a": (dense(3, 7, dtype=dtype), "x"), "parts": (split(3, 3, 1), "a"),
    "q": (sigmoid, "parts[1]"), "y": (multiply, "parts[0]", "q"),
  }  # fmt: skip
  return graph(nodes, output="y")


def gated(params: Any, x: Array) -> Array:
  a = affine(params["a"], x)
  return a[:, :3] / (1 + jnp.exp(-a[:, 3:6]))


def make_tied(dtype: Any) -> Layer:
  """Build an autoencoder whose decoder uses the encoder's weights, twice, in a loop."""
  nodes = {
    "h": (dense(3, 2, dtype=dtype), "x"), "a": (tanh, "h"), "y": (transposed("h"), "a"),
    "h2": (shared("h"), "y"), "y2": (transposed("h", bias=False), "h2"), "z": (add, "y2", "x"),
  }  # fmt: skip
  return repeat(graph(nodes, output="z"), 2)


def tied(params: Any, x: Array) -> Array:
  for i in range(2):
    own = copy_of(params, i)
    y = jnp.tanh(affine(own["h"], x)) @ own["h"].w.T + own["y"].b[None, :]
    x = x + affine(own["h"], y) @ own["h"].w.T
  return x


GRAPHS = (
  layer_row("graph", make_graph, 3, forked, rest=True, title="graph, add, multiply, concatenate"),
  layer_row("graph_gated", make_gated, 3, gated, title="split"),
  layer_row("graph_tied", make_tied, 3, tied, reads_own_params=True, title="shared, transposed"),
)

# --- Multilayer perceptrons -----------------------------------------------------------------------


def mlp_row(
  name: str, sizes: tuple[int, ...], activation: Layer, last: Layer | None = None, **fields: Any
) -> Case:
  """Return the row of a multilayer perceptron with hidden blocks of dense and activation.

  `fields` are those of `layer_row`, and whether there is a `bias`.
  """
  hidden = (affine, REFERENCES[activation.name]) * (len(sizes) - 2)
  reference = chain_of(*hidden, affine, *([REFERENCES[last.name]] if last else []))
  make = partial(mlp, sizes, activation, output_activation=last, bias=fields.pop("bias", True))
  return layer_row(name, lambda dtype: make(dtype=dtype), sizes[0], reference, **fields)


WIDTHS = (3, 4, 4, 4, CLASSES)


def make_deep(dtype: Any) -> Layer:
  return mlp(WIDTHS, tanh, normalization=rms_norm, repeat_hidden=True, dtype=dtype)


def deep(params: Any, x: Array) -> Array:
  into, blocks, norm, _, last = params
  x = affine(into, x)
  for i in range(2):
    block_norm, _, own = copy_of(blocks, i)
    x = affine(own, jnp.tanh(rms_normed(block_norm, x)))
  return affine(last, jnp.tanh(rms_normed(norm, x)))


def make_everything(dtype: Any) -> Layer:
  options = {"dropout": RATE, "skip": True, "repeat_hidden": True, "dtype": dtype}
  return mlp(WIDTHS, silu, normalization=layer_norm, **options)


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
    "mlp_deep", make_deep, 3, deep, reads_own_params=True, slow=True, title="mlp, rms_norm, repeat"
  ),
  layer_row(
    "mlp_everything", make_everything, 3, everything, reads_own_params=True, slow=True,
    constants=lambda params, x, key: masks_of((len(x), 4), key), title="mlp, everything",
  ),
)  # fmt: skip
