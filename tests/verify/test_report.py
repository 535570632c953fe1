"""What a rule may not do, each by its name; what can't be used at all; and that reports repeat."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import UnusableError, vjp
from tests.support.refusals import refusals

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
LABELS = jnp.array([0, 2, 1, 1])


def picked(x, labels):
  return jnp.take_along_axis(x, labels[:, None], 1)[:, 0] ** 2


def right(x, labels, y_bar):
  rows = jnp.arange(x.shape[0])
  return jnp.zeros_like(x).at[rows, labels].set(2 * y_bar * x[rows, labels]), None


def rule(change, x, labels):
  def pull(y_bar):
    return change(right(x, labels, y_bar), x, y_bar)

  return picked(x, labels), pull


def raising(bars, x, y_bar):
  raise RuntimeError("not today")


def with_an_offset(bars, x, y_bar):
  return bars[0] + 1e-3, None


CALLS = [0]


def with_a_memory(bars, x, y_bar):
  CALLS[0] += 1
  return bars[0] * (1 + CALLS[0] * 1e-2), None


@pytest.mark.slow
@pytest.mark.parametrize(
  ("change", "checks"),
  [
    (lambda bars, x, y_bar: bars[:1], {"structure"}),
    (lambda bars, x, y_bar: ({"x": bars[0]}, None), {"structure"}),
    (lambda bars, x, y_bar: (bars[0].T, None), {"structure"}),
    (lambda bars, x, y_bar: (bars[0].astype(jnp.float16), None), {"dtype"}),
    (lambda bars, x, y_bar: (None, None), {"no gradient"}),
    (lambda bars, x, y_bar: (bars[0], jnp.zeros(4, jnp.float32)), {"structure"}),
    (raising, {"raises"}),
    (with_an_offset, {"maths", "zero cotangent"}),
    (
      lambda bars, x, y_bar: (bars[0] * jnp.sign(y_bar)[:, None] / y_bar[:, None], None),
      {"maths", "scaled cotangent"},
    ),
    (with_a_memory, {"repeated call"}),
  ],
)
def test_a_violation_has_its_name(change, checks):
  report = vjp(picked, X, LABELS, f_vjp=functools.partial(rule, change), level="quick")
  assert report.verdict == "fail"
  assert checks <= {f.check for f in report.findings if f.kind == "fail"}, report.table()
  assert report.table()


def test_a_weakly_typed_cotangent():
  def unused(x, c):
    return x

  def unused_vjp(x, c):
    return x, lambda y_bar: (y_bar, jnp.full(c.shape, 0.0))  # Without a dtype it is weak.

  report = vjp(unused, X, X, f_vjp=unused_vjp, level="quick")
  assert (report.verdict, report.findings[0].check) == ("fail", "dtype")
  assert "weakly typed" in report.findings[0].message


def test_what_a_rule_raises_is_told_and_is_no_traceback():
  report = vjp(picked, X, LABELS, f_vjp=functools.partial(rule, raising), level="quick")
  assert "RuntimeError: not today" in report.findings[0].message


def test_a_forward_pass_with_other_values():
  def doubled(x, labels):
    y, pull = rule(lambda bars, x, y_bar: bars, x, labels)
    return 2 * y, pull

  report = vjp(picked, X, LABELS, f_vjp=doubled, level="quick")
  assert "forward" in {f.check for f in report.findings if f.kind == "fail"}


def test_a_rule_without_a_pullback():
  report = vjp(picked, X, LABELS, f_vjp=picked, level="quick")
  assert (report.verdict, report.findings[0].check) == ("fail", "structure")
  assert "(y, pullback)" in report.findings[0].message


# --- Use ------------------------------------------------------------------------------------------


def identity(x):
  return x


def broken(x):
  raise KeyError("nothing here")


@pytest.mark.parametrize(
  ("f", "args", "message"),
  [
    (broken, (X,), "f.*KeyError"),
    (identity, (LABELS,), "args must hold an array of floats"),
    (identity, (), "args must hold an array of floats|f"),
    (lambda x: LABELS, (X,), "f must return an array of floats"),
    (lambda x: None, (X,), "f must return an array of floats, got nothing"),
    (
      identity,
      ("text",),
      "args must hold an array of floats, to be differentiated by, got nothing",
    ),
  ],
)
def test_what_cannot_be_used(f, args, message):
  with pytest.raises(UnusableError, match=message):
    vjp(f, *args)


BAD_OPTIONS = [
  ({"level": "slow"}, ValueError, "level must be one of quick, standard, deep, got 'slow'"),
  ({"ties": "some"}, ValueError, "ties must be one of any, reference, got 'some'"),
  ({"seed": -1}, ValueError, "seed must be"),
  ({"seed": 1.5}, (TypeError, ValueError), "seed must be"),
  ({"allowance": -1.0}, ValueError, "allowance must be"),
  ({"allowance": "much"}, TypeError, "allowance must be"),
  ({"f_vjp": 3}, TypeError, "f_vjp must be"),
]


test_options_are_checked_by_name = refusals(
  lambda options: vjp(identity, X, **options), BAD_OPTIONS
)


def test_f_must_be_callable():
  with pytest.raises(TypeError, match="f must be"):
    vjp(3, X)


# --- The same again -------------------------------------------------------------------------------


def unchanged(bars, x, y_bar):
  return bars


def slightly_wrong(bars, x, y_bar):
  return bars[0] * (1 + 1e-12), None


@pytest.mark.slow
@pytest.mark.parametrize("change", [unchanged, with_an_offset])
def test_a_seed_gives_a_report_and_x64_changes_nothing(change):
  call = functools.partial(vjp, picked, X, LABELS, f_vjp=functools.partial(rule, change), seed=3,
                           level="quick")  # fmt: skip
  first = call()
  assert call()._replace(seconds=first.seconds) == first
  with jax.enable_x64(True):
    wide = call()
  assert (wide.verdict, wide.verified) == (first.verdict, first.verified)
  assert [f[:6] for f in wide.findings] == [f[:6] for f in first.findings]
  assert not jax.config.jax_enable_x64
  assert jnp.ones(1).dtype == jnp.float32


@pytest.mark.slow
def test_allowance_multiplies_the_bounds():
  call = functools.partial(vjp, picked, X, LABELS, level="quick")
  strict, generous = (
    call(f_vjp=functools.partial(rule, slightly_wrong), allowance=a) for a in (1.0, 2.0)
  )
  assert strict.verdict == generous.verdict == "fail"
  assert generous.findings[0].bound == 2 * strict.findings[0].bound
  assert generous.allowance == 2
  assert call(f_vjp=functools.partial(rule, slightly_wrong), allowance=1e5).ok
  assert call(f_vjp=functools.partial(rule, unchanged), allowance=0.0).verdict != "no verdict"


# --- Two devices ----------------------------------------------------------------------------------

PROGRAM = """
import sys
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from fbackprop.verify import vjp

def square(x):
  return x * x

def square_vjp(x):  # As if every device had seen all examples.
  return x * x, lambda y_bar: (2 * x * y_bar / jax.device_count(),)

report = vjp(square, jnp.arange(1.0, 9.0).reshape(4, 2), f_vjp=square_vjp, level="quick")
print(report.verdict, "|", report.findings[0].cause if report.findings else "")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "said"), [(1, "pass | "), (2, "fail | constant factor: 1/2")])
def test_a_factor_of_the_number_of_devices(devices, said):
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(devices)],
    check=True, capture_output=True, text=True, env=environment,
  )  # fmt: skip
  assert result.stdout.strip("\n").startswith(said)
