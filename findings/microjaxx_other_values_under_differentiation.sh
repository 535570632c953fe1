#!/usr/bin/env bash
# microjaxx 0.1.1, jax 0.10.2, CPU.
#
# A `custom_jvp` rule returns the primal output too, and JAX doesn't compare it with the function's.
# `in_source` is a step, and its rule returns the sigmoid whose slope it uses: `jax.value_and_grad` gives
# another value than the function, and so does everything that is computed from it.
#
# Seen:
#   in_source: [1. 0.], differentiated [0.8808 0.1192]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 microjaxx==0.1.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
from microjax.inverse_ray.boundary import in_source

distances = jnp.array([0.98, 1.02])
plain = np.asarray(in_source(distances, 1.0))
value, _ = jax.jvp(lambda d: in_source(d, 1.0), (distances,), (jnp.ones(2),))
print(f"in_source: {plain}, differentiated {np.asarray(value).round(4)}")
assert np.abs(plain - np.asarray(value)).max() > 0.1
PYTHON
