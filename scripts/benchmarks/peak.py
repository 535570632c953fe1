"""The speed of our step as a share of this machine's speed of matrix multiplication."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarks.models import cycling, draw_inputs, our_step
from scripts.benchmarks.rounds import measure, quartiles
from scripts.benchmarks.subjects import SIZES, Size

PRODUCT = 1024
"""The size of the square product that the others are compared with."""

EXPLANATION = f"""\
a step is one call of loss and gradient; its operations are those of its products alone, three for
each layer and two for the first one; share: its GFLOP/s over those of a lone {PRODUCT}³ product in
float32, within a round
"""


def step_flops(size: Size) -> int:
  """Count a step's operations in products: forward, by w, and by x where that is needed."""
  first, *others = [a * b for a, b in pairwise(size.widths)]
  return 2 * size.batch * (2 * first + 3 * sum(others))


def product_call() -> Callable[[int], None]:
  """Build the lone product, of two alternating matrices."""
  rng = np.random.default_rng(0)
  a, *others = (jnp.asarray(rng.normal(size=(PRODUCT, PRODUCT)), jnp.float32) for _ in range(3))
  return cycling(jax.jit(jnp.matmul), a, [(b,) for b in others])


def step_call(name: str) -> Callable[[int], None]:
  """Build our step."""
  size = SIZES[name]._replace(scan=1)
  params, batches = draw_inputs(size)
  return cycling(jax.jit(our_step(size)), params, batches[:2])


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print the table; return the rows for the file."""
  print(EXPLANATION)
  measured = measure([product_call(), *map(step_call, sizes)], rounds)
  flops = np.array([2 * PRODUCT**3, *(step_flops(SIZES[name]) for name in sizes)])
  speeds = flops / measured.seconds
  rows = []
  print(f"{'':<10} {'GFLOP/s':>8} {'share':>6} {'quartiles':>12}")
  for name, speed in zip(["product", *sizes], speeds.T, strict=True):
    low, share, high = quartiles(speed / speeds[:, 0])
    gflops = float(np.median(speed)) / 1e9
    print(f"{name:<10} {gflops:>8.1f} {share:>6.2f} {f'{low:.2f}-{high:.2f}':>12}", flush=True)
    rows.append({"size": name, "gflops": gflops, "share": share, "share_quartiles": (low, high),
                 **measured.figures})  # fmt: skip
  return rows
