"""`fbackprop circuit`: what it prints, writes, refuses and returns; and the witness behind it."""

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import fbackprop as fb
from fbackprop.circuit import graph, parse
from fbackprop.cli import main
from fbackprop.cli.circuit import ExampleName
from fbackprop.verify import check_circuit

CS224N = ("(x+y)*max(y,z)", "--at", "x=1", "y=2", "z=0")
TABLE = """\
gate  op        inputs      value  local  upstream  downstream
g1    add       x=1, y=2    3      1, 1   2         2, 2
g2    max       y=2, z=0    2      1, 0   3         3, 0
g3    multiply  g1=3, g2=2  6      2, 3   1         2, 3

g3 = 6
dg3/dx = 2
dg3/dy = 5 = 2 + 3
dg3/dz = 0

local is ∂: of each gate by one of its inputs, the others held; d: along every path to g3

jax.grad agrees, in float64: largest error 0 of a gradient's terms
"""


def circuit(*arguments):
  return main(["circuit", *map(str, arguments)])


def refused(capsys, *arguments):
  """What stands on stderr when the command is refused with code 2, by us or by tyro."""
  try:
    code = circuit(*arguments)
  except SystemExit as ended:
    code = ended.code
  assert code == 2
  said = capsys.readouterr()
  assert said.out == ""
  return said.err


def test_the_table(capsys):
  assert circuit(*CS224N) == 0
  assert capsys.readouterr().out == TABLE


def test_the_steps(capsys):
  assert circuit(*CS224N, "--steps") == 0
  lines = capsys.readouterr().out.splitlines()
  assert "  g3 = g1 · g2 = 3 · 2 = 6" in lines
  assert "  ∂g2/∂y = 1   (to the largest input)" in lines
  assert "  ∂g3/∂g1 = g2 = 2" in lines
  assert "  dg3/dy = dg3/dg1 · ∂g1/∂y + dg3/dg2 · ∂g2/∂y = 2 · 1 + 3 · 1 = 2 + 3 = 5" in lines
  forward, backward = (lines.index(line) for line in lines if line.startswith(("Forw", "Global")))
  assert forward < backward


PAGE = Path(__file__).parents[1] / "docs" / "circuits.md"
SHOWN = re.findall(r"```console\n\$ fbackprop (.*)\n((?:.*\n)*?)```", PAGE.read_text("utf-8"))


@pytest.mark.parametrize(("command", "shown"), SHOWN)
def test_the_page_shows_what_is_printed(capsys, command, shown):
  code = main(shlex.split(command))
  said = capsys.readouterr()
  assert said.out + said.err == shown
  assert code == 2 * shown.startswith("fbackprop: ")


def test_the_page_has_its_examples():
  assert len(SHOWN) == 2


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

Local gradients ∂: of each gate by one of its inputs, the others held
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


@pytest.mark.parametrize("op", graph.GATES)
def test_the_formula_of_a_local_gradient_is_that_gradient(op):
  """What the board says, computed."""
  from fbackprop.circuit.notation import derivative

  gate = graph.GATES[op]
  xs = (1.75, 0.5, 3.0)[: gate.arity or 3]
  names = ("a", "b", "c")[: len(xs)]
  c = graph.build([*(graph.Node(n, "input") for n in names), graph.Node("y", op, names)])
  traced = c.trace(**dict(zip(names, xs, strict=True))).gates[0]
  for i, slope in enumerate(traced.local):
    formula = derivative(op, names, "y", i)
    if formula:
      known = {
        **vars(math),
        "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "Φ": lambda v: math.erfc(-v / math.sqrt(2)) / 2,
        "φ": lambda v: math.exp(-v * v / 2) / math.sqrt(2 * math.pi),
        **dict(zip(names, xs, strict=True)),
        "y": traced.value,
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


@pytest.mark.parametrize("name", get_args(ExampleName))
def test_every_example_is_shown(capsys, name):
  assert circuit("--example", name) == 0
  assert "jax.grad agrees" in capsys.readouterr().out


def test_the_command_knows_every_example():
  assert get_args(ExampleName) == tuple(fb.circuit.EXAMPLES)


def test_values_of_an_example_can_be_changed(capsys):
  assert circuit("--example", "cs231n", "--at", "z=1") == 0
  assert "df/dx = 1\n" in capsys.readouterr().out
  assert "no input 'zz'; did you mean 'z'?" in refused(
    capsys, "--example", "cs231n", "--at", "zz=1"
  )


def test_several_outputs_and_digits(capsys):
  text = "J1 = x*y; J2 = J1 / 3"
  flags = ("--at", "x=1", "y=2", "--outputs", "J1=1", "J2=0.5", "--digits")
  assert circuit(text, *flags, ".2f") == 0
  assert "dJ/dx = 2.33\n" in capsys.readouterr().out
  assert circuit(text, *flags, "7") == 0
  assert "dJ/dx = 2.333333\n" in capsys.readouterr().out


def test_an_expression_may_begin_with_a_minus(capsys):
  assert circuit("-x*y", "--at", "x=-1", "y=2") == 0
  assert "dg2/dx = -2\n" in capsys.readouterr().out
  assert circuit("-2*3") == 0


def test_handwriting(capsys):
  """What a lecture's board has, with a pasted minus, and the names as Python reads them."""
  assert circuit("σ(w₁·x − b)²", "--at", "w₁=2", "x=\N{MINUS SIGN}1", "b=1e\N{MINUS SIGN}3") == 0
  said = capsys.readouterr().out
  assert "w1=2, x=-1" in said
  assert "b=0.001" in said
  decomposed = "\u1112\u1161\u11ab"  # As some systems hand on a name that is typed as 한.
  assert circuit(f"{decomposed}^2", "--at", f"{decomposed}=3") == 0
  assert "dg1/d한 = 6\n" in capsys.readouterr().out


def test_e_is_eulers_number_unless_it_has_a_value(capsys):
  assert circuit("1/(1+e^(-x))", "--at", "x=0") == 0
  assert "g4 = 0.5\n" in capsys.readouterr().out
  assert circuit("e^x", "--at", "x=3", "e=2") == 0
  assert "g1 = 8\ndg1/de = 12\ndg1/dx = 5.545\n" in capsys.readouterr().out
  assert circuit("e = y - t; J = 0.5*e^2", "--at", "y=3", "t=1") == 0
  assert "J = 2\n" in capsys.readouterr().out
  said = refused(capsys, "e*x", "--at", "x=1")
  assert "'e' has no value; give it one: --at e=2.718281828459045\n  e*x\n  ^" in said


def test_a_value_may_begin_with_a_minus(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert circuit(*CS224N, "--out", "-r.txt") == 0
  assert [path.name for path in tmp_path.iterdir()] == ["-r.txt"]
  assert capsys.readouterr().out.startswith("written: -r.txt\n")
  assert "got '-3'" in refused(capsys, *CS224N, "--digits", "-3")
  assert "got '-x'" in refused(capsys, "x", "--at", "-x")


def test_links_and_pipes_stay_what_they_are(capsys, tmp_path):
  path, link, pipe = tmp_path / "f.txt", tmp_path / "link", tmp_path / "pipe"
  path.write_text("old", encoding="utf-8")
  link.symlink_to(path)
  assert circuit(*CS224N, "--out", link) == 0
  assert link.is_symlink()
  assert path.read_text(encoding="utf-8").startswith("gate ")
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  capsys.readouterr()
  assert circuit(*CS224N, "--out", pipe) == 0
  assert os.read(reader, 10_000).startswith(b"gate ")
  os.close(reader)
  assert pipe.is_fifo()
  said = capsys.readouterr()
  assert (said.out, said.err[:15]) == ("", "jax.grad agrees")


def test_stdout_by_its_path_is_stdout(tmp_path):
  command = [sys.executable, "-m", "fbackprop", "circuit", *CS224N, "--out", "/dev/stdout"]
  file, root = tmp_path / "f.txt", Path(fb.__file__).parents[1]
  with file.open("wb") as stdout:
    before = os.fstat(stdout.fileno()).st_ino
    subprocess.run(command, cwd=root, stdout=stdout, stderr=subprocess.PIPE, check=True)
  assert file.read_text(encoding="utf-8").startswith("gate ")
  assert file.stat().st_ino == before


def test_a_reader_that_has_enough_is_no_error():
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, "-m", "fbackprop", "circuit", "--example", "mazur", "--steps"]
  root = Path(fb.__file__).parents[1]
  done = subprocess.run(command, cwd=root, stdout=writer, stderr=subprocess.PIPE, text=True)
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, "")


class Terminal:
  """A stdout that says it is a terminal."""

  encoding = "utf-8"

  def __init__(self):
    self.text = ""

  def write(self, text):
    self.text += text

  def flush(self):
    pass

  def isatty(self):
    return True


def test_colour_on_a_terminal_only(capsys, monkeypatch):
  circuit(*CS224N)
  assert "\x1b" not in capsys.readouterr().out
  for steps in ((), ("--steps",)):
    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    circuit(*CS224N, *steps)
    assert "\x1b[32m6" in terminal.text
    assert "\x1b[31m5" in terminal.text
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.text = ""
    circuit(*CS224N, *steps)
    assert "dg3/dy" in terminal.text
    assert "\x1b" not in terminal.text


def test_a_terminal_without_the_letters_shows_others(monkeypatch):
  terminal = Terminal()
  terminal.encoding = "ascii"
  monkeypatch.setattr(sys, "stdout", terminal)
  assert circuit(*CS224N) == 0
  assert "local is ?: of each gate" in terminal.text
  terminal.text = ""
  assert circuit(*CS224N, "--format", "svg") == 0
  assert "&#215;" in terminal.text  # The same picture: ×.


def test_a_file_is_written_whole(tmp_path, capsys):
  path = tmp_path / "solved.txt"
  assert circuit(*CS224N, "--out", path) == 0
  written, verdict = capsys.readouterr().out.splitlines()
  assert written == f"written: {path}"
  assert verdict.startswith("jax.grad agrees")
  assert path.read_text(encoding="utf-8") == TABLE.rpartition("\n\n")[0] + "\n"
  assert "can't be written: No such file" in refused(
    capsys, *CS224N, "--out", tmp_path / "no" / "folder"
  )


def test_pictures(tmp_path, capsys):
  assert circuit(*CS224N, "--format", "svg") == 0
  said = capsys.readouterr()
  assert said.out.startswith("<svg ")  # It goes down a pipe, and nothing else does.
  assert said.out.endswith("</svg>\n")
  assert said.err.startswith("jax.grad agrees")
  for kind, start in (("svg", b"<svg "), ("png", b"\x89PNG")):
    path = tmp_path / f"f.{kind}"
    assert circuit(*CS224N, "--format", kind, "--digits", ".1f", "--out", path) == 0
    assert path.read_bytes().startswith(start)
  assert ">6.0<" in (tmp_path / "f.svg").read_text(encoding="utf-8")


def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)  # So that its import fails.
  said = refused(capsys, *CS224N, "--format", "png", "--out", tmp_path / "f.png")
  assert "matplotlib is not installed; install it with: pip install 'fbackprop[plot]'" in said


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([], "give an expression, as 'x*y' --at x=2 y=3, or --example NAME"),
    (["x", "--example", "add"], "give an expression"),
    (["--example", "ad"], "'add'"),
    (["x+y", "--at", "x=1"], "'y' has no value; give it one: --at y=1\n  x+y\n    ^"),
    (["x*yy", "--at", "x=1", "y=2"], "--at y: the expression has no input 'y'; did you mean 'yy'?"),
    (["2*3", "--at", "x=1"], "--at x: the expression has no input 'x'; it has none"),
    (["x", "--at", "x=one"], "--at must be names with numbers, as x=1 y=2, got 'x=one'"),
    (["x", "--at", "x"], "got 'x'"),
    (["x", "--at", "=1"], "got '=1'"),
    (["x", "--at", "x=1", "x=2"], "--at gives x twice"),
    (["x", "--at", "x=inf"], "x must be finite, got inf"),
    (["foo(x)", "--at", "x=1"], "there is no gate 'foo'"),
    (["x", "--at", "x=1", "--outputs", "y=1"], "the output 'y' isn't in the text"),
    (["x", "--at", "x=1", "--outputs", "y"], "--outputs must be names with numbers"),
    (["--example", "add", "--outputs", "f=1"], "--outputs is for an expression"),
    (["x", "--at", "x=1", "--digits", "0"], "digits must be from 1 to 17, got 0"),
    (["x", "--at", "x=1", "--digits", "wide"], "or a format of floats such as '.2f', got 'wide'"),
    (["x", "--at", "x=1", "--digits", "%"], "got '%'"),
    (["x", "--at", "x=1", "--digits", "x^30000"], "got 'x^30000'"),
    (["x", "--at", "x=1", "--digits", "10000000.2f"], "got '10000000.2f'"),
    (["x", "--at", "x=1", "--digits", ""], "got ''"),
    (["x", "--at", "x=1", "--digits", "18"], "digits must be from 1 to 17, got 18"),
    (["x*y", "--at", "x=1", "--at", "y=2"], "--at stands twice; give every value behind one"),
    (["x", "--at=x=1", "--at=x=2"], "--at stands twice"),
    (["x", "--at", "x=1", "--outputs", "x=1", "--outputs", "x=2"], "--outputs stands twice"),
    (["x", "--at", "x=1", "--format", "png"], "--format png needs a file: --out FILE"),
    (["x", "--at", "x=1", "--format", "svg", "--steps"], "can't be drawn as svg"),
    (["x", "--at", "x=1", "--format", "gif"], "'png'"),
  ],
)
def test_what_cannot_be_is_refused_by_name(capsys, arguments, said):
  assert said in refused(capsys, *arguments)


WITHOUT_JAX = """
import sys
from fbackprop.cli import main
try:
  main(["circuit", "--help"])
except SystemExit as ended:
  assert ended.code == 0
assert main(["circuit"]) == 2
assert not {"jax", "numpy", "matplotlib"} & sys.modules.keys(), "a package that takes seconds"
"""


def test_help_needs_no_jax():
  root = Path(fb.__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT_JAX], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert "fbackprop circuit" in done.stdout


# --- The witness ----------------------------------------------------------------------------------


def wrong(gate, factor):
  def wrong_backward(residuals, y_bar):
    return tuple(factor * bar for bar in gate.backward(residuals, y_bar))

  return gate._replace(backward=wrong_backward)


def test_a_wrong_rule_ends_with_code_1(capsys, monkeypatch):
  monkeypatch.setitem(graph.GATES, "sin", wrong(fb.gates.sin, 1.001))
  assert circuit("sin(x)*y", "--at", "x=0", "y=2") == 1
  said = capsys.readouterr().err
  assert said == (
    "fbackprop: the gradients differ: by x ours is 2.002, that of jax.grad 2\n"
  )  # fmt: skip


@pytest.mark.parametrize("op", graph.GATES)
@pytest.mark.parametrize("factor", [1 + 1e-6, -1.0, 0.0])
def test_the_witness_finds_a_wrong_rule_in_any_gate(op, factor):
  gate = graph.GATES[op]
  names = ("x", "y")[: gate.arity or 2]
  nodes = [graph.Node(n, "input") for n in names] + [graph.Node("f", op, names)]
  at = dict(zip(names, (0.75, 0.5), strict=False))
  assert check_circuit(graph.build(nodes).trace(**at)).agrees
  check = check_circuit(graph.build(nodes, gates={op: wrong(gate, factor)}).trace(**at))
  assert not check.agrees
  assert not check.ok


@pytest.mark.parametrize(
  ("text", "at", "ours", "theirs", "kinks"),
  [
    ("k = abs(x)", {"x": 0.0}, 0.0, 1.0, ("k",)),
    ("k = max(x, 2*x, 3*x)", {"x": 0.0}, 2.0, 2.25, ("k",)),
    ("k = (-2)**x", {"x": 2.0}, 0.0, math.nan, ("k",)),
    ("k = abs(x); 3*k + relu(x)", {"x": 0.0}, 0.0, 3.0, ("k", "g2")),
  ],
)
def test_another_choice_at_a_kink_is_told_from_a_wrong_rule(text, at, ours, theirs, kinks):
  check = check_circuit(parse(text).trace(**at))
  assert not check.agrees
  assert check.ok
  assert check.kinks == kinks
  assert (check.ours, check.theirs) == pytest.approx((ours, theirs), nan_ok=True)


@pytest.mark.parametrize(
  ("text", "slopes", "found"),
  [
    ("x**3", (7.0, 1.0), False),  # By the base, times 7: an integer exponent has a true slope.
    ("x**3", (1.0, 1.0), True),
    ("0*x**2 + (-2)**(x+4)", (1.0, 1.0), True),
    ("x**x", (1.0, 1.0), True),
    ("x**x", (7.0, 1.0), False),
  ],
)
def test_the_base_of_a_power_is_judged_where_the_exponent_cannot_be(text, slopes, found):
  def scaled_backward(residuals, y_bar):
    sent = fb.gates.power.backward(residuals, y_bar)
    return tuple(factor * bar for factor, bar in zip(slopes, sent, strict=True))

  gates = {"power": fb.gates.power._replace(backward=scaled_backward)}
  assert check_circuit(parse(text, gates=gates).trace(x=-2.0)).ok is found


@pytest.mark.parametrize(
  ("text", "slopes", "may_stand"),
  [
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
  ],
)
def test_a_slope_at_a_kink_must_be_one_that_may_be_chosen(text, slopes, may_stand):
  def chosen_backward(residuals, y_bar):
    return tuple(slope * y_bar for slope in slopes)

  op = "power" if "**" in text else text.partition("(")[0]
  gate = graph.GATES[op]._replace(backward=chosen_backward)
  assert check_circuit(parse(text, gates={op: gate}).trace(x=0.0)).ok is may_stand


def test_a_wrong_rule_is_found_beside_a_kink():
  gates = {"exp": wrong(fb.gates.exp, 2.0)}
  check = check_circuit(parse("abs(x) * y + exp(x)", gates=gates).trace(x=0.0, y=3.0))
  assert not check.ok


def test_a_choice_at_a_kink_is_no_failure(capsys):
  assert circuit("k = abs(x); f = k*y", "--at", "x=0", "y=3") == 0
  said = capsys.readouterr().out
  assert "jax.grad agrees but for a choice: k (abs) stands at a kink or a tie" in said
  assert "by x ours is 0, that of jax.grad 3" in said


def test_infinite_gradients_agree():
  check = check_circuit(parse("sqrt(x) + log(y)").trace(x=0.0, y=1.0))
  assert check.agrees
  assert check_circuit(parse("2*3").trace()).agrees


@pytest.mark.parametrize(("text", "at"), [("sqrt(x)", "x=-1"), ("x/0", "x=8"), ("log(x)", "x=0")])
def test_numbers_that_are_not_finite_are_not_said_to_agree(text, at, capsys):
  main(["circuit", text, "--at", at])
  printed = capsys.readouterr().out
  assert "not compared with jax.grad: a value or a gradient is not finite" in printed
  assert "agrees" not in printed
