"""What the experiments with backward rules share: data, and members trained at once.

Every rate is trained with the first seeds, all as one compiled program, and chosen by their mean
accuracy on validation data; all seeds are then trained at that rate, whose test accuracies count.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mnist1d.data import get_dataset_args, make_dataset

import fbackprop as fb
from experiments.common import ROOT, load_digits, read_results, write_results
from fbackprop.rules.contract import Links

LOSS = fb.softmax_cross_entropy
MOMENTUM = 0.9
DATA = ("mnist1d", "mnist1d_shuffled", "digits")


class Split(NamedTuple):
  """x and labels, for training, validation and test."""

  train: tuple[jax.Array, jax.Array]
  validation: tuple[jax.Array, jax.Array]
  test: tuple[jax.Array, jax.Array]


@cache
def load(name: str) -> Split:
  """MNIST-1D by its published generator, its features shuffled by one permutation, or the digits.

  Of the 4,000 training signals 800 are for validation; of the 1,797 digits 449 are for testing, and
  270 of the others for validation.
  """
  if name == "digits":
    x, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = x[order], labels[order]
    ends = (1078, 1348)
  else:
    made = make_dataset(get_dataset_args())
    x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    labels = np.concatenate([made["y"], made["y_test"]]).astype(np.int32)
    if name == "mnist1d_shuffled":
      x = x[:, np.random.default_rng(0).permutation(x.shape[1])]
    ends = (3200, 4000)
  parts = zip(np.split(x, ends), np.split(labels, ends), strict=True)
  return Split(*((jnp.asarray(x), jnp.asarray(labels)) for x, labels in parts))


def accuracy(layer: fb.Layer, params: Any, data: tuple[jax.Array, jax.Array]) -> jax.Array:
  """The share of right labels; a network that isn't finite has chance's, or less."""
  y = layer.forward(params, data[0])[0]
  return (y.argmax(1) == data[1]).mean()


@cache
def program_of(rule: fb.Layer, measure: Callable[..., Any] | None) -> Any:
  """The compiled training of members, `(rates, keys, params, rows, split) -> scores, measured`.

  Cached, since it takes longer to compile than to run: data sets of one shape share it. Rows and
  initial parameters are its inputs: drawing them would be most of what is compiled.
  """
  run = fb.value_and_grad(rule, LOSS)

  def member(rate: jax.Array, key: jax.Array, params: Any, rows: jax.Array, split: Split) -> Any:
    x, labels = split.train

    def step(state: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
      (params, velocity), (i, own) = state, at
      key_of_step = {"key": jax.random.fold_in(key, i)} if rule.draws else {}
      _, grads = run(params, x[own], labels[own], **key_of_step)
      velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
      return (jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity), None

    start = (params, jax.tree.map(jnp.zeros_like, params))
    (params, _), _ = jax.lax.scan(step, start, (jnp.arange(len(rows)), rows))
    scores = [accuracy(rule, params, data) for data in (split.validation, split.train, split.test)]
    key_of_measure = {"key": key} if rule.draws else {}
    found = measure(params, x[:500], labels[:500], **key_of_measure) if measure else ()
    return (*scores, found)

  every_seed = jax.vmap(member, (None, 0, 0, 0, None))
  return jax.jit(jax.vmap(every_seed, (0, None, None, None, None)))


def train_members(
  rule: fb.Layer,
  split: Split,
  rates: list[float],
  seeds: int,
  steps: int,
  batch: int,
  measure: Callable[..., Any] | None = None,
) -> dict[str, Any]:
  """Trains by momentum, each rate with each seed.

  Args:
    rule: the network under its rule.
    split: the data.
    rates, seeds: the members.
    steps, batch: steps of each, and examples of a step, drawn with replacement.
    measure: `measure(params, x, labels)` of the trained member on its training data, or None.

  Returns:
    "validation", "train" and "test", accuracies `[rates, seeds]`, and "measured".
  """
  keys = [jax.random.key(seed) for seed in range(seeds)]
  draws = [np.random.default_rng(seed) for seed in range(seeds)]
  examples = len(split.train[1])
  rows = np.stack([draw.integers(examples, size=(steps, batch), dtype=np.int32) for draw in draws])
  # Not as one program: operation by operation, layers of one shape share their compiled draws.
  params = jax.tree.map(lambda *own: jnp.stack(own), *map(rule.init, keys))
  values = jnp.asarray(rates, jnp.float32)
  found = program_of(rule, measure)(values, jnp.stack(keys), params, rows, split)
  names = ("validation", "train", "test", "measured")
  return dict(zip(names, jax.device_get(found), strict=True))


def train_at_best_rate(
  rule: fb.Layer, split: Split, settings: dict[str, Any], measure: Callable[..., Any] | None = None
) -> dict[str, Any]:
  """Chooses the rate by the mean validation accuracy of the first seeds; trains all seeds at it.

  Args:
    rule, split, measure: as for `train_members`.
    settings: "rates", "seeds", "steps", "batch", and "tuned_by", the seeds that choose the rate.

  Returns:
    The rate, and what each seed reached.
  """
  steps, batch, rates = settings["steps"], settings["batch"], settings["rates"]
  tuned = train_members(rule, split, rates, settings["tuned_by"], steps, batch)
  rate = rates[int(np.argmax(tuned["validation"].mean(1)))]
  found = train_members(rule, split, [rate], settings["seeds"], steps, batch, measure)
  names = ("validation", "train", "test")
  scores = {name: [round(float(v), 4) for v in found[name][0]] for name in names}
  measured = jax.tree.map(
    lambda a: [round(float(v), 2) if np.isfinite(v) else None for v in a[0]], found["measured"]
  )
  return {"rate": rate, **scores, "measured": measured}


def spread(values: list[float]) -> str:
  """As "0.652 ± 0.012": mean and standard deviation over the seeds."""
  return f"{np.mean(values):.3f} ± {deviation(values):.3f}"


def deviation(values: list[float]) -> float:
  """The standard deviation of a sample over the seeds; of one seed, 0."""
  return float(np.std(values, ddof=min(1, len(values) - 1)))


def parse(name: str, doc: str | None, arguments: list[str] | None) -> tuple[Path, Path, bool]:
  """Where results and figure go, and whether the run is the small one of the tests."""
  parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
  parser.add_argument("--results", type=Path, default=ROOT / f"experiments/results/{name}.json")
  parser.add_argument("--figure", type=Path, default=ROOT / f"docs/{name}.png")
  parser.add_argument(
    "--quick", action="store_true", help="a small run, whose numbers mean nothing"
  )
  options = parser.parse_args(arguments)
  if options.quick and options.results == parser.get_default("results"):
    parser.error("--quick needs --results and --figure elsewhere: its numbers mean nothing")
  return options.results, options.figure, options.quick


def resume(
  file: Path, settings: dict[str, Any], cells: list[str], measure: Callable[[str], Any]
) -> dict[str, Any]:
  """Measures the cells that the file doesn't have, and writes after each: a run may be stopped."""
  results = read_results(file, settings)
  for cell in cells:
    if cell not in results["seeds"]:
      results["seeds"][cell] = measure(cell)
      write_results(results, file)
      print(f"{cell}: done", flush=True)
  return results


def predictive_coding(net: fb.Layer) -> fb.Layer:
  """Predictive coding that is near its equilibrium at each depth.

  Errors diffuse from layer to layer, so that the time to settle grows with the square of the depth,
  and with momentum with the depth. 8 L steps of rate 0.2 and momentum 0.85 give the first of L
  hidden layers at least 9/10 of its update at equilibrium, for L = 2, 4 and 8, where 5 L² steps
  without momentum give 4/5 (tests/scripts/test_experiments_rules.py). That update has 0.74, 0.62
  and 0.49 of the gradient's norm at equilibrium, as the output's precision isn't 0.
  """
  hidden = len(Links("predictive_coding", net).blocks) - 1
  return fb.rules.predictive_coding(net, steps=8 * hidden, rate=0.2, precision=0.1, momentum=0.85)


RULES: dict[str, Callable[[fb.Layer], fb.Layer]] = {
  "backprop": lambda net: net,
  "feedback_alignment": fb.rules.feedback_alignment,
  "direct_feedback_alignment": fb.rules.direct_feedback_alignment,
  "sign, uniform": fb.rules.sign_symmetry,
  "sign, batch-random": partial(fb.rules.sign_symmetry, magnitudes="batch"),
  "sign, fixed-random": partial(fb.rules.sign_symmetry, magnitudes="fixed"),
  "kolen_pollack": fb.rules.kolen_pollack,
  "drtp": fb.rules.drtp,
  "target propagation": fb.rules.difference_target_propagation,
  "predictive coding": predictive_coding,
}
