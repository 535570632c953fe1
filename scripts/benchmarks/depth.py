"""Compile time of loss and gradient against depth: equal layers as one loop, and unrolled.

Tracing, lowering and compiling are timed together, with nothing cached. The depths are measured in
turns, so that a disturbance affects all of them.
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import fbackprop as fb
from scripts.benchmarks.models import array
from scripts.benchmarks.rounds import in_turns, quartiles

N, WIDTH = 128, 256
DEPTHS = (5, 65, 257, 1025)
MOST_UNROLLED = 65  # A thousand unrolled layers take many seconds each time.


def compile_seconds(layers: int, repeat_hidden: bool, number: int) -> float:
  """Return the compile time of a network of equal dense layers, the same for each number."""
  net = fb.mlp([WIDTH] * (layers + 1), repeat_hidden=repeat_hidden)
  params = jax.eval_shape(net.init, jax.random.key(0))
  x = array((N, WIDTH), jnp.float32)
  jax.clear_caches()
  start = time.perf_counter()
  jax.jit(fb.value_and_grad(net, fb.squared_error)).lower(params, x, x).compile()
  return time.perf_counter() - start


def run(rounds: int) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  unrolled = [(depth, False) for depth in DEPTHS if depth <= MOST_UNROLLED]
  kinds = [*((depth, True) for depth in DEPTHS), *unrolled]
  seconds = in_turns([partial(compile_seconds, *kind) for kind in kinds], rounds)
  print(f"layers of {WIDTH}, relu, N = {N}; seconds to compile: median (quartiles)")
  rows = []
  for (depth, repeat_hidden), times in zip(kinds, seconds.T, strict=True):
    first, median, third = quartiles(times)
    how = "one loop" if repeat_hidden else "one by one"
    print(f"{depth:>6} layers, {how:<10} {median:6.2f} ({first:.2f}-{third:.2f})", flush=True)
    own = sorted(times.tolist())
    rows.append({"layers": depth, "repeat_hidden": repeat_hidden, "seconds": own})
  return rows
