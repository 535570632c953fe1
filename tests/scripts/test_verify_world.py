"""scripts/verify_world.py: the row of each rule, runs that go on, and the page."""

import json
import sys

import jax
import numpy as np
import pytest

from scripts import verify_world
from scripts.campaigns import results
from scripts.campaigns.world import page
from scripts.campaigns.world.cases import RULES
from scripts.campaigns.world.one_rule import row_of
from scripts.campaigns.world.rule import drawn, rules_of
from tests.scripts import world_rules
from tests.scripts.world_rules import ASLEEP, CUBE, DOUBLED, REFUSED, SQUARE


@pytest.fixture(autouse=True)
def float64_as_before():
  """Restore the setting that a rule's row changes."""
  before = jax.config.jax_enable_x64
  yield
  jax.config.update("jax_enable_x64", before)


def test_a_right_rule_passes_in_the_mode_that_it_has():
  rows = [row_of(rule, "quick", 60.0) for rule in (CUBE, SQUARE)]
  assert [row["verdict"] for row in rows] == ["pass", "pass"]
  assert all("finding" not in row and row["points"] > 1 for row in rows)


def test_a_wrong_rule_fails_and_differences_say_so_too():
  row = row_of(DOUBLED, "quick", 60.0)
  assert row["verdict"] == "fail"
  assert row["finding"]["leaf"] == "x"
  assert row["finding"]["cause"].startswith("constant factor: 2")
  assert row["finding"]["got"] == pytest.approx(2 * row["finding"]["want"])
  seen = row["differences"]
  assert seen["rule"] == pytest.approx(2 * seen["slope"], rel=1e-6)
  json.dumps(row, allow_nan=False)


def test_a_rule_that_cannot_be_made_is_a_row_of_its_own(capsys):
  row = row_of(REFUSED, "quick", 60.0)
  assert row["verdict"] == "error"
  assert row["message"] == "ValueError: needs a licence"
  assert "needs a licence" in capsys.readouterr().err  # Where it was raised.


def test_the_arguments_of_a_rule_are_its_own():
  with jax.enable_x64(True):
    (first,), _ = drawn(CUBE)
    (again,), _ = drawn(CUBE)
    (other,), _ = drawn(DOUBLED)
    (wide,), _ = drawn(SQUARE)
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
  assert (first.dtype, wide.dtype) == (np.float32, np.float64)


def run(file, *more):
  """Run the script on the rules of the tests."""
  own = ("--cases", world_rules.HERE, "--python", sys.executable, "--json", str(file))
  assert verify_world.main([*own, *more]) == 0
  return results.read(file, {"rules": {}})["rules"]


@pytest.mark.slow
def test_a_run_keeps_the_rows_that_are_there(tmp_path, capsys):
  file = tmp_path / "world.json"
  kept = {"verdict": "pass", "seconds": 1.0, "package": SQUARE.package, "by": "an earlier run"}
  results.write(file, {"rules": {SQUARE.key: kept}})
  rows = run(file, "--only", ":cube,:square")
  assert rows.keys() == {SQUARE.key, CUBE.key}
  assert rows[SQUARE.key] == kept
  assert rows[CUBE.key]["verdict"] == "pass"
  assert rows[CUBE.key]["package"] == "here==1.0"
  assert capsys.readouterr().out.count("\n") == 1  # A line for each rule that was verified.

  assert run(file, "--list") == rows
  shown = dict(line.split(maxsplit=1)[::-1] for line in capsys.readouterr().out.splitlines())
  assert shown == {
    CUBE.key: "pass", DOUBLED.key: "-", SQUARE.key: "pass", ASLEEP.key: "-", REFUSED.key: "-",
  }  # fmt: skip


@pytest.mark.slow
def test_a_rule_that_takes_too_long_is_no_answer(tmp_path, monkeypatch):
  monkeypatch.setattr(verify_world, "GRACE", 0.0)
  rows = run(tmp_path / "world.json", "--only", "sleep", "--seconds", "0.5")
  assert rows[ASLEEP.key]["verdict"] == "killed"
  assert rows[ASLEEP.key]["message"] == "killed after 1 s"
  text = page.page({"rules": rows}, world_rules.RULES)
  assert "0 have an answer (0.0 %)" in text
  assert "4 rules are not verified yet." in text
  assert "| there | 2.0 | `a\\|sleep` | out of time |" in text


def test_the_page_tells_each_failure_and_each_rule():
  wrong = row_of(DOUBLED, "quick", 60.0) | {"seconds": 3.0}
  rows = {CUBE.key: {"verdict": "pass", "seconds": 2.0}, DOUBLED.key: wrong}
  rows[REFUSED.key] = {"verdict": "error", "seconds": 1.0, "message": "ValueError: a | b"}
  text = page.page({"rules": rows}, world_rules.RULES)
  assert "3 rules of 2 packages; 2 have an answer (66.6 %). A rule takes 2 s" in text
  assert "**here** `doubled`: `x` at" in text
  assert f"is {wrong['finding']['got']:.6g}, the slope {wrong['finding']['want']:.6g}" in text
  assert "where the rule has" in text
  assert "Twice the slope." in text
  assert "| here | 1.0 | `cube` | pass | 2 | The cube. |" in text
  assert "| here | 1.0 | `doubled` | fail | 3 | see above |" in text
  assert "| `refused` | raises | 1 | ValueError: a \\| b |" in text


def test_the_page_is_what_the_results_give():
  found = json.loads(verify_world.RESULTS.read_text(encoding="utf-8"))
  text = verify_world.PAGE.read_text(encoding="utf-8")
  assert text == page.page(found, RULES), "run scripts/verify_world.py --page"
  packages = {rule.package for rule in RULES if rule.key in found["rules"]}
  answered = [row for row in found["rules"].values() if row["verdict"] in page.ANSWERS]
  assert len(found["rules"]) >= 80
  assert len(packages) >= 25
  assert len(answered) >= 0.9 * len(found["rules"])


def test_a_failure_links_to_the_script_that_shows_it_alone():
  named = [rule for rule in RULES if rule.finding]
  found = json.loads(verify_world.RESULTS.read_text(encoding="utf-8"))["rules"]
  assert all((verify_world.ROOT / "findings" / f"{rule.finding}.sh").exists() for rule in named)
  assert all(found[rule.key]["verdict"] == "fail" for rule in named)
  wrong = row_of(DOUBLED, "quick", 60.0) | {"seconds": 3.0}
  rules = [DOUBLED._replace(finding="twice")]
  text = page.page({"rules": {DOUBLED.key: wrong}}, rules)
  assert "Twice the slope. [Without fbackprop](../findings/twice.sh)." in " ".join(text.split())


def test_the_cases_have_names_of_their_own():
  assert len({rule.key for rule in RULES}) == len(RULES)
  pins = verify_world.PINS.read_text(encoding="utf-8").split()
  assert {rule.package for rule in RULES} <= set(pins)
  assert rules_of(world_rules.HERE) == world_rules.RULES
