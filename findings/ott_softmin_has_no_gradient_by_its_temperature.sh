#!/usr/bin/env bash
# ott-jax 0.6.0, jax 0.10.2, CPU.
#
# The hand-written VJP of `ott.math.utils.softmin(x, gamma, axis)` returns None for gamma, which JAX takes
# as a cotangent of zero, without a word. The slope by gamma isn't zero, and whoever learns the temperature sees it stay where it is.
#
# Seen:
#   by x:     largest error 6.0e-11
#   by gamma: 0.000000, differences -0.852973
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ott-jax==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
from ott.math.utils import softmin

x, gamma, step = jnp.array([0.3, -0.4, 0.9]), 0.7, 1e-6
by_x, by_gamma = jax.grad(softmin, (0, 1))(x, gamma, None)
steps = step * np.eye(3)
by_x_slope = [float(softmin(x + s, gamma, None) - softmin(x - s, gamma, None)) for s in steps]
error = np.abs(np.asarray(by_x) - np.array(by_x_slope) / (2 * step)).max()
slope = float(softmin(x, gamma + step, None) - softmin(x, gamma - step, None)) / (2 * step)
print(f"by x:     largest error {error:.1e}")
print(f"by gamma: {float(by_gamma):.6f}, differences {slope:.6f}")
assert error < 1e-6
assert float(by_gamma) == 0 and abs(slope) > 0.1
PYTHON
