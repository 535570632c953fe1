"""Losses: one number for each example, unreduced, each with its backward rule beside it.

The mean over the batch isn't here: it is the seed cotangent `1/N` that `value_and_grad` hands to
`backward`. Each loss keeps one array `[N, C]`, the derivative of an example's loss by its outputs,
so that the backward rule is one product. Targets are constants: no cotangent flows to them.

Kinks, everywhere alike: the slope at 0 of what is cut off at 0 is 0, and k tied maxima get 1/k of
the gradient each. Labels out of range raise where they can be looked at; inside jit that example's
loss and gradient are NaN.
"""

from fbackprop.losses.classification import (
  hinge,
  sigmoid_cross_entropy,
  softmax_cross_entropy,
  softmax_cross_entropy_with,
)
from fbackprop.losses.combination import combine
from fbackprop.losses.regression import (
  huber,
  huber_with,
  log_cosh,
  poisson_nll,
  squared_error,
)

__all__ = [
  "combine",
  "hinge",
  "huber",
  "huber_with",
  "log_cosh",
  "poisson_nll",
  "sigmoid_cross_entropy",
  "softmax_cross_entropy",
  "softmax_cross_entropy_with",
  "squared_error",
]
