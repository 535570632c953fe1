"""Two notations for two things: ∂ of one gate, d of the output. One symbol, one value."""

import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbackprop.circuit import EXAMPLES, Node, build, example, parse

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
  assert "local is ∂: of each gate by one of its inputs" in t.to_text()
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
