"""The record of a row, and what rows of every kind share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fbackprop.types import Array

CLASSES = 4
"""Outputs of the networks and inputs of the losses, so that any two of them make a model."""

Primals = tuple[Any, ...]
Generator = np.random.Generator


class Case(NamedTuple):
  """A row of the table: a unit, its arguments, and a reference for its value.

  Attributes:
    id: short and stable; documents link to `test_laws.py::test_...[id-dtype]`.
    make: `make(dtype)` builds the `Gate`, `Layer` or `Loss`.
    primals: `primals(rng, n, dtype)` draws the arguments of the forward rule for n examples, as
      NumPy arrays, away from kinks and ties: a gate's inputs, a layer's (params, x), or also a key,
      a loss's (outputs, targets).
    reference: the same function of the same arguments in plain `jax.numpy`, for autodiff to
      differentiate; its derivative has the stated policy at kinks and ties. It gets one example at
      a time, so that an example that reads another one in the unit is found out.
    kinks: `kinks(dtype)` lists arguments at kinks and ties, or where a rule is delicate.
    reads_own_params: true for a layer that isn't affine in its parameters (or that computes its
      forward pass again), and so is free to read them for its `params_bar`.
    constants: `constants(*primals)` replaces the constants for the reference by arrays with a row
      for each example; None if the constants have that already. (A key draws the masks of a whole
      batch, and the reference gets one example.)
    slow: true for a row that repeats another one's rule in other words: the fast suite skips it.
    title: the row's name in `fbackprop verify` and docs/trust.md; "" for a row that they omit.
    targets: of a loss, the kind of its targets, a key of `losses.TARGETS`.
  """

  id: str
  make: Callable[[Any], Any]
  primals: Callable[[Generator, int, Any], Primals]
  reference: Callable[..., Array]
  kinks: Callable[[Any], list[Primals]] | None = None
  reads_own_params: bool = False
  constants: Callable[..., Primals] | None = None
  slow: bool = False
  title: str = ""
  targets: str = ""


def always(unit: Any, dtype: Any) -> Any:
  """`make` of a unit that serves every dtype."""
  return unit
