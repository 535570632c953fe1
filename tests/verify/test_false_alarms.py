"""A sample of the campaign `scripts/false_alarms.py`, drawn anew, and its committed results."""

import contextlib
import functools
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify import vjp
from scripts import false_alarms
from scripts.campaigns import cases, rules
from scripts.campaigns.cases import Case, build

QUIET = {
  "database": None,
  "deadline": None,
  "derandomize": True,
  "phases": [hypothesis.Phase.generate],
  "suppress_health_check": list(hypothesis.HealthCheck),
}


def assert_no_alarm(family, case, level):
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    report = family.verify(case, level)
  assert report.verdict in ("pass", "no verdict"), f"{case}\n{report.table()}"


@pytest.mark.slow
@hypothesis.settings(max_examples=4, **QUIET)
@hypothesis.given(cases.cases)
def test_right_rules_pass_quickly(case):
  assert_no_alarm(cases, case, "quick")


@pytest.mark.slow
@hypothesis.settings(max_examples=6, **QUIET)
@hypothesis.given(rules.cases)
def test_rules_of_other_forms_pass_quickly(case):
  assert_no_alarm(rules, case, "quick")


@pytest.mark.slow
@hypothesis.settings(max_examples=40, **QUIET)
@hypothesis.given(cases.cases)
def test_right_rules_pass(case):
  assert_no_alarm(cases, case, "standard")


@pytest.mark.slow
@hypothesis.settings(max_examples=40, **QUIET)
@hypothesis.given(rules.cases)
def test_rules_of_other_forms_pass(case):
  assert_no_alarm(rules, case, "standard")


PLANTED = Case(
  "float32", "plain", "tanh", "none", (2, 3, 1), 5, "pair", "none", False, False, "plain",
  "arguments", 3,
)  # fmt: skip


@pytest.mark.slow
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


RULE = rules.Case(
  "custom_vjp", "gather", "tanh", "closed over", "float32", "own", "none", "plain", 4, 3, 2, 3
)


@pytest.mark.slow
@pytest.mark.parametrize("form", rules.FORMS)
@pytest.mark.parametrize("static", rules.STATIC)
def test_each_form_fails_with_a_planted_error(monkeypatch, form, static):
  """The product of the cotangents, and of the tangents, is wrong by one in a hundred."""
  right = rules.linearized

  def wrong(case, *args):
    y, push, pull = right(case, *args)
    return (
      y,
      lambda x_dot, w_dot, *_: push(x_dot, 1.01 * w_dot),
      lambda y_bar: [1.01 * bar if i == 1 else bar for i, bar in enumerate(pull(y_bar))],
    )

  monkeypatch.setattr(rules, "linearized", wrong)
  report = rules.verify(RULE._replace(form=form, static=static), "quick")
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf == ("args/1" if static == "closed over" else "args_2")


@pytest.mark.slow
@pytest.mark.parametrize("selection", rules.SELECTIONS)
def test_each_selection_and_its_transpose_agree(selection):
  """⟨S x, u⟩ = ⟨x, Sᵀ u⟩, in JAX and in NumPy."""
  case = RULE._replace(selection=selection)
  x, _, *ids = rules.arguments(case)
  x_bars = []
  for xp in (jnp, np):
    own = [xp.asarray(a) for a in (x, *ids)]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
      select, place = rules.selection_of(selection, xp, *own)
      y = select(own[0])
      u = xp.cos(xp.arange(y.size, dtype="float32")).reshape(y.shape)
      x_bars.append(place(u))
    np.testing.assert_allclose((y * u).sum(), (own[0] * x_bars[-1]).sum(), rtol=1e-5)
  np.testing.assert_allclose(*x_bars, rtol=1e-5)


@pytest.mark.parametrize("family", false_alarms.RESULTS)
def test_the_campaign_that_was_run_found_none(family):
  found = json.loads(false_alarms.RESULTS[family].read_text())
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


def coarse_product(dtype, x, w):
  return (x.astype(dtype) @ w.astype(dtype)).astype(x.dtype)


def coarse_product_vjp(dtype, factor, x, w):
  """The operands are kept in a narrow dtype, and the cotangent isn't rounded to it."""
  kept_x, kept_w = (a.astype(dtype).astype(a.dtype) for a in (x, w))

  def pull(y_bar):
    return (y_bar @ kept_w.T, factor * (kept_x.T @ y_bar))

  return coarse_product(dtype, x, w), pull


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_rule_may_round_elsewhere_than_autodiff(dtype, factor, verdict):
  """As mixed precision is written by hand: autodiff casts the cotangent as well."""
  x, w = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
  f, rule = (functools.partial(g, dtype) for g in (coarse_product, coarse_product_vjp))
  assert vjp(f, x, w, f_vjp=functools.partial(rule, factor), level="quick").verdict == verdict


def test_a_rule_may_not_round_to_a_narrower_dtype_than_its_function():
  x, w = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)

  def rule(x, w):
    y, pull = coarse_product_vjp(jnp.float16, 1.0, x, w)
    return y, lambda y_bar: tuple(a.astype(jnp.bfloat16).astype(a.dtype) for a in pull(y_bar))

  f = functools.partial(coarse_product, jnp.float16)
  assert vjp(f, x, w, f_vjp=rule, level="quick").verdict == "fail"


def coarse_sum(x, w):
  """A sum of rectified products, in bfloat16."""
  products = jnp.maximum(x, 0).astype(jnp.bfloat16) * w.astype(jnp.bfloat16)
  return products.astype(jnp.float32).sum()


def coarse_sum_vjp(factor, x, w):
  def pull(y_bar):
    z_bar = (y_bar.astype(jnp.bfloat16) * w.astype(jnp.bfloat16)).astype(jnp.float32)
    w_bar = y_bar.astype(jnp.bfloat16) * jnp.maximum(x, 0).astype(jnp.bfloat16)
    return jnp.where(x > 0, z_bar, 0.0), factor * w_bar.astype(jnp.float32)

  return coarse_sum(x, w), pull


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (2.0, "fail")])
def test_several_ties_are_on_both_sides_of_a_direction(factor, verdict):
  """Both one-sided slopes may then lie on one side of the rule's, whose choice is right."""
  x, w = np.array([0.3, 0.0, 0.0, 0.0], np.float32), np.array([0.5, 1.0, 0.7, -1.2], np.float32)
  rule = functools.partial(coarse_sum_vjp, factor)
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    reports = [vjp(coarse_sum, x, w, f_vjp=rule, level="quick", seed=s) for s in (1, 5, 37)]
  assert {report.verdict for report in reports} == {verdict}


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.1, "fail")])
def test_what_a_coarse_function_loses_is_not_the_rules_loss(factor, verdict):
  """In float16 the smallest products have few digits, in the function as in the rule."""

  small = jnp.float16(1e-2)

  def square(x):
    return (small * jnp.square(x.astype(jnp.float16))).astype(x.dtype)

  def square_vjp(x):
    half = factor * 2 * x.astype(jnp.float16)
    return square(x), lambda y_bar: ((small * half * y_bar.astype(jnp.float16)).astype(x.dtype),)

  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    x = jnp.array([1e-3, -3e-3, 2e-3])
    assert vjp(square, x, f_vjp=square_vjp, level="quick").verdict == verdict
