#!/usr/bin/env bash
# jax 0.10.2, CPU (no longer so on 0.12.0.1).
#
# A program's key in the persistent compilation cache depends on the folder of the cache. A cache that
# is copied to another folder, as from one machine's home to another's or from a CI's store, is never
# read: each program is compiled again under another key. The cause is an option of XLA for GPUs, the
# folder of its own caches, which is set below the cache's folder and hashed, on a CPU too; without
# it (`jax_persistent_cache_enable_xla_caches` empty) the keys are the same.
#
# Seen:
#   moved: 2 files for one program
#   moved, without XLA's caches: 1 file for one program
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/compile.py" <<'PYTHON'
import sys

import jax
import numpy as np

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_enable_xla_caches", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: 2 * x)(np.ones(3, np.float32))
PYTHON
# Compile with a cache, move it, compile again; print the number of programs that it holds then.
count() {
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/compile.py" "$folder/$1-before" "$2"
  mv "$folder/$1-before" "$folder/$1-after"
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/compile.py" "$folder/$1-after" "$2"
  find "$folder/$1-after" -name '*-cache' | wc -l
}

found=$(count all xla_gpu_per_fusion_autotune_cache_dir)
echo "moved: $found files for one program"
[ "$found" = 2 ]
found=$(count none '')
echo "moved, without XLA's caches: $found file for one program"
[ "$found" = 1 ]
