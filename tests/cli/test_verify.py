"""`fbackprop verify`: what it loads, what it refuses, what it prints and returns.

What the verifier finds is another subject: here its place is taken by one that says what a test
wants to hear, and notes what it was called with.
"""

import json
import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.verify import Finding, Report, UnusableError
from fbackprop.verify.library import LIBRARY, Entry
from tests.support.refusals import refused

MODULE = """
import jax.numpy as jnp
import fbackprop as fb

def square(x):
  return x * x

def rule(x):
  return x * x, lambda y_bar: (2 * x * y_bar,)

class Group:
  cube = staticmethod(lambda x: x**3)

net = fb.dense(2, 3)
made = (jnp.ones(3),)

def make_args():
  return made

def make_params_and_x():
  import jax
  return net.init(jax.random.key(0)), jnp.ones((4, 2))

def make_with_key():
  import jax
  return *make_params_and_x(), jax.random.key(1)

def make_list():
  return [jnp.ones(3)]

def leave():
  raise SystemExit
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, with a package of the user's."""
  (tmp_path / "userpkg").mkdir()
  (tmp_path / "userpkg" / "__init__.py").touch()
  (tmp_path / "userpkg" / "rules.py").write_text(MODULE)
  (tmp_path / "userpkg" / "broken.py").write_text("x = 1\ny = x / 0\n")
  (tmp_path / "userpkg" / "needy.py").write_text("import a_module_that_is_not\n")
  (tmp_path / "userpkg" / "script.py").write_text("raise SystemExit(3)\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield tmp_path
  for name in [name for name in sys.modules if name.partition(".")[0] == "userpkg"]:
    del sys.modules[name]


@pytest.fixture
def verifier(monkeypatch):
  """Says `verifier.answer`, and notes its calls."""

  class Verifier:
    answer = Report("f", ())
    calls = ()

    def verify(self, kind, f, *args, **options):
      self.calls = (*self.calls, (kind, f, args, options))
      if isinstance(self.answer, BaseException):
        raise self.answer
      return self.answer

    def vjp(self, f, *args, **options):
      return self.verify("vjp", f, *args, **options)

    def layer(self, f, *args, **options):
      return self.verify("layer", f, *args, **options)

  stand_in = Verifier()
  monkeypatch.setattr("fbackprop.verify._vjp.vjp", stand_in.vjp)
  monkeypatch.setattr("fbackprop.verify.network.layer", stand_in.layer)
  return stand_in


def verify(target, *flags):
  return main(["verify", f"userpkg.rules:{target}", *flags])


ARGS = ("--args", "userpkg.rules:make_args")
LEAVES = Report(
  "f",
  (
    Finding("fail", "maths", leaf="params/w", got=1.0, want=2.0, bound=0.5),
    Finding("no verdict", "numerics", leaf="params/b"),
    Finding("note", "kink"),
  ),
  verified=("x",),
)


def test_a_function_is_verified_with_its_arguments(folder, verifier, capsys):
  assert verify("square", *ARGS) == 0
  ((kind, f, args, options),) = verifier.calls
  rules = sys.modules["userpkg.rules"]
  assert (kind, f, args) == ("vjp", rules.square, rules.made)
  assert options == {"level": "standard", "seed": 0, "allowance": 1.0}
  assert capsys.readouterr().out.startswith("PASS: userpkg.rules:square   standard, seed 0")


def test_flags_reach_the_verifier(folder, verifier):
  flags = "--vjp userpkg.rules:rule --level quick --seed 7 --allowance 2.5 --ties reference"
  flags += " --surrogate"
  assert verify("square", "--args", "userpkg.rules:made", *flags.split()) == 0
  (_, _, _, options) = verifier.calls[0]
  assert options.pop("f_vjp") is sys.modules["userpkg.rules"].rule
  assert options == {
    "level": "quick",
    "seed": 7,
    "allowance": 2.5,
    "ties": "reference",
    "surrogate": True,
  }


def test_a_layer_is_verified_layer_by_layer(folder, verifier):
  assert verify("net", "--args", "userpkg.rules:make_params_and_x") == 0
  ((kind, net, (_, x), options),) = verifier.calls
  assert (kind, net.name, x.shape) == ("layer", "dense", (4, 2))
  assert options == {"level": "standard", "seed": 0, "allowance": 1.0}
  assert verify("net", "--args", "userpkg.rules:make_with_key") == 0
  (_, (_, _, (_, x), options)) = verifier.calls
  assert x.shape == (4, 2)
  assert "key" in options


def test_a_name_may_have_dots(folder, verifier):
  assert verify("Group.cube", *ARGS) == 0


EXIT_CODES = [
  ([], 0),
  (["note"], 0),
  (["no verdict"], 4),
  (["oracle fault", "no verdict"], 1),
  (["fail", "no verdict"], 1),
]


@pytest.mark.parametrize(("findings", "code"), EXIT_CODES)
def test_the_exit_code_is_the_verdict(folder, verifier, findings, code):
  verifier.answer = Report("f", tuple(Finding(kind, "maths") for kind in findings))
  assert verify("square", *ARGS) == code


def test_a_failure_prints_the_command_that_shows_it_again(folder, verifier, capsys):
  verifier.answer = LEAVES
  flags = (*ARGS, "--seed", "7", "--level", "quick", "--allowance", "2", "--ties", "reference")
  flags = (*flags, "--vjp", "userpkg.rules:rule")
  assert verify("square", *flags, "--surrogate") == 1
  said = capsys.readouterr().out
  start = said.index("again: ")
  again = " ".join(said[start : said.index("\n\n", start)].split())
  assert again == (
    "again: fbackprop verify userpkg.rules:square --args userpkg.rules:make_args --vjp "
    "userpkg.rules:rule --level quick --allowance 2 --ties reference --surrogate --seed 7 "
    "--leaf params/w"
  )
  # It is a command: the same call but for the leaf.
  assert main(again.split()[2:]) == 1
  assert verifier.calls[0] == verifier.calls[1]


def test_one_leaf_is_reported_on(folder, verifier, capsys):
  verifier.answer = LEAVES
  assert verify("square", *ARGS, "--leaf", "params/b") == 4
  said = capsys.readouterr().out
  assert "params/w" not in said
  assert "not checked: --leaf leaves out 1 finding of other leaves" in said
  assert verify("square", *ARGS, "--leaf", "x") == 0
  said = refused(capsys, "verify", "userpkg.rules:square", *ARGS, "--leaf", "params/c")
  assert "unknown leaf 'params/c' for --leaf; did you mean 'params/" in said


def test_json_is_the_report(folder, verifier, capsys):
  verifier.answer = LEAVES
  assert verify("square", *ARGS, "--json", "report.json") == 1
  assert capsys.readouterr().out.endswith("written: report.json\n")
  report = Report.from_json((folder / "report.json").read_text())
  assert report.findings == LEAVES.findings
  assert (report.name, report.again.split()[0]) == ("userpkg.rules:square", "fbackprop")


def test_json_stays_alone_in_a_pipe(folder, verifier, capsys):
  reader, writer = os.pipe()
  assert verify("square", *ARGS, "--json", f"/dev/fd/{writer}") == 0
  os.close(writer)
  with open(reader, encoding="utf-8") as pipe:
    assert json.load(pipe)["verdict"] == "pass"
  said = capsys.readouterr()
  assert said.out == ""
  assert said.err.startswith("PASS")


def test_the_page_is_the_report(folder, verifier, capsys):
  verifier.answer = LEAVES
  (folder / "report.html").write_text("an older one")
  assert verify("square", *ARGS, "--html", "report.html") == 1
  assert capsys.readouterr().out.endswith("written: report.html\n")
  page = (folder / "report.html").read_text()
  assert page.startswith("<!doctype html>")
  assert page.endswith("</html>\n")
  assert "fbackprop verify userpkg.rules:square --args userpkg.rules:make_args" in page


def test_json_stays_alone_beside_a_page(folder, verifier, capsys):
  reader, writer = os.pipe()
  assert verify("square", *ARGS, "--json", f"/dev/fd/{writer}", "--html", "f.html") == 0
  os.close(writer)
  with open(reader, encoding="utf-8") as pipe:
    assert json.load(pipe)["verdict"] == "pass"
  said = capsys.readouterr()
  assert said.out == ""
  assert said.err.endswith("written: f.html\n")


def test_a_page_that_cannot_be_written_leaves_the_old_one(folder, verifier, capsys, monkeypatch):
  def full(*arguments):
    raise OSError(28, "No space left on device")

  (folder / "report.html").write_text("an older one")
  monkeypatch.setattr("fbackprop.cli.console.write_whole", full)
  assert verify("square", *ARGS, "--html", "report.html") == 1
  assert "--html report.html can't be written" in capsys.readouterr().err
  assert (folder / "report.html").read_text() == "an older one"


def test_a_disk_that_is_full_at_the_end_hides_no_verdict(folder, verifier, capsys, monkeypatch):
  def full(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("fbackprop.cli.console.write_whole", full)
  assert verify("square", *ARGS, "--json", "report.json") == 1
  said = capsys.readouterr()
  assert said.out.startswith("PASS")
  assert said.err == "fbackprop: --json report.json can't be written: No space left on device\n"


def test_a_function_that_cannot_be_verified_is_usage(folder, verifier, capsys):
  verifier.answer = UnusableError("no argument is a float")
  assert verify("square", *ARGS) == 2
  assert capsys.readouterr().err == "fbackprop: userpkg.rules:square: no argument is a float\n"


def test_a_verifier_that_breaks_gives_no_verdict_and_no_traceback(folder, verifier, capsys):
  verifier.answer = KeyError("inside")
  assert verify("square", *ARGS) == 4
  said = capsys.readouterr()
  assert "the verifier itself failed, please report it: KeyError: 'inside'" in said.out
  assert said.err == ""


def test_an_interrupt_decides_nothing(folder, verifier, capsys):
  verifier.answer = KeyboardInterrupt()
  assert verify("square", *ARGS, "--json", "report.json") == 130
  assert capsys.readouterr() == ("", "fbackprop: interrupted; nothing was decided\n")
  assert not (folder / "report.json").exists()


UNUSABLE = [
  (".rules:f {made}", "must have the form pkg.module:name, got '.rules:f'"),
  ("userpkg/rules.py:f {made}", "must have the form pkg.module:name, got"),
  ("userpgk.rules:square {made}", "there is no module 'userpgk'; did you mean 'userpkg'?"),
  ("userpkg.rulse:square {made}", "there is no module 'userpkg.rulse'; did you mean 'rules'?"),
  ("userpkg.rules.more:square {made}", "no module 'userpkg.rules.more'; there are: none"),
  ("userpkg.rules:Group.cub {made}", "type has no 'cub'; did you mean 'cube'?"),
  ("userpkg.broken:f {made}", "raised ZeroDivisionError: division by zero (userpkg/broken.py, l"),
  ("userpkg.needy:f {made}", "ModuleNotFoundError: No module named 'a_module_that_is_not' (user"),
  ("userpkg.script:f {made}", "importing userpkg.script raised SystemExit: 3"),
  ("{square}:make_list", "must be the tuple of the function's arguments, got list; of a single"),
  ("{square}:leave", "leave() raised SystemExit (userpkg/"),
  ("--module userpgk", "--module: there is no module 'userpgk'; did you mean 'userpkg'?"),
  ("--module userpkg.broken", "--module: importing userpkg.broken raised ZeroDivisionError"),
  ("--module userpkg", "no jax.custom_vjp or custom_jvp in its modules that can be imported"),
  ("--module userpkg --self-test", "give no function beside it, and no --self-test"),
  ("--module userpkg --args userpkg.rules:made", "--args needs a function"),
  ("--seconds 1", "--seconds needs a function"),
  ("--seed 4294967296", "--seed must be from 0 to 4294967295"),
  ("--allowance nan", "--allowance must be a finite number above 0, got nan"),
]


@pytest.mark.parametrize(("words", "said"), UNUSABLE)
def test_what_cannot_be_used_is_refused(folder, verifier, capsys, words, said):
  made, square = "--args userpkg.rules:made", "userpkg.rules:square --args userpkg.rules"
  words = words.format(made=made, square=square)
  assert said in " ".join(refused(capsys, "verify", *words.split()).split())
  assert not verifier.calls


def test_the_library_is_verified_rule_by_rule(folder, monkeypatch, capsys):
  def verify(verdict, **options):
    assert options == {"level": "quick", "seed": 3, "allowance": 1.0}
    return Report("f", () if verdict == "pass" else (Finding(verdict, "maths"),), seconds=1.0)

  def broken(**options):
    raise KeyError("inside")

  def entries(*verdicts):
    return [Entry(f"rule {v}", lambda v=v, **options: verify(v, **options)) for v in verdicts]

  flags = ["verify", "--level", "quick", "--seed", "3", "--json", "all.json"]
  monkeypatch.setattr("fbackprop.verify.library.LIBRARY", entries("pass", "pass"))
  assert main(flags) == 0
  said = capsys.readouterr().out.splitlines()
  assert [line.split() for line in said[:2]] == [["rule", "pass", "pass", "1.0", "s"]] * 2
  assert said[2:] == ["PASS: 2 of 2 pass   quick, seed 3, 2.0 s", "written: all.json"]

  rules = [*entries("fail", "pass"), Entry("rule broken", broken)]
  monkeypatch.setattr("fbackprop.verify.library.LIBRARY", rules)
  assert main(flags) == 1
  said = capsys.readouterr().out
  assert "FAIL: rule fail " in said  # The table of what doesn't pass.
  assert "FAIL: 1 of 3 pass" in said
  table = json.loads((folder / "all.json").read_text())
  assert table["verdict"] == "fail"
  assert [r["name"] for r in table["reports"]] == ["rule fail", "rule pass", "rule broken"]
  assert [r["verdict"] for r in table["reports"]] == ["fail", "pass", "no verdict"]

  monkeypatch.setattr("fbackprop.verify.library.LIBRARY", rules[1:])
  assert main(flags) == 4


PACKAGE = """
import jax

@jax.custom_vjp
def square(x):
  return x * x

@jax.custom_vjp
def cube(x):
  return x**3

@jax.custom_vjp
def named(name):
  return {}[name]

square.defvjp(lambda x: (x * x, x), lambda x, y_bar: (2 * x * y_bar,))
cube.defvjp(lambda x: (x**3, x), lambda x, y_bar: (2 * x * y_bar,))
named.defvjp(lambda name: (name, None), lambda _, y_bar: (y_bar,))
"""


def test_the_rules_of_a_package_are_verified(folder, capsys):
  (folder / "userpkg" / "custom.py").write_text(PACKAGE)
  flags = ("--level", "quick", "--json", "all.json")
  assert main(["verify", "--module", "userpkg", *flags]) == 1
  said = capsys.readouterr().out
  for words in ("square pass drawn: (5,)", "cube fail drawn: (5,)", "named not verified no argum"):
    assert f"userpkg.custom:{words}" in " ".join(said.split())
  assert "not imported: userpkg.broken: ZeroDivisionError: division by zero" in said
  assert "FAIL: 1 of 2 pass, 1 not verified   quick, seed 0" in said
  table = json.loads((folder / "all.json").read_text())
  assert table["verdict"] == "fail"
  assert [r["verdict"] for r in table["reports"]] == ["fail", "pass"]
  assert list(table["not_verified"]) == ["userpkg.custom:named"]
  assert set(table["not_imported"]) == {f"userpkg.{name}" for name in ("broken", "needy", "script")}


def test_the_list_of_the_library_is_complete():
  names = {name for entry in LIBRARY for name in entry.name.split(", ")}
  for name in fb.__all__:
    value = getattr(fb, name)
    is_unit = isinstance(value, fb.Layer | fb.Loss)
    makes_one = name in ("dense", "layer_norm", "rms_norm", "dropout", "serial", "skip", "repeat",
                         "remat", "mlp", "combine", "graph", "shared", "transposed", "split",
                         "conv1d", "recurrent") or name.endswith("_with")  # fmt: skip
    assert not (is_unit or makes_one) or name in names, name


@pytest.mark.slow
@pytest.mark.parametrize("entry", LIBRARY, ids=[entry.name for entry in LIBRARY])
def test_each_rule_of_the_library_can_be_called_as_it_is_verified(entry, verifier, monkeypatch):
  monkeypatch.setattr("fbackprop.verify.library.vjp", verifier.vjp)
  monkeypatch.setattr("fbackprop.verify.library.layer", verifier.layer)
  entry.verify(level="quick")
  ((kind, f, args, options),) = verifier.calls
  assert options.pop("level") == "quick"
  if kind == "layer":
    y, residuals = f.forward(*args)
    f.backward(args[0], residuals, jnp.ones_like(y))
    assert options.keys() <= {"key"}
    return
  y = f(*args)
  if options:
    again, backward = options["f_vjp"](*args)
    # A mean is summed in another order, where each of its additions rounds on both sides; the
    # losses of examples are the same numbers.
    additions = 0 if y.ndim else len(args[-1]) - 1
    np.testing.assert_allclose(again, y, rtol=additions * float(jnp.finfo(y.dtype).eps))
    assert len(backward(jnp.ones_like(y))) == len(args)


def test_the_options_of_a_function(folder, verifier, monkeypatch):
  (folder / "userpkg" / "more.py").write_text(
    "def power(x, n=2):\n  return x**n\ndef push(primals, tangents):\n  ...\n"
    "def same(x, n=2):\n  return x\nnamed = {'n': 3}\n"
  )
  monkeypatch.setattr("fbackprop.verify._vjp.jvp", lambda f, *args, **options:
                      verifier.verify("jvp", f, *args, **options))  # fmt: skip
  flags = "--kwargs userpkg.more:named --static n 0 --slope userpkg.more:same --nonlinear"
  assert verify("square", *ARGS, *flags.split(), "--seconds", "9") == 0
  kind, _, _, options = verifier.calls[-1]
  assert kind == "vjp"
  assert {name: options[name] for name in ("kwargs", "static", "linear", "seconds")} == {
    "kwargs": {"n": 3}, "static": ("n", 0), "linear": False, "seconds": 9.0,
  }  # fmt: skip
  assert options["slope"].__name__ == "same"
  assert verify("square", *ARGS, "--jvp", "userpkg.more:push") == 0
  assert (verifier.calls[-1][0], verifier.calls[-1][3]["f_jvp"].__name__) == ("jvp", "push")
  assert verify("square", *ARGS, "--forward-mode") == 0
  assert verifier.calls[-1][0] == "jvp"
  assert "f_jvp" not in verifier.calls[-1][3]


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ("--seconds 0", "--seconds must be"),
    ("--kwargs userpkg.rules:made", "--kwargs: userpkg.rules:made must be the dict"),
    ("--vjp userpkg.rules:rule --jvp userpkg.rules:rule", "--vjp and --jvp exclude one another"),
    ("--slope userpkg.rules:made", "--slope userpkg.rules:made must be a function, got tuple"),
  ],
)
def test_wrong_options_of_a_function(folder, capsys, flags, said):
  words = f"verify userpkg.rules:square --args userpkg.rules:made {flags}"
  assert said in " ".join(refused(capsys, *words.split()).split())
