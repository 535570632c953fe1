"""docs/trust.md says what its results say, and these are of everything in the package."""

import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify.report import Checked, Finding, Report
from scripts import trust
from scripts.campaigns import matrix
from scripts.campaigns.trust_page import Results, page, read_results
from tests.support.public import layers_of_one_array

RESULTS = read_results(trust.RESULTS)
FAIL = Finding("fail", "maths", "N = 3", "params/0/w", (1, 2), 2.0, 1.0, 1e-16, cause="sign: -1")
FAILED = Report(
  "f",
  (FAIL, Finding("note", "scaled cotangent", message="bits differ")),
  (Checked("maths", 5, "fail"), Checked("vmap", 1, "pass")),
  ("two devices: there is one",),
  max_sigma=np.inf,
  worst_ulp=1.2345,
  regimes=("as given", "N = 3"),
)
PASSED = Report("f", (), (Checked("maths", 5, "pass"),), max_sigma=0.5, regimes=("as given",))


def test_the_page_is_what_the_results_give():
  assert trust.PAGE.read_text(encoding="utf-8") == page(RESULTS), "run scripts/trust.py --page"


def test_the_results_are_of_the_matrix_and_nothing_is_wrong():
  assert list(RESULTS.cells) == [tuple(cell) for cell in matrix.cells()]
  verdicts = {cell["verdict"] for cell in RESULTS.cells.values()}
  assert verdicts <= {"pass", "no verdict"}
  assert RESULTS.made["devices"] >= 2
  assert all(cell["regimes"].get("as given") == "pass" for cell in RESULTS.cells.values())
  for mode in ("vmap", "scan", "two devices"):
    assert all(cell["checks"].get(mode) == "pass" for cell in RESULTS.cells.values()), mode


def test_the_matrix_has_all_of_the_package():
  units = {name: getattr(fb, name) for name in fb.__all__}
  assert set(matrix.ACTIVATIONS) == layers_of_one_array()
  losses = [case.loss for case in matrix.LOSSES.values()]
  assert all(unit in losses for unit in units.values() if isinstance(unit, fb.Loss))
  makers = {"combine", *(name for name in units if name.endswith("_with"))}
  assert makers <= set(matrix.LOSSES)
  parts = {name for part in matrix.PARTS for name in part.split(", ")}
  assert {"dense", "layer_norm", "rms_norm", "dropout", "serial", "skip", "repeat", "remat",
          "mlp"} <= parts  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", matrix.LOSSES.values(), ids=matrix.LOSSES.keys())
def test_targets_are_the_same_numbers_in_every_dtype(case):
  rows = jnp.asarray(case.rows)
  assert rows.shape == (matrix.N,)
  for dtype in (jnp.bfloat16, jnp.float16):
    narrow, wide = case.targets_of(rows, dtype), case.targets_of(rows, jnp.float32)
    for own, same in zip(
      *(t if isinstance(t, tuple) else (t,) for t in (narrow, wide)), strict=True
    ):
      np.testing.assert_array_equal(np.asarray(own, np.float32), np.asarray(same, np.float32))
    outputs = jnp.ones((matrix.N, matrix.OUTPUTS), dtype)
    assert jnp.isfinite(case.loss.forward(outputs, narrow)[0]).all()


def test_each_pair_is_weighted_in_half_of_the_dtypes():
  for loss in matrix.LOSSES:
    for net in matrix.ACTIVATIONS:
      weighted = [matrix.is_weighted(matrix.Cell(dtype, loss, net)) for dtype in matrix.DTYPES]
      assert weighted.count(True) == len(matrix.DTYPES) / 2


@pytest.mark.slow
def test_a_cell_is_verified_as_it_says():
  report = matrix.verify(matrix.Cell("float64", "combine", "tanh"), level="quick")
  assert report.ok, report.table()
  assert {"as given", "redrawn", "N = 1"} <= set(report.regimes)
  report = matrix.verify(matrix.Cell("bfloat16", matrix.BY_LAYER, "dropout"), level="quick")
  assert report.ok, report.table()


@pytest.mark.slow
def test_a_cell_of_a_wrong_rule_fails(monkeypatch):
  """A checker is tested on wrong rules: here the gradient of the last output is 0.1 % too large."""
  case = matrix.LOSSES["squared_error"]

  def wrong_backward(residuals, losses_bar):
    return case.loss.backward(residuals, losses_bar).at[:, -1].multiply(1.001)

  wrong = case._replace(loss=case.loss._replace(backward=wrong_backward))
  monkeypatch.setitem(matrix.LOSSES, "squared_error", wrong)
  for dtype in ("float32", "bfloat16"):
    report = matrix.verify(matrix.Cell(dtype, "squared_error", "tanh"), level="quick")
    assert report.verdict == "fail"
    assert trust.plain(report)["regimes"]["as given"] == "fail"


def made_up():
  """A fail, a pass, and the rest not verified."""
  cells = {
    ("float64", "huber", "relu"): trust.plain(FAILED) | {"cpu_seconds": 1.5},
    ("float32", "huber", "relu"): trust.plain(PASSED) | {"cpu_seconds": 1.0},
  }
  return Results({"date": "2000-01-01", "processor": "p", "backend": "cpu", "devices": 2,
                  "jax": "1", "numpy": "2", "python": "3"}, cells)  # fmt: skip


def test_results_come_back_from_their_file(tmp_path):
  file = tmp_path / "trust.json"
  file.write_text(trust.as_json(made_up()), encoding="utf-8")
  assert read_results(file) == made_up()


def test_what_is_no_pass_is_shown_with_its_finding():
  lines = page(made_up()).splitlines()
  assert "float64 fail, bfloat16 —, float16 —" in next(
    v for v in lines if v.startswith("| huber |")
  )
  assert "| N = 3 | 1 fail | 1 — |  |  | the function isn't finite there |" in lines
  assert next(v for v in lines if v.startswith("| maths")).count("| 1 fail | 1 pass |") == 1
  assert next(v for v in lines if v.startswith("| two devices")).endswith("| there is one |")
  assert "- float64, huber, relu: fail" in lines
  assert any("leaf params/0/w; got 2.0; want 1.0" in line for line in lines)
  assert "- scaled cotangent: bits differ (1 cell)" in lines
