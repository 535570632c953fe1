"""The line for anybody's tests: silent on a right rule, and the whole report on a wrong one."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from fbackprop.verify import Finding, Report, UnusableError, assert_vjp

X = jnp.array([-1.5, 0.5, 2.0])


def scaled_tanh(scale, x):
  return scale * jnp.tanh(x)


def rule(scale, x):
  def backward(y_bar):
    return jnp.sum(jnp.tanh(x) * y_bar), scale * (1 - jnp.tanh(x) ** 2) * y_bar

  return scaled_tanh(scale, x), backward


def rule_at_the_output(scale, x):
  y, backward = rule(scale, x)

  def wrong(y_bar):
    return backward(y_bar)[0], scale * (1 - jnp.tanh(jnp.tanh(x)) ** 2) * y_bar

  return y, wrong


@pytest.mark.slow
def test_a_right_rule_passes_and_gives_its_report():
  report = assert_vjp(scaled_tanh, 1.5, X, f_vjp=rule, level="quick")
  assert isinstance(report, Report)
  assert report.ok
  assert fb.verify.assert_vjp is assert_vjp


@pytest.mark.slow
def test_the_message_is_the_report_and_the_traceback_ends_in_the_test():
  with pytest.raises(AssertionError) as failed:
    assert_vjp(scaled_tanh, 1.5, X, f_vjp=rule_at_the_output, level="quick")
  message = str(failed.value)
  assert message.startswith("FAIL: scaled_tanh   quick, seed 0, ")
  assert "FAIL   maths   x  (3,)   3 of 3 entries   first in backward order" in message
  shown = failed.traceback.filter(failed)
  assert [entry.path.name for entry in shown] == ["test_assert_vjp.py"]


def test_a_function_that_carries_its_rule_needs_no_other():
  @jax.custom_vjp
  def half(x):
    return x / 2

  def half_forward(x):
    return half(x), None

  def half_backward(kept, y_bar):
    return (y_bar * 2,)

  half.defvjp(half_forward, half_backward)
  with pytest.raises(AssertionError, match="FAIL: half "):
    assert_vjp(half, X, level="quick")


def test_no_verdict_is_no_pass(monkeypatch):
  report = Report("f", (Finding("no verdict", "maths", message="the bound is vacuous"),))

  def undecided(*args, **options):
    return report

  monkeypatch.setattr("fbackprop.verify._vjp.vjp", undecided)
  with pytest.raises(AssertionError, match="NO VERDICT: f "):
    assert_vjp(scaled_tanh, 1.5, X)


def test_what_cannot_be_verified_is_said_so():
  with pytest.raises(UnusableError, match="floats"):
    assert_vjp(scaled_tanh, 2, jnp.arange(3), f_vjp=rule)


def test_a_cause_calls_arguments_by_their_names():
  def product(n, wide, tall):
    return n * wide @ tall

  def swapped(n, wide, tall):
    y, pullback = jax.vjp(product, n, wide, tall)
    return y, lambda y_bar: (*(bars := pullback(y_bar))[:1], bars[2], bars[1])

  square = jnp.arange(9.0).reshape(3, 3) ** 2
  report = fb.verify.vjp(product, 2, square, square - 3, f_vjp=swapped)
  assert "exchanged with the cotangent of wide" in report.findings[0].cause


@pytest.mark.parametrize(
  ("verified", "option", "wrong", "said"),
  [
    (fb.verify.vjp, "f_vjp", lambda s, x, y_bar: (s, x), "f_vjp(*args) -> (y, pullback)"),
    (fb.verify.jvp, "f_jvp", lambda s, x, t, u: (s, x), "f_jvp(primals, tangents) -> (y, y_dot)"),
  ],
)
def test_a_rule_of_another_signature_is_refused_with_the_right_one(verified, option, wrong, said):
  with pytest.raises(UnusableError, match=re.escape(said)):
    verified(lambda s, x: s * jnp.sin(x), 1.5, X, **{option: wrong})


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_for_users")
def test_the_readme_shows_what_the_wrong_layer_really_says(tmp_path):
  """The file in the README is run by pytest, and prints the lines that stand below it."""
  readme = (Path(__file__).parents[2] / "README.md").read_text()
  code = readme.partition("in `test_hidden.py`:")[2].partition("```python\n")[2].partition("```")[0]
  shown = readme.partition("$ pytest -q test_hidden.py\n...\n")[2].partition("```")[0]
  (tmp_path / "test_hidden.py").write_text(code)
  command = [sys.executable, "-m", "pytest", "-q", "test_hidden.py", "-p", "no:cacheprovider"]
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  printed = [without_seconds(line) for line in result.stdout.splitlines()]
  assert result.returncode == 1
  assert [line for line in map(without_seconds, shown.splitlines()) if line not in printed] == []


def without_seconds(line):
  """A line of the report without the time that it took."""
  return re.sub(r", [\d.]+ s$", "", line.rstrip())
