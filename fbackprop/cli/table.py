"""The table of a run's evaluations, a line each as they come."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fbackprop.cli.output import number
from fbackprop.train.method_names import WatchName

if TYPE_CHECKING:
  from fbackprop.train.results import Evaluation


class Column(NamedTuple):
  """A column: its name, its width, and the cell of an evaluation."""

  name: str
  width: int
  cell: Callable[["Evaluation"], str]


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

  @property
  def columns(self) -> list[Column]:
    """Those that there are, from left to right."""
    every = (
      (True, Column("step", 8, lambda e: str(e.step))),
      (True, Column("epoch", 8, lambda e: f"{e.epoch:.1f}")),
      (True, Column("train loss", 12, lambda e: number(e.train_loss))),
      (True, Column("test loss", 11, lambda e: number(e.test_loss))),
      (self.is_classification, Column("test accuracy", 14, lambda e: number(e.test_accuracy))),
      (self.is_validated, Column("validation", 12, lambda e: number(e.validation_score))),
      (self.is_clipped, Column("clipped", 9, lambda e: percent(e.clipped))),
      ("noise_scale" in self.watched,
       Column("noise scale", 13, lambda e: examples(e.noise_scale))),
      ("health" in self.watched, Column("most dead", 11, lambda e: percent(most_dead(e.health)))),
      (True, Column("error of gradient", 20, lambda e: error(e.gradient_error))),
    )  # fmt: skip
    return [column for is_there, column in every if is_there]

  def head(self) -> str:
    """The heading."""
    return "".join(f"{column.name:>{column.width}}" for column in self.columns)

  def row(self, evaluation: "Evaluation") -> str:
    """An evaluation under the heading."""
    return "".join(f"{column.cell(evaluation):>{column.width}}" for column in self.columns)


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
