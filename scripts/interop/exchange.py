"""Round trips of models through torch, its ONNX exporter, skl2onnx and Keras, in each one itself.

  bash scripts/interop.sh exchange            two minutes
  bash scripts/interop.sh exchange --write    also writes the table of docs/interop.md

Each error is the largest difference of two outputs, relative to 1 and the largest output of a row,
over rows like the training's and a hundred deviations away. Exits with 1 if one is above 1e-6, a
package isn't there, or an example of docs/interop.md doesn't print what it shows.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop.export.state_dicts import MODULES
from scripts.interop import page

ROOT = Path(__file__).parents[2]
PAGE, RESULT = ROOT / "docs" / "interop.md", ROOT / "experiments" / "results" / "exchange.json"
MARK = "<!-- exchange: scripts/interop/exchange.py -->\n"
THRESHOLD = 1e-6
PACKAGES = ("torch", "keras", "skl2onnx", "onnx")
ACTIVATIONS = [name for name in MODULES if name not in ("identity", "softmax")]
WIDTHS = (4, 8, 8, 3)


class Row(NamedTuple):
  """A round trip: by which package, what, and the largest error of several models."""

  package: str
  what: str
  models: int
  error: float


def main() -> int:
  """Run the script."""
  parser = argparse.ArgumentParser(prog="interop.sh exchange")
  parser.add_argument("--write", action="store_true", help="write the page's table, and the result")
  options = parser.parse_args()
  warnings.simplefilter("ignore")  # Those of the peers about themselves.
  versions = {name: metadata.version(name) for name in PACKAGES}
  with tempfile.TemporaryDirectory() as folder:
    rows = [row for trip in (by_torch, by_onnx_of_torch, by_skl2onnx) for row in trip(Path(folder))]
  print("\n".join(table_of(rows, versions)))
  ran, failed = run_page()
  print(f"docs/interop.md: {ran - failed} of {ran} lines print what they show")
  if options.write:
    content = {"versions": versions, "rows": [row._asdict() for row in rows]}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
  return int(bool(failed or not ran or any(row.error > THRESHOLD for row in rows)))


# --- The table ------------------------------------------------------------------------------------


def table_of(rows: list[Row], versions: dict[str, str]) -> list[str]:
  """Format the rows in Markdown."""
  lines = ["| by | what is compared | models | largest error |", "|---|---|---|---|"]
  for row in rows:
    error = f"{row.error:.0e}" if row.error else "0"
    name = f"{row.package} {versions[row.package]}"
    lines.append(f"| {name} | {row.what} | {row.models} | {error} |")
  return lines


def with_table(text: str, content: dict[str, Any]) -> str:
  """Return the page with the table of a result."""
  before, _, after = text.partition(MARK)
  rest = re.sub(r"\A\n*(\|.*\n)*\n*", "", after)
  table = table_of([Row(**row) for row in content["rows"]], content["versions"])
  return f"{before}{MARK}\n{chr(10).join(table)}\n\n{rest}"


# --- Round trips ----------------------------------------------------------------------------------


def error_of(found: Any, wanted: Any) -> float:
  """Return the largest difference, relative to the largest entry of its row."""
  found, wanted = (np.asarray(value, np.float64) for value in (found, wanted))
  assert found.shape == wanted.shape, (found.shape, wanted.shape)
  return float((np.abs(found - wanted) / (1 + np.abs(wanted).max(-1, keepdims=True))).max())


def inputs() -> np.ndarray:
  """Draw rows like a training's, and a hundred deviations away."""
  rng = np.random.default_rng(0)
  rows = np.concatenate([rng.normal(size=(40, 4)), 100 * rng.normal(size=(8, 4))])
  return rows.astype(np.float32)


def drawn(net: fb.Layer, seed: int = 0) -> Any:
  """Draw parameters, biases too."""
  rng = np.random.default_rng(seed)
  like = jax.eval_shape(net.init, jax.random.key(0))
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5, leaf.dtype), like
  )


def sequential(net: fb.Layer, params: Any) -> Any:
  """Build the Sequential of torch, load the state dict strictly, and set it to evaluation."""
  torch = import_module("torch")
  # Of our own text, and of no file.
  model = eval(fb.export.torch_modules(net), {"nn": torch.nn})  # noqa: S307
  state = {name: torch.from_numpy(a) for name, a in fb.export.to_torch(net, params).items()}
  model.load_state_dict(state, strict=True)
  return model.eval()


def by_torch(folder: Path) -> Iterator[Row]:
  """Compare outputs, gradients and parameters with those of torch's own modules."""
  torch = import_module("torch")
  x = inputs()
  outputs, gradients, back = [], [], []
  for i, name in enumerate(ACTIVATIONS):
    options = {"normalization": fb.layer_norm, "dropout": 0.1} if i % 2 else {}
    net = fb.mlp(WIDTHS, getattr(fb, name), **options)  # type: ignore[arg-type]
    params = drawn(net, i)
    theirs = sequential(net, params)
    found = theirs(torch.from_numpy(x))
    outputs.append(error_of(found.detach().numpy(), net.forward(params, x)[0]))
    draws = np.random.default_rng(i).normal(size=(len(x), WIDTHS[-1]))
    targets = draws.astype(np.float32)
    _, grads = fb.value_and_grad(net, fb.squared_error)(params, x[:40], targets[:40])
    loss = 0.5 * ((theirs(torch.from_numpy(x[:40])) - torch.from_numpy(targets[:40])) ** 2).sum(1)
    loss.mean().backward()
    own = fb.export.to_torch(net, grads)
    gradients += [
      error_of(p.grad.numpy().reshape(-1), own[key].reshape(-1))
      for key, p in theirs.named_parameters()
    ]
    returned = fb.export.from_torch(net, {k: v.numpy() for k, v in theirs.state_dict().items()})
    pairs = zip(*map(jax.tree.leaves, (returned, params)), strict=True)
    back.append(max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs))
    path = folder / f"{name}.safetensors"
    import_module("safetensors.torch").save_file(theirs.state_dict(), path)
    if not options:
      read = fb.export.read(path, activation=name)
      back.append(error_of(read.predict(x), found.detach().numpy()))
  count = len(ACTIVATIONS)
  yield Row("torch", "outputs of the `Sequential`, loaded strictly", count, max(outputs))
  yield Row("torch", "gradients of the mean squared error", count, max(gradients))
  yield Row("torch", "its state dict back, in memory and in safetensors", count, max(back))


def by_onnx_of_torch(folder: Path) -> Iterator[Row]:
  """Read what torch's ONNX exporter writes."""
  torch = import_module("torch")
  x, errors = inputs(), []
  for i, name in enumerate(ACTIVATIONS):
    net = fb.mlp(WIDTHS, getattr(fb, name))
    theirs = sequential(net, drawn(net, i))
    path = folder / f"{name}.onnx"
    torch.onnx.export(
      theirs, (torch.from_numpy(x),), path, dynamo=False, opset_version=17, input_names=["x"]
    )
    read = fb.export.read(path)
    assert read.description.activation == name, (read.description.activation, name)
    errors.append(error_of(read.predict(x), theirs(torch.from_numpy(x)).detach().numpy()))
  yield Row("torch", "`torch.onnx.export`, read by its graph", len(errors), max(errors))


def by_skl2onnx(folder: Path) -> Iterator[Row]:
  """Read what skl2onnx writes of scikit-learn's networks, behind a StandardScaler."""
  network, skl2onnx = import_module("sklearn.neural_network"), import_module("skl2onnx")
  scaler = import_module("sklearn.preprocessing").StandardScaler
  pipeline = import_module("sklearn.pipeline").make_pipeline
  datasets = import_module("sklearn.datasets")
  errors = []
  for data in ("wine", "breast_cancer", "diabetes"):
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    x = x.astype(np.float32)
    for activation in ("relu", "tanh", "logistic", "identity"):
      options = {"hidden_layer_sizes": (9, 7), "activation": activation, "max_iter": 20,
                 "random_state": 0}  # fmt: skip
      kind = network.MLPRegressor if data == "diabetes" else network.MLPClassifier
      theirs = pipeline(scaler(), kind(**options)).fit(x, y)
      given = {} if data == "diabetes" else {"options": {"zipmap": False}}
      path = folder / f"{data}-{activation}.onnx"
      path.write_bytes(skl2onnx.to_onnx(theirs, x[:1], **given).SerializeToString())
      read = fb.export.read(path)
      if data == "diabetes":
        errors.append(error_of(read.predict(x)[:, None], theirs.predict(x)[:, None]))
      else:
        errors.append(error_of(read.predict_proba(x), theirs.predict_proba(x)))
  what = "scikit-learn's pipelines of a scaler and a network, read by their graphs"
  yield Row("skl2onnx", what, len(errors), max(errors))


def run_page() -> tuple[int, int]:
  """Run all Python of docs/interop.md in order; return the lines with prompts, and the failed."""
  text = PAGE.read_text(encoding="utf-8")
  names: dict[str, object] = {}
  ran = failed = 0
  here = Path.cwd()
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    try:
      for kind, block in re.findall(r"^```(python|py)\n(.*?)^```$", text, re.M | re.S):
        if kind == "python":
          exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102
        else:
          more = page.run_blocks([block], names)
          ran, failed = ran + more[0], failed + more[1]
    finally:
      os.chdir(here)
  return ran, failed


if __name__ == "__main__":
  sys.exit(main())
