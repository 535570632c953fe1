"""Timing: candidates in turns, counted only while the cores are undisturbed.

A round runs every candidate twice, A B C and then C B A, so that a slow drift of the clock rate
affects all of them equally; ratios are taken within a round. A round counts if other processes used
almost none of our cores during it. On a busy machine too few rounds qualify; then the least
disturbed ones count, and the result states the disturbance.
"""

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

QUIET = 0.05
"""The largest share of our cores that other processes may use in a round that counts."""
TRIES = 4
"""The number of tried rounds per wanted round."""
SECONDS = 0.06
"""The least time of a candidate's turn: six ticks of the kernel's clock, its unit of counting."""


class Rounds(NamedTuple):
  """The measured rounds.

  Attributes:
    seconds: seconds per call, `[rounds, candidates]`.
    tried: the number of rounds run.
    disturbed: the largest share of our cores that others used in a round that counts; None where
      the kernel doesn't report it.
  """

  seconds: np.ndarray
  tried: int
  disturbed: float | None

  @property
  def figures(self) -> dict[str, Any]:
    """The part of a result's row that describes the rounds."""
    return {"rounds": len(self.seconds), "rounds_tried": self.tried, "others": self.disturbed}

  def __str__(self) -> str:
    """Say how many rounds count, and how disturbed they were."""
    others = "" if self.disturbed is None else f", others used up to {self.disturbed:.0%}"
    return f"{len(self.seconds)} of {self.tried} rounds{others}"


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
  """Return the first quartile, the median and the third quartile."""
  low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
  return float(low), float(median), float(high)


SECONDS_BY_UNIT = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


def shown(value: float, units: Mapping[str, float] = SECONDS_BY_UNIT) -> str:
  """Format a number, of seconds by default, with three digits and its largest unit."""
  unit = next((name for name, one in units.items() if value >= one), [*units][-1])
  return f"{value / units[unit]:.3g} {unit}"


def in_turns(calls: Sequence[Callable[[int], float]], rounds: int) -> np.ndarray:
  """Return the seconds that the calls return, `[rounds, calls]`, after a round of warm-up."""
  seconds = np.zeros((rounds + 1, len(calls)))
  for i in range(rounds + 1):
    for place in range(len(calls))[:: -1 if i % 2 else 1]:
      seconds[i, place] = calls[place](i)
  return seconds[1:]


def measure(candidates: list[Callable[[int], None]], rounds: int) -> Rounds:
  """Time candidates against each other.

  Args:
    candidates: each runs once, on the inputs of the given index, and returns when the result is
      ready.
    rounds: the number of rounds that should count.

  Returns:
    The `Rounds` that count.
  """
  count = itertools.count()
  repeats = [repeats_for(candidate, count) for candidate in candidates]
  there_and_back = [*range(len(candidates)), *reversed(range(len(candidates)))]
  tried: list[tuple[float, np.ndarray]] = []
  while sum(share <= QUIET for share, _ in tried) < rounds and len(tried) < TRIES * rounds:
    took = np.zeros(len(candidates))
    before = usage()
    for i in there_and_back:
      took[i] += turn(candidates[i], repeats[i], count) / (2 * repeats[i])
    tried.append((by_others(before, usage()), took))
  kept = sorted(tried, key=lambda share_and_seconds: share_and_seconds[0])[:rounds]
  disturbed = None if busy_seconds() is None else max(share for share, _ in kept)
  return Rounds(np.stack([seconds for _, seconds in kept]), len(tried), disturbed)


def turn(candidate: Callable[[int], None], repeats: int, count: "itertools.count[int]") -> float:
  """Return the seconds of a number of successive calls; none gets the preceding one's inputs."""
  start = time.perf_counter()
  for _ in range(repeats):
    candidate(next(count))
  return time.perf_counter() - start


def repeats_for(candidate: Callable[[int], None], count: "itertools.count[int]") -> int:
  """Return the number of calls in a turn, ignoring the first call, which may be a warm-up."""
  turn(candidate, 1, count)
  return max(1, round(SECONDS / turn(candidate, 3, count) * 3))


def usage() -> np.ndarray:
  """Return the clock, our CPU seconds, and the busy seconds of our cores, NaN as on macOS."""
  return np.array([time.perf_counter(), time.process_time(), busy_seconds()], float)


def by_others(before: np.ndarray, now: np.ndarray) -> float:
  """Return the share of our cores that others used, or 0 where it is unknown."""
  clock, ours, busy = now - before
  if np.isnan(busy):
    return 0.0
  return float(max(0.0, busy - ours) / (clock * len(os.sched_getaffinity(0))))


def busy_seconds() -> float | None:
  """Return the total busy time of the available cores since boot, by any process."""
  stat = Path("/proc/stat")
  if not stat.exists():
    return None
  ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}
  lines = filter(None, stat.read_text().splitlines())
  ticks = sum(busy_ticks(line) for line in lines if line.split()[0] in ours)
  return ticks / os.sysconf("SC_CLK_TCK")


def busy_ticks(line: str) -> int:
  """Sum user, nice, system, irq, softirq and steal: all but idle and waiting for a disk."""
  user, nice, system, _idle, _wait, *rest = map(int, line.split()[1:9])
  return user + nice + system + sum(rest)
