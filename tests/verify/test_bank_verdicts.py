"""The verifier on its whole bank, as `fbackprop verify --self-test` runs it; a sample, and all."""

import jax
import pytest

from fbackprop.verify.bank import BUGS, RIGHT
from fbackprop.verify.self_test import run_self_test

# One of each kind of mistake, and right rules that are easily mistaken for wrong ones.
SAMPLE = (
  "bias-mean", "tanh-at-output", "masked-above-three", "cotangent-in-bfloat16", "none-for-float",
  "layer-norm-without-variance", "right-tiles-with-remainder", "right-sums-in-float32",
)  # fmt: skip


def run(names):
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    return run_self_test(only=names)


def assert_all_right(found, count):
  assert len(found.scores) == count
  wrong = [(s.name, s.outcome, s.message) for s in found.scores
           if s.outcome not in ("caught", "passed")]  # fmt: skip
  assert wrong == []
  assert found.code == 0


def test_a_sample_of_the_bank():
  assert_all_right(run(SAMPLE), len(SAMPLE))


@pytest.mark.slow
def test_every_planted_bug_is_caught_and_explained():
  found = run([s.name for s in BUGS])
  assert_all_right(found, len(BUGS))
  totals = found.totals
  assert totals["right_leaf_first"] >= 0.95 * totals["leaves"]
  assert totals["right_cause_first"] >= 0.80 * totals["causes"]


@pytest.mark.slow
def test_no_right_rule_is_complained_of():
  assert_all_right(run([s.name for s in RIGHT]), len(RIGHT))
