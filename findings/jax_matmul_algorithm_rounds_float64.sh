#!/usr/bin/env bash
# jax 0.10.2 (the same on 0.12.0.1), CPU.
#
# `jax.default_matmul_precision` takes names of two kinds. "bfloat16", "tensorfloat32" and "float32"
# are hints about float32 products and leave float64 ones alone. The names of algorithms, such as
# "BF16_BF16_F32", apply to every product in reach, whatever its dtype: on a CPU float32 arrays are
# multiplied as they are, and float64 arrays in bfloat16. The result is float64 by its dtype and has
# two correct digits. There is no warning. So whoever computes a float64 reference inside of somebody's
# training script must set the precision for it too.
#
# Seen:
#   bfloat16 float32 error 5.5e-07
#   bfloat16 float64 error 0.0e+00
#   BF16_BF16_F32 float32 error 5.5e-07
#   BF16_BF16_F32 float64 error 1.8e-02
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
a = np.random.default_rng(0).normal(size=(8, 8))
errors = {}
for name in ("bfloat16", "BF16_BF16_F32"):
  for dtype in (jnp.float32, jnp.float64):
    with jax.default_matmul_precision(name):
      product = jnp.asarray(a, dtype) @ jnp.asarray(a, dtype)
    errors[name, product.dtype.name] = np.abs(product - a @ a).max()
    print(name, product.dtype, f"error {errors[name, product.dtype.name]:.1e}")
assert errors["bfloat16", "float64"] < 1e-14, "a hint rounds float64 now"
assert errors["BF16_BF16_F32", "float32"] < 1e-5, "float32 products are bfloat16 ones now"
assert errors["BF16_BF16_F32", "float64"] > 1e-3, "float64 products are float64 now"
PYTHON
