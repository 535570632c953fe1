"""A sample of the campaign `scripts/false_alarms.py`, drawn anew, and its committed results."""

import contextlib
import json
from pathlib import Path

import hypothesis
import jax
import pytest

import fbackprop as fb
from scripts import false_alarms
from scripts.campaigns.cases import Case, build, cases

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "false_alarms.json"
QUIET = {
  "database": None,
  "deadline": None,
  "derandomize": True,
  "phases": [hypothesis.Phase.generate],
  "suppress_health_check": list(hypothesis.HealthCheck),
}


def assert_no_alarm(case, level):
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    report = false_alarms.verify(case, level)
  assert report.verdict in ("pass", "no verdict"), f"{case}\n{report.table()}"


@pytest.mark.slow
@hypothesis.settings(max_examples=4, **QUIET)
@hypothesis.given(cases)
def test_right_rules_pass_quickly(case):
  assert_no_alarm(case, "quick")


@pytest.mark.slow
@hypothesis.settings(max_examples=40, **QUIET)
@hypothesis.given(cases)
def test_right_rules_pass(case):
  assert_no_alarm(case, "standard")


PLANTED = Case(
  "float32", "plain", "tanh", "none", (2, 3, 1), 5, "pair", "none", False, False, "plain",
  "arguments", 3,
)  # fmt: skip


@pytest.mark.parametrize("form", ["pair", "custom_vjp"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_same_rules_fail_with_a_planted_error(form, dtype):
  """What passes in the campaign could also pass because nothing is looked at."""
  case = PLANTED._replace(form=form, dtype=dtype)
  with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
    f, args, f_vjp = build(case._replace(form="pair"))

    def wrong_vjp(*args):
      y, pull = f_vjp(*args)
      return y, lambda y_bar: jax.tree.map(lambda bar: bar * 1.0001, pull(y_bar))

    if form == "custom_vjp":
      own = jax.custom_vjp(f)
      own.defvjp(lambda *a: (f(*a), a), lambda a, y_bar: wrong_vjp(*a)[1](y_bar))
      report = fb.verify.vjp(own, *args, level="quick")
    else:
      report = fb.verify.vjp(f, *args, f_vjp=wrong_vjp, level="quick")
  assert report.verdict == "fail"
  assert report.findings[0].cause.startswith("constant factor: 1 + 1")


def test_the_campaign_that_was_run_found_none():
  found = json.loads(RESULTS.read_text())
  assert found["totals"] == false_alarms.totals(found["chunks"])
  assert found["totals"]["false alarms"] == 0
  assert found["totals"]["no verdict of standard cases"] <= 0.01 * found["totals"]["standard cases"]


def test_a_stop_loses_nothing(tmp_path):
  """A chunk that is there is not run again."""
  chunk = {"cases": 50, "counts": {"quick: pass": 50}, "max_sigma": 1.0, "alarms": [],
           "seconds": 1.0}  # fmt: skip
  file = tmp_path / "found.json"
  file.write_text(json.dumps({"chunks": {"0": chunk}}))
  assert false_alarms.main(["--cases", "50", "--json", str(file)]) == 0
  chunk["counts"] = {"quick: fail": 1, "quick: pass": 49}
  file.write_text(json.dumps({"chunks": {"0": chunk}}))
  assert false_alarms.main(["--cases", "50", "--json", str(file)]) == 1
