#!/usr/bin/env bash
# jax 0.10.2, CPU.
#
# The backward pass of a `custom_vjp` rule gets its residuals as arrays, or as tracers of arrays. A scalar
# constant is another matter: under `jax.grad(jax.jit(f))` the residual is a number of Python, a subclass
# of `float` without `.at`, `reshape` and the other methods of arrays, though the forward pass has
# returned a `jax.Array`, and `jax.grad(f)` and `jax.jit(jax.grad(f))` hand over what it returned. A rule
# that is tested without jit fails under it, as with `residual.reshape(1)`.
#
# Seen:
#   grad(f)       the residual: a jax.Array True, a float False
#   jit(grad(f))  the residual: a jax.Array True, a float False
#   grad(jit(f))  the residual: a jax.Array False, a float True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

seen = []


def make():
  @jax.custom_vjp
  def scaled(x, scale):
    return x * scale

  def forward(x, scale):
    assert isinstance(scale, jax.Array)
    return scaled(x, scale), scale

  def backward(scale, y_bar):
    seen.append((isinstance(scale, jax.Array), isinstance(scale, float), hasattr(scale, "reshape")))
    return y_bar * scale, jnp.zeros_like(scale)

  scaled.defvjp(forward, backward)
  return lambda x: scaled(x, jnp.asarray(2.0)).sum()


x = jnp.ones(3)
for name, gradient in (
  ("grad(f)", lambda f: jax.grad(f)),
  ("jit(grad(f))", lambda f: jax.jit(jax.grad(f))),
  ("grad(jit(f))", lambda f: jax.grad(jax.jit(f))),
):
  gradient(make())(x)
  print(f"{name:13} the residual: a jax.Array {seen[-1][0]}, a float {seen[-1][1]}")
assert seen == [(True, False, True), (True, False, True), (False, True, False)], seen
PYTHON
