"""Gates: elementary functions, each a forward rule with its local derivative beside it.

A gate is a node of the lecture's graphs: it multiplies the upstream gradient `y_bar` by its local
gradient for each input, and the products are the downstream gradients. Layers consist of the same
rules: `fbackprop.layers.activations` lifts a one-input gate to a layer, and `dense` is the
multiplication and summation gates in matrix form.

Kinks and ties follow one policy: a kink belongs to the piece that isn't the identity, so that
relu'(0) = 0 and abs'(0) = 0, and `max` or `min` with k tied inputs sends 1/k of the gradient to
each. Another common choice is a keyword of `relu_with`, `leaky_relu_with`, `clip_with`, `max_with`,
`min_with`. NaN propagates through every gate.
"""

from fbackprop.gates import arithmetic, piecewise, smooth
from fbackprop.gates.arithmetic import *  # noqa: F403
from fbackprop.gates.piecewise import *  # noqa: F403
from fbackprop.gates.smooth import *  # noqa: F403

__all__ = sorted([*arithmetic.__all__, *piecewise.__all__, *smooth.__all__])
