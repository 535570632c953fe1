"""Whole runs against what others have published."""

import jax
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train.data.datasets import load_dataset
from tests.support.runs import descend


def spiral() -> tuple[np.ndarray, np.ndarray]:
  """Three arms of a hundred points, as in the CS231n notes, "Minimal Neural Network Case Study"."""
  rng = np.random.default_rng(0)
  arms = []
  for arm in range(3):
    radius = np.linspace(0, 1, 100)
    angle = np.linspace(4 * arm, 4 * (arm + 1), 100) + 0.2 * rng.normal(size=100)
    arms.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
  return np.concatenate(arms).astype(np.float32), np.repeat(np.arange(3), 100).astype(np.int32)


def is_matrix(params):
  return jax.tree.map(lambda leaf: leaf.ndim == 2, params)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("hidden", "steps", "least", "most"),
  # Published: 49 % and 98 %, of one random spiral; another one differs by a few points.
  [((), 200, 0.44, 0.58), ((100,), 10_000, 0.97, 1.0)],
  ids=["linear", "one_hidden_layer"],
)
def test_spiral_of_cs231n(hidden, steps, least, most):
  x, labels = spiral()
  with jax.numpy_dtype_promotion("standard"):
    net = fb.mlp([2, *hidden, 3], w_init=jax.nn.initializers.normal(0.01))
    decay = optax.add_decayed_weights(1e-3, mask=is_matrix)
    optimizer = optax.chain(decay, fb.train.gradient_descent(1.0))
    seen = {"check_every": steps, "test": (x, labels)}
    result = descend(net, (x, labels), steps, optimizer=optimizer, **seen)
  assert result.checks_ok
  # The loss before the first step is that of chance.
  np.testing.assert_allclose(result.losses[0], np.log(3), rtol=1e-3)
  assert least <= result.evaluations[-1].test_accuracy <= most


@pytest.mark.slow
def test_digits_as_well_as_scikit_learn():
  """`MLPClassifier((64,))` at its defaults, seeds 0 to 2: 0.9756, 0.9822, 0.9778."""
  digits = load_dataset("digits", seed=0)
  accuracies = []
  with jax.numpy_dtype_promotion("standard"):
    for seed in range(3):
      options = {"key": jax.random.key(seed), "test": (digits.x_test, digits.targets_test)}
      result = descend(
        fb.mlp([64, 64, 10]), (digits.x, digits.targets), 200 * (1347 // 200), batch_size=200,
        optimizer=optax.adam(1e-3), **options,
      )  # fmt: skip
      accuracies.append(result.evaluations[-1].test_accuracy)
  # Of 450 test examples one is 0.0022, and the three published values spread by 0.0066.
  assert abs(np.mean(accuracies) - np.mean([0.9756, 0.9822, 0.9778])) < 0.01
