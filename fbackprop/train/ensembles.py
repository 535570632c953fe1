"""The scores of an ensemble, by member and as a whole, and its result."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.train.examples import holds_labels
from fbackprop.train.metrics import PER_MEMBER, EnsembleEvaluation, Scores
from fbackprop.train.results import Checked
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params


class BestEpochs(NamedTuple):
  """The best epoch of each member: its step `[K]`, and its score `[K]`, −inf before the first."""

  steps: np.ndarray
  scores: np.ndarray


class MemberCheck(NamedTuple):
  """A comparison of our gradient with `jax.grad`, at one member's parameters after a step."""

  step: int
  member: int
  check: LiveCheck


@dataclass(frozen=True)
class EnsembleResult(Checked):
  """The result of an ensemble.

  Attributes:
    params: parameters of all members, with a leading axis, `[K, ...]`: of each member's best epoch
      if there is a validation set, else at the end, or the last finite ones of a member that
      diverged.
    rates: learning rate of each member, `[K]`, or None.
    stop_reasons: stop reason of each member, as in `Result`.
    steps: steps taken by each member, `[K]`, without one that diverged.
    losses: each member's mean loss of the batch before each update, `[steps, K]`; NaN after its
      last step.
    evaluations: all evaluations, in order; the last one is at the end.
    interrupted: whether an interrupt occurred.
    seconds: wall time, without compilation.
    compile_seconds: wall time of compilation.
    best: the best epochs, if there is a validation set.
    checks: the gradient checks, in order.
    check_seconds: wall time of the gradient checks, included in `seconds`.
    diverged_at: for each member that diverged, the first nonfinite place, as in `Result`; None for
      the others.
  """

  params: Params
  rates: np.ndarray | None
  stop_reasons: tuple[str, ...]
  steps: np.ndarray
  losses: np.ndarray
  evaluations: tuple[EnsembleEvaluation, ...]
  interrupted: bool
  seconds: float
  compile_seconds: float
  best: BestEpochs | None = None
  checks: tuple[MemberCheck, ...] = ()
  check_seconds: float = 0.0
  diverged_at: tuple[str | None, ...] = ()

  def __repr__(self) -> str:
    """Show how the run ended, without the arrays."""
    ended = Counter(self.stop_reasons).most_common()
    words = ", ".join(f"{count} {reason}" for reason, count in ended)
    return f"EnsembleResult({len(self.stop_reasons)} members: {words})"

  @property
  def size(self) -> int:
    """Number of members."""
    return len(self.steps)

  def member(self, k: int) -> Params:
    """Return the parameters of one member."""
    return jax.tree.map(lambda leaf: leaf[k], self.params)

  def part(self, first: int, end: int) -> "EnsembleResult":
    """Select the members from `first` up to `end`, as if trained without the others.

    The scores of the whole ensemble are dropped from its evaluations.
    """
    own = slice(first, end)

    def of(arrays: Any) -> Any:
      return jax.tree.map(lambda leaf: leaf[own], arrays)

    whole: dict[str, Any] = {"test_loss": None, "test_accuracy": None}
    evaluations = [
      replace(e, **whole, **{name: of(getattr(e, name)) for name in PER_MEMBER.values()})
      for e in self.evaluations
    ]
    checks = [c._replace(member=c.member - first) for c in self.checks if first <= c.member < end]
    return replace(
      self, params=of(self.params), rates=of(self.rates), stop_reasons=self.stop_reasons[own],
      steps=of(self.steps), losses=self.losses[: self.steps[own].max(), own],
      evaluations=tuple(evaluations), best=of(self.best), checks=tuple(checks),
      diverged_at=self.diverged_at[own],
    )  # fmt: skip


def mean_outputs(outputs: Array, loss_name: str) -> Array:
  """Average the members' outputs.

  For classification, with one or several labels, the members' probabilities are averaged and the
  logits of that mean returned, so that loss and predicted label follow as from one network's
  outputs. For any other loss the outputs themselves are averaged.

  Args:
    outputs: `[K, N, C]`, outputs of K members.
    loss_name: name of the training loss.

  Returns:
    `[N, C]`.
  """
  log_k = jnp.log(jnp.asarray(outputs.shape[0], outputs.dtype))
  if loss_name == "softmax_cross_entropy":
    return jax.nn.logsumexp(jax.nn.log_softmax(outputs, axis=2), axis=0) - log_k
  if loss_name == "sigmoid_cross_entropy":
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(z), axis=0) for z in (outputs, -outputs))
    return yes - no
  return outputs.mean(0)


def make_ensemble_evaluate(
  net: Layer, loss: Loss, axis: int
) -> Callable[[Params, Batch | None], Scores]:
  """Build the function of the test scores, without randomness.

  Args:
    net: the network.
    loss: the loss.
    axis: the members' axis of the parameters.

  Returns:
    `evaluate(params, batch)`, the `Scores`, each None without a test set.
  """

  @jax.jit
  def measure(params: Params, batch: Batch) -> Any:
    def score(outputs: Array) -> tuple[Array, Array | None]:
      mean = loss.forward(outputs, batch.targets)[0].mean()
      is_labelled = holds_labels(batch.targets)
      return mean, (outputs.argmax(1) == batch.targets).mean() if is_labelled else None

    # Outputs [K, N, C].
    outputs = jax.vmap(lambda params: net.forward(params, batch.x)[0], axis)(params)
    return *jax.vmap(score)(outputs), *score(mean_outputs(outputs, loss.name))

  def evaluate(params: Params, batch: Batch | None) -> Scores:
    if batch is None:
      return None, None, None, None
    losses, accuracies, mean, accuracy = jax.device_get(measure(params, batch))
    return losses, accuracies, float(mean), None if accuracy is None else float(accuracy)

  return evaluate
