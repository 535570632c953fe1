"""The history of a run, kept on the host and in checkpoints, and its diagnostics.

The history holds rows, evaluations and gradient checks. The diagnostics are the checks, the health
of the layers, and averages over steps.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

from fbackprop.checks import example_count
from fbackprop.live_check import LiveCheck, Measure, make_live_check
from fbackprop.meshes import take_rows
from fbackprop.quantities._compute import compute
from fbackprop.quantities.gradients import NoiseScale
from fbackprop.train.results import Evaluation
from fbackprop.train.step import Batch, Info, State, make_gradient, noise_key
from fbackprop.types import Layer, Loss

# The largest number of examples in a gradient check with clipping.
MOST_CLIPPED = 32


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
    evaluations = [asdict(evaluation) for evaluation in self.evaluations]
    checks = [[step, *check] for step, check in self.checks]
    own = {**vars(self), "evaluations": evaluations, "checks": checks, "seconds": seconds}
    return {name: value for name, value in own.items() if name != "rows"}


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


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int, clip_examples: float | None = None
) -> Callable[[State], LiveCheck]:
  """Build `check(state) -> LiveCheck`, on `batch_size` examples drawn by the step's number.

  With clipping, at most `MOST_CLIPPED` examples, as `jax.grad` is taken of each in turn.
  """
  if clip_examples is not None:
    batch_size = min(batch_size, MOST_CLIPPED)
  gradient_of = make_gradient(net, loss, clip_examples)

  @functools.cache
  def measurement() -> Measure:
    # Imported at the first difference only; a run without one imports nothing of `verify`.
    from fbackprop.verify.live import make_measure

    return make_measure()

  live = make_live_check(
    net, loss, ours=lambda *batch, **more: gradient_of(*batch, **more)[:2],
    clip_examples=clip_examples, measure=lambda *point: measurement()(*point),
  )  # fmt: skip

  def check(state: State) -> LiveCheck:
    rows = drawn_rows(state, examples, batch_size)
    key, weights = noise_key(net, state), examples.weights
    return live(state.params, examples.x, examples.targets, key=key, weights=weights, rows=rows)

  return check


def make_health_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Build a function that measures the health of a network's layers at a state.

  Args:
    net: the network, of captured layers.
    loss: the loss.
    examples: the training set.
    batch_size: number of examples used.

  Returns:
    `measure(state)`, in JSON types: by the layer's name, such as "0.dense", the fields of
    `LayerHealth`, each a number, or for the copies of a `repeat` a list. The examples are those of
    a gradient check at the same step. Dropout is off, since dropped units would count as dead.
  """
  health = jax.jit(compute(net, loss, ("health",)))

  def measure(state: State) -> dict[str, Any]:
    x, targets, weights = take_rows(examples, drawn_rows(state, examples, batch_size))
    found: Any = jax.device_get(health(state.params, x, targets, None, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return measure


def drawn_rows(state: State, examples: Batch, count: int) -> np.ndarray:
  """Draw the indices of `count` examples from the step's number, `[count]`."""
  generator = np.random.default_rng(int(state.step))
  return generator.choice(example_count(examples.x), count, replace=False)
