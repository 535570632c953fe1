"""The cost of the quantities, beside a plain gradient and beside other libraries.

Each candidate is one compiled call that returns the quantity in its name. `vmap(jax.grad)` is the
usual way to per-example gradients in JAX; BackPACK and Opacus are measured relative to torch's own
plain gradient, so that torch's speed doesn't affect the comparison. They are installed manually:
pip install torch backpack-for-pytorch opacus.
"""

from collections.abc import Callable
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop import quantities as q
from scripts.benchmarks.models import cycling, draw_inputs, our_step, plain_loss, plain_step
from scripts.benchmarks.rounds import measure, quartiles, shown
from scripts.benchmarks.subjects import QUANTITY_SIZES, Size

BOUND = 1.0
MOST_BYTES = 6e9
"""The scratch memory above which a candidate is compiled but not run."""
WITH_GRADIENT = (
  "example_gradients", "example_sqnorms", "second_moment", "variance", "noise_scale", "gram",
  "cosine_similarities", "global_norm", "health",
)  # fmt: skip
HEAVY_BYTES = 1e8
"""The memory above which a candidate is timed in rounds of its own, beside the plain gradient.

The pages that it frees would be missing for the next candidate.
"""
HEAVY_ROUNDS = 3
WATCHED: dict[str, dict[str, Any]] = {
  "a step of descent": {},
  "a step, clip_examples": {"clip_examples": BOUND},
  "a step, noise_scale": {"watch": ("noise_scale",)},
  "a step, both": {"clip_examples": BOUND, "watch": ("noise_scale",)},
}
"""Steps of `fit` by their options; the first is the baseline."""
PACKAGES = {"jax": "jax", "torch": "torch", "backpack": "backpack-for-pytorch", "opacus": "opacus"}
EXPLANATION = f"""\
over: a call's time over a plain gradient's within a round, over ours for ours and jax's, over
torch's for torch's; temp: the compiler's count of scratch memory; a candidate that needs more than
{MOST_BYTES / 1e9:.0f} GB of it is compiled and not run
clipped_gradient, example_sqnorms alone: no other gradient is made; "gradient +": the gradient too
a step: of training, with its update, over one that is asked for nothing
what was given back to the C library stays with the process, so that nobody pays for new pages
"""
LINE = "{:<38} {:>9} {:>7} {:>15} {:>10}"
COLUMNS = LINE.format("", "a call", "over", "quartiles", "temp")


class Candidate(NamedTuple):
  """A timed candidate.

  Attributes:
    name: the displayed name.
    call: runs on the inputs of an index and waits.
    base: the name of the plain gradient that it is compared with.
    temp_bytes: scratch memory; None where it isn't counted.
    all_bytes: scratch memory and results together.
  """

  name: str
  call: Callable[[int], None]
  base: str
  temp_bytes: int | None = None
  all_bytes: int = 0


def captured_net(size: Size) -> fb.Layer:
  """Build the network of captured layers."""
  return fb.mlp(size.widths, dense=q.captured(fb.dense))


def ours_of(size: Size) -> dict[str, Callable[..., Any]]:
  """Build our steps `(params, x, targets) -> anything`."""
  net, loss = captured_net(size), fb.softmax_cross_entropy

  def alone(names: Any) -> Callable[..., Any]:
    look = q.compute(net, loss, names)
    return lambda *arguments: look(*arguments)[::2]  # Without the gradient.

  return {
    "plain gradient": our_step(size),
    **{f"clipped_gradient, {k}": alone({"clipped_gradient": {"max_norm": BOUND, "clipping": k}})
       for k in ("flat", "automatic", "per_layer")},
    "example_sqnorms alone": alone(("example_sqnorms",)),
    **{f"gradient + {name}": q.compute(net, loss, (name,)) for name in WITH_GRADIENT},
  }  # fmt: skip


def clipped_by_vmap(size: Size) -> Callable[..., Any]:
  """Compute the sum of clipped gradients in plain JAX, by forming all of them."""
  gradient = jax.grad(plain_loss(size))
  example_gradients = jax.vmap(lambda p, x, t: gradient(p, x[None], t[None]), (None, 0, 0))

  def step(params: Any, x: Any, targets: Any) -> Any:
    each = example_gradients(params, x, targets)
    squares = sum(jnp.sum(g.reshape(len(g), -1) ** 2, 1) for g in jax.tree.leaves(each))
    factors = jnp.minimum(1, BOUND / jnp.sqrt(squares))
    return jax.tree.map(lambda g: jnp.tensordot(factors, g, 1), each)

  return step


def candidates_of(size: Size) -> list[Candidate]:
  """Compile our candidates and those of plain JAX."""
  params, batches = draw_inputs(size)
  peers = {"jax.value_and_grad": plain_step, "clipped by vmap(jax.grad)": clipped_by_vmap}

  def made(name: str, step: Callable[..., Any]) -> Candidate:
    compiled: Any = jax.jit(step).lower(params, *batches[0]).compile()
    memory = compiled.memory_analysis()
    temp = memory.temp_size_in_bytes
    call = cycling(compiled, params, batches)
    return Candidate(name, call, "plain gradient", temp, temp + memory.output_size_in_bytes)

  steps = {**ours_of(size), **{name: make(size) for name, make in peers.items()}}
  return [made(*pair) for pair in steps.items()]


def steps_of(size: Size) -> list[Candidate]:
  """Build whole training steps with the update, each continuing from the last state."""
  net, (_, batches) = captured_net(size), draw_inputs(size)

  def made(name: str, asked: dict[str, Any]) -> Candidate:
    # The rate is so small that the losses hardly change.
    optimizer = fb.train.gradient_descent(1e-6)
    init, step = fb.train.make_step(net, fb.softmax_cross_entropy, optimizer, donate=True, **asked)
    held = [init(jax.random.key(0))]

    def call(number: int) -> None:
      held[0], info = step(held[0], batches[number % len(batches)])
      jax.block_until_ready((held[0], info))

    return Candidate(name, call, next(iter(WATCHED)))

  return [made(*pair) for pair in WATCHED.items()]


def torch_candidates_of(size: Size) -> list[Candidate]:
  """Build BackPACK's extensions and Opacus's ghost clipping; name those that are missing."""
  missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
  if missing:
    print(f"torch, BackPACK, Opacus: not installed: pip install {' '.join(missing)}", flush=True)
    return []
  return import_module("scripts.benchmarks.quantities_torch").candidates_of(size, BOUND)


def run_size(name: str, rounds: int) -> list[dict[str, Any]]:
  """Measure one size, and print its table."""
  size = QUANTITY_SIZES[name]
  every = [*candidates_of(size), *steps_of(size), *torch_candidates_of(size)]
  light = [c for c in every if c.all_bytes < min(HEAVY_BYTES, MOST_BYTES)]
  measured = measure([c.call for c in light], rounds)
  seconds = dict(zip([c.name for c in light], measured.seconds.T, strict=True))
  times = {c.name: np.stack([seconds[c.base], seconds[c.name]]) for c in light}
  for heavy in every:
    if HEAVY_BYTES <= heavy.all_bytes < MOST_BYTES:
      times[heavy.name] = measure([light[0].call, heavy.call], HEAVY_ROUNDS).seconds.T
  rows = [row_of(name, candidate, times.get(candidate.name)) for candidate in every]
  print(f"{name}: {'-'.join(map(str, size.widths))}, N = {size.batch}; {measured}")
  print("\n".join([COLUMNS, *map(line_of, rows)]), end="\n\n", flush=True)
  told = {
    **measured.figures,
    "date": date.today().isoformat(),
    "versions": {p: metadata.version(p) for module, p in PACKAGES.items() if find_spec(module)},
  }
  return [{**row, **told} for row in rows]


def markdown_of(rows: list[dict[str, Any]]) -> str:
  """Format a candidate's row of the page, with each number of cores from left to right."""
  cells = []
  for row in rows:
    ratio = "{over:.2f} ({quartiles[0]:.2f}–{quartiles[1]:.2f})"
    is_run = row["seconds"] is not None
    cells += [shown(row["seconds"]), ratio.format_map(row)] if is_run else ["not run", ""]
  return " | ".join(["", rows[0]["candidate"], *cells, in_bytes(rows[0]["temp_bytes"]), ""])


def row_of(size: str, candidate: Candidate, times: np.ndarray | None) -> dict[str, Any]:
  """Return the figures of a candidate, by `[times of its base, its own]` if it was run."""
  row: dict[str, Any] = {
    "size": size, "candidate": candidate.name, "base": candidate.base,
    "temp_bytes": candidate.temp_bytes, "seconds": None, "over": None, "quartiles": None,
  }  # fmt: skip
  if times is not None:
    base, own = times
    low, middle, high = quartiles(own / base)
    row |= {"seconds": float(np.median(own)), "over": middle, "quartiles": [low, high]}
  return row


def line_of(row: dict[str, Any]) -> str:
  """Format a row of the table."""
  cells = ("not run", "", "")
  if row["seconds"] is not None:
    low, high = row["quartiles"]
    cells = (shown(row["seconds"]), f"{row['over']:.3f}", f"{low:.3f}-{high:.3f}")
  return LINE.format(row["candidate"], *cells, in_bytes(row["temp_bytes"]))


def in_bytes(count: int | None) -> str:
  """Format bytes with three digits and a unit."""
  return "" if count is None else shown(count, {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1})


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print every size; return the rows for the file."""
  print(EXPLANATION)
  return [row for size in sizes for row in run_size(size, rounds)]
