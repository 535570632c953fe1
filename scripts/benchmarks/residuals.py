"""The residuals of the forward pass: ours, and those of `jax.vjp` in plain JAX.

The unit is one activation `[N, width]` for each hidden layer. The count covers distinct arrays,
without parameters and the data x; nothing is computed. These are the residuals that the two sides
request: the compiler may store fewer, or recompute some.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.accuracy import peer_of
from scripts.benchmarks.models import array, plain_outputs
from scripts.campaigns.matrix import ACTIVATIONS

N, WIDTH, HIDDEN = 128, 256, 8
WIDTHS = (WIDTH,) * (HIDDEN + 1) + (10,)


def kept_with(name: str) -> tuple[float, float]:
  """Trace both sides with an activation; of theirs, count the distinct arrays but the arguments.

  Returns:
    Our residuals and theirs, in activations per hidden layer.
  """
  net, f = fb.mlp(WIDTHS, getattr(fb, name)), peer_of(name)
  params = jax.eval_shape(net.init, jax.random.key(0))
  x = array((N, WIDTH), jnp.float32)

  def plain_residuals(params: Any, x: Any) -> Any:
    return jax.tree.leaves(jax.vjp(lambda params: plain_outputs(params, x, f), params)[1])

  jaxpr = jax.make_jaxpr(plain_residuals)(params, x).jaxpr
  buffers = {id(v): v.aval for v in jaxpr.outvars if v not in jaxpr.invars}
  theirs = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in buffers.values())
  unit = N * WIDTH * HIDDEN * 4
  return fb.residual_bytes(net, x) / unit, theirs / unit


def run() -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  print(f"mlp of {HIDDEN} hidden layers of {WIDTH}, N = {N}; in activations a hidden layer")
  print(f"{'activation':<12} {'ours':>6} {'jax.vjp':>8}", flush=True)
  rows = []
  for name in ACTIVATIONS:
    ours, theirs = kept_with(name)
    print(f"{name:<12} {ours:>6.2f} {theirs:>8.2f}")
    rows.append({"activation": name, "ours": ours, "theirs": theirs})
  return rows
