"""A run before it begins: its arguments validated, its data on the device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from fbackprop.checks import DtypeError, check_unit, describe, example_count
from fbackprop.train.arguments import Monitor, StepRules
from fbackprop.train.examples import check_examples
from fbackprop.train.limits import check_batch_size
from fbackprop.train.loop import Loop, Member, start_loop
from fbackprop.train.step import Batch, Info, State, make_guarded_step
from fbackprop.train.stop_conditions import StopNumbers, stop_numbers
from fbackprop.train.stop_rules import StopRules, check_count
from fbackprop.train.validation import check_validation, set_aside, start_best
from fbackprop.types import Array, Layer, Loss, Params


class Problem(NamedTuple):
  """The constants of a run, of one network or of many.

  Attributes:
    net, loss, stop, batch_size, step, monitor: as of `fit`.
    optimizer_of: the optimizer as a function of a member's rate, or of None.
    train, test, validation: the sets of examples; None for those not given.
  """

  net: Layer
  loss: Loss
  optimizer_of: Callable[[Any], optax.GradientTransformation]
  train: Batch
  test: Batch | None
  validation: Batch | None
  stop: StopRules
  batch_size: int
  step: StepRules
  monitor: Monitor

  @property
  def steps_per_epoch(self) -> int:
    """Number of full batches in the training set."""
    return example_count(self.train.x) // self.batch_size

  @property
  def most_steps(self) -> int:
    """Largest number of steps that the stop rules allow."""
    return self.stop.most_steps(self.steps_per_epoch)

  @property
  def is_thorough(self) -> bool:
    """Whether each step checks every number; see `Run`."""
    return self.step.on_nonfinite != "raise"

  def make_step(self, rate: Any = None, *, is_thorough: bool = True) -> tuple[Any, Any]:
    """Build `(init, step)`, as `fbackprop.train.make_step`."""
    return make_guarded_step(
      self.net, self.loss, self.optimizer_of(rate), is_thorough,
      clip_examples=self.step.clip_examples,
      watch=tuple(name for name in self.monitor.watch if name != "health"),
    )  # fmt: skip

  def first_step(self, key: Array, rate: Any, batch: Batch) -> tuple[State, Info]:
    """Take the first step of a member; for tracing only."""
    init, step = self.make_step(rate)
    taken: tuple[State, Info] = step(init(key), batch)
    return taken

  def start(self, key: Array, rate: Any, dtype: Any, params: Params = None) -> tuple[Loop, Member]:
    """Build the initial loop and the constants of a run whose loss has this dtype."""
    init_key, order_key = jax.random.split(key)
    state = self.make_step(rate)[0](init_key, params)
    loop = start_loop(state, example_count(self.train.x), dtype, self.step.shuffle)
    if self.validation is not None:
      loop = loop._replace(best=start_best(state.params, dtype))
    return loop, Member(order_key, rate)

  def numbers(self, dtype: Any) -> StopNumbers:
    """Convert the stop rules to arrays, for losses of `dtype`."""
    return stop_numbers(self.stop, dtype, is_validated=self.validation is not None)


def prepare(
  where: str,
  net: Layer,
  loss: Loss,
  data: Any,
  optimizer_of: Callable[[Any], optax.GradientTransformation],
  stop: StopRules,
  key: Array,
  batch_size: int | None,
  validation: Any,
  step: StepRules,
  monitor: Monitor,
) -> Problem:
  """Validate the arguments of a run, and split off its validation set.

  Args:
    where: "fit" or "fit_ensemble".
    key: key of the run, or of its first member.
    net, loss, data, stop, batch_size, validation, step, monitor: as of `fit`.
    optimizer_of: the optimizer as a function of a member's rate.

  Raises:
    TypeError, ValueError: an argument is invalid; the message names it.
  """
  if not isinstance(stop, StopRules):
    raise DtypeError(f"{where}: stop must be a StopRules, got {describe(stop)}")
  check_unit("fit", "net", net, Layer)
  check_unit("fit", "loss", loss, Loss)
  train = check_examples("data", data, net, loss)
  test = None if monitor.test is None else check_examples("test", monitor.test, net, loss)
  if test is not None and test.weights is not None:
    raise ValueError(f"{where}: test must be a pair (x, targets), got weights too")
  held_out = check_validation(stop, validation, net, loss)
  if stop.validation_fraction is not None:
    train, held_out = set_aside(train, stop.validation_fraction, key)
  n = example_count(train.x)
  batch_size = n if batch_size is None else batch_size
  check_count("batch_size", batch_size, least=1)
  check_batch_size(batch_size, n, monitor.watch)
  return Problem(net, loss, optimizer_of, train, test, held_out, stop, batch_size, step, monitor)
