"""Are mislabelled digits found by the length of their gradient?

An example with a wrong label pulls at the network against all others, so its gradient should be a
long one. ‖g_i‖² of every example is read from one backward pass that forms none of the gradients
(Goodfellow, arXiv:1510.01799, 2015).

1. Of scikit-learn's 1,797 digits 5 % get another label at random. A network learns from them all,
   and after each epoch the examples are ranked by ‖g_i‖², by their loss, and at random. How many of
   the wrong ones stand in front? Over ten seeds, each with wrong labels and a network of its own.
   Who looks for wrong labels doesn't know the best epoch, so the score is the mean over the first
   20, each first divided by its mean over the examples, as all gradients shrink. The rest of the
   100 epochs tells what happens when a network learns the wrong labels by heart.
2. Ten networks learn the digits as they are. Which ones have the longest gradients, by the mean of
   that score? There is no truth to hold them against: they are shown.

  python experiments/outliers.py     half a minute on one core; draws docs/outliers.png

Results are in results/outliers.json; a seed that is there isn't trained again.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

import fbackprop as fb
from experiments.common import load_digits, parse_files, read_results, write_results

NET = fb.mlp([64, 128, 64, 10], dense=fb.quantities.captured(fb.dense))
LOSS = fb.softmax_cross_entropy
LOOK = fb.quantities.compute(NET, LOSS, ("example_sqnorms",))
SEEDS, EPOCHS, SCORED, BATCH_SIZE, RATE, SHARE, SHOWN = 10, 100, 20, 32, 0.1, 0.05, 16
SCORES = {"sqnorms": "‖g‖²", "losses": "loss", "random": "random"}
COLORS = {"sqnorms": "#0072b2", "losses": "#d55e00", "random": "#888888"}  # Okabe and Ito's.


def flip(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Labels of which a share says another class, each of the nine alike; and which ones do."""
  rng = np.random.default_rng(seed)
  rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
  flipped, is_wrong = labels.copy(), np.zeros(len(labels), bool)
  flipped[rows] = (labels[rows] + rng.integers(1, 10, len(rows))) % 10
  is_wrong[rows] = True
  return flipped, is_wrong


@jax.jit
def train(keys: jax.Array, x: jax.Array, labels: jax.Array) -> Any:
  """Every example's ‖g_i‖², loss and predicted class after each epoch, each `[EPOCHS, N]`.

  The first of the keys is for the parameters, and each other one for an epoch.
  """

  def step(params: Any, rows: jax.Array) -> Any:
    _, grads, _ = LOOK(params, x[rows], labels[rows])
    return jax.tree.map(lambda w, w_bar: w - RATE * w_bar, params, grads), None

  def epoch(params: Any, key: jax.Array) -> Any:
    order = jax.random.permutation(key, len(x))
    batches = order[: len(x) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
    params, _ = jax.lax.scan(step, params, batches)
    _, _, found = LOOK(params, x, labels)
    outputs, _ = NET.forward(params, x)
    losses, _ = LOSS.forward(outputs, labels)
    classes = outputs.argmax(1)
    return params, {"sqnorms": found["example_sqnorms"], "losses": losses, "classes": classes}

  return jax.lax.scan(epoch, NET.init(keys[0]), keys[1:])[1]


def run(seed: int, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
  """What `train` found with this seed."""
  keys = jax.random.split(jax.random.key(seed), 1 + EPOCHS)
  found: dict[str, np.ndarray] = jax.tree.map(np.asarray, train(keys, x, labels))
  return found


def score_of(values: np.ndarray) -> Any:
  """The mean `[N]` over the first epochs of `[EPOCHS, N]`, each divided by its own mean."""
  return (values[:SCORED] / values[:SCORED].mean(1, keepdims=True)).mean(0)


def precisions(score: np.ndarray, is_wrong: np.ndarray) -> np.ndarray:
  """Which share of the k examples of the highest score is wrong, for k from 1 to N."""
  in_order = is_wrong[np.argsort(-score, kind="stable")]
  return in_order.cumsum() / np.arange(1, len(score) + 1)


def find_flipped(seed: int) -> dict[str, Any]:
  """Question 1, for one seed."""
  x, labels = load_digits()
  labels, is_wrong = flip(labels, SHARE, seed)
  found = run(seed, x, labels)
  found["random"] = np.random.default_rng([1, seed]).random((EPOCHS, len(x)))
  learned = (found["classes"] == labels)[:, is_wrong].mean(1)
  row: dict[str, Any] = {"learned": learned.round(4).tolist()}
  for name in SCORES:
    score, count = score_of(found[name]), is_wrong.sum()
    curve = precisions(score, is_wrong).round(4).tolist()
    row[name] = {
      "precision": curve[count - 1],
      "precisions": curve[: 2 * count],
      "average_precision": round(average_precision_score(is_wrong, score), 4),
      "roc_auc": round(roc_auc_score(is_wrong, score), 4),
      "epochs": [round(average_precision_score(is_wrong, own), 4) for own in found[name]],
    }
  return row


def find_suspicious() -> list[dict[str, Any]]:
  """Question 2: the digits of the highest mean score, and the networks' commonest answer."""
  x, labels = load_digits()
  runs = [run(seed, x, labels) for seed in range(SEEDS)]
  score = np.mean([score_of(of["sqnorms"]) for of in runs], 0)
  votes = np.sum([np.eye(10)[of["classes"][SCORED - 1]] for of in runs], 0)
  first = np.argsort(-score)[:SHOWN]
  votes = votes[first]
  columns = first, labels[first], votes.argmax(1), votes.max(1), score[first].round()
  names = ("row", "label", "class", "votes", "score")
  return [dict(zip(names, map(int, row), strict=True)) for row in zip(*columns, strict=True)]


def tell(results: dict[str, Any]) -> None:
  """Prints medians over the seeds, with the least and the most."""
  rows = list(results["seeds"].values())
  print(f"1. {len(rows)} seeds: how the ranking by each score finds the wrong labels")
  for name, title in SCORES.items():
    for measure in ("precision", "average_precision", "roc_auc"):
      of = [row[name][measure] for row in rows]
      print(f"   {title:6} {measure:17} {np.median(of):.3f} ({min(of):.3f} to {max(of):.3f})")
  print("2. The longest gradients of the digits as they are:")
  for own in results["suspicious"]:
    print("   row {row:4}: label {label}, {votes} say {class}; score {score}".format(**own))


def draw_figure(results: dict[str, Any], file: Path) -> None:
  """How well the scores find wrong labels; and the most suspicious digits of all, as pictures."""
  rows = list(results["seeds"].values())
  count = len(rows[0]["sqnorms"]["precisions"]) // 2
  figure = Figure((10, 7.6), 100, layout="constrained")
  parts: Any = figure.subfigures(2, 1, height_ratios=(5, 4))
  curves, pictures = parts
  by_epoch, by_count = curves.subplots(1, 2)
  epochs = np.arange(1, len(rows[0]["learned"]) + 1)
  for name, title in SCORES.items():
    middles = np.median([row[name]["epochs"] for row in rows], 0)
    by_epoch.plot(epochs, middles, color=COLORS[name], label=title)
    middles = np.median([row[name]["precisions"] for row in rows], 0)
    by_count.plot(np.arange(1, 2 * count + 1), middles, color=COLORS[name], label=title)
  learned = np.median([row["learned"] for row in rows], 0)
  by_epoch.plot(epochs, learned, ":", color="#222222", label="share learned by heart")
  by_epoch.axvspan(1, SCORED, color="#eeeeee")
  by_epoch.set(title="The wrong labels, ranked after each epoch")
  by_epoch.set(xlabel=f"epoch (grey: the {SCORED} of the score)", ylabel="average precision")
  by_count.axvline(count, color="#bbbbbb", linestyle=":")
  by_count.set(title="Ranked by the score: how many of k are wrong")
  by_count.set(xlabel=f"k (dotted: the {count} that are wrong)", ylabel="precision at k")
  for axes in (by_epoch, by_count):
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
  pictures.suptitle(
    "The longest gradients of the digits as they are; the networks' commonest answer"
  )
  x, _ = load_digits()
  grid = pictures.subplots(2, -(-len(results["suspicious"]) // 2))
  for axes, own in zip(np.ravel(grid), results["suspicious"], strict=False):
    axes.imshow(x[own["row"]].reshape(8, 8), cmap="gray_r")
    color = "#222222" if own["class"] == own["label"] else COLORS["losses"]
    axes.set_title(
      "label {label}\n{votes} say {class}".format(**own), fontsize="small", color=color
    )
    axes.axis("off")
  figure.savefig(file)


def main(arguments: list[str] | None = None) -> None:
  """Trains what isn't trained yet, says what was found, and draws it."""
  file, figure = parse_files("outliers", __doc__, arguments)
  settings = {"epochs": EPOCHS, "scored": SCORED, "batch": BATCH_SIZE, "rate": RATE, "share": SHARE}
  results = read_results(file, settings)
  for seed in range(SEEDS):
    if str(seed) not in results["seeds"]:
      results["seeds"][str(seed)] = find_flipped(seed)
      write_results(results, file)
      print(f"seed {seed} is done", flush=True)
  if "suspicious" not in results:
    results["suspicious"] = find_suspicious()
    write_results(results, file)
  tell(results)
  draw_figure(results, figure)
  print(f"The picture: {figure}")


if __name__ == "__main__":
  main()
