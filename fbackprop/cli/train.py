"""`fbackprop train`: a thin face of `fbackprop.train.fit`."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import TrainConfig, is_told, parse, saved, told_by
from fbackprop.cli.options import emphasis_of, network_options, training_examples
from fbackprop.cli.progress import show_progress
from fbackprop.cli.told import told_of
from fbackprop.cli.usage import UsageError
from fbackprop.extras import need
from fbackprop.train.files import write_whole
from fbackprop.train.interruption import deferred_interrupt
from fbackprop.train.sources.names import kind_and_path

if TYPE_CHECKING:
  from fbackprop.train.datasets import Dataset
  from fbackprop.train.results import Evaluation, Result


def main(arguments: Sequence[str]) -> int:
  """Trains, and writes the folder of the run.

  Args:
    arguments: what stands behind `fbackprop train`.

  Returns:
    0; 1 if a file couldn't be written or a gradient check failed; 3 if the run diverged; 130 if it
    was interrupted, 143 if terminated. An interrupt waits until everything is saved, a second one
    doesn't.

  Raises:
    UsageError: the configuration can't be.
  """
  config = parse(arguments)
  try:
    for module, extra in (
      ("matplotlib", "plot"), ("jinja2", "train"), ("rich", "train"), ("tomli_w", "train")
    ):  # fmt: skip
      need(module, extra=extra)  # A run that can't be reported isn't begun.
    if config.ensemble > 1 or config.rates:
      # By its name, as it builds on this module.
      return int(import_module("fbackprop.cli.ensemble").run_ensemble(config, arguments))
    return run(config, arguments)
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except KeyboardInterrupt:
    # Before the run began, or a second Ctrl-C; the first one waits.
    print("fbackprop: interrupted before all of the run was saved", file=sys.stderr)
    return 130


def run(config: TrainConfig, arguments: Sequence[str]) -> int:
  """The run itself. jax is imported here."""
  import jax

  import fbackprop as fb
  from fbackprop.train import runs
  from fbackprop.train.methods import make_optimizer
  from fbackprop.train.models import Model, describe_model, save_model
  from fbackprop.train.report import draw_page, draw_report

  options = network_options(config, arguments)
  dataset = load(config)
  n, features = dataset.x.shape
  examples, validation = training_examples(config, dataset, arguments)
  set_aside = 0 if validation is None else len(validation.x)
  n -= set_aside
  if config.batch_size > n:
    if is_told("batch_size", arguments):
      raise UsageError(f"{told_by('batch_size', arguments)} must be at most the {n} training "
                       f"examples, got {config.batch_size}")  # fmt: skip
    config = replace(config, batch_size=n)
  sizes = (features, *config.hidden, dataset.outputs)
  model = describe_model(sizes, config.activation, dataset, **options)
  net, loss = model.net, model.loss
  steps = config.stop.most_steps(n // config.batch_size)
  if config.warmup > steps:
    where = told_by("warmup", arguments)
    raise UsageError(f"{where} must be at most the {steps} steps of the run, got {config.warmup}")
  is_open = config.stop.max_steps is None and config.stop.max_epochs is None
  if config.schedule != "constant" and is_open:
    where = told_by("schedule", arguments)
    raise UsageError(f"{where} {config.schedule} must know the steps of the run: give "
                     "--stop.max-steps or --stop.max-epochs")  # fmt: skip
  optimizer = make_optimizer(
    config.optimizer, config.rate, steps, schedule=config.schedule,
    warmup=config.warmup, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
  )  # fmt: skip
  folder = create_folder(config, arguments)
  try:
    runs.write_toml(
      folder / "config.toml", saved(config), "Runs again: fbackprop train --config THIS_FILE"
    )
    runs.write_json(folder / "env.json", runs.environment())
  except OSError as error:
    where = told_by("out", arguments)
    raise UsageError(f"{where}: {folder} can't be written: {error.strerror}") from error

  aside = f", {set_aside} to validate on" if set_aside else ""
  print(f"{config.data}: {n} examples to train on{aside}, {len(dataset.x_test)} to test on")
  for line in about(dataset):
    print(line)
  network = model.as_text()
  method = method_of(config)
  print(f"{network}; {method}")
  score = " test accuracy" if dataset.is_classification else ""
  validated = "  validation" if set_aside else ""
  print(f"{'step':>8}{'epoch':>8}{'train loss':>12}{'test loss':>11}{score}{validated}"
        "   error of gradient")  # fmt: skip

  failed: dict[Path, str] = {}

  def write(name: str, writer: Callable[..., None], *content: Any) -> None:
    """Writes a file of the run; one that can't be written doesn't keep the others from it."""
    try:
      writer(folder / name, *content)
    except OSError as error:
      failed[folder / name] = error.strerror or str(error)

  with deferred_interrupt(signal.SIGINT, signal.SIGTERM) as interruption:
    with show_progress(None if is_open else steps) as show:

      def on_evaluation(evaluation: "Evaluation") -> None:
        write("metrics.jsonl", runs.append_evaluation, evaluation)
        show(line_of(evaluation, bool(set_aside)), evaluation.step)

      result = fb.train.fit(
        net,
        loss,
        examples,
        optimizer=optimizer,
        stop=replace(config.stop, validation_fraction=None),
        key=jax.random.key(config.seed),
        batch_size=config.batch_size,
        shuffle=config.shuffle,
        test=(dataset.x_test, dataset.targets_test),
        validation=validation,
        eval_every=config.eval_every,
        check_every=config.check_every or None,
        on_evaluation=on_evaluation,
      )

    summary = runs.summarize(result, dataset)
    write("model.safetensors", save_model, result.params, model)
    write("summary.json", runs.write_json, summary)
    name = "test_accuracy" if dataset.is_classification else "test_loss"
    worst = result.gradient_check_max_rel_error
    ending = (
      f"{stopped(result)}; {kept(result)}"
      f"{name.replace('_', ' ')} {number(summary[name])}; worst gradient error against jax.grad "
      f"{'not checked' if worst is None else f'{worst:.1e}'}; run in {folder}"
    )
    title = f"{network}; {method}, seed {config.seed}\n{ending.rpartition(';')[0]}"
    look = jax.jit(fb.inspect(net, loss))
    signals = look(result.params, dataset.x_test, dataset.targets_test)
    write("report.png", write_whole, draw_report(title, result, dataset, signals))
    told = told_of(config, arguments, folder, method)
    page = draw_page(told, result, dataset, signals, Model(model, result.params))
    write("report.html", write_whole, page)
    print(ending)

  if result.stop_reason == "diverged":
    print(
      f"fbackprop: diverged at step {result.steps + 1}; first not finite: {result.diverged_at}; "
      f"the last good parameters are saved; a smaller --rate than {config.rate:g} may help",
      file=sys.stderr,
    )
  if not result.checks_ok:
    step, check = next((s, c) for s, c in result.checks if not c.ok)
    print(
      f"fbackprop: the gradient of {check.leaf} differs from jax.grad by {check.rel_error:.1e} at "
      f"step {step}",
      file=sys.stderr,
    )
  if failed:
    files = ", ".join(f"{path} ({reason})" for path, reason in failed.items())
    print(f"fbackprop: could not be written: {files}", file=sys.stderr)
    return 1
  if interruption.signum is not None:
    return 128 + interruption.signum
  return 3 if result.stop_reason == "diverged" else int(not result.checks_ok)


def load(config: TrainConfig) -> "Dataset":
  """The data of a run, or a usage error that says what is wrong with it."""
  from fbackprop.train.datasets import load_dataset

  try:
    return load_dataset(
      config.data,
      config.seed,
      target=config.target,
      task=None if config.task == "auto" else config.task,
      standardize=config.standardize,
      test_fraction=config.test_fraction,
      sample_weights=config.sample_weights,
    )
  except OSError as error:
    where = error.filename or config.data
    raise UsageError(f"--data {config.data}: {where}: {error.strerror or error}") from error
  except ValueError as error:
    raise UsageError(f"--data {config.data}: {error}") from error


def about(dataset: "Dataset") -> list[str]:
  """What is learned from a file, and what was done to it: what a user of it would want to check."""
  lines = []
  if dataset.inferred:
    names = ", ".join(dataset.output_names[:8]) + (", ..." if len(dataset.output_names) > 8 else "")
    kind = f"{len(dataset.output_names)} classes" if dataset.is_classification else "values"
    lines.append(f"{dataset.task}, as {dataset.inferred} ({kind}: {names}); --task says otherwise")
  if dataset.standardization is not None:
    what = "features" if dataset.target_standardization is None else "features and targets"
    lines.append(f"{what} standardised by the training part: mean 0, deviation 1")
  return lines


def method_of(config: TrainConfig) -> str:
  """How a run learns, in a line."""
  name = "Nesterov momentum" if config.optimizer == "nesterov" else config.optimizer
  parts = [f"{name.replace('_', ' ')}, rate {config.rate:g}"]
  if config.schedule != "constant":
    parts[0] += f" {config.schedule}"
  if config.warmup:
    parts.append(f"warmup {config.warmup}")
  if config.weight_decay:
    parts.append(f"weight decay {config.weight_decay:g}")
  if config.clip_norm is not None:
    parts.append(f"gradient up to {config.clip_norm:g}")
  parts += emphasis_of(config)
  return ", ".join([*parts, f"batches of {config.batch_size}"])


def stopped(result: "Result") -> str:
  """How and when a run ended."""
  if result.stop_reason == "diverged":
    return f"stopped: the run diverged at step {result.steps + 1}"
  if result.stop_reason == "interrupted":
    return f"stopped: interrupted at step {result.steps}"
  return f"stopped by {result.stop_reason} at step {result.steps}"


def kept(result: "Result") -> str:
  """Which parameters are kept, if not the last ones."""
  if result.best is None:
    return ""
  return f"kept: step {result.best.step}, validation {number(result.best.score)}; "


def create_folder(config: TrainConfig, arguments: Sequence[str]) -> Path:
  """The run's own folder, or a usage error that names the flag, or the file's key."""
  from fbackprop.train.runs import create_folder as create

  out, name = (told_by(key, arguments) for key in ("out", "name"))
  try:
    kind, source = kind_and_path(config.data)
    return create(config.out, config.name, Path(source).stem or kind)
  except FileExistsError as error:
    if config.name is None or not Path(config.out).is_dir():
      raise UsageError(f"{out} {config.out} is not a folder") from error
    path = Path(config.out, config.name)
    raise UsageError(f"{name}: {path} exists already; give another --name") from error
  except OSError as error:
    raise UsageError(f"{out} {config.out}: no folder can be made: {error.strerror}") from error


def line_of(evaluation: "Evaluation", is_validated: bool) -> str:
  """An evaluation as a line under the heading."""
  train, test, accuracy, error = (
    evaluation.train_loss,
    evaluation.test_loss,
    evaluation.test_accuracy,
    evaluation.gradient_error,
  )
  return (
    f"{evaluation.step:>8}{evaluation.epoch:>8.1f}{number(train):>12}{number(test):>11}"
    + (f"{number(accuracy):>14}" if accuracy is not None else "")
    + (f"{number(evaluation.validation_score):>12}" if is_validated else "")
    + (f"{error:>20.1e}" if error is not None else f"{'-':>20}")
  )


def number(value: float | None) -> str:
  """A loss or an accuracy as text."""
  if value is None:
    return "-"
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
