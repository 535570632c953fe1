"""A check of an installed fbackprop with the required packages alone; `scripts/package.sh` runs it.

It imports every public name, finds the pytest plugin, trains and verifies a network, writes and
reads a model, and checks the errors of functions that need an extra.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp

import fbackprop as fb

EXTRAS = ("matplotlib", "sklearn", "orbax", "rich", "jinja2", "onnx")


def main() -> None:
  """Raise if anything doesn't work."""
  assert fb.__file__ is not None
  assert Path(fb.__file__).is_relative_to(sysconfig.get_path("purelib")), fb.__file__
  present = [name for name in EXTRAS if importlib.util.find_spec(name)]
  assert not present, f"the environment must be empty, and has {present}"
  for module in (fb, fb.circuit, fb.export, fb.quantities, fb.train, fb.verify):
    for name in module.__all__:
      getattr(module, name)

  (plugin,) = importlib.metadata.entry_points(group="pytest11", name="fbackprop")
  assert importlib.util.find_spec(plugin.module), plugin

  net = fb.mlp([2, 8, 3])
  x = jax.random.normal(jax.random.key(1), (30, 2))
  labels = x.argmax(1)
  result = fb.train.fit(
    net, fb.softmax_cross_entropy, (x, labels), optimizer=fb.train.gradient_descent(0.5),
    stop=fb.train.StopRules(200), key=jax.random.key(0),
    monitor=fb.train.Monitor(check_every=100),
  )  # fmt: skip
  assert result.checks_ok, result.checks
  assert result.losses[-1] < 0.5 * result.losses[0], result.losses
  fb.train.save_params("model.safetensors", result.params)
  loaded = fb.train.load_params("model.safetensors", like=result.params)
  assert all(map(jnp.array_equal, *map(jax.tree.leaves, (loaded, result.params))))
  fb.verify.assert_vjp(fb.as_custom_vjp(net), result.params, x, level="quick")

  said = ""
  try:
    getattr(fb.sklearn, "MLPClassifier")  # noqa: B009
  except ModuleNotFoundError as error:
    said = str(error)
  assert "fbackprop[data]" in said, said or "fb.sklearn was imported"

  command = [sys.executable, "-I", "-m", "fbackprop", "train"]
  answer = subprocess.run(command, capture_output=True, text=True, check=False)
  assert answer.returncode == 2, answer
  assert "fbackprop[" in answer.stderr, answer.stderr
  print(f"{fb.__name__}: used from {sysconfig.get_path('purelib').rpartition('/lib/')[2]}, "
        f"jax {jax.__version__}, without {', '.join(EXTRAS)}")  # fmt: skip


if __name__ == "__main__":
  main()
