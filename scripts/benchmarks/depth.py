"""Compile time of loss and gradient against depth: equal layers as one loop, and unrolled.

Tracing, lowering and compiling are timed together, with nothing cached. The depths are measured in
turns, so that a disturbance affects all of them.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks.models import array
from scripts.benchmarks.rounds import quartiles

N, WIDTH = 128, 256
DEPTHS = (5, 65, 257, 1025)
MOST_UNROLLED = 65  # A thousand unrolled layers take many seconds each time.


def compile_seconds(layers: int, repeat_hidden: bool) -> float:
  """Return the compile time of a network of equal dense layers."""
  net = fb.mlp([WIDTH] * (layers + 1), repeat_hidden=repeat_hidden)
  params = jax.eval_shape(net.init, jax.random.key(0))
  x = array((N, WIDTH), jnp.float32)
  jax.clear_caches()
  start = time.perf_counter()
  jax.jit(fb.value_and_grad(net, fb.squared_error)).lower(params, x, x).compile()
  return time.perf_counter() - start


def run(rounds: int) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  kinds = [(depth, True) for depth in DEPTHS]
  kinds += [(depth, False) for depth in DEPTHS if depth <= MOST_UNROLLED]
  compile_seconds(*kinds[0])  # A warm-up for one-time costs.
  seconds: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
  for i in range(rounds):
    for kind in kinds if i % 2 == 0 else reversed(kinds):
      seconds[kind].append(compile_seconds(*kind))
  print(f"layers of {WIDTH}, relu, N = {N}; seconds to compile: median (quartiles)")
  rows = []
  for (depth, repeat_hidden), times in seconds.items():
    first, median, third = quartiles(np.array(times))
    how = "one loop" if repeat_hidden else "one by one"
    print(f"{depth:>6} layers, {how:<10} {median:6.2f} ({first:.2f}-{third:.2f})", flush=True)
    rows.append({"layers": depth, "repeat_hidden": repeat_hidden, "seconds": sorted(times)})
  return rows
