"""kfac-jax's curvature, in an environment of its own: it needs jax 0.9.

  python kfac_jax_peer.py IN OUT

IN is a file of NumPy with the numbers of several problems, and a description of them as JSON; OUT
gets kfac-jax's numbers, in its own conventions. Nothing else of this repository is imported.
"""

import json
import sys
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

kfac_jax: Any = import_module("kfac_jax")  # Type checks work without it.
jax.config.update("jax_enable_x64", True)
NONE = {"exact_powers_to_cache": None, "approx_powers_to_cache": None}


def loss_of(problem: dict[str, Any]) -> Any:
  """Build `f(params, (x, targets)) -> loss`, with the loss registered as its guide shows."""
  activation = jnp.tanh if problem["activation"] == "tanh" else jax.nn.relu

  def loss(params: Any, batch: Any) -> Any:
    h, targets = batch
    for i, layer in enumerate(params):
      h = h @ layer["w"] + layer["b"] if "b" in layer else h @ layer["w"]
      h = activation(h) if i < len(params) - 1 else h
    if problem["loss"] == "cross-entropy":
      kfac_jax.register_softmax_cross_entropy_loss(h, targets)
      log_p = jax.nn.log_softmax(h)
      return -jnp.take_along_axis(log_p, targets[:, None], axis=1).mean()
    kfac_jax.register_squared_error_loss(h, targets)
    return ((h - targets) ** 2).sum(1).mean()

  return loss


def vector_of(params: Any) -> list[Any]:
  """Return the arrays in the order of its pytree: a dictionary's b before its w."""
  return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def run(problem: dict[str, Any], params: Any, v: Any, batch: Any, samples: int) -> dict[str, Any]:
  """Compute what is compared of one problem, each a list of arrays."""
  loss, n, key = loss_of(problem), len(batch[0]), jax.random.key(0)
  exact = kfac_jax.ImplicitExactCurvature(loss)
  arguments = params, batch
  found = {
    "multiply_hessian": vector_of(exact.multiply_hessian(arguments, v)),
    "multiply_ggn": vector_of(exact.multiply_ggn(arguments, v)),
    "multiply_fisher": vector_of(exact.multiply_fisher(arguments, v)),
  }
  for mode, draws in {
    "ggn_exact": 1, "fisher_exact": 1, "fisher_empirical": 1,
    "ggn_curvature_prop": samples, "fisher_gradients": samples,
  }.items():  # fmt: skip
    blocks = kfac_jax.BlockDiagonalCurvature(
      loss, default_estimation_mode=mode, num_samples=draws, should_vmap_samples=False
    )
    state = blocks.init(key, arguments, **NONE)
    state = blocks.update_curvature_matrix_estimate(
      state, ema_old=0.0, ema_new=1.0, identity_weight=0.0, batch_size=n, rng=key,
      func_args=arguments,
    )  # fmt: skip
    found[mode] = [
      np.asarray(factor.value) for block in state.blocks_states for factor in block.factors
    ]
    if mode == "ggn_exact":
      dense = blocks.to_diagonal_block_dense_matrix(state)
      found["to_diagonal_block_dense_matrix"] = list(map(np.asarray, dense))
  return found


def main(source: str, target: str) -> None:
  """Compute everything of a file."""
  given = np.load(source)
  described = json.loads(str(given["described"]))
  out: dict[str, Any] = {"version": kfac_jax.__version__}
  for i, problem in enumerate(described["problems"]):
    params, v = (
      [
        {name: jnp.asarray(given[f"{i}/{kind}/{name}{k}"]) for name in problem["names"]}
        for k in range(problem["layers"])
      ]
      for kind in ("weights", "v")
    )
    batch = jnp.asarray(given[f"{i}/x"]), jnp.asarray(given[f"{i}/targets"])
    for name, arrays in run(problem, params, v, batch, described["samples"]).items():
      out |= {f"{i}/{name}/{k}": array for k, array in enumerate(arrays)}
  np.savez(target, **out)


if __name__ == "__main__":
  main(*sys.argv[1:])
