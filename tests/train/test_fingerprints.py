"""Each run knows its examples: another table is refused, and what has changed is said."""

import json
import shutil

import numpy as np
import pytest

from fbackprop.cli import main
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.data.fingerprints import difference
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("all_undrawn")
RNG = np.random.default_rng(7)
N = 64
X = RNG.normal(size=(N, 2))
KINDS = (X[:, 0] > X[:, 1]).astype(int).tolist()
SHORT = ["--stop.max-steps", "20", "--hidden", "8", "--eval-every", "20", "--check-every", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, all_undrawn):
  """A folder with a table and the folder of a run on it, with a checkpoint at its end."""
  folder = tmp_path_factory.mktemp("trained")
  rows = [f"{a!r},{b!r},{kind}" for (a, b), kind in zip(X.tolist(), KINDS, strict=True)]
  (folder / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    flags = ["--data", "csv:t.csv", "--target", "y", "--out", ".", "--name", "run"]
    flags += ["--ckpt.every", "10"]
    assert main(["train", *flags, *SHORT]) == 0
  return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch, capsys):
  shutil.copytree(trained, tmp_path / "here")
  monkeypatch.chdir(tmp_path / "here")
  capsys.readouterr()
  return tmp_path / "here"


def lines_of(folder):
  return (folder / "t.csv").read_text().splitlines()


def with_cell(line, place, text):
  cells = line.split(",")
  cells[place] = text
  return ",".join(cells)


CHANGES = {
  "sorted": (lambda lines: [lines[0], *sorted(lines[1:])], "the same rows in another order"),
  "grown": (lambda lines: [*lines, lines[1], lines[2]], "rows 64 → 66 (the first 64 are the same)"),
  "shorter": (lambda lines: lines[:-4], "rows 64 → 60 (the first 60 are the same)"),
  "another cell": (lambda lines: [*lines[:7], with_cell(lines[7], 1, "9"), *lines[8:]],
                   "column 'b' differs, first at row 7"),
  "another label": (lambda lines: [*lines[:9], with_cell(lines[9], 2, str(1 - int(lines[9][-1]))),
                                   *lines[10:]], "column 'y' differs, first at row 9"),
  "rounded": (lambda lines: [lines[0], *(",".join([repr(float(np.float32(v))) for v in
                                                   row.split(",")[:2]] + [row[-1]])
                                         for row in lines[1:])],
              "columns 'a', 'b' differ, first at row 1"),
  "another name": (lambda lines: ["a,c,y", *lines[1:]], "without column 'b'; with column 'c'"),
  "another order of columns": (
    lambda lines: [",".join(line.split(",")[i] for i in (1, 0, 2)) for line in lines],
    "the columns in another order"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_another_table_is_refused_and_the_change_said(folder, capsys, name):
  change, said = CHANGES[name]
  (folder / "t.csv").write_text("\n".join(change(lines_of(folder))) + "\n")
  assert refused(capsys, "eval", "run") == (
    f"fbackprop: RUN run: csv:t.csv has changed since the run began: {said}; "
    "restore it, or score all of its rows: fbackprop eval run --data csv:t.csv\n"
  )
  told = refused(capsys, "train", "--resume", "run", "--stop.max-steps", "30")
  assert f"has changed since the run began: {said}; restore it" in told


@pytest.mark.slow
def test_the_same_numbers_written_otherwise_are_the_same_table(folder, capsys):
  lines = lines_of(folder)
  rows = [",".join(f"{float(v):.17g}" for v in row.split(",")[:2]) + f",{row[-1]}.0"
          for row in lines[1:]]  # fmt: skip
  (folder / "t.csv").write_text("\r\n".join([lines[0], "", *rows]))
  assert main(["eval", "run"]) == 0
  assert "16 test examples of csv:t.csv" in capsys.readouterr().out
  assert main(["train", "--resume", "run", "--stop.max-steps", "30"]) == 0


@pytest.mark.slow
def test_other_rows_are_scored_all_and_its_own_are_said(folder, capsys):
  """A model of 0 and 1 knows 0.0 and 1.0."""
  own = [line + ".0" for line in lines_of(folder)[1:11]]
  (folder / "new.csv").write_text("\n".join(["b,note,a,y", *(
    ",".join((b, "x", a, y)) for a, b, y in (line.split(",") for line in [*own, "0.5,0.25,1.0"])
  )]))  # fmt: skip
  assert main(["eval", "run", "--data", "csv:new.csv"]) == 0
  told = capsys.readouterr()
  assert "11 examples of csv:new.csv" in told.out
  assert "fbackprop: note: 10 of these 11 rows belong to the run's own data" in told.err
  (folder / "far.csv").write_text("a,b,y\n7,8,0\n9,7,1\n1,2,NA\n")
  assert main(["eval", "run", "--data", "csv:far.csv", "--missing-targets", "drop"]) == 0
  told = capsys.readouterr()
  assert "2 examples of csv:far.csv" in told.out
  assert told.err == ""


def test_a_run_of_before_goes_on_with_a_note(folder, capsys):
  env = json.loads((folder / "run" / "env.json").read_text())
  assert env.pop("data")["rows"] == N
  (folder / "run" / "env.json").write_text(json.dumps(env))
  assert main(["eval", "run"]) == 0
  assert "run has no fingerprint of its data, as older runs" in capsys.readouterr().err


def test_a_run_of_before_has_the_bits_that_it_had(folder):
  """Its numbers were rounded to float32 before they were standardised."""
  found = load_dataset("csv:t.csv", 0, target=["y"], rounded=True)
  raw = load_dataset("csv:t.csv", 0, target=["y"], standardize="off").x
  mean, scale = (getattr(raw.astype(np.float64), name)(0) for name in ("mean", "std"))
  np.testing.assert_array_equal(found.x, np.float32((raw - mean) / scale))
  now = load_dataset("csv:t.csv", 0, target=["y"])
  assert (now.x != found.x).any()
  np.testing.assert_allclose(now.x, found.x, rtol=0, atol=1e-6)


PRINTS = {"sha256": 1, "split": 2}


@pytest.mark.parametrize("data", [3, {}, PRINTS, {**PRINTS, "columns": 3, "rows": "a"}])
def test_a_fingerprint_that_is_none_is_refused(folder, capsys, data):
  (folder / "run" / "env.json").write_text(json.dumps({"data": data}))
  assert "env.json: data must be as fbackprop train writes it" in refused(capsys, "eval", "run")


def test_a_long_table_says_where_it_differs_by_a_block(tmp_path):
  x, y = RNG.normal(size=(5000, 2)), np.arange(5000) % 2
  found = []
  for _ in range(2):
    np.savez(tmp_path / "t.npz", x=x, y=y)
    found.append(load_dataset(f"npz:{tmp_path}/t.npz", 0).fingerprint)
    x[3001, 1] += 1
  assert len(json.dumps(found[0])) < 20_000
  assert difference(*found) == "column 'x1' differs, first in rows 3,001 to 3,008"
  assert difference(found[1], found[1]) == ""
  other, own = (load_dataset(f"npz:{tmp_path}/t.npz", seed).fingerprint for seed in (1, 0))
  assert "the same rows, and another split of them" in difference(own, other)
