"""What a row of the table of cases is, and how close is close enough.

A row names the unit, says how to draw its arguments, and gives a reference: the same function in
plain `jax.numpy`, whose autodiff has the stated policy at kinks and ties.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import fbackprop as fb

TOLERANCE = {
  # Relative to the largest term that is summed for the leaf: see `witness.Truth`. An error of
  # rounding is a small multiple of eps of that term, whatever the sum came to; so no bound below is
  # relative to a result, or grows with the size of an array.
  #
  # 4,500 eps, as DESIGN states the law. Both sides round, each in its own order: sums of fewer than
  # 100 terms, three layers, exp and erfc of a few ULP. Right rules stay below 10 eps.
  "float64": 1e-12,
  # 34 eps. Only our side rounds, for the witness computes with the same numbers in float64. Right
  # rules stay below 6 eps here; the rest is room for other machines' exp, tanh and erfc.
  "float32": 4e-6,
  # Central differences of step 1e-5 in float64: truncated at step² = 1e-10 times the third
  # derivative, rounded at eps / step = 2e-11, times the terms of the sum.
  "differences": 1e-8,
}

CLASSES = 4
"""Outputs of the networks and inputs of the losses, so that any two of them make a model."""


class Case(NamedTuple):
  """A row: a unit, its arguments, and what it should be.

  Attributes:
    id: short and stable; documents link to `test_laws.py::test_...[id-dtype]`.
    make: `make(dtype)` builds the `Gate`, `Layer` or `Loss`.
    primals: `primals(rng, n, dtype)` draws the arguments of the forward rule for n examples, as
      NumPy arrays, away from kinks and ties: a gate's inputs, a layer's (params, x), or also a key,
      a loss's (outputs, targets).
    reference: the function of the same arguments, for autodiff to differentiate. It is given one
      example at a time, so that an example that sees another one in the unit is found out.
    kinks: `kinks(dtype)` lists arguments at kinks and ties, or where a rule is delicate.
    reads_own_params: true for a layer that isn't affine in its parameters (or that computes its
      forward pass again), and so is free to read them for its `params_bar`.
    constants: `constants(*primals)` is what the reference gets in the place of the constants, with
      a row for each example; None if the constants have that already. (A key draws the masks of a
      whole batch, and the reference is given one example.)
    slow: true for a row that repeats another one's rule in other words: it waits for CI.
  """

  id: str
  make: Callable[[Any], fb.Gate | fb.Layer | fb.Loss]
  primals: Callable[[np.random.Generator, int, Any], tuple[Any, ...]]
  reference: Callable[..., jax.Array]
  kinks: Callable[[Any], list[tuple[Any, ...]]] | None = None
  reads_own_params: bool = False
  constants: Callable[..., tuple[Any, ...]] | None = None
  slow: bool = False


def always(unit, dtype):
  """`make` of a unit that serves every dtype."""
  return unit
