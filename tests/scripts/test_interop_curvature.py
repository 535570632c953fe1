"""Curvature beside other packages': the conversions, their power to fail, and what is published.

None of the packages is needed: they are played by ours, put into each one's conventions.
"""

import jax
import numpy as np
import pytest

from scripts.interop import curvature
from scripts.interop import curvature_comparisons as compared
from scripts.interop.curvature_comparisons import COMPARISONS, LAYERS, PACKAGES, PLANTS, Measured
from scripts.interop.problems import WIDTHS

CHOSEN = curvature.CHOSEN
MADE = curvature.results.read(curvature.RESULT, {})


def transposed_pairs(tree, problem):
  size = len(tree) // LAYERS
  layers = [tree[i : i + size] for i in range(0, len(tree), size)]
  return [leaf for a, g, *bias in layers for leaf in (g, a, *bias)]


def bias_to_front(tree, problem):
  return [np.roll(m, (d, d), (0, 1)) if problem.bias else m
          for m, d in zip(tree, WIDTHS[1:], strict=True)]  # fmt: skip


PLAYED = {
  "W [D_out, D_in]": compared.transpose_weights,
  "G before A": transposed_pairs,
  "b before w": compared.swap_names,
  "b first": bias_to_front,
  "flat": lambda tree, problem: [np.concatenate([leaf.ravel() for leaf in tree])],
}
"""The ways back to the layouts."""


def play(comparison, problem, ours):
  factor = compared.FACTORS[comparison.factor(problem.loss)](problem.n)
  tree, size = ours[comparison.ours], max(1, len(ours[comparison.ours]) // LAYERS)
  tree = [leaf if comparison.of_g and i % size == 0 else leaf / factor
          for i, leaf in enumerate(tree)]  # fmt: skip
  for name in comparison.layouts:
    tree = PLAYED[name](tree, problem)
  return tree


@pytest.fixture(scope="module")
def measured():
  with jax.enable_x64(True):
    problem = CHOSEN[1]
    ours = compared.ours_of(curvature.given_of(problem))
  theirs = {
    (own.package, own.theirs): play(own, problem, ours)
    for own in COMPARISONS if own.factor(problem.loss)
  }  # fmt: skip
  return [Measured(problem, ours, theirs)]


def test_conventions_are_converted_into_ours(measured):
  rows = compared.make_rows(COMPARISONS, measured)
  assert len(rows) == len(COMPARISONS) - 3  # Damping is compared for one of the losses.
  assert [row for row in rows if not row["ok"]] == []


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_convention_is_found_in_every_row_that_it_changes(measured, plant):
  changed = [row for row in compared.make_rows(COMPARISONS, measured, plant) if row["changed"]]
  assert changed
  assert not any(row["ok"] for row in changed)
  told = compared.control(COMPARISONS, measured)[plant]
  assert (told["rows"], told["found"]) == (len(changed), len(changed))


def test_one_wrong_digit_of_ours_is_found(measured):
  ((problem, ours, theirs),) = measured
  wrong = {name: [leaf * (1 + 2e-12) for leaf in tree] for name, tree in ours.items()}
  rows = compared.make_rows(COMPARISONS, [Measured(problem, wrong, theirs)])
  assert all(row["is_drawn"] for row in rows if row["ok"])
  assert sum(row["ok"] for row in rows) == sum(own.is_drawn for own in COMPARISONS)


def test_a_small_array_does_not_hide_behind_a_large_one():
  large, small = np.array([1e6]), np.array([1.0])
  assert compared.distance([large, small], [large, small * 2]) == 0.5
  assert compared.distance([large], [large, small]) == np.inf


def test_a_package_that_is_not_there_is_named_and_fails(measured, monkeypatch, capsys):
  monkeypatch.setattr(curvature, "measure", lambda *_: ({}, measured))
  assert curvature.main([]) == 1
  said = capsys.readouterr().out
  assert all(f"{package}: not installed" in said for package in PACKAGES)


def test_the_whole_script_passes_and_fails_with_a_plant(measured, monkeypatch, capsys):
  monkeypatch.setattr(curvature, "measure", lambda *_: (dict.fromkeys(PACKAGES, "0"), measured))
  monkeypatch.setattr(curvature, "COMPARISONS", [c for c in COMPARISONS if c.squared])
  assert curvature.main([]) == 0
  assert curvature.main(["--plant", "factor"]) == 1
  assert "✗" in capsys.readouterr().out
  with pytest.raises(SystemExit):
    curvature.main(["--plant", "factor", "--write"])


# --- What is published ----------------------------------------------------------------------------


def test_every_comparison_and_problem_is_in_the_committed_results():
  rows = {(r["package"], r["theirs"], r["problem"]) for r in MADE["rows"]}
  wanted = {(own.package, own.theirs, problem.name) for own in COMPARISONS for problem in CHOSEN
            if own.factor(problem.loss)}  # fmt: skip
  assert (rows, len(MADE["rows"])) == (wanted, len(wanted))
  exact = [row for row in MADE["rows"] if not row["is_drawn"]]
  assert all(0 <= row["error"] <= row["threshold"] == 1e-12 for row in exact)
  assert all(0 < row["error"] <= row["threshold"] < 0.3 for row in MADE["rows"] if row["is_drawn"])
  assert set(MADE["control"]) == set(PLANTS)
  for told in MADE["control"].values():
    assert 0 < told["rows"] == told["found"]


def test_the_versions_are_those_that_the_script_installs():
  lines = (curvature.PAGE.parents[1] / "scripts" / "interop" / "kfac_jax.txt").read_text()
  assert f"kfac-jax=={MADE['versions']['kfac-jax']}\n" in lines
  assert set(MADE["versions"]) == set(PACKAGES)


def test_the_page_has_the_table_of_the_committed_results():
  text = curvature.PAGE.read_text(encoding="utf-8")
  assert curvature.with_table(text, MADE) == text
  worse = {**MADE, "rows": [{**row, "error": 0.5, "is_drawn": False} for row in MADE["rows"]]}
  assert "| 5e-01 |" in curvature.with_table(text, worse)
