"""Epochs of ours: the program that `fit` runs, and a bare scan for any gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import fbackprop as fb
from fbackprop.train.loop import Member, make_chunk, start_loop
from fbackprop.train.shuffle import SHUFFLES
from fbackprop.train.step import make_guarded_step
from fbackprop.train.stop_rules import RUNNING, stop_numbers
from scripts.benchmarks import models
from scripts.benchmarks.models import Epochs, draw_examples
from scripts.benchmarks.subjects import EXAMPLES, PROGRAM, RATE, SIZES, Size

Update = Callable[[Any, Any, Any], tuple[Any, Any]]


def compiled_run(name: str, shuffle: str) -> Epochs:
  """Build the compiled program of `fit`: stop rules, checks, each step's loss and norms.

  It checks the loss and the gradient in each step, and all else once, at the end of the call.
  """
  size, epochs = SIZES[name], PROGRAM[name]
  n, steps = EXAMPLES[name], epochs * (EXAMPLES[name] // size.batch)
  data = fb.train.Batch(*map(jnp.asarray, draw_examples(name)))
  optimizer = fb.train.gradient_descent(RATE)
  init, step = make_guarded_step(*models.our_net(size), optimizer, is_thorough=False)
  loop = start_loop(init(jax.random.key(0)), n, jnp.float32, shuffle)
  chunk = make_chunk(step, size.batch, steps, shuffle, is_thorough=False)
  return Epochs(advancing(chunk, loop, data, steps), epochs)


def advancing(chunk: Any, loop: Any, data: fb.train.Batch, steps: int) -> Callable[[int], None]:
  """Build a call of a chunk of `fit`, which continues from its last state and waits."""
  stop = stop_numbers(fb.train.StopRules(2**31 - 1), jnp.float32)
  key, done = jax.random.key(1), 0

  def run(number: int) -> None:
    nonlocal loop, done
    done += steps
    loop, _ = chunk(loop, data, stop, jnp.asarray(done, jnp.int32), Member(key))
    if int(loop.progress.reason) != RUNNING:  # `fit` reads it too, and so waits.
      raise RuntimeError("a step wasn't finite")

  return run


def bare_scan(name: str, update: Update, state: Any) -> Epochs:
  """Build epochs as one program without stop rules: scans over epochs and steps, the fast shuffle.

  Args:
    name: the name of the size.
    update: a step, `(state, x, targets) -> (state, loss)`.
    state: the initial state.
  """
  size, n, epochs = SIZES[name], EXAMPLES[name], PROGRAM[name]
  steps, (draw, rows_at) = n // size.batch, SHUFFLES["fast"]
  x, targets = map(jnp.asarray, draw_examples(name))

  @partial(jax.jit, donate_argnums=0)
  def program(state: Any, x: Any, targets: Any, key: Any) -> tuple[Any, Any]:
    def epoch(state: Any, key: Any) -> tuple[Any, Any]:
      drawn = draw(key, n)

      def step(state: Any, place: Any) -> tuple[Any, Any]:
        rows = rows_at(drawn, n, place * size.batch, size.batch)
        return update(state, x[rows], targets[rows])

      return jax.lax.scan(step, state, jnp.arange(steps, dtype=jnp.int32))

    return jax.lax.scan(epoch, state, jax.random.split(key, epochs))

  keys = jax.random.split(jax.random.key(1), 4)
  state = jax.tree.map(jnp.array, state)  # Donated, so copied into a buffer of its own.

  def run(number: int) -> None:
    nonlocal state
    state, losses = program(state, x, targets, keys[number % len(keys)])
    jax.block_until_ready((state, losses))

  return Epochs(run, epochs)


def descent(name: str, step_of: Callable[[Size], models.Step]) -> Epochs:
  """Build a bare scan of gradient descent with a step of `models`."""
  loss_and_gradient = step_of(SIZES[name])

  def update(params: Any, x: Any, targets: Any) -> tuple[Any, Any]:
    loss, grads = loss_and_gradient(params, x, targets)
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads), loss

  return bare_scan(name, update, models.draw_params(SIZES[name]))


make_exact = partial(compiled_run, shuffle="exact")
make_fast = partial(compiled_run, shuffle="fast")
make_bare = partial(descent, step_of=models.our_step)
make_grad = partial(descent, step_of=models.plain_step)
