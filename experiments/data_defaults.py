"""Which network, rate, decay and number of steps should `fbackprop train` have for its data sets?

Every candidate is trained on three quarters of the training part and judged on the last quarter of
it, over five seeds; the test part isn't looked at. The score is the accuracy, of diabetes R², and 0
for a run that broke. A candidate is good for a data set if it is behind the best one there by less
than a hundredth, or by less than two standard errors of their difference, seed by seed. A default
must bear being changed, so a candidate that loses more than a tenth at the next higher rate is
none.

Few defaults are to serve all: the first is the candidate that is good for most data sets, of those
the one of the fewest steps, then layers, then of the best mean. For the data sets that it isn't
good for there is a second one, chosen alike, and so on.

  python experiments/data_defaults.py     some ten minutes on two cores

Plain gradient descent on batches of 32, as the command line has it; the runs of a network, over all
rates, decays and seeds, are one compiled program. Results are in results/data_defaults.json; what
is there isn't trained again.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import train_test_split

import fbackprop as fb
from fbackprop.train.data.datasets import load_dataset

RESULTS = Path(__file__).parent / "results" / "data_defaults.json"
DATA = ("iris", "wine", "breast_cancer", "diabetes", "moons", "circles", "blobs", "spiral", "xor",
        "mnist1d")  # fmt: skip
HIDDEN = ((64,), (64, 64))
RATES = (0.05, 0.1, 0.2, 0.5)  # The last one only says whether the one before bears it.
DECAYS = (0.0, 1e-3, 1e-2)
STEPS = (500, 1000, 1500, 2000, 2500, 3000)
SEEDS = 5
BATCH_SIZE = 32
FALL, NEAR = 0.1, 0.01

Candidate = tuple[tuple[int, ...], float, float, int]


def split(name: str) -> tuple[jax.Array, ...]:
  """x, validation x, targets, validation targets, each `[SEEDS, ...]`."""
  parts = []
  for seed in range(SEEDS):
    data = load_dataset(name, seed)
    labels = data.targets if data.is_classification else None
    parts.append(
      train_test_split(data.x, data.targets, test_size=0.25, stratify=labels, random_state=seed)
    )
  return tuple(jnp.asarray(np.stack(part)) for part in zip(*parts, strict=True))


def score(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """The accuracy, or R² where that isn't negative; 0 of outputs that aren't finite."""
  if targets.ndim == 1:
    found = (outputs.argmax(1) == targets).mean()
  else:
    around = targets - targets.mean(0, keepdims=True)
    found = 1 - ((outputs - targets) ** 2).sum() / (around**2).sum()
  return jnp.where(jnp.isfinite(outputs).all(), jnp.maximum(found, 0), 0)


def scores_of(name: str, hidden: tuple[int, ...]) -> np.ndarray:
  """The scores of a network, `[RATES, DECAYS, SEEDS, STEPS]`."""
  parts = split(name)
  is_labelled = parts[2].ndim == 2
  outputs = int(parts[2].max()) + 1 if is_labelled else parts[2].shape[2]
  net = fb.mlp([parts[0].shape[2], *hidden, outputs])
  gradient = fb.value_and_grad(net, fb.softmax_cross_entropy if is_labelled else fb.squared_error)
  n, every = parts[0].shape[1], STEPS[0]
  steps_per_epoch = n // BATCH_SIZE

  def run(rate: jax.Array, decay: jax.Array, seed: jax.Array, data: Any) -> jax.Array:
    x, x_validation, targets, targets_validation = data
    key = jax.random.key(seed)

    def step(i: jax.Array, carry: Any) -> Any:
      params, order = carry
      place = i % steps_per_epoch
      order = jax.lax.cond(
        place == 0,
        lambda: jax.random.permutation(jax.random.fold_in(key, i), n),
        lambda: order,
      )
      rows = jax.lax.dynamic_slice(order, (place * BATCH_SIZE,), (BATCH_SIZE,))
      _, grads = gradient(params, x[rows], targets[rows])

      def update(p: jax.Array, g: jax.Array) -> jax.Array:
        return p - rate * (g + decay * p if p.ndim == 2 else g)

      return jax.tree.map(update, params, grads), order

    def stretch(carry: Any, first: jax.Array) -> Any:
      carry = jax.lax.fori_loop(first, first + every, step, carry)
      return carry, score(net.forward(carry[0], x_validation)[0], targets_validation)

    start = net.init(key), jnp.arange(n)
    scores: jax.Array = jax.lax.scan(stretch, start, jnp.arange(0, STEPS[-1], every))[1]
    return scores

  @jax.jit
  def all_runs(rates: jax.Array, decays: jax.Array, seeds: jax.Array, data: Any) -> jax.Array:
    # Not by vmap: batched products of small matrices are slower than one after the other.
    lanes = jnp.meshgrid(rates, decays, seeds, indexing="ij")

    def lane(of: Any) -> jax.Array:
      rate, decay, seed = of
      return run(rate, decay, seed, jax.tree.map(lambda part: part[seed], data))

    found: jax.Array = jax.lax.map(lane, tuple(grid.ravel() for grid in lanes))
    return found.reshape(*lanes[0].shape, len(STEPS))

  return np.asarray(all_runs(jnp.array(RATES), jnp.array(DECAYS), jnp.arange(SEEDS), parts))


def by_candidate(rows: dict[str, list[Any]], name: str) -> dict[Candidate, np.ndarray]:
  """The scores `[SEEDS]` of each candidate that bears the next higher rate."""
  found: dict[Candidate, np.ndarray] = {}
  for hidden in HIDDEN:
    scores = np.array(rows[name_of(name, hidden)])
    for (i, rate), (j, decay), (k, steps) in itertools.product(
      enumerate(RATES[:-1]), enumerate(DECAYS), enumerate(STEPS)
    ):
      own, higher = scores[i, j, :, k], scores[i + 1, j, :, k]
      if own.mean() - higher.mean() < FALL:
        found[hidden, rate, decay, steps] = own
  return found


def good_ones(scores: dict[Candidate, np.ndarray]) -> set[Candidate]:
  """Those that are near the best one, or can't be told from it."""
  best = max(scores.values(), key=lambda own: float(own.mean()))
  good = set()
  for candidate, own in scores.items():
    behind = best - own
    if behind.mean() <= max(NEAR, 2 * behind.std(ddof=1) / np.sqrt(SEEDS)):
      good.add(candidate)
  return good


def choose(
  tables: dict[str, dict[Candidate, np.ndarray]],
) -> tuple[Candidate, set[str]]:
  """The winner by the rule above, and the data sets that it is good for."""
  good = {name: good_ones(scores) for name, scores in tables.items()}

  def rank(candidate: Candidate) -> Any:
    served = sum(candidate in own for own in good.values())
    means = [own[candidate].mean() if candidate in own else 0.0 for own in tables.values()]
    return -served, candidate[3], len(candidate[0]), -float(np.mean(means))

  winner = min(itertools.product(HIDDEN, RATES[:-1], DECAYS, STEPS), key=rank)
  return winner, {name for name, own in good.items() if winner in own}


def name_of(name: str, hidden: tuple[int, ...]) -> str:
  """A row's name in the results."""
  return f"{name} {'-'.join(map(str, hidden))}"


def main() -> None:
  """Trains what isn't trained yet, and prints what is chosen."""
  rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for name, hidden in itertools.product(DATA, HIDDEN):
    row = name_of(name, hidden)
    if row not in rows:
      rows[row] = np.round(scores_of(name, hidden), 4).tolist()
      RESULTS.parent.mkdir(exist_ok=True)
      RESULTS.write_text(json.dumps(rows) + "\n")
      print(row, flush=True)
  tables = {name: by_candidate(rows, name) for name in DATA}
  while tables:
    winner, served = choose(tables)
    print(winner)
    for name in [name for name in tables if name in served]:
      scores = tables.pop(name)
      best = max(scores, key=lambda candidate: float(scores[candidate].mean()))
      print(
        f"{name:>14}: {scores[winner].mean():.4f}, the best {scores[best].mean():.4f} by {best}"
      )


if __name__ == "__main__":
  main()
