#!/usr/bin/env bash
# jax 0.10.2 (the same on 0.12.0.1), CPU.
#
# `jnp.asarray` of a NumPy array, which computes nothing and needs no cast, compiles a program for
# every new shape; `jax.device_put` of the same array compiles none. A test that tries one function at
# many shapes can spend most of its time so: the verification of a small rule at its test points
# compiled 72 programs, of which 49 were this and casts by `jnp.asarray(x, dtype)`.
#
# Seen:
#   jnp.asarray: 5 programs for 5 shapes
#   jnp.asarray with a dtype: 5 programs for 5 shapes
#   jax.device_put: 0 programs for 5 shapes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

compiled = []


def listen(event, seconds, **details):
  if "backend_compile" in event:
    compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(listen)


def count(convert, columns, dtype):
  compiled.clear()
  for rows in range(1, 6):
    convert(np.ones((rows, columns), dtype))
  return len(compiled)


found = {
  "jnp.asarray": count(jnp.asarray, 3, np.float32),
  "jnp.asarray with a dtype": count(lambda x: jnp.asarray(x, jnp.float32), 4, np.float64),
  "jax.device_put": count(jax.device_put, 5, np.float32),
}
for name, programs in found.items():
  print(f"{name}: {programs} programs for 5 shapes")
assert list(found.values()) == [5, 5, 0], found
PYTHON
