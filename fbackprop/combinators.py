"""How layers compose: a composition has the type of its parts."""

import jax

from fbackprop.checks import StructureError, check_key, describe
from fbackprop.types import Array, Layer, Params, Residuals


def serial(*layers: Layer) -> Layer:
  """The chain of layers: x enters the first, and each output is the next layer's input.

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
    >>> from fbackprop.activations import relu
    >>> from fbackprop.linear import dense
    >>> net = serial(dense(4, 8), relu, dense(8, 3))
    >>> y, residuals = net.forward(net.init(jax.random.key(0)), jax.numpy.ones((5, 4)))
    >>> y.shape
    (5, 3)

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536.
  """
  for i, layer in enumerate(layers):
    if not isinstance(layer, Layer):
      raise TypeError(f"serial: argument {i} must be a Layer, got {describe(layer)}")

  def serial_init(key: Array) -> Params:
    check_key("init", key)
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(keys[i]) for i, layer in enumerate(layers))

  def serial_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    check_length(params, layers)
    keys = keys_of_parts(key, layers)
    residuals = []
    for i, layer in enumerate(layers):
      try:
        x, kept = layer.forward(params[i], x, keys[i])
      except (TypeError, ValueError) as error:
        error.add_note(f"in layer {i} ({layer.name}) of {len(layers)}, forward")
        raise
      residuals.append(kept)
    return x, tuple(residuals)

  def serial_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_length(params, layers)
    params_bar = []
    for i in reversed(range(len(layers))):
      try:
        layer_bar, y_bar = layers[i].backward(params[i], residuals[i], y_bar)
      except (TypeError, ValueError) as error:
        error.add_note(f"in layer {i} ({layers[i].name}) of {len(layers)}, backward")
        raise
      params_bar.append(layer_bar)
    return tuple(reversed(params_bar)), y_bar

  draws = any(layer.draws for layer in layers)
  return Layer("serial", serial_init, serial_forward, serial_backward, layers, draws=draws)


def check_length(params: Params, layers: tuple[Layer, ...]) -> None:
  """Refuses parameters that can't belong to the chain."""
  if type(params) is not tuple or len(params) != len(layers):
    got = f"a tuple of {len(params)}" if type(params) is tuple else describe(params)
    names = ", ".join(layer.name for layer in layers)
    raise StructureError(f"params must be a tuple of {len(layers)} ({names}), got {got}")


def keys_of_parts(key: Array | None, layers: tuple[Layer, ...]) -> list[Array | None]:
  """A key for each layer that draws, None for the others.

  The k-th layer that draws gets `fold_in(key, k)`: layers that don't draw aren't counted, so that
  inserting an activation leaves every mask as it was.
  """
  if key is None:
    return [None] * len(layers)
  check_key("forward", key)
  keys: list[Array | None] = []
  drawn = 0
  for layer in layers:
    keys.append(jax.random.fold_in(key, drawn) if layer.draws else None)
    drawn += layer.draws
  return keys
