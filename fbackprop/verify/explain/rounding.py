"""Rounding to a narrower dtype somewhere in the backward pass."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from fbackprop.verify.explain.matching import Matcher, Whole, altered
from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float


def narrowed(dtype: Any, bar: np.ndarray) -> np.ndarray:
  return bar.astype(dtype).astype(np.float64)


def rounded_products(matcher: Matcher) -> Iterator[Whole]:
  """Every product of matrices, or every step, computed in a narrower dtype."""
  for name, dtype in NARROW:
    for only, what in (("dot_general", "products of matrices"), ("", "every step")):
      for inputs, outputs in ((True, False), (True, True), (False, True)):
        hook = partial(round_step, dtype, only, inputs, outputs)
        yield altered(matcher, f"precision: {what} in {name}", hook)


def round_step(
  dtype: Any,
  only: str,
  is_in: bool,
  is_out: bool,
  tape: Tape,
  k: int,
  inputs: list[np.ndarray],
  bars: list[np.ndarray],
) -> list[np.ndarray | None] | None:
  """One step with rounded operands, a rounded result, or both."""
  if only and tape.steps[k].name != only:
    return None
  if is_in:
    inputs = [narrowed(dtype, x) if is_float(x.dtype) else x for x in inputs]
    bars = [narrowed(dtype, b) for b in bars]
  pulled = tape.pull(k, inputs, bars)
  if not is_out:
    return pulled
  return [None if b is None else narrowed(dtype, b) for b in pulled]


def looks_rounded(error: np.ndarray, want: np.ndarray) -> str | None:
  """The dtype whose rounding is of the size of the errors, where nothing reproduces them.

  Rounding is of either sign and touches nearly every entry.
  """
  scale = float(np.sqrt(np.mean(want**2))) if want.size else 0.0
  if want.size < 8 or not 0 < scale < np.inf or np.count_nonzero(error) < 0.75 * want.size:
    return None
  size = float(np.sqrt(np.mean(error**2)))
  if abs(float(error.mean())) > 0.75 * size:
    return None
  for name, dtype in NARROW:
    unit = float(np.spacing(dtype(1))) / 2
    if unit / 8 <= size / scale <= unit * 2:
      return f"precision: errors of the size of {name}'s rounding, {size / scale:.0e}"
  return None
