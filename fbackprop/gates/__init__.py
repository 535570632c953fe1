"""Gates: elementary functions, each a forward rule with its local derivative beside it.

The lecture's nodes: a gate multiplies the gradient that arrives from above (upstream, `y_bar`) by
its local gradient and hands the product down (downstream), one for each input. Layers are made of
the same rules: `fbackprop.layers.activations` lifts a one-input gate to a layer, and `dense` is the
multiplication and summation gates in matrix form.

Kinks and ties, everywhere alike: a kink belongs to the piece that isn't the identity, so that
relu'(0) = 0 and abs'(0) = 0, and `max` or `min` with k tied inputs sends 1/k of the gradient to
each. Another well-known choice is a keyword of `relu_with`, `leaky_relu_with`, `clip_with`,
`max_with`, `min_with`. NaN passes through every gate.
"""

from fbackprop.gates.arithmetic import (
  add,
  divide,
  multiply,
  negate,
  power,
  reciprocal,
  square,
  subtract,
)
from fbackprop.gates.gated import gelu, gelu_tanh, mish, silu
from fbackprop.gates.piecewise import (
  abs,
  clip_with,
  hard_tanh,
  leaky_relu,
  leaky_relu_with,
  relu,
  relu6,
  relu_with,
)
from fbackprop.gates.selection import identity, max, max_with, min, min_with
from fbackprop.gates.smooth import (
  cos,
  elu,
  elu_with,
  exp,
  log,
  selu,
  sigmoid,
  sin,
  softplus,
  sqrt,
  tanh,
)

__all__ = [
  "abs",
  "add",
  "clip_with",
  "cos",
  "divide",
  "elu",
  "elu_with",
  "exp",
  "gelu",
  "gelu_tanh",
  "hard_tanh",
  "identity",
  "leaky_relu",
  "leaky_relu_with",
  "log",
  "max",
  "max_with",
  "min",
  "min_with",
  "mish",
  "multiply",
  "negate",
  "power",
  "reciprocal",
  "relu",
  "relu6",
  "relu_with",
  "selu",
  "sigmoid",
  "silu",
  "sin",
  "softplus",
  "sqrt",
  "square",
  "subtract",
  "tanh",
]
