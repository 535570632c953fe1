"""The mean loss, and how long each example's gradient is, as `jax.grad` differentiates them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.types import Array, Params


def example_norms(
  losses_of: Callable[..., Array], params: Params, x: Array, targets: Any, key: Any, weights: Any
) -> Array:
  """The norm of each example's gradient, N w_i / Σ w ∂losses_i/∂Θ, by `jax.grad`, `[N]`.

  One after another, as all of them at once would be N times the parameters. With a key each is a
  pass over the whole batch, on which an example's dropout depends.
  """
  n = x.shape[0]
  shares = (
    jnp.ones(n, x.dtype) if weights is None else n * jax.grad(mean)(jnp.ones_like(weights), weights)
  )

  def norm_of(i: Array) -> Array:
    def own_loss(params: Params) -> Array:
      if key is not None:
        return shares[i] * losses_of(params, x, targets, key)[i]
      own_x, own_targets = jax.tree.map(lambda a: a[i][None], (x, targets))
      return shares[i] * losses_of(params, own_x, own_targets, None)[0]

    grads = jax.tree.leaves(jax.grad(own_loss)(params))
    return jnp.sqrt(sum(jnp.sum(g * g) for g in grads))

  return jax.lax.map(norm_of, jnp.arange(n))


def mean(losses: Array, weights: Array | None) -> Array:
  """The mean of the losses by their weights; weights that are all zero give zero, not 0/0."""
  if weights is None:
    return jnp.mean(losses)
  tiny = float(jnp.finfo(weights.dtype).tiny)  # NumPy knows nothing of bfloat16.
  return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), tiny)
