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
  """What a run has recorded so far.

  Attributes:
    rows: of each chunk, the `Info` of its steps, `[steps, ...]`, in NumPy.
    evaluations: in order, each an `Evaluation`; in an ensemble an `EnsembleEvaluation`.
    checks: the gradient checks, each with its step; in an ensemble each a `MemberCheck`.
    seconds: wall time of what went before this process.
    check_seconds: how much of it, and of this process, the gradient checks took.
    rollbacks: how often the run went back to a checkpoint.
  """

  rows: list[Info]
  evaluations: list[Any] = field(default_factory=list)
  checks: list[Any] = field(default_factory=list)
  seconds: float = 0.0
  check_seconds: float = 0.0
  rollbacks: int = 0

  def add(self, infos: Info, reached: int) -> None:
    """Append the rows of a chunk, as far as its steps were reached."""
    self.rows.append(jax.tree.map(lambda column: first_rows(column, reached), infos))

  def infos(self) -> Info:
    """Concatenate the rows of all steps to one `Info`."""
    # Concatenated when needed, so that a sum over them is one sum however the run was cut.
    whole: Info = jax.tree.map(lambda *parts: np.concatenate(parts), *self.rows)
    self.rows = [whole]
    return whole

  def refused_in_a_row(self) -> int:
    """Count the steps at the end that weren't taken."""
    taken = np.flatnonzero(self.infos().finite)
    return len(self.infos().finite) - (int(taken[-1]) + 1 if taken.size else 0)

  def to_json(self, seconds: float) -> dict[str, Any]:
    """Convert all but the rows to JSON, to the bit; `seconds` are those of the whole run."""
    return {
      "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
      "checks": [[step, *check] for step, check in self.checks],
      "seconds": seconds,
      "check_seconds": self.check_seconds,
      "rollbacks": self.rollbacks,
    }


def read_history(content: dict[str, Any], rows: Info) -> History:
  """Convert back what `History.to_json` returned, with the rows of the steps.

  Raises:
    KeyError, TypeError, ValueError: it is something else.
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
  """Make the rows of no steps, for the shapes of one."""
  none: Info = jax.tree.map(lambda value: np.zeros((0, *value.shape), value.dtype), info)
  return none


def first_rows(column: Array, count: int) -> np.ndarray:
  """Copy the rows of the steps that were reached to the host."""
  return np.asarray(column)[:count]


def mean_loss(infos: Info) -> float | None:
  """Average the losses of some steps by their weights; None without any weight.

  A step that wasn't taken doesn't count, but where none was.
  """
  taken = infos.finite if infos.finite.any() else np.ones_like(infos.finite)
  losses = infos.loss[taken].astype(np.float64)
  weights = infos.weight[taken].astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None
