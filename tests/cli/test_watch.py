"""`--clip-examples` and `--watch` of `fbackprop train`: the table, metrics.jsonl and the page."""

import re

import pytest

from fbackprop.cli import main
from fbackprop.cli.train import parse
from fbackprop.layers.dense import DenseParams
from fbackprop.rules import RuleParams
from fbackprop.train.metrics import Table
from fbackprop.train.optimizers import is_weight
from tests.support.runs import metrics_of

LINE = ("--data", "moons", "--hidden", "8", "8", "--check-every", "0", "--eval-every", "20")
WATCHED = ("--clip-examples", "0.3", "--watch", "health,noise_scale")
PANELS = ("Noise scale over the steps", "Clipped examples over the steps",
          "Inputs of each layer over the steps", "Cotangents of each layer over the steps",
          "Dead units of each layer over the steps")  # fmt: skip


def train(out, *flags):
  assert main(["train", *LINE, "--out", str(out), "--name", "a", *flags]) == 0
  return out / "a"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
  return train(tmp_path_factory.mktemp("watched"), "--stop.max-steps", "60", *WATCHED)


@pytest.mark.slow
def test_the_page_draws_what_was_watched(watched, tmp_path):
  page = (watched / "report.html").read_text(encoding="utf-8")
  assert all(f'aria-label="{panel}"' in page for panel in PANELS)
  plain = train(tmp_path, "--stop.max-steps", "20") / "report.html"
  assert not any(panel in plain.read_text(encoding="utf-8") for panel in PANELS)


@pytest.mark.slow
def test_the_metrics_hold_what_was_watched(watched):
  for line in metrics_of(watched):
    assert 0 <= line["clipped"] <= 1
    assert list(line["health"]) == ["0.dense", "2.dense", "4.dense"]
  assert metrics_of(watched)[0]["noise_scale"] > 0
  told = (watched / "config.toml").read_text()
  assert "clip_examples = 0.3" in told
  assert re.search(r'watch = \[\s*"health",\s*"noise_scale",\s*\]', told)


LISTS = [
  ((), ()),
  (("--watch", "noise_scale"), ("noise_scale",)),
  (("--watch", "health,noise_scale"), ("health", "noise_scale")),
  (("--watch", "health", "noise_scale"), ("health", "noise_scale")),
  (("--watch", "health, health,"), ("health",)),
]


@pytest.mark.parametrize(("flags", "names"), LISTS)
def test_names_stand_between_commas_or_blanks(flags, names):
  assert parse(flags).watched == names


def test_a_file_may_hold_a_list(tmp_path):
  (tmp_path / "c.toml").write_text('watch = ["health", "noise_scale"]\nclip_examples = 2\n')
  config = parse(["--config", str(tmp_path / "c.toml")])
  assert (config.watched, config.clip_examples) == (("health", "noise_scale"), 2.0)


def test_a_table_has_the_columns_that_are_asked_for():
  assert Table((), labels=True).head() == (
    "    step   epoch  train loss  test loss test accuracy   error of gradient"
  )
  assert Table(("noise_scale", "health"), validation=9, clipping=0.3).head() == (
    "    step   epoch  train loss  test loss  validation  clipped  noise scale   max dead"
    "   error of gradient"
  )


# --- Backward rules -------------------------------------------------------------------------------

RULE_PANELS = ("Angle of the update to the gradient", "Angle of the weights to their feedback")


@pytest.mark.slow
def test_a_run_under_a_rule_saves_the_network_alone(tmp_path, capsys):
  flags = ("--rule", "kolen_pollack", "--watch", "alignment", "--weight-decay", "0.01")
  folder = train(tmp_path, "--stop.max-steps", "40", "--check-every", "20", *flags)
  said = capsys.readouterr().out
  assert "relu, softmax_cross_entropy; kolen pollack, gradient descent" in said
  assert "max angle" in said
  for line in metrics_of(folder):
    assert list(line["alignment"]) == ["0.dense", "2.dense", "4.dense"]
    first, _, last = line["alignment"].values()
    assert 0 < first["angle"] < 180
    assert last["norm_ratio"] == pytest.approx(1, abs=1e-2)
    assert 0 < first["weight_angle"] < 180
    assert line["gradient_error"] < 1e-12
  page = (folder / "report.html").read_text(encoding="utf-8")
  assert all(f'aria-label="{panel}"' in page for panel in RULE_PANELS)
  assert main(["eval", str(folder)]) == 0
  assert "  accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_under_a_rule_is_resumed_bit_for_bit(tmp_path):
  flags = ("--rule", "feedback_alignment", "--watch", "alignment", "--ckpt.every", "20")
  whole = train(tmp_path / "whole", "--stop.max-steps", "60", *flags)
  part = train(tmp_path / "part", "--stop.max-steps", "40", *flags)
  assert main(["train", "--resume", str(part), "--stop.max-steps", "60"]) == 0
  files = [(folder / "model.safetensors").read_bytes() for folder in (whole, part)]
  assert files[0] == files[1]


def test_feedback_is_not_decayed():
  params = {"params": (DenseParams(1.0, 1.0),), "feedback": (DenseParams(1.0, 1.0),)}
  marks = is_weight(RuleParams(**params))
  assert marks == RuleParams((DenseParams(True, False),), (DenseParams(False, False),))
