"""The numbers of a trace: local gradients of every gate, and what others have published.

The gates' rules themselves are rows of the table (`test_laws.py`): against autodiff, differences
and at kinks, in batches of random points; and `test_check.py` compares every gate's local gradients
with autodiff's. At kinks and ties they are recorded (`test_slopes.py`). Here are a few others.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import from_mlp
from fbackprop.circuit.graph import GATES
from tests.support.circuits import solve_gate

# --- Local gradients ------------------------------------------------------------------------------


def local_gradients(op, *xs):
  return solve_gate(op, xs).gates[0].local


TIES = [("max", (2.0, 1.0, 2.0), (0.5, 0.0, 0.5)), ("min", (2.0, 2.0, 3.0), (0.5, 0.5, 0.0))]


@pytest.mark.parametrize(("op", "xs", "local"), TIES)
def test_local_gradients_at_ties_of_some_are_the_policy_and_between_the_slopes(op, xs, local):
  trace = solve_gate(op, xs)
  assert (trace.gates[0].local, fb.verify.check_circuit(trace).ok) == (local, True)


@pytest.mark.parametrize(
  ("op", "kink"), [(op, kink) for op, gate in GATES.items() for kink in gate.kinks]
)
def test_a_kink_that_a_gate_states_is_one(op, kink):
  (left,), (right,) = (local_gradients(op, kink + side) for side in (-1e-9, 1e-9))
  assert abs(left - right) > 0.1


POWERS = [
  (-2.0, 3.0, (12.0, 0.0)),
  (-2.0, -1.0, (-0.25, 0.0)),
  (0.0, -1.0, (-math.inf, 0.0)),
  (-2.0, 0.5, (math.nan, 0.0)),
  (2.0, 3.0, (12.0, 8 * math.log(2))),
]


@pytest.mark.parametrize(("a", "b", "local"), POWERS)
def test_powers_of_zero_and_of_negative_numbers(a, b, local):
  np.testing.assert_array_equal(local_gradients("power", a, b), local)


@pytest.mark.slow
def test_no_gradient_to_an_exponent_by_jvp_either_and_nan_passes():
  def to_exponent(a, b):
    _, residuals = fb.gates.power.forward(a, b)
    return fb.gates.power.backward(residuals, jnp.ones_like(a))[1]

  a, b = jnp.array([0.0, 0.0, -2.0, -2.0]), jnp.array([-1.0, 0.0, 0.5, 3.0])
  for tangents in ((jnp.ones(4), jnp.zeros(4)), (jnp.zeros(4), jnp.ones(4))):
    np.testing.assert_array_equal(jax.jvp(to_exponent, (a, b), tangents), 0)
  nan = jnp.full(3, jnp.nan)
  sides = jnp.array([-2.0, 0.0, 2.0])
  assert np.isnan(to_exponent(sides, nan)).all()
  assert np.isnan(to_exponent(nan, sides)).all()


# --- Published numbers (REFERENCES of the project) ------------------------------------------------


def solved(name):
  return fb.circuit.example(name).trace()


@pytest.mark.parametrize("name", fb.circuit.EXAMPLES)
def test_every_example_has_values_and_agrees_with_jax_grad(name):
  check = fb.verify.check_circuit(solved(name))
  assert (check.agrees, check.kinks) == (True, ())


WHOLE = [
  ("cs231n", -12, {"x": -4, "y": -4, "z": 3}),
  ("cs224n", 6, {"x": 2, "y": 5, "z": 0}),
  ("max", -20, {"x": -8, "y": 6, "z": 2, "w": 0}),
  ("single-gate", -12, {"x": -4, "y": 3}),
  ("add", 6, {"x": 2, "y": 2}),
  ("multiply", -48, {"x": -16, "y": 12, "z": -24}),
]


@pytest.mark.parametrize(("name", "value", "gradients"), WHOLE)
def test_examples_in_whole_numbers(name, value, gradients):
  t = solved(name)
  assert (t.value, t.gradients) == (value, gradients)


def test_the_neuron_of_cs231n():
  t = solved("neuron")
  published = {
    "w0": -0.1966119332, "x0": 0.3932238665, "w1": -0.3932238665, "x1": -0.5898357997,
    "w2": 0.1966119332,
  }  # fmt: skip
  np.testing.assert_allclose(t.value, 0.7310585786, atol=5e-11, rtol=0)
  np.testing.assert_allclose(
    [t.gradients[name] for name in published], [*published.values()], atol=5.1e-11, rtol=0
  )
  wires = {gate.op: (f"{gate.value:.2f}", f"{gate.upstream:.2f}") for gate in t.gates}
  assert wires["exp"] == ("0.37", "-0.53")
  assert wires["add"] == ("1.37", "-0.53")  # The last one: 1 + e^-z.
  assert wires["negate"] == ("-1.00", "-0.20")
  # The sigmoid as one gate is the same.
  np.testing.assert_allclose(solved("sigmoid").value, 2 * t.value, rtol=1e-15)
  np.testing.assert_allclose(solved("sigmoid").gradients["z"], 2 * t.gradients["w2"], rtol=1e-15)


def test_mazur():
  t = solved("mazur")
  np.testing.assert_allclose(
    [t.values["h2_1"], t.values["h2_2"]], [0.75136507, 0.772928465], atol=5e-9, rtol=0
  )
  np.testing.assert_allclose(t.value, 0.2983711087600027, rtol=1e-15)
  second = [t.gradients[f"w2_{i}_{j}"] for j in (1, 2) for i in (1, 2)]
  published = [0.0821670406, 0.0826676278, -0.0226025405, -0.0227402422]
  np.testing.assert_allclose(second, published, atol=5.1e-11, rtol=0)
  start = {n.name: n.value for n in t.circuit.nodes if n.op == "input"}
  after = {
    1: [0.1497807161, 0.1995614323, 0.2497511436, 0.2995022873],
    2: [0.3589164797, 0.4086661861, 0.5113012702, 0.5613701211],
  }
  stepped = {n: v - 0.5 * t.gradients[n] for n, v in start.items() if n.startswith("w")}
  for layer, weights in after.items():
    got = [stepped[f"w{layer}_{i}_{j}"] for j in (1, 2) for i in (1, 2)]
    np.testing.assert_allclose(got, weights, atol=5.1e-11, rtol=0)
  np.testing.assert_allclose(
    t.circuit.trace(**stepped).value, 0.29102777369360, atol=5.1e-15, rtol=0
  )


def test_softmax_cross_entropy_of_cs231n():
  net = fb.mlp([3, 3], bias=False)
  with jax.enable_x64(True):
    params = (fb.DenseParams(jnp.eye(3), None),)
    x = np.log([0.2, 0.3, 0.5])
    t = from_mlp(net, params, x, np.int32(1), fb.softmax_cross_entropy).trace()
  np.testing.assert_allclose([t.bars[f"z1_{j}"] for j in (1, 2, 3)], [0.2, -0.7, 0.5], rtol=1e-15)


def test_an_unknown_example_is_refused():
  with pytest.raises(ValueError, match="no example 'mazurr'; did you mean 'mazur'"):
    fb.circuit.example("mazurr")
