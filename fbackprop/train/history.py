"""What a run has said of itself so far: on the host, and with each checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

from fbackprop.train.results import Evaluation
from fbackprop.train.step import Info
from fbackprop.types import Array
from fbackprop.verify.live import LiveCheck


@dataclass
class History:
  """What a run has said so far.

  Attributes:
    rows: of each chunk, the `Info` of its steps, `[steps, ...]`, in NumPy.
    evaluations: in order.
    checks: the gradient checks, each with its step.
    seconds: wall time of what went before this process.
    check_seconds: how much of it, and of this process, the gradient checks took.
    rollbacks: how often the run went back to a checkpoint.
  """

  rows: list[Info]
  evaluations: list[Evaluation] = field(default_factory=list)
  checks: list[tuple[int, LiveCheck]] = field(default_factory=list)
  seconds: float = 0.0
  check_seconds: float = 0.0
  rollbacks: int = 0

  def add(self, infos: Info, reached: int) -> None:
    """The rows of a chunk, as far as its steps were reached."""
    self.rows.append(jax.tree.map(lambda column: first_rows(column, reached), infos))

  def infos(self) -> Info:
    """The rows of all steps, as one `Info`."""
    # Put together when asked, so that a sum over them is one sum however the run was cut.
    whole: Info = jax.tree.map(lambda *parts: np.concatenate(parts), *self.rows)
    self.rows = [whole]
    return whole

  def refused_in_a_row(self) -> int:
    """How many steps weren't taken, of those at the end."""
    taken = np.flatnonzero(self.infos().finite)
    return len(self.infos().finite) - (int(taken[-1]) + 1 if taken.size else 0)

  def to_json(self, seconds: float) -> dict[str, Any]:
    """All but the rows, as what JSON can hold, to the bit; `seconds` are those of all the run."""
    return {
      "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
      "checks": [[step, *check] for step, check in self.checks],
      "seconds": seconds,
      "check_seconds": self.check_seconds,
      "rollbacks": self.rollbacks,
    }


def read_history(content: dict[str, Any], rows: Info) -> History:
  """What `History.to_json` gave, with the rows of the steps.

  Raises:
    KeyError, TypeError, ValueError: it isn't.
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
  """The rows of no steps at all, for the shapes of one."""
  none: Info = jax.tree.map(lambda value: np.zeros((0, *value.shape), value.dtype), info)
  return none


def first_rows(column: Array, count: int) -> np.ndarray:
  """The rows of the steps that were reached, on the host."""
  return np.asarray(column)[:count]


def mean_loss(infos: Info) -> float | None:
  """The mean loss of the examples of some steps, by their weights; None without any weight.

  A step that wasn't taken doesn't count, but where none was.
  """
  taken = infos.finite if infos.finite.any() else np.ones_like(infos.finite)
  losses = infos.loss[taken].astype(np.float64)
  weights = infos.weight[taken].astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None
