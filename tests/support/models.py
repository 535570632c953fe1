"""Whole models, a network with a loss, and the true gradient of their mean loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop.verify.cases import CASES, Case
from tests.support import witness

ROWS = {case.id: case for case in CASES}


class Model(NamedTuple):
  """A row of the table of layers, and one of the table of losses."""

  net: Case
  loss: Case

  @property
  def id(self) -> str:
    return f"{self.net.id}-{self.loss.id}"


class Problem(NamedTuple):
  """A model in a dtype, with numbers."""

  net: fb.Layer
  loss: fb.Loss
  params: Any
  x: jax.Array
  targets: jax.Array


MODELS = tuple(
  Model(ROWS[net], ROWS[loss])
  for net, loss in (
    ("mlp_relu", "softmax_cross_entropy_labels"),
    ("mlp_tanh", "softmax_cross_entropy_rows"),
    ("mlp_gelu", "sigmoid_cross_entropy"),
    ("mlp_output_activation", "squared_error"),
    ("mlp_no_bias", "softmax_cross_entropy_one_hot"),
  )
)


def draw_model(model: Model, dtype: str, n: int = 7) -> Problem:
  """Draw the model's units, parameters, and n examples."""
  rng = witness.generator(model, n)
  params, x = witness.as_jax(model.net.primals(rng, n, jnp.dtype(dtype)))
  _, targets = witness.as_jax(model.loss.primals(rng, n, jnp.dtype(dtype)))
  return Problem(
    model.net.make(jnp.dtype(dtype)), model.loss.make(jnp.dtype(dtype)), params, x, targets
  )


def reference_losses(model: Model) -> Any:
  """Build the loss of each example, from the references of both rows."""

  def losses(params, x, targets):
    return model.loss.reference(model.net.reference(params, x), targets)

  return losses


def reference_mean(model: Model) -> Any:
  """Build the mean of these losses, for `jax.value_and_grad`."""

  def mean(params, x, targets):
    return reference_losses(model)(params, x, targets).mean()

  return mean


def assert_mean_gradient(
  model: Model, problem: Problem, got: Any, shares: np.ndarray | None = None
) -> None:
  """Raise unless `got`, `(mean, grads, x_bar)`, is the value and gradient of Σ shares_n losses_n.

  `shares` are 1/N by default. The scale of a leaf is the largest term of its sum over examples and
  outputs: see `witness`.
  """
  _, _, params, x, targets = problem
  n = len(x)
  shares = np.full(n, 1 / n) if shares is None else shares
  reference = reference_losses(model)
  with jax.enable_x64(True):
    losses = np.asarray(jax.jit(reference)(*witness.wide((params, x, targets))))
  view = witness.View(("params", "x"), (False, True, True), reference)
  truth = witness.true_sum(reference, view, (params, x, targets), shares)
  truth = witness.Truth(
    ((shares * losses).sum(), *truth.want), (np.abs(shares * losses).max(initial=0.0), *truth.scale)
  )
  names = ("mean", "grads", "x_bar")
  witness.assert_close(f"{model.id} ({x.dtype})", names, got, truth, witness.tolerance(x.dtype))


def in_oracle_words(net: fb.Layer, params: Any) -> list[tuple[Any, Any, str]]:
  """Convert a chain for `oracle`: `(w, b, name of the activation)` for each dense layer."""
  layers = []
  for layer, own in zip(net.parts, params, strict=True):
    if layer.name == "dense":
      layers.append((*witness.wide(tuple(own)), "identity"))
    else:
      layers[-1] = (*layers[-1][:2], layer.name)
  return layers
