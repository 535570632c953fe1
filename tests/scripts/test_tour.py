"""The tour, `experiments/tour.py`: as a reader runs it, and with errors planted in its rules."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import fbackprop as fb
from experiments import tour
from tests.support.public import assert_short_and_public

SCRIPT = Path(tour.__file__)


@pytest.fixture(autouse=True)
def as_a_newcomer_has_it():
  """x @ w + b is written as in a textbook, which the tests elsewhere don't allow."""
  with jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(scope="module")
def start():
  """The points, their labels, and the parameters that the tour begins with."""
  x, labels = tour.draw_spiral(0)
  return jax.jit(tour.NET.init)(jax.random.key(0)), x, labels


@pytest.mark.slow
def test_what_it_prints_is_true_and_the_picture_is_there(tmp_path):
  command = [sys.executable, "-W", "error", str(SCRIPT), "--out", str(tmp_path / "new")]
  printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  sections = [int(number) for number in re.findall(r"^(\d)\. ", printed, re.M)]
  assert sections == [1, 2, 4, 5, 6, 7]
  assert "0.dense  y (300, 32)" in printed
  errors = [float(number) for number in re.findall(r"relative error (\S+)$", printed, re.M)]
  assert len(errors) == 2
  assert max(errors) < 1e-12
  before, after = map(float, re.search(r"was (\S+), and is (\S+)\n", printed).groups())
  assert after < before == pytest.approx(np.log(3), abs=0.1)  # As good as guessing.
  steps, cost = re.search(r"After (\d+) steps it is (\S+),", printed).groups()
  assert 0 < int(steps) < tour.MAX_STEPS
  assert float(cost) <= tour.TOLERANCE
  seen, new = (float(number) for number in re.findall(r"^   (\S+)% of", printed, re.M))
  assert min(seen, new) >= 97
  height, width, _ = imread(tmp_path / "new" / "spiral.png").shape
  assert (height, width) == (806, 1300)


@pytest.mark.slow
def test_it_is_what_the_library_does(start):
  """The names in its docstrings are the library's for the same numbers."""
  params, x, labels = start
  net = fb.mlp([2, 32, 32, 3])
  jax.tree.map(np.testing.assert_array_equal, params, jax.jit(net.init)(jax.random.key(0)))
  with jax.enable_x64(True):
    params, x = jax.tree.map(np.float64, jax.device_get((params, x)))
    ours = jax.jit(tour.cost_and_gradient)(params, x, labels)
    theirs = jax.jit(fb.value_and_grad(net, fb.softmax_cross_entropy))(params, x, labels)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * abs(want).max())


def bias_not_summed(params, x, y_bar):
  params_bar, x_bar = tour.dense_backward(params, x, y_bar)
  return params_bar._replace(b=y_bar[0]), x_bar


def factor(params, x, y_bar):
  params_bar, x_bar = tour.dense_backward(params, x, y_bar)
  return params_bar, 1.001 * x_bar


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [bias_not_summed, factor])
def test_its_witness_finds_a_wrong_rule(wrong, start, monkeypatch):
  assert tour.worst_error(*start) < 1e-12
  parts = tuple(p._replace(backward=wrong) if p.name == "dense" else p for p in tour.NET.parts)
  monkeypatch.setattr(tour, "NET", tour.NET._replace(parts=parts))
  # Another function for jax, which would take what it has traced of the right one.
  monkeypatch.setattr(tour, "cost_and_gradient", functools.partial(tour.cost_and_gradient))
  assert tour.worst_error(*start) > 1e-4


def test_training_ends_by_either_rule(start, monkeypatch):
  monkeypatch.setattr(tour, "MAX_STEPS", 3)
  history, costs = tour.train(*start)
  assert len(history) == len(costs) == 4  # The start, and three steps.
  assert costs == sorted(costs, reverse=True)
  monkeypatch.setattr(tour, "TOLERANCE", costs[1])
  assert tour.train(*start)[1] == costs[:2]


def test_it_is_short_and_uses_public_names_alone():
  assert_short_and_public(SCRIPT, lines=150)
