"""The grouped arguments of a run, and their limits.

This module doesn't import jax: the command line reads its defaults and choices from here.
"""

import os
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fbackprop.errors import DtypeError, RangeError, check_choice, describe
from fbackprop.ranges import COUNT, FLOAT32_MAX, RANGES, check_in_range, check_range

OptimizerName = Literal[
  "gradient_descent", "momentum", "nesterov", "adam", "rmsprop", "adagrad", "lion", "kfac"
]
ScheduleName = Literal["constant", "cosine", "linear", "exponential"]
ShuffleName = Literal["exact", "fast"]
# Responses to a nonfinite step: end the run, skip the step, or restore the last checkpoint.
NonfiniteName = Literal["raise", "skip", "rollback"]
# Diagnostics that a run can record besides the loss.
WatchName = Literal["health", "noise_scale", "alignment"]
# Backward rules of `fbackprop.rules`; "backprop" is the gradient.
RuleName = Literal[
  "backprop",
  "feedback_alignment",
  "direct_feedback_alignment",
  "sign_symmetry",
  "kolen_pollack",
  "drtp",
  "difference_target_propagation",
  "predictive_coding",
]
ClassWeights = Literal["none", "balanced"] | Sequence[float]


@dataclass(frozen=True)
class StopRules:
  """Stopping criteria: the lecture's two, and others. One of `max_steps`, `max_epochs` and
  `max_seconds` is required, so that there is an end. Names of scikit-learn have its meaning.

  The loss of an epoch (one pass over the data) is the mean of its steps' losses, taken at its end;
  in full-batch descent that is the loss of each step. With weights it is the weighted mean over the
  epoch's examples, and an epoch whose weights are all zero is no progress.

  Attributes:
    max_steps: Stop after this many steps.
    loss_below: Stop at the end of an epoch whose mean loss is this or less.
    tol: Early stopping: stop after more than `patience` epochs in a row that don't improve the best
      mean loss by `tol`, or with `validation_fraction` the best score (then 1e-4 by default).
    patience: Epochs without improvement before early stopping: scikit-learn's `n_iter_no_change`.
    max_epochs: Stop after this many epochs: scikit-learn's `max_iter`.
    max_seconds: Stop after this wall-clock time in seconds, without compilation. Such a run isn't
      bitwise reproducible: give its number of steps for that.
    validation_fraction: Fraction of the training examples in the validation set, stratified by
      class; it is scored after each epoch by the accuracy, or without labels by minus the mean
      loss, and the parameters of the best score are kept.
  """

  max_steps: int | None = None
  loss_below: float | None = None
  tol: float | None = None
  patience: int = 10
  max_epochs: int | None = None
  max_seconds: float | None = None
  validation_fraction: float | None = None

  def __post_init__(self) -> None:
    check_numbers("stop", self, *vars(self))
    if self.max_steps is None and self.max_epochs is None and self.max_seconds is None:
      problem = ", stop.max_epochs or stop.max_seconds must be given: a run needs an end"
      raise RangeError(problem, "stop.max_steps")

  def most_steps(self, steps_per_epoch: int) -> int:
    """Return the largest number of steps that the rules allow."""
    in_epochs = None if self.max_epochs is None else self.max_epochs * steps_per_epoch
    return min(most for most in (self.max_steps, in_epochs, 2**31 - 1) if most is not None)


@dataclass(frozen=True)
class StepRules:
  """Options of a training step.

  Attributes:
    shuffle: "exact", which is `jax.random.permutation`, or "fast", a keyed pseudorandom permutation
      that shortens a tiny network's epoch considerably and reaches a small fraction of all
      permutations; see `fbackprop.train.shuffle`.
    clip_examples: clip each example's gradient to this norm before averaging. It needs a network of
      captured layers. The gradient check then takes `jax.grad` of each example.
    on_nonfinite: response to a nonfinite step (see `Info.finite`). "raise" ends the run. "skip"
      skips the step, up to 10 times in a row. "rollback" restores the last checkpoint and continues
      with updates of half the size, up to 10 times; it needs `Checkpoints.every`. A nonfinite state
      is never kept, nor saved.

  Raises:
    TypeError, ValueError: an attribute is invalid; the message names it.
  """

  shuffle: ShuffleName = "exact"
  clip_examples: float | None = None
  on_nonfinite: NonfiniteName = "raise"

  def __post_init__(self) -> None:
    for name, known in (("shuffle", ShuffleName), ("on_nonfinite", NonfiniteName)):
      if (value := getattr(self, name)) not in get_args(known):
        raise RangeError(f"must be one of {', '.join(get_args(known))}, got {value!r}", name)
    if self.clip_examples is not None:
      check_in_range("make_step", "clip_examples", self.clip_examples)
      object.__setattr__(self, "clip_examples", float(self.clip_examples))  # JSON needs a float.


@dataclass(frozen=True, eq=False)
class Monitor:
  """Measurements and reports of a run. None of them changes the parameters.

  Attributes:
    eval_every: steps between evaluations; None for a single one at the end. In an ensemble, steps
      of the running members.
    check_every: steps between comparisons of our gradient with `jax.grad`, starting at step 0; None
      for none. Both are computed in float64, whatever precision the products of the run have (TF32,
      bf16 passes), and on the CPU where the device has no float64: it is a check of the
      mathematics. `LiveCheck.rounding` is the rounding error of the run's own arithmetic.
    test: `(x, targets)`, the test set. It is scored at each evaluation and decides nothing.
    on_evaluation: called with each `Evaluation` in turn; in a resumed run, first with those before
      the checkpoint.
    on_compiled: called without arguments when all programs are compiled, before the first step.
    on_event: called with a message about each unplanned event: a damaged checkpoint, a failed write
      of one, a skipped step, a rollback. By default a warning is issued.
    watch: further diagnostics. "noise_scale": the gradient noise scale of the steps since the
      last evaluation, at the cost of each example's gradient norm in each step. "health": the
      health of each layer, at the cost of a backward pass in each evaluation. Both need a network
      of captured layers, as `fbackprop.quantities.captured(net)` gives. "alignment": the angle and
      the norm ratio of each layer's update to its gradient, and the angle of its weights to their
      feedback, at the cost of two backward passes in each evaluation; it needs a network under a
      rule of `fbackprop.rules`.
    check_members: the members of an ensemble whose gradients are checked.
    chunk_steps: the largest number of steps per compiled call; interrupts are handled between
      calls.

  Raises:
    TypeError, ValueError: an attribute is invalid; the message names it.
  """

  eval_every: int | None = None
  check_every: int | None = None
  test: Any = None
  on_evaluation: Callable[[Any], None] | None = None
  on_event: Callable[[str], None] | None = None
  on_compiled: Callable[[], None] | None = None
  watch: Sequence[WatchName] = ()
  check_members: Sequence[int] = (0,)
  chunk_steps: int = 1000

  def __post_init__(self) -> None:
    check_numbers("monitor", self, "eval_every", "check_every", "chunk_steps")
    for name in ("on_evaluation", "on_event", "on_compiled"):
      if not ((value := getattr(self, name)) is None or callable(value)):
        raise DtypeError(f"must be a function, got {describe(value)}", f"monitor.{name}", "fit")
    check_watch(self.watch)
    object.__setattr__(self, "check_members", tuple(self.check_members))

  def handle(self, event: str) -> None:
    """Report an event to `on_event`, or as a warning by default."""
    if self.on_event is None:
      warnings.warn(f"fit: {event}", stacklevel=3)
    else:
      self.on_event(event)


@dataclass(frozen=True)
class Checkpoints:
  """Where and how often a run is saved, and from where it is resumed.

  Attributes:
    folder: the folder of the checkpoints, each of which is a subfolder; created if missing. It
      can't be shared by two runs at once. None to save nothing, if `resume` is given.
    every: steps between checkpoints, with a last one at the end; None to save only when the run is
      interrupted.
    keep: number of most recent checkpoints to keep, besides the best one: that of the highest
      validation score, or else of the lowest mean training loss since the previous checkpoint.
    resume: a folder of checkpoints, or one of them, from which the run continues, bit for bit as if
      uninterrupted. All arguments of `fit` must equal those of the original run, except those that
      change no step: `stop`, which may extend the run, `monitor`, and `folder`, which may be the
      same. A damaged checkpoint is skipped in favour of the previous one. Not together with
      `params`, which the checkpoint contains.
  """

  folder: str | os.PathLike[str] | None = None
  every: int | None = None
  keep: int = 2
  resume: str | os.PathLike[str] | None = None

  def __post_init__(self) -> None:
    for name in ("folder", "resume"):
      value = getattr(self, name)
      is_missing = value is None and (name == "resume" or self.resume is not None)
      if not is_missing and not isinstance(value, str | os.PathLike):
        raise DtypeError(f"must be a path, got {value!r}", f"checkpoints.{name}")
    check_numbers("checkpoints", self, "every", "keep")


def check_numbers(group: str, rules: Any, *names: str) -> None:
  """Raise for an attribute that is out of range; None is allowed where it is the default.

  The ranges are those of `RANGES`; the numbers of a monitor are counts.
  """
  for name in names:
    if (value := getattr(rules, name)) is not None or getattr(type(rules), name) is not None:
      own = f"{group}.{name}"
      check_range("", own, value, COUNT if group == "monitor" else RANGES[own])


def check_watch(watch: Any, choices: Sequence[str] = get_args(WatchName)) -> None:
  """Raise for unknown names in `watch`."""
  if isinstance(watch, str) or not isinstance(watch, Sequence):
    raise DtypeError(f"must be a tuple of names, got {describe(watch)}", "watch", "make_step")
  for name in watch:
    check_choice("make_step", "watch", name, choices)


def check_class_weights(weights: ClassWeights) -> None:
  """Raise for class weights that are invalid for any data."""
  if isinstance(weights, str):
    check_choice("", "class_weights", weights, ("none", "balanced"))
  elif not all(0 <= weight <= FLOAT32_MAX for weight in weights) or not any(weights):
    wanted = "must be balanced, none, or a number for each class, finite, at least 0 and not all 0"
    got = " ".join(f"{weight:g}" for weight in weights) or "nothing"
    raise RangeError(f"{wanted}, got {got}", "class_weights")


def check_batch_size(batch_size: int, n: int, watch: Collection[str] = ()) -> None:
  """Raise for a batch larger than the n training examples, or too small for the noise scale."""
  if batch_size > n:
    raise RangeError(f"must be at most the {n} training examples, got {batch_size}", "batch_size")
  if "noise_scale" in watch and batch_size < 2:
    why = "as the variance of one is undefined"
    problem = f"noise_scale needs batches of at least 2 examples, {why}, got {batch_size}"
    raise RangeError(problem, "watch")


def check_warmup(warmup: int, steps: int) -> None:
  """Raise for a warmup longer than the run."""
  check_in_range("", "warmup", warmup)
  if warmup > steps:
    raise RangeError(f"must be at most the {steps} steps of the run, got {warmup}", "warmup")
