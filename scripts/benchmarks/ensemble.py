"""XOR networks trained per second: ours, all at once, beside one after another in torch.

A network is 2-2-1 with tanh, and is trained for 200 steps of full-batch gradient descent on four
examples. `jax.grad` in a scan under `jax.vmap` is the control: a gain that it shares comes from the
compiled program. Each of our calls is a full `fit_ensemble`: stop rules, losses and norms of each
step, and the checks for finite values, which the others lack. Compilation isn't counted. torch is
installed manually: pip install torch.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks import machine
from scripts.benchmarks.rounds import in_turns, quartiles

HIDDEN, STEPS, RATE = 2, 200, 0.5
X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TARGETS = np.array([[0], [1], [1], [0]], np.float32)
TORCH_NETS = 5


NET = fb.mlp([2, HIDDEN, 1], fb.tanh)


def ours(size: int, number: int) -> float:
  """Return the seconds of training `size` networks, from new seeds for each number."""
  return fb.train.fit_ensemble(
    NET,
    fb.squared_error,
    (X, TARGETS),
    optimizer=fb.train.gradient_descent(RATE),
    stop=fb.train.StopRules(STEPS),
    keys=jax.random.split(jax.random.key(number), size),
  ).seconds


def plain(size: int) -> Callable[[int], float]:
  """Return the same by `jax.grad`, in the usual JAX style."""

  def mean_loss(params: Any) -> Any:
    (w1, b1), _, (w2, b2) = params
    y = jnp.tanh(X @ w1 + b1[None, :]) @ w2 + b2[None, :]
    return 0.5 * ((y - TARGETS) ** 2).sum(1).mean()

  def train_one(params: Any) -> Any:
    def body(params: Any, _: None) -> Any:
      value, grads = jax.value_and_grad(mean_loss)(params)
      return jax.tree.map(lambda p, g: p - RATE * g, params, grads), value

    return jax.lax.scan(body, params, None, length=STEPS)

  start = jax.jit(jax.vmap(NET.init))
  run = jax.jit(jax.vmap(train_one))

  def train(number: int) -> float:
    params = jax.block_until_ready(start(jax.random.split(jax.random.key(number), size)))
    begin = time.perf_counter()
    jax.block_until_ready(run(params))
    return time.perf_counter() - begin

  return train


def torch_loop(number: int) -> float:
  """Return the seconds of training one network after another in torch, as in its tutorials."""
  torch: Any = import_module("torch")
  torch.set_num_threads(machine.core_count())
  x, targets = torch.from_numpy(X), torch.from_numpy(TARGETS)
  torch.manual_seed(number)
  begin = time.perf_counter()
  for _ in range(TORCH_NETS):
    layers = torch.nn.Linear(2, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1)
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for _ in range(STEPS):
      optimizer.zero_grad()
      loss = 0.5 * ((net(x) - targets) ** 2).sum(1).mean()
      loss.backward()
      optimizer.step()
  return time.perf_counter() - begin


def run(sizes: list[int], rounds: int) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  candidates: list[tuple[str, int, Callable[[int], float]]] = []
  if has_torch := find_spec("torch") is not None:
    candidates.append(("torch, one by one", TORCH_NETS, torch_loop))
  else:
    print("torch, one by one: not installed: pip install torch")
  for size in sizes:
    candidates += [("ours", size, partial(ours, size)), ("vmap of jax.grad", size, plain(size))]
  print(f"{'':<20}{'K':>7}{'nets a second':>15}{'quartiles':>20}{'over torch':>12}")
  rows = []
  seconds = in_turns([call for _, _, call in candidates], rounds)
  for (name, size, _), own in zip(candidates, seconds.T, strict=True):
    low, median, high = quartiles(size / own)
    over = float(np.median(size / own / (TORCH_NETS / seconds[:, 0]))) if has_torch else None
    shown, spread = "-" if over is None else f"{over:,.0f}", f"{low:,.0f}-{high:,.0f}"
    print(f"{name:<20}{size:>7}{median:>15,.0f}{spread:>20}{shown:>12}", flush=True)
    rows.append({"who": name, "members": size, "nets_per_second": median,
                 "quartiles": [low, high], "over_torch": over, "rounds": rounds})  # fmt: skip
  return rows
