"""Numbers as the page's tables show them."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Number(NamedTuple):
  """A number in a table, and the length of the bar under it, from 0 to 1; None for no bar."""

  text: str
  share: float | None = None


class Table(NamedTuple):
  """Columns by their heads, and rows of words and numbers."""

  heads: Sequence[str]
  rows: Sequence[Sequence[str | Number]]


def measured(value: float | None) -> Number:
  """What was measured: four places, or a power of ten where these would say nothing."""
  if value is None:
    return Number("–")
  if not math.isfinite(value):
    return Number("not finite")
  return Number(f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}")


def percent(share: float | None) -> Number:
  """A share of something."""
  return Number("–" if share is None else f"{100 * share:.1f} %")


def given(value: float, digits: int = 6) -> Number:
  """A number of the data, with the digits that it came with."""
  return Number(f"{value:.{digits}g}" if math.isfinite(value) else "not finite")


def more_digits(size: float, spread: float) -> int:
  """How many digits more tell numbers apart that are far from 0 and close to each other."""
  if not (math.isfinite(size) and math.isfinite(spread) and spread > 0):
    return 0
  return min(9, max(0, int(math.log10(size / spread)) - 1)) if size > spread else 0


def counted(value: int) -> Number:
  """A count."""
  return Number(f"{value:,}")


def barred(values: Sequence[float | None]) -> list[Number]:
  """A column of measured numbers with bars, of which the largest finite one is full."""
  finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
  full = max(finite, default=0.0)
  return [
    measured(value)._replace(share=abs(value) / full)
    if value is not None and math.isfinite(value) and full
    else measured(value)
    for value in values
  ]
