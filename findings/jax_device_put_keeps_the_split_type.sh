#!/usr/bin/env bash
# jax 0.10.2 (the same on 0.12.0.1), CPU, two devices.
#
# An array that is split over an Explicit mesh (the kind that `jax.make_mesh` makes) is brought to one
# device by `jax.device_put(x, device)`. Its sharding then says that it lives on that device, whole;
# its type, which `jax.typeof` shows and every operation reads, still says that it is split over the
# mesh. So even its transpose raises a ValueError about a mesh of two devices. A copy through NumPy has a
# type without a mesh.
#
# Seen:
#   SingleDeviceSharding float32[4@data,2]
#   ValueError
#   float32[4,2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("data",))
split = jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, PartitionSpec("data")))
one = jax.device_put(split, jax.devices()[0])
print(type(one.sharding).__name__, jax.typeof(one))
assert len(one.sharding.device_set) == 1
assert "@data" in str(jax.typeof(one)), "the type says now that it is whole"
try:
  one.T
except ValueError as error:
  print(type(error).__name__)
  assert "size of the mesh 2" in str(error), error
else:
  raise AssertionError("the transpose works now")
whole = jnp.asarray(np.asarray(split))
print(jax.typeof(whole))
assert (whole @ whole.T).shape == (4, 4)
PYTHON
