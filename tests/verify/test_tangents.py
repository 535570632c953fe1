"""The rule in forward mode: its tangents, one argument at a time, and that they are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop import verify
from fbackprop.verify.checks.evidence import Evidence, Problem
from fbackprop.verify.checks.tangents import check_tangents
from fbackprop.verify.report import RuleError
from fbackprop.verify.witnesses.rule import rule_of, signature_of

X, W = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).normal(size=(2, 3, 3)))


def product(x, w):
  return jnp.tanh(x) @ w


def evidence_of(f_jvp, f=product, args=(X, W), slope=None):
  signature, leaves = signature_of(f, args)
  rule = rule_of(f, None, signature, leaves, slope)
  problem = Problem(rule, leaves, rule.draw(0, 0), "quick", 0, 1.0, "any", f_jvp=f_jvp)
  return sum(check_tangents(problem), Evidence())


def changed(change):
  """A right rule whose tangent is changed by a function of both tangents."""

  def f_jvp(primals, tangents):
    y, y_dot = jax.jvp(product, primals, tangents)
    return y, y_dot + change(*tangents)

  return f_jvp


def nothing(x_dot, w_dot):
  return jnp.zeros((), x_dot.dtype)


def test_each_float_argument_at_two_points():
  found = evidence_of(changed(nothing))
  assert found.findings == ()
  assert found.checks == ("tangents",) * 4


@pytest.mark.parametrize(
  ("change", "leaf"),
  [
    (lambda x_dot, w_dot: 1e-9 * x_dot, "x"),
    (lambda x_dot, w_dot: 1e-9 * w_dot, "w"),
    (lambda x_dot, w_dot: -w_dot.at[0].set(0), "w"),
  ],
)
def test_a_wrong_tangent_names_its_argument(change, leaf):
  found = evidence_of(changed(change))
  assert {f.leaf for f in found.findings} == {leaf}
  assert {(f.kind, f.check) for f in found.findings} == {("fail", "tangents")}
  assert found.findings[0].message.startswith("the tangent of output 0, to which the index belongs")
  y_dot = found.findings[0]
  assert y_dot.shape == (3, 3)
  assert abs(y_dot.got - y_dot.want) > y_dot.bound


@pytest.mark.parametrize(
  ("change", "law"),
  [
    (lambda x_dot, w_dot: jnp.abs(x_dot), "times -2"),
    (lambda x_dot, w_dot: jnp.ones_like(w_dot), "times -2"),
    # Homogeneous, and not additive.
    (lambda x_dot, w_dot: jnp.cbrt((x_dot**3).sum()), "the sum of two tangents"),
  ],
)
def test_a_tangent_that_isn_t_linear_has_no_transpose(change, law):
  with pytest.raises(RuleError, match=f"isn't linear in the tangent: .*{law}") as raised:
    evidence_of(changed(change))
  assert (raised.value.check, raised.value.leaf) == ("cotangent", "x")


def test_an_integer_has_no_tangent():
  def chosen(x, i):
    return x[i]

  def f_jvp(primals, tangents):
    assert tangents[1].dtype == jax.dtypes.float0
    return chosen(*primals), tangents[0][primals[1]]

  found = evidence_of(f_jvp, chosen, (X, jnp.array([2, 0])))
  assert (found.findings, found.checks) == ((), ("tangents",) * 2)


def test_the_declared_slope_is_the_truth():
  def f_jvp(primals, tangents):
    return jnp.round(primals[0]), tangents[0]

  def rounded(x):
    return jnp.round(x)

  assert evidence_of(f_jvp, rounded, (X,), slope=lambda x: x).findings == ()
  assert evidence_of(f_jvp, rounded, (X,)).findings[0].leaf == "x"


def test_products_in_bfloat16_are_linear_but_for_their_rounding():
  def narrow(x, w):
    with jax.numpy_dtype_promotion("standard"):
      return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(x.dtype)

  def f_jvp(primals, tangents):
    (x, w), (x_dot, w_dot) = primals, tangents
    return narrow(x, w), narrow(x_dot, w) + narrow(x, w_dot)

  assert evidence_of(f_jvp, narrow).findings == ()


def test_a_rule_that_raises_is_told():
  def f_jvp(primals, tangents):
    raise KeyError("own")

  with pytest.raises(RuleError, match=r"in forward mode the rule raises KeyError: 'own'"):
    evidence_of(f_jvp)


def test_without_a_rule_in_forward_mode_there_is_nothing_to_check():
  assert evidence_of(None) == Evidence()


def test_a_custom_vjp_has_no_forward_mode():
  f = jax.custom_vjp(jnp.sin)
  f.defvjp(lambda x: (jnp.sin(x), x), lambda x, y_bar: (y_bar * jnp.cos(x),))
  found = evidence_of(lambda *own: jax.jvp(f, *own), f, (X,))
  assert found.checks == ()
  assert found.not_checked == ("tangents: f holds a custom_vjp, which has no forward mode",)


# A rule without a transpose, as its author meets it.
V = jnp.array([0.5, -1.5, 2.0])


def with_tangent(rule):
  square = jax.custom_jvp(lambda x, k: x**2 * k)
  square.defjvp(lambda primals, dots: (square(*primals), rule(*primals, *dots)))
  return square


def right(x, k, x_dot, k_dot):
  return 2 * x * k * x_dot + x**2 * k_dot


def squared(x, k, x_dot, k_dot):
  return 2 * x * k * x_dot + x**2 * k_dot * k_dot


@pytest.mark.parametrize("verified", [verify.vjp, verify.jvp])
def test_a_tangent_that_is_squared_is_named_with_its_leaf(verified):
  report = verified(with_tangent(squared), V, V + 3, level="quick")
  first = report.findings[0]
  assert (report.verdict, first.check, first.leaf) == ("fail", "cotangent", "k")
  assert "has no transpose" in first.message
  assert verified(with_tangent(right), V, V + 3, level="quick").ok


def test_a_forward_rule_that_raises_by_itself_still_raises():
  def raising(x, k, x_dot, k_dot):
    raise ValueError("not this way")

  report = verify.vjp(with_tangent(raising), V, V + 3, level="quick")
  assert (report.verdict, report.findings[0].check) == ("fail", "raises")
  assert "not this way" in report.findings[0].message
