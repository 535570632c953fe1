"""Many networks at once: each is the run that it would be alone."""

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import fbackprop as fb
from fbackprop.cli import main, training
from fbackprop.layers import dense
from fbackprop.train import ensembles, last_axis, metrics
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.models import Model, describe_model, load_model
from fbackprop.train.report import RateScores, RunInfo, draw_ensemble_page, figures
from scripts.campaigns.grouping import grouped
from tests.support.refusals import refusals
from tests.support.runs import interrupt_at
from tests.support.wrong_rules import times
from tests.train.test_report_page import Page

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
LABELS = np.array([0, 1, 1, 0], np.int32)
NET = fb.mlp([2, 3, 2], fb.tanh)
KEYS = jax.random.split(jax.random.key(0), 3)


def tenfold(rate):
  """Its largest rates overflow."""
  return optax.chain(optax.sgd(rate), optax.scale(10.0))


def fit_all(net=NET, **options):
  """A small ensemble; any option can be replaced."""
  stop = fb.train.StopRules(60, loss_below=0.67)
  options = {"optimizer": tenfold, "stop": stop, "keys": KEYS, "test": (X, LABELS), **options}
  options = {"rates": [0.01, 0.03, 3e38], "eval_every": 25, **options}
  return fb.train.fit_ensemble(net, fb.softmax_cross_entropy, (X, LABELS), **grouped(**options))


@pytest.fixture(scope="module")
def mixed():
  """Members of three rates, the last of which diverges."""
  return fit_all()


def assert_is_alone(result, k, net=NET, **options):
  alone = fb.train.fit(net, fb.softmax_cross_entropy, (X, LABELS), key=KEYS[k], **options)
  assert (result.stop_reasons[k], result.steps[k]) == (alone.stop_reason, alone.steps)
  leaves = jax.tree.leaves(result.member(k)), jax.tree.leaves(alone.params)
  for ours, own in zip(*leaves, strict=True):
    np.testing.assert_allclose(ours, own, rtol=1e-5, atol=1e-6 * abs(own).max())
  count = len(alone.losses)
  np.testing.assert_allclose(result.losses[:count, k], alone.losses, rtol=1e-5)
  assert np.isnan(result.losses[count:, k]).all()


@pytest.mark.slow
def test_each_member_is_its_own_run(mixed):
  stop = fb.train.StopRules(60, loss_below=0.67)
  for k, rate in enumerate([0.01, 0.03]):
    assert_is_alone(mixed, k, optimizer=tenfold(rate), stop=stop)
  assert (mixed.size, mixed.stop_reasons[2]) == (3, "diverged")
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(mixed.params))
  assert len(mixed.losses) == mixed.steps.max()


@pytest.mark.slow
def test_a_member_that_diverged_says_where(mixed):
  """Its gradient is finite, and 3e38 times ten isn't."""
  assert mixed.diverged_at == (None, None, "update")
  assert (mixed.stop_reasons[2], mixed.stop_reasons.count("diverged")) == ("diverged", 1)


@pytest.mark.slow
def test_gradients_of_members_are_checked_at_the_first_and_at_the_last_step(mixed):
  assert (mixed.checks, mixed.gradient_check_max_rel_error, mixed.checks_ok) == ((), None, True)
  checked = fit_all(check_every=40, check_members=[2, 0])
  last = int(checked.steps[0])
  assert last not in (0, 40)
  # Of the one that diverged there is the first one only.
  places = [(found.step, found.member) for found in checked.checks]
  assert (places, checked.checks_ok) == ([(0, 0), (0, 2), (40, 0), (last, 0)], True)
  assert 0 < checked.gradient_check_max_rel_error < 1e-9
  assert checked.check_seconds <= checked.seconds
  # To look changes nothing.
  np.testing.assert_array_equal(checked.losses, mixed.losses)


@pytest.mark.slow
def test_a_wrong_gradient_is_found():
  net = fb.serial(fb.dense(2, 2)._replace(backward=times(1.001)))
  wrong = fit_all(
    net=net, stop=fb.train.StopRules(1), check_every=9,
    rates=None, optimizer=optax.sgd(0.1), test=None, eval_every=None,
  )  # fmt: skip
  assert (wrong.checks_ok, wrong.gradient_check_max_rel_error) == (False, pytest.approx(1e-3))


def test_a_part_is_as_if_the_others_had_not_been(mixed):
  part = mixed.part(1, 2)
  assert (part.size, part.stop_reasons, part.diverged_at) == (1, ("loss_below",), (None,))
  np.testing.assert_array_equal(part.losses, mixed.losses[: mixed.steps[1], 1:2])
  np.testing.assert_array_equal(part.member(0)[0].w, mixed.member(1)[0].w)
  assert part.rates == [0.03]
  assert part.evaluations[0].test_losses == mixed.evaluations[0].test_losses[1]
  assert part.evaluations[0].test_loss is None


@pytest.mark.slow
def test_an_interrupt_ends_an_ensemble_after_the_chunk_in_flight():
  options = {"rates": None, "optimizer": optax.sgd(0.01), "eval_every": 10, "test": None}
  before = signal.getsignal(signal.SIGINT)
  many = fit_all(stop=fb.train.StopRules(1000), on_evaluation=interrupt_at(20), **options)
  assert signal.getsignal(signal.SIGINT) is before
  assert (many.interrupted, many.stop_reasons) == (True, ("interrupted",) * 3)
  assert (many.steps.tolist(), many.losses.shape) == ([20] * 3, (20, 3))
  assert [e.step for e in many.evaluations] == [10, 20]
  again = fit_all(stop=fb.train.StopRules(20), **options)
  chex.assert_trees_all_equal(many.params, again.params)


@pytest.mark.slow
def test_minibatches_are_drawn_as_for_one():
  many = fit_all(
    rates=None, optimizer=optax.sgd(0.2), batch_size=2, stop=fb.train.StopRules(9), chunk_steps=4,
    test=None, eval_every=None, keys=KEYS[:1],
  )  # fmt: skip
  options = {"optimizer": optax.sgd(0.2), "batch_size": 2, "stop": fb.train.StopRules(9)}
  assert_is_alone(many, 0, **options)
  assert many.evaluations[0].test_losses is None


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", ["exact", "fast"])
def test_each_member_keeps_its_own_best_epoch(shuffle):
  x, targets = X.repeat(3, 0), LABELS.repeat(3)
  options = {
    "net": NET, "loss": fb.softmax_cross_entropy, "data": (x, targets),
    "step": fb.train.StepRules(shuffle),
    "optimizer": optax.sgd(0.5), "batch_size": 4, "validation": (X, LABELS),
    "stop": fb.train.StopRules(max_epochs=12, patience=3),
  }  # fmt: skip
  many = fb.train.fit_ensemble(keys=KEYS, **options)
  for k, key in enumerate(KEYS):
    alone = fb.train.fit(key=key, **options)
    assert (many.steps[k], many.stop_reasons[k]) == (alone.steps, alone.stop_reason)
    assert (many.best.steps[k], many.best.scores[k]) == (alone.best.step, alone.best.score)
    np.testing.assert_allclose(many.member(k)[0].w, alone.params[0].w, rtol=1e-5, atol=1e-6)
  assert len(set(many.best.steps)) > 1


@pytest.mark.slow
def test_seconds_end_an_ensemble():
  many = fit_all(stop=fb.train.StopRules(max_seconds=0.0), rates=None, optimizer=optax.sgd(0.1))
  assert many.stop_reasons == ("max_seconds",) * 3


@pytest.mark.slow
def test_wide_networks_have_their_members_in_front():
  wide = fb.mlp([2, 33, 2], fb.tanh)
  options = {"optimizer": optax.sgd(0.2), "stop": fb.train.StopRules(5)}
  many = fit_all(net=wide, rates=None, test=None, eval_every=None, keys=KEYS[:2], **options)
  assert_is_alone(many, 1, wide, **options)


def test_evaluations_are_of_each_and_of_all(mixed):
  last = mixed.evaluations[-1]
  outputs = jnp.stack([NET.forward(mixed.member(k), X)[0] for k in range(3)])
  is_right = np.asarray(outputs.argmax(2) == LABELS[None, :])
  np.testing.assert_allclose(last.test_accuracies, is_right.mean(1))
  mean = jax.nn.softmax(outputs, axis=2).mean(0)
  np.testing.assert_allclose(
    last.test_loss, -np.log(np.asarray(mean)[np.arange(4), LABELS]).mean(), rtol=1e-5
  )
  assert last.test_accuracy == (np.asarray(mean).argmax(1) == LABELS).mean()
  assert last.running == 0
  assert [e.step for e in mixed.evaluations[:-1]] == list(range(25, last.step, 25))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "sigmoid_cross_entropy", "huber"])
def test_probabilities_are_averaged_and_not_logits(name):
  outputs = jax.random.normal(jax.random.key(1), (3, 5, 2))
  link = {"softmax_cross_entropy": jax.nn.softmax, "sigmoid_cross_entropy": jax.nn.sigmoid}
  function = link.get(name, lambda y: y)
  got = function(ensembles.mean_outputs(outputs, name))
  np.testing.assert_allclose(got, function(outputs).mean(0), rtol=1e-5, atol=1e-6)


def test_a_spread_is_four_numbers():
  assert fb.train.spread_of(np.array([1.0, 3.0])) == (2.0, pytest.approx(2**0.5), 1.0, 3.0)
  assert fb.train.spread_of(np.array([1.0])) == (1.0, 0.0, 1.0, 1.0)


def chosen(w, x, which):
  y = jnp.maximum(x @ w, 0.1)
  z = jax.lax.cond(which > 0, jnp.sin, jnp.cos, y)
  return jnp.where(which > 1, z, y).sum(0), jnp.sort(y, axis=1), (y.T @ y).max(), jnp.float32(3)


@pytest.mark.slow
def test_the_last_axis_gives_what_the_first_gives():
  w = jax.random.normal(jax.random.key(0), (2, 3, 4))
  x = jax.random.normal(jax.random.key(1), (5, 2, 4))
  which = jnp.arange(4)

  @jax.jit
  def last(w, x, which, one):
    return last_axis.vmap_last(chosen, 4, one)(w, x, which)

  got = last(w, x, which, jnp.ones(()))
  want = jax.vmap(chosen, in_axes=-1, out_axes=-1)(w, x, which)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_long_sums_are_left_to_a_library():
  assert last_axis.is_tiny(jnp.dot, X, X.T)
  assert not last_axis.is_tiny(jax.jit(jnp.dot), np.ones((2, 33)), np.ones((33, 2)))


BAD = [
  ({"stop": 3}, TypeError, "stop must be a StopRules, got int 3"),
  ({"keys": 3}, TypeError, "keys must be typed keys"),
  ({"keys": KEYS[0]}, ValueError, r"keys must have shape \[K\]"),
  ({"rates": [0.1]}, ValueError, "one for each of the 3 keys, got 1"),
  ({"rates": [0.1, 0.2, 0.0]}, ValueError, r"rates\[2\] must be a finite number above 0"),
  ({"optimizer": optax.sgd(0.1)}, TypeError, "must be a function of the rate"),
  ({"optimizer": 3, "rates": None}, TypeError, "optimizer must be an optax"),
  ({"batch_size": 5}, ValueError, "at most the 4 training examples, got 5"),
  ({"eval_every": 0}, ValueError, "eval_every must be at least 1"),
  ({"check_every": 0}, ValueError, "check_every must be at least 1"),
  ({"check_members": [3]}, ValueError, "check_members must be from 0 to 2, got 3"),
  ({"check_members": "a"}, TypeError, "check_members must be integers, got str 'a'"),
  ({"on_evaluation": 3}, TypeError, "on_evaluation must be a function"),
  ({"test": (X, LABELS, X[:, 0])}, ValueError, "test must be a pair"),
]


test_wrong_arguments_are_named = refusals(lambda options: fit_all(**options), BAD)


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """That of a run of three linear models of iris, of two rates."""
  out = tmp_path_factory.mktemp("runs")
  flags = "--data iris --ensemble 3 --rates 0.01 0.2 --stop.max-steps 30 --eval-every 10 --out"
  assert main(["train", *flags.split(), str(out), "--hidden", "3"]) == 0
  return out / "iris-1"


@pytest.mark.slow
def test_the_folder_holds_an_ensemble_that_answers_as_one(folder, capsys):
  summary = json.loads((folder / "summary.json").read_text())
  assert (summary["rate"], [row["rate"] for row in summary["rates"]]) == (0.2, [0.01, 0.2])
  assert main(["eval", str(folder)]) == 0
  assert f"{summary['test_accuracy']:.4f}" in capsys.readouterr().out
  model = load_model(folder / "model.safetensors")
  assert model.description.ensemble == 3
  x = np.array([[5.0, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 2.0]])
  alone = [
    model._replace(
      description=model.description._replace(ensemble=None),
      params=jax.tree.map(lambda leaf, k=k: leaf[k], model.params),
    )
    for k in range(3)
  ]
  each = [member.probabilities(member.outputs(x)) for member in alone]
  np.testing.assert_allclose(
    model.probabilities(model.outputs(x)), np.mean(each, axis=0), rtol=1e-5
  )
  assert main(["info", str(folder)]) == 0
  said = capsys.readouterr().out
  assert "3 of mlp 4-3-3" in said
  together = [line.split()[-1] for line in said.splitlines() if line.split()[0] in ("0.01", "0.2")]
  assert together == [f"{row['together']:.4f}" for row in summary["rates"]]


@pytest.mark.slow
def test_the_folder_holds_a_line_for_each_evaluation(folder):
  """The last one says what the summary says."""
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [10, 20, 30]
  assert [line["running"] for line in lines] == [6, 6, 0]
  summary = json.loads((folder / "summary.json").read_text())
  for told, row in zip(lines[-1]["rates"], summary["rates"], strict=True):
    accuracy = told["test_accuracy"]
    assert (told["rate"], accuracy["members"]) == (row["rate"], 3)
    for name in ("mean", "deviation", "least", "most"):
      np.testing.assert_allclose(accuracy[name], row[name], rtol=1e-12)
  first, last = (lines[i]["rates"][1]["train_loss"]["mean"] for i in (0, -1))
  assert 0 < last < first


def test_what_is_not_finite_is_left_out_of_a_line():
  losses = np.array([1.0, np.nan, 3.0, np.nan, np.inf, np.nan])
  found = fb.train.EnsembleEvaluation(7, 2, losses, None, None, None, None, 0.5)
  line = metrics.row_of_ensemble(found, (0.1, 0.2))
  spread = {"mean": 2.0, "deviation": 2**0.5, "least": 1.0, "most": 3.0, "members": 2}
  assert line["rates"] == [{"rate": 0.1, "train_loss": spread}, {"rate": 0.2, "train_loss": None}]


@pytest.mark.slow
def test_the_folder_holds_a_page_of_the_ensemble(folder):
  """What it says is what the summary says."""
  summary = json.loads((folder / "summary.json").read_text())
  read = Page((folder / "report.html").read_bytes())
  kept = summary["rates"][1]
  assert [row[0] for row in read.tables["Rates"][1:]] == ["0.01", "0.2"]
  members = read.tables["Members"]
  assert members[0] == ["seed", "steps", "ended by", "test accuracy"]
  assert members[1:] == [
    [str(k), "30", "max_steps", f"{score:.4f}"] for k, score in enumerate(kept["members"])
  ]
  assert "3 networks with learning rate 0.2: 3 stopped by max_steps. Of 2 rates this" in read.text
  assert f"{100 * summary['test_accuracy']:.2f} %" in read.text
  # At the first and at the last step, of a member of each rate; the page is of one.
  assert summary["gradient_checks"] == 4
  assert summary["gradient_check_max_rel_error"] < 1e-9
  assert "worst of 2 against jax.grad" in read.text


def ensemble(out, *flags):
  options = "--data iris --ensemble 2 --hidden 3 --stop.max-steps 30 --eval-every 10 --out"
  return main(["train", *options.split(), str(out), *flags])


@pytest.mark.slow
def test_an_interrupt_saves_an_ensemble(tmp_path, capsys, monkeypatch, undrawn):
  @contextmanager
  def interrupting(last_step, **labels):
    yield lambda line, step: os.kill(os.getpid(), signal.SIGINT) if step == 20 else None

  monkeypatch.setattr(training, "show_progress", interrupting)
  assert ensemble(tmp_path) == 130
  assert "kept: 2 of rate 0.05;" in capsys.readouterr().out
  folder = tmp_path / "iris-1"
  assert sorted(os.listdir(folder)) == [
    "config.toml", "env.json", "metrics.jsonl", "model.safetensors", "report.html", "summary.json"
  ]  # fmt: skip
  (row,) = json.loads((folder / "summary.json").read_text())["rates"]
  assert (row["stop_reasons"], row["steps"]) == (["interrupted"] * 2, [20, 20])


@pytest.mark.slow
def test_a_wrong_gradient_and_a_divergence_are_told_and_saved(
  tmp_path, capsys, monkeypatch, undrawn
):
  monkeypatch.setattr(dense, "dense_backward", times(1.001))
  assert ensemble(tmp_path, "--rates", "0.1", "1e37") == 1
  folder = tmp_path / "iris-1"
  said = capsys.readouterr().err
  assert "fbackprop: of rate 1e+37, 2 of 2 diverged, that of seed 0 at step" in said
  assert "differs from jax.grad by 1.0e-03 at step 0 of seed 0, rate 0.1\n" in said
  rows = json.loads((folder / "summary.json").read_text())["rates"]
  assert rows[0]["diverged_at"] == [None, None]
  assert all(rows[1]["diverged_at"])


@pytest.mark.slow
def test_a_divergence_is_an_exit_code_of_its_own(tmp_path, capsys, monkeypatch, undrawn):
  assert ensemble(tmp_path, "--rate", "1e37", "--check-every", "0") == 3
  assert "2 of 2 diverged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_of_members_that_ended_in_other_ways(monkeypatch):
  """Each kept epoch and each place that wasn't finite has a column."""
  monkeypatch.setattr(figures, "svg_of", lambda panel: panel.draw(Figure().subplots()) or "")
  dataset = load_dataset("diabetes", 0)
  description = describe_model((10, 1), "relu", dataset, ensemble=3)
  stop = fb.train.StopRules(20, loss_below=0.7, validation_fraction=0.2)
  result = fb.train.fit_ensemble(
    description.net, description.loss, (dataset.x, dataset.targets), optimizer=tenfold, stop=stop,
    keys=KEYS, rates=[1e-4, 3e-3, 3e38],
    monitor=fb.train.Monitor(test=(dataset.x_test, dataset.targets_test)),
  )  # fmt: skip
  scores = RateScores(0.1, np.array([1.0, 2.0, np.nan]), 1.5)
  told = RunInfo(Path("gone"), "gradient descent", 7, (), {}, "again", "command")
  model = Model(description, result.params)
  read = Page(draw_ensemble_page(told, result, [scores], 0, dataset, model))
  heads, *rows = read.tables["Members"]
  assert heads[-3:] == ["kept step", "validation", "first not finite"]
  assert [row[0] for row in rows] == ["7", "8", "9"]
  assert [row[2] for row in rows] == ["max_steps", "loss_below", "diverged"]
  assert rows[2][-3:] == ["0", "–", result.diverged_at[2]]  # Of no epoch there is a score.
  assert "Rates" not in read.tables
  assert "The first that diverged is member 2, at step" in read.text
