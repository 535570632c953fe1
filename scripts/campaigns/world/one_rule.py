"""Verifies one rule of a module's RULES, in a process of its own.

  python -m scripts.campaigns.world.one_rule KEY LEVEL SECONDS MODULE

The last line printed is the row of the results, as JSON. `scripts/verify_world.py` runs it with
the interpreter of the environment that holds the packages.
"""

import json
import sys
import time
import traceback
from typing import Any

import jax

from fbackprop.verify import jvp, vjp
from fbackprop.verify.report import Report, UnusableError
from scripts.campaigns.world.differences import compared
from scripts.campaigns.world.rule import Rule, drawn, function_of, rules_of


def main(arguments: list[str]) -> None:
  """Print the row of the rule named, after the report if the rule doesn't pass."""
  key, level, seconds, cases = arguments
  rule = next(rule for rule in rules_of(cases) if rule.key == key)
  print(json.dumps(row_of(rule, level, float(seconds))))


def row_of(rule: Rule, level: str, seconds: float) -> dict[str, Any]:
  """Return the row of a rule; what keeps it from being verified is its message."""
  start = time.monotonic()
  jax.config.update("jax_enable_x64", rule.x64)
  try:
    f, (args, kwargs) = function_of(rule), drawn(rule)
    options = {"level": level, "seconds": seconds, **rule.options}
    if kwargs:
      options["kwargs"] = kwargs
    own = options.pop("verify", "jvp" if isinstance(f, jax.custom_jvp) else "vjp")
    report = (jvp if own == "jvp" else vjp)(f, *args, **options)
  except UnusableError as error:
    return {"verdict": "unusable", "message": str(error), "seconds": time.monotonic() - start}
  except Exception as error:
    traceback.print_exc()
    said = f"{type(error).__name__}: {error}"
    return {"verdict": "error", "message": said[:500], "seconds": time.monotonic() - start}
  if report.verdict != "pass":
    print(report.table(), file=sys.stderr)
  row = {"verdict": report.verdict, "seconds": time.monotonic() - start, **first_of(report)}
  if report.verdict in ("fail", "oracle fault"):
    row["differences"] = compared(f, args, kwargs, rule.options)
  return row


def first_of(report: Report) -> dict[str, Any]:
  """Return what is kept of a report: its options, points and first finding."""
  kept: dict[str, Any] = {"level": report.level, "points": len(report.regimes)}
  findings = [f for f in report.findings if f.kind != "note"]
  if findings:
    first = findings[0]
    kept["finding"] = {
      name: getattr(first, name)
      for name in ("kind", "check", "regime", "leaf", "index", "got", "want", "cause", "message")
    }
    kept["finding"] = {k: plain(v) for k, v in kept["finding"].items() if v not in (None, "")}
    kept["findings"] = len(findings)
  kept["not_checked"] = [text for text in report.not_checked if "time" in text]
  return kept


def plain(value: Any) -> Any:
  """Return a value that JSON has."""
  if isinstance(value, tuple):
    return [int(entry) for entry in value]
  return value if isinstance(value, str) else float(repr(float(value)))


if __name__ == "__main__":
  main(sys.argv[1:])
