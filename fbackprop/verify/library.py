"""The rules that `fbackprop verify` verifies without arguments: all of this library, at small size.

A layer is verified by `layer`, which also verifies the parts of a composition; a loss, and a result
of the transforms, by `vjp`, as any other function. Targets are constants: labels are an argument,
which has no cotangent, and real targets are closed over.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.losses.classification import softmax_cross_entropy
from fbackprop.transforms import as_custom_vjp, value_and_grad
from fbackprop.types import Array, Params
from fbackprop.verify._vjp import vjp
from fbackprop.verify.cases import LOSSES, TITLED, Case
from fbackprop.verify.network import layer
from fbackprop.verify.report import Report

N = 5


class Entry(NamedTuple):
  """A rule of the library; `verify(**options)`, with the options of `vjp`, returns its report."""

  name: str
  verify: Callable[..., Report]


def unit_and_primals(case: Case) -> tuple[Any, ...]:
  """Return the unit of a row in float32, and drawn arguments for it."""
  primals = case.primals(np.random.default_rng(0), N, jnp.dtype(jnp.float32))
  return case.make(jnp.dtype(jnp.float32)), *jax.tree.map(jnp.asarray, primals)


def verify_layer(case: Case, **options: Any) -> Report:
  """Verify a layer, part by part; give a random one its key."""
  net, params, x, *key = unit_and_primals(case)
  return layer(net, params, x, key=key[0] if key else None, **options)


def verify_custom_vjp(case: Case, **options: Any) -> Report:
  """Verify the rule of a layer as `jax.grad` applies it."""
  net, params, x = unit_and_primals(case)
  return vjp(as_custom_vjp(net), params, x, **options)


def verify_value_and_grad(case: Case, **options: Any) -> Report:
  """Verify the gradient of a network's mean loss with respect to parameters and data."""
  net, params, x = unit_and_primals(case)
  loss_and_gradient = value_and_grad(net, softmax_cross_entropy, input_gradient=True)

  def f(params: Params, x: Array, labels: Array) -> Array:
    return jnp.mean(softmax_cross_entropy.forward(net.forward(params, x)[0], labels)[0])

  def f_vjp(params: Params, x: Array, labels: Array) -> Any:
    mean, grads = loss_and_gradient(params, x, labels)
    return mean, lambda mean_bar: (*jax.tree.map(lambda grad: mean_bar * grad, grads), None)

  return vjp(f, params, x, jnp.arange(N, dtype=jnp.int32) % 4, f_vjp=f_vjp, **options)


def verify_loss(case: Case, **options: Any) -> Report:
  """Verify each example's loss with respect to its outputs."""
  loss, outputs, targets = unit_and_primals(case)

  def f(outputs: Array, targets: Any = targets) -> Array:
    return loss.forward(outputs, targets)[0]

  def f_vjp(outputs: Array, *given: Any) -> Any:
    losses, residuals = loss.forward(outputs, *(given or (targets,)))
    return losses, lambda bar: (loss.backward(residuals, bar), *(None for _ in given))

  are_labels = getattr(targets, "dtype", None) == jnp.int32
  return vjp(f, outputs, *([targets] if are_labels else []), f_vjp=f_vjp, **options)


LIBRARY: tuple[Entry, ...] = (
  *(Entry(t, partial(verify_layer, row)) for t, row in TITLED.items() if row not in LOSSES),
  Entry("as_custom_vjp", partial(verify_custom_vjp, TITLED["mlp"])),
  Entry("value_and_grad", partial(verify_value_and_grad, TITLED["mlp"])),
  *(Entry(t, partial(verify_loss, row)) for t, row in TITLED.items() if row in LOSSES),
)
