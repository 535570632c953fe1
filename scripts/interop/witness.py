"""The witness: `vmap(jax.grad)` of the same network in plain JAX, and definitions in NumPy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.interop.problems import CROSS_ENTROPY, Data, Problem, Tree

GAMMA = 1e-6
"""The γ that Opacus adds to every norm."""


def loss_of(problem: Problem, weights: Any, x: Any, target: Any) -> Any:
  """Compute the loss of one example, x `[D_in]`."""
  for i, (w, b) in enumerate(weights):
    x = x @ w if b is None else x @ w + b
    if i < len(weights) - 1:
      x = jnp.tanh(x) if problem.activation == "tanh" else jax.nn.relu(x)
  if problem.loss == CROSS_ENTROPY:
    return -jax.nn.log_softmax(x)[target]
  return 0.5 * ((x - target) ** 2).sum()


def example_gradients(problem: Problem, data: Data) -> Tree:
  """Return g_i, each leaf `[N, *shape]`."""
  return [np.asarray(leaf) for leaf in jax.tree.leaves(compiled(problem, *data))]


@partial(jax.jit, static_argnums=0)
def compiled(problem: Problem, weights: Any, x: Any, targets: Any) -> Any:
  """Compute the gradients by autodiff, in one program."""
  return jax.vmap(jax.grad(partial(loss_of, problem)), (None, 0, 0))(weights, x, targets)


def norms_of(gradients: Tree) -> np.ndarray:
  """Return ‖g_i‖, `[N]`."""
  return np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in gradients))


def by_definition(gradients: Tree, bound: float) -> dict[str, Tree]:
  """Compute every compared quantity by its definition over the examples' gradients."""
  norms = norms_of(gradients)
  n = len(norms)

  def weighted(coefficients: np.ndarray) -> Tree:
    return [np.einsum("n,n...->...", coefficients, g) for g in gradients]

  flat = np.minimum(1, bound / norms)
  return {
    "example_gradients": gradients,
    "example_sqnorms": [norms**2],
    "norms": [norms],
    "second_moment": [(g**2).sum(0) for g in gradients],
    "variance": [g.var(0, ddof=1) if n > 1 else np.full(g.shape[1:], np.nan) for g in gradients],
    "clipped_gradient": weighted(flat),
    "clipped_gradient, stable": weighted(np.minimum(1, bound / (norms + GAMMA))),
    "clipped_gradient, but the first": weighted(np.where(np.arange(n) > 0, flat, 0)),
  }
