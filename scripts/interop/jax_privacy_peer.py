"""jax-privacy: `clipped_grad` of one example's loss, in its alternative scalings."""

from importlib import import_module
from typing import Any

import jax
import numpy as np

from scripts.interop.problems import Data, Problem, Tree
from scripts.interop.witness import loss_of


def run_jax_privacy(problem: Problem, data: Data, bound: float) -> dict[str, Tree]:
  """Return the sum of clipped gradients, and the norms used for clipping."""
  jax_privacy = import_module("jax_privacy")

  def loss(weights: Any, x: Any, target: Any) -> Any:
    return loss_of(problem, weights, x, target)

  def clip(x: Any = data.x, **options: Any) -> Any:
    clipped = jax_privacy.clipped_grad(
      loss, l2_clip_norm=bound, batch_argnums=(1, 2), keep_batch_dim=False, **options
    )
    return jax.jit(clipped)(data.weights, x, data.targets)

  poisoned = data.x.copy()
  poisoned[0] = np.nan
  found = {
    "clipped_grad": clip(),
    "normalize_by=N": clip(normalize_by=problem.n),
    "rescale_to_unit_norm": clip(rescale_to_unit_norm=True),
    "first example NaN": clip(poisoned),
    "grad_norms": clip(return_grad_norms=True)[1].grad_norms,
  }
  return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
          for name, tree in found.items()}  # fmt: skip
