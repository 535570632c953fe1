#!/usr/bin/env bash
# tensorflow 2.21.0, CPU.
#
# The maximum of two equal numbers has two gradients in one library. `tf.maximum(a, b)` gives all of the
# cotangent to the first argument; `tf.reduce_max` of the same two numbers gives half to each. JAX gives
# half to each in both forms. A network that is checked or ported across a tie (padded
# pooling, quantised inputs, two equal logits) differs by which of the two functions it was written with.
#
# Seen:
#   tf.maximum [1.0, 0.0]
#   tf.reduce_max [0.5, 0.5]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install tensorflow-cpu==2.21.0 ||
  "$folder/venv/bin/pip" --quiet --disable-pip-version-check install tensorflow==2.21.0
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import tensorflow as tf

found = {}
for name, f in (
  ("tf.maximum", tf.maximum),
  ("tf.reduce_max", lambda a, b: tf.reduce_max(tf.stack([a, b]))),
):
  a, b = tf.Variable(1.0), tf.Variable(1.0)
  with tf.GradientTape() as tape:
    y = f(a, b)
  found[name] = [float(g) for g in tape.gradient(y, [a, b])]
  print(name, found[name])
assert found["tf.maximum"] == [1.0, 0.0], found
assert found["tf.reduce_max"] == [0.5, 0.5], found
PYTHON
