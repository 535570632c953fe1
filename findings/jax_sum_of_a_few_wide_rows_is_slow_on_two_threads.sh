#!/usr/bin/env bash
# jax and jaxlib 0.10.2, CPU: the sum of a few wide rows takes many times as long on two threads.
#
# y.sum(0) of a float32 array [9, 65536] reads 2.4 MB and does 590,000 additions. On one core it takes
# 0.4 ms; the same program, of a process that may use two cores, takes 6.2 ms. By a product with a row
# of ones, which is the same sum, it is 0.12 ms on both. The sum of a tall array, [1152, 512].sum(0),
# takes the same time on both, and so does a sum over the last axis. jaxlib 0.12.0.1 needs 0.2 ms on
# two. So whoever sums a few large arrays, as over members, columns of a Jacobian, or microbatches,
# loses by a second core.
#
# It fails if the sum on two cores takes less than 4 times that on one core, or if the product on two
# cores isn't at least 4 times faster than the sum there. It needs two cores.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6

cat >"$folder/sums.py" <<'PYTHON'
import os
import sys

cores = sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]
assert len(cores) == int(sys.argv[1]), "two cores are needed"
os.sched_setaffinity(0, cores)  # Before jax starts its threads.

import time

import jax
import jax.numpy as jnp
import numpy as np

y = jax.random.normal(jax.random.key(0), (9, 65536))
functions = {
  "sum": lambda y: y.sum(0),
  "product": lambda y: jnp.einsum("r,rd->d", jnp.ones(9), y, precision="highest"),
}
for name, function in functions.items():
  compiled = jax.jit(function)
  np.testing.assert_allclose(compiled(y), np.asarray(y, np.float64).sum(0), atol=1e-5)
  seconds = []
  for _ in range(101):
    start = time.perf_counter()
    jax.block_until_ready(compiled(y))
    seconds.append(time.perf_counter() - start)
  print(name, np.median(seconds) * 1e3)
PYTHON

one=$("$folder/venv/bin/python" "$folder/sums.py" 1)
two=$("$folder/venv/bin/python" "$folder/sums.py" 2)
printf 'ms on one core:\n%s\nms on two cores:\n%s\n' "$one" "$two"
printf '%s\n%s\n' "$one" "$two" | python3 -c '
import sys

(_, sum_one), (_, product_one), (_, sum_two), (_, product_two) = map(str.split, sys.stdin)
over, by_product = float(sum_two) / float(sum_one), float(sum_two) / float(product_two)
print(f"the sum on two cores takes {over:.1f} times that on one, {by_product:.1f} times the product")
assert over > 4 and by_product > 4, "the behaviour has changed"
'
