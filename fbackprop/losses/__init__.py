"""Losses: one number for each example, unreduced, each with its backward rule beside it.

The losses don't average over the batch: the mean is the seed cotangent `1/N` that `value_and_grad`
passes to `backward`. The residual of each loss is one array `[N, C]`, the derivative of an
example's loss by its outputs, so that the backward rule is one product. Targets are constants: they
get no cotangent.

Kinks follow one policy: a term that is cut off at 0 has the slope 0 there, and k tied maxima get
1/k of the gradient each. Labels out of range raise where their values are concrete; inside jit that
example's loss and gradient are NaN.
"""

from fbackprop.losses.classification import (
  hinge,
  sigmoid_cross_entropy,
  softmax_cross_entropy,
  softmax_cross_entropy_with,
)
from fbackprop.losses.combination import combine
from fbackprop.losses.regression import huber, huber_with, log_cosh, poisson_nll, squared_error

__all__ = [
  "combine", "hinge", "huber", "huber_with", "log_cosh", "poisson_nll", "sigmoid_cross_entropy",
  "softmax_cross_entropy", "softmax_cross_entropy_with", "squared_error",
]  # fmt: skip
