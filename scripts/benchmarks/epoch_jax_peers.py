"""Epochs of equinox and flax nnx: a Python loop as in their own guides, and a bare scan.

The loop shuffles by NumPy, gathers a batch on the host, and waits once, at the end of the epoch.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import optax

from scripts.benchmarks.epoch_jax import bare_scan
from scripts.benchmarks.models import Epochs, draw_examples, draw_rows
from scripts.benchmarks.subjects import RATE, SIZES

eqx: Any = import_module("equinox")  # Type checks must work without either.
nnx: Any = import_module("flax.nnx")
OPTIMIZER = optax.sgd(RATE)


def mean_loss(outputs: Any, targets: Any) -> Any:
  """Compute the mean loss, as both guides do by optax; real targets have the squared error."""
  if targets.ndim == 1:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
  return optax.l2_loss(outputs, targets).sum(1).mean()


def loop(name: str, step: Callable[[Any, Any], Any]) -> Epochs:
  """Build the loop over a step, `(x, targets) -> loss`, that keeps its own state."""
  x, targets = draw_examples(name)
  rng = np.random.default_rng(1)

  def run(number: int) -> None:
    for rows in draw_rows(name, rng):
      loss = step(x[rows], targets[rows])
    loss.block_until_ready()

  return Epochs(run, 1)


def equinox_model(name: str) -> Any:
  """Build the network from equinox's layers."""
  widths = list(pairwise(SIZES[name].widths))
  layers: list[Any] = []
  for pair, key in zip(widths, jax.random.split(jax.random.key(0), len(widths)), strict=True):
    layers += [eqx.nn.Linear(*pair, key=key), eqx.nn.Lambda(jax.nn.relu)]
  return eqx.nn.Sequential(layers[:-1])


def equinox_step(model: Any, opt_state: Any, x: Any, targets: Any) -> tuple[Any, Any, Any]:
  """Run a step; return `(model, opt_state, loss)`."""
  value_and_grad = eqx.filter_value_and_grad(lambda model: mean_loss(jax.vmap(model)(x), targets))
  loss, grads = value_and_grad(model)
  updates, opt_state = OPTIMIZER.update(grads, opt_state, model)
  return eqx.apply_updates(model, updates), opt_state, loss


def make_equinox(name: str) -> Epochs:
  """Build a loop over an `eqx.filter_jit` step."""
  compiled, model = eqx.filter_jit(equinox_step), equinox_model(name)
  opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_array))

  def step(x: Any, targets: Any) -> Any:
    nonlocal model, opt_state
    model, opt_state, loss = compiled(model, opt_state, x, targets)
    return loss

  return loop(name, step)


def make_equinox_scan(name: str) -> Epochs:
  """Build the bare scan with equinox's gradient."""
  model, static = eqx.partition(equinox_model(name), eqx.is_array)

  def update(state: Any, x: Any, targets: Any) -> Any:
    model, opt_state, loss = equinox_step(eqx.combine(state[0], static), state[1], x, targets)
    return (eqx.filter(model, eqx.is_array), opt_state), loss

  return bare_scan(name, update, (model, OPTIMIZER.init(model)))


def nnx_model(name: str) -> tuple[Any, Any]:
  """Build the network from flax's layers, and its optimiser."""
  rngs, layers = nnx.Rngs(0), []
  for pair in pairwise(SIZES[name].widths):
    layers += [nnx.Linear(*pair, rngs=rngs), nnx.relu]
  model = nnx.Sequential(*layers[:-1])
  return model, nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)


def nnx_step(model: Any, optimizer: Any, x: Any, targets: Any) -> Any:
  """Run a step, which mutates the model and its optimiser."""
  loss, grads = nnx.value_and_grad(lambda model: mean_loss(model(x), targets))(model)
  optimizer.update(model, grads)
  return loss


def make_nnx(name: str) -> Epochs:
  """Build a loop over an `nnx.jit` step."""
  return loop(name, partial(nnx.jit(nnx_step), *nnx_model(name)))


def make_nnx_scan(name: str) -> Epochs:
  """Build the bare scan with flax's gradient, by its functional interface."""
  graph, state = nnx.split(nnx_model(name))

  def update(state: Any, x: Any, targets: Any) -> Any:
    model, optimizer = nnx.merge(graph, state)
    loss = nnx_step(model, optimizer, x, targets)
    return nnx.state((model, optimizer)), loss

  return bare_scan(name, update, state)
