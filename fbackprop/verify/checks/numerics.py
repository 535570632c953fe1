"""The second verdict: the rule in its own dtype against the truth, in ULPs and in sigmas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.witnesses.comparison import spread
from fbackprop.verify.witnesses.traces import Witnesses

# Correct code stays within a few standard deviations of the modelled rounding error, which is
# modelled generously; beyond this many it rounds where it need not.
MOST_SIGMAS = 16.0


class Rounding(NamedTuple):
  """How far a rule's numbers are from the truth.

  Attributes:
    ulp: the largest error in units in the last place of its leaf's largest entry.
    sigma: the largest error over its standard deviation; infinite for a number that isn't finite
      where the truth is.
    leaf, index: of that largest sigma.
    got, want, deviation: of that entry; `deviation` is one standard deviation.
    wrong, size: how many entries of the leaf are beyond `MOST_SIGMAS`, and of how many.
    unbounded: how many can't be judged: their deviation is no number, or exceeds the leaf.
  """

  ulp: float
  sigma: float
  leaf: int
  index: tuple[int, ...]  # type: ignore[assignment]  # A field hides tuple.index.
  got: float
  want: float
  deviation: float
  wrong: int
  size: int
  unbounded: int


def working_noise(working: Any, samples: int, seed: int) -> Noise:
  """The rounding of a dtype: one unit in the last place at most, and its underflow."""
  limits = ml_dtypes.finfo(np.dtype(working))
  return Noise(samples, float(limits.eps), float(limits.tiny), 0.0, seed)


def deviations(
  witnesses: Witnesses, leaves: Sequence[Any], y_bar: Sequence[Any], samples: int, seed: int
) -> list[np.ndarray]:
  """The standard deviation of every cotangent's rounding error in the rule's own dtype."""
  noise = working_noise(witnesses.signature.working, samples, seed)
  evaluator = witnesses.evaluator(noise)
  count = len(witnesses.forward.out_avals)
  return [spread(s) for s in evaluator.run(witnesses.rule, [*leaves, *y_bar])[count:]]


def measure(
  witnesses: Witnesses,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  sigmas: Sequence[np.ndarray],
  allowance: float,
) -> list[Rounding]:
  """The rounding error of each leaf, in order; entries whose truth isn't finite are left out."""
  found = []
  for leaf, (g, w, s) in enumerate(zip(got, want, sigmas, strict=True)):
    dtype = np.dtype(witnesses.signature.dtypes[witnesses.signature.floats[leaf]])
    limits = ml_dtypes.finfo(dtype)
    if not w.size:
      continue
    with np.errstate(all="ignore"):
      judged = np.isfinite(w) & (np.abs(w) < 0.25 * float(limits.max))
      largest = float(np.max(np.abs(w), initial=0.0, where=judged))
      last_place = max(float(limits.eps) * 2.0 ** np.floor(np.log2(largest or 1.0)),
                       float(limits.tiny))  # fmt: skip
      error = np.where(judged, np.abs(g - w), 0.0)
      error = np.where(np.isnan(error), np.inf, error)
      # The result is rounded once more, to the dtype of its argument.
      deviation = s + 0.5 * float(limits.eps) * np.abs(w) + 4 * float(limits.tiny)
      sigma = np.where(judged & ~np.isnan(deviation), error / deviation, 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(sigma)), sigma.shape))
    found.append(
      Rounding(
        float(np.max(error, initial=0.0) / last_place) if np.isfinite(error).all() else np.inf,
        float(sigma[index]),
        leaf,
        index,
        float(g[index]),
        float(w[index]),
        float(deviation[index]),
        int((sigma > MOST_SIGMAS * allowance).sum()),
        sigma.size,
        int((judged & ~(deviation <= max(largest, 16 * float(limits.tiny)))).sum()),
      )
    )
  return found
