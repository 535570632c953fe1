"""`fbackprop train --init RUN|FILE`: a run that starts where another one ended."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.models import load_model
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("all_undrawn")
HEADER = "time,size,kind\n"


def table(path: Path, shift: float, rows: int = 60, header: str = HEADER) -> None:
  """Two classes by their size; the times lie far from 0."""
  rng = np.random.default_rng(1)
  lines = [
    f"{1.7e9 + shift + rng.uniform(-5, 5)!r},{2 * (i % 2) + rng.uniform(-0.5, 0.5)!r},{'ab'[i % 2]}"
    for i in range(rows)
  ]
  path.write_text(header + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A table, and a run on it with a network that isn't the default."""
  path = tmp_path_factory.mktemp("init")
  table(path / "t.csv", 0.0)
  return path


@pytest.fixture
def first(folder, monkeypatch):
  monkeypatch.chdir(folder)
  if not (folder / "runs/first").exists():
    assert train("--name first --hidden 6 --activation tanh --rate 0.5 --stop.max-steps 40") == 0
  return folder / "runs/first"


def train(words: str, data: str = "t.csv") -> int:
  own = ["--data", f"csv:{data}", "--target", "kind", "--check-every", "0", "--batch-size", "45"]
  return main(["train", *own, *words.split()])


def losses(name: str) -> list[float]:
  lines = Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["train_loss"] for line in lines]


@pytest.mark.slow
def test_a_run_goes_on_from_the_parameters_of_another(first, capsys):
  assert train("--init runs/first --name more --rate 0.5 --eval-every 1 --stop.max-steps 5") == 0
  out = capsys.readouterr().out
  assert "features standardised as for the parameters of --init" in out
  assert "started from runs/first" in out
  assert "mlp 2-6-2, tanh" in out  # Not the default network: that of the parameters.
  assert losses("more")[0] < losses("first")[-1]
  config = tomllib.loads(Path("runs/more/config.toml").read_text())
  assert (config["init"], config["hidden"], config["activation"]) == ("runs/first", [6], "tanh")


@pytest.mark.slow
def test_no_step_gives_the_parameters_themselves(first):
  assert train("--init runs/first --name none --stop.max-steps 0") == 0
  was, now = (load_model(f"runs/{name}/model.safetensors") for name in ("first", "none"))
  x = np.array([[1.7e9, 2.0], [1.7e9 + 3, 0.1]])
  np.testing.assert_array_equal(was.outputs(x), now.outputs(x))
  np.testing.assert_array_equal(was.description.standardization, now.description.standardization)


@pytest.mark.slow
def test_other_rows_are_standardised_as_the_parameters_know_them(first):
  """Not by their own mean: 0 would be another time then."""
  table(first.parents[1] / "later.csv", 1000.0)
  assert train("--init runs/first --name later --stop.max-steps 0", "later.csv") == 0
  was, now = (load_model(f"runs/{name}/model.safetensors") for name in ("first", "later"))
  np.testing.assert_array_equal(was.description.standardization, now.description.standardization)
  assert train("--init runs/first --name on --standardize on --stop.max-steps 0", "later.csv") == 0
  anew = load_model("runs/on/model.safetensors").description.standardization
  assert anew.mean[0] - was.description.standardization.mean[0] == pytest.approx(1000, abs=10)


def test_a_file_of_another_program_is_taken_by_its_leaves(first):
  params = load_model(first / "model.safetensors").params
  fb.train.save_params("bare.safetensors", params)
  words = "--init bare.safetensors --hidden 6 --activation tanh --name bare --stop.max-steps 0"
  assert train(words) == 0
  now = load_model("runs/bare/model.safetensors").params
  assert np.array_equal(now[0].w, params[0].w)


@pytest.mark.slow
def test_a_resumed_run_needs_the_first_one_no_more(first, monkeypatch):
  """Its own folder holds a copy; to the same bits as if it had never been cut."""
  words = "--init runs/gone --ckpt.every 5 --seed 3"
  shutil.copytree(first, "runs/gone")
  assert train(f"{words} --name whole --stop.max-steps 20") == 0
  assert train(f"{words} --name cut --stop.max-steps 10") == 0
  shutil.rmtree("runs/gone")
  assert main(["train", "--resume", "runs/cut", "--stop.max-steps", "20"]) == 0
  whole, cut = (load_model(f"runs/{name}/model.safetensors") for name in ("whole", "cut"))
  for a, b in zip(whole.params, cut.params, strict=True):
    assert all(map(np.array_equal, a, b))


MISFITS = [
  ("--init runs", HEADER, "--init runs: there is no runs/model.safetensors; give the folder of"),
  ("--init runs/first --hidden 7", HEADER,
   "--hidden 7 does not fit --init runs/first, which has 6; leave it out, or train without"),
  ("--init runs/first --activation relu", HEADER,
   "--activation relu does not fit --init runs/first, which has tanh"),
  ("--init runs/first", "when,size,kind\n",
   "--init runs/first: its 2 features are time, size, and those of the data when, size (2)"),
  ("--init runs/first", "size,time,kind\n", "name the same, in the same order"),
  ("--init bare.safetensors --hidden 5", HEADER,
   "--init bare.safetensors: bare.safetensors: 0.w must be float32[2, 5], got float32[2, 6]"),
  ("--init bare.safetensors --hidden 6 6", HEADER, "of another network: missing ['4.b', '4.w']"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "header", "said"), MISFITS)
def test_what_does_not_fit_is_refused(words, header, said, first, capsys):
  params = load_model(first / "model.safetensors").params
  fb.train.save_params("bare.safetensors", params)
  table(first.parents[1] / "other.csv", 0.0, header=header)
  before = sorted(Path("runs").iterdir())
  assert train(words, "other.csv") == 2
  assert said in capsys.readouterr().err
  assert sorted(Path("runs").iterdir()) == before  # Nothing was begun.


def test_the_run_of_an_ensemble_is_refused(first, capsys):
  assert train("--ensemble 2 --name two --hidden 6 --stop.max-steps 2") == 0
  capsys.readouterr()
  assert train("--init runs/two") == 2
  assert "--init runs/two holds an ensemble of 2 networks" in capsys.readouterr().err


@pytest.mark.slow
def test_equal_numbers_are_the_same_class(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  table(Path("t.csv"), 0.0)
  words = Path("t.csv").read_text()
  Path("t.csv").write_text(words.replace(",a\n", ",0\n").replace(",b\n", ",1\n"))
  Path("float.csv").write_text(words.replace(",a\n", ",0.0\n").replace(",b\n", ",1.0\n"))
  assert train("--name n --stop.max-steps 2") == 0
  assert train("--init runs/n --stop.max-steps 0", "float.csv") == 0


@pytest.mark.slow
def test_another_task_is_refused_and_distant_numbers_are_said(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  x = np.arange(40.0)
  for name, y in (("near", x / 7), ("far", x / 7 + 1e6), ("labels", x % 2)):
    rows = "\n".join(f"{a},{b!r}" for a, b in zip(x, y.tolist(), strict=True))
    Path(f"{name}.csv").write_text("a,kind\n" + rows)
  words = "--stop.max-steps 0 --batch-size 30"
  assert main(["train", *f"--data csv:near.csv --target kind --name n {words}".split()]) == 0
  again = f"--target kind --init runs/n {words}"
  said = refused(capsys, "train", *f"--data csv:labels.csv {again}".split())
  assert "--init runs/n was trained on a regression, and the data is a classification" in said
  assert main(["train", *f"--data csv:far.csv {again}".split()]) == 0
  assert "deviations from that of --init; --standardize on measures anew" in capsys.readouterr().out
