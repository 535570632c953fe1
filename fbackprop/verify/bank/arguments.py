"""The arguments of the bank: small, deterministic, with distinct dimensions except on purpose.

`draw` draws them. A tuple is the shape of a standard normal array; any other argument is a function
that returns the argument: `positive(3)` describes an array, and `positive(3)()` draws it. So a
decorator can state its arguments without any computation at import.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.types import Array

Drawn = Callable[[], Any]
Wanted = tuple[int, ...] | Drawn


def draw(*wanted: Wanted, seed: int = 0, dtype: Any = jnp.float32) -> tuple[Any, ...]:
  """Draw the arguments; those given by shape share one generator."""
  generator = np.random.default_rng(seed)
  return tuple(a() if callable(a) else jnp.asarray(generator.normal(size=a), dtype) for a in wanted)


def described(function: Callable[..., Any]) -> Callable[..., Drawn]:
  """Make a call of the function describe its result instead of computing it."""

  @functools.wraps(function)
  def describe(*args: Any, **options: Any) -> Drawn:
    return functools.partial(function, *args, **options)

  return describe


@described
def normal(*shape: int, seed: int, times: float = 1) -> Array:
  """Draw a standard normal array from a seed of its own, and scale it."""
  return times * jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@described
def normal_with_zeros(*shape: int) -> Array:
  """Draw a standard normal array with an exact zero in every third entry."""
  (x,) = draw(shape)
  return x.ravel().at[::3].set(0).reshape(x.shape)


@described
def positive(*shape: int, seed: int = 0) -> Array:
  """Draw numbers between 0.5 and 2."""
  return jnp.asarray(np.random.default_rng(seed).uniform(0.5, 2, size=shape), jnp.float32)


@described
def labels(n: int, classes: int) -> Array:
  """Draw labels [N] from 0 to C - 1."""
  return jnp.asarray(np.random.default_rng(0).integers(classes, size=n), jnp.int32)


@described
def integers(*values: int) -> Array:
  """Return these integers."""
  return jnp.asarray(values)


@described
def probabilities(n: int, classes: int, seed: int = 0) -> Array:
  """Draw positive rows [N, C] that sum to one."""
  rows = np.random.default_rng(seed).uniform(0.1, 1, size=(n, classes))
  return jnp.asarray(rows / rows.sum(1, keepdims=True), jnp.float32)


@described
def key(seed: int) -> Array:
  """Return a random key."""
  return jax.random.key(seed)


@described
def mlp_params(*sizes: int) -> tuple[dict[str, Array], ...]:
  """Draw the parameters of an MLP: a dictionary of w and b for each layer."""
  generator = np.random.default_rng(0)
  return tuple(
    {
      "b": jnp.asarray(generator.normal(size=d_out) / 4, jnp.float32),
      "w": jnp.asarray(generator.normal(size=(d_in, d_out)) / np.sqrt(d_in), jnp.float32),
    }
    for d_in, d_out in itertools.pairwise(sizes)
  )


@described
def layer_params(d_in: int, d_out: int) -> dict[str, Array]:
  """Draw the parameters of one layer."""
  return mlp_params(d_in, d_out)()[0]
