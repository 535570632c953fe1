#!/usr/bin/env bash
# microjaxx 0.1.1, jax 0.10.2, CPU.
#
# The hand-written JVP of `Is_limb_1st(d, u1)`, a linear limb darkening (1 - u (1 - μ)) · 3 / (π (3 - u)),
# has the wrong sign in the slope of the normalisation by u, 3 / (π (3 - u)²). At the middle of the disk
# the whole slope is of that term, and has the wrong sign. By d it is right. Nothing but a comparison
# with differences shows it: the profile integrates to one either way.
#
# Seen:
#   at d = 0.0: by d -0.000000, mpmath 0.000000; by u -0.141262, mpmath 0.141262
#   at d = 0.3: by d -0.046202, mpmath -0.046202; by u -0.155576, mpmath 0.121742
#   at d = 0.5: by d -0.084820, mpmath -0.084820; by u -0.182898, mpmath 0.084485
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 microjaxx==0.1.1 mpmath==1.3.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import mpmath

jax.config.update("jax_enable_x64", True)
from microjax.inverse_ray.limb_darkening import Is_limb_1st


def intensity(d, u):
  return 3 / (mpmath.pi * (3 - u)) * (1 - u * (1 - mpmath.sqrt(1 - d * d)))


u = 0.4
for d in (0.0, 0.3, 0.5):
  by_d, by_u = (float(g) for g in jax.grad(Is_limb_1st, (0, 1))(d, u))
  want_d = float(mpmath.diff(lambda d: intensity(d, u), d))
  want_u = float(mpmath.diff(lambda u: intensity(d, u), u))
  print(f"at d = {d}: by d {by_d:.6f}, mpmath {want_d:.6f}; by u {by_u:.6f}, mpmath {want_u:.6f}")
  assert abs(by_d - want_d) < 1e-6
  assert by_u < 0 < want_u
PYTHON
