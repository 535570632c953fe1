"""The table of a run's evaluations, a line each as they come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fbackprop.cli.output import number
from fbackprop.train.method_names import WatchName

if TYPE_CHECKING:
  from fbackprop.train.results import Evaluation


@dataclass(frozen=True)
class Table:
  """Which columns there are.

  Attributes:
    is_classification: whether there is an accuracy.
    is_validated: whether examples are set aside.
    is_clipped: whether examples' gradients are.
    watched: what else is told.
  """

  is_classification: bool
  is_validated: bool
  is_clipped: bool
  watched: tuple[WatchName, ...]

  def head(self) -> str:
    """The heading."""
    return "".join(f"{name:>{width}}" for name, width, _ in self.columns(None))

  def row(self, evaluation: "Evaluation") -> str:
    """An evaluation under the heading."""
    return "".join(f"{cell:>{width}}" for _, width, cell in self.columns(evaluation))

  def columns(self, evaluation: "Evaluation | None") -> list[tuple[str, int, str]]:
    """The name, the width and the cell of each column; without an evaluation cells are empty."""
    e: Any = evaluation
    is_head = e is None
    every: list[tuple[str, int, bool, Callable[[], str]]] = [
      ("step", 8, True, lambda: str(e.step)),
      ("epoch", 8, True, lambda: f"{e.epoch:.1f}"),
      ("train loss", 12, True, lambda: number(e.train_loss)),
      ("test loss", 11, True, lambda: number(e.test_loss)),
      ("test accuracy", 14, self.is_classification, lambda: number(e.test_accuracy)),
      ("validation", 12, self.is_validated, lambda: number(e.validation_score)),
      ("clipped", 9, self.is_clipped, lambda: percent(e.clipped)),
      ("noise scale", 13, "noise_scale" in self.watched, lambda: examples(e.noise_scale)),
      ("most dead", 11, "health" in self.watched, lambda: percent(most_dead(e.health))),
      ("error of gradient", 20, True, lambda: error(e.gradient_error)),
    ]
    return [
      (name, width, "" if is_head else cell()) for name, width, is_there, cell in every if is_there
    ]


def percent(share: float | None) -> str:
  """A share as text."""
  return "-" if share is None else f"{100 * share:.1f} %"


def examples(count: float | None) -> str:
  """A number of examples as text."""
  return "-" if count is None else f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def error(value: float | None) -> str:
  """A relative error as text."""
  return "-" if value is None else f"{value:.1e}"


def most_dead(health: dict[str, Any] | None) -> float | None:
  """The largest share of dead units of any layer; the copies of a `repeat` have a list."""
  shares = [layer["dead"] for layer in (health or {}).values()]
  return max((max(s) if isinstance(s, list) else s for s in shares), default=None)
