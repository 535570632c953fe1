"""The scores of the verifier's bank: every specimen has one, and what differs is found."""

import json

import pytest

from scripts import bank_scores

KEPT = {"verdict": "fail", "leaves": ["w"], "causes": ["constant factor: 2 (match 0e+00)", "maths"]}


def test_the_file_has_a_score_of_every_specimen():
  kept = json.loads(bank_scores.RESULTS.read_text())["scores"]
  assert sorted(kept) == sorted(bank_scores.names())
  assert all(scores.keys() == set(bank_scores.LEVELS) for scores in kept.values())


def test_the_figures_of_a_cause_are_no_difference():
  figures = {**KEPT, "causes": ["constant factor: 2 (match 3e-17)", "maths"]}
  other = {"verdict": "pass", "leaves": [], "causes": []}
  assert bank_scores.differences(KEPT, figures) == []
  assert [line.split()[0] for line in bank_scores.differences(KEPT, other)] == [*KEPT]
  assert bank_scores.differences(None, KEPT) == ["no score in the file"]


@pytest.mark.slow
def test_a_specimen_is_scored_and_held_against_its_score(tmp_path, capsys):
  file = tmp_path / "scores.json"
  command = ["squares-without", "--level", "quick", "--workers", "1", "--json", str(file)]
  assert bank_scores.main(command) == 0
  kept = json.loads(file.read_text())
  assert list(kept["scores"]) == ["squares-without-two"]
  assert kept["scores"]["squares-without-two"]["quick"]["leaves"] == ["x"]
  assert bank_scores.main([*command, "--check"]) == 0
  kept["scores"]["squares-without-two"]["quick"]["leaves"] = ["y"]
  file.write_text(json.dumps(kept))
  assert bank_scores.main([*command, "--check"]) == 1
  assert (
    "squares-without-two, quick: leaves ['y'] in the file, ['x'] now" in capsys.readouterr().out
  )
