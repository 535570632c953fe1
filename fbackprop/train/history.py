"""The history of a run: its rows, evaluations and checks, kept on the host and in checkpoints."""

from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.train.results import Evaluation
from fbackprop.train.step import Info
from fbackprop.types import Array


@dataclass
class History:
  """The record of a run so far.

  Attributes:
    rows: the `Info` of the steps of each chunk, `[steps, ...]`, in NumPy.
    evaluations: `Evaluation`s in order; of an ensemble, `EnsembleEvaluation`s.
    checks: the gradient checks, each with its step; of an ensemble, `MemberCheck`s.
    seconds: wall time of earlier processes.
    check_seconds: wall time of gradient checks, of earlier processes and this one.
    rollbacks: number of rollbacks to a checkpoint.
  """

  rows: list[Info]
  evaluations: list[Any] = field(default_factory=list)
  checks: list[Any] = field(default_factory=list)
  seconds: float = 0.0
  check_seconds: float = 0.0
  rollbacks: int = 0

  def add(self, infos: Info, reached: int) -> None:
    """Append the rows of a chunk, up to the last step reached."""
    self.rows.append(jax.tree.map(lambda column: first_rows(column, reached), infos))

  def infos(self) -> Info:
    """Concatenate the rows of all steps into one `Info`."""
    # Concatenated on demand, so that a sum has the same order of terms however the run was cut.
    whole: Info = jax.tree.map(lambda *parts: np.concatenate(parts), *self.rows)
    self.rows = [whole]
    return whole

  def refused_in_a_row(self) -> int:
    """Count the nonfinite steps at the end."""
    taken = np.flatnonzero(self.infos().finite)
    return len(self.infos().finite) - (int(taken[-1]) + 1 if taken.size else 0)

  def to_json(self, seconds: float) -> dict[str, Any]:
    """Convert everything but the rows to JSON, bit for bit; `seconds` is the whole run's time."""
    return {
      "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
      "checks": [[step, *check] for step, check in self.checks],
      "seconds": seconds,
      "check_seconds": self.check_seconds,
      "rollbacks": self.rollbacks,
    }


def read_history(content: dict[str, Any], rows: Info) -> History:
  """Convert the output of `History.to_json` back to a `History` with the given rows.

  Raises:
    KeyError, TypeError, ValueError: `content` isn't such an output.
  """
  return History(
    [jax.tree.map(np.asarray, rows)],
    [
      Evaluation(**{**own, "grad_norms": tuple(map(float, own["grad_norms"]))})
      for own in content["evaluations"]
    ],
    [(int(step), LiveCheck(*check)) for step, *check in content["checks"]],
    float(content["seconds"]),
    float(content["check_seconds"]),
    int(content["rollbacks"]),
  )


def no_rows(info: Info) -> Info:
  """Build empty rows with the shapes and dtypes of one step's `Info`."""
  none: Info = jax.tree.map(lambda value: np.zeros((0, *value.shape), value.dtype), info)
  return none


def first_rows(column: Array, count: int) -> np.ndarray:
  """Copy the rows of the steps reached to the host."""
  return np.asarray(column)[:count]


def mean_loss(infos: Info) -> float | None:
  """Average the losses of some steps, weighted; None if the total weight is zero.

  Nonfinite steps are excluded, unless all steps are nonfinite.
  """
  taken = infos.finite if infos.finite.any() else np.ones_like(infos.finite)
  losses = infos.loss[taken].astype(np.float64)
  weights = infos.weight[taken].astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None
