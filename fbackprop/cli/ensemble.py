"""`fbackprop train --ensemble K`: many seeds, or rates, at once, and what they say together."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import TrainConfig
from fbackprop.cli.output import number
from fbackprop.cli.preparation import begin, method_of, prepare
from fbackprop.cli.progress import show_progress
from fbackprop.train.interruption import deferred_interrupt

if TYPE_CHECKING:
  from fbackprop.train.ensemble_results import EnsembleEvaluation, EnsembleResult


def run_ensemble(config: TrainConfig, arguments: Sequence[str]) -> int:
  """Trains an ensemble for each rate, and writes the folder of the run.

  The split of the data is that of `--seed`; the member of that seed is the run without
  `--ensemble`. Of several rates the one is kept whose members have the best mean score of the
  examples set aside, or where there are none the lowest mean training loss: the test part decides
  nothing.

  Returns:
    As `fbackprop.cli.train.main`; 3 if a member of the kept ensemble diverged.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  import fbackprop as fb
  from fbackprop.train import runs
  from fbackprop.train.ensemble_scores import make_ensemble_evaluate
  from fbackprop.train.methods import make_optimizer
  from fbackprop.train.models import save_model

  prepared = prepare(config, arguments)
  config, dataset, description = prepared.config, prepared.dataset, prepared.model
  one_rate = make_optimizer(
    config.optimizer, 1.0, prepared.steps, schedule=config.schedule, warmup=config.warmup,
    weight_decay=config.weight_decay, clip_norm=config.clip_norm,
  )  # fmt: skip

  def optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.chain(one_rate, optax.scale(rate))  # Every method multiplies by the rate at last.

  folder = begin(config, arguments)
  rates, size = config.rates or (config.rate,), config.ensemble
  seeds = jnp.arange(config.seed, config.seed + size, dtype=jnp.uint32)
  members = size * len(rates)
  print("\n".join(prepared.about()))
  print(f"{members} of {description.as_text()}; {method_of(config)}")
  with deferred_interrupt(signal.SIGINT, signal.SIGTERM) as interruption:
    with show_progress(prepared.last_step) as show:

      def on_evaluation(evaluation: "EnsembleEvaluation") -> None:
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
        shuffle=config.shuffle,
        validation=prepared.validation,
        test=(dataset.x_test, dataset.targets_test),
        eval_every=config.eval_every,
        on_evaluation=on_evaluation,
      )
    groups = [slice(i * size, (i + 1) * size) for i in range(len(rates))]
    final = np.array([last_loss(result, k) for k in range(members)])
    if result.best is not None:
      final = -result.best.scores
    means = [np.nan_to_num(final[group].mean(), nan=np.inf, posinf=np.inf) for group in groups]
    kept = int(np.argmin(means))
    params = jax.tree.map(lambda leaf: leaf[groups[kept]], result.params)
    evaluate = make_ensemble_evaluate(description.net, description.loss, 0)
    batch = fb.train.Batch(jnp.asarray(dataset.x_test), jnp.asarray(dataset.targets_test))
    rows = []
    for rate, group in zip(rates, groups, strict=True):
      own = jax.tree.map(lambda leaf, group=group: leaf[group], result.params)
      rows.append(summary_of(rate, evaluate(own, batch), result.stop_reasons[group]))
    what = "test accuracy" if dataset.is_classification else "test loss"
    print(f"{'rate':>9}  {what + ', mean ± deviation':<34}{'best':>9}{'worst':>9}{'together':>10}")
    for row in rows:
      best, worst = (row["most"], row["least"]) if dataset.is_classification else (
        row["least"], row["most"])  # fmt: skip
      spread = f"{number(row['mean'])} ± {number(row['deviation'])}"
      print(f"{row['rate']:>9g}  {spread:<34}{number(best):>9}{number(worst):>9}"
            f"{number(row['together']):>10}")  # fmt: skip
    kept_row = rows[kept]
    summary = {
      "test_accuracy" if dataset.is_classification else "test_loss": kept_row["together"],
      "members": size,
      "rate": rates[kept],
      "steps": int(result.steps.max()),
      "rates": rows,
      "seconds": result.seconds,
      "compile_seconds": result.compile_seconds,
    }
    try:
      save_model(folder / "model.safetensors", params, description._replace(ensemble=size))
      runs.write_json(folder / "summary.json", summary)
    except OSError as error:
      print(f"fbackprop: could not be written: {folder}: {error.strerror}", file=sys.stderr)
      return 1
    print(f"kept: {size} of rate {rates[kept]:g}; run in {folder}")
  if interruption.signum is not None:
    return 128 + interruption.signum
  return 3 if "diverged" in result.stop_reasons[groups[kept]] else 0


def last_loss(result: "EnsembleResult", k: int) -> float:
  """The mean of a member's last losses, at most a hundred; NaN if it diverged."""
  if result.stop_reasons[k] == "diverged" or not result.steps[k]:
    return float("nan")
  return float(result.losses[: result.steps[k], k][-100:].mean())


def summary_of(rate: float, scores: Any, reasons: Sequence[str]) -> dict[str, Any]:
  """The members of a rate in a few numbers: of the accuracy, or of the loss where there is none."""
  from fbackprop.train import spread_of

  has_accuracy = scores.test_accuracies is not None
  values = scores.test_accuracies if has_accuracy else scores.test_losses
  return {
    "rate": rate,
    **spread_of(values)._asdict(),
    "together": scores.test_accuracy if has_accuracy else scores.test_loss,
    "members": values.tolist(),
    "stop_reasons": list(reasons),
  }
