"""The loss, the gradient and any quantities from one backward pass."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from fbackprop.checks import check_unit, example_count
from fbackprop.errors import DtypeError, RangeError, check_that, hint
from fbackprop.quantities import clipping, gradients, kernels
from fbackprop.quantities._health import health
from fbackprop.quantities.capture import read
from fbackprop.transforms import check_batch, mean_weights, warn_of_double_softmax, weighted_mean
from fbackprop.types import Array, Layer, Loss, Params

FUNCTIONS: tuple[Callable[..., Any], ...] = (
  clipping.clipped_gradient, kernels.cosine_similarities, gradients.example_gradients,
  kernels.example_sqnorms, kernels.global_norm, kernels.gram, health, gradients.noise_scale,
  gradients.second_moment, gradients.variance,
)  # fmt: skip
QUANTITIES = {function.__name__: function for function in FUNCTIONS}


def compute(
  net: Layer, loss: Loss, names: Sequence[str] | Mapping[str, Mapping[str, Any]]
) -> Callable[..., tuple[Array, Params, dict[str, Any]]]:
  """Compute the mean loss, its gradient and any quantities in one backward pass.

  The seed cotangent is 1 for each example, as the quantities require; the gradient is divided by N
  as it is summed. With weights the seeds are N w_n / Σ w, so that the loss is the weighted mean,
  and each quantity is that of the weighted examples.

  Normalisation: loss and gradient are means over N, those of `value_and_grad` up to rounding; each
  quantity has the normalisation of the function of its name. With N = 0 or Σ w = 0 loss and
  gradient are 0. In float16 a quantity that is a sum over examples may overflow where a mean would
  not.

  Cost: that of a plain backward pass, the memory that `captured` states, and the cost that each
  selected quantity states. Other quantities aren't computed.

  Args:
    net: a network whose layers with parameters are all `captured`.
    loss: the loss of each example.
    names: the names of functions of `fbackprop.quantities`, such as `("gram", "noise_scale")`; or a
      mapping from each to its options, as `{"clipped_gradient": {"max_norm": 1.0}, "gram": {}}`.

  Returns:
    `f(params, x, targets, key=None, weights=None) -> (loss, grads, {name: value})`, with `weights`
    as for `value_and_grad`. It is a pure function, for jit and vmap.

  Raises:
    TypeError: `net` isn't a Layer, `loss` isn't a Loss, `names` is neither, an option is unknown or
      missing. When traced: an argument of another dtype.
    ValueError: a name is unknown or occurs twice. When traced: a layer isn't captured, or an
      argument has another shape.

  Example:
    >>> import jax
    >>> import fbackprop as fb
    >>> from fbackprop.quantities.capture import captured
    >>> net = fb.mlp([2, 8, 1], dense=captured(fb.dense))
    >>> look = jax.jit(compute(net, fb.squared_error, ("example_sqnorms", "noise_scale")))
    >>> x, targets = jnp.ones((5, 2)), jnp.zeros((5, 1))
    >>> loss, grads, found = look(net.init(jax.random.key(0)), x, targets)
    >>> found["example_sqnorms"].shape
    (5,)
  """
  check_unit("compute", "net", net, Layer)
  check_unit("compute", "loss", loss, Loss)
  selected = check_names(names)
  warn_of_double_softmax(net, loss)

  def loss_gradient_and_quantities(
    params: Params, x: Array, targets: Any, key: Array | None = None, weights: Array | None = None
  ) -> tuple[Array, Params, dict[str, Any]]:
    value, captured = captured_pass("compute", net, loss, params, x, targets, key, weights)
    inputs = {"health": (captured, net)}
    found = {
      name: QUANTITIES[name](*inputs.get(name, (captured,)), **options)
      for name, options in selected.items()
    }
    return value, gradients.mean_gradient(captured), found

  return loss_gradient_and_quantities


def captured_pass(where: str, net: Layer, loss: Loss, *args: Any) -> tuple[Array, Any]:
  """Compute the mean loss and the factors of the backward pass seeded with 1, or N w_n / Σ w.

  Args:
    where: the prefix of error messages.
    net, loss: as for `compute`.
    *args: params, x, targets, key and weights, as for the function that `compute` returns.
  """
  params, x, targets, key, weights = args
  check_batch(where, x, targets, key)
  outputs, residuals = net.forward(params, x, key)
  losses, loss_residuals = loss.forward(outputs, targets)
  shares = mean_weights(losses, weights, where)
  losses_bar = jnp.ones_like(losses) if weights is None else max(example_count(x), 1) * shares
  captured, _ = net.backward(params, residuals, loss.backward(loss_residuals, losses_bar))
  read(where, captured)
  return weighted_mean(shares, losses), captured


def check_names(names: Any) -> dict[str, dict[str, Any]]:
  """Return the options of each quantity; raise for options that it doesn't take."""
  wanted = "be a tuple of names, or a mapping from names to options"
  check_that("compute", "names", names, isinstance(names, Mapping | list | tuple), wanted)
  for i, name in enumerate(names):
    check_that("compute", "names", name, isinstance(name, str), "hold names of quantities")
    if name not in QUANTITIES:
      raise RangeError(f"compute: there is no quantity {name!r}; {hint(name, list(QUANTITIES))}")
    if name in list(names)[:i]:
      raise RangeError(f"must be different, got {name!r} twice", "names", "compute")
  selected = dict(names) if isinstance(names, Mapping) else {name: {} for name in names}
  for name, options in selected.items():
    is_mapping = isinstance(options, Mapping)
    check_that("compute", f"the options of {name}", options, is_mapping, "be a mapping")
    try:
      inspect.signature(QUANTITIES[name]).bind(*[None] * (1 + (name == "health")), **options)
    except TypeError as error:
      raise DtypeError(
        f"compute: {name} takes other options, {error}; give them as in "
        "{'clipped_gradient': {'max_norm': 1.0}}"
      ) from None
  return {name: dict(options) for name, options in selected.items()}
