"""Which network and rate should be the defaults of `fbackprop train` on digits?

Every candidate is trained on three quarters of the training part and judged on the last quarter of
it, over five seeds; the test part of the split isn't looked at. The best mean validation accuracy
wins; of those within one standard error of it, the smallest network, and of one network the best.
A run that diverges counts as 0. A default must bear being changed, so a candidate for which a rate
of twice its own fails is none: it stands at the edge at which training breaks.

  python experiments/digits_defaults.py     about ten minutes on two cores

Results are in results/digits_defaults.json; a candidate that is there isn't trained again.
"""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fbackprop as fb

RESULTS = Path(__file__).parent / "results" / "digits_defaults.json"
HIDDEN = ((64,), (128,), (256,), (512,), (1024,), (256, 128))
RATES = (0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
STEPS = (2000, 4000)
SEEDS = range(5)
BATCH_SIZE = 32
FAILED = 0.9  # A mean accuracy that says that some of the runs broke.


def split(x: np.ndarray, labels: np.ndarray, seed: int) -> list[np.ndarray]:
  """Three quarters and one quarter, each class in both."""
  parts = train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=seed)
  return list(parts)


def validation_accuracies(hidden: tuple[int, ...], rate: float, seed: int) -> list[float]:
  """The accuracy on the validation part after each number of STEPS."""
  x, labels = load_digits(return_X_y=True)
  x, _, labels, _ = split((x / 16).astype(np.float32), labels.astype(np.int32), seed)
  x, x_validation, labels, labels_validation = split(x, labels, seed)
  result = fb.train.fit(
    fb.mlp([64, *hidden, 10]),
    fb.softmax_cross_entropy,
    (x, labels),
    optimizer=fb.train.gradient_descent(rate),
    stop=fb.train.StopRules(max_steps=max(STEPS)),
    key=jax.random.key(seed),
    batch_size=BATCH_SIZE,
    monitor=fb.train.Monitor(eval_every=min(STEPS), test=(x_validation, labels_validation)),
  )
  accuracies = {e.step: e.test_accuracy for e in result.evaluations}
  return [float(accuracies.get(steps) or 0.0) for steps in STEPS]


def parameters_of(hidden: tuple[int, ...]) -> int:
  """How many numbers a network learns."""
  sizes = (64, *hidden, 10)
  return sum((d_in + 1) * d_out for d_in, d_out in itertools.pairwise(sizes))


def choose(rows: dict[str, list[list[float]]]) -> str:
  """The winner by the rule above."""
  table = []
  for hidden, rate in itertools.product(HIDDEN, RATES):
    twice = next((other for other in RATES if other >= 2 * rate), None)
    if twice is None or np.mean(rows[name_of(hidden, twice)]) < FAILED:
      continue
    accuracies = np.array(rows[name_of(hidden, rate)])
    for steps, column in zip(STEPS, accuracies.T, strict=True):
      error = column.std(ddof=1) / np.sqrt(len(SEEDS))
      table.append((column.mean(), error, parameters_of(hidden), hidden, rate, steps))
  best = max(table, key=lambda row: row[0])
  near = [row for row in table if row[0] >= best[0] - best[1]]
  mean, _, _, hidden, rate, steps = min(near, key=lambda row: (row[2], -row[0], row[5]))
  return f"{name_of(hidden, rate)}, {steps} steps: {mean:.4f}; the best is {best[0]:.4f}"


def name_of(hidden: tuple[int, ...], rate: float) -> str:
  """A candidate's name in the results."""
  return f"{'-'.join(map(str, hidden))} rate {rate}"


def main() -> None:
  """Trains what isn't trained yet, and prints the table."""
  rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  print(f"{'hidden':>10} {'rate':>5}   " + "   ".join(f"after {s} steps" for s in STEPS))
  for hidden, rate in itertools.product(HIDDEN, RATES):
    name = name_of(hidden, rate)
    if name not in rows:
      rows[name] = [validation_accuracies(hidden, rate, seed) for seed in SEEDS]
      RESULTS.parent.mkdir(exist_ok=True)
      RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    mean = np.mean(rows[name], axis=0)
    error = np.std(rows[name], axis=0, ddof=1) / np.sqrt(len(SEEDS))
    cells = "   ".join(f"{m:.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True))
    print(f"{'-'.join(map(str, hidden)):>10} {rate:>5}   {cells}", flush=True)
  print(choose(rows))


if __name__ == "__main__":
  main()
