"""Gates: elementary functions, each a forward rule with its local derivative beside it.

The lecture's nodes: a gate multiplies the gradient that arrives from above (upstream, `y_bar`) by
its local gradient and hands the product down (downstream), one for each input. Layers are made of
the same rules: `fbackprop.activations` lifts a one-input gate to a layer, and `dense` is the
multiplication and summation gates in matrix form.

Kinks and ties, everywhere alike: relu'(0) = 0, and `max` or `min` with k tied inputs sends 1/k of
the gradient to each. NaN passes through every gate.
"""

from fbackprop.gates.arithmetic import (
  add,
  divide,
  multiply,
  negate,
  reciprocal,
  square,
  subtract,
)
from fbackprop.gates.selection import identity, max, min, relu
from fbackprop.gates.smooth import exp, gelu, log, sigmoid, tanh

__all__ = [
  "add",
  "divide",
  "exp",
  "gelu",
  "identity",
  "log",
  "max",
  "min",
  "multiply",
  "negate",
  "reciprocal",
  "relu",
  "sigmoid",
  "square",
  "subtract",
  "tanh",
]
