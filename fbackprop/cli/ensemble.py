"""`fbackprop train --ensemble K`: networks of many seeds, or rates, trained at once."""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import TrainConfig, method_of
from fbackprop.cli.console import number, show_progress
from fbackprop.cli.preparation import begin, prepare
from fbackprop.cli.run_folder import RunFolder, told_of
from fbackprop.files import write_whole
from fbackprop.train.interrupts import deferred_interrupt

if TYPE_CHECKING:
  from fbackprop.train.ensembles import EnsembleEvaluation, EnsembleResult
  from fbackprop.train.report import RateScores


def run_ensemble(config: TrainConfig, arguments: Sequence[str], exits: ExitStack) -> int:
  """Train an ensemble for each rate, and write the run's folder.

  The data is split by `--seed`; the member of that seed is the same as the run without
  `--ensemble`. Of several rates the best one is kept, by the members' mean validation score, or
  without a validation set by their mean training loss: the test set decides nothing.

  Returns:
    The exit code, as of `fbackprop.cli.train.main`: 1 if a gradient check failed, 3 if a member of
    the kept ensemble diverged.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  import fbackprop as fb
  from fbackprop.train import run_folder as runs
  from fbackprop.train.ensembles import make_ensemble_evaluate
  from fbackprop.train.models import Model, save_model
  from fbackprop.train.optimizers import make_optimizer
  from fbackprop.train.report import RateScores, draw_ensemble_page

  prepared = prepare(config, arguments)
  config, dataset, description = prepared.config, prepared.dataset, prepared.model
  one_rate = make_optimizer(
    config.optimizer, 1.0, prepared.steps, schedule=config.schedule, warmup=config.warmup,
    weight_decay=config.weight_decay, clip_norm=config.clip_norm,
  )  # fmt: skip

  def optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.chain(one_rate, optax.scale(rate))  # All optimizers end with a factor of the rate.

  folder = begin(prepared, arguments, exits)
  rates, size = config.rates or (config.rate,), config.ensemble
  seeds = jnp.arange(config.seed, config.seed + size, dtype=jnp.uint32)
  members = size * len(rates)
  print("\n".join(prepared.about()))
  print(f"{members} of {description.as_text()}; {method_of(config)}")
  files = RunFolder(folder)
  with deferred_interrupt(signal.SIGINT, signal.SIGTERM) as interruption:
    with show_progress(prepared.last_step) as show:

      def on_evaluation(evaluation: "EnsembleEvaluation") -> None:
        files.write("metrics.jsonl", runs.append_metrics, metrics_of(evaluation, rates))
        known = evaluation.train_losses[np.isfinite(evaluation.train_losses)]
        mean = number(float(known.mean()) if len(known) else None)
        show(f"step {evaluation.step}: mean train loss {mean}, {evaluation.running} still run",
             evaluation.step)  # fmt: skip

      result = fb.train.fit_ensemble(
        description.net,
        description.loss,
        prepared.examples,
        optimizer=optimizer,
        stop=replace(config.stop, validation_fraction=None),
        keys=jnp.tile(jax.vmap(jax.random.key)(seeds), len(rates)),
        rates=np.repeat(rates, size).tolist(),
        batch_size=config.batch_size,
        validation=prepared.validation,
        step=fb.train.StepRules(config.shuffle),
        monitor=fb.train.Monitor(
          eval_every=config.eval_every,
          check_every=config.check_every or None,
          test=(dataset.x_test, dataset.targets_test),
          on_evaluation=on_evaluation,
          check_members=range(0, members, size),  # One per rate.
        ),
      )
    parts = [result.part(i * size, (i + 1) * size) for i in range(len(rates))]
    means = [validation_loss(part).mean() for part in parts]
    kept = int(np.argmin(np.nan_to_num(means, nan=np.inf, posinf=np.inf)))
    part = parts[kept]
    evaluate = make_ensemble_evaluate(description.net, description.loss, 0)
    batch = fb.train.Batch(jnp.asarray(dataset.x_test), jnp.asarray(dataset.targets_test))
    is_labelled = dataset.is_classification
    scores = []
    for rate, own in zip(rates, parts, strict=True):
      scored = evaluate(own.params, batch)
      each = scored.test_accuracies if is_labelled else scored.test_losses
      together = scored.test_accuracy if is_labelled else scored.test_loss
      scores.append(RateScores(rate, np.asarray(each), float(together or 0.0)))
    rows = [summary_of(own, end) for own, end in zip(scores, parts, strict=True)]
    print("\n".join(table_of(rows, is_labelled)))
    worst = result.gradient_check_max_rel_error
    summary = {
      "test_accuracy" if is_labelled else "test_loss": rows[kept]["together"],
      "members": size,
      "rate": rates[kept],
      "steps": int(part.steps.max()),
      "gradient_check_max_rel_error": worst,
      "gradient_checks": len(result.checks),
      "rates": rows,
      "seconds": result.seconds,
      "check_seconds": result.check_seconds,
      "compile_seconds": result.compile_seconds,
    }
    whole = description._replace(ensemble=size)
    files.write("model.safetensors", save_model, part.params, whole)
    files.write("summary.json", runs.write_json, summary)
    told = told_of(config, arguments, folder, method_of(config), prepared.aside)
    model = Model(whole, part.params)
    page = draw_ensemble_page(told, part, scores, kept, dataset, model)
    files.write("report.html", write_whole, page)
    error_said = "not checked" if worst is None else f"{worst:.1e}"
    print(f"kept: {size} of rate {rates[kept]:g}; worst gradient error against jax.grad "
          f"{error_said}; run in {folder}")  # fmt: skip
  for own, rate in zip(parts, rates, strict=True):
    tell_divergence(own, rate, config.seed)
  for found in result.checks:
    if not found.check.ok:
      print(
        f"fbackprop: the gradient of {found.check.leaf} differs from jax.grad by "
        f"{found.check.rel_error:.1e} at step {found.step} of seed "
        f"{config.seed + found.member % size}, rate {rates[found.member // size]:g}",
        file=sys.stderr,
      )
      break
  if files.tell_failed():
    return 1
  if interruption.signum is not None:
    return 128 + interruption.signum
  return 3 if "diverged" in part.stop_reasons else int(not result.checks_ok)


def validation_loss(result: "EnsembleResult") -> Any:
  """Return each member's objective to minimise, `[K]`: minus its best score, else its last loss."""
  import numpy as np

  if result.best is not None:
    return -result.best.scores
  return np.array([last_loss(result, k) for k in range(result.size)])


def last_loss(result: "EnsembleResult", k: int) -> float:
  """Average a member's last losses, at most a hundred; NaN if it diverged."""
  if result.stop_reasons[k] == "diverged" or not result.steps[k]:
    return float("nan")
  return float(result.losses[: result.steps[k], k][-100:].mean())


def metrics_of(evaluation: "EnsembleEvaluation", rates: Sequence[float]) -> dict[str, Any]:
  """Convert an evaluation to a row of metrics.jsonl: the spread of the members' numbers per rate.

  Nonfinite numbers are excluded; "members" is the number of those included.
  """
  import numpy as np

  from fbackprop.train import spread_of

  def spread(values: Any) -> dict[str, Any] | None:
    known = values[np.isfinite(values)]
    return {**spread_of(known)._asdict(), "members": len(known)} if len(known) else None

  columns = {
    "train_loss": evaluation.train_losses,
    "test_loss": evaluation.test_losses,
    "test_accuracy": evaluation.test_accuracies,
  }
  parts = {
    name: np.split(values, len(rates)) for name, values in columns.items() if values is not None
  }
  return {
    "step": evaluation.step,
    "running": evaluation.running,
    "seconds": evaluation.seconds,
    "rates": [
      {"rate": rate, **{name: spread(part[i]) for name, part in parts.items()}}
      for i, rate in enumerate(rates)
    ],
  }


def summary_of(scores: "RateScores", result: "EnsembleResult") -> dict[str, Any]:
  """Summarise the members of a rate in a few numbers: of the accuracy, else of the loss."""
  from fbackprop.train import spread_of

  return {
    "rate": scores.rate,
    **spread_of(scores.scores)._asdict(),
    "together": scores.together,
    "members": scores.scores.tolist(),
    "stop_reasons": list(result.stop_reasons),
    "steps": result.steps.tolist(),
    "diverged_at": list(result.diverged_at),
  }


def table_of(rows: Sequence[dict[str, Any]], is_labelled: bool) -> list[str]:
  """Format a table with one line per rate."""
  what = ("test accuracy" if is_labelled else "test loss") + ", mean ± deviation"
  lines = [f"{'rate':>9}  {what:<34}{'best':>9}{'worst':>9}{'together':>10}"]
  for row in rows:
    ends = (row["most"], row["least"]) if is_labelled else (row["least"], row["most"])
    spread = f"{number(row['mean'])} ± {number(row['deviation'])}"
    lines.append(
      f"{row['rate']:>9g}  {spread:<34}{number(ends[0]):>9}{number(ends[1]):>9}"
      f"{number(row['together']):>10}"
    )
  return lines


def tell_divergence(result: "EnsembleResult", rate: float, seed: int) -> None:
  """Print how many members of a rate diverged, and where the first of them did."""
  diverged = [k for k, reason in enumerate(result.stop_reasons) if reason == "diverged"]
  if diverged:
    first = min(diverged, key=lambda k: int(result.steps[k]))
    print(
      f"fbackprop: of rate {rate:g}, {len(diverged)} of {result.size} diverged, that of seed "
      f"{seed + first} at step {result.steps[first] + 1}; first not finite: "
      f"{result.diverged_at[first]}",
      file=sys.stderr,
    )
