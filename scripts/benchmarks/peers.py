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

HEADING = (
  f"{'checker':<38}{'caught':>11}{'false alarms':>14}{'not taken':>11}{'too slow':>10}"
  f"{'seconds':>9}{'load':>6}"
)


def line_of(row: dict[str, Any]) -> str:
  """Format a row of the table; functions not taken or too slow don't count in the totals."""
  caught = f"{row['caught']} of {row['caught'] + row['missed']}"
  alarms = f"{row['false_alarms']} of {row['false_alarms'] + row['passed']}"
  return (
    f"{row['checker']:<38}{caught:>11}{alarms:>14}{row['not_taken']:>11}{row['too_slow']:>10}"
    f"{row['seconds']:>9.1f}{row['load'] or '':>6}"
  )


def markdown_of(row: dict[str, Any]) -> str:
  """Format the row of docs/verify.md."""
  caught = f"{row['caught']} of {row['caught'] + row['missed']}"
  alarms = f"{row['false_alarms']} of {row['false_alarms'] + row['passed']}"
  untaken = row["not_taken"] + row["too_slow"]
  name = f"{row['checker']} ({row['package']} {row['version']})"
  return f"| {name} | {caught} | {alarms} | {untaken} | {row['seconds']:.0f} |"
