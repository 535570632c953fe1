"""Limits of arguments that depend on the data or on other arguments, without importing jax."""

from collections.abc import Collection, Sequence
from typing import Literal

from fbackprop.errors import RangeError, check_choice
from fbackprop.ranges import FLOAT32_MAX, check_in_range

ClassWeights = Literal["none", "balanced"] | Sequence[float]


def check_class_weights(weights: ClassWeights) -> None:
  """Raise for class weights that are invalid for any data."""
  if isinstance(weights, str):
    check_choice("", "class_weights", weights, ("none", "balanced"))
    return
  if not all(0 <= weight <= FLOAT32_MAX for weight in weights) or not any(weights):
    raise RangeError(
      "must be balanced, none, or a number for each class, finite, at least 0 and not all 0, got "
      + (" ".join(f"{weight:g}" for weight in weights) or "nothing"),
      "class_weights",
    )


def check_batch_size(batch_size: int, n: int, watch: Collection[str] = ()) -> None:
  """Raise for a batch larger than the n training examples, or too small for the noise scale."""
  if batch_size > n:
    raise RangeError(f"must be at most the {n} training examples, got {batch_size}", "batch_size")
  if "noise_scale" in watch and batch_size < 2:
    raise RangeError(
      "noise_scale needs batches of at least 2 examples, as the variance of one is undefined, got "
      f"{batch_size}", "watch",
    )  # fmt: skip


def check_warmup(warmup: int, steps: int) -> None:
  """Raise for a warmup longer than the run."""
  check_in_range("", "warmup", warmup)
  if warmup > steps:
    raise RangeError(f"must be at most the {steps} steps of the run, got {warmup}", "warmup")
