"""The cost of the checks for finite steps: `fit`'s loop over one without checks.

Chunks of steps are timed in turns, each one compiled call: `fit`'s own, which checks the loss and
the gradient in each step and all else once; the one that checks every number in every step, as
"skip" and "rollback" do; and one without checks.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop.train.loop import make_chunk, start_loop
from fbackprop.train.optimizers import make_update
from fbackprop.train.step import layer_norms, make_guarded_step, total_weight
from scripts.benchmarks.epoch_jax import advancing
from scripts.benchmarks.models import draw_batches, our_net
from scripts.benchmarks.rounds import in_turns, quartiles
from scripts.benchmarks.subjects import SIZES

OPTIMIZERS = {"descent": fb.train.gradient_descent(1e-3), "adam": optax.adam(1e-4)}
EPOCH, STEPS = 10, 200  # Batches in the data, and steps of a call.


def unguarded_step(net: fb.Layer, loss: fb.Loss, optimizer: optax.GradientTransformation) -> Any:
  """Build the step of `fit` without any checks."""
  loss_and_gradient, update = fb.value_and_grad(net, loss), make_update(optimizer, net, loss)

  def step(state: fb.train.State, batch: fb.train.Batch) -> tuple[fb.train.State, fb.train.Info]:
    value, grads = loss_and_gradient(state.params, batch.x, batch.targets)
    params, opt_state = update(state.params, state.opt_state, batch, None, value, grads)
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    weight, is_finite = total_weight(batch, value.dtype), jnp.ones((), bool)
    return state, fb.train.Info(value, weight, layer_norms(grads), is_finite)

  return step


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  print(f"{'size':<8} {'optimizer':<10} {'step':>10}  fit's look (quartiles)      every number")
  return [row_of(size, optimizer, rounds) for size in sizes for optimizer in OPTIMIZERS]


def row_of(name: str, optimizer: str, rounds: int) -> dict[str, Any]:
  """Return the times of a step with one optimiser, relative to the loop without checks."""
  size, own = SIZES[name], OPTIMIZERS[optimizer]
  net, loss = our_net(size)
  data = fb.train.Batch(*draw_batches(size._replace(batch=EPOCH * size.batch, scan=1), seed=0))
  init = fb.train.make_step(net, loss, own)[0]
  steps = {
    "never": unguarded_step(net, loss, own),
    "fit": make_guarded_step(net, loss, own, is_thorough=False)[1],
    "thorough": make_guarded_step(net, loss, own, is_thorough=True)[1],
  }

  def call_of(who: str) -> Callable[[int], float]:
    loop = start_loop(init(jax.random.key(0)), len(data.x), jnp.float32)
    chunk = make_chunk(steps[who], size.batch, STEPS, is_thorough=who != "fit")
    run = advancing(chunk, loop, data, STEPS)

    def seconds_a_step(number: int) -> float:
      start = time.perf_counter()
      run(number)
      return (time.perf_counter() - start) / STEPS

    return seconds_a_step

  never, fit, thorough = in_turns([call_of(who) for who in steps], rounds).T
  low, median, high = quartiles(fit / never)
  step_seconds, thorough_ratio = float(np.median(never)), float(np.median(thorough / never))
  print(
    f"{name:<8} {optimizer:<10} {step_seconds * 1e6:>7.1f} us  {median:.3f} ({low:.3f}-{high:.3f})"
    f"{thorough_ratio:>21.3f}",
    flush=True,
  )
  return {
    "size": name,
    "optimizer": optimizer,
    "step_seconds": step_seconds,
    "fit_ratio": median,
    "fit_quartiles": [low, high],
    "thorough_ratio": thorough_ratio,
  }
