#!/usr/bin/env bash
# jax 0.10.2 (the same on 0.12.0.1), CPU.
#
# The persistent compilation cache never replaces a file that it can't read. A program whose file was
# cut off, as by a full disk or a process that was killed while it wrote, is compiled anew in every
# process from then on, with a warning each time: what is compiled isn't written, since there is a
# file of that name. And with `jax_compilation_cache_max_size` set, a single file that lost its time
# of use (`-atime`), as by such an end between the two writes, keeps all other programs from being
# written: the next write looks for the time of each file first.
#
# Seen:
#   cut off: 2 warnings in 2 runs, the file still has 50 bytes
#   without its time: the next program isn't written
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 filelock==3.20.0
cat >"$folder/compile.py" <<'PYTHON'
import sys
import warnings

import jax
import numpy as np

folder, name, largest = sys.argv[1:]
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_compilation_cache_max_size", int(largest))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def one(x):
  return 2 * x


def two(x):
  return 3 * x


with warnings.catch_warnings(record=True) as told:
  warnings.simplefilter("always")
  jax.jit({"one": one, "two": two}[name])(np.ones(3, np.float32))
print(len(told))
PYTHON
compile() { JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/compile.py" "$@"; }

compile "$folder/cut" one -1 >/dev/null
program=$(echo "$folder"/cut/jit_one-*-cache)
truncate --size 50 "$program"
warnings=$(($(compile "$folder/cut" one -1) + $(compile "$folder/cut" one -1)))
size=$(stat --format %s "$program")
echo "cut off: $warnings warnings in 2 runs, the file still has $size bytes"
[ "$warnings $size" = "2 50" ]

compile "$folder/timeless" one 1000000 >/dev/null
rm "$folder"/timeless/jit_one-*-atime
[ "$(compile "$folder/timeless" two 1000000)" = 1 ]
if compgen -G "$folder/timeless/jit_two-*-cache" >/dev/null; then exit 1; fi
echo "without its time: the next program isn't written"
