"""A step of gradient descent by a rule of `fbackprop.rules`, beside one by backpropagation.

The steps update their parameters in place, as `fit`'s do: fixed feedback stays where it is, while a
step that keeps its input must copy it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks import models
from scripts.benchmarks.rounds import measure, quartiles, shown
from scripts.benchmarks.subjects import SIZES, Size

RULES = {
  "feedback_alignment": fb.rules.feedback_alignment,
  "direct_feedback_alignment": fb.rules.direct_feedback_alignment,
  "sign_symmetry": fb.rules.sign_symmetry,
  "kolen_pollack": fb.rules.kolen_pollack,
}
RATE = 1e-4


def training(layer: fb.Layer, loss: fb.Loss, size: Size, batches: list[Any]) -> Callable[..., None]:
  """Build a call that takes the next step, or `size.scan` of them, and waits for its result."""
  loss_and_update = fb.value_and_grad(layer, loss)

  def step(params: Any, x: Any, targets: Any) -> Any:
    _, updates = loss_and_update(params, x, targets)
    return jax.tree.map(lambda p, g: p - RATE * g, params, updates)

  def scanned(params: Any, x: Any, targets: Any) -> Any:
    return jax.lax.scan(lambda p, batch: (step(p, *batch), None), params, (x, targets))[0]

  train = jax.jit(step if size.scan == 1 else scanned, donate_argnums=0)
  params = jax.tree.map(jnp.copy, layer.init(jax.random.key(0)))

  def go_on(number: int) -> None:
    nonlocal params
    params = jax.block_until_ready(train(params, *batches[number % len(batches)]))

  return go_on


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  print(f"{'size':<8} {'rule':<27} {'step':>9}  over backprop's (quartiles)  rounds")
  return [row for size in sizes for row in rows_of(size, rounds)]


def rows_of(name: str, rounds: int) -> list[dict[str, Any]]:
  """Time every rule in turns with backpropagation."""
  size = SIZES[name]
  net, loss = models.our_net(size)
  _, batches = models.draw_inputs(size)
  layers = {"backprop": net, **{rule: make(net) for rule, make in RULES.items()}}
  calls = [training(layer, loss, size, batches) for layer in layers.values()]
  measured = measure(calls, rounds)
  backprop, *others = (measured.seconds / size.scan).T
  rows = []
  for rule, seconds in zip(RULES, others, strict=True):
    low, ratio, high = quartiles(seconds / backprop)
    step = float(np.median(seconds))
    row = {"size": name, "rule": rule, "step": step, "ratio": ratio}
    rows.append({**row, "ratio_quartiles": (low, high), **measured.figures})
    print(
      f"{name:<8} {rule:<27} {shown(step):>9}  {ratio:.3f} ({low:.3f}-{high:.3f})"
      f"{'':>10}{measured}",
      flush=True,
    )
  return rows
