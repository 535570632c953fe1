"""The same seed gives the same bits: in another process, with other hashes, from a warm cache."""

import json
import os
import subprocess
import sys

import pytest

FLAGS = [
  "--data", "digits", "--hidden", "32", "32", "--dropout", "0.1", "--optimizer", "adam",
  "--rate", "1e-3", "--stop.max-epochs", "6", "--stop.validation-fraction", "0.1",
  "--eval-every", "60", "--check-every", "120", "--seed", "5",
]  # fmt: skip


def run(folder, **environment):
  """A run in a process of its own: the weights' bytes, and what was measured but for the time."""
  command = [sys.executable, "-m", "fbackprop", "train", *FLAGS, "--out", str(folder)]
  own = {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
  done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  lines = (folder / "digits-1" / "metrics.jsonl").read_text().splitlines()
  metrics = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
  return (folder / "digits-1" / "model.safetensors").read_bytes(), metrics


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tmp_path):
  cache = tmp_path / "cache"
  first = run(tmp_path / "a", PYTHONHASHSEED="0")
  cached = {"PYTHONHASHSEED": "4321", "JAX_COMPILATION_CACHE_DIR": str(cache)}
  assert run(tmp_path / "cold", **cached) == first
  kept = {path.name for path in cache.iterdir()}
  assert any("chunk" in name for name in kept)  # The compiled run itself is in it.
  assert run(tmp_path / "warm", **cached) == first
  assert {path.name for path in cache.iterdir()} == kept
