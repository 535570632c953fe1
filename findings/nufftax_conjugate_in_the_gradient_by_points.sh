#!/usr/bin/env bash
# nufftax 0.6.1, jax 0.10.2, CPU.
#
# The hand-written VJP of `spread_1d` and `interp_1d` by the points x takes Re(conj(c) · Σ g φ'), as
# frameworks do whose cotangents are conjugate. JAX's aren't: a pullback is the transpose, Re(c · Σ g φ'),
# and the gradient by x is wrong wherever the strengths c are complex. For real strengths, with which
# such a rule is likely to be tested, both are the same, and the cotangent of c is right in any case.
# Held against central differences, which know nothing of a convention.
#
# Seen:
#   real strengths:    largest error of the gradient by x below 1e-6
#   complex strengths: [ 1.8827  2.8417  1.6168  2.3268], differences [-0.9929 -1.3595  3.5217  2.2011]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 nufftax==0.6.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
from nufftax.core.kernel import compute_kernel_params
from nufftax.core.spread import spread_1d

kernel, rng, step = compute_kernel_params(1e-6), np.random.default_rng(0), 1e-6
x = jnp.asarray(rng.uniform(-3, 3, 4))
strengths = jnp.asarray(rng.standard_normal(4) + 1j * rng.standard_normal(4))
weights = jnp.asarray(rng.standard_normal(16) + 1j * rng.standard_normal(16))


def both(c):
  def loss(x):
    return jnp.sum(jnp.real(spread_1d(x, c, 16, kernel) * jnp.conj(weights)))

  ends = [[float(loss(x.at[i].add(sign * step))) for sign in (1, -1)] for i in range(len(x))]
  return np.asarray(jax.grad(loss)(x)), np.array([(a - b) / (2 * step) for a, b in ends])


gradient, slope = both(strengths.real + 0j)
print(f"real strengths:    largest error of the gradient by x {np.abs(gradient - slope).max():.1e}")
assert np.abs(gradient - slope).max() < 1e-6
gradient, slope = both(strengths)
print(f"complex strengths: {gradient.round(4)}, differences {slope.round(4)}")
assert np.abs(gradient - slope).max() > 1
PYTHON
