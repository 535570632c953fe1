"""Our quantities, from the factors of one backward pass."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop import quantities as q
from fbackprop.layers.factors import is_factors
from scripts.interop.problems import CROSS_ENTROPY, WIDTHS, Data, Problem, Tree
from scripts.interop.witness import GAMMA


@partial(jax.jit, static_argnums=0)
def factors_of(problem: Problem, data: Data) -> Any:
  """Return the factors of the captured network's backward pass, with the seed 1 per example."""
  activation, dense = getattr(fb, problem.activation), q.captured(fb.dense)
  net = fb.mlp(WIDTHS, activation, dense=dense, bias=problem.bias, dtype=jnp.float64)
  structure = jax.tree.structure(jax.eval_shape(net.init, jax.random.key(0)))
  params = jax.tree.unflatten(structure, jax.tree.leaves(data.weights))
  loss = fb.softmax_cross_entropy if problem.loss == CROSS_ENTROPY else fb.squared_error
  outputs, backward = fb.pullback(net)(params, data.x)
  losses, residuals = loss.forward(outputs, data.targets)
  factors, _ = backward(loss.backward(residuals, jnp.ones_like(losses)))
  return factors


def quantities(factors: Any, bound: float) -> dict[str, Tree]:
  """Return every compared quantity, by the public functions."""
  return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
          for name, tree in compiled(factors, bound).items()}  # fmt: skip


@jax.jit
def compiled(factors: Any, bound: Any) -> dict[str, Any]:
  """Return every compared quantity as trees, in one program."""
  clip = partial(q.clipped_gradient, max_norm=bound)
  sqnorms = q.example_sqnorms(factors)
  norms = jnp.sqrt(sqnorms)
  shortened = norms + GAMMA > bound
  return {
    "example_gradients": q.example_gradients(factors),
    "example_sqnorms": sqnorms,
    "norms": norms,
    "second_moment": q.second_moment(factors),
    "variance": q.variance(factors),
    "clipped_gradient": clip(factors),
    # Sums of microbatches are added, so each may have its own coefficient.
    "clipped_gradient, stable": jax.tree.map(
      jnp.add,
      clip(only(factors, shortened), clipping="automatic", stability=GAMMA),
      q.gradient(only(factors, ~shortened)),
    ),
    "clipped_gradient, but the first": clip(only(factors, jnp.arange(len(norms)) > 0)),
  }


def only(factors: Any, rows: Any) -> Any:
  """Select some of the examples: the others' cotangents are 0, and so are their gradients."""
  return jax.tree.map(
    lambda layer: layer._replace(y_bar=jnp.where(rows[:, None], layer.y_bar, 0)),
    factors,
    is_leaf=is_factors,
  )
