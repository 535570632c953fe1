"""Parameters of flax's nnx, of equinox and of scikit-learn, in and out.

`from_...` takes a model apart and returns the same network with the same parameters; `to_...`
returns a copy of a model with other parameters. An activation is known by its values, whatever
function it is: `jax.nn.gelu` is `gelu_tanh` unless it is called with `approximate=False`.
"""

import copy
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.combinators import serial
from fbackprop.errors import DtypeError, RangeError, ShapeError, describe
from fbackprop.export.chain import Unit, flat, units_of
from fbackprop.export.recognition import POINTS, name_of_values
from fbackprop.layers import activations
from fbackprop.layers.dense import DenseParams, dense
from fbackprop.layers.dropout import dropout
from fbackprop.layers.normalization import NormParams, layer_norm, rms_norm
from fbackprop.types import Layer, Params

Network = tuple[Layer, Params]


class Names(NamedTuple):
  """How a library names the arrays of a Linear and of a normalization, and stores them.

  Attributes:
    weight, scale, eps, rate: the attributes of its modules.
    is_transposed: whether a weight is `[D_out, D_in]`.
    value: reads the array of an attribute.
  """

  weight: str
  scale: str
  eps: str
  rate: str
  is_transposed: bool
  value: Callable[[Any], Any]


EQUINOX = Names("weight", "weight", "eps", "p", True, lambda own: own)
FLAX = Names("kernel", "scale", "epsilon", "rate", False, lambda own: own[...])


def from_equinox(module: Any) -> Network:
  """Take apart an `eqx.nn.MLP`, an `eqx.nn.Sequential`, or a list of layers and functions.

  Returns:
    `(net, params)`: the network with the same values, and its parameters. A Lambda is its function.

  Raises:
    TypeError: a layer isn't Linear, LayerNorm, RMSNorm, Dropout or Identity, or a function isn't an
      activation of this package.

  Example:
    >>> import equinox as eqx
    >>> net, params = from_equinox(eqx.nn.MLP(4, 3, 8, depth=1, key=jax.random.key(0)))
    >>> net
    serial(dense(4, 8), relu, dense(8, 3))
  """
  return network_of("from_equinox", layers_of_equinox(module), EQUINOX)


def to_equinox(net: Layer, params: Params, like: Any) -> Any:
  """Return a copy of an equinox model with our parameters; the model stays as it is.

  Args:
    net, params: a network with the same layers, as of `from_equinox`.
    like: the model, with the same shapes.

  Raises:
    ValueError: a shape differs, or the number of layers.
  """
  pairs = paired("to_equinox", net, params, layers_of_equinox(like), EQUINOX)
  arrays = [array for _, _, array in pairs]

  def attributes(model: Any) -> list[Any]:
    own = [m for m in layers_of_equinox(model) if is_module(m, EQUINOX)]
    return [getattr(own[i], name) for i, name, _ in pairs]

  return import_module("equinox").tree_at(attributes, like, arrays)


def from_flax(module: Any) -> Network:
  """Take apart an `nnx.Sequential`, or a list of nnx layers and functions, in their order.

  Of a model with layers as attributes give the list: `[model.linear1, nnx.relu, model.linear2]`.

  Returns:
    `(net, params)`, as `from_equinox`.

  Raises:
    TypeError: as `from_equinox`.

  Example:
    >>> from flax import nnx
    >>> net, params = from_flax([nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu])
    >>> net
    serial(dense(4, 8), relu)
  """
  return network_of("from_flax", layers_of_flax(module), FLAX)


def to_flax(net: Layer, params: Params, like: Any) -> Any:
  """Return a copy of an nnx model, or of a list of layers, with our parameters.

  Args, Raises: as `to_equinox`.
  """
  clone = import_module("flax.nnx").clone
  is_list = isinstance(like, list | tuple)
  made = [clone(m) if is_module(m, FLAX) else m for m in like] if is_list else clone(like)
  own = [m for m in layers_of_flax(made) if is_module(m, FLAX)]
  for i, name, array in paired("to_flax", net, params, layers_of_flax(made), FLAX):
    getattr(own[i], name)[...] = array
  return made


def from_sklearn(estimator: Any) -> Network:
  """Take apart a fitted `MLPClassifier` or `MLPRegressor` of scikit-learn.

  Returns:
    `(net, params)`: the outputs are values, or logits: of two classes one, of the second class.
    float64 stays float64 where x64 is enabled; else it is rounded to float32.

  Raises:
    TypeError: it isn't fitted, or has another activation.

  Example:
    >>> from sklearn.neural_network import MLPClassifier
    >>> import numpy as np
    >>> x = np.arange(8.0).reshape(4, 2)
    >>> theirs = MLPClassifier((3,), max_iter=300, tol=1.0).fit(x, [0, 0, 1, 1])
    >>> net, params = from_sklearn(theirs)
    >>> net
    serial(dense(2, 3), relu, dense(3, 1))
  """
  coefs, intercepts = arrays_of_sklearn("from_sklearn", estimator)
  names = {"logistic": "sigmoid", "identity": "identity", "tanh": "tanh", "relu": "relu"}
  if estimator.activation not in names:
    got = describe(estimator.activation)
    raise DtypeError(f"must be one of {', '.join(names)}, got {got}", "activation", "from_sklearn")
  between = getattr(activations, names[estimator.activation])
  layers: list[Layer] = []
  params: list[Params] = []
  for w, b in zip(coefs, intercepts, strict=True):
    own = DenseParams(jnp.asarray(w), jnp.asarray(b))
    layers += [dense(*own.w.shape, dtype=own.w.dtype), between]
    params += [own, ()]
  return serial(*layers[:-1]), tuple(params[:-1])


def to_sklearn(net: Layer, params: Params, like: Any) -> Any:
  """Return a copy of a fitted estimator of scikit-learn with our parameters, in its dtype.

  Args, Raises: as `to_equinox`.
  """
  coefs, intercepts = arrays_of_sklearn("to_sklearn", like)
  units = [unit for unit in flat(units_of("to_sklearn", net, params)) if unit.kind == "dense"]
  check_count("to_sklearn", len(units), len(coefs))
  made = copy.deepcopy(like)
  for i, (unit, w, b) in enumerate(zip(units, coefs, intercepts, strict=True)):
    own = unit.params._replace(b=np.zeros_like(b) if unit.params.b is None else unit.params.b)
    for name, array, theirs in (("w", own.w, w), ("b", own.b, b)):
      check_same_shape("to_sklearn", f"{name} of layer {i}", array, theirs.shape)
    made.coefs_[i], made.intercepts_[i] = np.asarray(own.w, w.dtype), np.asarray(own.b, b.dtype)
  return made


def arrays_of_sklearn(where: str, estimator: Any) -> tuple[list[Any], list[Any]]:
  """Return the weights and biases of a fitted estimator."""
  try:
    return list(estimator.coefs_), list(estimator.intercepts_)
  except AttributeError as error:
    wanted = "must be a fitted MLPClassifier or MLPRegressor of scikit-learn"
    raise DtypeError(f"{wanted}, got {describe(estimator)}", "estimator", where) from error


# --- Layers ---------------------------------------------------------------------------------------


def layers_of_equinox(module: Any) -> list[Any]:
  """List the layers and functions of an equinox model in their order."""
  if isinstance(module, list | tuple):
    return list(module)
  if hasattr(module, "final_activation"):  # An MLP.
    between = [item for layer in module.layers for item in (layer, module.activation)]
    return [*between[:-1], module.final_activation]
  layers = list(module.layers) if hasattr(module, "layers") else [module]
  return [layer.fn if hasattr(layer, "fn") else layer for layer in layers]


def layers_of_flax(module: Any) -> list[Any]:
  """List the layers and functions of an nnx model in their order."""
  if isinstance(module, list | tuple):
    return list(module)
  return list(module.layers) if hasattr(module, "layers") else [module]


def is_module(item: Any, names: Names) -> bool:
  """Return whether an item has parameters: a Linear or a normalization."""
  return hasattr(item, names.weight) or hasattr(item, names.scale)


def network_of(where: str, items: Sequence[Any], names: Names) -> Network:
  """Build the network of a list of layers and functions."""
  layers: list[Layer] = []
  params: list[Params] = []
  for i, item in enumerate(items):
    layer, own = layer_of(where, f"layer {i}", item, names)
    if layer.name != "identity":
      layers.append(layer)
      params.append(own)
  return serial(*layers), tuple(params)


def layer_of(where: str, place: str, item: Any, names: Names) -> Network:
  """Convert a layer or a function."""
  kind = type(item).__name__
  if kind == "Linear":
    w, b = (read(getattr(item, name), names) for name in (names.weight, "bias"))
    w = w.T if names.is_transposed else w
    made = dense(*w.shape, bias=b is not None, dtype=w.dtype)
    return made, DenseParams(w, b)
  if kind in ("LayerNorm", "RMSNorm"):
    scale, shift = (read(getattr(item, name, None), names) for name in (names.scale, "bias"))
    make, has_shift = (layer_norm, True) if kind == "LayerNorm" else (rms_norm, False)
    if scale is None or scale.ndim != 1 or (shift is not None) != has_shift:
      shift_is = "with" if has_shift else "without"
      problem = f"must have a scale [D], {shift_is} a bias"
      raise DtypeError(f"{problem}, got {describe(item)}", place, where)
    made = make(scale.shape[0], eps=float(getattr(item, names.eps)), dtype=scale.dtype)
    return made, NormParams(scale, shift)
  if kind == "Dropout":
    return dropout(float(getattr(item, names.rate))), ()
  if kind == "Identity":
    return activations.identity, ()
  if item in (jax.nn.softmax, activations.softmax.forward):
    return activations.softmax, ()
  name = name_of_function(item)
  if name is None:
    known = "Linear, LayerNorm, RMSNorm, Dropout, Identity, or an activation of fbackprop"
    raise DtypeError(f"must be {known}, got {describe(item)}", place, where)
  return getattr(activations, name), ()


def name_of_function(function: Any) -> str | None:
  """Return the activation that a function is, by its values; None for anything else."""
  if not callable(function):
    return None
  try:
    return name_of_values(function(jnp.asarray(POINTS)))
  except Exception:  # Of anybody's function, such as a layer that takes other shapes.
    return None


def read(own: Any, names: Names) -> Any:
  """Return an attribute's array, or None."""
  return None if own is None else jnp.asarray(names.value(own))


def paired(
  where: str, net: Layer, params: Params, items: Sequence[Any], names: Names
) -> list[tuple[int, str, Any]]:
  """Return what to write: the number of the module with parameters, its attribute, the array."""
  units = [u for u in flat(units_of(where, net, params)) if u.params != ()]
  own = [item for item in items if is_module(item, names)]
  check_count(where, len(units), len(own))
  pairs = []
  for i, (unit, item) in enumerate(zip(units, own, strict=True)):
    for name, array in attributes_of(unit, names):
      theirs = read(getattr(item, name, None), names)
      shape = None if theirs is None else theirs.shape
      check_same_shape(where, f"{name} of layer {i}", array, shape)
      if array is not None:
        pairs.append((i, name, jnp.asarray(array, theirs.dtype)))
  return pairs


def attributes_of(unit: Unit, names: Names) -> list[tuple[str, Any]]:
  """Return the arrays of a layer by a library's names."""
  if unit.kind == "dense":
    w = unit.params.w.T if names.is_transposed else unit.params.w
    return [(names.weight, w), ("bias", unit.params.b)]
  return [(names.scale, unit.params.scale), ("bias", unit.params.shift)]


def check_count(where: str, ours: int, theirs: int) -> None:
  """Raise unless both models have as many layers with parameters."""
  if ours != theirs:
    got = f"the network has {ours} layers with parameters, and the model {theirs}"
    raise RangeError(got, None, where)


def check_same_shape(where: str, name: str, array: Any, shape: tuple[int, ...] | None) -> None:
  """Raise unless an array, or None, has the shape of the one that it replaces."""
  ours = None if array is None else tuple(array.shape)
  if ours != shape:
    raise ShapeError(f"must be {shape}, got {ours}", name, where)
