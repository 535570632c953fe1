"""`fbackprop export`, `import` and `compare`, and `fb.load`, on runs that are already there."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.models import save_model
from tests.support.exchanged import assert_near, make_model, rows_for
from tests.support.refusals import refused


@pytest.fixture
def run(tmp_path, monkeypatch):
  """The folder of a run that holds a model alone."""
  monkeypatch.chdir(tmp_path)
  model = make_model((4, 6, 6, 3))
  (tmp_path / "run").mkdir()
  save_model("run/model.safetensors", model.params, model.description)
  return model


def test_export_and_import_give_the_model_back(run, capsys):
  for name in ("a.onnx", "a.npz", "a.safetensors"):
    assert main(["export", "run", "--out", name]) == 0
    assert main(["import", name, "--out", "back.safetensors"]) == 0
    assert fb.load("back.safetensors").description.as_text() == run.description.as_text()
    assert Path("back.safetensors").read_bytes() == Path("run/model.safetensors").read_bytes()
  said = capsys.readouterr().out.splitlines()
  modules = "nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)"
  assert said[-4:] == [
    "written: a.safetensors",
    f"load_state_dict into nn.Sequential({modules})",
    "mlp 4-6-6-3, relu, softmax_cross_entropy; classification; 4 features: a, b, c, d; "
    "3 outputs: no, yes, maybe",
    "written: back.safetensors",
  ]


def test_the_format_may_be_given(run):
  assert main(["export", "run", "--out", "a.bin", "--format", "stablehlo"]) == 0
  f = jax.export.deserialize(bytearray(Path("a.bin").read_bytes())).call
  x = rows_for(run, np.float32)
  assert_near(f(x), run.predict_proba(x))


def test_a_model_file_is_used_as_a_run_is(run, capsys):
  np.savez("rows.npz", x=rows_for(run)[:4])
  for name in ("run", "run/model.safetensors"):
    assert main(["predict", name, "--data", "npz:rows.npz"]) == 0
  first, second = np.array_split(capsys.readouterr().out.splitlines(), 2)
  assert list(first) == list(second)


# --- fb.load --------------------------------------------------------------------------------------


class Table:
  """What pandas has of a DataFrame that is read here."""

  def __init__(self, **columns):
    self.own = columns
    self.columns = list(columns)

  def __getitem__(self, names):
    return Table(**{name: self.own[name] for name in names})

  def to_numpy(self):
    return np.stack(list(self.own.values()), 1)


def test_a_loaded_model_predicts_from_raw_rows(run):
  model = fb.load("run")
  x = rows_for(run)
  assert (model.task, model.labels, model.features) == (
    "classification", ("no", "yes", "maybe"), ("a", "b", "c", "d")
  )  # fmt: skip
  z = (x - model.preprocessing.mean) / model.preprocessing.scale
  logits = model.net.forward(model.params, np.float32(z))[0]
  assert_near(model.predict_proba(x), jax.nn.softmax(logits))
  assert list(model.predict(x)) == [model.labels[i] for i in logits.argmax(1)]
  table = Table(note=x[:, 0], d=x[:, 3], c=x[:, 2], b=x[:, 1], a=x[:, 0])
  np.testing.assert_array_equal(model.predict_proba(table), model.predict_proba(x))
  assert model.predict(x[:0]).shape == (0,)
  assert "mlp 4-6-6-3" in repr(model)


def test_a_regression_predicts_in_the_units_of_the_data():
  model = make_model((4, 6, 2), task="regression")
  assert model.predict(rows_for(model)).shape == (36, 2)
  model = make_model((4, 6, 1), task="regression")
  x = rows_for(model)
  z = model.net.forward(model.params, np.float32(model.preprocessing.wide(x)))[0]
  assert_near(model.predict(x), 1e4 + 3e3 * np.asarray(z)[:, 0])
  with pytest.raises(ValueError, match="a regression has no probabilities"):
    model.predict_proba(x)


@pytest.mark.parametrize(
  ("x", "said"),
  [
    (np.ones(4), r"x must have shape \[N, 4\]"),
    (np.ones((2, 3)), r"the columns a, b, c, d, got float64\[2, 3\]"),
    (np.array([["a"] * 4]), "x must be numbers"),
    (np.array([[1, 2, np.nan, 4]]), "x must be finite, got nan in row 0, column 'c'"),
    (np.full((1, 4), 1e300), "too large for float32"),
    (Table(a=np.ones(2), b=np.ones(2), c=np.ones(2), e=np.ones(2)), "'d' is missing"),
  ],
)
def test_rows_that_do_not_fit_are_refused(run, x, said):
  with pytest.raises((ValueError, TypeError), match=said):
    fb.load("run").predict(x)


def test_what_holds_no_model_is_refused(run, tmp_path):
  with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
    fb.load(tmp_path)
  with pytest.raises(TypeError, match="load: path must be the folder of a run"):
    fb.load(3)
  (tmp_path / "leaving").mkdir()
  (tmp_path / "leaving" / "model.safetensors").symlink_to("../run/model.safetensors")
  with pytest.raises(ValueError, match="is a link out of the run's folder"):
    fb.load(tmp_path / "leaving")


# --- compare --------------------------------------------------------------------------------------


def write_run(folder, rate, accuracy, seed=0):
  """The files of a run that `compare` reads."""
  folder.mkdir()
  toml = f'data = "digits"\nhidden = [8]\nrate = {rate}\nseed = {seed}\n[stop]\nmax_steps = 20\n'
  (folder / "config.toml").write_text(toml)
  summary = {"test_accuracy": accuracy, "test_loss": 0.25, "train_loss": None, "steps": 20,
             "stop_reason": "max_steps", "seconds": 1.5}  # fmt: skip
  (folder / "summary.json").write_text(json.dumps(summary))
  rows = [{"step": s, "train_loss": 1.0 / s, "test_accuracy": accuracy} for s in (10, 20)]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "metrics.jsonl").write_text(lines + '{"step": 30, "train')  # Killed while it wrote.


def test_runs_are_compared_by_what_differs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  write_run(tmp_path / "slow", 0.125, 0.75)
  write_run(tmp_path / "fast", 0.5, 0.5)
  for name in ("compared.png", "compared.svg"):
    assert main(["compare", "slow", "fast", "--out", name]) == 0
  said = capsys.readouterr().out.splitlines()
  assert [line.split() for line in said[:3]] == [
    ["run", "rate", "steps", "stop", "reason", "test", "loss", "test", "accuracy", "seconds"],
    ["slow", "0.125", "20", "max_steps", "0.2500", "0.7500", "1.5000"],
    ["fast", "0.5", "20", "max_steps", "0.2500", "0.5000", "1.5000"],
  ]
  assert (tmp_path / "compared.png").read_bytes().startswith(b"\x89PNG")
  assert "slow" in (tmp_path / "compared.svg").read_text()
  shutil.copytree("slow", "slow2")
  assert main(["compare", "slow", "slow2"]) == 0  # Nothing differs: the results alone.
  assert "rate" not in capsys.readouterr().out


def test_a_run_that_cannot_be_read_is_refused(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  write_run(tmp_path / "one", 0.5, 0.5)
  (tmp_path / "one" / "metrics.jsonl").write_text('{"step": "ten"}\n')
  assert "a line must be an object with a step" in refused(capsys, "compare", "one")
