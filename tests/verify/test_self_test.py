"""The rules of scoring of the self-test, on reports that are made up; the bank is run elsewhere."""

import json

import pytest

from fbackprop.cli import main
from fbackprop.verify import Finding, Report, run_self_test
from fbackprop.verify import self_test as selftest
from fbackprop.verify.bank.specimen import Example, Specimen


def identity(x):
  return x


def make():
  return Example(identity, (1.0,))


BUG = Specimen("bug", make, leaves=("params/w",), causes=("transposed", "cotangent"))
RIGHT = Specimen("right", make)
FAIL = Finding("fail", "maths", leaf="params/w", cause="transposed: as it stands")


def scored(specimen, *findings):
  return selftest.scored(specimen, specimen.name == "bug", Report("f", findings), 1.0)


@pytest.mark.parametrize(
  ("specimen", "kind", "outcome"),
  [
    (BUG, "fail", "caught"),
    (BUG, "oracle fault", "missed"),
    (BUG, "note", "missed"),
    (BUG, "no verdict", "no verdict"),
    (RIGHT, "fail", "false alarm"),
    (RIGHT, "oracle fault", "false alarm"),
    (RIGHT, "note", "passed"),
    (RIGHT, "no verdict", "no verdict"),
  ],
)
def test_an_outcome_is_what_the_verdict_means(specimen, kind, outcome):
  assert scored(specimen, Finding(kind, "maths")).outcome == outcome


def test_no_finding_is_a_pass():
  assert scored(BUG).outcome == "missed"
  harder = BUG._replace(level="standard")
  for specimen, level, outcome in (
    (BUG, "quick", "missed"), (harder, "quick", "beyond"), (harder, "standard", "missed"),
    (harder, "deep", "missed"),
  ):  # fmt: skip
    assert selftest.scored(specimen, True, Report("f", ()), 1.0, level).outcome == outcome
  caught = selftest.scored(harder, True, Report("f", (Finding("fail", "maths"),)), 1.0, "quick")
  assert caught.outcome == "caught"
  assert scored(RIGHT).outcome == "passed"


def test_the_first_finding_is_held_against_the_specimen():
  other = FAIL._replace(leaf="params/b", cause="zero")
  right, wrong = scored(BUG, FAIL, other), scored(BUG, other, FAIL)
  assert (right.leaf_is_right, right.cause_is_right) == (True, True)
  assert (wrong.leaf_is_right, wrong.cause_is_right) == (False, False)
  missed = scored(BUG)
  assert (missed.leaf_is_right, missed.cause_is_right) == (False, False)
  without_leaf = scored(BUG._replace(leaves=()), FAIL)
  assert (without_leaf.leaf_is_right, without_leaf.cause_is_right) == (None, True)
  assert scored(RIGHT, FAIL)[5:7] == (None, None)


@pytest.mark.parametrize(
  ("check", "cause", "kind"),
  [
    ("maths", "constant factor: 1/N, N = 32", "constant factor"),
    ("maths", "zero", "zero"),
    ("maths", "no known pattern", "no known pattern"),
    ("structure", "", "structure"),
    ("zero cotangent", "", "cotangent"),
    ("maths", "", ""),
  ],
)
def test_a_check_stands_for_a_cause_that_was_not_looked_for(check, cause, kind):
  assert selftest.kind_of(Finding("fail", check, cause=cause)) == kind


@pytest.fixture
def bank(monkeypatch):
  """Two bugs and two right rules; `bank[name]` is the report, or what the verifier raises."""
  answers = {
    "bug-1": Report("f", (FAIL,)),
    "bug-2": Report("f", (FAIL._replace(leaf="x"),)),
    "right-1": Report("f", ()),
    "right-2": Report("f", ()),
  }

  def vjp(f, *args, f_vjp, **options):
    assert (f, args, f_vjp) == (identity, (1.0,), None)
    assert options.pop("ties", "any") in ("any", "reference")
    assert options == {"level": "quick", "seed": 5}
    answer = answers[args_of.pop(0)]
    if isinstance(answer, Exception):
      raise answer
    return answer

  args_of = []

  def specimen(name, like):
    def made():
      args_of.append(name)
      return make()._replace(options={"ties": "reference"})

    return like._replace(name=name, make=made)

  for where in ("fbackprop.verify.self_test", "fbackprop.verify.bank"):
    monkeypatch.setattr(f"{where}.BUGS", [specimen("bug-1", BUG), specimen("bug-2", BUG)])
    monkeypatch.setattr(f"{where}.RIGHT", [specimen("right-1", RIGHT), specimen("right-2", RIGHT)])
  monkeypatch.setattr(selftest, "vjp", vjp)
  return answers


FLAGS = ("verify", "--self-test", "--level", "quick", "--seed", "5")


def test_all_is_well(bank, capsys, tmp_path):
  file = tmp_path / "self-test.json"
  assert main([*FLAGS, "--json", str(file)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[:2] for line in lines[:4]] == [
    ["caught", "bug-1"],
    ["caught", "bug-2"],
    ["passed", "right-1"],
    ["passed", "right-2"],
  ]
  assert lines[1].endswith("named first: x transposed: as it stands")
  assert lines[4].startswith("PASS: self-test   quick, seed 5, ")
  assert lines[5:10] == [
    "planted bugs        2 of 2 (100.0 %) caught, 0 missed",
    "false positives     0 of 2 right rules",
    "no verdict          0",
    "leaf ranked first   1 of 2 (50.0 %)",
    "cause ranked first  2 of 2 (100.0 %)",
  ]
  table = json.loads(file.read_text())
  assert (table["format"], table["code"], table["totals"]["caught"]) == (1, 0, 2)
  assert [score["name"] for score in table["scores"]] == ["bug-1", "bug-2", "right-1", "right-2"]
  assert table["environment"].keys() == {"jax", "backend", "device"}


@pytest.mark.parametrize(
  ("name", "answer", "code", "said"),
  [
    ("bug-1", Report("f", ()), 1, "1 missed"),
    ("right-1", Report("f", (FAIL,)), 1, "1 of 2 right rules"),
    ("bug-1", KeyError("inside"), 1, "verifier: KeyError: 'inside'"),
    ("right-1", KeyError("inside"), 1, "1 of 2 right rules"),
    ("right-1", Report("f", (Finding("no verdict", "maths"),)), 4, "no verdict          1"),
  ],
)
def test_what_is_not_well_is_counted_and_told(bank, capsys, name, answer, code, said):
  bank[name] = answer
  assert main(FLAGS) == code
  printed = capsys.readouterr().out
  assert said in printed
  assert f"{'FAIL' if code == 1 else 'NO VERDICT'}: self-test" in printed


def test_some_specimens_are_run_alone(bank):
  done = run_self_test("quick", 5, only=("right-2", "bug-1"))
  assert [score.name for score in done.scores] == ["bug-1", "right-2"]
  assert done.totals["bugs"] == 1
