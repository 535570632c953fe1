"""docs/mutants.md and the totals, from the results of scripts/mutants.py."""

from collections import Counter, defaultdict
from typing import Any

from fbackprop.verify.self_test import share
from scripts.campaigns.mutants.operators import EDITS
from scripts.campaigns.mutants.records import Records
from scripts.campaigns.mutants.scoring import Score, worth
from scripts.campaigns.mutants.selection import Mutant, counted

Scored = list[tuple[Mutant, Score]]
MOST_SURVIVORS = 40


def scored_in(found: Records, level: str, half: str = "") -> Scored:
  """Return the mutants that have a report at a level, of one half or of both."""
  own = found.scores(level)
  return [
    (one, own[one.hash])
    for one in counted(found.mutants)
    if one.hash in own and half in ("", one.half)
  ]


def totals(found: Records) -> dict[str, Any]:
  """Return the figures, as they are printed."""
  mutants = counted(found.mutants)
  others: Counter[str] = Counter()
  for rule in found.rules.values():
    others.update(rule["others"])
  with_mutants = {one.rule for one in mutants}
  rows: dict[str, Any] = {
    "right rules": len(with_mutants),
    "of them public": sum(is_public(name) for name in with_mutants),
    "of them in forward mode": sum(found.rules[n]["mode"] == "jvp" for n in with_mutants),
    "mutants": len(mutants),
    "beyond an operator's share": len(found.mutants) - len(mutants),
    "edits that don't count": ", ".join(f"{n} {kind}" for kind, n in sorted(others.items())),
  }
  for level in ("quick", "standard"):
    for half in ("open", "held"):
      if chosen := scored_in(found, level, half):
        rows |= {f"{level}, {half}: {k}": v for k, v in figures(chosen).items()}
  verdicts = Counter(row[3] for rows in found.variants.values() for row in rows)
  if verdicts:
    rows["right variants"] = ", ".join(f"{n} {kind}" for kind, n in verdicts.most_common())
  return rows


def is_public(rule: str) -> bool:
  """Return whether a rule is of another library."""
  return rule.partition("/")[0] not in ("bank", "gates", "layers", "models")


def figures(chosen: Scored) -> dict[str, str]:
  """Return the shares of some scored mutants."""
  caught = [(one, own) for one, own in chosen if own.verdict == "fail"]
  worths = Counter(worth(one, own) for one, own in caught)
  by_edits = sum(own.is_one_edit and worth(one, own) == "useful" for one, own in caught)
  leaves = [own.is_leaf_right for _, own in caught if own.is_leaf_right is not None]
  return {
    "caught": share(len(caught), len(chosen)),
    "first leaf right": share(sum(leaves), len(leaves)),
    "useful cause": share(worths["useful"], len(caught)),
    "useful without edits of the rule": share(worths["useful"] - by_edits, len(caught)),
    "misleading cause": share(worths["misleading"], len(caught)),
  }


def line(found: Records) -> str:
  """Return a line of progress."""
  own = scored_in(found, "quick") + scored_in(found, "standard")
  caught = sum(score.verdict == "fail" for _, score in own)
  variants = Counter(row[3] for rows in found.variants.values() for row in rows)
  return f"  {len(found.mutants)} mutants, caught {share(caught, len(own))} {dict(variants)}"


def page(found: Records) -> str:
  """Return docs/mutants.md."""
  rows = "\n".join(f"| {name} | {value} |" for name, value in totals(found).items())
  parts = [
    INTRODUCTION,
    f"| figure | value |\n|---|---|\n{rows}",
    "## By operator",
    by_operator(found),
  ]
  parts += ["## By group of rules", by_group(found), "## What is missed", survivors(found)]
  return "\n\n".join(parts) + "\n"


def by_operator(found: Records) -> str:
  """Return a table of the operators."""
  table = defaultdict(list)
  for one, own in scored_in(found, "quick"):
    table[one.operator].append((one, own))
  counts = Counter(one.operator for one in counted(found.mutants))
  head = (
    "| operator | mutants | caught at quick | first leaf | useful | without edits | misleading |\n"
    + "|---" * 7
  )
  lines = [head + "|"]
  for operator in EDITS:
    cells = figures(table[operator]).values() if table[operator] else [""] * 5
    lines.append(f"| {operator} | {counts[operator]} | {' | '.join(cells)} |")
  return "\n".join(lines)


def by_group(found: Records) -> str:
  """Return a table of the groups of rules."""
  table = defaultdict(list)
  for one, own in scored_in(found, "quick"):
    table[one.rule.partition("/")[0]].append((one, own))
  lines = [
    "| rules | caught at quick | first leaf | useful | without edits | misleading |\n"
    + "|---" * 6
    + "|"
  ]
  for group, chosen in table.items():
    lines.append(f"| {group} | {' | '.join(figures(chosen).values())} |")
  return "\n".join(lines)


def survivors(found: Records) -> str:
  """Return the mutants that aren't caught, by operator and rule."""
  missed = [
    (one, own)
    for level in ("standard", "quick")
    for one, own in scored_in(found, level)
    if own.verdict != "fail"
  ]
  lines = ["| rule | operator | half | it was | and is | verdict |", "|---|---|---|---|---|---|"]
  for one, own in sorted(missed, key=lambda pair: pair[0][1::-1])[:MOST_SURVIVORS]:
    was, now = found.missed.get(one.hash, ("", ""))
    cells = (one.rule, one.operator, one.half, code(was), code(now), own.verdict)
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def code(text: str) -> str:
  """Return a line of source as a cell of a table."""
  return "`" + text.replace("|", "\\|") + "`" if text else ""


INTRODUCTION = """# Mutants

How strong is `fbackprop.verify` on rules that its authors didn't write wrong? `scripts/mutants.py`
edits right rules mechanically: one change of the source, as a sign, an axis, a term left out, `set`
for `add`. The rules are those of the verifier's bank, of the gates and layers, and public ones of
JAX, optax, jaxopt and lineax, read where they are installed.

An edit counts if it runs, keeps shapes and dtypes, and changes a leaf by more than 1e-9 of its
largest entry, in float64, at a point where the right rule is the derivative. The points are drawn
by a generator that shares no code with the verifier. The same program counts once, and no operator
makes more than 15 % of the mutants. Half of them, by hash, were held back and run once, at the end;
theirs is the figure to quote. The open half was looked at while the verifier was improved.

A cause is useful if the operator may have that kind, misleading if it is another kind; "no known
pattern" is neither. The table of these kinds was widened once, after the first 1,145 reports, for
edits that do literally what was said, such as examples left out by a term that was dropped from a
loop's sum; by the first table 1.5 % of them were misleading. A mutant is one edit of a source, and
the last of the verifier's searches for a cause tries one edit of the traced program, which may undo
it. It doesn't know these operators, but they favour it: "useful without edits of the rule" counts
what it found as no cause."""
