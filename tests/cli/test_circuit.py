"""`fbackprop circuit`: what it prints, writes, refuses and returns."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import fbackprop as fb
from fbackprop.circuit.graph import GATES
from fbackprop.cli import main
from fbackprop.cli.circuit import ExampleName
from tests.support.refusals import refused

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

local is ∂: the partial derivatives of each gate; d: along every path to g3

jax.grad agrees, in float64: largest error 0 of the summed terms
"""


def circuit(*arguments):
  return main(["circuit", *map(str, arguments)])


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


PAGE = Path(__file__).parents[2] / "docs" / "circuits.md"
SHOWN = re.findall(r"```console\n\$ fbackprop (.*)\n((?:.*\n)*?)```", PAGE.read_text("utf-8"))


@pytest.mark.parametrize(("command", "shown"), SHOWN)
def test_the_page_shows_what_is_printed(capsys, command, shown):
  code = main(shlex.split(command))
  said = capsys.readouterr()
  assert (said.out + said.err, code) == (shown, 2 * shown.startswith("fbackprop: "))


def test_the_page_has_its_examples():
  assert len(SHOWN) == 2


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
    capsys, "circuit", "--example", "cs231n", "--at", "zz=1"
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
  said = refused(capsys, "circuit", "e*x", "--at", "x=1")
  assert "'e' has no value; give it one: --at e=2.718281828459045\n  e*x\n  ^" in said


def test_a_value_may_begin_with_a_minus(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert circuit(*CS224N, "--out", "-r.txt") == 0
  assert [path.name for path in tmp_path.iterdir()] == ["-r.txt"]
  assert capsys.readouterr().out.startswith("written: -r.txt\n")
  assert "got '-3'" in refused(capsys, "circuit", *CS224N, "--digits", "-3")
  assert "got '-x'" in refused(capsys, "circuit", "x", "--at", "-x")


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


@pytest.mark.slow
def test_stdout_by_its_path_is_stdout(tmp_path):
  command = [sys.executable, "-m", "fbackprop", "circuit", *CS224N, "--out", "/dev/stdout"]
  file, root = tmp_path / "f.txt", Path(fb.__file__).parents[1]
  with file.open("wb") as stdout:
    before = os.fstat(stdout.fileno()).st_ino
    subprocess.run(command, cwd=root, stdout=stdout, stderr=subprocess.PIPE, check=True)
  assert file.read_text(encoding="utf-8").startswith("gate ")
  assert file.stat().st_ino == before


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error():
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, "-m", "fbackprop", "circuit", "--example", "mazur", "--steps"]
  root = Path(fb.__file__).parents[1]
  done = subprocess.run(command, cwd=root, stdout=writer, stderr=subprocess.PIPE, text=True)
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, "")


class Terminal(io.StringIO):
  """A stdout that says it is a terminal."""

  encoding = "utf-8"

  def isatty(self):
    return True


def on_a_terminal(monkeypatch, *flags):
  """What stands there after the command."""
  monkeypatch.setattr(sys, "stdout", terminal := Terminal())
  assert circuit(*CS224N, *flags) == 0
  return terminal.getvalue()


def test_colour_on_a_terminal_only(capsys, monkeypatch):
  circuit(*CS224N)
  assert "\x1b" not in capsys.readouterr().out
  for steps in ((), ("--steps",)):
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = on_a_terminal(monkeypatch, *steps)
    assert "\x1b[32m6" in said
    assert "\x1b[31m5" in said
    monkeypatch.setenv("NO_COLOR", "1")
    said = on_a_terminal(monkeypatch, *steps)
    assert "dg3/dy" in said
    assert "\x1b" not in said


def test_a_terminal_without_the_letters_shows_others(monkeypatch):
  monkeypatch.setattr(Terminal, "encoding", "ascii")
  assert "local is ?: the partial" in on_a_terminal(monkeypatch)
  assert "&#215;" in on_a_terminal(monkeypatch, "--format", "svg")  # The same picture: ×.


def test_a_file_is_written_whole(tmp_path, capsys):
  path = tmp_path / "solved.txt"
  assert circuit(*CS224N, "--out", path) == 0
  written, verdict = capsys.readouterr().out.splitlines()
  assert written == f"written: {path}"
  assert verdict.startswith("jax.grad agrees")
  assert path.read_text(encoding="utf-8") == TABLE.rpartition("\n\n")[0] + "\n"
  assert "can't be written: No such file" in refused(
    capsys, "circuit", *CS224N, "--out", tmp_path / "no" / "folder"
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
  said = refused(capsys, "circuit", *CS224N, "--format", "png", "--out", tmp_path / "f.png")
  assert "matplotlib is not installed; install it with: pip install 'fbackprop[plot]'" in said


# The rows of docs/errors.md are cases of test_failures.py; these are others.
REFUSED = [
  (["2*3", "--at", "x=1"], "--at x: the expression has no input 'x'; it has none"),
  (["x", "--at", "x"], "got 'x'"),
  (["x", "--at", "=1"], "got '=1'"),
  (["x", "--at", "x=1", "--digits", "%"], "got '%'"),
  (["x", "--at", "x=1", "--digits", "x^30000"], "got 'x^30000'"),
  (["x", "--at", "x=1", "--digits", "10000000.2f"], "got '10000000.2f'"),
  (["x", "--at", "x=1", "--digits", ""], "got ''"),
  (["x", "--at", "x=1", "--digits", "18"], "float format such as '.2f', got 18"),
  (["x", "--at", "x=1", "--outputs", "x=1", "--outputs", "x=2"], "--outputs was given twice"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_cannot_be_is_refused_by_name(capsys, arguments, said):
  assert said in refused(capsys, "circuit", *arguments)


# --- The verdict ----------------------------------------------------------------------------------


def test_a_wrong_rule_ends_with_code_1(capsys, monkeypatch):
  def wrong_backward(residuals, y_bar):
    return (1.001 * fb.gates.sin.backward(residuals, y_bar)[0],)

  monkeypatch.setitem(GATES, "sin", fb.gates.sin._replace(backward=wrong_backward))
  assert circuit("sin(x)*y", "--at", "x=0", "y=2") == 1
  said = capsys.readouterr().err
  assert said == (
    "fbackprop: the gradients differ: by x ours is 2.002, that of jax.grad 2\n"
  )  # fmt: skip


def test_a_choice_at_a_kink_is_no_failure(capsys):
  assert circuit("k = abs(x); f = k*y", "--at", "x=0", "y=3") == 0
  said = capsys.readouterr().out
  assert "jax.grad agrees but for a choice: k (abs) is at a kink or a tie" in said
  assert "by x ours is 0, that of jax.grad 3" in said


@pytest.mark.parametrize(("text", "at"), [("sqrt(x)", "x=-1"), ("x/0", "x=8"), ("log(x)", "x=0")])
def test_numbers_that_are_not_finite_are_not_said_to_agree(text, at, capsys):
  main(["circuit", text, "--at", at])
  printed = capsys.readouterr().out
  assert "not compared with jax.grad: a value or a gradient is not finite" in printed
  assert "agrees" not in printed


def test_a_page_is_headed_by_its_expression_or_the_examples_function(capsys, tmp_path):
  file = tmp_path / "circuit.html"
  for given, heading in (
    (("--example", "cs224n", "--exercise"), "f(x, y, z)"),
    (CS224N, "(x+y)*max(y,z)"),
  ):
    assert circuit(*given, "--format", "html", "--out", file) == 0
    assert f"<h1>{heading}</h1>" in file.read_text("utf-8")
