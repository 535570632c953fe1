"""Causes that can be trusted: of unseen bugs, each printed cause helps; the others have none."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.bank.specimen import normal
from fbackprop.verify.explain.causes import UNKNOWN, find_cause
from fbackprop.verify.explain.search import Facts
from tests.verify.unseen_bugs import UNSEEN

# Those for which the search knows no pattern, and says so.
WITHOUT = frozenset((
  "pooled-by-the-longest", "groups-interleaved", "solve-not-transposed",
  "recurrence-decayed-once-more",
))  # fmt: skip


@pytest.mark.parametrize(("specimen", "helpful"), UNSEEN, ids=[s.name for s, _ in UNSEEN])
def test_the_cause_of_an_unseen_bug_helps_or_is_unknown(specimen, helpful):
  example = specimen.make()
  report = vjp(example.f, *example.args, level="quick")
  assert report.verdict == "fail"
  cause = report.findings[0].cause
  # The search ends by time: on a fast machine it may find more.
  is_unknown = specimen.name in WITHOUT and cause == UNKNOWN
  assert is_unknown or re.search(helpful, cause), cause


# --- The second point -----------------------------------------------------------------------------

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(2, 5, 4))
BARS = RNG.normal(size=(2, 5, 4))


def squared(x):
  return x**2


def facts(n, change):
  """The numbers of a wrong rule for the square at one of two points."""
  want = 2 * POINTS[n] * BARS[n]
  return Facts((POINTS[n],), BARS[n], [change(want, n)], [want], [np.full((5, 4), 1e-14)])


def cause_at_two_points(change):
  return find_cause(squared, *facts(0, change), 0, others=[facts(1, change)])


def rows(factors):
  return np.asarray(factors)[:, None]


@pytest.mark.parametrize(
  ("change", "start"),
  [
    (lambda want, n: 0.731 * want, "constant factor: 0.731"),
    (lambda want, n: 0.5 * want, "constant factor: 1/2"),
    (lambda want, n: want + 0.01 * POINTS[n], "proportional to a parameter: 0.01 times the leaf"),
    (lambda want, n: np.clip(want, -0.5, 0.5), "clipped: to [-0.5, 0.5]"),
    (lambda want, n: want * np.minimum(1, 2 / np.linalg.norm(want)), "clipped: to norm 2"),
    (lambda want, n: want * rows([1, 0, 1, 0, 1]), "subset of examples: numbers 1, 3 of 5"),
    (lambda want, n: want * rows([1, 3, 1, 1, 1.7]), "subset of examples: numbers 1, 4 of 5"),
    (lambda want, n: np.where(np.abs(POINTS[n]) > 1, 0, want), "other function: nothing passes"),
  ],
)
def test_a_constant_that_is_one_at_both_points(change, start):
  assert cause_at_two_points(change).startswith(start)


@pytest.mark.parametrize(
  "change",
  [
    lambda want, n: (0.731, 0.732)[n] * want,
    lambda want, n: (0.5, 2.0)[n] * want,
    lambda want, n: want + (0.3, 0.4)[n] * POINTS[n],
    lambda want, n: np.clip(want, -(0.5, 0.4)[n], 0.5),
    lambda want, n: want * rows([[1, 0, 1, 0, 1], [1, 0, 1, 1, 1]][n]),
    lambda want, n: want * rows([[1, 3, 1, 1, 1.7], [1, 3, 1, 1, 1.6]][n]),
    lambda want, n: np.where(np.abs(POINTS[n]) > (1, 0.3)[n], 0, want),
  ],
)
def test_a_number_that_is_another_at_the_second_point(change):
  assert cause_at_two_points(change) == UNKNOWN


def test_without_a_second_point_there_is_no_cause():
  first = facts(0, lambda want, n: 0.5 * want)
  assert find_cause(squared, *first, 0, others=[]) == UNKNOWN
  assert find_cause(squared, *first, 0).startswith("constant factor: 1/2")


def rule_of(backward):
  """A rule for the square."""
  f = jax.custom_vjp(squared)
  f.defvjp(lambda x: (x**2, x), lambda x, y_bar: (backward(x, y_bar),))
  return f


def small(x):
  return 2.0**-9 * jnp.cos(3 * x)


def narrow(x):
  return x.astype(jnp.bfloat16).astype(x.dtype)


@pytest.mark.parametrize(
  ("backward", "start"),
  [
    (lambda x, y_bar: 2 * (x + small(x)) * (y_bar + small(x) * y_bar), UNKNOWN),
    (
      lambda x, y_bar: 2 * narrow(1.01 * x) / 1.01 * y_bar,
      "precision: `convert_element_type` [6, 5] is one step too many",
    ),
    (
      lambda x, y_bar: 2 * narrow(1.01 * x) / 1.01 * narrow(1.03 * y_bar) / 1.03,
      "precision: errors of the size of bfloat16's rounding",
    ),
  ],
  ids=["a formula", "one rounding", "two roundings"],
)
def test_an_error_of_the_size_of_rounding(backward, start):
  report = vjp(rule_of(backward), normal(6, 5, seed=0)(), level="quick")
  assert report.findings[0].cause.startswith(start)
