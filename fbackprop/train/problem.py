"""A run before it begins: its arguments regrouped and validated, its data on the device."""

import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import check_unit, example_count
from fbackprop.errors import RangeError, hint
from fbackprop.ranges import check_in_range
from fbackprop.train.arguments import Checkpoints, Monitor, StepRules, StopRules, check_batch_size
from fbackprop.train.examples import check_examples, set_aside
from fbackprop.train.loop import Loop, Member, start_loop
from fbackprop.train.step import Batch, Info, InitAndStep, State, make_guarded_step
from fbackprop.train.stop_rules import start_best
from fbackprop.types import Array, Layer, Loss, Params

GROUPS: dict[str, Any] = {"monitor": Monitor, "step": StepRules, "checkpoints": Checkpoints}
# Attributes of the groups that were never keywords of the function; all others are deprecated
# keywords of it. `fit_ensemble` doesn't support its own ones as attributes either.
NEVER = {
  "fit": ("check_members", "folder", "every", "keep"),
  "fit_ensemble": ("clip_examples", "on_nonfinite", "on_event", "watch"),
}
# Those that remain keywords beside their group: a gradient check must cost one word.
SHORT = frozenset({"check_every"})
# Attributes younger than the groups, of either function.
YOUNG = frozenset({"on_compiled"})


class Problem(NamedTuple):
  """The arguments of a run, of one network or of many; after `prepared`, its constants.

  Attributes:
    net, loss, stop, step, monitor: as of `fit`.
    optimizer: the optimizer; with rates, a function of a member's rate that returns it.
    train, test, validation: the sets of examples; None for those not given.
    batch_size: as of `fit`; then never None.
    rates: learning rates of the members, or None; then in the dtype of x.
    info: then the structure, shapes and dtypes of a step's record.
  """

  net: Layer
  loss: Loss
  optimizer: Any
  train: Batch
  test: Batch | None
  validation: Batch | None
  stop: StopRules
  batch_size: Any
  step: StepRules
  monitor: Monitor
  rates: Any = None
  info: Any = None

  def prepared(self, where: str, key: Array) -> "Problem":
    """Validate the arguments, move the examples to the device, and split off a validation set.

    Args:
      where: "fit" or "fit_ensemble".
      key: key of the run, or of its first member.

    Raises:
      TypeError, ValueError: an argument is invalid; the message names it.
    """
    net, loss, stop = self.net, self.loss, self.stop
    check_unit(where, "stop", stop, StopRules)
    check_unit("fit", "net", net, Layer)
    check_unit("fit", "loss", loss, Loss)
    train = check_examples("data", self.train, net, loss)
    test, held_out = (
      None if examples is None else check_examples(name, examples, net, loss)
      for name, examples in (("test", self.test), ("validation", self.validation))
    )
    if test is not None and test.weights is not None:
      raise RangeError("must be a pair (x, targets), got weights too", "test", where)
    if stop.validation_fraction is not None:
      if held_out is not None:
        problem = "and stop.validation_fraction are mutually exclusive, got both"
        raise RangeError(problem, "validation")
      train, held_out = set_aside(train, stop.validation_fraction, key)
    n = example_count(train.x)
    size = n if self.batch_size is None else self.batch_size
    check_in_range("", "batch_size", size)
    check_batch_size(size, n, self.monitor.watch)
    dtype = jax.tree.leaves(train.x)[0].dtype
    rates = None if self.rates is None else jnp.asarray(self.rates, dtype)
    own = self._replace(train=train, test=test, validation=held_out, batch_size=size, rates=rates)
    return own._replace(info=jax.eval_shape(own.first_step, key, train)[1])

  @property
  def steps_per_epoch(self) -> int:
    """Number of full batches in the training set."""
    return int(example_count(self.train.x) // self.batch_size)

  @property
  def most_steps(self) -> int:
    """Largest number of steps that the stop rules allow."""
    return self.stop.most_steps(self.steps_per_epoch)

  def optimizer_of(self, rate: Any) -> Any:
    """Return the optimizer of a member's rate, or of None."""
    return self.optimizer if rate is None else self.optimizer(rate)

  def make_step(self, rate: Any = None, *, is_thorough: bool = True) -> InitAndStep:
    """Build `(init, step)`, as `fbackprop.train.make_step`."""
    return make_guarded_step(
      self.net, self.loss, self.optimizer_of(rate), is_thorough,
      clip_examples=self.step.clip_examples,
      watch=tuple(name for name in self.monitor.watch if name == "noise_scale"),
    )  # fmt: skip

  def first_step(self, key: Array, batch: Batch) -> tuple[State, Info]:
    """Take the first step of the first member; for tracing only."""
    init, step = self.make_step(None if self.rates is None else self.rates[0])
    return step(init(key), batch)

  def start(self, key: Array, rate: Any, params: Params = None) -> tuple[Loop, Member]:
    """Build the initial loop and the constants of a member."""
    init_key, order_key = jax.random.split(key)
    state, dtype = self.make_step(rate)[0](init_key, params), self.info.loss.dtype
    loop = start_loop(state, example_count(self.train.x), dtype, self.step.shuffle)
    if self.validation is not None:
      loop = loop._replace(best=start_best(state.params, dtype))
    return loop, Member(order_key, rate)


def regroup(where: str, deprecated: Mapping[str, Any], **groups: Any) -> list[Any]:
  """Move deprecated keywords into their groups, with a `DeprecationWarning` for each.

  Args:
    where: "fit" or "fit_ensemble".
    deprecated: the keywords; those of `SHORT` aren't warned of.
    **groups: the arguments `monitor`, `step` and `checkpoints` of the call.

  Returns:
    The groups, in the order of `groups`; default ones in place of None, but for the checkpoints.

  Raises:
    TypeError: a keyword is unknown, or conflicts with its group's own value; or a group has the
      wrong type.
  """
  for name, group in groups.items():
    if group is not None:
      check_unit(where, name, group, GROUPS[name])
    elif name != "checkpoints":
      groups[name] = GROUPS[name]()
  every = ((field.name, name) for name in groups for field in fields(GROUPS[name]))
  homes = {old: name for old, name in every if old not in YOUNG.union(NEVER[where])}
  for old, value in deprecated.items():
    if old not in homes:
      problem = f"got an unexpected keyword argument {old!r}; {hint(old, [*homes, *groups])}"
      raise TypeError(f"{where}() {problem}")
    name, kind, group = homes[old], GROUPS[homes[old]], groups[homes[old]]
    new = f"{name}={kind.__name__}({old}=...)"
    own, default = getattr(group, old, None), getattr(kind, old)
    # An array is never a default, and isn't compared, as its == returns another array.
    if own is not default and not (isinstance(own, str | int | tuple) and own == default):
      raise TypeError(f"{where}() got both {old} and {new}; give the latter alone")
    if old not in SHORT:
      message = f"{where}({old}=...) is deprecated: use {new}"
      warnings.warn(message, DeprecationWarning, stacklevel=3)
    if group is not None:
      groups[name] = replace(group, **{old: value})
    elif value is not None:  # Without a folder there are no checkpoints.
      groups[name] = kind(**{old: value})
  return list(groups.values())
