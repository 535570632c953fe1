#!/usr/bin/env bash
# tfp-nightly 0.26.0.dev20261027, jax 0.10.2, CPU.
#
# `hyp2f1_small_argument(a, b, c, z)` broadcasts its arguments, and is documented to have a gradient by z.
# With parameters of z's own shape the hand-written rule is right. With scalar parameters, as they are in
# most series, `jax.grad` raises a TracerIntegerConversionError: the rule asks for the axes to sum over
# with operations that JAX traces in a backward pass, where they must be known. The function itself
# works, and so does its gradient at one z.
#
# Seen:
#   parameters of z's shape: [0.2764993  0.3088386  0.34919992], mpmath [0.276499 0.308839 0.3492  ]
#   scalar parameters:       TracerIntegerConversionError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 mpmath==1.3.0 tfp-nightly==0.26.0.dev20261027
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from tensorflow_probability.substrates.jax.math.hypergeometric import hyp2f1_small_argument

parameters, z = (0.5, 1.25, 2.5), jnp.array([0.1, 0.2, 0.3])
slopes = [float(mpmath.diff(lambda v: mpmath.hyp2f1(*parameters, v), float(v))) for v in z]


def gradient(*own):
  return jax.grad(lambda z: hyp2f1_small_argument(*own, z).sum())(z)


found = np.asarray(gradient(*(jnp.full(3, p) for p in parameters)))
print(f"parameters of z's shape: {found}, mpmath {np.array(slopes).round(6)}")
assert np.abs(found - slopes).max() < 1e-4
try:
  gradient(*parameters)
except jax.errors.TracerIntegerConversionError as error:
  print(f"scalar parameters:       {type(error).__name__}")
else:
  raise SystemExit("the gradient with scalar parameters doesn't raise any more")
PYTHON
