"""One training step, loss and gradient: ours, `jax.value_and_grad`, and the bare forward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarks.models import (
  Step,
  draw_batches,
  draw_params,
  our_forward,
  our_step,
  plain_step,
  shapes,
)
from scripts.benchmarks.rounds import measure
from scripts.benchmarks.sizes import SIZES, Size

INPUTS = 4
"""The number of different batches that the calls cycle through."""

COLUMNS = (
  f"{'size':<7} {'timed':<15} {'ours':>9} {'jax.grad':>9} {'ratio':>6} {'quartiles':>13} "
  f"{'back/fwd':>8} {'FLOPs':>7} {'temp':>7}  rounds"
)
EXPLANATION = """\
ours, jax.grad: time of a step, loss and gradient; ratio: ours over jax.grad within a round
back/fwd: our step without its forward pass, over the forward pass alone
FLOPs, temp: the compiler's count for one step, ours over jax.grad; temp is scratch memory, without
what XLA keeps for a while in the buffers of the results
rounds: that count, of those run; others used: the cores' time that went to other processes
"""


class Cost(NamedTuple):
  """The compiler's cost estimates of a compiled step."""

  flops: float
  temp_bytes: int


class Row(NamedTuple):
  """The figures of one size; all ratios are ours over theirs, times in seconds per step."""

  size: str
  timed: str
  ours: float
  theirs: float
  forward: float
  ratio: float
  ratio_quartiles: tuple[float, float]
  backward_over_forward: float
  flops_ratio: float | None
  temp_ratio: float | None
  rounds: int
  rounds_tried: int
  others: float | None


def cost(step: Step, size: Size) -> Cost:
  """Compile a step, without running it."""
  compiled: Any = jax.jit(step).lower(*shapes(size)).compile()
  return Cost(compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes)


def repeated(step: Step, size: Size) -> Step:
  """Build the timed call: the step, or a scan of it over `size.scan` batches.

  The scan carries the result of the last step, so that no step is eliminated; there is no update,
  since its equal cost on both sides would bring the ratio closer to 1.
  """
  if size.scan == 1:
    return step

  def scanned(params: Any, x: Any, targets: Any) -> Any:
    def body(_: Any, batch: Any) -> tuple[Any, None]:
      return step(params, *batch), None

    first = jax.tree.map(lambda stack: stack[0], (x, targets))
    nothing = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(step, params, *first)
    )
    return jax.lax.scan(body, nothing, (x, targets))[0]

  return scanned


def candidate(step: Step, size: Size, params: Any, batches: list[Any]) -> Callable[[int], None]:
  """Build a compiled call that waits for its result."""
  compiled = jax.jit(repeated(step, size))

  def call(number: int) -> None:
    outputs = compiled(params, *batches[number % len(batches)])
    jax.block_until_ready(outputs)

  return call


def run_size(name: str, rounds: int) -> Row:
  """Measure one size."""
  size = SIZES[name]
  params, batches = draw_params(size), [draw_batches(size, seed) for seed in range(INPUTS)]
  steps = (our_step(size), plain_step(size), our_forward(size))
  ours, theirs = cost(steps[0], size), cost(steps[1], size)
  make = partial(candidate, size=size, params=params, batches=batches)
  measured = measure([make(step) for step in steps], rounds)
  step, plain, forward = (measured.seconds / size.scan).T
  quartiles = np.quantile(step / plain, (0.25, 0.5, 0.75))
  return Row(
    size=name,
    timed="a call" if size.scan == 1 else f"scan of {size.scan}",
    ours=float(np.median(step)),
    theirs=float(np.median(plain)),
    forward=float(np.median(forward)),
    ratio=float(quartiles[1]),
    ratio_quartiles=(float(quartiles[0]), float(quartiles[2])),
    backward_over_forward=float(np.median((step - forward) / forward)),
    flops_ratio=ratio(ours.flops, theirs.flops),
    temp_ratio=ratio(ours.temp_bytes, theirs.temp_bytes),
    rounds=len(step),
    rounds_tried=measured.tried,
    others=measured.disturbed,
  )


def ratio(ours: float, theirs: float) -> float | None:
  """Return ours over theirs; None where a backend counts nothing."""
  return ours / theirs if theirs else None


def line(row: Row) -> str:
  """Format a row of the table."""
  low, high = row.ratio_quartiles
  others = "" if row.others is None else f", others used up to {row.others:.0%}"
  flops, temp = ("-" if r is None else f"{r:.4f}" for r in (row.flops_ratio, row.temp_ratio))
  return (
    f"{row.size:<7} {row.timed:<15} {shown(row.ours):>9} {shown(row.theirs):>9} {row.ratio:>6.3f} "
    f"{low:>6.3f}-{high:.3f} {row.backward_over_forward:>8.2f} {flops:>7} "
    f"{temp:>7}  {row.rounds} of {row.rounds_tried}{others}"
  )


def shown(seconds: float) -> str:
  """Format a time with three digits and a unit."""
  for unit, factor in (("s", 1.0), ("ms", 1e3)):
    if seconds * factor >= 1:
      return f"{seconds * factor:.3g} {unit}"
  return f"{seconds * 1e6:.3g} µs"


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print every size; return the rows for the file."""
  print(EXPLANATION)
  print(COLUMNS, flush=True)
  rows = []
  for name in sizes:
    row = run_size(name, rounds)
    print(line(row), flush=True)
    rows.append(row._asdict())
  return rows
