"""`check_circuit`: the gradients of a trace against those of `jax.grad`, and wrong rules found."""

import math

import pytest

import fbackprop as fb
from fbackprop.circuit import parse
from fbackprop.circuit.graph import GATES
from fbackprop.verify import check_circuit
from tests.support.circuits import solve_gate


def wrong(gate, factor):
  def wrong_backward(residuals, y_bar):
    return tuple(factor * bar for bar in gate.backward(residuals, y_bar))

  return gate._replace(backward=wrong_backward)


@pytest.mark.slow
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("factor", [1 + 1e-6, -1.0, 0.0])
def test_the_witness_finds_a_wrong_rule_in_any_gate(op, factor):
  xs = (0.75, 0.5)[: GATES[op].arity or 2]
  assert check_circuit(solve_gate(op, xs)).agrees
  check = check_circuit(solve_gate(op, xs, {op: wrong(GATES[op], factor)}))
  assert (check.agrees, check.ok) == (False, False)


CHOICES = [
  ("k = abs(x)", {"x": 0.0}, 0.0, 1.0, ("k",)),
  ("k = max(x, 2*x, 3*x)", {"x": 0.0}, 2.0, 2.25, ("k",)),
  ("k = (-2)**x", {"x": 2.0}, 0.0, math.nan, ("k",)),
  ("k = abs(x); 3*k + relu(x)", {"x": 0.0}, 0.0, 3.0, ("k", "g2")),
]


@pytest.mark.parametrize(("text", "at", "ours", "theirs", "kinks"), CHOICES)
def test_another_choice_at_a_kink_is_told_from_a_wrong_rule(text, at, ours, theirs, kinks):
  check = check_circuit(parse(text).trace(**at))
  assert (check.agrees, check.ok, check.kinks) == (False, True, kinks)
  assert (check.ours, check.theirs) == pytest.approx((ours, theirs), nan_ok=True)


POWERS = [
  ("x**3", (7.0, 1.0), False),  # By the base, times 7: an integer exponent has a true slope.
  ("x**3", (1.0, 1.0), True),
  ("0*x**2 + (-2)**(x+4)", (1.0, 1.0), True),
  ("x**x", (1.0, 1.0), True),
  ("x**x", (7.0, 1.0), False),
]


@pytest.mark.parametrize(("text", "slopes", "found"), POWERS)
def test_the_base_of_a_power_is_judged_where_the_exponent_cannot_be(text, slopes, found):
  def scaled_backward(residuals, y_bar):
    sent = fb.gates.power.backward(residuals, y_bar)
    return tuple(factor * bar for factor, bar in zip(slopes, sent, strict=True))

  gates = {"power": fb.gates.power._replace(backward=scaled_backward)}
  assert check_circuit(parse(text, gates=gates).trace(x=-2.0)).ok is found


SLOPES = [
  ("abs(x)", (57.0,), False),
  ("abs(x)", (-1.0,), True),
  ("relu(x)", (0.5,), True),
  ("relu(x)", (-1e-6,), False),
  ("relu6(6 + x)", (1.0,), True),
  ("relu6(6 + x)", (1.01,), False),
  ("elu(x)", (1.0,), True),
  ("elu(x)", (0.9,), False),
  ("hard_tanh(x - 1)", (0.25,), True),
  ("max(x, 2*x, -1)", (0.25, 0.75, 0.0), True),
  ("max(x, 2*x, -1)", (1.0, 1.0, 0.0), False),
  ("max(x, 2*x, -1)", (0.5, 0.0, 0.5), False),
  ("min(x, 2*x)", (-1.0, 2.0), False),
  ("(-2)**(x+2)", (4.0, 1.0), False),
]


@pytest.mark.parametrize(("text", "slopes", "may_stand"), SLOPES)
def test_a_slope_at_a_kink_must_be_one_that_may_be_chosen(text, slopes, may_stand):
  def chosen_backward(residuals, y_bar):
    return tuple(slope * y_bar for slope in slopes)

  op = "power" if "**" in text else text.partition("(")[0]
  gate = GATES[op]._replace(backward=chosen_backward)
  assert check_circuit(parse(text, gates={op: gate}).trace(x=0.0)).ok is may_stand


def test_a_wrong_rule_is_found_beside_a_kink():
  gates = {"exp": wrong(fb.gates.exp, 2.0)}
  check = check_circuit(parse("abs(x) * y + exp(x)", gates=gates).trace(x=0.0, y=3.0))
  assert not check.ok


def test_infinite_gradients_agree():
  check = check_circuit(parse("sqrt(x) + log(y)").trace(x=0.0, y=1.0))
  assert check.agrees
  assert check_circuit(parse("2*3").trace()).agrees
