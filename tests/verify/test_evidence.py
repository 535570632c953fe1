"""Checks return their evidence; it is added up in order, and a cause is looked for once."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import _vjp, vjp
from fbackprop.verify.checks.evidence import Evidence, not_checked, reported
from fbackprop.verify.explain import causes
from fbackprop.verify.report import Finding

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
NOTE = Finding("note", "rule", message="something to know")
FAILURE = Finding("fail", "numerics")


def square(x):
  return x * x


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

  monkeypatch.setattr(_vjp, "CHECKS", (_vjp.Check(parts, stops=True),))
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


def test_a_check_that_breaks_hides_nothing_that_was_found(monkeypatch):
  def broken(problem):
    raise ZeroDivisionError("of ours")

  broken_check = _vjp.Check(broken, after_failure=True)
  monkeypatch.setattr(_vjp, "CHECKS", (*_vjp.CHECKS[:5], broken_check))
  report = vjp(square, X, f_vjp=halved_square_vjp, level="quick")
  assert [f.kind for f in report.findings] == ["fail", "no verdict"]
  assert report.findings[0].cause.startswith("constant factor: 1/2")
  assert report.findings[1].message == "the verifier broke: ZeroDivisionError: of ours"
