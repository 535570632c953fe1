"""Combinators: layers made of layers; a composition has the type of its parts."""

from collections.abc import Callable
from typing import Any

import jax

from fbackprop import checks
from fbackprop.errors import DtypeError, StructureError, describe, noted
from fbackprop.types import Array, Layer, Params, Residuals


def serial(*layers: Layer) -> Layer:
  """Chain layers: x enters the first, and each output is the next layer's input.

  This is the lecture's network, and its backward pass is the whole of backpropagation: the
  cotangent of the output is pulled back through one layer at a time, from the last to the first,
  so that no intermediate term of the chain rule is computed twice.

  Args:
    *layers: any number of layers; of none, the identity. A chain may stand in a chain.

  Returns:
    A `Layer`; its parameters, and its residuals, are the tuple of those of `layers`.

  Raises:
    TypeError: something isn't a Layer.
    ValueError: when traced, `params` isn't a tuple of the length of the chain; an error of a layer
      carries a note that says at which place of the chain it stands.

  Example:
    >>> from fbackprop.layers.activations import relu
    >>> from fbackprop.layers.dense import dense
    >>> net = serial(dense(4, 8), relu, dense(8, 3))
    >>> y, residuals = net.forward(net.init(jax.random.key(0)), jax.numpy.ones((5, 4)))
    >>> y.shape
    (5, 3)

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536.
  """
  for i, layer in enumerate(layers):
    if not isinstance(layer, Layer):
      raise DtypeError(f"must be a Layer, got {describe(layer)}", f"argument {i}", "serial")

  def serial_init(key: Array) -> Params:
    checks.check_key("init", key)
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(keys[i]) for i, layer in enumerate(layers))

  def serial_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    check_length(params, layers)
    keys = keys_of_parts(key, layers)
    residuals = []
    for i, layer in enumerate(layers):
      with noted(f"in layer {i} ({layer.name}) of {len(layers)}, forward"):
        x, kept = layer.forward(params[i], x, keys[i])
      residuals.append(kept)
    return x, tuple(residuals)

  def serial_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_length(params, layers)
    params_bar = []
    for i in reversed(range(len(layers))):
      with noted(f"in layer {i} ({layers[i].name}) of {len(layers)}, backward"):
        layer_bar, y_bar = layers[i].backward(params[i], residuals[i], y_bar)
      params_bar.append(layer_bar)
    return tuple(reversed(params_bar)), y_bar

  draws = any(layer.draws for layer in layers)
  options: tuple[tuple[str, Any], ...] = (("combinator", serial),)
  return Layer("serial", serial_init, serial_forward, serial_backward, layers, options, draws)


def skip(layer: Layer) -> Layer:
  """Add a skip connection around a layer: y = x + f(x).

  Args:
    layer: f, whose output must have the shape and dtype of its input.

  Returns:
    A `Layer` with the parameters and the residuals of `layer`: a sum keeps nothing.

  Raises:
    TypeError: `layer` isn't a Layer.
    ValueError: when traced: f(x) differs from x in shape or dtype.

  Example:
    >>> from fbackprop.layers.dense import dense
    >>> net = skip(dense(3, 3, w_init=jax.nn.initializers.zeros))
    >>> y, _ = net.forward(net.init(jax.random.key(0)), jax.numpy.array([[1.0, 2.0, 3.0]]))
    >>> print(y)
    [[1. 2. 3.]]

  References:
    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR (2016), eq. 1.
  """
  checks.check_unit("skip", "layer", layer, Layer)

  def skip_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_array("skip", "x", x)
    y, residuals = layer.forward(params, x, key)
    checks.check_same("skip", ("x", "f(x)"), x, y)
    return x + y, residuals

  def skip_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    params_bar, x_bar = layer.backward(params, residuals, y_bar)
    return params_bar, y_bar + x_bar

  options = (("combinator", skip),)
  return Layer("skip", layer.init, skip_forward, skip_backward, (layer,), options, layer.draws)


def map_layers(function: Callable[[Layer], Layer], net: Layer) -> Layer:
  """Apply `function` to each primitive layer and rebuild the network around the results.

  A composition is known by its option "combinator", the function that made it of its parts.

  Args:
    function: takes a layer and gives the one that will stand there.
    net: any network.

  Returns:
    The network, made anew.
  """
  options = dict(net.options)
  combinator = options.pop("combinator", None)
  if combinator is None:
    return function(net)
  made: Layer = combinator(*(map_layers(function, part) for part in net.parts), **options)
  return made._replace(name=net.name)


def is_chain(net: Layer) -> bool:
  """Return whether a network was made by `serial`: its parameters are its parts' in a tuple."""
  return dict(net.options).get("combinator") is serial


def name_layers(net: Layer, path: str = "") -> list[str]:
  """Name each primitive layer by its position in the chains and its own name.

  As "0.dense", "1.relu"; in a chain that stands at place 2 of another, "2.0.dense".
  """
  if "combinator" not in dict(net.options):
    return [path + net.name]
  if len(net.parts) == 1 and not is_chain(net):  # Around one layer: it stands where that stands.
    return name_layers(net.parts[0], path)
  return [n for i, part in enumerate(net.parts) for n in name_layers(part, f"{path}{i}.")]


def check_length(params: Params, layers: tuple[Layer, ...]) -> None:
  """Raise `StructureError` for parameters that can't belong to the chain."""
  if type(params) is not tuple or len(params) != len(layers):
    got = f"a tuple of {len(params)}" if type(params) is tuple else describe(params)
    names = ", ".join(layer.name for layer in layers)
    raise StructureError(f"must be a tuple of {len(layers)} ({names}), got {got}", "params")


def keys_of_parts(key: Array | None, layers: tuple[Layer, ...]) -> list[Array | None]:
  """Split a key among the layers that draw; the others get None.

  The k-th layer that draws gets `fold_in(key, k)`: layers that don't draw aren't counted, so that
  inserting an activation leaves every mask as it was.
  """
  if key is None:
    return [None] * len(layers)
  checks.check_key("forward", key)
  keys: list[Array | None] = []
  drawn = 0
  for layer in layers:
    keys.append(jax.random.fold_in(key, drawn) if layer.draws else None)
    drawn += layer.draws
  return keys
