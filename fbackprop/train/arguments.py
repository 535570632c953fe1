"""The grouped arguments of a run, their checks, and the keywords that they replace."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import (
  DtypeError,
  ShapeError,
  check_callable,
  check_like,
  describe,
  is_integer,
)
from fbackprop.hints import hint
from fbackprop.ranges import RANGES, check_range
from fbackprop.train.checkpoints import Checkpoints
from fbackprop.train.examples import check_finite
from fbackprop.train.gradients import check_clip_examples, check_watch
from fbackprop.train.method_names import NonfiniteName, ShuffleName, WatchName
from fbackprop.train.shuffle import find_shuffle
from fbackprop.train.stop_rules import check_count
from fbackprop.types import Layer, Params


@dataclass(frozen=True, eq=False)
class Monitor:
  """What a run measures and reports. Nothing of it changes the parameters.

  Attributes:
    eval_every: steps between evaluations; None for one at the end only. In an ensemble, steps of
      the members that still run.
    check_every: steps between comparisons of our gradient with `jax.grad`, from step 0 on; None for
      none. Both are computed in float64, whatever precision the products of the run have (TF32,
      bf16 passes), and on the CPU where the device has no float64: it is a check of the
      mathematics. `LiveCheck.rounding` is the rounding error of the run's own arithmetic.
    test: `(x, targets)`, the test set. It is scored at each evaluation and decides nothing.
    on_evaluation: called with each `Evaluation`, as it comes; in a run that is resumed, first with
      those that it had before.
    on_event: called with a message about each unplanned event: a damaged checkpoint, one that can't
      be written, a skipped step, a rollback. By default a warning.
    watch: further diagnostics. "noise_scale": the gradient noise scale of the steps since the
      evaluation before, at the cost of each example's norm in each step. "health": the health of
      each layer, at the cost of a backward pass in each evaluation. Both need a network of captured
      layers, as `fbackprop.mlp(sizes, dense=fbackprop.quantities.captured(fbackprop.dense))`.
    check_members: the members of an ensemble whose gradients are compared.
    chunk_steps: the most steps of one compiled call, after which an interrupt is noticed.

  Raises:
    TypeError, ValueError: by the name of the attribute.
  """

  eval_every: int | None = None
  check_every: int | None = None
  test: Any = None
  on_evaluation: Callable[[Any], None] | None = None
  on_event: Callable[[str], None] | None = None
  watch: Sequence[WatchName] = ()
  check_members: Sequence[int] = (0,)
  chunk_steps: int = 1000

  def __post_init__(self) -> None:
    for name in ("eval_every", "check_every", "chunk_steps"):
      if (value := getattr(self, name)) is not None or name == "chunk_steps":
        check_count(f"monitor.{name}", value, least=1)
    for name in ("on_evaluation", "on_event"):
      if (value := getattr(self, name)) is not None:
        check_callable("fit", f"monitor.{name}", value)
    check_watch(self.watch)

  def handle(self, event: str) -> None:
    """Report an event to `on_event`, by default as a warning."""
    if self.on_event is None:
      warnings.warn(f"fit: {event}", stacklevel=3)
    else:
      self.on_event(event)


@dataclass(frozen=True)
class StepRules:
  """How a step is taken.

  Attributes:
    shuffle: "exact", which is `jax.random.permutation`, or "fast", a keyed bijection that saves a
      tiny network's epoch much of its time and reaches a small part of all orders; see
      `fbackprop.train.shuffle`.
    clip_examples: clip each example's gradient to this norm, before the step takes their mean. It
      needs a network of captured layers. The gradient check then takes `jax.grad` of each example.
    on_nonfinite: what happens at a step that isn't finite (see `Info.finite`). "raise" ends the
      run. "skip" skips that step, up to 10 in a row. "rollback" restores the last checkpoint and
      goes on with updates of half the size, up to 10 times; it needs `Checkpoints.every`. A state
      that isn't finite is never kept, nor saved.

  Raises:
    TypeError, ValueError: by the name of the attribute.
  """

  shuffle: ShuffleName = "exact"
  clip_examples: float | None = None
  on_nonfinite: NonfiniteName = "raise"

  def __post_init__(self) -> None:
    find_shuffle(self.shuffle)
    if self.clip_examples is not None:
      check_clip_examples(self.clip_examples)
      object.__setattr__(self, "clip_examples", float(self.clip_examples))  # JSON has no other.
    if self.on_nonfinite not in (choices := get_args(NonfiniteName)):
      raise ValueError(
        f"on_nonfinite must be one of {', '.join(choices)}, got {self.on_nonfinite!r}"
      )


# The former keywords of `fit` and of `fit_ensemble`, by the argument that has them now.
MOVED: dict[str, tuple[type, tuple[str, ...]]] = {
  "monitor": (Monitor, tuple(field.name for field in fields(Monitor))),
  "step": (StepRules, tuple(field.name for field in fields(StepRules))),
  "checkpoints": (Checkpoints, ("resume",)),
}
# Of these, what stays a keyword beside its group: a gradient check must cost one word.
SHORT = frozenset({"check_every"})


def regroup(
  where: str, deprecated: Mapping[str, Any], refused: Iterable[str] = (), **groups: Any
) -> list[Any]:
  """Put keywords into the groups that have them, with a `DeprecationWarning` for a former one.

  Args:
    where: "fit" or "fit_ensemble".
    deprecated: the keywords; those of `SHORT` stay.
    refused: former keywords of `fit` that `where` never had.
    **groups: `monitor`, `step` and `checkpoints`, as they were given.

  Returns:
    The groups, in the order in which they were given.

  Raises:
    TypeError: a keyword isn't known, is given beside its group's own value, or a group is of
      another type.
  """
  for name, group in groups.items():
    if group is not None and not isinstance(group, MOVED[name][0]):
      wanted = MOVED[name][0].__name__
      raise DtypeError(f"{where}: {name} must be a {wanted}, got {describe(group)}")
  homes = {old: name for name in groups for old in MOVED[name][1] if old not in refused}
  for old, value in deprecated.items():
    if old not in homes:
      raise TypeError(
        f"{where}() got an unexpected keyword argument {old!r}; {hint(old, [*homes, *groups])}"
      )
    name = homes[old]
    kind, group = MOVED[name][0], groups[name]
    new = f"{name}={kind.__name__}({old}=...)"
    if group is not None and is_set(group, old):
      raise TypeError(f"{where}() got both {old} and {new}; give the latter alone")
    if old not in SHORT:
      message = f"{where}({old}=...) is deprecated: use {new}"
      warnings.warn(message, DeprecationWarning, stacklevel=3)
    if group is not None:
      groups[name] = replace(group, **{old: value})
    elif value is not None or kind is not Checkpoints:  # There are none without a folder.
      groups[name] = kind(**{old: value})
  return list(groups.values())


def is_set(group: Any, name: str) -> bool:
  """Whether an attribute of a group has another value than its default."""
  value = getattr(group, name)
  (default,) = (field.default for field in fields(group) if field.name == name)
  # An array isn't compared: it is no default, and its == is another array.
  return not (value is default or (isinstance(value, str | int | tuple) and value == default))


def check_start(net: Layer, params: Params) -> None:
  """Raise if a run of `net` can't start from these parameters; the message names the leaf."""
  check_like("fit: params", params, jax.eval_shape(net.init, jax.random.key(0)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    check_finite(f"params{jax.tree_util.keystr(path)}", np.asarray(leaf))


def check_keys(keys: Any) -> int:
  """Return the number of typed keys `[K]`; raise if they aren't."""
  if not (hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)):
    raise DtypeError(
      "fit_ensemble: keys must be typed keys [K], such as jax.random.split(jax.random.key(seed), "
      f"K), got {describe(keys)}"
    )
  if keys.ndim != 1 or not len(keys):
    raise ShapeError(f"fit_ensemble: keys must have shape [K], K at least 1, got {describe(keys)}")
  return len(keys)


def check_rates(rates: Any, size: int) -> np.ndarray:
  """Return the rates `[K]` in float64; raise if there are not K, or one isn't above 0."""
  rates = list(rates)
  if len(rates) != size:
    raise ShapeError(
      f"fit_ensemble: rates must be one for each of the {size} keys, got {len(rates)}"
    )
  for k, rate in enumerate(rates):
    check_range("fit_ensemble", f"rates[{k}]", rate, RANGES["rate"])
  return np.asarray(rates, np.float64)


def check_members(members: Any, size: int) -> list[int]:
  """Return numbers of members, sorted and each once; raise if there is no such member."""
  members = list(members)
  for k in members:
    if not is_integer(k):
      raise DtypeError(f"fit_ensemble: check_members must be integers, got {describe(k)}")
    if not 0 <= k < size:
      raise ValueError(f"fit_ensemble: check_members must be from 0 to {size - 1}, got {k}")
  return sorted(map(int, set(members)))


def optimizer_by_rate(
  optimizer: Any, has_rates: bool
) -> Callable[[Any], optax.GradientTransformation]:
  """Return the optimiser as a function of a member's rate, whether it is one or not."""
  if has_rates:
    if not callable(optimizer) or isinstance(optimizer, optax.GradientTransformation):
      raise DtypeError(
        "fit_ensemble: with rates, optimizer must be a function of the rate, such as optax.sgd, "
        f"got {describe(optimizer)}"
      )
    by_rate: Callable[[Any], optax.GradientTransformation] = optimizer
    return by_rate
  return lambda rate: optimizer
