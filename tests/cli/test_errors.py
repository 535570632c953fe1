"""Errors name their argument, and ranges say themselves in words."""

import copy
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.cli.config import KEY_OF, KEYS
from fbackprop.errors import ArgumentError, DtypeError, RangeError, ShapeError, check_choice
from fbackprop.ranges import RANGES, Range, check_range

NAMED = [
  (lambda: fb.dense(4, 0), ValueError, "d_out"),
  (lambda: fb.dense("4", 3), TypeError, "d_in"),
  (lambda: fb.dropout(1.5), ValueError, "rate"),
  (lambda: fb.gates.relu.forward([1.0]), TypeError, "input 0"),
  (lambda: fb.mlp([4, 3]).init(0), TypeError, "key"),
  (lambda: fb.value_and_grad(fb.relu, fb.gates.add), TypeError, "loss"),
  (lambda: fb.train.StopRules(), ValueError, "stop.max_steps"),
  (lambda: fb.train.StopRules(3, tol=-1), ValueError, "stop.tol"),
  (lambda: fb.train.Checkpoints("a", 0), ValueError, "checkpoints.every"),
  (lambda: fb.train.gradient_descent(0), ValueError, "rate"),
  (lambda: fb.softmax_cross_entropy.forward(jnp.ones((1, 2)), jnp.array([2])), ValueError,
   "targets"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "argument"), NAMED)
def test_an_error_names_its_argument(call, kind, argument):
  with pytest.raises(kind) as raised:
    call()
  assert isinstance(raised.value, ArgumentError)
  assert raised.value.argument == argument
  assert raised.value.named("--it") in str(raised.value).replace(argument, "--it", 1)
  twin = copy.copy(raised.value)  # As an error of another process is made again.
  assert (str(twin), twin.argument) == (str(raised.value), argument)


def test_an_error_without_an_argument_is_its_message():
  error = ShapeError("loss: two arrays differ")
  assert (error.argument, str(error)) == (None, "loss: two arrays differ")


def test_an_unknown_choice_has_the_nearest():
  with pytest.raises(RangeError) as raised:
    check_choice("fit", "watch", "heath", ("health", "noise_scale"))
  assert str(raised.value) == "fit: unknown value 'heath' for watch; did you mean 'health'?"
  assert (
    raised.value.named("--watch") == "unknown value 'heath' for --watch; did you mean 'health'?"
  )


IN_WORDS = [
  (Range(int, 1), "at least 1", (1, 10**400), (0, -1)),
  (Range(int, 0, 9), "from 0 to 9", (0, 9), (-1, 10)),
  (Range(), "a finite number", (-1e308, 0), (math.inf, math.nan, 10**400)),
  (Range(float, 0), "a finite number of at least 0", (0.0, 1), (-1e-300, math.nan)),
  (Range(float, 0, is_open=(True, False)), "a finite number above 0", (1e-300,), (0, math.inf)),
  (Range(float, 0, 1), "a number from 0 to 1", (0, 1.0), (1.1,)),
  (Range(float, 0, 1, (False, True)), "at least 0 and below 1", (0, 0.9), (1,)),
  (Range(float, 0, 1, (True, True)), "above 0 and below 1", (Fraction(1, 2),), (0, 1)),
  (Range(float, most=1), "at most 1", (-5, np.float32(1)), (np.float16(2),)),
]


@pytest.mark.parametrize(("allowed", "words", "inside", "outside"), IN_WORDS)
def test_a_range_is_what_it_says(allowed, words, inside, outside):
  assert allowed.in_words() == words
  for value in inside if words != "at least 1" else inside[:1]:
    check_range("f", "x", value, allowed)
  for value in outside:
    with pytest.raises(RangeError) as raised:
      check_range("f", "x", value, allowed)
    assert str(raised.value) == f"f: x must be {words}, got {value}"


@pytest.mark.parametrize("value", [True, np.bool(True), "1", None, 1j, jnp.ones(())])
def test_no_number_is_in_a_range(value):
  with pytest.raises(DtypeError, match="x must be a number, got"):
    check_range("f", "x", value, Range())
  with pytest.raises(DtypeError, match="x must be an integer, got"):
    check_range("f", "x", value, Range(int))


def test_every_range_of_a_run_is_that_of_a_flag():
  assert {KEY_OF.get(argument, argument) for argument in RANGES} <= set(KEYS)
