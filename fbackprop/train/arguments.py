"""The grouped arguments of a run, their checks, and the deprecated keywords that they replace."""

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
    on_event: called with a message about each unplanned event: a damaged checkpoint, a failed write
      of one, a skipped step, a rollback. By default a warning is issued.
    watch: further diagnostics. "noise_scale": the gradient noise scale of the steps since the
      last evaluation, at the cost of each example's gradient norm in each step. "health": the
      health of each layer, at the cost of a backward pass in each evaluation. Both need a network
      of captured layers, as `fbackprop.mlp(sizes,
      dense=fbackprop.quantities.captured(fbackprop.dense))`.
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
    """Report an event to `on_event`, or as a warning by default."""
    if self.on_event is None:
      warnings.warn(f"fit: {event}", stacklevel=3)
    else:
      self.on_event(event)


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
    find_shuffle(self.shuffle)
    if self.clip_examples is not None:
      check_clip_examples(self.clip_examples)
      object.__setattr__(self, "clip_examples", float(self.clip_examples))  # JSON needs a float.
    if self.on_nonfinite not in (choices := get_args(NonfiniteName)):
      raise ValueError(
        f"on_nonfinite must be one of {', '.join(choices)}, got {self.on_nonfinite!r}"
      )


# Deprecated keywords of `fit` and of `fit_ensemble`, by the argument that replaces them.
MOVED: dict[str, tuple[type, tuple[str, ...]]] = {
  "monitor": (Monitor, tuple(field.name for field in fields(Monitor))),
  "step": (StepRules, tuple(field.name for field in fields(StepRules))),
  "checkpoints": (Checkpoints, ("resume",)),
}
# Those that remain keywords beside their group: a gradient check must cost one word.
SHORT = frozenset({"check_every"})


def regroup(
  where: str, deprecated: Mapping[str, Any], refused: Iterable[str] = (), **groups: Any
) -> list[Any]:
  """Move deprecated keywords into their groups, with a `DeprecationWarning` for each.

  Args:
    where: "fit" or "fit_ensemble".
    deprecated: the keywords; those of `SHORT` aren't warned of.
    refused: deprecated keywords of `fit` that `where` never had.
    **groups: the arguments `monitor`, `step` and `checkpoints` of the call.

  Returns:
    The groups, in the order of `groups`.

  Raises:
    TypeError: a keyword is unknown, or conflicts with its group's own value; or a group has the
      wrong type.
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
    elif value is not None or kind is not Checkpoints:  # Without a folder there are no checkpoints.
      groups[name] = kind(**{old: value})
  return list(groups.values())


def is_set(group: Any, name: str) -> bool:
  """Return whether an attribute of a group differs from its default."""
  value = getattr(group, name)
  (default,) = (field.default for field in fields(group) if field.name == name)
  # An array is never a default, and isn't compared, as its == returns another array.
  return not (value is default or (isinstance(value, str | int | tuple) and value == default))


def check_start(net: Layer, params: Params) -> None:
  """Raise unless a run of `net` can start from these parameters; the message names the leaf."""
  check_like("fit: params", params, jax.eval_shape(net.init, jax.random.key(0)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    check_finite(f"params{jax.tree_util.keystr(path)}", np.asarray(leaf))


def check_keys(keys: Any) -> int:
  """Return the number K of typed keys `[K]`; raise for any other value."""
  if not (hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)):
    raise DtypeError(
      "fit_ensemble: keys must be typed keys [K], such as jax.random.split(jax.random.key(seed), "
      f"K), got {describe(keys)}"
    )
  if keys.ndim != 1 or not len(keys):
    raise ShapeError(f"fit_ensemble: keys must have shape [K], K at least 1, got {describe(keys)}")
  return len(keys)


def check_rates(rates: Any, size: int) -> np.ndarray:
  """Return the rates `[K]` in float64; raise unless there are K positive ones."""
  rates = list(rates)
  if len(rates) != size:
    raise ShapeError(
      f"fit_ensemble: rates must be one for each of the {size} keys, got {len(rates)}"
    )
  for k, rate in enumerate(rates):
    check_range("fit_ensemble", f"rates[{k}]", rate, RANGES["rate"])
  return np.asarray(rates, np.float64)


def check_members(members: Any, size: int) -> list[int]:
  """Return the indices of members, sorted and unique; raise for one out of range."""
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
  """Return the optimizer as a function of a member's rate, which a plain optimizer ignores."""
  if has_rates:
    if not callable(optimizer) or isinstance(optimizer, optax.GradientTransformation):
      raise DtypeError(
        "fit_ensemble: with rates, optimizer must be a function of the rate, such as optax.sgd, "
        f"got {describe(optimizer)}"
      )
    by_rate: Callable[[Any], optax.GradientTransformation] = optimizer
    return by_rate
  return lambda rate: optimizer
