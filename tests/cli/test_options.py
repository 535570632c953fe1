"""Options of the labels, the classes, the examples and the network: each does what it says."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.utils.class_weight import compute_class_weight

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.cli.config import method_of
from fbackprop.cli.train import parse
from fbackprop.train.data.csv_tables import read_csv
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.examples import balanced_weights, training_batch
from fbackprop.train.models import NORMALIZATIONS, load_model, read_options
from tests.support.refusals import refusals, refused

pytestmark = pytest.mark.usefixtures("all_undrawn")
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 3)).astype(np.float32)
KINDS = np.where(ROWS[:, 0] > 0.5, "warm", "cold")  # Not as many of each.
WEIGHTS = np.where(np.arange(60) % 3, 1.0, 0.0)
SHORT = "--hidden 6 6 --stop.max-steps 40 --eval-every 40"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A folder with kinds.csv and kinds.npz, of rows of two kinds with weights."""
  folder = tmp_path_factory.mktemp("files")
  with open(folder / "kinds.csv", "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["a", "b", "c", "share", "kind"])
    rows.writerows([*row, w, k] for row, w, k in zip(ROWS, WEIGHTS, KINDS, strict=True))
  np.savez(folder / "kinds.npz", x=ROWS, y=KINDS, share=WEIGHTS, short=WEIGHTS[:5],
           low=WEIGHTS - 0.5, none=0 * WEIGHTS, words=KINDS)  # fmt: skip
  return folder


def kinds(files, **options):
  return load_dataset(f"csv:{files}/kinds.csv", 0, target=["kind"], sample_weights="share",
                      **options)  # fmt: skip


# --- Labels and classes ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
  ("smoothing", "weights"), [(0.25, "none"), (0.0, "balanced"), (0.25, (0.5, 3.0))]
)
def test_labels_and_classes_are_those_of_the_loss(files, smoothing, weights):
  """The plain loss of the targets is `softmax_cross_entropy_with` of the labels."""
  data = kinds(files)
  batch = training_batch(data, label_smoothing=smoothing, class_weights=weights)
  numbers = {"none": None, "balanced": balanced_weights(data.targets, 2)}
  loss = fb.softmax_cross_entropy_with(
    label_smoothing=smoothing,
    class_weights=weights if isinstance(weights, tuple) else numbers[weights],
  )
  outputs = jax.random.normal(jax.random.key(0), (len(data.x), 2))
  for found, want in zip(
    fb.softmax_cross_entropy.forward(outputs, batch.targets),
    loss.forward(outputs, jnp.asarray(data.targets)),
    strict=True,
  ):
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)


def test_balanced_weights_are_those_of_scikit_learn():
  labels = np.array([0, 2, 2, 2, 4, 4], np.int32)
  want = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
  np.testing.assert_allclose(balanced_weights(labels, 5)[[0, 2, 4]], want)
  np.testing.assert_array_equal(balanced_weights(labels, 5)[[1, 3]], 0)  # Nobody has them.
  assert balanced_weights(labels, 5)[labels].mean() == pytest.approx(1)
  np.testing.assert_allclose(balanced_weights(np.array([0, 0, 0, 1]), 2), [4 / 6, 4 / 2])


def test_several_labels_are_smoothed_each(tmp_path):
  np.savez(tmp_path / "tags.npz", x=ROWS, y=np.float32(ROWS[:, :2] > 0))
  data = load_dataset(f"npz:{tmp_path}/tags.npz", 0, task="multilabel")
  batch = training_batch(data, label_smoothing=0.25)
  np.testing.assert_array_equal(batch.targets, np.where(data.targets == 1, 0.875, 0.125))
  assert batch.targets.dtype == np.float32


def test_without_options_nothing_is_changed():
  for name in ("iris", "diabetes"):
    data = load_dataset(name, 0)
    batch = training_batch(data)
    np.testing.assert_array_equal(batch.x, data.x)
    assert batch.targets.dtype == data.targets.dtype
    np.testing.assert_array_equal(batch.targets, data.targets)
    assert batch.weights is None


# --- Examples -------------------------------------------------------------------------------------


def test_weights_are_no_feature_and_go_with_their_rows(files):
  data = kinds(files, standardize="off")
  assert data.features == ("a", "b", "c")
  found = {tuple(row): w for row, w in zip(data.x, data.weights, strict=True)}
  want = {tuple(row): w for row, w in zip(ROWS, WEIGHTS, strict=True)}
  assert found.items() < want.items()
  same = load_dataset(f"npz:{files}/kinds.npz", 0, standardize="off", sample_weights="share")
  np.testing.assert_array_equal(same.weights, data.weights)
  np.testing.assert_array_equal(same.x, data.x)


@pytest.mark.slow
def test_an_example_of_weight_zero_is_as_if_it_were_not_there(files):
  data = kinds(files)
  batch, kept = training_batch(data, class_weights=(1.0, 2.0)), data.weights > 0
  assert 0 < kept.sum() < len(kept)
  fewer = fb.train.Batch(batch.x[kept], batch.targets[kept])
  net = fb.mlp([3, 2])
  gradient, params = fb.value_and_grad(net, fb.softmax_cross_entropy), net.init(jax.random.key(0))
  found, want = (
    jax.tree.leaves(gradient(params, x, targets, weights=weights))
    for x, targets, weights in (batch, fewer)
  )
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_of_an_own_test_part_are_those_of_training(tmp_path):
  np.savez(tmp_path / "t.npz", x=ROWS, y=KINDS, x_test=ROWS[:9], y_test=KINDS[:9], w=WEIGHTS)
  data = load_dataset(f"npz:{tmp_path}/t.npz", 0, sample_weights="w")
  np.testing.assert_array_equal(data.weights, WEIGHTS)
  assert len(data.x_test) == 9


@pytest.mark.parametrize("cell", ["inf", "much"])
def test_a_column_of_no_weights_is_refused(tmp_path, cell):
  (tmp_path / "t.csv").write_text(f"x,y,share\n1,a,1\n2,b,{cell}\n")
  said = f"line 3, column 'share': a number was expected, got '{cell}'"
  with pytest.raises(ValueError, match=said):
    read_csv(str(tmp_path / "t.csv"), ["y"], None, "share")


# --- The network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(files, all_undrawn):
  """The folder of a run with every option."""
  flags = f"--data csv:{files}/kinds.csv --target kind --sample-weights share {SHORT}"
  flags += " --label-smoothing 0.1 --class-weights 1 2.5 --dropout 0.5 --normalization layer_norm"
  flags += f" --skip on --repeat-hidden on --check-every 0 --out {files}/runs"
  assert main(["train", *flags.split()]) == 0
  return files / "runs" / "kinds-1"


@pytest.mark.slow
def test_a_run_is_repeated_by_its_file_bit_for_bit(everything):
  """And with gradient checks, which change nothing, and find nothing."""
  again = f"--config {everything}/config.toml --check-every 20 --out {everything.parent}"
  assert main(["train", *again.split()]) == 0
  repeated = everything.parent / "kinds-2"
  first, second = ((run / "model.safetensors").read_bytes() for run in (everything, repeated))
  assert first == second
  summary = json.loads((repeated / "summary.json").read_text())
  assert summary["gradient_checks"] == 3
  assert summary["gradient_check_max_rel_error"] < 1e-9


@pytest.mark.slow
def test_a_model_with_options_is_used_without_noise(everything, files, capsys):
  run = str(everything)
  texts = []
  for _ in range(2):
    assert main(["predict", run, "--data", f"csv:{files}/kinds.csv"]) == 0
    texts.append(capsys.readouterr().out)
  assert texts[0] == texts[1]
  model = load_model(f"{run}/model.safetensors")
  assert model.description.net.draws
  whole = fb.mlp(
    [3, 6, 6, 2], normalization=fb.layer_norm, dropout=0.5, skip=True, repeat_hidden=True
  )
  own = np.float32(model.description.standardization.wide(ROWS))
  want = jax.nn.softmax(whole.forward(model.params, own)[0])
  found = [row.split(",")[1:] for row in texts[0].splitlines()[1:]]
  np.testing.assert_allclose(np.array(found, float), want, rtol=1e-5)


@pytest.mark.slow
def test_what_is_on_is_said_and_the_test_loss_is_plain(everything, capsys):
  run = everything
  text = "mlp 3-6-6-2, relu, layer_norm, dropout 0.5, skip, repeated, softmax_cross_entropy"
  assert main(["eval", str(run)]) == 0
  said = capsys.readouterr().out
  assert f"{text}, 15 test examples" in said
  summary = json.loads((run / "summary.json").read_text())
  assert f"loss      {summary['test_loss']:.4f}" in said
  assert main(["info", str(run)]) == 0
  said = capsys.readouterr().out
  assert text in said
  assert "labels smoothed by 0.1, classes weighted 1 2.5, examples weighted by share" in said
  (own,) = (line for line in said.splitlines() if line.startswith("not the default"))
  assert "--label-smoothing 0.1 --class-weights 1.0 2.5 --sample-weights share" in own
  config = parse(["--config", str(run / "config.toml")])
  said = "labels smoothed by 0.1, classes weighted 1 2.5, examples weighted by share"
  assert f", {said}, batches of " in method_of(config)


@pytest.mark.slow
def test_a_regression_and_several_labels_take_the_options_of_examples_and_networks(
  tmp_path, capsys
):
  np.savez(tmp_path / "t.npz", x=ROWS, values=ROWS[:, :2], tags=1 * (ROWS[:, :2] > 0), w=WEIGHTS)
  flags = f"--data npz:{tmp_path}/t.npz --sample-weights w --dropout 0.1 --normalization rms_norm"
  flags += f" {SHORT} --check-every 0 --out {tmp_path}"
  labels = "--target tags --task multilabel --label-smoothing 0.1"
  for more in ("--target values", labels):
    assert main(["train", *flags.split(), *more.split()]) == 0
  said = capsys.readouterr().out
  assert "relu, rms_norm, dropout 0.1, squared_error; gradient descent" in said
  assert "labels smoothed by 0.1, examples weighted by w, batches of 32" in said
  assert main(["eval", f"{tmp_path}/t-1"]) == main(["eval", f"{tmp_path}/t-2"]) == 0
  scored = capsys.readouterr().out
  assert "rms_norm, dropout 0.1, squared_error, 15 test examples" in scored
  assert "rms_norm, dropout 0.1, sigmoid_cross_entropy, 15 test examples" in scored
  more = "--target tags --task multilabel --class-weights balanced"
  assert "--class-weights needs a classification, and this is a multilabel" in refused(
    capsys, "train", *flags.split(), *more.split()
  )


@pytest.mark.slow
def test_a_file_without_options_is_of_a_plain_network(everything, tmp_path):
  net = fb.mlp([3, 6, 2])
  source = everything / "model.safetensors"
  with safetensors.safe_open(source, framework="numpy") as file:
    content = json.loads(file.metadata()["fbackprop"])
  old = {key: content[key] for key in content if key not in read_options({})}
  old["sizes"] = [3, 6, 2]
  path = tmp_path / "old.safetensors"
  like = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like)
  fb.train.save_params(path, params, {"fbackprop": json.dumps(old)})
  assert load_model(path).description.as_text() == "mlp 3-6-2, relu, softmax_cross_entropy"
  np.testing.assert_allclose(load_model(path).params[0].w, params[0].w)


BAD_OPTIONS = [
  ({"normalization": "os"}, "normalization must be one of none, layer_norm, rms_norm, got 'os'"),
  ({"dropout": 1}, "dropout must be a number from 0 to below 1, got 1"),
  ({"dropout": float("nan")}, "dropout must be a number from 0 to below 1, got nan"),
  ({"dropout": True}, "dropout must be a number"),
  ({"dropout": "0.1"}, "dropout must be a number"),
  ({"skip": 1}, "skip must be true or false, got 1"),
  ({"repeat_hidden": "on"}, "repeat_hidden must be true or false, got 'on'"),
]


test_a_file_of_no_such_network_is_refused = refusals(read_options, BAD_OPTIONS, ValueError)


# --- What can't be --------------------------------------------------------------------------------


BAD_FLAGS = [
  ("--label-smoothing -0.1", "--label-smoothing must be at least 0 and below 1, got -0.1"),
  ("--class-weights 0 0 0", "for each class, finite, at least 0 and not all 0, got 0 0 0"),
  ("--class-weights 1 -1 1", "and not all 0, got 1 -1 1"),
  ("--class-weights 1 inf 1", "and not all 0, got 1 inf 1"),
  ("--class-weights", "and not all 0, got nothing"),
  ("--skip on --hidden 4 5 4", "--skip needs two hidden layers of equal width in a row, got 4 5"),
  ("--repeat-hidden on --hidden 4", "--repeat-hidden needs two hidden layers of equal width"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "said"), BAD_FLAGS)
def test_a_flag_that_cannot_be_is_refused(tmp_path, capsys, flags, said):
  assert said in refused(capsys, "train", "--data", "iris", "--out", tmp_path, *flags.split())
  assert not list(tmp_path.iterdir())


NO_WEIGHTS = [
  ("short", "short must be numbers [60] as sample_weights, got float64[5]"),
  ("words", "words must be numbers [60] as sample_weights, got <U4[60]"),
  ("none", "the sample_weights of the training examples are all 0"),
]


@pytest.mark.parametrize(("name", "said"), NO_WEIGHTS)
def test_an_array_of_no_weights_is_refused(files, capsys, name, said):
  data = f"npz:{files}/kinds.npz"
  assert said in refused(capsys, "train", "--data", data, "--sample-weights", name)


BAD_KEYS = [
  ('class_weights = "some"', "class_weights must be one of none, balanced or a list of numbers"),
  ('class_weights = [1, "a"]', "class_weights must be one of none, balanced or a list of num"),
  ("class_weights = []", "class_weights must be balanced, none, or a number for each class"),
  ("sample_weights = 3", "sample_weights must be a string, got 3"),
]


@pytest.mark.parametrize(("text", "said"), BAD_KEYS)
def test_a_key_that_cannot_be_is_refused(tmp_path, capsys, text, said):
  path = tmp_path / "told.toml"
  path.write_text(f'data = "iris"\n{text}\n')
  told = refused(capsys, "train", "--config", path, "--out", tmp_path)
  assert told.startswith(f"fbackprop: {path}: {said}"), told


def test_the_names_are_those_of_the_models():
  for name in NORMALIZATIONS:
    assert parse(["--normalization", name]).normalization == name
