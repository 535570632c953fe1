"""`fbackprop train` from its flags to its folder: what it prints, writes and returns.

Networks are tiny and runs short. Where the picture is not the subject it isn't drawn: that takes
longer than the run.
"""

import json
import os
import re
import shutil
import signal
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.cli.console import show_progress
from fbackprop.train import run_folder as runs
from fbackprop.train.metrics import number
from tests.support.runs import follow, interrupt_at, metrics_of

FILES = ["config.toml", "env.json", "metrics.jsonl", "model.safetensors", "report.html",
         "report.png", "summary.json"]  # fmt: skip
LINE = ("--data", "sine", "--hidden")  # A linear model of the sine: the smallest that there is.


def train(out, *flags):
  """Exit code of a run in the folder `out`, which has place for one run more."""
  return main(["train", "--out", str(out), *map(str, flags)])


def read(path):
  return json.loads(path.read_text(encoding="utf-8"))


def is_between(low, value, high):
  return isinstance(value, float) and low <= value <= high


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  """The folder of a run of digits of 40 steps."""
  out = tmp_path_factory.mktemp("runs")
  flags = ("--hidden", 8, "--stop.max-steps", 40, "--eval-every", 20, "--check-every", 40)
  assert train(out, *flags) == 0
  return out / "digits-1"


@pytest.mark.slow
def test_digits_leave_a_folder_with_everything(digits):
  assert sorted(os.listdir(digits)) == FILES
  assert (digits / "report.png").read_bytes().startswith(b"\x89PNG")
  page = (digits / "report.html").read_text(encoding="utf-8")
  assert "<title>digits-1 – fbackprop</title>" in page
  assert f"fbackprop train --config {digits / 'config.toml'}" in page
  assert len(page) < 1_000_000
  like = jax.eval_shape(fb.mlp([64, 8, 10]).init, jax.random.key(0))
  params = fb.train.load_params(digits / "model.safetensors", like=like)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_the_summary_and_the_evaluations_agree(digits):
  summary, metrics = read(digits / "summary.json"), metrics_of(digits)
  assert [row["step"] for row in metrics] == [20, 40]
  for row in metrics:
    assert is_between(0, row["test_accuracy"], 1)
    assert is_between(0, row["gradient_error"], fb.verify.GRADIENT_TOLERANCE)
    assert len(row["grad_norms"]) == 2
    assert row["epoch"] == row["step"] / (1347 // 32)
  for key in ("test_accuracy", "test_loss", "train_loss"):
    assert summary[key] == metrics[-1][key]
  assert summary["test_accuracy"] > 0.3  # Chance is 0.1.
  assert (summary["steps"], summary["stop_reason"], summary["diverged_at"]) == (
    40, "max_steps", None
  )  # fmt: skip
  assert is_between(0, summary["gradient_check_max_rel_error"], fb.verify.GRADIENT_TOLERANCE)
  assert is_between(0, summary["gradient_rounding_max_rel_error"], 1e-4)  # float32's is 1e-7.
  assert summary["gradient_checks"] == 2
  assert is_between(0, summary["check_seconds"], summary["seconds"])
  assert is_between(0, summary["compile_seconds"], float("inf"))
  assert [*summary["time"]] == ["import", "load", "compile", "check", "train", "draw"]
  assert all(is_between(0, seconds, 600) for seconds in summary["time"].values())
  assert sum(summary["time"][part] for part in ("check", "train")) >= summary["seconds"] - 0.01


def test_the_environment_says_what_a_run_depends_on(digits):
  environment = read(digits / "env.json")
  assert (environment["fbackprop"], environment["jax"]) == (fb.__version__, jax.__version__)
  assert environment["platform"] == jax.default_backend()
  assert len(environment["devices"]) == jax.device_count()
  assert {"python", "jaxlib", "optax", "numpy", "safetensors", "scikit-learn", "system", "machine",
          "cores"} <= environment.keys()  # fmt: skip
  assert runs.version_of("fbackprop-has-no-such-dependency") is None


@pytest.mark.slow
def test_sine_prints_a_heading_lines_and_an_ending(tmp_path, capsys):
  flags = ("--hidden", 3, "--stop.max-steps", 40, "--eval-every", 20, "--check-every", 20)
  assert train(tmp_path, "--data", "sine", *flags) == 0
  folder = tmp_path / "sine-1"
  assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
  said = capsys.readouterr()
  assert said.err == ""
  about, network, heading, first, second, ending = said.out.splitlines()
  assert about == "sine: 256 training, 256 test examples"
  assert network == "mlp 1-3-1, tanh, squared_error; gradient descent, rate 0.05, batches of 32"
  assert " ".join(heading.split()) == "step epoch train loss test loss error of gradient"
  summary = read(folder / "summary.json")
  assert "test_accuracy" not in summary
  assert first.split()[:2] == ["20", "2.5"]
  step, epoch, train_loss, test_loss, error = second.split()
  assert (step, epoch, train_loss) == ("40", "5.0", number(summary["train_loss"]))
  assert test_loss == number(summary["test_loss"])
  assert float(error) <= fb.verify.GRADIENT_TOLERANCE
  assert ending == (
    f"stopped by max_steps at step 40; test loss {test_loss}; worst gradient error against "
    f"jax.grad {summary['gradient_check_max_rel_error']:.1e}; run in {folder}"
  )


@pytest.mark.slow
def test_the_title_says_what_was_run_and_how_it_ended(tmp_path, capsys, undrawn, monkeypatch):
  titles = []

  def drawn(title, *arguments, **tell):
    titles.append(title)
    return b"a picture"

  monkeypatch.setattr("fbackprop.train.report.draw_report", drawn)
  flags = ("--rate", 0.125, "--batch-size", 16, "--seed", 7, "--stop.max-steps", 3)
  assert train(tmp_path, *LINE, *flags, "--check-every", 0) == 0
  what, ending = titles[0].splitlines()
  assert what == ("linear 1-1, squared_error; gradient descent, rate 0.125, batches of 16, seed 7")
  assert capsys.readouterr().out.splitlines()[-1].startswith(f"{ending}; run in ")


@pytest.mark.slow
def test_config_toml_runs_again_bit_for_bit(tmp_path, undrawn):
  flags = ("--rate", 0.0123, "--seed", 7, "--batch-size", 50, "--stop.max-steps", 40)
  assert train(tmp_path, *LINE, *flags) == 0
  assert train(tmp_path, "--config", tmp_path / "sine-1" / "config.toml") == 0
  for name in ("config.toml", "model.safetensors"):
    first, second = ((tmp_path / f"sine-{i}" / name).read_bytes() for i in (1, 2))
    assert first == second


@pytest.mark.slow
def test_a_seed_is_another_start(tmp_path, undrawn):
  for seed in (0, 1):  # Without a step the data say nothing, the key alone does.
    assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 0, "--seed", seed) == 0
  first, second = ((tmp_path / f"sine-{i}" / "model.safetensors").read_bytes() for i in (1, 2))
  assert first != second


ENDS = [
  # An epoch is 8 steps. Any loss is below 1e9; no loss falls by 1e9.
  (("--stop.loss-below", 1e9), "loss_below at step 8;"),
  (("--stop.tol", 1e9, "--stop.patience", 2), "tol at step 32;"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "reason"), ENDS, ids=["loss_below", "tol"])
def test_a_stop_rule_ends_a_run_that_nobody_checks(tmp_path, capsys, undrawn, flags, reason):
  assert train(tmp_path, *LINE, *flags, "--check-every", 0, "--name", "mine") == 0
  assert f"stopped by {reason}" in capsys.readouterr().out
  assert read(tmp_path / "mine" / "summary.json")["stop_reason"] == reason.split()[0]


@pytest.mark.slow
def test_a_run_without_checks_says_so(tmp_path, capsys, undrawn):
  assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 0) == 0
  line, ending = capsys.readouterr().out.splitlines()[-2:]
  assert re.fullmatch(r" +0 +0\.0 +- +[\d.]+ +-", line)  # No loss of a step, and no check.
  assert "against jax.grad not checked; run in" in ending
  summary = read(tmp_path / "sine-1" / "summary.json")
  assert summary["gradient_check_max_rel_error"] is None
  assert summary["gradient_rounding_max_rel_error"] is None
  assert (summary["gradient_checks"], summary["train_loss"]) == (0, None)


@pytest.mark.slow
def test_a_run_that_diverges_says_where_and_keeps_finite_parameters(tmp_path, capsys, undrawn):
  flags = ("--data", "sine", "--hidden", 4, "--activation", "relu", "--rate", 1e30)
  assert train(tmp_path, *flags) == 3
  said = capsys.readouterr()
  assert "stopped: the run diverged at step 2;" in said.out
  assert re.search(r"diverged at step 2; first not finite: layer \d \(dense\): \w+;", said.err)
  assert "a smaller --rate than 1e+30 may help" in said.err
  summary = read(tmp_path / "sine-1" / "summary.json")
  assert (summary["stop_reason"], summary["steps"]) == ("diverged", 1)
  assert summary["diverged_at"] in said.err
  assert 0 < summary["train_loss"] < 100  # Of the step that was taken.
  params = safetensors.numpy.load_file(tmp_path / "sine-1" / "model.safetensors")
  assert len(params) == 4
  assert all(np.isfinite(leaf).all() for leaf in params.values())


@pytest.mark.slow
def test_a_wrong_backward_rule_fails_the_run(tmp_path, capsys, undrawn, monkeypatch):
  right = fb.tanh

  def wrong_by_a_thousandth(params, residuals, y_bar):
    params_bar, x_bar = right.backward(params, residuals, y_bar)
    return params_bar, x_bar * 1.001

  wrong = right._replace(backward=wrong_by_a_thousandth)
  monkeypatch.setattr("fbackprop.layers.activations.tanh", wrong)
  assert train(tmp_path, "--data", "sine", "--hidden", 3, "--stop.max-steps", 10) == 1
  said = re.search(r"the gradient of (.+) differs from jax\.grad by 1\.0e-03 at step 0",
                   capsys.readouterr().err)  # fmt: skip
  assert said.group(1) in ("[0].w", "[0].b")
  # The run is saved all the same, with what the checks found.
  assert sorted(os.listdir(tmp_path / "sine-1")) == FILES
  error = read(tmp_path / "sine-1" / "summary.json")["gradient_check_max_rel_error"]
  np.testing.assert_allclose(error, 1e-3, rtol=1e-9)  # Both sides are float64.


def test_an_interrupt_saves_what_was_reached(tmp_path, capsys, undrawn, monkeypatch):
  follow(monkeypatch, "append_evaluation", interrupt_at(20))
  assert train(tmp_path, *LINE, "--eval-every", 20, "--stop.max-steps", 10**9) == 130
  said = capsys.readouterr()
  assert "stopped: interrupted at step 20;" in said.out
  again = f"fbackprop train --resume {tmp_path / 'sine-1'}"
  assert said.err == f"fbackprop: step 20 is saved; to go on: {again}\n"
  assert sorted(os.listdir(tmp_path / "sine-1")) == ["checkpoints", *FILES]
  summary = read(tmp_path / "sine-1" / "summary.json")
  assert (summary["stop_reason"], summary["steps"]) == ("interrupted", 20)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("during", ["append_evaluation", "write_json"])
def test_an_interrupt_at_the_end_saves_everything_and_is_told(
  tmp_path, capsys, undrawn, monkeypatch, during, signum, code
):
  sent = []

  def interrupt(path, content):
    if path.name != "env.json" and not sent:  # That one is written before the run.
      sent.append(path)
      os.kill(os.getpid(), signum)

  follow(monkeypatch, during, interrupt)
  assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 3) == code
  # The run had come to its end by itself.
  assert "stopped by max_steps at step 3;" in capsys.readouterr().out
  assert sorted(os.listdir(tmp_path / "sine-1")) == FILES


def test_a_second_interrupt_does_not_wait_for_the_files(tmp_path, capsys, undrawn, monkeypatch):
  def interrupting(path, content):
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(runs, "append_evaluation", interrupting)
  assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 3) == 130
  assert "interrupted before all of the run was saved" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "model.safetensors", "summary.json"])
def test_a_file_that_cannot_be_written_is_named_and_the_others_are_saved(
  tmp_path, capsys, undrawn, monkeypatch, name
):
  def block(path, content):
    if path.name == "env.json":
      (path.parent / name).mkdir()

  follow(monkeypatch, "write_json", block)
  assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 3) == 1
  folder = tmp_path / "sine-1"
  said = capsys.readouterr()
  assert "stopped by max_steps at step 3;" in said.out
  assert said.err == f"fbackprop: could not be written: {folder / name} (Is a directory)\n"
  assert sorted(os.listdir(folder)) == FILES
  assert all((folder / file).is_file() for file in FILES if file != name)


def test_a_folder_that_is_gone_is_no_traceback(tmp_path, capsys, undrawn, monkeypatch):
  folder = tmp_path / "sine-1"
  follow(monkeypatch, "append_evaluation", lambda path, evaluation: shutil.rmtree(folder))
  assert train(tmp_path, *LINE, "--check-every", 0, "--stop.max-steps", 3) == 1
  files = ("model.safetensors", "summary.json", "report.png", "report.html")
  missing = ", ".join(f"{folder / file} (No such file or directory)" for file in files)
  assert capsys.readouterr().err == f"fbackprop: could not be written: {missing}\n"


def test_an_interrupt_while_packages_are_imported(tmp_path, capsys, monkeypatch):
  def interrupted(module, extra):
    raise KeyboardInterrupt

  monkeypatch.setattr("fbackprop.cli.train.check_installed", interrupted)
  assert train(tmp_path / "runs", *LINE) == 130
  assert "interrupted before all of the run was saved" in capsys.readouterr().err


def test_an_interrupt_before_the_first_step(tmp_path, capsys, monkeypatch):
  def interrupted(name, seed, **options):
    assert (name, seed) == ("sine", 5)
    raise KeyboardInterrupt

  monkeypatch.setattr("fbackprop.train.data.datasets.load_dataset", interrupted)
  assert train(tmp_path / "runs", "--data", "sine", "--seed", 5) == 130
  assert "interrupted before all of the run was saved" in capsys.readouterr().err
  assert not (tmp_path / "runs").exists()


def test_a_terminal_shows_a_bar_under_the_lines(capsys, monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
  with show_progress(10) as show:
    show("  [0].w [bold] 5 1e-3", 5)
  said = capsys.readouterr().out
  assert "  [0].w [bold] 5 1e-3\n" in said  # As it is: neither markup nor colours.
  assert "5/10" in said


@pytest.mark.slow
def test_a_terminal_says_what_takes_so_long_before_the_first_step(capsys, monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
  monkeypatch.setattr("fbackprop.cli.console.PATIENCE", 0.0)
  with show_progress(10, before="compiling ...") as show:
    time.sleep(0.5)  # The bar is drawn ten times a second.
    before = capsys.readouterr().out
    show("", 0)
    time.sleep(0.5)
    after = capsys.readouterr().out
  assert "compiling ..." in before
  assert "training" in after
  assert "compiling" not in after


def test_what_is_done_within_a_second_is_not_announced(capsys, monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
  monkeypatch.setattr("fbackprop.cli.console.PATIENCE", 1000.0)
  with show_progress(10, before="compiling ...") as show:
    show("", 0)
  assert "compiling" not in capsys.readouterr().out


def test_elsewhere_there_are_lines_alone(capsys):
  with show_progress(10) as show:
    show("  [0].w [bold] 5 1e-3", 5)
  assert capsys.readouterr().out == "  [0].w [bold] 5 1e-3\n"


@pytest.mark.parametrize(
  ("value", "text"),
  [(None, "-"), (0.0, "0.0000"), (0.001, "0.0010"), (0.0005, "5.00e-04"), (9999.0, "9999.0000"),
   (12345.0, "1.23e+04"), (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_fit_their_column(value, text):
  assert number(value) == text
