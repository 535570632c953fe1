"""Reports as people and programs read them: the lines of the table, and JSON that comes back."""

import json
import math

import numpy as np
import pytest

from fbackprop.verify.report import Checked, Finding, Report
from tests.support.refusals import refusals

FAIL = Finding(
  kind="fail",
  check="maths",
  leaf="params/1/w",
  index=(3, 17),
  got=-1.2041e-02,
  want=3.0103e-03,
  bound=4.2e-17,
  wrong=16384,
  size=16384,
  shape=(128, 128),
  cause="wrong point: the activation's derivative at h1, not at z1   (match 2e-16)",
)
FAILED = Report(
  name="pkg.mlp:loss",
  findings=(FAIL,),
  checks=(
    Checked("maths", 30, "fail", "largest error 3e+13 of its bound"),
    Checked("zero cotangent", 12, "pass"),
    Checked("numerics", 2, "pass"),
    Checked("scaling", 36, "pass"),
  ),
  not_checked=("vmap: it costs more than quick has",),
  verified=("loss", "params/3", "params/2", "z2"),
  worst_ulp=1.234,
  max_sigma=1.7,
  seed=7,
  seconds=3.21,
  again="fbackprop verify pkg.mlp:loss --args pkg.mlp:make_args --seed 7 --leaf params/1/w",
)
PASSED = Report("f", (), (Checked("maths", 30, "pass", "largest error 0.3 of its bound"),))


def test_a_failure_says_where_by_how_much_and_why():
  assert FAILED.table().splitlines() == [
    "FAIL: pkg.mlp:loss   standard, seed 7, 3.2 s",
    "",
    "FAIL   maths   params/1/w  (128,128)   16384 of 16384 entries   first in backward order",
    "      [3,17]  got -1.2041e-02  want 3.0103e-03  bound 4e-17",
    "      verified: loss, params/3, params/2, z2        first wrong: params/1/w",
    "      cause: wrong point: the activation's derivative at h1, not at z1   (match 2e-16)",
    "",
    "again: fbackprop verify pkg.mlp:loss --args pkg.mlp:make_args --seed 7 --leaf params/1/w",
    "",
    "check   times  outcome",
    "maths      30  fail          largest error 3e+13 of its bound",
    "passed: zero cotangent ×12, numerics ×2, scaling ×36",
    "own dtype: largest error 1.2 ULP of the leaf's largest entry, 1.7 σ of its rounding",
    "not checked: vmap: it costs more than quick has",
  ]
  assert str(FAILED) == FAILED.table()


def test_a_pass_is_short():
  assert PASSED.table().splitlines() == [
    "PASS: f   standard, seed 0, 0.0 s",
    "",
    "check   times  outcome",
    "maths      30  pass          largest error 0.3 of its bound",
  ]


@pytest.mark.parametrize(
  ("got", "want", "said"),
  [
    (1.0, 1.0 + 1e-9, "got 1.0000000000e+00  want 1.0000000010e+00"),
    (1.0, 1.0 + 2**-52, "got 1.0000000000000000e+00  want 1.0000000000000002e+00"),
    (1e308, -1e308, "got 1.0000e+308  want -1.0000e+308"),
    (5e-324, 0.0, "got 4.9407e-324  want 0.0000e+00"),
    (math.nan, 2.0, "got nan  want 2.0000e+00"),
    (math.inf, -math.inf, "got inf  want -inf"),
    (0.0, -0.0, "got 0.0000e+00  want -0.0000e+00"),
  ],
)
def test_numbers_have_as_many_digits_as_tell_them_apart(got, want, said):
  report = PASSED._replace(findings=(FAIL._replace(got=got, want=want),))
  assert f"[3,17]  {said}  bound 4e-17" in report.table()


def test_what_is_not_as_usual_is_said():
  text = PASSED._replace(
    findings=(
      Finding("oracle fault", "maths", regime="N = 1", leaf="z", got=-0.5, want=-1.0),
      Finding("no verdict", "numerics", leaf="b", shape=(4,), message="the bound is vacuous"),
      Finding("note", "kink", message="two lines\n\nof a message"),
    ),
    allowance=4.0,
  ).table()
  assert text.startswith("ORACLE FAULT: f")
  for said in (
    "ORACLE FAULT   maths   z  ()   regime: N = 1\n      got -5.0000e-01  want -1.0000e+00\n",
    "NO VERDICT   numerics   b  (4,)\n      the bound is vacuous\n",
    "note   kink\n      two lines\n\n      of a message\n",
    "allowance: every bound was multiplied by 4\n",
  ):
    assert said in text + "\n"
  assert "first in backward order" not in text  # It is said of a failure.
  assert "again" not in text


def test_no_line_is_too_long_and_no_crowd_is_written_out():
  long = "a_name_that_never_ends/" * 12
  finding = FAIL._replace(
    leaf=long,
    regime=long,
    index=tuple(range(60)),
    shape=tuple(range(60)),
    cause=f"{long} and words " * 9,
    message=long,
  )
  report = FAILED._replace(
    name=long,
    findings=(finding,) * 30,
    checks=(Checked(long, 3, "no verdict", f"{long} " * 3), Checked(long, 1, "pass")),
    not_checked=(long,) * 3,
    verified=(long,) * 3,
    again=long,
    allowance=2.0,
  )
  lines = report.table().splitlines()
  assert max(map(len, lines)) <= 100
  assert "and 22 findings more, all in the JSON" in lines
  assert lines[0].startswith("FAIL: …")
  assert sum("first in backward order" in line for line in lines) == 1


UNUSUAL = FAILED._replace(
  findings=(
    FAIL._replace(got=math.inf, want=-math.inf, bound=math.inf),
    Finding("note", "kink", cause="NaN", message="Infinity"),
  ),
  worst_ulp=math.inf,
)


@pytest.mark.parametrize("report", [FAILED, PASSED, UNUSUAL], ids=["fail", "pass", "unusual"])
def test_json_comes_back_the_same(report):
  assert Report.from_json(report.to_json()) == report


def test_json_is_strict_and_says_the_verdict():
  report = FAILED._replace(
    findings=(FAIL._replace(got=np.float64("nan"), index=(np.int64(3),), wrong=np.int64(2)),),
    max_sigma=np.float32(0.5),
  )

  def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")

  table = json.loads(report.to_json(), parse_constant=refuse)
  assert (table["format"], table["verdict"], table["ok"]) == (1, "fail", False)
  assert table["findings"][0]["got"] == "NaN"
  assert table["findings"][0]["index"] == [3]
  assert table["max_sigma"] == 0.5
  back = Report.from_json(report.to_json()).findings[0]
  assert math.isnan(back.got)
  assert (back.index, back.wrong) == ((3,), 2)


NO_REPORTS = [
  ("[]", "a report has the format 1, got None"),
  ('{"format": 99}', "a report has the format 1, got 99"),
  ('{"format": 1}', "not the JSON of a report: KeyError"),
  ("no", "Expecting value"),
]


test_what_is_no_report_is_refused = refusals(Report.from_json, NO_REPORTS, ValueError)


def test_json_of_another_kind_of_field_is_refused():
  broken = FAILED.to_json().replace('"findings": [', '"findings": [3,')
  with pytest.raises(ValueError, match="not the JSON of a report: TypeError"):
    Report.from_json(broken)
