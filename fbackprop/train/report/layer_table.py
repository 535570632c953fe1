"""A run's layers in numbers, at the parameters that it ended with."""

from collections.abc import Callable, Mapping

import numpy as np

from fbackprop.inspection import Signals
from fbackprop.train.metrics import root_mean_square
from fbackprop.train.report.cells import Table, barred, percent
from fbackprop.train.results import Result
from fbackprop.train.step import by_layer
from fbackprop.types import Array


def near_end_of_sigmoid(y: np.ndarray) -> float:
  """The share at which the slope y (1 − y) is less than a hundredth of its largest."""
  return float((y * (1 - y) < 0.01 / 4).mean())


def near_end_of_tanh(y: np.ndarray) -> float:
  """The share at which the slope 1 − y² is less than a hundredth of its largest."""
  return float((1 - y**2 < 0.01).mean())


def at_end_of_hard_tanh(y: np.ndarray) -> float:
  """The share at which the slope is zero."""
  return float((np.abs(y) >= 1).mean())


def at_end_of_relu6(y: np.ndarray) -> float:
  """The share at which it is zero for too large an input; for a small one it is as relu's."""
  return float((y >= 6).mean())


SATURATED: dict[str, Callable[[np.ndarray], float]] = {
  "sigmoid": near_end_of_sigmoid,
  "tanh": near_end_of_tanh,
  "hard_tanh": at_end_of_hard_tanh,
  "relu6": at_end_of_relu6,
}


def layers_of(signals: Mapping[str, Signals], result: Result) -> Table:
  """A row for each layer.

  Of what passes through it for the test examples: the root mean square of its outputs y and of the
  cotangents ȳ, each example's that of its own loss; the share of units that are dead, which give
  the same output for every example; the share of outputs at which a bounded activation is flat. Of
  its parameters: their shapes, their norm, and that of their gradient in the run's last step.
  """
  names = list(signals)
  params = {place(name): leaves for name, leaves in by_layer(result.params).items()}
  last = result.grad_norms[-1] if len(result.grad_norms) else [None] * len(result.layer_names)
  norms = {place(name): norm for name, norm in zip(result.layer_names, last, strict=True)}
  owners = [name.rpartition(".")[0] for name in names]

  columns = [
    barred([root_mean_square(np.asarray(seen.y)) for seen in signals.values()]),
    barred([
      root_mean_square(np.asarray(seen.y_bar)) * seen.y_bar.shape[-2] for seen in signals.values()
    ]),
    barred([None if norms.get(owner) is None else float(norms[owner]) for owner in owners]),
    barred([norm_of(params[owner]) if owner in params else None for owner in owners]),
    [percent(dead(np.asarray(seen.y))) for seen in signals.values()],
    [percent(saturated(name, np.asarray(seen.y))) for name, seen in signals.items()],
  ]  # fmt: skip
  shapes = [" + ".join(times(leaf.shape) for leaf in params.get(owner, ())) for owner in owners]
  rows = [
    (name, shape or "–", *numbers)
    for name, shape, *numbers in zip(names, shapes, *columns, strict=True)
  ]
  heads = ("layer", "parameters", "y, rms", "ȳ, rms", "‖Θ̄‖, last step", "‖Θ‖", "dead", "saturated")
  return Table(heads, rows)


def place(path: str) -> str:
  """Where a layer stands, as `fbackprop.inspect` says it: "4.0" for "[4][0]"."""
  return path.strip("[]").replace("][", ".")


def times(shape: tuple[int, ...]) -> str:
  """A shape in words."""
  return "×".join(map(str, shape)) or "1"


def norm_of(leaves: list[Array]) -> float:
  """The Euclidean norm of a layer's parameters."""
  return float(np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves)))


def dead(y: np.ndarray) -> float | None:
  """The share of units whose output is the same for all of several examples."""
  if y.shape[-2] < 2:
    return None
  return float((y == y[..., :1, :]).all(-2).mean())


def saturated(name: str, y: np.ndarray) -> float | None:
  """The share of outputs at which the activation of that name is flat; None if it is never so."""
  share = SATURATED.get(name.rpartition(".")[2])
  return None if share is None else share(y)
