"""How the time is taken: candidates in turns, and only while the cores are ours.

A round runs every candidate twice, A B C and then C B A, so that a clock that slowly drifts hits
all of them alike; ratios are taken within a round. A round counts if other processes used next to
nothing of our cores meanwhile. On a busy machine too few do, and then the least disturbed ones
count, and the result says how disturbed they were.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

QUIET = 0.05
"""The most that others may use of our cores in a round that counts."""
TRIES = 4
"""How many rounds are tried for each that is wanted."""
SECONDS = 0.06
"""The least time of a candidate's turn: six ticks of the kernel's clock, in which it counts."""


class Rounds(NamedTuple):
  """What was measured.

  Attributes:
    seconds: of one call, `[rounds, candidates]`.
    tried: how many rounds were run for them.
    disturbed: the largest share of our cores that others used in a round that counts; None where
      the kernel doesn't tell.
  """

  seconds: np.ndarray
  tried: int
  disturbed: float | None


def measure(candidates: list[Callable[[int], None]], rounds: int) -> Rounds:
  """Times candidates against each other.

  Args:
    candidates: each runs once, on the inputs of that number, and returns when the result is there.
    rounds: how many rounds should count.

  Returns:
    The `Rounds` that count.
  """
  count = Counter()
  repeats = [repeats_for(candidate, count) for candidate in candidates]
  there_and_back = [*range(len(candidates)), *reversed(range(len(candidates)))]
  seconds: list[np.ndarray] = []
  shares: list[float] = []
  while sum(share <= QUIET for share in shares) < rounds and len(shares) < TRIES * rounds:
    took = np.zeros(len(candidates))
    before = Use.now()
    for i in there_and_back:
      took[i] += turn(candidates[i], repeats[i], count) / (2 * repeats[i])
    shares.append(Use.now().by_others_since(before))
    seconds.append(took)
  kept = np.argsort(shares, kind="stable")[:rounds]
  known = Use.now().busy is not None
  disturbed = max(shares[i] for i in kept) if known else None
  return Rounds(np.stack([seconds[i] for i in kept]), len(shares), disturbed)


class Counter:
  """Numbers for the calls, so that no call gets the inputs of the one before."""

  def __init__(self) -> None:
    self.count = 0

  def next(self) -> int:
    """0, 1, 2, ..."""
    self.count += 1
    return self.count - 1


def turn(candidate: Callable[[int], None], repeats: int, count: Counter) -> float:
  """The seconds of some calls, one after another."""
  start = time.perf_counter()
  for _ in range(repeats):
    candidate(count.next())
  return time.perf_counter() - start


def repeats_for(candidate: Callable[[int], None], count: Counter) -> int:
  """How many calls make a turn; the first call, which may still warm up, doesn't count."""
  turn(candidate, 1, count)
  return max(1, round(SECONDS / turn(candidate, 3, count) * 3))


class Use(NamedTuple):
  """Up to now: seconds of the clock, our CPU seconds, and the seconds that our cores were busy."""

  clock: float
  ours: float
  busy: float | None

  @classmethod
  def now(cls) -> "Use":
    """Reads the clocks; `busy` is None where there is no /proc/stat, as on a Mac."""
    return cls(time.perf_counter(), time.process_time(), busy_seconds())

  def by_others_since(self, before: "Use") -> float:
    """The share of our cores that others used, 0 where nobody knows."""
    if self.busy is None or before.busy is None:
      return 0.0
    others = (self.busy - before.busy) - (self.ours - before.ours)
    return max(0.0, others) / ((self.clock - before.clock) * len(os.sched_getaffinity(0)))


def busy_seconds() -> float | None:
  """How long the cores that we may use have been busy since the start, for anybody."""
  stat = Path("/proc/stat")
  if not stat.exists():
    return None
  ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}
  ticks = sum(map(busy_ticks, (line for line in lines(stat) if line.split()[0] in ours)))
  return ticks / os.sysconf("SC_CLK_TCK")


def lines(file: Path) -> Iterator[str]:
  """The lines of a file that aren't empty."""
  return (line for line in file.read_text().splitlines() if line)


def busy_ticks(line: str) -> int:
  """user + nice + system + irq + softirq + steal: all but idle and waiting for a disk."""
  user, nice, system, _idle, _wait, *rest = map(int, line.split()[1:9])
  return user + nice + system + sum(rest)
