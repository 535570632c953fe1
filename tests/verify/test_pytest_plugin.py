"""The pytest plugin: what a failing test shows, what is recorded, and that nothing is loaded early.

The plugin is named by each run, since it may be installed or not. What the verifier finds is
another subject: its place is taken by reports, but for one test.
"""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLUGIN = ("-p", "fbackprop.pytest_plugin")
# `fbackprop.verify.vjp` and `jvp`, which answer with the report of that name; jax isn't imported.
CONFTEST = """
import fbackprop.verify
from fbackprop.verify.report import Checked, Finding, Report, UnusableError

FINDING = Finding("fail", "maths", leaf="w", index=(1,), got=1.0, want=2.0, wrong=1, size=2,
                  shape=(2,), cause="constant factor: 1/2")
REPORTS = {
  "right": Report("right", (), (Checked("maths", 4, "pass"),), regimes=("as given",)),
  "wrong": Report("wrong", (FINDING,), (Checked("maths", 1, "fail"),)),
  "unknown": Report("unknown", (Finding("no verdict", "maths", message="who knows"),)),
}

def answer(f, *args, level, **options):
  if f == "unusable":
    raise UnusableError("no floats")
  print("called with", args, level, options)
  return REPORTS[f]._replace(level=level)

fbackprop.verify.vjp = fbackprop.verify.jvp = answer
"""


@pytest.fixture
def run(pytester, monkeypatch):
  """Run pytest on the text of a test file, in this process."""
  monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
  monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
  verify = import_module("fbackprop.verify")
  for name in ("vjp", "jvp"):  # Put back afterwards what the conftest puts there.
    monkeypatch.setattr(verify, name, getattr(verify, name))
  pytester.makeconftest(CONFTEST)

  def run(code, *flags):
    pytester.makepyfile(code)
    return pytester.runpytest_inprocess(*PLUGIN, *flags)

  return run


WRONG = """
def test_rule(verify_vjp):
  verify_vjp("right")
  verify_vjp("wrong")
"""


def test_a_passing_report_is_returned(run):
  code = """
  def test_both(verify_vjp, verify_jvp):
    assert verify_vjp("right", 1, key=2).ok
    assert verify_jvp("right").name == "right"
  """
  result = run(code, "-s")
  result.assert_outcomes(passed=1)
  assert "called with (1,) standard {'key': 2}" in result.stdout.str()


def test_a_failure_is_one_line_and_the_report_its_section(run):
  result = run(WRONG)
  result.assert_outcomes(failed=1)
  lines = result.outlines
  said = "FAIL: wrong   standard, seed 0, 0.0 s: first wrong leaf w: constant factor: 1/2"
  assert [line for line in lines if line.startswith("E  ")] == [f"E     AssertionError: {said}"]
  assert any(line.startswith('>     verify_vjp("wrong")') for line in lines)
  start = next(i for i, line in enumerate(lines) if line.strip("-") == " fbackprop: wrong ")
  assert lines[start + 1 : start + 4] == [
    "FAIL: wrong   standard, seed 0, 0.0 s", "",
    "FAIL   maths   w  (2,)   1 of 2 entries   first in backward order",
  ]  # fmt: skip
  # Not a line of the plugin's own, nor of the verifier's.
  assert [line for line in lines if ".py:" in line and ": AssertionError" in line] == [
    "test_a_failure_is_one_line_and_the_report_its_section.py:3: AssertionError"
  ]


@pytest.mark.parametrize("flags", [("--tb=native",), ("--tb=short",), ("--show-capture=no",)])
def test_the_report_is_shown_however_tracebacks_are(run, flags):
  assert (
    "FAIL   maths   w  (2,)   1 of 2 entries   first in backward order"
    in run(WRONG, *flags).outlines
  )


def test_no_verdict_is_no_pass(run):
  result = run("def test_rule(verify_jvp):\n  verify_jvp('unknown')")
  result.assert_outcomes(failed=1)
  result.stdout.fnmatch_lines(["E *NO VERDICT: unknown *: maths: who knows"])


def test_a_failure_of_its_own_has_no_section(run):
  code = """
  import pytest
  def test_rule(verify_vjp):
    with pytest.raises(AssertionError):
      verify_vjp("wrong")
    assert False, "mine"
  """
  result = run(code)
  result.assert_outcomes(failed=1)
  assert "fbackprop: wrong" not in result.stdout.str()


def test_arguments_that_cannot_be_verified_are_told_at_the_test(run):
  result = run("def test_rule(verify_vjp):\n  verify_vjp('unusable')")
  result.assert_outcomes(failed=1)
  result.stdout.fnmatch_lines(["E *UnusableError: no floats"])
  assert "pytest_plugin.py" not in result.stdout.str()


LEVELS = [
  ((), "", "standard"), (("--fbackprop-level", "deep"), "", "deep"), ((), "quick", "quick"),
  (("--fbackprop-level", "deep"), "quick", "deep"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "ini", "level"), LEVELS)
def test_the_level_is_that_of_the_flag_then_of_the_file(run, pytester, flags, ini, level):
  if ini:
    pytester.makeini(f"[pytest]\nfbackprop_level = {ini}")
  code = f"""
  def test_rule(verify_vjp):
    assert verify_vjp("right").level == "{level}"
    assert verify_vjp("right", level="quick").level == "quick"
  """
  run(code, *flags).assert_outcomes(passed=1)


def test_an_unknown_level_is_refused(run, pytester):
  assert run(WRONG, "--fbackprop-level", "slow").ret == pytest.ExitCode.USAGE_ERROR
  pytester.makeini("[pytest]\nfbackprop_level = slow")
  result = run(WRONG)
  assert result.ret == pytest.ExitCode.USAGE_ERROR
  result.stderr.fnmatch_lines(["*fbackprop_level must be one of quick, standard, deep, got 'slow'"])


def test_junit_has_each_verdict_and_the_report(run, pytester):
  run(WRONG, "--junitxml", "junit.xml")
  (case,) = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
  properties = [(entry.get("name"), entry.get("value")) for entry in case.iter("property")]
  assert properties == [
    ("fbackprop vjp", f"{verdict}   standard, seed 0, 0.0 s")
    for verdict in ("PASS: right", "FAIL: wrong")
  ]
  assert "      cause: constant factor: 1/2\n" in case.find("failure").text


# --- In a process of their own --------------------------------------------------------------------


def run_apart(folder, code, *flags, plugins=PLUGIN):
  """Run pytest on a file in another process, which has imported nothing."""
  (folder / "test_it.py").write_text(code)
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
  command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *flags]
  return subprocess.run(
    command, cwd=folder, capture_output=True, text=True, env=environment, check=False
  )


def test_nothing_is_imported_where_nothing_is_verified(tmp_path):
  code = """
import sys
def test_of_something_else():
  assert not {"jax", "numpy"} & set(sys.modules)
  assert not [name for name in sys.modules if name.startswith("fbackprop.verify")]
  assert "fbackprop.pytest_plugin" in sys.modules
"""
  result = run_apart(tmp_path, code, "-W", "error")
  assert result.returncode == 0, result.stdout
  assert "1 passed" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--fbackprop-cache",), ("-o", "fbackprop_cache=true")])
def test_programs_are_kept_between_runs_only_if_asked(tmp_path, monkeypatch, flags):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  code = """
import os
def test_of_the_cache():
  print("folder:", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
"""
  result = run_apart(tmp_path, code, "-s", *flags)
  assert result.returncode == 0, result.stdout
  folder = str(tmp_path / "cache" / "fbackprop") if flags else "None"
  assert f"folder: {folder}" in result.stdout
  assert (tmp_path / "cache").exists() == bool(flags)


def test_it_may_be_imported_before_pytest_is(tmp_path):
  """pytest marks the plugins' packages as it begins, and warns of those that it can't rewrite."""
  code = """
import fbackprop
from _pytest.assertion.rewrite import AssertionRewriter
assert AssertionRewriter.is_rewrite_disabled(fbackprop.__doc__)
"""
  subprocess.run(
    [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
  )


@pytest.mark.slow
def test_sections_come_out_of_the_workers(tmp_path):
  (tmp_path / "conftest.py").write_text(CONFTEST)
  two = ("-p", "xdist", "-n", "2", "--junitxml", "junit.xml", "--fbackprop-level", "quick")
  result = run_apart(tmp_path, WRONG, *two)
  assert result.returncode == 1
  assert "- fbackprop: wrong -" in result.stdout, result.stderr
  assert "FAIL: wrong   quick, seed 0, 0.0 s\n\nFAIL   maths   w" in result.stdout
  assert (tmp_path / "junit.xml").read_text().count('name="fbackprop vjp"') == 2


@pytest.mark.slow
def test_a_rule_is_verified(tmp_path):
  code = """
import jax.numpy as jnp

def rule(x):
  return jnp.sin(x), lambda y_bar: (y_bar * jnp.cos(x),)

def wrong_rule(x):
  return jnp.sin(x), lambda y_bar: (2 * y_bar * jnp.cos(x),)

def test_right(verify_vjp):
  assert verify_vjp(jnp.sin, jnp.ones(3), f_vjp=rule).ok

def test_wrong(verify_vjp):
  verify_vjp(jnp.sin, jnp.ones(3), f_vjp=wrong_rule)

def test_forward_mode(verify_jvp):
  verify_jvp(jnp.sin, jnp.ones(3), f_jvp=lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0]))
"""
  result = run_apart(tmp_path, code, "--fbackprop-level", "quick")
  assert "1 failed, 2 passed" in result.stdout, result.stdout
  assert "      cause: constant factor: 2 (match " in result.stdout


def test_the_plugin_is_an_entry_point():
  table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
  assert list(map(import_module, table["pytest11"].values())) == [sys.modules[PLUGIN[1]]]
