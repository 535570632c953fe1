"""`fbackprop train`: a thin wrapper around `fbackprop.train.fit`."""

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from fbackprop.cli.config import TrainConfig, method_of
from fbackprop.cli.console import Table, UsageError, number, show_progress
from fbackprop.cli.ensemble import run_ensemble
from fbackprop.cli.flags import parse
from fbackprop.cli.preparation import begin, prepare
from fbackprop.cli.run_folder import RunFolder, told_of
from fbackprop.extras import need
from fbackprop.files import write_whole
from fbackprop.train.interrupts import deferred_interrupt

if TYPE_CHECKING:
  from fbackprop.train.results import Evaluation, Result


def main(arguments: Sequence[str]) -> int:
  """Train, and write the run's folder.

  Args:
    arguments: the arguments after `fbackprop train`.

  Returns:
    0; 1 if a file couldn't be written or a gradient check failed; 3 if the run diverged; 130 if it
    was interrupted, 143 if terminated. A first interrupt waits until everything is saved, a second
    one doesn't.

  Raises:
    UsageError: the configuration is invalid.
  """
  config = parse(arguments)
  try:
    for module, extra in (
      ("matplotlib", "plot"), ("jinja2", "train"), ("rich", "train"), ("tomli_w", "train")
    ):  # fmt: skip
      need(module, extra=extra)  # The report needs it: checked before training.
    with ExitStack() as exits:
      is_alone = config.ensemble == 1 and not config.rates
      return (run if is_alone else run_ensemble)(config, arguments, exits)
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except KeyboardInterrupt:
    # Before the run began, or by a second Ctrl-C; the first one is deferred.
    print("fbackprop: interrupted before all of the run was saved", file=sys.stderr)
    return 130


def run(config: TrainConfig, arguments: Sequence[str], exits: ExitStack) -> int:
  """Run the command. jax is imported here."""
  import jax

  import fbackprop as fb
  from fbackprop.train import run_folder as runs
  from fbackprop.train.divergence import SQUARED_NORM
  from fbackprop.train.models import Model, save_model
  from fbackprop.train.optimizers import make_optimizer
  from fbackprop.train.report import draw_page, draw_report

  prepared = prepare(config, arguments)
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  optimizer = make_optimizer(
    config.optimizer, config.rate, prepared.steps, schedule=config.schedule,
    warmup=config.warmup, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
  )  # fmt: skip
  folder = begin(prepared, arguments, exits)
  network, method = model.as_text(), method_of(config)
  print("\n".join([*prepared.about(), f"{network}; {method}"]))
  set_aside = prepared.validation is not None
  table = Table(
    dataset.is_classification, set_aside, config.clip_examples is not None, config.watched
  )
  print(table.head())

  checkpoints = folder / "checkpoints"
  files = RunFolder(folder)
  with deferred_interrupt(signal.SIGINT, signal.SIGTERM) as interruption:
    with show_progress(prepared.last_step) as show:

      def on_evaluation(evaluation: "Evaluation") -> None:
        files.write("metrics.jsonl", runs.append_evaluation, evaluation)
        show(table.row(evaluation), evaluation.step)

      def on_event(event: str) -> None:
        print(f"fbackprop: {event}", file=sys.stderr, flush=True)

      try:
        result = fb.train.fit(
          model.captured_net if config.watched or config.clip_examples else model.net,
          model.loss,
          prepared.examples,
          optimizer=optimizer,
          stop=replace(config.stop, validation_fraction=None),
          key=jax.random.key(config.seed),
          params=prepared.params,
          batch_size=config.batch_size,
          validation=prepared.validation,
          step=fb.train.StepRules(config.shuffle, config.clip_examples, config.on_nonfinite),
          monitor=fb.train.Monitor(
            eval_every=config.eval_every,
            check_every=config.check_every or None,
            test=(dataset.x_test, dataset.targets_test),
            on_evaluation=on_evaluation,
            on_event=on_event,
            watch=config.watched,
          ),
          checkpoints=fb.train.Checkpoints(
            checkpoints,
            config.ckpt.every,
            config.ckpt.keep,
            resume=None if config.resume is None else checkpoints,
          ),
        )
      except (ValueError, TypeError, OSError) as error:
        if config.resume is None:
          raise
        raise UsageError(f"--resume {config.resume}: {error}") from error

    summary = runs.summarize(result, dataset)
    files.write("model.safetensors", save_model, result.params, model)
    files.write("summary.json", runs.write_json, summary)
    name = "test_accuracy" if dataset.is_classification else "test_loss"
    worst = result.gradient_check_max_rel_error
    ending = (
      f"{stopped(result)}; {kept(result)}"
      f"{name.replace('_', ' ')} {number(summary[name])}; worst gradient error against jax.grad "
      f"{'not checked' if worst is None else f'{worst:.1e}'}; run in {folder}"
    )
    title = f"{network}; {method}, seed {config.seed}\n{ending.rpartition(';')[0]}"
    look = jax.jit(fb.inspect(model.net, model.loss))
    signals = look(result.params, dataset.x_test, dataset.targets_test)
    picture = draw_report(title, result, dataset, signals, tell=on_event)
    files.write("report.png", write_whole, picture)
    told = told_of(config, arguments, folder, method, prepared.aside)
    page = draw_page(told, result, dataset, signals, Model(model, result.params))
    files.write("report.html", write_whole, page)
    print(ending)

  if result.stop_reason == "interrupted" and result.saved_at == result.steps:
    again = shlex.join(["fbackprop", "train", "--resume", str(folder)])
    print(f"fbackprop: step {result.steps} is saved; to go on: {again}", file=sys.stderr)
  if result.skipped:
    print(f"fbackprop: {len(result.skipped)} steps were skipped", file=sys.stderr)
  if result.stop_reason == "diverged":
    advice = f"; a smaller --rate than {config.rate:g} may help"
    if SQUARED_NORM in str(result.diverged_at):
      advice = ""  # The overflow is caused by the data, not by the rate.
    print(
      f"fbackprop: diverged at step {result.steps + 1}; first not finite: {result.diverged_at}; "
      f"the last good parameters are saved{advice}",
      file=sys.stderr,
    )
  if not result.checks_ok:
    step, check = next((s, c) for s, c in result.checks if not c.ok)
    print(
      f"fbackprop: the gradient of {check.leaf} differs from jax.grad by {check.rel_error:.1e} at "
      f"step {step}",
      file=sys.stderr,
    )
  for step in result.unsaved:
    files.failed[checkpoints / str(step)] = "see above"
  if files.tell_failed():
    return 1
  if interruption.signum is not None:
    return 128 + interruption.signum
  return 3 if result.stop_reason == "diverged" else int(not result.checks_ok)


def stopped(result: "Result") -> str:
  """Describe how and when a run ended."""
  if result.stop_reason == "diverged":
    return f"stopped: the run diverged at step {result.steps + 1}"
  if result.stop_reason == "interrupted":
    return f"stopped: interrupted at step {result.steps}"
  return f"stopped by {result.stop_reason} at step {result.steps}"


def kept(result: "Result") -> str:
  """Describe which parameters are kept, if not the last ones."""
  if result.best is None:
    return ""
  return f"kept: step {result.best.step}, validation {number(result.best.score)}; "
