"""The record of a row, and definitions shared by rows of every kind."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fbackprop.types import Array

CLASSES = 4
"""Outputs of the networks and inputs of the losses, so that any two of them make a model."""

Primals = tuple[Any, ...]
Reference = Callable[..., Array]
Kinks = Callable[[Any], list[Primals]]
Generator = np.random.Generator


class Case(NamedTuple):
  """A row of the table: a unit, its arguments, and a reference for its value.

  Attributes:
    id: the short, stable id; documents link to `test_laws.py::test_...[id-dtype]`.
    make: `make(dtype)` builds the `Gate`, `Layer` or `Loss`.
    primals: `primals(rng, n, dtype)` draws the arguments of the forward rule for n examples, as
      NumPy arrays, away from kinks and ties: a gate's inputs, a layer's (params, x), or also a key,
      a loss's (outputs, targets).
    reference: the same function of the same arguments in plain `jax.numpy`, for autodiff to
      differentiate; its derivative has the stated policy at kinks and ties. It is mapped over
      single examples, so that a unit that mixes examples is detected.
    kinks: `kinks(dtype)` lists arguments at kinks and ties, or at numerically delicate points.
    reads_own_params: true for a layer that isn't affine in its parameters, or that recomputes its
      forward pass: its `params_bar` may depend on them.
    constants: `constants(*primals)` replaces the constants for the reference by arrays with a row
      for each example; None if the constants have that already. (A key draws the masks of a whole
      batch, and the reference gets one example.)
    slow: true for a row whose rule is that of another row in another form: the fast suite omits it.
    title: the row's name in `fbackprop verify` and docs/trust.md; "" for a row that they omit.
    targets: the kind of a loss's targets, a key of `losses.TARGETS`.
  """

  id: str
  make: Callable[[Any], Any]
  primals: Callable[[Generator, int, Any], Primals]
  reference: Reference
  kinks: Kinks | None = None
  reads_own_params: bool = False
  constants: Callable[..., Primals] | None = None
  slow: bool = False
  title: str = ""
  targets: str = ""


def points(*arrays: Any) -> Kinks:
  """Return the function that builds one list of arguments of a dtype."""
  return lambda dtype: [tuple(np.array(values, dtype) for values in arrays)]


def always(unit: Any, dtype: Any) -> Any:
  """Return the same unit for every dtype."""
  return unit
