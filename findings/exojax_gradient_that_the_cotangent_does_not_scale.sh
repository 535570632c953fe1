#!/usr/bin/env bash
# exojax 2.6.0, jax 0.10.2, CPU.
#
# Of `rewofzx(x, y)`, the real part of Faddeeva's function, the hand-written VJP by y is
# 2 (x L + y V) g - 2 / √π, where it should be (2 (x L + y V) - 2 / √π) g: the constant isn't multiplied
# by the cotangent g. For a cotangent of one, with which a gradient of the function itself is tested, it
# is right. Any loss on top of the function has another cotangent: even a loss of zero times the
# function has the gradient -2 / √π, and in a mean over n points the constant counts n times.
#
# Seen:
#   by y at (0.7, 0.4), of 1 times the function: -0.270399, mpmath -0.270399
#   by y at (0.7, 0.4), of 3 times the function: 1.445561, mpmath -0.811197
#   by y at (0.7, 0.4), of 0 times the function: -1.128379, mpmath -0.000000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 mpmath==1.3.0
# Its other dependencies are for files of spectra.
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install --no-deps exojax==2.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import mpmath

jax.config.update("jax_enable_x64", True)
from exojax.special.faddeeva import rewofzx

x, y = 0.7, 0.4


def real_part(y):
  z = mpmath.mpc(x, y)
  return mpmath.re(mpmath.exp(-z * z) * mpmath.erfc(-1j * z))


slope = float(mpmath.diff(real_part, y))
for factor, is_right in ((1, True), (3, False), (0, False)):
  rule = float(jax.grad(lambda y: factor * rewofzx(x, y))(y))
  print(f"by y at ({x}, {y}), of {factor} times the function: {rule:.6f}, mpmath {factor * slope:.6f}")
  # The function's own series is good to 1e-7.
  assert (abs(rule - factor * slope) < 1e-6) is is_right
PYTHON
