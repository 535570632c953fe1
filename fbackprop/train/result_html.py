"""The result of a run as a notebook shows it: how it ended, and its evaluations."""

from fbackprop.markup import BAD, GOOD, headline, paragraph, table_of
from fbackprop.train.results import Evaluation, Result

MOST_ROWS = 20
HEADS = (
  "step",
  "epoch",
  "train loss",
  "test loss",
  "test accuracy",
  "validation",
  "gradient error",
)


def to_html(result: Result) -> str:
  """A result as HTML, without a page around it."""
  is_well = result.checks_ok and result.stop_reason != "diverged"
  rest = f"at step {result.steps:,}, {result.seconds:.1f} s"
  if result.best is not None:
    rest += f"; kept: step {result.best.step:,}, validation {number(result.best.score)}"
  parts = [headline(result.stop_reason, GOOD if is_well else BAD, rest)]
  if result.diverged_at is not None:
    parts.append(paragraph(f"first not finite: {result.diverged_at}"))
  if (worst := result.gradient_check_max_rel_error) is not None:
    verdict = "agrees with" if result.checks_ok else "differs from"
    parts.append(
      paragraph(f"gradient {verdict} jax.grad in {len(result.checks)} checks: worst {worst:.1e}")
    )
  every = result.evaluations
  shown = every if len(every) <= MOST_ROWS else (*every[:2], *every[2 - MOST_ROWS :])
  if len(shown) < len(every):
    parts.append(paragraph(f"{len(shown)} of {len(every)} evaluations:"))
  parts.append(table_of(HEADS, map(row_of, shown)))
  return "".join(parts)


def row_of(evaluation: Evaluation) -> tuple[str, ...]:
  """An evaluation as the cells of `HEADS`."""
  error = evaluation.gradient_error
  return (
    f"{evaluation.step:,}",
    f"{evaluation.epoch:.1f}",
    number(evaluation.train_loss),
    number(evaluation.test_loss),
    number(evaluation.test_accuracy),
    number(evaluation.validation_score),
    "" if error is None else f"{error:.1e}",
  )


def number(value: float | None) -> str:
  """A number of a run; "" where there is none."""
  return "" if value is None else f"{value:.4g}"
