#!/usr/bin/env bash
# numpyro 0.22.0, jax 0.10.2, CPU.
#
# `DoublyTruncatedPowerLaw.log_prob` has a hand-written JVP. By the value and by alpha it is that of the
# logarithm; by the bounds, low and high, it is that of the density itself, and by high with the wrong
# sign. Whoever fits the upper bound by the gradient of a likelihood follows it in the wrong direction.
#
# Seen:
#   by x      -0.900000, of the logarithm  -0.900000, of the density  -0.196122
#   by alpha   0.314436, of the logarithm   0.314436, of the density   0.068520
#   by low     0.314230, of the logarithm   1.441990, of the density   0.314230
#   by high    0.009126, of the logarithm  -0.041879, of the density  -0.009126
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 numpyro==0.22.0 mpmath==1.3.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import mpmath

jax.config.update("jax_enable_x64", True)
from numpyro.distributions import DoublyTruncatedPowerLaw

at = {"x": 2.0, "alpha": -1.8, "low": 0.7, "high": 5.0}


def log_prob(x, alpha, low, high):
  return DoublyTruncatedPowerLaw(alpha, low, high).log_prob(x)


def density(x, alpha, low, high):
  return x**alpha * (alpha + 1) / (high ** (alpha + 1) - low ** (alpha + 1))


for i, name in enumerate(at):
  rule = float(jax.grad(log_prob, i)(*map(jnp.asarray, at.values())))
  logarithm, plain = (
    float(mpmath.diff(lambda v: of(*{**at, name: v}.values()), at[name]))
    for of in (lambda *args: mpmath.log(density(*args)), density)
  )
  print(f"by {name:5} {rule:10.6f}, of the logarithm {logarithm:10.6f}, of the density {plain:10.6f}")
  if name in ("x", "alpha"):
    assert abs(rule - logarithm) < 1e-6
  else:
    assert abs(rule - logarithm) > 0.01
PYTHON
