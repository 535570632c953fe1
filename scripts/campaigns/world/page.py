"""docs/world.md, generated from the results of scripts/verify_world.py."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from scripts.campaigns.trust_page import table, wrapped
from scripts.campaigns.world.rule import Rule

ANSWERS = ("pass", "fail", "oracle fault")
# What is no answer is told apart on the page, and counted together.
OTHERS = {"killed": "out of time", "crash": "crash", "error": "raises", "unusable": "unusable"}


def page(found: dict[str, Any], rules: Sequence[Rule]) -> str:
  """Return the page."""
  rows = [(rule, found["rules"][rule.key]) for rule in rules if rule.key in found["rules"]]
  missing = len(rules) - len(rows)
  blocks = [*introduction(found, rows, missing), *totals(rows), *failures(rows), *all_rules(rows)]
  return "\n\n".join(map(wrapped, blocks)) + "\n"


def introduction(found: dict[str, Any], rows: Sequence[Any], missing: int) -> list[str]:
  """Return what the page shows, and how it is made."""
  made = found.get("made", {})
  left = f" {missing} rules are not verified yet." if missing else ""
  return [
    "# Other people's rules",
    "The hand-written derivative rules of public packages, as `fb.verify` finds them: each at "
    "arguments that suit it, and at the test points of its level. Made by "
    "`python scripts/verify_world.py` and `--page`; the cases are in `scripts/campaigns/world`, "
    "the numbers in `experiments/results/world.json`.",
    f"Verified with jax {made.get('jax')} and numpy {made.get('numpy')} on {made.get('machine')}, "
    f"{made.get('date')}.{left} A failure is no verdict on a package: some rules are meant to "
    "differ from their function's derivative, and say so; the note tells which.",
  ]


def totals(rows: Sequence[tuple[Rule, dict[str, Any]]]) -> list[str]:
  """Return how many rules passed, failed, or had no answer."""
  verdicts = Counter(row["verdict"] for _, row in rows)
  packages = {rule.package for rule, _ in rows}
  answered = sum(verdicts[verdict] for verdict in ANSWERS)
  seconds = sorted(row["seconds"] for _, row in rows)
  counts = [[verdict, str(count)] for verdict, count in verdicts.most_common()]
  return [
    "## Totals",
    f"{len(rows)} rules of {len(packages)} packages; {answered} have an answer "
    f"({math.floor(1000 * answered / max(1, len(rows))) / 10:.1f} %). A rule takes "
    f"{seconds[len(seconds) // 2]:.0f} s in the middle, imports and compilation included.",
    table(("verdict", "rules"), counts),
  ]


def failures(rows: Sequence[tuple[Rule, dict[str, Any]]]) -> list[str]:
  """Return what is wrong with each rule that fails, and how that was confirmed."""
  failed = [(rule, row) for rule, row in rows if row["verdict"] in ("fail", "oracle fault")]
  shown = [
    f"- {titled(rule)}: {figures(row)}{confirmation(row)} {rule.note}".rstrip() + alone(rule)
    for rule, row in failed
  ]
  return ["## Failures", "\n".join(shown)] if shown else []


def alone(rule: Rule) -> str:
  """Return the link to the script that shows a failure without this library."""
  return f" [Without fbackprop](../findings/{rule.finding}.sh)." if rule.finding else ""


def figures(row: dict[str, Any]) -> str:
  """Return a failure's leaf, and the rule's number beside the right one, or its message."""
  first = row.get("finding", {})
  if "got" not in first:
    return first.get("message", "").rstrip(".") + "."
  place = f"`{first['leaf']}`" + (f" at {first['index']}" if first.get("index") else "")
  return f"{place} is {first['got']:.6g}, the slope {first['want']:.6g} ({first['regime']})."


def confirmation(row: dict[str, Any]) -> str:
  """Return what central differences say, with none of this library's code."""
  seen = row.get("differences", {})
  if "error" in seen or not seen:
    return ""
  if "plain" in seen:
    return (
      f" The function gives {seen['plain']:.6g}, and differentiated {seen['differentiated']:.6g}."
    )
  if seen["error_of_rule"] < 1e-6:
    return " At these arguments central differences agree with the rule."
  return (
    f" Central differences, at another cotangent: {seen['slope']:.6g} where the rule has "
    f"{seen['rule']:.6g}."
  )


def all_rules(rows: Sequence[tuple[Rule, dict[str, Any]]]) -> list[str]:
  """Return the table of all rules."""
  cells: Iterable[list[str]] = (
    [*rule.package.split("=="), f"`{short(rule)}`".replace("|", "\\|"),
     OTHERS.get(row["verdict"], row["verdict"]), f"{row['seconds']:.0f}", note_of(rule, row)]
    for rule, row in rows
  )  # fmt: skip
  return ["## Rules", table(("package", "version", "rule", "verdict", "seconds", "note"), cells)]


def note_of(rule: Rule, row: dict[str, Any]) -> str:
  """Return the note of a rule that doesn't fail, whose note is above."""
  if row["verdict"] in ANSWERS[1:]:
    return "see above"
  reason = row.get("message") or row.get("finding", {}).get("message", "")
  shown = rule.note if row["verdict"] == "pass" else reason.splitlines()[0][:120] if reason else ""
  return shown.replace("|", "\\|")


def titled(rule: Rule) -> str:
  """Return a rule's name with its package."""
  return f"**{rule.package.partition('==')[0]}** `{short(rule)}`"


def short(rule: Rule) -> str:
  """Return a rule's name, without the path of its modules."""
  if rule.name:
    return rule.name.rpartition(":")[2]
  return rule.path.rpartition(":")[2]
