"""Rules that are wrong by one edit of a right rule's source: how many does `verify` catch?

  python scripts/mutants.py --generate              makes the mutants of rules that have none yet
  python scripts/mutants.py                         verifies the open half at "quick"
  python scripts/mutants.py --half held             the held half; once, at the end
  python scripts/mutants.py --level standard        those of the half among the first 1,000 by hash
  python scripts/mutants.py --variants              right rules in other words, of which all pass
  python scripts/mutants.py --page                  writes docs/mutants.md

Any of them goes on where it stopped; `--minutes 14` ends it after so many, `--rules jax/` takes the
rules whose name contains that. The right rules are those of this library and its bank, of JAX, and
of packages that are there: optax, jaxopt 0.8.5 and lineax 0.1.1, which `pip install --target` puts
into a folder of their own. What was found is in experiments/results/mutants.json.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fbackprop.files import write_whole
from scripts.campaigns import results
from scripts.campaigns.mutants import page, records, variants
from scripts.campaigns.mutants.fairness import yardstick
from scripts.campaigns.mutants.records import Records
from scripts.campaigns.mutants.rules import all_rules
from scripts.campaigns.mutants.scoring import Score, score
from scripts.campaigns.mutants.selection import Mutant, candidates, counted, mutants_of
from scripts.campaigns.mutants.sources import difference, tree_of
from scripts.campaigns.mutants.variants import report_on

RESULTS = results.RESULTS / "mutants.json"
PAGE = results.RESULTS.parents[1] / "docs" / "mutants.md"
STANDARD = 1000
CHUNK = 20
# A mutant's time; the report then has what is known by then.
SECONDS = {"quick": 60.0, "standard": 300.0}


def main(arguments: list[str] | None = None) -> int:
  """Do what is asked for and isn't done yet."""
  parser = results.parser_of(__doc__)
  parser.add_argument("--generate", action="store_true")
  parser.add_argument("--variants", action="store_true")
  parser.add_argument("--page", action="store_true")
  parser.add_argument("--half", choices=("open", "held"), default="open")
  parser.add_argument("--level", choices=("quick", "standard"), default="quick")
  parser.add_argument("--minutes", type=float, default=float("inf"))
  parser.add_argument("--rules", default="")
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
  options = parser.parse_args(arguments)
  found = records.read(options.json)
  if options.page:
    write_whole(PAGE, page.page(found).encode())
    return 0
  if options.generate:
    work(generated, missing_rules(found, options.rules), put_rule, found, options)
  elif options.variants:
    names = [n for n in all_rules() if n not in found.variants and options.rules in n]
    work(variants.verified_variants, names, put_variants, found, options)
  else:
    work(scored, missing_chunks(found, options), put_scores(options.level), found, options)
  for name, value in page.totals(found).items():
    print(f"{name:<44}{value}")
  return 0


def work(
  task: Callable[[Any], Any], tasks: list[Any], put: Callable[[Any, Any], None], found: Any,
  options: Any,
) -> None:  # fmt: skip
  """Run tasks beside this process, and write what each gave before the next one is taken."""
  until = time.monotonic() + 60 * options.minutes
  # JAX keeps its compiled programs in memory, so a process ends after some tasks.
  with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=16) as pool:
    for i, result in enumerate(pool.imap_unordered(task, tasks)):
      put(found, result)
      records.write(options.json, found)
      print(f"{i + 1} of {len(tasks)}", page.line(found), flush=True)
      if time.monotonic() > until:
        pool.terminate()
        return


# --- Mutants --------------------------------------------------------------------------------------


def missing_rules(found: Records, part: str) -> list[str]:
  """Return the names of the rules without mutants yet."""
  return [name for name in all_rules() if name not in found.rules and part in name]


def generated(name: str) -> tuple[str, dict[str, Any], list[Mutant]]:
  """Return a rule's name, what its other edits are, and its mutants."""
  results.keep_compiled("mutants")
  rule = all_rules()[name]
  try:
    by = yardstick(rule)
  except Exception as error:  # Its arguments aren't of the kind that the generator knows.
    return name, {"others": {}, "points": 0, "error": str(error)[:80]}, []
  mutants, others = mutants_of(rule, by) if by.points else ([], {})
  return name, {"mode": rule.mode, "points": len(by.points), "others": dict(others)}, mutants


def put_rule(found: Records, result: tuple[str, dict[str, Any], list[Mutant]]) -> None:
  """Keep a rule's mutants."""
  name, rule, mutants = result
  found.rules[name] = rule
  found.mutants.extend(mutants)


# --- Reports --------------------------------------------------------------------------------------


def missing_chunks(found: Records, options: Any) -> list[tuple[str, str, list[Mutant]]]:
  """Return chunks of mutants of one rule that have no report yet, the first by hash first."""
  chosen = counted(found.mutants)
  if options.level == "standard":
    chosen = chosen[:STANDARD]
  done = found.scores(options.level)
  wanted = [
    one
    for one in chosen
    if one.half == options.half and one.hash not in done and options.rules in one.rule
  ]
  chunks: dict[tuple[int, str], list[Mutant]] = {}
  # Chunks of one rule share what is compiled; their order is that of the hashes, so that what
  # is done after some time is a fair sample.
  for i, one in enumerate(wanted):
    chunks.setdefault((i // (len(wanted) // 4 + 1), one.rule), []).append(one)
  return [
    (rule, options.level, group[k : k + CHUNK])
    for (_, rule), group in chunks.items()
    for k in range(0, len(group), CHUNK)
  ]


def scored(task: tuple[str, str, list[Mutant]]) -> list[tuple[str, Score, tuple[str, str]]]:
  """Return for some mutants of a rule the hash, the score, and the lines that differ."""
  results.keep_compiled("mutants")
  name, level, mutants = task
  rule = all_rules()[name]
  made = {one.hash: one for one in candidates(rule)}
  found = []
  for one in mutants:
    example = rule.build(made[one.hash].function)
    example = example._replace(options={"seconds": SECONDS[level], **example.options})
    try:
      own = score(one, report_on(rule, example, level))
    except Exception as error:
      own = Score("error", cause=f"{type(error).__name__}: {str(error)[:80]}")
    found.append((one.hash, own, difference(tree_of(rule.function), made[one.hash].tree)))
  return found


def put_scores(level: str) -> Callable[[Records, Any], None]:
  """Return what keeps the scores of a level."""

  def put(found: Records, result: list[tuple[str, Score, tuple[str, str]]]) -> None:
    for digits, own, lines in result:
      found.scores(level)[digits] = own
      if own.verdict != "fail":
        found.missed[digits] = lines

  return put


def put_variants(found: Records, result: tuple[str, list[Any]]) -> None:
  """Keep the verdicts on a rule's other spellings."""
  found.variants[result[0]] = result[1]


if __name__ == "__main__":
  sys.exit(main())
