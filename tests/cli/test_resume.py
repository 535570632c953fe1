"""`--ckpt.every`, `--resume` and `--on-nonfinite` of `fbackprop train`: said, written, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from safetensors.numpy import load_file

from fbackprop.cli import main
from tests.support.refusals import refused
from tests.support.runs import follow, interrupt_at, metrics_of

pytestmark = pytest.mark.usefixtures("all_undrawn")
LINE = ("--data", "sine", "--hidden", "4", "--check-every", "0", "--eval-every", "20")


def train(*flags):
  return main(["train", *map(str, flags)])


def weights(folder):
  return {name: a.tobytes() for name, a in load_file(folder / "model.safetensors").items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, all_undrawn):
  """A run of 100 steps that is never cut; only to be read."""
  out = tmp_path_factory.mktemp("runs")
  assert train(*LINE, "--out", out, "--name", "a", "--stop.max-steps", 100) == 0
  return out / "a"


@pytest.fixture
def cut(tmp_path, monkeypatch):
  """The same one, interrupted after its line of step 40."""

  flags = ("--out", tmp_path, "--name", "a", "--stop.max-steps", 100, "--ckpt.every", 30)
  with monkeypatch.context() as patch:
    follow(patch, "append_evaluation", interrupt_at(40, signal.SIGTERM))
    assert train(*LINE, *flags) == 143
  return tmp_path / "a"


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(whole, cut, capsys):
  capsys.readouterr()
  assert train("--resume", cut) == 0
  said = capsys.readouterr()
  assert [int(line.split()[0]) for line in said.out.splitlines() if line[:8].strip().isdigit()] == [
    20, 40, 60, 80, 100,
  ]  # fmt: skip
  assert (said.err, metrics_of(cut), weights(cut)) == ("", metrics_of(whole), weights(whole))
  own, other = (json.loads((f / "summary.json").read_text()) for f in (cut, whole))
  for name in own:
    if name != "time" and not name.endswith("seconds"):
      assert own[name] == other[name], name
  assert sorted(os.listdir(cut / "checkpoints")) == ["100", "90"]


DAMAGED_LINES = [
  '{"step": 50, "epo',  # As a kill leaves it.
  pytest.param('{"step": Infinity}\n', marks=pytest.mark.slow, id="infinite"),
  pytest.param("[" * 2**15 + "\n", marks=pytest.mark.slow, id="nested"),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", DAMAGED_LINES)
def test_a_damaged_line_of_metrics_gives_way(whole, cut, line):
  with (cut / "metrics.jsonl").open("a") as file:
    file.write(line)
  assert train("--resume", cut) == 0
  assert metrics_of(cut) == metrics_of(whole)


@pytest.mark.slow
def test_it_may_be_given_another_end(whole, cut):
  assert train("--resume", cut, "--stop.max-steps", 60) == 0
  assert train("--resume", cut, "--stop.max-steps", 100) == 0
  assert weights(cut) == weights(whole)
  assert "max_steps = 100\n" in (cut / "config.toml").read_text()  # Which runs it again.


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told(whole, cut, capsys):
  (cut / "checkpoints" / "40" / "run" / "state.safetensors").write_bytes(b"{}")
  capsys.readouterr()
  assert train("--resume", cut) == 0
  assert re.fullmatch(
    r"fbackprop: \S+/40/run/state\.safetensors is not a safetensors file: .+; "
    r"the checkpoint before it is used\n",
    capsys.readouterr().err,
  )
  assert weights(cut) == weights(whole)


def test_another_machine_is_told(cut, capsys):
  env = json.loads((cut / "env.json").read_text())
  (cut / "env.json").write_text(json.dumps({**env, "jaxlib": "0.0.1", "cores": 999}))
  capsys.readouterr()
  assert train("--resume", cut) == 0
  now = f"jaxlib 0.0.1, now {env['jaxlib']}; cores 999, now {env['cores']}"
  said = capsys.readouterr().err
  assert said == (
    f"fbackprop: {cut} was started in another environment ({now}): results may differ in the last "
    "bits\n"
  )


CHANGES = [
  (("--data", "iris"), "--data cannot be changed when resuming"),
  (("--name=b",), "--name cannot be changed when resuming"),
  (("--config", "f.toml"), "--config cannot be changed when resuming"),
  (("--on-nonfinite", "rollback"), "on_nonfinite='rollback' was False, got True"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "message"), CHANGES)
def test_what_would_change_a_step_is_refused(cut, capsys, flags, message):
  capsys.readouterr()
  assert train("--resume", cut, *flags) == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_read_or_written_through_links_out_of_the_run(cut, tmp_path, capsys):
  outside = tmp_path / "outside"
  outside.write_text("kept")
  (cut / "metrics.jsonl").unlink()
  (cut / "metrics.jsonl").symlink_to(outside)
  assert train("--resume", cut) == 1
  said = capsys.readouterr().err
  assert f"{cut / 'metrics.jsonl'} (it is a link, and must be a file)" in said
  assert outside.read_text() == "kept"
  outside.write_text((cut / "config.toml").read_text())
  (cut / "config.toml").unlink()
  (cut / "config.toml").symlink_to(outside)
  assert train("--resume", cut) == 2
  assert f"{cut / 'config.toml'} is a link out of the run's folder" in capsys.readouterr().err


def test_a_run_without_checkpoints_cannot_go_on(whole, capsys):
  assert train("--resume", whole) == 2
  assert f"--resume {whole}: {whole}/checkpoints holds no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_a_schedule_ends_where_it_was_to_end(tmp_path, capsys):
  flags = ("--out", tmp_path, "--name", "a", "--schedule", "cosine", "--ckpt.every", 30)
  with jax.numpy_dtype_promotion("standard"):  # Optax's schedules add a step to a number.
    assert train(*LINE, *flags, "--stop.max-steps", 30) == 0
  said = refused(capsys, "train", "--resume", tmp_path / "a", "--stop.max-steps", 60)
  assert "--stop.max-steps cannot be changed when resuming a run with the schedule cosine" in said


@pytest.mark.slow
def test_other_data_in_the_same_file_is_refused(tmp_path, capsys):
  table = tmp_path / "t.csv"
  table.write_text("a,b,y\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(40)))
  flags = ("--data", f"csv:{table}", "--target", "y", "--out", tmp_path, "--name", "a")
  assert train(*flags, "--hidden", 2, "--stop.max-steps", 9, "--ckpt.every", 9) == 0
  table.write_text(table.read_text().replace("3,9,1", "3,8,1"))
  said = refused(capsys, "train", "--resume", tmp_path / "a", "--stop.max-steps", 18)
  assert "has changed since the run began: column 'b' differs, first at row 4" in said


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path, capsys):
  """The second is refused, however the folder is named, and the first goes on."""
  flags = ["--out", tmp_path, "--name", "a", "--stop.max-seconds", 60, "--ckpt.every", 1000]
  command = [sys.executable, "-m", "fbackprop", "train", *LINE, *map(str, flags)]
  first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  try:
    while not any(path.name.isdecimal() for path in tmp_path.glob("a/checkpoints/*")):
      assert first.poll() is None
      time.sleep(0.1)
    assert train("--resume", tmp_path / "a") == 2
    assert f"{tmp_path / 'a'} is in use by another run" in capsys.readouterr().err
    first.kill()  # Whatever happens to it, the folder is free then.
    first.wait()
    assert train("--resume", tmp_path / "a", "--stop.max-seconds", 0.01) == 0
  finally:
    first.kill()
    first.wait()
