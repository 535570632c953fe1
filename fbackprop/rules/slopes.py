"""Straight-through and surrogate slopes: a layer whose backward rule is another function's.

They are declared in the field `slope`, so that `fbackprop.verify` and the gradient check of `fit`
compare with the derivative that is meant, and not with the true one, which is zero almost
everywhere.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.errors import StructureError
from fbackprop.types import Array, Layer, Params, Residuals


def straight_through(layer: Layer) -> Layer:
  """Use a layer forward, and the identity backward:  y = f(x),  x̄ = ȳ.

  Args:
    layer: a layer without parameters whose y has the shape of x, such as a rounding or a sign.

  Returns:
    A `Layer` without parameters. Its residual is an empty array `[N, D, 0]`.

  Raises:
    TypeError: `layer` isn't a Layer.
    ValueError: it has parameters. When traced: y, or y_bar, has another shape than x.

  Example:
    >>> import jax.numpy as jnp
    >>> from fbackprop.layers.activations import activation
    >>> from fbackprop.types import Gate
    >>> step = Gate("step", 1, lambda z: (jnp.sign(z), ()), lambda _, y_bar: (0 * y_bar,))
    >>> layer = straight_through(activation(step))
    >>> y, residuals = layer.forward((), jnp.array([[-0.3, 2.0]]))
    >>> print(y, layer.backward((), residuals, jnp.ones((1, 2)))[1])
    [[-1.  1.]] [[1. 1.]]

  References:
    Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons for
    conditional computation", arXiv:1308.3432 (2013).
  """
  check_without_params("straight_through", "layer", layer)

  def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y = layer.forward(params, x, key)[0]
    checks.check_shape("straight_through", "y", y, x.shape, x.dtype)
    return y, jnp.zeros((*x.shape, 0), x.dtype)

  def backward(params: Params, like: Residuals, y_bar: Array) -> tuple[Params, Array]:
    checks.check_shape("straight_through", "y_bar", y_bar, like.shape[:-1], like.dtype)
    return (), y_bar

  def identity(params: Params, x: Array, key: Array | None = None) -> Array:
    return x

  name, parts = f"straight_through({layer.name})", ()
  return Layer(name, layer.init, forward, backward, parts, draws=layer.draws, slope=identity)


def surrogate(layer: Layer, smooth: Layer) -> Layer:
  """Use one layer forward, and the backward rule of another:  y = f(x),  x̄ = ȳ g'(x).

  Args:
    layer: f, without parameters.
    smooth: g, likewise; with g = f it is f itself.

  Returns:
    A `Layer` without parameters; it keeps what g keeps.

  Raises:
    TypeError: an argument isn't a Layer.
    ValueError: one has parameters.

  Example:
    >>> from fbackprop.layers.activations import hard_tanh, tanh
    >>> surrogate(hard_tanh, tanh).name
    'surrogate(hard_tanh, tanh)'

  References:
    Neftci, Mostafa, Zenke, "Surrogate gradient learning in spiking neural networks", IEEE Signal
    Processing Magazine 36 (2019).
  """
  check_without_params("surrogate", "layer", layer)
  check_without_params("surrogate", "smooth", smooth)

  def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y, _ = layer.forward(params, x, key)
    of_smooth, residuals = smooth.forward(params, x, key)
    checks.check_shape("surrogate", "y", y, of_smooth.shape, of_smooth.dtype)
    return y, residuals

  def slope(params: Params, x: Array, key: Array | None = None) -> Any:
    return smooth.forward(params, x, key)[0]

  name, draws = f"surrogate({layer.name}, {smooth.name})", layer.draws or smooth.draws
  return Layer(name, layer.init, forward, smooth.backward, draws=draws, slope=slope)


def check_without_params(where: str, name: str, layer: Any) -> None:
  """Raise unless a layer has no parameters."""
  checks.check_unit(where, name, layer, Layer)
  if jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0))):
    raise StructureError(f"must have no parameters, got {layer.name}", name, where)
