"""`bench.py estimator`: its rows, its refusal of unequal fits, and the page's figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmarks import estimator

ROOT = Path(__file__).parents[2]


class Fit:
  """An estimator that makes a number of epochs, and takes seconds of a clock of its own."""

  def __init__(self, seconds, epochs=7, score=0.9):
    self.seconds, self.n_iter_, self.accuracy, self.arguments = seconds, epochs, score, []

  def __call__(self, **arguments):
    self.arguments.append(arguments)
    return self

  def fit(self, x, y):
    assert len(x) == len(y)
    Fit.now += self.seconds
    return self

  def score(self, x, y):
    return self.accuracy


@pytest.fixture
def clock(monkeypatch):
  """The sizes of a small table, and a clock that only fits move."""
  Fit.now = 0.0
  monkeypatch.setattr(estimator.time, "perf_counter", lambda: Fit.now)
  monkeypatch.setattr(estimator, "TABLE", (60, 9, 3))
  return monkeypatch


def test_a_row_has_the_ratios_to_the_fit_of_scikit_learn(clock, capsys):
  theirs, ours = Fit(8.0), Fit(2.0)
  clock.setattr(estimator.neural_network, "MLPClassifier", theirs)
  clock.setattr(estimator, "MLPClassifier", ours)
  (row,) = estimator.run(["table"], 3)
  assert (row["seconds"], row["warm"], row["cold"]) == (8.0, 0.25, 0.25)
  assert (row["epochs"], row["rounds"], row["size"]) == (7, 3, "table")
  assert "0.250 (0.250-0.250)" in capsys.readouterr().out
  # Both are given the same arguments, and ours is warmed up once.
  assert {str(a) for a in theirs.arguments} == {str(a) for a in ours.arguments}
  assert len(ours.arguments) == 2 * len(theirs.arguments) + 1


def test_fits_of_different_lengths_are_not_compared(clock):
  clock.setattr(estimator.neural_network, "MLPClassifier", Fit(8.0, epochs=6))
  clock.setattr(estimator, "MLPClassifier", Fit(2.0))
  with pytest.raises(RuntimeError, match=r"different numbers of epochs: \[6, 7\]"):
    estimator.run(["table"], 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_cold_fit_compiles_and_a_warm_one_does_not(monkeypatch):
  """Our own estimator on a small table: the programs of a fit are made anew only when cold."""
  monkeypatch.setattr(estimator, "TABLE", (60, 9, 3))
  monkeypatch.setattr(estimator, "EPOCHS", 2)
  monkeypatch.setattr(estimator.neural_network, "MLPClassifier", Fit(8.0, epochs=2))
  made = []
  monkeypatch.setattr(Fit, "now", 0.0, raising=False)
  cached = estimator.programs.epochs_of

  def in_turns(calls, rounds):
    for call in (calls[1], calls[2]):
      call(0)
      made.append(cached.cache_info().misses)
    return np.ones((rounds, 3))

  monkeypatch.setattr(estimator, "in_turns", in_turns)
  estimator.times("table", 1)
  assert made == [1, 1]  # One miss since the cold fit cleared the counters; none in the warm one.


def test_accuracies_are_compared_seed_by_seed(monkeypatch):
  scores = iter([0.9, 0.8, 0.8, 0.9] * 3)
  monkeypatch.setattr(Fit, "score", lambda self, x, y: next(scores))
  monkeypatch.setattr(Fit, "now", 0.0, raising=False)
  monkeypatch.setattr(estimator, "MLPClassifier", Fit(1.0))
  monkeypatch.setattr(estimator.neural_network, "MLPClassifier", Fit(1.0))
  monkeypatch.setattr(estimator, "SEEDS", range(2))
  rows = estimator.accuracies()
  assert [row["data"] for row in rows] == ["digits", "wine", "breast_cancer"]
  for row in rows:  # Equal in the mean, and apart in each seed.
    np.testing.assert_allclose([row["ours"], row["theirs"], row["largest"]], [0.85, 0.85, 0.1])


def test_the_page_has_the_figures_that_were_committed():
  made = json.loads((ROOT / "experiments" / "results" / "estimator.json").read_text())
  page = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
  for row in made["rows"]:
    if row["size"] == "accuracy":
      assert row["largest"] <= 0.01
      continue
    for name in ("warm", "cold"):
      low, high = row[f"{name}_quartiles"]
      assert f"{row[name]:.2f} ({low:.2f}–{high:.2f})" in page
