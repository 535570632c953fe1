"""The results of scripts/mutants.py as a file: a mutant is its hash, and its report a few words.

An edit of a rule is made again from the rule's source by its hash, so that neither is kept; only
that of a mutant that wasn't caught is, for the page. Mutants are grouped by rule, operator and
wrong leaves, and reports by what they say.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fbackprop.files import write_whole
from scripts.campaigns.mutants.scoring import Score
from scripts.campaigns.mutants.selection import Mutant

LEVELS = ("quick", "standard")
LEAVES = {True: "right leaf", False: "other leaf", None: "no leaf"}


class Records(NamedTuple):
  """What was found.

  Attributes:
    rules: by the rule's name its mode, its number of points, what its other edits are.
    mutants: all mutants.
    quick, standard: the scores by the mutant's hash.
    missed: by hash, the lines of a mutant that wasn't caught, before and after.
    variants: by the rule's name the verdicts on its other spellings.
  """

  rules: dict[str, dict[str, Any]]
  mutants: list[Mutant]
  quick: dict[str, Score]
  standard: dict[str, Score]
  missed: dict[str, tuple[str, str]]
  variants: dict[str, list[Any]]

  def scores(self, level: str) -> dict[str, Score]:
    """Return the scores of a level."""
    found: dict[str, Score] = getattr(self, level)
    return found


def empty() -> Records:
  """Return records of nothing."""
  return Records({}, [], {}, {}, {}, {})


def read(file: Path) -> Records:
  """Read the records of an earlier run, if there are any."""
  if not file.exists():
    return empty()
  found = json.loads(file.read_text(encoding="utf-8"))
  mutants = [
    Mutant(name, operator, digits, tuple(leaves.split(", ")))
    for name, rule in found["rules"].items()
    for operator, groups in rule["mutants"].items()
    for leaves, hashes in groups.items()
    for digits in hashes.split()
  ]
  rules = {
    name: {key: value for key, value in rule.items() if key != "mutants"}
    for name, rule in found["rules"].items()
  }
  missed = {digits: tuple(lines) for digits, lines in found["missed"].items()}
  quick, standard = (unpacked(found[level]) for level in LEVELS)
  return Records(rules, mutants, quick, standard, missed, found["variants"])


def write(file: Path, own: Records) -> None:
  """Write the records, wholly or not at all: a run may be stopped at any time."""
  rules: dict[str, Any] = {name: {**rule, "mutants": {}} for name, rule in own.rules.items()}
  for one in sorted(own.mutants, key=lambda m: m.hash):
    groups = rules[one.rule]["mutants"].setdefault(one.operator, {})
    leaves = ", ".join(one.leaves)
    groups[leaves] = f"{groups.get(leaves, '')} {one.hash}".strip()
  table = {
    "environment": {"jax": jax.__version__, "backend": jax.default_backend()},
    "rules": rules,
    **{level: packed(own.scores(level)) for level in LEVELS},
    "missed": own.missed, "variants": own.variants,
  }  # fmt: skip
  write_whole(file, (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode())


def packed(scores: dict[str, Score]) -> dict[str, str]:
  """Return the hashes of the mutants of each score: "verdict; leaf; cause"."""
  found: dict[str, str] = {}
  for digits, own in sorted(scores.items()):
    words = [own.verdict, LEAVES[own.is_leaf_right], own.cause]
    key = "; ".join([*words, "one edit"] if own.is_one_edit else words)
    found[key] = f"{found.get(key, '')} {digits}".strip()
  return dict(sorted(found.items()))


def unpacked(groups: dict[str, str]) -> dict[str, Score]:
  """Return the scores by hash again."""
  leaves = {word: is_right for is_right, word in LEAVES.items()}
  found = {}
  for key, hashes in groups.items():
    verdict, leaf, cause, *edit = key.split("; ")
    own = Score(verdict, leaves[leaf], cause, bool(edit))
    found.update(dict.fromkeys(hashes.split(), own))
  return found
