#!/usr/bin/env bash
# jax 0.10.2, CPU.
#
# `jax.scipy.special.spence` has the slope log(x) / (1 - x). Its gradient is NaN at every x between 1 and
# 2, where the value is right: a branch that isn't taken there, log(x) log(1 - x), has the logarithm of a
# negative number, and `jnp.where` multiplies its NaN by zero. At 1 the gradient is 0 where the slope is
# -1: there the function returns a constant.
#
# Seen:
#   x = 0.7: value off by 1.7e-16, gradient -1.188916, mpmath -1.188916
#   x = 1.0: value off by 0.0e+00, gradient 0.000000, mpmath -1.000000
#   x = 1.3: value off by 0.0e+00, gradient nan, mpmath -0.874548
#   x = 1.9: value off by 5.6e-16, gradient nan, mpmath -0.713171
#   x = 2.5: value off by 4.4e-16, gradient -0.610860, mpmath -0.610860
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 mpmath==1.3.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import mpmath
import numpy as np

jax.config.update("jax_enable_x64", True)
from jax.scipy.special import spence


def function(x):
  return mpmath.re(mpmath.polylog(2, 1 - mpmath.mpf(x)))


for x in (0.7, 1.0, 1.3, 1.9, 2.5):
  gradient = float(jax.grad(spence)(x))
  slope = float(mpmath.diff(function, x)) if x != 1 else -1.0
  error = abs(float(spence(x)) - float(function(x)))
  print(f"x = {x}: value off by {error:.1e}, gradient {gradient:.6f}, mpmath {slope:.6f}")
  assert error < 1e-12
  if 1 < x < 2:
    assert np.isnan(gradient)
  elif x == 1:
    assert gradient == 0
  else:
    assert abs(gradient - slope) < 1e-9
PYTHON
