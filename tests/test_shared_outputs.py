"""`jax.vmap` of a right rule with an output that the mapped arguments don't reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify import vjp

X = jax.random.normal(jax.random.key(0), (4, 3))
W = jax.random.normal(jax.random.key(1), (3,))


def penalised(scale=1.0, extra=0.0):
  """sin(x·w), and a penalty on w whose gradient is `scale` times too large."""

  @jax.custom_vjp
  def rule(x, w):
    return jnp.sin(x @ w), 0.5 * (w**2).sum()

  def backward(kept, y_bar):
    x, w = kept
    along = y_bar[0] * jnp.cos(x @ w)
    return along * w, along * x * (1 + extra) + scale * y_bar[1] * w

  rule.defvjp(lambda x, w: (rule(x, w), (x, w)), backward)
  return rule


def mapped(rule):
  return jax.vmap(rule, (0, None), (0, None))


def twice_mapped(rule):
  return jax.vmap(mapped(rule), (0, None), (0, None))


def in_a_scan(rule):
  def f(x, w):
    return jax.lax.scan(lambda total, _: (total + sum(mapped(rule)(x, w))[0], None), 0.0, x)[0]

  return f


def in_jit(rule):
  return jax.jit(jax.vmap(rule, (0, None)))  # The penalty is repeated for each example.


def of_a_fixed_power(rule):
  return lambda x, w, power: mapped(rule)(x**power, w)


CASES = {
  "a penalty": (mapped, (X, W)),
  "twice mapped": (twice_mapped, (X.reshape(2, 2, 3), W)),
  "in a scan": (in_a_scan, (X, W)),
  "in jit, the penalty repeated": (in_jit, (X, W)),
  "with a fixed integer": (of_a_fixed_power, (X, W, 2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("level", ["quick", "standard"])
def test_a_right_rule_passes_and_the_fault_is_named_as_that_of_jax(case, level):
  make, args = CASES[case]
  report = vjp(make(penalised()), *args, level=level)
  assert report.verdict == "pass", report
  (note,) = [f for f in report.findings if f.check == "vmap"]
  assert note.kind == "note"
  assert "JAX < 0.12 counts the cotangent of a shared output once per example" in note.message


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_rule_still_fails(case):
  make, args = CASES[case]
  for rule in (penalised(scale=1.001), penalised(extra=0.01), penalised(scale=len(X))):
    report = vjp(make(rule), *args, level="quick")
    assert report.verdict == "fail", report
    assert {f.leaf for f in report.findings if f.kind == "fail"} == {"w"}


def test_nothing_is_said_where_no_output_is_shared():
  def both_mapped(x, w):
    return jax.vmap(penalised())(x, jnp.broadcast_to(w, x.shape))

  def unmapped(x, w):
    return penalised()(x[0], w)

  for f in (both_mapped, unmapped):
    report = vjp(f, X, W, level="quick")
    assert report.verdict == "pass", report
    assert not report.findings
