"""Which mutants there are: the wrong edits of each rule, once each, and no operator too often.

A mutant's hash is that of its source and its rule's name. By it the mutants are split into halves:
the open one is looked at while the verifier is improved, the held one is run once, at the end. Of
each rule and operator, the first few edits by hash are tried; of an operator that makes more than
its share of all mutants, the first by hash count.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scripts.campaigns.mutants.fairness import Yardstick, wrong_leaves
from scripts.campaigns.mutants.operators import EDITS
from scripts.campaigns.mutants.rules import Rule
from scripts.campaigns.mutants.sources import (
  Definition,
  Function,
  compiled,
  signature,
  tree_of,
)
from scripts.campaigns.mutants.syntax import Operator, edits

MOST_SHARE = 0.15
# The most edits of a rule that are tried with one operator.
MOST_EACH = 10


class Mutant(NamedTuple):
  """A wrong rule.

  Attributes:
    rule: the name of the right one.
    operator: the operator that made it.
    hash: twelve hexadecimal digits.
    leaves: the leaves that are wrong, at the first point where any is.
  """

  rule: str
  operator: str
  hash: str
  leaves: tuple[str, ...]

  @property
  def half(self) -> str:
    """The half that it belongs to, "open" or "held"."""
    return half_of(self.hash)


class Candidate(NamedTuple):
  """An edit that compiles to another program than the rule."""

  operator: str
  tree: Definition
  function: Function
  hash: str


def half_of(digits: str) -> str:
  """Return the half of a hash, "open" or "held"."""
  return "held" if int(digits, 16) % 2 else "open"


def hash_of(rule: str, tree: Definition) -> str:
  """Return the hash of an edited source."""
  return hashlib.sha256(f"{rule}\n{ast.unparse(tree)}".encode()).hexdigest()[:12]


def candidates(
  rule: Rule, table: dict[str, Operator] = EDITS, most: int = MOST_EACH
) -> Iterator[Candidate]:
  """Yield the edits of a rule that are programs of their own, by operator and hash."""
  tree = tree_of(rule.function)
  seen = {signature(compiled(rule.function, tree))}
  has_numpy = "jnp" in rule.function.__globals__
  for operator in table:
    own = []
    for edit in edits(tree, {operator: table[operator]}, has_numpy):
      try:
        function = compiled(rule.function, edit.tree)
      except (SyntaxError, ValueError):
        continue
      if (program := signature(function)) not in seen:
        seen.add(program)
        own.append(Candidate(operator, edit.tree, function, hash_of(rule.name, edit.tree)))
    yield from sorted(own, key=lambda c: c.hash)[:most]


def mutants_of(rule: Rule, by: Yardstick) -> tuple[list[Mutant], Counter[str]]:
  """Return the mutants of a rule, and how many edits were unfair or equivalent."""
  found, others = [], Counter[str]()
  for one in candidates(rule):
    leaves = wrong_leaves(rule, one.function, by)
    if leaves:
      found.append(Mutant(rule.name, one.operator, one.hash, leaves))
    else:
      others["unfair" if leaves is None else "equivalent"] += 1
  return found, others


def counted(mutants: Iterable[Mutant], share: float = MOST_SHARE) -> list[Mutant]:
  """Return the mutants without those beyond an operator's share, the first by hash.

  The largest operator is cut until it has its share of what is left.
  """
  groups: dict[str, list[Mutant]] = {}
  for one in sorted(mutants, key=lambda m: m.hash):
    groups.setdefault(one.operator, []).append(one)
  limit = largest_limit([len(g) for g in groups.values()], share)
  return sorted((m for g in groups.values() for m in g[:limit]), key=lambda m: m.hash)


def largest_limit(sizes: list[int], share: float) -> int:
  """Return the largest limit of groups at which none has more than its share."""
  for limit in range(max(sizes, default=0), 0, -1):
    cut = [min(size, limit) for size in sizes]
    if max(cut) <= share * sum(cut):
      return limit
  return max(sizes, default=0)  # There are fewer groups than shares.
