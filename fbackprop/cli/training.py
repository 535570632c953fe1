"""The runs of `fbackprop train`, of one network or of an ensemble for each rate. It imports jax."""

import shlex
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop import rules, train
from fbackprop.cli.config import Sources, TrainConfig, method_of, settings
from fbackprop.cli.console import Phases, UsageError, note, show_progress, table_of_rates
from fbackprop.cli.preparation import Prepared, begin, prepare
from fbackprop.files import write_whole
from fbackprop.live_check import LiveCheck
from fbackprop.quantities.capture import captured
from fbackprop.train import report
from fbackprop.train import run_folder as runs
from fbackprop.train.data.rows import Dataset
from fbackprop.train.ensembles import make_ensemble_evaluate
from fbackprop.train.history import SQUARED_NORM
from fbackprop.train.interrupts import deferred_interrupt
from fbackprop.train.metrics import Table, number, row_of_ensemble
from fbackprop.train.models import Description, Model, save_model
from fbackprop.train.optimizers import make_optimizer

Ending = tuple[list[str], int]
"""How a run ended: its messages for stderr, and its exit code if it wasn't interrupted."""


class RunFolder:
  """The writer of a run's files; a failed write doesn't prevent the others.

  Attributes:
    path: path of the folder.
    failed: the files that couldn't be written, with the reasons.
  """

  def __init__(self, path: Path) -> None:
    self.path = path
    self.failed: dict[Path, str] = {}

  def write(self, name: str, writer: Callable[..., None], *content: Any) -> None:
    """Call `writer(path, *content)`, which may raise an OSError."""
    try:
      writer(self.path / name, *content)
    except OSError as error:
      self.failed[self.path / name] = error.strerror or str(error)

  def write_summary(self, summary: dict[str, Any], phases: Phases) -> None:
    """Write the summary with the times so far: before the report is drawn, and when it is."""
    times = {name: round(seconds, 3) for name, seconds in phases.seconds.items()}
    self.write("summary.json", runs.write_json, {**summary, "time": times})


def run(config: TrainConfig, sources: Sources, phases: Phases) -> int:
  """Train, and write the run's folder; return the exit code (see `fbackprop.cli.train.main`)."""
  prepared = prepare(config, sources)
  with begin(prepared) as folder, deferred_interrupt(signal.SIGINT, signal.SIGTERM) as interruption:
    print(prepared.about(), flush=True)
    phases.end("load")
    files = RunFolder(folder)
    is_alone = config.ensemble == 1 and not config.rates
    messages, code = (train_one if is_alone else train_ensembles)(prepared, files, phases)
  if files.failed:
    failed = ", ".join(f"{path} ({reason})" for path, reason in files.failed.items())
    messages, code = [*messages, f"could not be written: {failed}"], 1
  elif interruption.signum is not None:
    code = 128 + interruption.signum
  for message in messages:
    note(message)
  return code


# --- What all runs share --------------------------------------------------------------------------


def optimizer_of(prepared: Prepared, rate: float) -> optax.GradientTransformation:
  """Build the optimizer with a learning rate."""
  config = prepared.config
  return make_optimizer(
    config.optimizer, rate, prepared.steps, schedule=config.schedule, warmup=config.warmup,
    weight_decay=config.weight_decay, clip_norm=config.clip_norm,
    model=(prepared.model.net, prepared.model.loss),
  )  # fmt: skip


def options_of(prepared: Prepared, **monitor: Any) -> dict[str, Any]:
  """Return the options that `fit` and `fit_ensemble` share; `monitor` has more of `Monitor`."""
  config, data = prepared.config, prepared.dataset
  test = data.x_test, data.targets_test
  return {
    "stop": replace(config.stop, validation_fraction=None),
    "batch_size": config.batch_size,
    "validation": prepared.validation,
    "step": train.StepRules(config.shuffle, config.clip_examples, config.on_nonfinite),
    "monitor": train.Monitor(config.eval_every, config.check_every or None, test, **monitor),
  }


def told_of(
  config: TrainConfig, arguments: Sequence[str], folder: Path, aside: int = 0
) -> report.RunInfo:
  """Collect the settings, machine and commands for a run's report.

  Args:
    config: the configuration.
    arguments: the arguments of the command line.
    folder: folder of the run.
    aside: size of the validation set.
  """
  again = shlex.join(["fbackprop", "train", "--config", str(folder / "config.toml")])
  command = shlex.join(["fbackprop", "train", *arguments])
  return report.RunInfo(
    folder, method_of(config), config.seed, settings(config), runs.environment(), again, command,
    aside,
  )  # fmt: skip


def checked(result: train.Result | train.EnsembleResult) -> str:
  """Describe the outcome of the gradient checks."""
  worst = result.gradient_check_max_rel_error
  said = "not checked" if worst is None else f"{worst:.1e}"
  return f"worst gradient error against jax.grad {said}"


def differing(check: LiveCheck, step: int) -> str:
  """Describe a gradient check that failed."""
  error = f"differs from jax.grad by {check.rel_error:.1e}"
  return f"the gradient of {check.leaf} {error} at step {step}"


# --- One network ----------------------------------------------------------------------------------


def train_one(prepared: Prepared, files: RunFolder, phases: Phases) -> Ending:
  """Train one network, and write the run's files."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  what = f"{model.as_text()}; {method_of(config)}"
  table = Table(
    config.watched, labels=dataset.is_classification, validation=prepared.aside,
    clipping=config.clip_examples,
  )  # fmt: skip
  print(f"{what}\n{table.head()}")
  checkpoints = files.path / "checkpoints"
  resume = None if config.resume is None else checkpoints
  look = report.make_look(model)
  with show_progress(prepared.last_step, before="compiling ...") as show, ExitStack() as exits:

    def on_evaluation(evaluation: train.Evaluation) -> None:
      files.write("metrics.jsonl", runs.append_evaluation, vars(evaluation))
      show(table.row(evaluation), evaluation.step)

    def on_compiled() -> None:
      show("", 0)
      # Beside the loop, which needs Python for its evaluations only.
      thread = Thread(target=prepare_report, args=(look, model, dataset))
      thread.start()
      exits.callback(thread.join)

    is_captured = config.clip_examples or set(config.watched) & {"health", "noise_scale"}
    net = captured(model.net) if is_captured else model.net
    if config.rule != "backprop":
      net = getattr(rules, config.rule)(net)
    try:
      result = train.fit(
        net,
        model.loss,
        prepared.examples,
        optimizer=optimizer_of(prepared, config.rate),
        key=jax.jit(jax.random.key)(np.uint32(config.seed)),  # By one program instead of two.
        params=prepared.params,
        checkpoints=train.Checkpoints(checkpoints, config.ckpt.every, config.ckpt.keep, resume),
        **options_of(
          prepared,
          on_evaluation=on_evaluation,
          on_event=note,
          on_compiled=on_compiled,
          watch=config.watched,
        ),
      )
    except (ValueError, TypeError, OSError) as error:
      if config.resume is None:
        raise
      raise UsageError(f"--resume {config.resume}: {error}") from error

  end_training(phases, result)
  result = network_result(result)
  files.write("model.safetensors", save_model, result.params, model)
  signals, answers = look(result.params, dataset.x_test, dataset.targets_test)
  summary = runs.summarize(result, dataset)
  summary |= report.summary_of_test(dataset, np.asarray(list(signals.values())[-1].y), answers)
  files.write_summary(summary, phases)
  ends = {
    "diverged": f"stopped: the run diverged at step {result.steps + 1}",
    "interrupted": f"stopped: interrupted at step {result.steps}",
  }
  parts = [ends.get(result.stop_reason, f"stopped by {result.stop_reason} at step {result.steps}")]
  if result.best is not None:
    parts.append(f"kept: step {result.best.step}, validation {number(result.best.score)}")
  score = "test accuracy" if dataset.is_classification else "test loss"
  parts += [f"{score} {number(summary[score.replace(' ', '_')])}", checked(result)]
  title = f"{what}, seed {config.seed}\n{'; '.join(parts)}"
  picture = report.draw_report(title, result, dataset, signals, tell=note)
  files.write("report.png", write_whole, picture)
  told = told_of(config, prepared.sources.arguments, files.path, prepared.aside)

  def when_drawn() -> None:
    phases.end("draw")
    files.write_summary(summary, phases)

  page = report.draw_page(
    told, result, dataset, signals, Model(model, result.params), answers, when_drawn=when_drawn
  )
  files.write("report.html", write_whole, page)
  print("; ".join([*parts, f"run in {files.path}"]))
  files.failed |= {checkpoints / str(step): "see above" for step in result.unsaved}

  messages = []
  if result.stop_reason == "interrupted" and result.saved_at == result.steps:
    again = shlex.join(["fbackprop", "train", "--resume", str(files.path)])
    messages.append(f"step {result.steps} is saved; to go on: {again}")
  if result.skipped:
    messages.append(f"{len(result.skipped)} steps were skipped")
  if result.stop_reason == "diverged":
    where = f"diverged at step {result.steps + 1}; first not finite: {result.diverged_at}"
    # A squared norm overflows by the data, not by the rate.
    is_of_data = SQUARED_NORM in str(result.diverged_at)
    advice = "" if is_of_data else f"; a smaller --rate than {config.rate:g} may help"
    messages.append(f"{where}; the last good parameters are saved{advice}")
  messages += [differing(check, step) for step, check in result.checks if not check.ok][:1]
  return messages, 3 if result.stop_reason == "diverged" else int(not result.checks_ok)


def prepare_report(look: Callable[..., Any], model: Description, dataset: Dataset) -> None:
  """Compile what the report computes, and load matplotlib, while the run is in its compiled loop.

  Nothing depends on it, and so no error is reported: the same is done again where it is needed.
  """
  with suppress(Exception):
    params = jax.eval_shape(lambda: model.net.init(jax.random.key(0)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    look(zeros, dataset.x_test, dataset.targets_test)
    report.load_packages()


def end_training(phases: Phases, result: train.Result | train.EnsembleResult) -> None:
  """End the phase of training, with those of compilation and of gradient checks apart."""
  # Those of a resumed run include the checks before it was interrupted.
  checks = min(result.check_seconds, result.seconds)
  phases.end("train", compile=result.compile_seconds, check=checks)


def network_result(result: train.Result) -> train.Result:
  """Return the result of the network itself, without the feedback of its rule."""
  if not isinstance(result.params, rules.RuleParams):
    return result
  own = [i for i, name in enumerate(result.layer_names) if name.startswith(".params")]
  best = result.best
  return replace(
    result,
    state=result.state._replace(params=result.state.params.params),
    best=None if best is None else replace(best, params=best.params.params),
    layer_names=tuple(result.layer_names[i].removeprefix(".params") for i in own),
    grad_norms=result.grad_norms[:, own],
    evaluations=tuple(
      replace(e, grad_norms=tuple(e.grad_norms[i] for i in own) if e.grad_norms else ())
      for e in result.evaluations
    ),
  )


# --- Ensembles ------------------------------------------------------------------------------------


def train_ensembles(prepared: Prepared, files: RunFolder, phases: Phases) -> Ending:
  """Train an ensemble for each rate, and write the run's files.

  The data is split by `--seed`; the member of that seed is the same as the run without
  `--ensemble`. Of several rates the best one is kept, by the members' mean validation score, or
  without a validation set by their mean training loss: the test set decides nothing.
  """
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  rates, size = config.rates or (config.rate,), config.ensemble
  seeds = jnp.arange(config.seed, config.seed + size, dtype=jnp.uint32)
  members = size * len(rates)
  one_rate = optimizer_of(prepared, 1.0)
  print(f"{members} of {model.as_text()}; {method_of(config)}")

  def optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.chain(one_rate, optax.scale(rate))  # All optimizers end with a factor of the rate.

  with show_progress(prepared.last_step, before="compiling ...") as show:

    def on_evaluation(evaluation: train.EnsembleEvaluation) -> None:
      files.write("metrics.jsonl", runs.append_evaluation, row_of_ensemble(evaluation, rates))
      known = evaluation.train_losses[np.isfinite(evaluation.train_losses)]
      mean = number(float(known.mean()) if len(known) else None)
      line = f"step {evaluation.step}: mean train loss {mean}, {evaluation.running} still run"
      show(line, evaluation.step)

    result = train.fit_ensemble(
      model.net,
      model.loss,
      prepared.examples,
      optimizer=optimizer,
      keys=jnp.tile(jax.vmap(jax.random.key)(seeds), len(rates)),
      rates=np.repeat(rates, size).tolist(),
      # One member per rate is checked.
      **options_of(
        prepared, on_evaluation=on_evaluation, on_compiled=partial(show, "", 0),
        check_members=range(0, members, size),
      ),
    )  # fmt: skip
  end_training(phases, result)
  parts = [result.part(first, first + size) for first in range(0, members, size)]
  means = [validation_loss(part).mean() for part in parts]
  kept = int(np.argmin(np.nan_to_num(means, nan=np.inf, posinf=np.inf)))
  part, is_labelled = parts[kept], dataset.is_classification
  scores = scores_of(prepared, rates, parts)
  rows = [summary_of(own, end) for own, end in zip(scores, parts, strict=True)]
  print("\n".join(table_of_rates(rows, is_labelled)))
  summary = {
    "test_accuracy" if is_labelled else "test_loss": rows[kept]["together"],
    "members": size,
    "rate": rates[kept],
    "steps": int(part.steps.max()),
    "gradient_check_max_rel_error": result.gradient_check_max_rel_error,
    "gradient_checks": len(result.checks),
    "rates": rows,
    "seconds": result.seconds,
    "check_seconds": result.check_seconds,
    "compile_seconds": result.compile_seconds,
  }
  whole = Model(model._replace(ensemble=size), part.params)
  summary |= report.summary_of_test(dataset, *report.look_at(whole, dataset))
  files.write("model.safetensors", save_model, whole.params, whole.description)
  files.write_summary(summary, phases)

  def when_drawn() -> None:
    phases.end("draw")
    files.write_summary(summary, phases)

  told = told_of(config, prepared.sources.arguments, files.path, prepared.aside)
  page = report.draw_ensemble_page(told, part, scores, kept, dataset, whole, when_drawn=when_drawn)
  files.write("report.html", write_whole, page)
  print(f"kept: {size} of rate {rates[kept]:g}; {checked(result)}; run in {files.path}")

  messages = []
  for own, rate in zip(parts, rates, strict=True):
    diverged = [k for k, reason in enumerate(own.stop_reasons) if reason == "diverged"]
    if diverged:
      first = min(diverged, key=lambda k: int(own.steps[k]))
      messages.append(
        f"of rate {rate:g}, {len(diverged)} of {size} diverged, that of seed {config.seed + first} "
        f"at step {own.steps[first] + 1}; first not finite: {own.diverged_at[first]}"
      )
  messages += [
    f"{differing(check, step)} of seed {config.seed + k % size}, rate {rates[k // size]:g}"
    for step, k, check in result.checks
    if not check.ok
  ][:1]
  return messages, 3 if "diverged" in part.stop_reasons else int(not result.checks_ok)


def scores_of(
  prepared: Prepared, rates: Sequence[float], parts: Sequence[train.EnsembleResult]
) -> list[report.RateScores]:
  """Score the members of each rate, and their ensemble, on the test set."""
  model, data = prepared.model, prepared.dataset
  evaluate = make_ensemble_evaluate(model.net, model.loss, 0)
  batch = train.Batch(jnp.asarray(data.x_test), jnp.asarray(data.targets_test))
  scores = []
  for rate, part in zip(rates, parts, strict=True):
    losses, accuracies, loss, accuracy = evaluate(part.params, batch)
    each, together = (accuracies, accuracy) if data.is_classification else (losses, loss)
    scores.append(report.RateScores(rate, np.asarray(each), float(together or 0.0)))
  return scores


def validation_loss(result: train.EnsembleResult) -> np.ndarray:
  """Return each member's objective to minimise, `[K]`.

  It is minus its best score, else the mean of its last losses, at most a hundred; NaN if it
  diverged.
  """
  if result.best is not None:
    return -result.best.scores
  means = [losses[:n][-100:].mean() if n else np.nan
           for n, losses in zip(result.steps, result.losses.T, strict=True)]  # fmt: skip
  return np.where(np.array(result.stop_reasons) == "diverged", np.nan, means)


def summary_of(scores: report.RateScores, result: train.EnsembleResult) -> dict[str, Any]:
  """Summarise the members of a rate in a few numbers: of the accuracy, else of the loss."""
  return {
    "rate": scores.rate,
    **train.spread_of(scores.scores)._asdict(),
    "together": scores.together,
    "members": scores.scores.tolist(),
    "stop_reasons": list(result.stop_reasons),
    "steps": result.steps.tolist(),
    "diverged_at": list(result.diverged_at),
  }
