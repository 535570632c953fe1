"""D, the third witness: differences of the reference's outputs along a direction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.samples import lifted
from fbackprop.verify.witnesses.traces import Witnesses


class Slopes(NamedTuple):
  """One-sided derivatives of ⟨y_bar, f⟩ along a direction, and how well they are known.

  Attributes:
    left, right: limits from below and from above.
    error: of either.
  """

  left: float
  right: float
  error: float

  @property
  def is_known(self) -> bool:
    """Whether both are numbers."""
    return bool(np.isfinite(self.left) and np.isfinite(self.right) and np.isfinite(self.error))


STEPS = np.array([0.0, 1.0, 2.0, 4.0, -1.0, -2.0, -4.0])


def slopes(
  witnesses: Witnesses,
  leaves: Sequence[Any],
  y_bar: Sequence[Any],
  direction: Sequence[np.ndarray],
  step: float = 2.0**-20,
) -> Slopes:
  """D: Richardson's extrapolation of differences over one, two and four steps, on either side.

  Args:
    witnesses: of these shapes.
    leaves: the point.
    y_bar: the cotangents of the float outputs.
    direction: one array for each float leaf.
    step: in units of the direction, relative to the size of what moves.
  """
  floats = witnesses.signature.floats
  size = max(
    (float(np.max(np.abs(leaves[i]), initial=0.0, where=np.asarray(d) != 0))
     for i, d in zip(floats, direction, strict=True)),
    default=0.0,
  )  # fmt: skip
  length = max((float(np.max(np.abs(d), initial=0.0)) for d in direction), default=0.0)
  if length == 0:
    return Slopes(0.0, 0.0, 0.0)
  h = step * (size if 0 < size < np.inf else 1.0) / length
  inputs = [lifted(leaf) for leaf in leaves]
  for i, d in zip(floats, direction, strict=True):
    if np.any(d):
      inputs[i] = inputs[i] + (h * STEPS).reshape(-1, *(1,) * np.ndim(d)) * np.asarray(d)[None]
  outputs = Evaluator(witnesses.signature.working).run_stacked(witnesses.forward, inputs)
  change, noise = np.zeros(len(STEPS)), 0.0
  with np.errstate(all="ignore"):
    for b, y in zip(y_bar, outputs, strict=True):
      full = np.broadcast_to(y, (len(STEPS), *y.shape[1:]))
      change += ((full - full[:1]) * np.asarray(b)[None]).reshape(len(STEPS), -1).sum(1)
      noise += float(np.abs(full[0] * b).sum()) * 2.0**-50
    sides = []
    for one, two, four, sign in ((1, 2, 3, 1.0), (4, 5, 6, -1.0)):
      d1, d2, d4 = (sign * change[k] / (m * h) for k, m in ((one, 1), (two, 2), (four, 4)))
      limit = (8 * d1 - 6 * d2 + d4) / 3
      sides.append((limit, abs(limit - (2 * d1 - d2)) + 8 * noise / h))
  return Slopes(sides[1][0], sides[0][0], max(sides[0][1], sides[1][1]))
