"""Transforms of a network: loss and gradient, pullback, and a `jax.custom_vjp` for `jax.grad`."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.errors import ShapeError, callers_level, describe
from fbackprop.layers.factors import refuse_factors
from fbackprop.meshes import vary_alike
from fbackprop.types import Array, Layer, Loss, Params, Residuals, widen


def value_and_grad(
  net: Layer, loss: Loss, *, input_gradient: bool = False, has_outputs: bool = False
) -> Callable[..., Any]:
  """Build a function that computes the mean loss of a batch and its gradient.

  The lecture in six lines: outputs forward, losses forward, the seed cotangent, losses backward,
  network backward. The mean is J = Σ_n w_n losses_n / Σ_n w_n, so that the seed, ∂J/∂losses_n, is
  w_n / Σ w: 1/N without weights.

  Args:
    net: the network.
    loss: the loss of each example.
    input_gradient: whether to return the gradient with respect to x too.
    has_outputs: whether to return the network's outputs too.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> (J, grads)`, with `((J, outputs), grads)`
    for `has_outputs`, and `(grads, x_bar)` in place of `grads` for `input_gradient`. x is
    `[N, D_in]`, or, for a network of several inputs, a pytree of arrays `[N, ...]`. `weights` `[N]`
    are nonnegative, in the dtype of the outputs; an example of weight zero must have a finite
    loss. With N = 0 or Σ w = 0 the mean is 0 and the gradient is 0. `grads` has the structure,
    shapes and dtypes of `params`. The function is pure: jit it, vmap it, differentiate it.

  Raises:
    TypeError: `net` isn't a Layer or `loss` isn't a Loss. When traced: an argument has the wrong
      dtype.
    ValueError: when traced: an argument has the wrong shape, the parameters are of another network,
      or a layer is captured and returns factors of a gradient (see `fbackprop.quantities`).

  Example:
    >>> from fbackprop.losses.regression import squared_error
    >>> from fbackprop.networks import mlp
    >>> net = mlp([2, 8, 1])
    >>> params = net.init(jax.random.key(0))
    >>> x, targets = jnp.ones((5, 2)), jnp.zeros((5, 1))
    >>> loss, grads = jax.jit(value_and_grad(net, squared_error))(params, x, targets)
    >>> jax.tree.structure(grads) == jax.tree.structure(params)
    True

  References:
    Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, algorithms 6.3 and 6.4.
  """
  checks.check_unit("value_and_grad", "net", net, Layer)
  checks.check_unit("value_and_grad", "loss", loss, Loss)
  warn_of_double_softmax(net, loss)

  def loss_and_gradient(
    params: Params,
    x: Array,
    targets: Any,
    *,
    key: Array | None = None,
    weights: Array | None = None,
  ) -> Any:
    check_batch("value_and_grad", x, targets, key)
    outputs, residuals = net.forward(params, x, key)
    losses, loss_residuals = loss.forward(outputs, targets)
    losses_bar = mean_weights(losses, weights)
    outputs_bar = loss.backward(loss_residuals, losses_bar)
    grads, x_bar = net.backward(params, residuals, outputs_bar)
    refuse_factors("value_and_grad", "grads", grads)

    mean = weighted_mean(losses_bar, losses)
    value = (mean, outputs) if has_outputs else mean
    return value, (grads, x_bar) if input_gradient else grads

  return loss_and_gradient


def warn_of_double_softmax(net: Layer, loss: Loss) -> None:
  """Warn of a softmax layer before a loss of logits, which would slow down training silently."""
  last = net
  while last.parts:
    options = dict(last.options)
    names = [node.name for node in options.get("nodes", ())]
    output = options.get("output")
    last = last.parts[names.index(output) if output in names else -1]
  if last.name == "softmax" and loss.name == "softmax_cross_entropy":
    warnings.warn(
      "the network ends in softmax, and softmax_cross_entropy takes logits: leave the softmax out",
      stacklevel=callers_level(),
    )


def mean_weights(losses: Array, weights: Array | None, where: str = "value_and_grad") -> Array:
  """Compute ∂(mean)/∂losses_n: 1/N, or w_n / Σ w; 0 where Σ w is 0. An error names `where`."""
  n = losses.shape[0]
  if weights is None:
    return jnp.full_like(losses, 1 / max(n, 1))
  checks.check_shape(where, "weights", weights, (n,), losses.dtype)
  if n == 0:
    return weights
  # Normalised in float32 at least, and scaled away from the ends of its range: a sum of large
  # weights, or of many in float16, would overflow, and so would the reciprocal of a tiny one.
  wide = widen(weights)
  largest = wide.max()
  scale = jnp.where(largest > 2.0**60, 2.0**-64, jnp.where(largest < 2.0**-60, 2.0**64, 1.0))
  shares = wide * scale.astype(wide.dtype)
  return (shares / nonzero(shares.sum())).astype(weights.dtype)


def weighted_mean(losses_bar: Array, losses: Array) -> Array:
  """Compute J = Σ_n (w_n / Σ w) losses_n, accumulated in float32 at least."""
  return (widen(losses_bar) * widen(losses)).sum().astype(losses.dtype)


def nonzero(value: Array) -> Array:
  """Replace 0 by 1."""
  return jnp.where(value == 0, jnp.ones_like(value), value)


def check_batch(where: str, x: Any, targets: Any, key: Any) -> None:
  """Raise for arguments that can be refused before the first layer is called."""
  checks.check_arrays(where, "x", x)
  check_targets(where, "targets", targets, x)
  checks.check_optional_key(where, key)


def check_targets(where: str, name: str, targets: Any, x: Any) -> None:
  """Raise unless targets have as many examples as x; a tuple holds those of several losses."""
  if type(targets) is tuple:
    for i, part in enumerate(targets):
      check_targets(where, f"{name}[{i}]", part, x)
    return
  wanted = "be an array, or a tuple of arrays for several losses"
  checks.check_that(where, name, targets, hasattr(targets, "shape"), wanted)
  if targets.ndim < 1 or checks.example_count(x) != targets.shape[0]:
    got = f"x {describe(jax.tree.leaves(x)[0])} and {name} {describe(targets)}"
    problem = f"must have the same number N of examples in front, got {got}"
    raise ShapeError(problem, f"x and {name}", where)


Pullback = Callable[[Array], tuple[Params, Array]]


def pullback(net: Layer) -> Callable[..., tuple[Array, Pullback]]:
  """Build a function like `jax.vjp` that returns the output and the backward pass.

  Its signature is that of `jax.vjp(f, params, x)`, as `jax.test_util.check_vjp` expects of `f_vjp`.

  Args:
    net: the network.

  Returns:
    `f_vjp(params, x, key=None) -> (y, backward)` with `backward(y_bar) -> (params_bar, x_bar)`.

  Raises:
    TypeError: `net` isn't a Layer.

  Example:
    >>> from fbackprop.layers.dense import dense
    >>> net = dense(3, 2)
    >>> y, backward = pullback(net)(net.init(jax.random.key(0)), jnp.ones((4, 3)))
    >>> params_bar, x_bar = backward(jnp.ones_like(y))
    >>> print(params_bar.b)
    [4. 4.]
  """
  checks.check_unit("pullback", "net", net, Layer)

  def f_vjp(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Pullback]:
    checks.check_optional_key("pullback", key)
    y, residuals = net.forward(params, x, key)

    def backward(y_bar: Array) -> tuple[Params, Array]:
      if hasattr(y, "shape"):
        checks.check_shape("pullback", "y_bar", y_bar, y.shape, y.dtype)
      else:
        checks.check_like("pullback", "y_bar", y_bar, y)
      return net.backward(params, residuals, y_bar)

    return y, backward

  return f_vjp


def as_custom_vjp(net: Layer) -> Callable[..., Array]:
  """Wrap a network in `jax.custom_vjp`, so that `jax.grad` runs our backward pass.

  Args:
    net: the network.

  Returns:
    `f(params, x, key=None) -> y`; x is `[..., D_in]` and y `[..., D_out]`: the leading axes are
    flattened into N and restored; a pytree of arrays `[N, ...]` is passed unchanged. Reverse mode
    only, to any order; `jax.jvp` raises, as for every `jax.custom_vjp`: use `net.forward` itself
    for forward mode.

  Raises:
    TypeError: `net` isn't a Layer.
    ValueError: when differentiated: a layer of `net` is captured (see `fbackprop.quantities`).

  Example:
    >>> from fbackprop.networks import mlp
    >>> net = mlp([3, 8, 2])
    >>> f = as_custom_vjp(net)
    >>> f(net.init(jax.random.key(0)), jnp.ones((5, 7, 3))).shape
    (5, 7, 2)
  """
  checks.check_unit("as_custom_vjp", "net", net, Layer)

  def pull(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array, None]:
    params_bar, x_bar = net.backward(params, residuals, y_bar)
    refuse_factors("as_custom_vjp", "params_bar", params_bar)
    return params_bar, x_bar, None

  return with_rule("as_custom_vjp", net, pull)


def with_rule(
  where: str, net: Layer, pull: Callable[..., Any], define: str = "defvjp"
) -> Callable[..., Array]:
  """Build the function of `as_custom_vjp` from a network and its backward rule.

  Args:
    where: prefix of error messages.
    net: the network; only its forward rule is called.
    pull: `pull(params, residuals, y_bar)` returns what the rule of `define` must return.
    define: the method of `jax.custom_vjp` that defines the rule.
  """

  def batched_forward(params: Params, x: Array, key: Array | None) -> tuple[Array, Any]:
    y, residuals = net.forward(params, x, key)
    return mapped_like(x, y), (params, residuals)

  @jax.custom_vjp
  def batched(params: Params, x: Array, key: Array | None) -> Array:
    return batched_forward(params, x, key)[0]

  getattr(batched, define)(batched_forward, lambda kept, y_bar: pull(*kept, y_bar))

  def f(params: Params, x: Array, key: Array | None = None) -> Array:
    checks.check_optional_key(where, key)
    if not hasattr(x, "shape"):
      checks.check_arrays(where, "x", x)
      return batched(*vary_alike((params, x)), key)
    checks.check_that(where, "x", x, x.ndim, "have shape [..., D_in]", ShapeError)
    params, x = vary_alike((params, x))
    y = batched(params, x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), key)
    return jax.tree.map(lambda leaf: leaf.reshape(*x.shape[:-1], *leaf.shape[1:]), y)

  return f


def mapped_like(x: Any, y: Any) -> Any:
  """Return y unchanged, but mapped by `jax.vmap` wherever x is.

  A `jax.custom_vjp` with an unmapped output and mapped cotangents, as of a network that ignores x,
  counts them once per example in JAX < 0.12, and raises in JAX ≥ 0.12. XLA removes the dependence
  on x.
  """

  def mapped(y: Array) -> Array:
    of_x = sum(leaf.sum().astype(y.dtype) for leaf in jax.tree.leaves(x))
    return jax.lax.select(jnp.zeros((), bool), jnp.full_like(y, of_x), y)

  return jax.tree.map(mapped, y)


def residual_bytes(net: Layer, x: Any, key: Array | None = None) -> int:
  """Count the bytes that the forward pass saves for the backward pass, excluding x.

  Nothing is computed: the forward rule is traced, and each distinct buffer among the residuals is
  counted once, however often it is referenced; parameters and x itself aren't counted.

  Args:
    net: the network.
    x: `[N, D_in]`, an array or a `jax.ShapeDtypeStruct`, or a pytree of them.
    key: key of the forward pass; None for evaluation, in which dropout saves nothing.

  Returns:
    Bytes.

  Raises:
    TypeError: `net` isn't a Layer; x isn't an array or has the wrong dtype.
    ValueError: x has the wrong shape.

  Example:
    >>> from fbackprop.networks import mlp
    >>> residual_bytes(mlp([64, 128, 10]), jax.ShapeDtypeStruct((32, 64), jnp.float32))
    16384
  """
  checks.check_unit("residual_bytes", "net", net, Layer)
  checks.check_arrays("residual_bytes", "x", x)
  checks.check_optional_key("residual_bytes", key)
  params = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  jaxpr = jax.make_jaxpr(lambda *args: net.forward(*args)[1])(params, x, key).jaxpr
  inputs = set(map(id, jaxpr.invars))
  buffers = {id(v): v.aval for v in jaxpr.outvars if id(v) not in inputs}
  return sum(a.size * a.dtype.itemsize for a in buffers.values())
