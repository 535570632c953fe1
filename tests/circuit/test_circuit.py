"""Circuits: what is one, what a trace finds, and that the work grows linearly."""

import math
import pickle
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import Node, build, parse
from fbackprop.circuit.graph import GATES
from tests.support.refusals import refusals

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
  assert (t.value, t.gradients) == (12 + 0.5 * 15, {"x": 1.5 * 4 + 0.5, "y": 1.5 * 3})
  assert t.contributions["J1"] == (0.5, 1.0)  # By its wire, and as an output.


def test_what_leads_to_no_output_gets_no_gradient_and_spoils_none():
  t = parse("unused = log(x) * x; f = 2*x").trace(x=0.0)
  assert (t.gradients, t.gates[0].downstream, t.gates[0].upstream) == ({"x": 2.0}, (0.0,), 0.0)
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


NO_CIRCUITS = [
  ([], "nodes is empty; give at least one node"),
  ([*INPUTS, Node("x", "constant", (), 1.0)], "two nodes are named 'x'"),
  ([Node("a", "exp", ("b",)), Node("b", "log", ("a",))], "the nodes form a cycle: b -> a -> b"),
  ([Node("a", "exp", ("a",))], "the nodes form a cycle: a -> a"),
  ([*INPUTS, Node("f", "add", ("x", "yy"))], "add 'f' has the input 'yy', which is no node; "
                                             "did you mean 'y'?"),
  ([*INPUTS, Node("f", "sigmoid", ("x", "y"))], "'f': gate sigmoid takes 1 input, got 2"),
  ([*INPUTS, Node("f", "subtract", ("x",))], "'f': gate subtract takes 2 inputs, got 1"),
  ([*INPUTS, Node("f", "max")], "'f': gate max takes at least 1 input, got 0"),
  ([*INPUTS, Node("f", "sigmod", ("x",))], "'f' has the unknown op 'sigmod'; did you mean "
                                           "'sigmoid'?"),
  ([*INPUTS, Node("f", "exp", ("x",), 3.0)], "'f' is a gate, whose value is computed"),
  ([*INPUTS, Node("f", "input", ("x",))], "input 'f' must have no inputs, got x"),
  ([Node("c", "constant", (), math.inf)], "value of 'c' must be finite, got inf"),
  ([Node("c", "constant", (), 10**400)], "value of 'c' must be finite, got an integer too large"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "said"), NO_CIRCUITS)
def test_what_is_no_circuit_is_refused_by_name(nodes, said):
  with pytest.raises(fb.circuit.CircuitError) as refused:
    build(nodes)
  assert said in str(refused.value)


OF_ANOTHER_TYPE = [
  (([("x", "input")],), "each node must be a Node"),
  (([Node("c", "constant")],), "value of 'c' must be a number, got NoneType None"),
  (([Node("", "input")],), "the name of a node must be a nonempty str"),
  (([Node("f", "exp", ["x"])],), "inputs of 'f' must be a tuple"),
  ((INPUTS, {"x": True}), "weight of the output 'x' must be a number"),
  ((INPUTS, "x", {"exp": jnp.exp}), "gate 'exp' must be a Gate"),
  (([Node("x", ["input"])],), "op of 'x' must be a str, got list"),
  (([Node(["x"], "input")],), "the name of a node must be a nonempty str, got list"),
  (([*INPUTS, Node("f", "exp", (["x"],))],), "inputs of 'f' must be a tuple of names"),
  ((5,), "nodes must be an iterable of Node, got int 5"),
  ((INPUTS, 5), "outputs must be a name, or a weight for each name, got int 5"),
  ((INPUTS, "x", 5), "gates must be a Gate for each op, got int 5"),
]


@pytest.mark.parametrize(("arguments", "said"), OF_ANOTHER_TYPE)
def test_what_is_of_another_type_is_refused(arguments, said):
  with pytest.raises(TypeError) as refused:
    build(*arguments)
  assert said in str(refused.value)


def test_outputs_and_names_of_gates_are_checked():
  for outputs, said in (("z", "output 'z' is no node"), ({}, "outputs is empty")):
    with pytest.raises(ValueError, match=said):
      build(INPUTS, outputs)
  with pytest.raises(ValueError, match="a gate cannot be named 'input'"):
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


def test_a_circuit_and_its_trace_are_values():
  c = parse(CS224N)
  t = c.trace(x=1.0, y=2.0, z=0.0)
  for value in (c, t):
    copy = pickle.loads(pickle.dumps(value))  # noqa: S301
    assert copy == value
    assert repr(copy) == repr(value)
    with pytest.raises(FrozenInstanceError):
      value.nodes = ()
  assert isinstance(t.circuit, fb.circuit.Circuit)
  assert len({c, parse(CS224N), parse("x*y")}) == 2
  assert replace(c, outputs=(("g1", 1.0),)).trace(x=1.0, y=2.0, z=0.0).value == 3.0


# --- Values ---------------------------------------------------------------------------------------


BAD_VALUES = [
  ({"x": 1.0}, "a value is missing for y, z"),
  ({"x": 1.0, "y": 2.0, "z": 0.0, "w": 1.0}, "there is no input 'w'; there are: x, y, z"),
  ({"x": 1.0, "y": math.nan, "z": 0.0}, "y must be finite, got nan"),
  ({"x": 1.0, "y": 10**5000, "z": 0.0}, "y must be finite, got an integer too large for float64"),
  ({"x": 1.0, "y": 1, "z": np.ones(3)}, r"trace needs a number for z, got float64\[3\]"),
]


test_values_that_do_not_fit_are_refused = refusals(
  lambda values: parse(CS224N).trace(**values), BAD_VALUES, fb.circuit.CircuitError
)


def test_a_trace_takes_any_number_and_gives_float64():
  with pytest.raises(TypeError, match="x must be a number, got str '1'"):
    parse("x").trace(x="1")
  third = parse("x / 3").trace(x=jnp.float32(1))
  assert (third.value, third.gradients["x"]) == (1 / 3, 1 / 3)
  assert parse("x / 3").trace(x=1) == third


def test_numbers_keep_their_sign_and_size():
  for text in ("x/-0.0", "zero = -0.0; x/zero"):
    c = parse(text)
    assert c.trace(x=1.0).value == c.value_and_grad(x=1.0)[0] == -math.inf
    assert fb.verify.check_circuit(c.trace(x=1.0)).agrees
  large = build([Node("c", "constant", (), 10**300), Node("x", "input"),
                 Node("f", "divide", ("x", "c"))])  # fmt: skip
  assert large.trace(x=10**300).value == 1
  assert fb.verify.check_circuit(large.trace(x=1)).agrees
  with pytest.raises(fb.circuit.CircuitError, match="x must be finite, got an integer too large"):
    large.value_and_grad(x=-(10**400))


def test_an_input_may_have_any_name():
  c = parse("self * circuit + given")
  at = {"self": 2.0, "circuit": 3.0, "given": 1.0}
  assert c.trace(**at).gradients == {"self": 3.0, "circuit": 2.0, "given": 1.0}
  assert c.value_and_grad(**at)[0] == 7


@pytest.mark.slow
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


BAD_ARRAYS = [
  (np.ones(2, np.float32), r"y must have shape \[3\], got float32\[2\]"),
  (np.ones(3, np.float16), r"y must have dtype float32, got float16\[3\]"),
  (np.ones(3, np.int32), "y must have a floating dtype"),
  (np.ones(3), "dtype float64 needs x64"),
  ("2", "y must be an array or a number, got str '2'"),
  (True, "y must be an array or a number, got bool True"),
]


test_arrays_that_differ_are_refused = refusals(
  lambda y: parse("x*y").value_and_grad(x=jnp.ones(3), y=y), BAD_ARRAYS, TypeError, ValueError
)


@pytest.mark.slow
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


@pytest.mark.slow
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


def chain(n):
  return build(long_chain(n)).trace(x=-1.0)


WORK = {
  "building": lambda n: partial(build, long_chain(n)),
  "sorting": lambda n: partial(build, long_chain(n)[::-1], "x"),
  "parsing": lambda n: partial(parse, as_statements(n)),
  "tracing": lambda n: partial(build(long_chain(n)).trace, x=-1.0),
  "text of a chain": lambda n: chain(n).to_text,
  "steps of a chain": lambda n: chain(n).to_steps,
  "text of a wide gate": lambda n: wide(n).to_text,
  "steps of a wide gate": lambda n: wide(n).to_steps,
}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_work_grows_linearly(work):
  WORK[work](10)()
  small, large = (operations(WORK[work](n)) for n in (200, 800))
  assert large < 4.4 * small
