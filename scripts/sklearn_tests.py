"""Runs scikit-learn's own tests of its perceptrons on ours: test_mlp.py of the installed package.

  python scripts/sklearn_tests.py
  python scripts/sklearn_tests.py --json FILE     also write the outcome of each case
  python scripts/sklearn_tests.py --markdown      print the table of docs/sklearn.md
  python scripts/sklearn_tests.py -k WORD         of pytest: the cases with this word

The classes are swapped before the tests are imported; nothing of them is copied. The exit status is
0 unless a case fails that isn't among `CANNOT`, or one of these passes. What is not installed, such
as pandas, skips its cases.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from scripts.campaigns import results

# Cases that can't apply, by their function, with the reason.
CANNOT = {
  "test_gradient": "calls `_loss_grad_lbfgs`, a private method, with buffers for its layers; our"
  " gradient is compared with finite differences and `jax.grad` by the laws of the rules",
  "test_predict_proba_multilabel": "asserts that the largest log p is where the largest p is, of"
  " several that round to 1; our logarithms are below 0 there, and tell them apart",
}


class Outcomes:
  """A plugin of pytest that records the outcome of each case."""

  def __init__(self) -> None:
    self.of: dict[str, tuple[str, str]] = {}

  def pytest_runtest_logreport(self, report: Any) -> None:
    """Record the call, or what went wrong before or after it."""
    name = report.nodeid.rpartition("::")[2]
    if report.when == "call" or report.outcome != "passed":
      # Of a skipped case it is (file, line, reason).
      said = report.longrepr[-1] if report.skipped else str(report.longrepr or "")
      said = "" if report.outcome == "passed" else said.strip().splitlines()[-1]
      self.of[name] = (report.outcome, said)


def run(word: str = "") -> dict[str, tuple[str, str]]:
  """Run the tests of the installed package, with the word in their names, on our classes."""
  import sklearn.neural_network

  import fbackprop.sklearn as ours

  for name in ("MLPClassifier", "MLPRegressor"):
    setattr(sklearn.neural_network, name, getattr(ours, name))
  found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
  assert found is not None
  assert found.origin is not None
  outcomes = Outcomes()
  with tempfile.TemporaryDirectory() as folder:
    options = ["-c", str(Path(folder, "none.ini")), "--rootdir", folder, "-p", "no:cacheprovider"]
    Path(folder, "none.ini").write_text("[pytest]\n", encoding="utf-8")
    pytest.main([found.origin, "-q", "--no-header", "-k", word, *options], plugins=[outcomes])
  return outcomes.of


def main(arguments: list[str] | None = None) -> int:
  """Run the script."""
  parser = results.parser_of(__doc__)
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes to a file")
  parser.add_argument(
    "--markdown", action="store_true", help="print the table of the documentation"
  )
  parser.add_argument("-k", dest="word", default="", help="only the cases with this word")
  options = parser.parse_args(arguments)
  import sklearn

  outcomes = run(options.word)
  passed = [name for name, (outcome, _) in outcomes.items() if outcome == "passed"]
  others = {name: said for name, (outcome, said) in outcomes.items() if outcome != "passed"}
  failed = [name for name in others if outcomes[name][0] == "failed"]
  wrong = [name for name in failed if name.partition("[")[0] not in CANNOT]
  wrong += [name for name in passed if name in CANNOT]
  share = f"{len(passed)} of {len(outcomes)} cases pass"
  print(f"\nscikit-learn {sklearn.__version__}: {share}, {len(passed) / len(outcomes):.1%}")
  if options.markdown:
    print("\n| case | why it can't apply |\n|---|---|")
  for name, said in others.items():
    is_failed = name in failed
    reason = CANNOT.get(name.partition("[")[0], f"{'FAILED: ' * is_failed}{said}")
    print(f"| `{name}` | {reason} |" if options.markdown else f"{name}: {reason}")
  if options.json:
    table = {"version": sklearn.__version__, "collected": len(outcomes), "passed": sorted(passed)}
    reasons = {name: CANNOT.get(name.partition("[")[0], said) for name, said in others.items()}
    results.write(options.json, {**table, "others": reasons})
  return 1 if wrong or not outcomes else 0


if __name__ == "__main__":
  sys.exit(main())
