"""What a step costs, as the compiler counts it, against `jax.grad`; nothing is timed, or even run.

`scripts/bench.py` takes the time. Here stand the figures that don't depend on the machine's mood.
"""

import functools

import pytest

from scripts.benchmarks import models, residuals, step
from scripts.benchmarks.subjects import SIZES
from scripts.campaigns.matrix import ACTIVATIONS

MORE_FLOPS = 1.02
"""The products are the same and nearly all of it; what remains is how a loss is written."""
MORE_TEMP = 1.05
"""We keep fewer arrays; what is the same on both sides may be packed differently."""


@functools.cache
def costs(name):
  """Of our step, and of `jax.value_and_grad`'s."""
  size = SIZES[name]
  return step.cost(models.our_step(size), size), step.cost(models.plain_step(size), size)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_step_needs_no_more_flops_than_autodiff(name):
  (ours, _), (theirs, _) = costs(name)
  assert 0 < ours <= MORE_FLOPS * theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_step_needs_no_more_scratch_memory_than_autodiff(name):
  (_, ours), (_, theirs) = costs(name)
  assert 0 < ours <= MORE_TEMP * theirs


# --- What is kept ---------------------------------------------------------------------------------

KEEP_TWO = {"gelu", "gelu_tanh", "silu", "mish"}
"""Not monotone: no derivative in terms of the output, so the pre-activation is kept too."""


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_residuals_are_as_claimed_and_no_more_than_autodiff_keeps(name):
  """One activation a hidden layer where the derivative is written in the output, else two."""
  ours, theirs = residuals.kept_with(name)
  assert ours == (2 if name in KEEP_TWO else 1)
  assert ours <= theirs
