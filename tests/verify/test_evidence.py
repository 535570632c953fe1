"""Checks return their evidence; it is added up in order, and a cause is looked for once."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import deadline, verification, vjp
from fbackprop.verify.checks.evidence import Evidence, not_checked, reported
from fbackprop.verify.explain import causes
from fbackprop.verify.report import Finding

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
NOTE = Finding("note", "rule", message="something to know")
FAILURE = Finding("fail", "numerics")


def square(x):
  return x * x


def square_vjp(x):
  return x * x, lambda y_bar: (2 * x * y_bar,)


def halved_square_vjp(x):
  return x * x, lambda y_bar: (x * y_bar,)


def test_evidence_adds_up_in_order():
  one = Evidence((NOTE,), ("maths",), points=("as given",), share=0.5, ulp=2.0)
  two = Evidence((FAILURE,), ("maths", "numerics"), ("vmap: why",), share=0.25, sigma=3.0)
  total = one + two
  assert total.findings == (NOTE, FAILURE)
  assert total.checks == ("maths", "maths", "numerics")
  assert (total.share, total.ulp, total.sigma) == (0.5, 2.0, 3.0)
  assert Evidence() + one == one + Evidence() == one
  assert (total.has_failed, one.has_failed) == (True, False)
  with pytest.raises(dataclasses.FrozenInstanceError):
    total.ulp = 0.0


def test_nothing_is_asked_for_after_a_failure(monkeypatch):
  asked = []

  def parts(problem):
    for part in (reported(NOTE), reported(FAILURE), not_checked("too late")):
      asked.append(part)
      yield part

  monkeypatch.setattr(verification, "CHECKS", (verification.Check(parts, stops=True),))
  report = vjp(square, X, f_vjp=halved_square_vjp, level="quick")
  assert report.findings == (FAILURE, NOTE)
  assert len(asked) == 2


@pytest.mark.parametrize(("factor", "searches"), [(0.5, 1), (1.0, 0)])
def test_a_cause_is_looked_for_once(monkeypatch, factor, searches):
  """For the first wrong leaf, after all checks: not at all for a rule that is right."""
  found = []

  def find_cause(*args, **options):
    found.append(args)
    return original(*args, **options)

  def rule(x, y):
    return x * y, lambda z_bar: (factor * y * z_bar, factor * x * z_bar)

  original = causes.find_cause
  monkeypatch.setattr(causes, "find_cause", find_cause)
  report = vjp(lambda x, y: x * y, X, X + 1, f_vjp=rule, level="quick")
  assert len(found) == searches
  with_cause = [f for f in report.findings if f.cause]
  assert len(with_cause) == searches
  assert all(f.cause.startswith("constant factor: 1/2") for f in with_cause)


def broken(problem):
  raise ZeroDivisionError("of ours")


def break_check(monkeypatch, name):
  """Let the check of this name raise."""
  assert name in [check.name for check in verification.CHECKS]
  checks = [c._replace(run=broken) if c.name == name else c for c in verification.CHECKS]
  monkeypatch.setattr(verification, "CHECKS", tuple(checks))


def test_a_check_that_breaks_is_left_out_by_name(monkeypatch):
  """Those before and after it run; the verdict is theirs."""
  break_check(monkeypatch, "bits")
  report = vjp(square, X, f_vjp=halved_square_vjp, level="quick")
  assert report.verdict == "fail"
  assert report.findings[0].cause.startswith("constant factor: 1/2")
  left_out = "the rest of broken: the verifier broke: ZeroDivisionError: of ours"
  assert left_out in report.not_checked
  report = vjp(square, X, f_vjp=square_vjp, level="quick")
  assert report.ok
  assert left_out in report.not_checked
  assert any(c.check == "numerics" for c in report.checks)


def test_there_is_no_verdict_without_an_essential_check(monkeypatch):
  break_check(monkeypatch, "as given")
  report = vjp(square, X, f_vjp=square_vjp, level="quick")
  assert report.verdict == "no verdict"
  assert report.findings[0].message == "the verifier broke: ZeroDivisionError: of ours"


@pytest.mark.parametrize(
  ("seconds", "verdict"), [(0.0, "no verdict"), (None, "pass"), (1e6, "pass")]
)
def test_a_time_limit_gives_what_is_known(seconds, verdict):
  report = vjp(square, X, f_vjp=square_vjp, level="quick", seconds=seconds)
  assert report.verdict == verdict
  left = [reason for reason in report.not_checked if reason.startswith("out of time")]
  assert bool(left) == (seconds == 0.0)


def test_a_time_limit_after_the_essential_checks_is_no_obstacle_to_a_pass(monkeypatch):
  """The check at which the time ends is listed, with all that follow."""
  told = []

  def tell(name):
    told.append(name)
    if name == "test points":
      deadline.END.set(0.0)

  report = vjp(square, X, f_vjp=square_vjp, level="standard", seconds=1000, progress=tell)
  assert report.ok
  (left,) = [reason for reason in report.not_checked if reason.startswith("out of time")]
  assert left.endswith("test points, branches, transformations, second order")
  assert told[:2] == ["waived", "types"]
  assert told[-1] == "test points"


def test_a_failure_that_is_known_by_the_end_of_the_time_is_reported():
  def stop(name):
    if name == "bits":
      deadline.END.set(0.0)

  report = vjp(square, X, f_vjp=halved_square_vjp, seconds=1000, progress=stop)
  assert report.verdict == "fail"
  assert report.findings[0].leaf == "x"


@pytest.mark.parametrize("option", [{"seconds": -1}, {"seconds": "1"}, {"progress": 3}])
def test_a_wrong_limit_is_refused(option):
  with pytest.raises((ValueError, TypeError), match=f"vjp: {next(iter(option))}"):
    vjp(square, X, f_vjp=square_vjp, **option)


def test_a_value_kept_from_an_earlier_call_is_said_to_be_that():
  """While it is traced, a rule that accumulates reads the tracer of another trace."""
  sums = {}

  def accumulating_vjp(x):
    def pull(y_bar):
      sums["x"] = sums.get("x", 0.0) + 2 * x * y_bar
      return (sums["x"],)

    return square(x), pull

  (finding, *_) = vjp(square, X, f_vjp=accumulating_vjp, level="quick").findings
  assert finding.check == "repeated call"
  assert finding.cause == "state: the result depends on other calls"
