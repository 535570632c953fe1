"""The history of a run: its rows, evaluations and checks, kept on the host and in checkpoints."""

from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.quantities.moments import NoiseScale
from fbackprop.train.results import Evaluation
from fbackprop.train.step import Info


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

  def infos(self, since: int = 0) -> Info:
    """Concatenate the rows of all steps, or of those after one, into one `Info`."""
    # Concatenated on demand, so that a sum has the same order of terms however the run was cut.
    self.rows = [jax.tree.map(lambda *parts: np.concatenate(parts), *self.rows)]
    later: Info = jax.tree.map(lambda column: column[since:], self.rows[0])
    return later

  def since_evaluation(self) -> Info:
    """Return the rows of the steps after the latest evaluation."""
    return self.infos(self.evaluations[-1].step if self.evaluations else 0)

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
  evaluations = [
    Evaluation(**{**own, "grad_norms": tuple(own["grad_norms"])}) for own in content["evaluations"]
  ]
  checks = [(step, LiveCheck(*check)) for step, *check in content["checks"]]
  rows = jax.tree.map(np.asarray, rows)
  return History([rows], **{**content, "evaluations": evaluations, "checks": checks})


def mean_loss(infos: Info) -> float | None:
  """Average the losses of some steps, weighted; None if the total weight is zero.

  Nonfinite steps are excluded, unless all steps are nonfinite.
  """
  taken = infos.finite if infos.finite.any() else np.ones_like(infos.finite)
  losses = infos.loss[taken].astype(np.float64)
  weights = infos.weight[taken].astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None


def mean_noise_scale(found: NoiseScale | None, finite: np.ndarray) -> float | None:
  """Compute the noise scale of some steps: the mean of tr Σ over the mean of ‖G‖².

  Both are unbiased in each step, and their ratio isn't. A step is excluded if the squared norm of
  an example overflowed.

  Args:
    found: estimates of the steps, each part `[steps]`.
    finite: whether each step was finite, `[steps]`.

  Returns:
    The noise scale in examples; None if the mean ‖G‖² isn't positive, as there are too few steps to
    resolve the gradient in its noise.
  """
  if found is None:
    return None
  known = finite & np.isfinite(found.trace) & np.isfinite(found.sqnorm)
  if not known.any():
    return None
  trace, sqnorm = (part[known].astype(np.float64).mean() for part in (found.trace, found.sqnorm))
  return float(trace / sqnorm) if sqnorm > 0 else None


def mean_clipped(found: np.ndarray | None, finite: np.ndarray) -> float | None:
  """Compute the fraction of clipped examples in some steps; None if none was finite."""
  return None if found is None or not finite.any() else float(found[finite].mean(dtype=np.float64))
