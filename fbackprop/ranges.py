"""Ranges of all numeric arguments, declared once for the library and the command line.

This module doesn't import jax, so that the command line refuses a number at once.
"""

import math
import sys
from numbers import Integral, Real
from typing import Any, NamedTuple

from fbackprop.errors import DtypeError, RangeError, describe

FLOAT_MAX = sys.float_info.max


class Range(NamedTuple):
  """The range of a number.

  Attributes:
    kind: int or float; integers are also accepted as floats.
    least: the lower bound.
    most: the upper bound.
    is_open: whether the lower bound and the upper bound are excluded.
  """

  kind: type[int] | type[float] = float
  least: float = -math.inf
  most: float = math.inf
  is_open: tuple[bool, bool] = (False, False)

  def __contains__(self, value: Any) -> bool:
    # An integer may exceed every float: `math.isfinite` and `float` would raise OverflowError.
    if not -FLOAT_MAX <= value <= FLOAT_MAX:
      return False
    above, below = self.is_open
    is_high = value > self.least if above else value >= self.least
    return bool(is_high and (value < self.most if below else value <= self.most))

  def in_words(self) -> str:
    """Describe the range in words, such as "at least 1" or "a finite number above 0"."""
    digits = 10 if self.kind is int else 6
    (above, below), (least, most) = self.is_open, (f"{end:.{digits}g}" for end in self[1:3])
    if -math.inf < self.least and self.most < math.inf and not any(self.is_open):
      return f"{'a number ' * (self.kind is float)}from {least} to {most}"
    ends = [f"above {least}" if above else f"at least {least}"] * (self.least > -math.inf)
    ends += [f"below {most}" if below else f"at most {most}"] * (self.most < math.inf)
    if self.kind is int or self.most < math.inf:
      return " and ".join(ends)
    return "a finite number" + "".join(f" {end.replace('at', 'of at')}" for end in ends)


def check_range(where: str, name: str, value: Any, allowed: Range) -> None:
  """Raise unless a value is a number in the given range.

  Raises:
    DtypeError: it isn't a number, or not an integer where one is required; booleans are refused.
    RangeError: it is out of range, or not finite.
  """
  wanted = Integral if allowed.kind is int else Real
  if isinstance(value, bool) or not isinstance(value, wanted):
    noun = "an integer" if allowed.kind is int else "a number"
    raise DtypeError(f"must be {noun}, got {describe(value)}", name, where)
  # A NumPy scalar is converted to float: in its own precision the bounds might overflow.
  number = value if isinstance(value, Integral) else float(value)
  if number not in allowed:
    raise RangeError(f"must be {allowed.in_words()}, got {value}", name, where)


COUNT = Range(int, 1)
STEPS = Range(int, 0, 2**31 - 1)
POSITIVE = Range(float, 0, is_open=(True, False))
NONNEGATIVE = Range(float, 0)
SHARE = Range(float, 0, 1, (False, True))
# A fraction of the examples; both parts must be nonempty, so that 0 and 1 are excluded.
FRACTION = Range(float, 0, 1, (True, True))
FLOAT32_TINY, FLOAT32_MAX = 2.0**-126, (2 - 2.0**-23) * 2.0**127

RANGES = {
  "batch_size": COUNT,
  "check_every": Range(int, 0),  # As on the command line, where 0 means never.
  "checkpoints.every": COUNT,
  "checkpoints.keep": COUNT,
  "clip_examples": Range(float, FLOAT32_TINY, FLOAT32_MAX),  # Norms are computed in float32.
  "clip_norm": POSITIVE,
  "dropout": SHARE,
  "ensemble": Range(int, 1, 2**20),
  "eval_every": COUNT,
  "hidden": Range(int, 1, 2**16),
  "label_smoothing": SHARE,
  "rate": POSITIVE,
  "seed": Range(int, 0, 2**32 - 1),
  "stop.loss_below": NONNEGATIVE,
  "stop.max_epochs": STEPS,
  "stop.max_seconds": NONNEGATIVE,
  "stop.max_steps": STEPS,
  "stop.patience": STEPS._replace(least=1),
  "stop.tol": NONNEGATIVE,
  "stop.validation_fraction": FRACTION,
  "test_fraction": FRACTION,
  "warmup": Range(int, 0),
  "weight_decay": NONNEGATIVE,
}


def check_in_range(where: str, name: str, value: object) -> None:
  """Raise unless a value is in the range declared for its name in `RANGES`."""
  check_range(where, name, value, RANGES[name])
