"""Networks and models as serialized StableHLO programs, by `jax.export`.

A deployment file and no archive: JAX promises to read a program for six months after it was
written (`jax.export`'s compatibility guarantees); the weights outlive it as safetensors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.combinators import serial
from fbackprop.errors import RangeError, check_that
from fbackprop.export.onnx_writer import is_wide
from fbackprop.extras import check_installed
from fbackprop.layers import activations
from fbackprop.ranges import Range, check_range
from fbackprop.train.models import Description
from fbackprop.train.weights import named_leaves
from fbackprop.transforms import as_custom_vjp
from fbackprop.types import Array, Layer, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
  net: Layer,
  params: Params = None,
  *,
  about: Description | None = None,
  platforms: Sequence[str] = PLATFORMS,
  vjp_order: int = 1,
) -> bytes:
  """Export a network together with its backward pass, for any number N of rows.

  `jax.export.deserialize(data).call` runs it, and `jax.grad` of that runs our backward pass, where
  neither fbackprop nor its source is installed. JAX reads it for six months.

  Args:
    net: any network of one input `[N, D]`.
    params: its parameters, which become constants of the program `f(x) -> y`. By default the
      program is `f(params, x) -> y`, with the parameters as a dict of arrays by the names of
      `fbackprop.train.save_params`, such as "0.w".
    about: the description of a model, such as that of `fbackprop.load`: x then has raw rows, and
      the output is the probabilities `[N, C]`, or the values in the units of the data. Both are
      float32, or float64 where that would cost precision; the caller then needs x64.
    platforms: where it runs.
    vjp_order: how often it can be differentiated in reverse mode.

  Raises:
    TypeError: an argument has the wrong type.
    ValueError: the parameters are of another network, or `about` comes without any.
    ModuleNotFoundError: flatbuffers isn't installed.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([4, 8, 3])
    >>> data = to_stablehlo(net, net.init(jax.random.key(0)))
    >>> f = jax.export.deserialize(bytearray(data)).call
    >>> jax.grad(lambda x: f(x).sum())(jnp.ones((5, 4))).shape
    (5, 4)
  """
  checks.check_unit("to_stablehlo", "net", net, Layer)
  check_range("to_stablehlo", "vjp_order", vjp_order, Range(int, 0, 8))
  is_known = about is None or (isinstance(about, Description) and params is not None)
  wanted = "be the description of a model, with params"
  check_that("to_stablehlo", "about", about, is_known, wanted)
  check_installed("flatbuffers", extra="export")
  like = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  params = jax.tree.map(jnp.asarray, params)  # Constants of a program must be JAX's arrays.
  if about is not None and about.encoding is not None:
    problem = "has columns of words or missing numbers, which no program takes; export it as onnx"
    raise RangeError(problem, "about", "to_stablehlo")
  if about is None:
    if params is not None:
      checks.check_like("to_stablehlo", "params", params, like)
    function, arguments = plain(net, params, like)
    return serialize(function, arguments, platforms, vjp_order)
  with jax.enable_x64(True):  # Raw rows are standardised in float64.
    dtype = np.dtype(np.float64 if is_wide(about) else np.float32)
    x = shape_of((rows(), about.sizes[0]), dtype)
    return serialize(make_answer(net, params, about, dtype), (x,), platforms, vjp_order)


# Annotated here, as it has no types.
shape_of: Callable[..., Any] = jax.ShapeDtypeStruct


def rows() -> Any:
  """Return the symbol N."""
  return jax.export.symbolic_shape("n")[0]


def serialize(function: Any, arguments: Any, platforms: Sequence[str], vjp_order: int) -> bytes:
  """Export a function."""
  exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
  return bytes(exported.serialize(vjp_order=vjp_order))


def plain(net: Layer, params: Params, like: Params) -> tuple[Any, Any]:
  """Return a network's function, and the shapes of its arguments."""
  f = as_custom_vjp(net)
  dtype = next((leaf.dtype for leaf in jax.tree.leaves(like)), np.dtype(np.float32))
  x = shape_of((rows(), width_of(net, like)), dtype)
  if params is not None:
    return (lambda x: f(params, x)), (x,)
  structure = jax.tree.structure(like)
  names = named_leaves(like)

  def with_params(params: dict[str, Array], x: Array) -> Array:
    return f(jax.tree.unflatten(structure, [params[name] for name in names]), x)

  return with_params, (names, x)


def width_of(net: Layer, like: Params) -> int:
  """Return the number of features D, which only the layers' options say."""
  layer = net
  while layer.parts:
    layer, like = layer.parts[0], like[0] if isinstance(like, tuple) and like else like
  options = dict(layer.options)
  width = options.get("d_in", options.get("width"))
  wanted = "begin with a dense layer or a normalization, whose width is known"
  check_that("to_stablehlo", "net", net, width is not None, wanted)
  return int(width)  # type: ignore[arg-type]


def make_answer(net: Layer, params: Params, about: Description, dtype: np.dtype) -> Any:
  """Return the function from raw rows to probabilities or values."""
  own, of_values = about.standardization, about.target_standardization
  last = {"classification": (activations.softmax,), "multilabel": (activations.sigmoid,)}
  f = as_custom_vjp(serial(net, *last.get(about.task, ())))
  tail = () if about.task == "regression" else ((),)

  def answer(x: Array) -> Array:
    if own is not None:
      x = (x.astype(jnp.float64) - own.mean[None, :]) / own.scale[None, :]
    x = x.astype(jnp.float32)
    if about.ensemble is None:
      y = f((params, *tail), x)
    else:
      members = jax.vmap(lambda params: f((params, *tail), x))(params)
      y = members.mean(0)
    if of_values is not None:
      y = y.astype(jnp.float64) * of_values.scale[None, :] + of_values.mean[None, :]
    return y.astype(dtype)

  return answer
