#!/usr/bin/env bash
# jax 0.10.2, CPU.
#
# `x / x.max()` is all zeros where the maximum is above 2^126, a normal float32: dividing an array by one
# number, XLA multiplies by the number's reciprocal, which below 2^-126 is subnormal and flushed to zero.
# Dividing by an array of the same shape is right. So is scaling by a power of two first, `jnp.ldexp`.
# Who divides by the largest magnitude so that no square overflows gets zeros for the largest arrays.
#
# Seen:
#   x / x.max():              [ 0. -0.  0.]
#   x / full_like(x, x.max): [ 0.75 -1.    0.25]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import numpy as np

x = jnp.array([3.0, -4.0, 1.0]) * 2.0**125
largest = jnp.abs(x).max()
assert float(largest) == 2.0**127
by_one, by_each = x / largest, x / jnp.full_like(x, largest)
print("  x / x.max():             ", by_one)
print("  x / full_like(x, x.max):", by_each)
assert np.asarray(by_each).tolist() == [0.75, -1.0, 0.25]
assert np.asarray(x / 4 / (largest / 4)).tolist() == [0.75, -1.0, 0.25]
assert not np.asarray(by_one).any()
PYTHON
