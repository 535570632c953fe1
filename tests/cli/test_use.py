"""From a file to an answer: a model keeps what it needs for raw rows; eval, predict and info."""

import csv
import io
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.models import describe_model, load_model, save_model
from fbackprop.train.scores import score
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("all_undrawn")
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(80, 3)) * [1.0, 100.0, 1e-3] + [0.0, 500.0, 0.0]
KINDS = np.where(ROWS[:, 0] > 0, "warm", "cold")


def write_table(path, **columns):
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
  return f"csv:{path}"


def features(rows):
  return {"a": rows[:, 0], "b": rows[:, 1], "c": rows[:, 2]}


def train(folder, *flags):
  short = ("--hidden", 8, "--stop.max-steps", 150, "--eval-every", 150, "--check-every", 0)
  arguments = ("--out", folder / "runs", *short, *flags)
  assert main(["train", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, all_undrawn):
  """The folder of a run on a table of two kinds, which the first column tells."""
  folder = tmp_path_factory.mktemp("kinds")
  data = write_table(folder / "kinds.csv", **features(ROWS), kind=KINDS)
  train(folder, "--data", data, "--target", "kind")
  return folder / "runs" / "kinds-1"


def told(capsys, *arguments):
  assert main(list(map(str, arguments))) == 0
  return capsys.readouterr().out


def answers(text):
  heading, *rows = csv.reader(io.StringIO(text))
  return heading, rows


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_raw_rows_in_labels_and_probabilities_out(kinds, tmp_path, capsys):
  """Columns go by name, others are let be, and the standardisation is the training part's."""
  rows = ROWS[:5]
  shuffled = {"c": rows[:, 2], "note": list("vwxyz"), "a": rows[:, 0], "b": rows[:, 1]}
  data = write_table(tmp_path / "new.csv", **shuffled)
  heading, found = answers(told(capsys, "predict", kinds, "--data", data))
  assert heading == ["label", "p(cold)", "p(warm)"]
  assert [row[0] for row in found] == list(KINDS[:5])
  numbers = np.array([row[1:] for row in found], float)
  np.testing.assert_allclose(numbers.sum(1), 1, atol=1e-6)

  # The same by hand: the split, its mean and deviation, the network, the softmax.
  raw = load_dataset(f"csv:{kinds.parents[1] / 'kinds.csv'}", 0, target=["kind"], standardize="off")
  x = (rows - raw.x.mean(0, dtype=np.float64)) / raw.x.std(0, dtype=np.float64)
  net = fb.mlp([3, 8, 2])
  like = jax.eval_shape(net.init, jax.random.key(0))
  params = fb.train.load_params(kinds / "model.safetensors", like)
  want = jax.nn.softmax(net.forward(params, np.float32(x))[0])
  np.testing.assert_allclose(numbers, want, atol=1e-5)


@pytest.mark.slow
def test_the_answer_of_a_row_does_not_depend_on_the_others(kinds, tmp_path, capsys):
  whole = answers(
    told(capsys, "predict", kinds, "--data", write_table(tmp_path / "n.csv", **features(ROWS)))
  )[1]
  alone = write_table(tmp_path / "one.csv", **features(ROWS[7:8]))
  (row,) = answers(told(capsys, "predict", kinds, "--data", alone))[1]
  assert row[0] == whole[7][0]
  np.testing.assert_allclose(np.float64(row[1:]), np.float64(whole[7][1:]), atol=1e-6)


def test_answers_go_into_a_file(kinds, tmp_path, capsys):
  np.savez(tmp_path / "new.npz", x=ROWS)
  out = tmp_path / "answers.csv"
  said = told(capsys, "predict", kinds, "--data", f"npz:{tmp_path}/new.npz", "--out", out)
  assert (said, len(answers(out.read_text())[1])) == (f"written: {out}\n", 80)


# --- eval -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_scored_on_its_own_test_part(kinds, capsys):
  said = told(capsys, "eval", kinds)
  summary = json.loads((kinds / "summary.json").read_text())
  assert "20 test examples" in said
  assert f"accuracy  {summary['test_accuracy']:.4f}" in said
  assert f"loss      {summary['test_loss']:.4f}" in said


def test_a_run_is_scored_on_other_rows(kinds, tmp_path, capsys):
  wrong = np.where(np.arange(80) < 20, np.where(KINDS == "warm", "cold", "warm"), KINDS)
  data = write_table(tmp_path / "new.csv", kind=wrong, **features(ROWS))
  own, right = load_model(kinds / "model.safetensors"), np.searchsorted(["cold", "warm"], wrong)
  want = score(own, np.float32(ROWS), right)["accuracy"]
  said = told(capsys, "eval", kinds, "--data", data)
  assert "80 examples" in said
  assert f"accuracy  {want:.4f}" in said


@pytest.mark.slow
def test_a_regression_answers_in_the_units_of_the_data(tmp_path, capsys):
  price = 1e4 + 3000 * ROWS[:, 0]
  data = write_table(tmp_path / "prices.csv", **features(ROWS), price=price)
  train(tmp_path, "--data", data, "--target", "price", "--stop.max-steps", 1000)
  run = tmp_path / "runs" / "prices-1"
  capsys.readouterr()
  heading, rows = answers(told(capsys, "predict", run, "--data", data))
  assert heading == ["price"]
  found = np.array(rows, float)[:, 0]
  assert 1 - ((found - price) ** 2).sum() / ((price - price.mean()) ** 2).sum() > 0.95
  said = told(capsys, "eval", run)
  assert float(said.split("r2")[1].split()[0]) > 0.9
  assert float(said.split("rmse")[1].split()[0]) < 900


@pytest.mark.slow
def test_several_labels_at_once(tmp_path, capsys):
  data = write_table(
    tmp_path / "tags.csv", **features(ROWS), hot=ROWS[:, 0] > 0, big=1.0 * (ROWS[:, 1] > 500)
  )
  text = (tmp_path / "tags.csv").read_text().replace("True", "1").replace("False", "0")
  (tmp_path / "tags.csv").write_text(text)
  flags = ("--task", "multilabel", "--stop.max-steps", 500)
  train(tmp_path, "--data", data, "--target", "hot", "big", *flags)
  capsys.readouterr()
  run = tmp_path / "runs" / "tags-1"
  heading, rows = answers(told(capsys, "predict", run, "--data", data))
  assert heading == ["p(hot)", "p(big)"]
  assert ((np.array(rows, float)[:, 0] > 0.5) == (ROWS[:, 0] > 0)).mean() > 0.9
  assert float(told(capsys, "eval", run).split("accuracy")[1].split()[0]) > 0.85


# --- info, and the command that trains ------------------------------------------------------------


def test_info_says_what_a_run_is(kinds, capsys):
  said = told(capsys, "info", kinds)
  for part in ("mlp 3-8-2, relu, softmax_cross_entropy", "3: a, b, c", "2: cold, warm", "50",
               "max_steps", "model.safetensors", f"--config {kinds / 'config.toml'}"):  # fmt: skip
    assert part in said, part


def test_info_of_a_run_that_was_cut_off(kinds, tmp_path, capsys):
  (tmp_path / "model.safetensors").write_bytes((kinds / "model.safetensors").read_bytes())
  assert "config.toml can't be read: No such file" in refused(capsys, "info", tmp_path)
  (tmp_path / "config.toml").write_text("data = 'digits'")
  assert "mlp 3-8-2" in told(capsys, "info", tmp_path)
  (tmp_path / "summary.json").write_text("[1]")
  assert "summary.json must hold an object" in refused(capsys, "info", tmp_path)
  (tmp_path / "summary.json").write_text('{"rates": [1]}')
  assert "rates must be as fbackprop train writes them" in refused(capsys, "info", tmp_path)
  (tmp_path / "summary.json").write_text('{"time": {"load": "long"}}')
  assert "time must be as fbackprop train writes it" in refused(capsys, "info", tmp_path)


@pytest.mark.slow
def test_a_run_says_what_it_learns(tmp_path, capsys):
  data = write_table(tmp_path / "few.csv", a=range(20), y=[0, 1] * 10)
  train(tmp_path, "--data", data, "--target", "y", "--stop.max-steps", 1)
  said = capsys.readouterr().out
  assert "classification, as its values are 2 whole numbers (2 classes: 0, 1)" in said
  assert "features standardised on the training set: mean 0, deviation 1" in said
  assert "batches of 15" in said  # There are no 32.
  config = (tmp_path / "runs" / "few-1" / "config.toml").read_text()
  assert "batch_size = 15" in config
  assert 'target = [\n    "y",\n]' in config or 'target = ["y"]' in config


# --- The file of a model --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_comes_back(tmp_path):
  data = load_dataset("diabetes", 0)
  model = describe_model((10, 4, 1), "tanh", data)
  params = model.net.init(jax.random.key(1))
  save_model(tmp_path / "m.safetensors", params, model)
  found = load_model(tmp_path / "m.safetensors")
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves((model, params)), strict=True):
    np.testing.assert_array_equal(a, b)  # To the last bit.
  raw = load_dataset("diabetes", 0, standardize="off")
  want = data.target_standardization.undo(np.asarray(model.net.forward(params, data.x)[0]))
  np.testing.assert_allclose(found.outputs(raw.x), want, rtol=1e-5)


NO_NETWORKS = [
  ({"sizes": [3, 2**20, 2]}, "sizes must be a list of widths"),
  ({"sizes": "ab"}, "sizes must be a list of widths"),
  ({"activation": "__import__"}, "there is no activation '__import__'"),
  ({"task": "magic"}, "task must be one of classification, regression, multilabel"),
  ({"features": ["a"]}, "3 features and 2 outputs must have names, got 1 and 2"),
  ({"standardization": {"mean": [0, 0, 0], "scale": [1, 1]}}, "must hold 3 finite numbers"),
  ({"standardization": {"mean": [0, 0, None], "scale": [1, 1, 1]}}, "describes no network"),
  ({"standardization": {"mean": [0, 0, 0]}}, "describes no network: 'scale'"),
  ({"standardization": {"mean": [10**400, 0, 0], "scale": [1, 1, 1]}}, "int too large to conv"),
  ({"standardization": {"mean": [0, 0, 0], "scale": [1, 0, 1]}}, "must have scales above 0, got"),
  ({"sizes": [3, True, 2]}, "sizes must be a list of widths"),
  ({"sizes": [3, *[8] * 2**14, 2]}, "sizes must be a list of widths"),
  ({"sizes": [3, *[8] * 5000, 2]}, "describes no network: 5001 layers, and 4 arrays"),
  ({"sizes": [3, *[8, 7] * 50, 2], "repeat_hidden": True}, "101 layers, and 4 arrays"),
  ({"outputs": ["a", "\ud800"]}, "describes no network: 'utf-8' codec can't encode"),
  ({"ensemble": True}, "ensemble must be a number of networks, got True"),
]


@pytest.mark.parametrize(("change", "said"), NO_NETWORKS)
def test_a_file_that_describes_no_network_is_refused(kinds, tmp_path, change, said):
  path = tmp_path / "m.safetensors"
  arrays = safetensors.numpy.load_file(kinds / "model.safetensors")
  with safetensors.safe_open(kinds / "model.safetensors", framework="numpy") as file:
    content = json.loads(file.metadata()["fbackprop"])
  safetensors.numpy.save_file(arrays, path, {"fbackprop": json.dumps({**content, **change})})
  with pytest.raises(ValueError, match=said):
    load_model(path)
  safetensors.numpy.save_file(arrays, path, {"fbackprop": "[]"})
  with pytest.raises(ValueError, match="describes no network"):
    load_model(path)
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(ValueError, match="has no description of its network"):
    load_model(path)


def test_a_network_of_two_thousand_layers_comes_back(tmp_path):
  """What `--repeat-hidden on` trains in seconds isn't lost for being deep."""
  data = load_dataset("iris", 0)
  model = describe_model((4, *[2] * 2000, 3), "relu", data, repeat_hidden=True)
  like = jax.eval_shape(model.net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like)
  save_model(tmp_path / "m.safetensors", params, model)
  found = load_model(tmp_path / "m.safetensors")
  assert found.description.sizes == model.sizes
  assert jax.tree.map(np.shape, found.params) == jax.tree.map(np.shape, params)
