"""An epoch at steady state, with shuffle, minibatches and update: ours, and other libraries'."""

import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from scripts.benchmarks.models import Epochs
from scripts.benchmarks.rounds import Rounds, measure, quartiles, shown
from scripts.benchmarks.subjects import CONTESTANTS, EXAMPLES, OURS, SIZES

EXPLANATION = """\
epoch: median of the rounds; /exact, /fast: its time over that of our run with that shuffle, within
a round, above 1 where ours is faster (quartiles); first: what the first call took more than others,
mostly compilation; even: epochs after which our fast run, compiled anew, has taken less in all
our runs ask the stop rules, see to it that all is finite, and record the loss and each layer's norm
of each step; a bare scan does nothing of that, and its rows tell the share of the whole program: it
shuffles as our fast run does, and what jax.grad reaches in it is no merit of our backward pass
torch's products may be slower than XLA's for a reason of its own, its maths library on AMD: how
much of a ratio that is, the row of mnist tells, which is nearly all products
"""
LINE = "{:<26} {:>9} {:>8} {:>8} {:>15} {:>8} {:>7}  {}"
COLUMNS = LINE.format("", "epoch", "/exact", "/fast", "quartiles", "first", "even", "version")


def run(sizes: list[str], rounds: int, peers: list[str]) -> list[dict[str, Any]]:
  """Measure and print every size; return the rows for the file."""
  print(EXPLANATION)
  # Without their imports: keras needs a backend set first.
  missing = sorted({p for p in peers if find_spec(CONTESTANTS[p].imported) is None})
  for contestant in map(CONTESTANTS.__getitem__, missing):
    print(f"{contestant.shown:<26} not installed: pip install {contestant.package}", flush=True)
  names = [name for name in CONTESTANTS if name in OURS or name in set(peers) - set(missing)]
  return [row for size in sizes for row in run_size(size, rounds, names)]


def run_size(size: str, rounds: int, names: list[str]) -> list[dict[str, Any]]:
  """Measure one size, and print its table."""
  made, first = zip(*(prepare(name, size) for name in names), strict=True)
  measured = measure([epochs.run for epochs in made], rounds)
  rows = list(rows_of(size, names, [epochs.epochs for epochs in made], first, measured))
  widths, batch = "-".join(map(str, SIZES[size].widths)), SIZES[size].batch
  print(f"{size}: {widths}, {EXAMPLES[size]:,} examples in batches of {batch}; {measured}")
  print("\n".join([COLUMNS, *map(line_of, rows)]), end="\n\n", flush=True)
  return rows


def prepare(name: str, size: str) -> tuple[Epochs, float]:
  """Build a contestant; also return the seconds of its first call."""
  module = import_module(f"scripts.benchmarks.{CONTESTANTS[name].module}")
  epochs: Epochs = getattr(module, f"make_{name}")(size)
  start = time.perf_counter()
  epochs.run(0)
  return epochs, time.perf_counter() - start


def rows_of(
  size: str, names: list[str], epochs: list[int], first: Sequence[float], measured: Rounds
) -> Iterator[dict[str, Any]]:
  """Yield the figures of a size."""
  seconds = dict(zip(names, (measured.seconds / np.asarray(epochs)).T, strict=True))
  middle = {name: float(np.median(times)) for name, times in seconds.items()}
  calls = np.median(measured.seconds, axis=0)
  extra = dict(zip(names, map(float, np.maximum(0, np.subtract(first, calls))), strict=True))
  for name in names:
    package = CONTESTANTS[name].package
    low, ratio, high = quartiles(seconds[name] / seconds["fast"])
    even = break_even(extra["fast"] - extra[name], middle[name] - middle["fast"])
    yield {
      "size": size,
      "contestant": name,
      "package": package,
      "version": metadata.version(package),
      "date": date.today().isoformat(),
      "seconds": middle[name],
      "over_exact": float(np.median(seconds[name] / seconds["exact"])),
      "over_fast": ratio,
      "over_fast_quartiles": (low, high),
      "first_call_extra_seconds": extra[name],
      "break_even_epochs": None if name in OURS else even,
      **measured.figures,
    }


def break_even(more_to_compile: float, saved_an_epoch: float) -> float | None:
  """Return the epochs after which a longer compilation pays off; None for never."""
  return max(0.0, more_to_compile / saved_an_epoch) if saved_an_epoch > 0 else None


def cells_of(row: dict[str, Any]) -> list[str]:
  """Format the figures of a row, without those of its quartiles; ours don't break even."""
  name, even = row["contestant"], row["break_even_epochs"]
  return [
    CONTESTANTS[name].shown, shown(row["seconds"]), f"{row['over_exact']:.2f}",
    f"{row['over_fast']:.2f}", shown(row["first_call_extra_seconds"]),
    "" if name in OURS else "never" if even is None else f"{even:,.0f}",
  ]  # fmt: skip


def line_of(row: dict[str, Any]) -> str:
  """Format a row of the table."""
  *cells, first, even = cells_of(row)
  spread = "{:.2f}-{:.2f}".format(*row["over_fast_quartiles"])
  return LINE.format(*cells, spread, first, even, f"{row['package']} {row['version']}")


def markdown_of(row: dict[str, Any]) -> str:
  """Format the row of docs/performance.md."""
  cells = cells_of(row)
  cells[3] += " ({:.2f}–{:.2f})".format(*row["over_fast_quartiles"])
  return f"| {' | '.join(cells)} |"
