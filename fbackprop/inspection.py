"""Inspection: every layer's input and output, and the cotangent that comes back to it.

The lecture calls a layer hidden because the data doesn't say what it should output. Here it shows.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fbackprop.checks import check_that, check_unit, describe
from fbackprop.combinators import map_layers, places
from fbackprop.graphs import add_all_shared
from fbackprop.layers.factors import refuse_factors
from fbackprop.transforms import value_and_grad, with_rule
from fbackprop.types import Array, Layer, Loss, Params, Residuals, exportable


@exportable
class Signals(NamedTuple):
  """The signals of one layer: `x` `[N, D_in]` and `y` `[N, D_out]` forward, `y_bar` backward.

  `y_bar` `[N, D_out]` is the gradient of the mean loss by y. Of a layer inside of a `repeat(.., n)`
  each array has the axis n in front.
  """

  x: Array
  y: Array
  y_bar: Array

  def __repr__(self) -> str:
    """Show shapes and dtypes only: the numbers would fill pages."""
    fields = (f"{name}={describe(value)}" for name, value in self._asdict().items())
    return f"Signals({', '.join(fields)})"


def inspect(net: Layer, loss: Loss) -> Callable[..., "OrderedDict[str, Signals]"]:
  """Build a function that returns every layer's input, output and cotangent.

  Args:
    net: the network.
    loss: the loss.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> {name: Signals}`, with the arguments of
    `value_and_grad(net, loss)`, in the order of the computation. A name is the layer's place and
    its own name, as "0.dense", or in a graph "h.dense". It is pure: jit it, vmap it.

  Raises:
    TypeError, ValueError: as `value_and_grad`.

  Example:
    >>> from fbackprop.losses.regression import squared_error
    >>> from fbackprop.networks import mlp
    >>> net = mlp([2, 8, 1])
    >>> x, targets = jax.numpy.ones((5, 2)), jax.numpy.zeros((5, 1))
    >>> seen = inspect(net, squared_error)(net.init(jax.random.key(0)), x, targets)
    >>> for name, signals in seen.items():
    ...   print(name, signals.x.shape, signals.y.shape, signals.y_bar.shape)
    0.dense (5, 2) (5, 8) (5, 8)
    1.relu (5, 8) (5, 8) (5, 8)
    2.dense (5, 8) (5, 1) (5, 1)
  """
  check_unit("inspect", "net", net, Layer)
  check_unit("inspect", "loss", loss, Loss)
  loss_and_signals = value_and_grad(map_layers(tapped, net, separate=True), loss)

  def look(params: Params, x: Array, targets: Any, **options: Any) -> OrderedDict[str, Signals]:
    _, signals = loss_and_signals(params, x, targets, **options)
    return OrderedDict((place.name, place.node(signals)) for place in places(net))

  return look


class Logged(NamedTuple):
  """A layer's gradient together with the signals that are logged."""

  params_bar: Params
  signals: Signals


def tapped(layer: Layer, has_gradient: bool = False) -> Layer:
  """Wrap a layer so that its backward pass returns its `Signals` in place of the gradient.

  With `has_gradient` it returns `Logged`, which holds both.
  """

  def tapped_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y, residuals = layer.forward(params, x, key)
    return y, (x, y, residuals)

  def tapped_backward(params: Params, kept: Residuals, y_bar: Array) -> tuple[Params, Array]:
    x, y, residuals = kept
    params_bar, x_bar = layer.backward(params, residuals, y_bar)
    signals = Signals(x, y, y_bar)
    return Logged(params_bar, signals) if has_gradient else signals, x_bar

  return layer._replace(forward=tapped_forward, backward=tapped_backward)


def as_custom_vjp_with_logs(net: Layer, prefix: str = "") -> Callable[..., Array]:
  """Wrap the network as `as_custom_vjp` does, and log every layer's signals.

  JAX hands them out where they are asked for, and computes nothing for them elsewhere: with
  `y, pull = jax.vjp(f, params, x)`, `pull(y_bar)` is as ever, and `pull.with_logs(y_bar)` is
  `((params_bar, x_bar), {name: Signals})`. They are those of `inspect`, of whatever is
  differentiated in the place of a mean loss; x `[..., D_in]` is flattened to `[N, D_in]`.

  Args:
    net: the network.
    prefix: stands before each name, which is the layer's place and its own name, as "0.dense". A
      name may come once in a backward pass, or JAX raises, logs asked for or not: networks that
      are used together, or one that is used twice, need prefixes that differ.

  Returns:
    `f(params, x, key=None) -> y`, as `as_custom_vjp(net)`.

  Raises:
    TypeError: `net` isn't a Layer, or `prefix` isn't a str.
    NotImplementedError: this JAX has no logs, which came with JAX 0.12.
    ValueError: when differentiated: a layer of `net` is captured, or a name comes twice.
  """
  check_unit("as_custom_vjp_with_logs", "net", net, Layer)
  check_that("as_custom_vjp_with_logs", "prefix", prefix, isinstance(prefix, str), "be a str")
  if not hasattr(jax.custom_vjp, "defvjp_with_logs"):
    raise NotImplementedError(
      "as_custom_vjp_with_logs: logs of a backward pass need JAX 0.12 or newer, and this is JAX "
      f"{jax.__version__}: upgrade it, or call fb.inspect(net, loss), which shows the same signals"
    )
  logged_net = map_layers(functools.partial(tapped, has_gradient=True), net, separate=True)

  def pull(params: Params, residuals: Residuals, y_bar: Array) -> Any:
    found, x_bar = logged_net.backward(params, residuals, y_bar)
    params_bar = jax.tree.map(lambda own: own.params_bar, found, is_leaf=is_logged)
    params_bar = add_all_shared(net, params_bar)
    refuse_factors("as_custom_vjp_with_logs", "params_bar", params_bar)
    signals = {prefix + place.name: place.node(found).signals for place in places(net)}
    return (params_bar, x_bar, None), signals

  return with_rule("as_custom_vjp_with_logs", logged_net, pull, "defvjp_with_logs")


def is_logged(value: Any) -> bool:
  """Return whether a node of a pytree is one layer's `Logged`."""
  return isinstance(value, Logged)
