"""The names of the compared checkers; nothing is imported before one of them runs."""

from typing import Any

PEERS = {
  "ours-quick": "fbackprop verify, quick",
  "ours-standard": "fbackprop verify, standard",
  "jax-float32": "jax check_grads, float32, order 1",
  "jax-float32-2": "jax check_grads, float32, order 2",
  "jax-float64": "jax check_grads, float64, order 1",
  "jax-float64-2": "jax check_grads, float64, order 2",
  "chex": "chex assert_numerical_grads, order 1",
  "direct": "jax.grad, rtol 1e-5, atol 0",
  "direct-atol": "jax.grad, rtol 1e-5, atol 1e-8",
  "torch-slow": "torch gradcheck",
  "torch-fast": "torch gradcheck, fast_mode",
  "autograd": "autograd check_grads",
  "autograd-all": "autograd check_grads, all arguments",
}

LINE = "{:<38}{:>11}{:>14}{:>11}{:>10}{:>9}{:>6}"
HEADING = LINE.format(
  "checker", "caught", "false alarms", "not taken", "too slow", "seconds", "load"
)


def shares(row: dict[str, Any]) -> list[str]:
  """Format what was caught, and the false alarms, out of the functions taken and in time."""
  pairs = (("caught", "missed"), ("false_alarms", "passed"))
  return [f"{row[count]} of {row[count] + row[rest]}" for count, rest in pairs]


def line_of(row: dict[str, Any]) -> str:
  """Format a row of the table."""
  counts = (*shares(row), row["not_taken"], row["too_slow"])
  return LINE.format(row["checker"], *counts, f"{row['seconds']:.1f}", row["load"] or "")


def markdown_of(row: dict[str, Any]) -> str:
  """Format the row of docs/verify.md."""
  untaken, seconds = row["not_taken"] + row["too_slow"], f"{row['seconds']:.0f}"
  name = f"{row['checker']} ({row['package']} {row['version']})"
  return f"| {' | '.join([name, *shares(row), str(untaken), seconds])} |"
