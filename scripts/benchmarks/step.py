"""One training step, loss and gradient: ours, `jax.value_and_grad`, and the bare forward pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.benchmarks import models
from scripts.benchmarks.models import Step
from scripts.benchmarks.rounds import measure, quartiles, shown
from scripts.benchmarks.subjects import SIZES, Size

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


def cost(step: Step, size: Size) -> tuple[float, int]:
  """Compile a step, and return the compiler's count of its FLOPs and bytes of scratch memory."""
  params = jax.eval_shape(lambda: models.draw_params(size))
  batch = models.draw_data(size, (size.batch,), seed=0)
  compiled: Any = jax.jit(step).lower(params, *batch).compile()
  return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes


def repeated(step: Step, size: Size) -> Step:
  """Build the timed call: the step, or a scan of it over `size.scan` batches.

  The scan carries the result of the last step, so that no step is eliminated; there is no update,
  since its equal cost on both sides would bring the ratio closer to 1.
  """
  if size.scan == 1:
    return step

  def scanned(params: Any, x: Any, targets: Any) -> Any:
    first = jax.tree.map(lambda stack: stack[0], (x, targets))
    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(step, params, *first))
    return jax.lax.scan(lambda _, batch: (step(params, *batch), None), nothing, (x, targets))[0]

  return scanned


def run_size(name: str, rounds: int) -> dict[str, Any]:
  """Measure one size, and print its row; ratios are ours over theirs, times in seconds a step."""
  size = SIZES[name]
  params, batches = models.draw_inputs(size)
  steps = (models.our_step(size), models.plain_step(size), models.our_forward(size))
  costs = zip(cost(steps[0], size), cost(steps[1], size), strict=True)
  # None where a backend counts nothing.
  flops_ratio, temp_ratio = (ours / theirs if theirs else None for ours, theirs in costs)
  calls = [models.cycling(jax.jit(repeated(step, size)), params, batches) for step in steps]
  measured = measure(calls, rounds)
  step, plain, forward = (measured.seconds / size.scan).T
  low, ratio, high = quartiles(step / plain)
  row = {
    "size": name,
    "timed": "a call" if size.scan == 1 else f"scan of {size.scan}",
    "ours": float(np.median(step)),
    "theirs": float(np.median(plain)),
    "forward": float(np.median(forward)),
    "ratio": ratio,
    "ratio_quartiles": (low, high),
    "backward_over_forward": float(np.median((step - forward) / forward)),
    "flops_ratio": flops_ratio,
    "temp_ratio": temp_ratio,
    **measured.figures,
  }
  flops, temp = ("-" if r is None else f"{r:.4f}" for r in (flops_ratio, temp_ratio))
  print(
    f"{name:<7} {row['timed']:<15} {shown(row['ours']):>9} {shown(row['theirs']):>9} {ratio:>6.3f} "
    f"{low:>6.3f}-{high:.3f} {row['backward_over_forward']:>8.2f} {flops:>7} "
    f"{temp:>7}  {str(measured).replace(' rounds', '')}",
    flush=True,
  )
  return row


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print every size; return the rows for the file."""
  print(EXPLANATION, COLUMNS, sep="\n", flush=True)
  return [run_size(name, rounds) for name in sizes]
