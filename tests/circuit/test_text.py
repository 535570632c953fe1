"""Tables and worked solutions; in both ∂ is of one gate, d of the output: one symbol, one value."""

import math
import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.circuit import EXAMPLES, Node, build, example, parse
from fbackprop.circuit.graph import GATES
from fbackprop.circuit.notation import derivative
from tests.support.circuits import solve_gate

SYMBOL = re.compile(r"(?<![\w∂])(?:∂\w+/∂[\w₀-₉]+|d\w+/d\w+)")


def values_of(steps):
  """What each derivative's symbol comes to in a worked solution: the last number of its line."""
  found = defaultdict(set)
  for line in steps.splitlines():
    body = line.partition("   (")[0].strip()
    symbol, equals, _ = body.partition(" = ")
    if equals and SYMBOL.fullmatch(symbol):
      found[symbol].add(body.rpartition(" = ")[2])
  return found


@st.composite
def texts(draw):
  """Statements that use the names before them, forks and wires that come twice among them."""
  names = ["x", "y"]
  lines = []
  for i in range(draw(st.integers(1, 6))):
    a, b, c = (draw(st.sampled_from(names)) for _ in range(3))
    form = draw(
      st.sampled_from(["{}*{}", "{}+{}*{}", "max({}, {}, {})", "{}**2 - {}", "sin({})*{}", "{}/2"])
    )
    lines.append(f"v{i} = {form.format(a, b, c)}")
    names.append(f"v{i}")
  return "; ".join(lines)


@given(texts(), st.sampled_from([2, 4, 9]))
def test_one_symbol_has_one_value(text, digits):
  """And the value is the trace's: ∂ the gate's local gradient, d that of the whole circuit."""
  circuit = parse(text)
  t = circuit.trace(**{name: {"x": 1.25, "y": -0.75}[name] for name in circuit.inputs})
  found = values_of(t.to_steps(digits=digits))
  assert {symbol: values for symbol, values in found.items() if len(values) > 1} == {}
  root = circuit.outputs[0][0]
  for node in circuit.nodes:
    if node.op != "constant":
      (value,) = found.pop(f"d{root}/d{node.name}")
      assert float(value) == pytest.approx(t.bars[node.name], rel=10.0 ** (1 - digits))
  for gate in t.gates:
    for name, local in zip(gate.inputs, gate.local, strict=True):
      if gate.inputs.count(name) == 1 and f"∂{gate.name}/∂{name}" in found:
        (value,) = found[f"∂{gate.name}/∂{name}"]
        assert float(value) == pytest.approx(local, rel=10.0 ** (1 - digits))
  assert all(symbol.startswith("∂") for symbol in found)


@given(texts())
def test_every_symbol_of_a_step_is_defined_by_a_line_of_its_own(text):
  """What stands on the right of a chain rule has a line, but for factors that are constants'."""
  circuit = parse(text)
  steps = circuit.trace(**dict.fromkeys(circuit.inputs, 0.5)).to_steps()
  defined = set(values_of(steps))
  assert set(SYMBOL.findall(steps)) <= defined


def test_the_check_finds_one_symbol_with_two_values():
  t = parse("y = x**2; f = x*y").trace(x=3.0)
  assert values_of(t.to_steps())["∂f/∂x"] == {"9"}
  assert values_of(t.to_steps())["df/dx"] == {"27"}
  confused = t.to_steps().replace("df/d", "∂f/∂")
  assert values_of(confused)["∂f/∂x"] == {"9", "27"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_too(name):
  assert all(len(values) == 1 for values in values_of(example(name).trace().to_steps()).values())


def test_the_table_and_the_picture_have_the_total_alone():
  """Of a variable that reaches the output along two paths."""
  t = parse("y = x**2; f = x*y").trace(x=3.0)
  assert "df/dx = 27 = 18 + 9" in t.to_text()
  assert "∂f" not in t.to_text()
  assert "local is ∂: the partial derivatives of each gate" in t.to_text()
  svg = t.to_svg()
  assert ">below it: df/d(wire)<" in svg
  assert "x, input: value 3, gradient 27 = 18 + 9." in svg
  assert "values and global gradients" in svg.lower()
  assert "∂" not in svg
  made = parse("x*y").trace(x=1.0, y=2.0).to_svg()  # Its output has no name in the picture.
  assert ">below it: d(output)/d(wire)<" in made


def test_a_weighted_sum_has_a_name_that_no_node_has():
  nodes = [Node("J", "input"), Node("J_total", "exp", ("J",)), Node("K", "sin", ("J",))]
  t = build(nodes, {"J_total": 1.0, "K": 2.0}).trace(J=0.5)
  found = values_of(t.to_steps())
  assert set(found) == {"∂J_total/∂J", "∂K/∂J"} | {
    f"dJ_total_total/d{name}" for name in ("J", "J_total", "K")
  }
  assert all(len(values) == 1 for values in found.values())


# --- What is written ------------------------------------------------------------------------------


def test_steps_of_every_form():
  """A power, negative factors, a wire that comes twice, several outputs, a dead gate, constants."""
  text = "J1 = x*x*2; J2 = J1**3 / -x; dead = 1/x - sqrt(2)"
  t = parse(text, {"J1": 1.0, "J2": 0.5}).trace(x=-2.0)
  assert (
    t.to_steps()
    == """\
Forward: the value of each gate
  x = -2
  J1 = x · x · 2 = (-2) · (-2) · 2 = 8
  g1 = J1 ** 3 = 8 ** 3 = 512
  g2 = -x = -(-2) = 2
  J2 = g1 / g2 = 512 / 2 = 256
  g3 = 1 / x = 1 / (-2) = -0.5
  g4 = sqrt(2) = 1.414
  dead = g3 - g4 = (-0.5) - 1.414 = -1.914
  J = 1 · J1 + 0.5 · J2 = 136

Local gradients ∂: the partial derivatives of each gate
  ∂J1/∂x₁ = x · 2 = -4
  ∂J1/∂x₂ = x · 2 = -4
  ∂g1/∂J1 = 3 · J1 ** (3 - 1) = 192
  ∂g2/∂x = -1
  ∂J2/∂g1 = 1 / g2 = 0.5
  ∂J2/∂g2 = -J2 / g2 = -128
  ∂g3/∂x = -g3 / x = -0.25
  ∂dead/∂g3 = 1
  ∂dead/∂g4 = -1

Global gradients d: along every path to J; upstream times local, summed over the outgoing wires
  dJ/ddead = 0
  dJ/dg4 = dJ/ddead · ∂dead/∂g4 = 0 · (-1) = 0
  dJ/dg3 = dJ/ddead · ∂dead/∂g3 = 0 · 1 = 0
  dJ/dJ2 = 0.5
  dJ/dg2 = dJ/dJ2 · ∂J2/∂g2 = 0.5 · (-128) = -64
  dJ/dg1 = dJ/dJ2 · ∂J2/∂g1 = 0.5 · 0.5 = 0.25
  dJ/dJ1 = dJ/dg1 · ∂g1/∂J1 + 1 = 0.25 · 192 + 1 = 48 + 1 = 49
  dJ/dx = dJ/dJ1 · ∂J1/∂x₁ + dJ/dJ1 · ∂J1/∂x₂ + dJ/dg2 · ∂g2/∂x + dJ/dg3 · ∂g3/∂x = \
49 · (-4) + 49 · (-4) - 64 · (-1) + 0 · (-0.25) = -196 - 196 + 64 + 0 = -328"""
  )


@pytest.mark.parametrize("op", GATES)
def test_the_formula_of_a_local_gradient_is_that_gradient(op):
  """What the board says, computed."""
  gate = GATES[op]
  xs = (1.75, 0.5, 3.0)[: gate.arity or 3]
  t = solve_gate(op, xs)
  for i, slope in enumerate(t.gates[0].local):
    formula = derivative(gate, t.circuit.inputs, "y", i)
    if formula:
      known = {
        **vars(math),
        "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "Φ": lambda v: math.erfc(-v / math.sqrt(2)) / 2,
        "φ": lambda v: math.exp(-v * v / 2) / math.sqrt(2 * math.pi),
        **t.values,
      }
      code = formula.replace("·", "*").replace("²", "**2")
      assert math.isclose(eval(code, known), slope, rel_tol=1e-12), formula  # noqa: S307


def test_steps_say_where_no_gradient_goes_to_an_exponent():
  lines = parse("f = x**n").trace(x=-2.0, n=3.0).to_steps().splitlines()
  assert "  ∂f/∂n = 0   (no gradient to the exponent: the base isn't above 0)" in lines
  assert "  ∂f/∂x = n · x ** (n - 1) = 12" in lines
  assert "  ∂f/∂n = f · log(x) = 5.545" in parse("f = x**n").trace(x=2.0, n=3.0).to_steps()


def test_a_plus_of_the_format_is_written_once():
  t = parse("q = x + y; f = q * q").trace(x=3.0, y=4.0)
  lines = t.to_steps(digits="+.2f").splitlines()
  assert "  q = x + y = +3.00 + 4.00 = +7.00" in lines
  assert "  f = q · q = 7.00 · 7.00 = +49.00" in lines
  assert "df/dx = +14.00\n" in t.to_text(digits="+.2f")
  assert "+ +" not in t.to_steps(digits="+.2f") + t.to_text(digits="+.2f")


def test_gates_that_are_written_as_formulas():
  lines = parse("a = square(x); b = reciprocal(a); c = b - -x").trace(x=-2.0).to_steps()
  for line in ("a = x² = (-2)² = 4", "b = 1 / a = 1 / 4 = 0.25", "c = b - g1 = 0.25 - 2 = -1.75"):
    assert f"  {line}\n" in lines


def test_wide_gates_are_shown_in_short():
  text = "+".join(f"x{i}" for i in range(20))
  t = parse(text).trace(**{f"x{i}": float(i) for i in range(20)})
  assert "x5=5, ..., x19=19  190" in t.to_text()
  assert "g1 = x0 + x1 + x2 + x3 + x4 + x5 + ... + x19 = 0 + 1" in t.to_steps()


def test_a_gate_of_the_reader_brings_its_notation():
  square = fb.gates.square._replace(symbol="sq", formula="{x} + {x}")
  steep = fb.gates.leaky_relu_with(0.25)
  t = parse("sq(steep(x))", gates={"sq": square, "steep": steep}).trace(x=-4.0)
  lines = t.to_steps().splitlines()
  assert "  ∂g1/∂x = 0.25   (1 above 0, else the slope)" in lines
  assert "  ∂g2/∂g1 = g1 + g1 = -2" in lines
  assert ">sq</text>" in t.to_svg()
