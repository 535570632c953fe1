"""Circuits: what is one, what a trace finds, and the numbers that others have published.

The gates' rules themselves are rows of the table (`test_laws.py`): against autodiff, differences
and at kinks, in batches of random points. Here they are asked for one by one, as local gradients.
"""

import math
import sys
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import Node, build, from_mlp, parse
from fbackprop.circuit.graph import GATES

CS224N = "(x+y)*max(y,z)"
INPUTS = (Node("x", "input"), Node("y", "input"))


def gradients_of(text, **values):
  return parse(text).trace(**values).gradients


def test_a_trace_has_both_numbers_of_every_wire():
  t = parse(CS224N).trace(x=1.0, y=2.0, z=0.0)
  assert (t.value, t.gradients) == (6.0, {"x": 2.0, "y": 5.0, "z": 0.0})
  assert t.contributions["y"] == (2.0, 3.0)
  assert [tuple(gate) for gate in t.gates] == [
    ("g1", "add", ("x", "y"), 3.0, (1.0, 1.0), 2.0, (2.0, 2.0)),
    ("g2", "max", ("y", "z"), 2.0, (1.0, 0.0), 3.0, (3.0, 0.0)),
    ("g3", "multiply", ("g1", "g2"), 6.0, (2.0, 3.0), 1.0, (2.0, 3.0)),
  ]
  assert list(t.values) == list(t.bars) == ["x", "y", "g1", "z", "g2", "g3"]
  assert t.circuit.inputs == ("x", "y", "z")


def test_several_outputs_are_a_weighted_sum():
  t = parse("J1 = x*y; J2 = J1 + x", {"J1": 1.0, "J2": 0.5}).trace(x=3.0, y=4.0)
  assert t.value == 12 + 0.5 * 15
  assert t.gradients == {"x": 1.5 * 4 + 0.5, "y": 1.5 * 3}
  assert t.contributions["J1"] == (0.5, 1.0)  # By its wire, and as an output.


def test_what_leads_to_no_output_gets_no_gradient_and_spoils_none():
  t = parse("unused = log(x) * x; f = 2*x").trace(x=0.0)
  assert t.gradients == {"x": 2.0}
  assert t.gates[0].downstream == (0.0,)
  assert t.gates[0].upstream == 0.0
  value, gradients = t.circuit.value_and_grad(x=0.0)
  assert (value, gradients["x"]) == (0, 2)
  assert parse("f = 2*x", inputs=("x",)).trace(x=1.0).bars == {"c1": 1.0, "x": 2.0, "f": 1.0}


# --- What is a circuit ----------------------------------------------------------------------------


def test_nodes_may_come_in_any_order():
  shuffled = [Node("f", "multiply", ("q", "x")), Node("q", "add", ("x", "y")), *INPUTS]
  c = build(shuffled, "f")
  assert [node.name for node in c.nodes] == ["x", "y", "q", "f"]
  assert build(c.nodes).nodes == c.nodes  # An order that is one stays.
  assert c.trace(x=2.0, y=3.0).gradients == {"x": 7.0, "y": 2.0}


@pytest.mark.parametrize(
  ("nodes", "said"),
  [
    ([], "there is no node"),
    ([*INPUTS, Node("x", "constant", (), 1.0)], "two nodes have the name 'x'"),
    ([Node("a", "exp", ("b",)), Node("b", "log", ("a",))], "there is a cycle: b -> a -> b"),
    ([Node("a", "exp", ("a",))], "there is a cycle: a -> a"),
    ([*INPUTS, Node("f", "add", ("x", "yy"))], "add 'f' has a wire from 'yy', which is no node; "
                                               "did you mean 'y'?"),
    ([*INPUTS, Node("f", "sigmoid", ("x", "y"))], "'f': gate sigmoid takes 1 input, got 2"),
    ([*INPUTS, Node("f", "subtract", ("x",))], "'f': gate subtract takes 2 inputs, got 1"),
    ([*INPUTS, Node("f", "max")], "'f': gate max takes at least 1 input, got 0"),
    ([*INPUTS, Node("f", "sigmod", ("x",))], "'f' has the op 'sigmod', which is no gate; did you "
                                             "mean 'sigmoid'?"),
    ([*INPUTS, Node("f", "exp", ("x",), 3.0)], "'f' is a gate: its value is computed"),
    ([*INPUTS, Node("f", "input", ("x",))], "input 'f' can have no wire that comes in, got x"),
    ([Node("c", "constant", (), math.inf)], "value of 'c' must be finite, got inf"),
  ],
)  # fmt: skip
def test_what_is_no_circuit_is_refused_by_name(nodes, said):
  with pytest.raises(fb.circuit.CircuitError) as refused:
    build(nodes)
  assert said in str(refused.value)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (([("x", "input")],), "a node must be a Node"),
    (([Node("c", "constant")],), "value of 'c' must be a number, got NoneType None"),
    (([Node("", "input")],), "the name of a node must be a text"),
    (([Node("f", "exp", ["x"])],), "inputs of 'f' must be a tuple"),
    ((INPUTS, {"x": True}), "weight of the output 'x' must be a number"),
    ((INPUTS, "x", {"exp": jnp.exp}), "gate 'exp' must be a Gate"),
  ],
)
def test_what_is_of_another_type_is_refused(arguments, said):
  with pytest.raises(TypeError) as refused:
    build(*arguments)
  assert said in str(refused.value)


def test_outputs_and_names_of_gates_are_checked():
  for outputs, said in (("z", "output 'z' is no node"), ({}, "there is no output")):
    with pytest.raises(ValueError, match=said):
      build(INPUTS, outputs)
  with pytest.raises(ValueError, match="a gate can't be called 'input'"):
    build(INPUTS, gates={"input": fb.gates.exp})


def test_a_long_cycle_is_named_in_short():
  nodes = [Node(f"n{i}", "exp", (f"n{(i + 1) % 5000}",)) for i in range(5000)]
  with pytest.raises(ValueError, match=r"cycle: \.\.\. -> n7 -> n6") as refused:
    build(nodes)
  assert len(str(refused.value)) < 200


def test_the_reader_may_bring_gates():
  first = {"max": fb.gates.max_with(ties="first")}
  assert gradients_of("max(x, y)", x=1.0, y=1.0) == {"x": 0.5, "y": 0.5}
  assert parse("max(x, y)", gates=first).trace(x=1.0, y=1.0).gradients == {"x": 1.0, "y": 0.0}
  leaky = {"leaky": fb.gates.leaky_relu_with(0.2)}
  assert parse("leaky(x)", gates=leaky).trace(x=-1.0).gradients == {"x": 0.2}


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("values", "said"),
  [
    ({"x": 1.0}, "a value is missing for y, z"),
    ({"x": 1.0, "y": 2.0, "z": 0.0, "w": 1.0}, "there is no input 'w'; there are: x, y, z"),
    ({"x": 1.0, "y": math.nan, "z": 0.0}, "y must be finite, got nan"),
    ({"x": 1.0, "y": 1, "z": np.ones(3)}, r"trace needs a number for z, got float64\[3\]"),
  ],
)
def test_values_that_do_not_fit_are_refused(values, said):
  with pytest.raises(fb.circuit.CircuitError, match=said):
    parse(CS224N).trace(**values)


def test_a_trace_takes_any_number_and_gives_float64():
  with pytest.raises(TypeError, match="x must be a number, got str '1'"):
    parse("x").trace(x="1")
  third = parse("x / 3").trace(x=jnp.float32(1))
  assert (third.value, third.gradients["x"]) == (1 / 3, 1 / 3)
  assert parse("x / 3").trace(x=1) == third


def test_arrays_go_through_entry_by_entry():
  x = jnp.array([1.0, -2.0, 3.0])
  value, gradients = parse("(x+y)*max(y,z)").value_and_grad(x=x, y=2.0, z=np.zeros(3, np.float32))
  np.testing.assert_array_equal(value, [6, 0, 10])
  np.testing.assert_array_equal(gradients["y"], [5, 2, 7])
  assert {g.dtype for g in (value, *gradients.values())} == {jnp.dtype("float32")}
  assert {g.shape for g in (value, *gradients.values())} == {(3,)}
  with jax.enable_x64(True):
    alone = parse("x*y").value_and_grad(x=1.0, y=2)[0]
    assert (alone.dtype, alone.weak_type) == (jnp.dtype("float64"), False)
    assert parse("2*x").value_and_grad(x=x)[1]["x"].dtype == jnp.dtype("float32")


@pytest.mark.parametrize(
  ("y", "said"),
  [
    (np.ones(2, np.float32), r"y must have shape \[3\], got float32\[2\]"),
    (np.ones(3, np.float16), r"y must have dtype float32, got float16\[3\]"),
    (np.ones(3, np.int32), "y must have a floating dtype"),
    (np.ones(3), "dtype float64 needs x64"),
    ("2", "y must be an array or a number, got str '2'"),
    (True, "y must be an array or a number, got bool True"),
  ],
)
def test_arrays_that_differ_are_refused(y, said):
  with pytest.raises((TypeError, ValueError), match=said):
    parse("x*y").value_and_grad(x=jnp.ones(3), y=y)


def test_value_and_grad_is_a_pure_function():
  c = parse("exp(sin(x)*y) / (y**2 + softplus(x))")
  x, y = jnp.array([0.3, -1.2, 2.0]), jnp.array([1.5, 0.4, -0.7])

  def theirs(x, y):
    return jnp.exp(jnp.sin(x) * y) / (y * y + jax.nn.softplus(x))

  def by_x(x, y):
    return c.value_and_grad(x=x, y=y)[1]["x"]

  with jax.enable_x64(True):
    x, y = x.astype(float), y.astype(float)
    want = jax.vmap(jax.value_and_grad(theirs, (0, 1)))(x, y)
    for got in (
      c.value_and_grad(x=x, y=y),
      jax.jit(c.value_and_grad)(x=x, y=y),
      jax.vmap(lambda x, y: c.value_and_grad(x=x, y=y))(x, y),
    ):
      np.testing.assert_allclose(got[0], want[0], rtol=1e-13)
      np.testing.assert_allclose([got[1]["x"], got[1]["y"]], want[1], rtol=1e-13)
    second = jax.jvp(by_x, (x, y), (jnp.ones(3), jnp.zeros(3)))[1]
    hessian = jax.vmap(jax.grad(jax.grad(theirs)))(x, y)
    np.testing.assert_allclose(second, hessian, rtol=1e-12)
    # A trace is the same pass.
    t = c.trace(x=float(x[0]), y=float(y[0]))
    value, gradients = c.value_and_grad(x=float(x[0]), y=float(y[0]))
    assert (t.value, t.gradients) == (value, gradients)


# --- Local gradients ------------------------------------------------------------------------------

# Ordinary points, in every gate's domain, away from kinks; two inputs for gates of any number.
POINTS = [(0.7, 0.3), (1.3, -0.4), (0.2, 2.1)]


def traced(op, xs):
  names = [f"x{i}" for i in range(len(xs))]
  c = build([*(Node(name, "input") for name in names), Node("y", op, tuple(names))])
  return c.trace(**dict(zip(names, xs, strict=True))).gates[0]


def shifted(op, xs, i, step):
  return traced(op, [x + step * (k == i) for k, x in enumerate(xs)]).value


@pytest.mark.parametrize("op", GATES)
def test_local_gradients_are_those_of_jax_grad_and_of_differences(op):
  gate = GATES[op]
  for point in POINTS:
    xs = point[: gate.arity or 2]
    local = traced(op, xs).local
    with jax.enable_x64(True):
      wide = [jnp.asarray(x, float) for x in xs]
      theirs = jax.grad(lambda *xs, gate=gate: gate.forward(*xs)[0], tuple(range(len(xs))))(*wide)
    np.testing.assert_allclose(local, theirs, rtol=1e-12, atol=1e-13)
    step = 1e-5
    for i, slope in enumerate(local):
      difference = (shifted(op, xs, i, step) - shifted(op, xs, i, -step)) / (2 * step)
      assert abs(slope - difference) < 1e-8 * max(1, abs(slope))


@pytest.mark.parametrize(
  ("op", "xs", "local"),
  [
    ("abs", (0.0,), (0.0,)),
    ("relu", (0.0,), (0.0,)),
    ("leaky_relu", (0.0,), (0.01,)),
    ("relu6", (0.0,), (0.0,)),
    ("relu6", (6.0,), (0.0,)),
    ("hard_tanh", (-1.0,), (0.0,)),
    ("hard_tanh", (1.0,), (0.0,)),
    ("max", (2.0, 2.0), (0.5, 0.5)),
    ("max", (2.0, 2.0, 2.0), (1 / 3, 1 / 3, 1 / 3)),
    ("max", (2.0, 1.0, 2.0), (0.5, 0.0, 0.5)),
    ("min", (2.0, 2.0, 3.0), (0.5, 0.5, 0.0)),
  ],
)
def test_local_gradients_at_kinks_are_the_policy_and_between_the_slopes(op, xs, local):
  gate = traced(op, xs)
  assert gate.local == local
  step = 1e-6
  for i, slope in enumerate(local):
    right = (shifted(op, xs, i, step) - gate.value) / step
    left = (gate.value - shifted(op, xs, i, -step)) / step
    assert min(left, right) - 1e-9 <= slope <= max(left, right) + 1e-9


@pytest.mark.parametrize(
  ("a", "b", "local"),
  [
    (0.0, 2.0, (0.0, 0.0)),
    (0.0, 1.0, (1.0, 0.0)),
    (0.0, 0.0, (0.0, 0.0)),
    (-2.0, 3.0, (12.0, 0.0)),
    (-2.0, -1.0, (-0.25, 0.0)),
    (2.0, 3.0, (12.0, 8 * math.log(2))),
  ],
)
def test_powers_of_zero_and_of_negative_numbers(a, b, local):
  assert traced("power", (a, b)).local == local


def test_the_square_root_is_infinitely_steep_at_zero():
  assert traced("sqrt", (0.0,)).local == (math.inf,)


# --- Published numbers (REFERENCES of the project) ------------------------------------------------


def solved(name):
  return fb.circuit.example(name).trace()


@pytest.mark.parametrize("name", fb.circuit.EXAMPLES)
def test_every_example_has_values_and_agrees_with_jax_grad(name):
  check = fb.verify.check_circuit(solved(name))
  assert check.agrees
  assert check.kinks == ()


@pytest.mark.parametrize(
  ("name", "value", "gradients"),
  [
    ("cs231n", -12, {"x": -4, "y": -4, "z": 3}),
    ("cs224n", 6, {"x": 2, "y": 5, "z": 0}),
    ("max", -20, {"x": -8, "y": 6, "z": 2, "w": 0}),
    ("single-gate", -12, {"x": -4, "y": 3}),
    ("add", 6, {"x": 2, "y": 2}),
    ("multiply", -48, {"x": -16, "y": 12, "z": -24}),
  ],
)
def test_examples_in_whole_numbers(name, value, gradients):
  t = solved(name)
  assert (t.value, t.gradients) == (value, gradients)


def test_the_fork_of_cs224n():
  assert solved("cs224n").contributions["y"] == (2, 3)


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


# --- Networks -------------------------------------------------------------------------------------


def network_gradients(net, params, x, target, loss):
  """Those of `fb.value_and_grad`, by the names that the circuit gives."""
  value, (grads, x_bar) = fb.value_and_grad(net, loss, input_gradient=True)(
    params, x[None], target[None]
  )
  grads, x_bar = jax.device_get((grads, x_bar))
  found = {f"x{i + 1}": x_bar[0, i] for i in range(x_bar.shape[1])}
  for depth, own in enumerate((g for g in grads if g), 1):
    for i, j in np.ndindex(own.w.shape):
      found[f"w{depth}_{i + 1}_{j + 1}"] = own.w[i, j]
    for j in range(own.w.shape[1]):
      found |= {} if own.b is None else {f"b{depth}_{j + 1}": own.b[j]}
  return float(value), found


def compare(net, target, loss, scale=1.0):
  with jax.enable_x64(True):
    params = jax.tree.map(lambda p: p * scale, net.init(jax.random.key(3)))
    x = jax.random.normal(jax.random.key(4), (3,), float)
    t = from_mlp(net, params, x, target, loss).trace()
    value, grads = network_gradients(net, params, x, jnp.asarray(target), loss)
  assert set(t.gradients) == set(grads)
  np.testing.assert_allclose(t.value, value, rtol=1e-12)
  largest = max(float(abs(g)) for g in grads.values())
  for name, grad in grads.items():
    assert abs(t.gradients[name] - grad) <= 1e-12 * largest, name
  return t


@pytest.mark.parametrize(
  "net",
  [
    fb.mlp([3, 4, 2], dtype=jnp.float64),
    fb.mlp([3, 2, 3, 2], fb.tanh, output_activation=fb.sigmoid, dtype=jnp.float64),
    fb.mlp([3, 4, 2], fb.gelu, bias=False, dtype=jnp.float64),
    fb.mlp([3, 4, 2], fb.mish, dtype=jnp.float64),
    fb.mlp([3, 2], dtype=jnp.float64),
    fb.mlp([3, 4, 2], fb.activation(fb.gates.leaky_relu_with(0.3)), dtype=jnp.float64),
  ],
)
def test_a_network_has_the_gradients_of_value_and_grad(net):
  compare(net, np.array([0.3, -0.8]), fb.squared_error)


@pytest.mark.parametrize("target", [np.int32(1), np.array([0.2, 0.0, 0.8]), np.array([0.5, 1, 2])])
@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_naive_softmax_gates_are_good_to_the_stated_bound(target, scale):
  t = compare(fb.mlp([3, 3], dtype=jnp.float64), target, fb.softmax_cross_entropy, scale)
  logits = [abs(t.values[f"z1_{j}"]) for j in (1, 2, 3)]
  assert max(logits) < 300
  assert scale == 1 or max(logits) > 100


def test_every_weight_is_on_a_wire_of_its_own():
  with jax.enable_x64(True):
    c = from_mlp(
      fb.mlp([2, 3, 1], dtype=jnp.float64), fb.mlp([2, 3, 1]).init(jax.random.key(0)),
      np.ones(2), np.zeros(1), fb.squared_error,
    )  # fmt: skip
  ops = Counter(node.op for node in c.nodes)
  assert ops["multiply"] == 2 * 3 + 3 * 1 + 1  # And ½ of the loss.
  assert ops["relu"] == 3
  assert len(c.inputs) == 2 + (2 * 3 + 3) + (3 * 1 + 1)
  assert c.trace(w1_1_1=0.5).values["w1_1_1"] == 0.5


def test_two_activations_of_one_name_keep_their_rules():
  half = fb.activation(fb.gates.relu_with(at_zero=0.5))
  net = fb.serial(fb.dense(1, 1), half, half, fb.relu)
  params = (fb.DenseParams(np.zeros((1, 1)), np.zeros(1)), (), (), ())
  t = from_mlp(net, params, np.ones(1), np.ones(1), fb.squared_error).trace()
  assert [(g.op, g.local) for g in t.gates[2:5]] == [
    ("relu_2", (0.5,)), ("relu_2", (0.5,)), ("relu", (0.0,))
  ]  # fmt: skip
  check = fb.verify.check_circuit(t)
  assert (check.ok, check.kinks) == (True, ("h1_1", "h1_1_", "h1_1__"))


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"net": fb.mlp([2, 2], output_activation=fb.softmax)}, "layer 'softmax'; softmax_cross_ent"),
    ({"net": fb.serial(fb.dense(2, 2), fb.dropout(0.5))}, "it has the layer 'dropout'"),
    ({"net": fb.relu.forward}, "net must be a Layer"),
    ({"loss": fb.sigmoid_cross_entropy}, "loss must be squared_error or softmax_cross_entropy"),
    ({"x": np.ones((1, 2))}, r"x must have shape \[D_in\]"),
    ({"x": np.ones(3)}, r"w of layer 1 must have shape \[3, D_out\]"),
    ({"target": np.ones(3)}, r"target must have shape \[2\]"),
    ({"loss": fb.softmax_cross_entropy, "target": np.int32(2)}, "must be a label from 0 to 1"),
    ({"loss": fb.softmax_cross_entropy, "target": np.array(["a"])}, "must be a label or prob"),
    ({"loss": fb.softmax_cross_entropy, "target": np.zeros(2)}, "target is zero everywhere"),
  ],
)
def test_networks_that_cannot_be_expanded_are_refused(change, said):
  given = {"net": fb.mlp([2, 2]), "x": np.ones(2), "target": np.ones(2), "loss": fb.squared_error}
  given |= change
  layers = getattr(given["net"], "parts", ())
  params = tuple(
    fb.DenseParams(np.ones((2, 2)), np.ones(2)) if layer.name == "dense" else () for layer in layers
  )
  with pytest.raises((TypeError, ValueError), match=said):
    from_mlp(given["net"], params, given["x"], given["target"], given["loss"])


# --- Large ones -----------------------------------------------------------------------------------


def long_chain(n):
  """n gates, each of which forks x."""
  nodes = [Node("x", "input")]
  for i in range(n):
    nodes.append(Node(f"a{i}", ("add", "multiply")[i % 2], (nodes[-1].name, "x")))
  return nodes


def as_statements(n):
  steps = (f"a{i} = a{i - 1} {'+*'[i % 2]} x" for i in range(1, n))
  return "\n".join(["a0 = x + x", *steps])


def test_ten_thousand_gates_in_python_and_as_statements(monkeypatch):
  # x = -1: -2, 2, 1, -1, -2, ...: the gradient is a sum of 10,001 terms, and stays small.
  t = build(long_chain(10_000)).trace(x=-1.0)
  assert len(t.gates) == 10_000
  value, slope = -1.0, 1.0
  for i in range(10_000):
    value, slope = (value - 1, slope + 1) if i % 2 == 0 else (-value, value - slope)
  assert (t.value, t.gradients["x"]) == (value, slope)
  assert len(t.contributions["x"]) == 10_001
  again = parse(as_statements(10_000))
  assert [n.inputs for n in again.nodes] == [n.inputs for n in t.circuit.nodes]


def test_each_rule_is_called_once_forward_and_at_most_twice_backward():
  calls = Counter()

  def counted(gate):
    def forward(*xs):
      calls["forward"] += 1
      return gate.forward(*xs)

    def backward(residuals, y_bar):
      calls["backward"] += 1
      return gate.backward(residuals, y_bar)

    return gate._replace(forward=forward, backward=backward)

  gates = {op: counted(GATES[op]) for op in ("add", "multiply")}
  build(long_chain(300), gates=gates).trace(x=0.5)
  assert calls == {"forward": 300, "backward": 600}  # By its upstream gradient, and by 1.
  calls.clear()
  build(long_chain(300), gates=gates).value_and_grad(x=0.5)
  assert calls == {"forward": 300, "backward": 300}


def operations(function):
  """How many calls of Python and of C a function makes."""
  count = 0

  def profile(frame, event, argument):
    nonlocal count
    count += event in ("call", "c_call")

  before = sys.getprofile()
  sys.setprofile(profile)
  try:
    function()
  finally:
    sys.setprofile(before)
  return count


def wide(n):
  names = tuple(f"x{i}" for i in range(n))
  inputs = [Node(name, "input", (), 1.0) for name in names]
  return build([*inputs, Node("y", "multiply", names)]).trace()


def building(n):
  return partial(build, long_chain(n))


def sorting(n):
  return partial(build, long_chain(n)[::-1], "x")


def parsing(n):
  return partial(parse, as_statements(n))


def text_of_chain(n):
  return building(n)().trace(x=-1.0).to_text


def steps_of_chain(n):
  return building(n)().trace(x=-1.0).to_steps


def text_of_wide(n):
  return wide(n).to_text


def steps_of_wide(n):
  return wide(n).to_steps


@pytest.mark.parametrize(
  "work",
  [building, sorting, parsing, text_of_chain, steps_of_chain, text_of_wide, steps_of_wide],
)
def test_work_grows_linearly(work):
  work(10)()
  small, large = operations(work(200)), operations(work(800))
  assert large < 4.4 * small
