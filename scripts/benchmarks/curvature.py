"""The cost of curvature over a plain gradient, its memory beside `jax.hessian`, K-FAC's steps.

"mnist" times each function on a network of 784-512-512-10; "hessian" compiles the diagonal of the
Hessian of a tanh network beside all of it by autodiff, which isn't run; "kfac" trains on all digits
as one batch, from three seeds, beside gradient descent with momentum at its best stable rate.
"""

import time
from collections.abc import Callable
from datetime import date
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop import curvature as c
from scripts.benchmarks.models import cycling, draw_inputs, our_net, our_step
from scripts.benchmarks.quantities import in_bytes
from scripts.benchmarks.rounds import measure, quartiles, shown
from scripts.benchmarks.subjects import SIZES, Size

EXPLANATION = """\
over: a call's time over a plain gradient's within a round; flops, bytes: the compiler's count of
operations and of memory traffic over the gradient's; temp: its count of scratch memory
"""
LINE = "{:<36} {:>9} {:>7} {:>15} {:>7} {:>7} {:>10}"
COLUMNS = LINE.format("", "a call", "over", "quartiles", "flops", "bytes", "temp")
NARROW = Size((64, 64, 64, 10), 128)
CHUNK = 8
TARGET_LOSS, SEEDS, MOST_STEPS = 0.01, (0, 1, 2), 600
RATES = (0.1, 0.3, 1.0)
KFAC: dict[str, Any] = {"damping": 0.01, "adapt_damping": True, "decay": 0.0}


def functions_of(size: Size) -> dict[str, Callable[..., Any]]:
  """Build the functions `(params, x, targets) -> anything`; the first is the baseline."""
  net, loss = our_net(size)
  key = jax.random.key(0)

  def with_vector(make: Callable[..., Any]) -> Callable[..., Any]:
    product = make(net, loss)
    return lambda params, x, targets: product(params, x, targets, params)

  def factors(**options: Any) -> Callable[..., Any]:
    f = c.kronecker_factors(net, loss, **options)
    drawn = {"sample_key": key} if options.get("kind") == "monte_carlo" else {}
    return lambda *arguments: f(*arguments, **drawn)

  return {
    "plain gradient": our_step(size),
    "hessian_vector_product": with_vector(c.hessian_vector_product),
    "ggn_vector_product": with_vector(c.ggn_vector_product),
    "ggn_diagonal": c.ggn_diagonal(net, loss),
    "hesscale_diagonal": c.hesscale_diagonal(net, loss),
    "kronecker_factors, exact": factors(),
    "kronecker_factors, monte_carlo": factors(kind="monte_carlo"),
    "kronecker_factors, empirical": factors(kind="empirical"),
    "monte_carlo, with the gradient": factors(kind="monte_carlo", gradient=True),
  }


def counts_of(compiled: Any) -> tuple[float, float]:
  """Return the compiler's counts of operations and of bytes that are read and written."""
  found = compiled.cost_analysis()
  return found["flops"], found["bytes accessed"]


def time_mnist(rounds: int) -> list[dict[str, Any]]:
  """Time all functions in turns."""
  size = SIZES["mnist"]
  params, batches = draw_inputs(size)
  functions = functions_of(size)
  compiled: dict[str, Any] = {
    name: jax.jit(f).lower(params, *batches[0]).compile() for name, f in functions.items()
  }
  measured = measure([cycling(one, params, batches) for one in compiled.values()], rounds)
  base = next(iter(compiled))
  flops, traffic = counts_of(compiled[base])
  print(f"mnist: {'-'.join(map(str, size.widths))}, N = {size.batch}; {measured}\n{COLUMNS}")
  rows = []
  for (name, one), seconds in zip(compiled.items(), measured.seconds.T, strict=True):
    low, over, high = quartiles(seconds / measured.seconds[:, 0])
    own_flops, own_traffic = counts_of(one)
    rows.append(row := {
      "size": "mnist", "candidate": name, "seconds": float(np.median(seconds)), "over": over,
      "quartiles": [low, high], "flops": own_flops / flops, "bytes": own_traffic / traffic,
      "temp_bytes": one.memory_analysis().temp_size_in_bytes, **measured.figures,
      "date": date.today().isoformat(),
    })  # fmt: skip
    print(LINE.format(
      name, shown(row["seconds"]), f"{over:.3f}", f"{low:.3f}-{high:.3f}", f"{row['flops']:.2f}",
      f"{row['bytes']:.2f}", in_bytes(row["temp_bytes"]),
    ), flush=True)  # fmt: skip
  return rows


def compare_hessian(rounds: int) -> list[dict[str, Any]]:
  """Compare the scratch memory of the Hessian's diagonal with that of the Hessian by autodiff."""
  net, loss = fb.mlp(NARROW.widths, fb.tanh), fb.softmax_cross_entropy
  params, batches = draw_inputs(NARROW)
  flat, unravel = jax.flatten_util.ravel_pytree(params)

  def by_autodiff(flat: Any, x: Any, targets: Any) -> Any:
    def mean(flat: Any) -> Any:
      return loss.forward(net.forward(unravel(flat), x)[0], targets)[0].mean()

    return jnp.diagonal(jax.hessian(mean)(flat))

  candidates = {
    "jax.hessian, its diagonal": (by_autodiff, flat),
    "hessian_diagonal": (c.hessian_diagonal(net, loss), params),
    f"hessian_diagonal, chunk={CHUNK}": (c.hessian_diagonal(net, loss, chunk=CHUNK), params),
  }
  rows: list[dict[str, Any]] = []
  print(f"hessian: {'-'.join(map(str, NARROW.widths))}, tanh, N = {NARROW.batch}")
  for name, (f, at) in candidates.items():
    compiled: Any = jax.jit(f).lower(at, *batches[0]).compile()
    temp = compiled.memory_analysis().temp_size_in_bytes
    rows.append({"size": "hessian", "candidate": name, "temp_bytes": temp})
    print(f"{name:<36} temp {in_bytes(temp):>8}, {rows[0]['temp_bytes'] / temp:.0f} times less")
  return rows


def count_steps(rounds: int) -> list[dict[str, Any]]:
  """Count the steps, and the seconds, to a training loss on all digits as one batch."""
  from sklearn.datasets import load_digits

  data = load_digits()
  batch = jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target)
  net, loss = fb.mlp(NARROW.widths, fb.tanh), fb.softmax_cross_entropy
  contestants = {
    **{f"momentum 0.9, rate {rate:g}": optax.sgd(rate, momentum=0.9) for rate in RATES},
    "kfac": c.kfac(net, loss, **KFAC),
    "kfac, monte_carlo": c.kfac(net, loss, kind="monte_carlo", **KFAC),
  }
  rows = []
  print(f"kfac: {'-'.join(map(str, NARROW.widths))}, tanh, N = 1797, to a loss of {TARGET_LOSS}")
  for name, optimizer in contestants.items():
    init, step = fb.train.make_step(net, loss, optimizer)
    step(init(jax.random.key(0)), batch)  # Compiled before the clock starts.
    steps, seconds = [], []
    for seed in SEEDS:
      state, start = init(jax.random.key(seed)), time.perf_counter()
      reached = None
      for number in range(MOST_STEPS + 1):
        state, info = step(state, batch)
        if float(info.loss) < TARGET_LOSS:  # The loss before this step.
          reached = number
          break
      steps.append(reached)
      seconds.append(time.perf_counter() - start)
    rows.append({"size": "kfac", "candidate": name, "steps": steps, "seconds": seconds})
    shown_steps = ", ".join("not reached" if one is None else str(one) for one in steps)
    print(f"{name:<36} steps {shown_steps}; {', '.join(map(shown, seconds))}", flush=True)
  return rows


PARTS = {"mnist": time_mnist, "hessian": compare_hessian, "kfac": count_steps}


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print every part; return the rows for the file."""
  print(EXPLANATION)
  return [row for size in sizes for row in PARTS[size](rounds)]
