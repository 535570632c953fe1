"""Which wrong labels do curvature and per-example diagonals find that norms don't?

`outliers.py` ranks the digits by ‖g_i‖², the squared length of each example's gradient, and by
their loss, while a network learns them with 5 % wrong labels. Here the same networks are ranked
after the same epochs by what curvature says besides:

  trace    tr G_i, the sum of the example's GGN diagonal. By softmax cross-entropy it doesn't know
           the label, and is what the network itself expects of ‖g_i‖².
  ratio    ‖g_i‖² / tr G_i: the length against what the network expects of it.
  diagonal Σ_p g_ip² / (D_p + λ), D the GGN's diagonal: the length in units of curvature.
  kfac     g_iᵀ (K + λ)⁻¹ g_i by Kronecker factors, the self-influence of the example.

Of the 90 wrong labels each score puts some among its first 90. How many of these does ‖g‖² miss,
and how many of those of ‖g‖² are missed?

  python experiments/outliers_curvature.py          some minutes on one core
  python experiments/outliers_curvature.py --quick --results FILE --figure FILE

Results are in results/outliers_curvature.json, docs/outliers_curvature.png is drawn from them; a
seed that is there isn't trained again.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

import fbackprop as fb
from experiments.common import load_digits
from experiments.outliers import (
  BATCH_SIZE,
  EPOCHS,
  LOOK,
  LOSS,
  NET,
  RATE,
  SCORED,
  SHARE,
  flip,
  score_of,
)  # fmt: skip
from experiments.rule_training import parse, resume

FULL: dict[str, Any] = {"seeds": 10, "epochs": SCORED, "examples": 1797, "damping": 0.01}
QUICK: dict[str, Any] = {**FULL, "seeds": 2, "epochs": 2, "examples": 200}
BASELINE = "sqnorms"
SCORES = {
  "sqnorms": "‖g‖²", "losses": "loss", "trace": "tr G", "ratio": "‖g‖² / tr G",
  "diagonal": "‖g‖² by diagonal", "kfac": "‖g‖² by K-FAC",
}  # fmt: skip
COLORS = ("#0072b2", "#d55e00", "#888888", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's.
EXAMPLES = fb.quantities.compute(NET, LOSS, ("example_gradients",))
DIAGONALS = fb.curvature.example_ggn_diagonals(NET, LOSS)
FACTORS = fb.curvature.kronecker_factors(NET, LOSS)


def dot(a: Any, b: Any) -> Any:
  """Σ over all parameters of a b."""
  return sum(jnp.vdot(p, q) for p, q in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def look(params: Any, x: jax.Array, labels: jax.Array, damping: float) -> dict[str, jax.Array]:
  """Every example's scores, each `[N]`; one gradient at a time is in memory."""
  mean = jax.tree.map(lambda d: d.mean(0), DIAGONALS(params, x, labels))
  inverse = fb.curvature.inverse(FACTORS(params, x, labels), damping=damping)

  def of_one(row: Any) -> Any:
    one = row[0][None], row[1][None]
    g = jax.tree.map(lambda leaf: leaf[0], EXAMPLES(params, *one)[2]["example_gradients"])
    trace = sum(leaf.sum() for leaf in jax.tree.leaves(DIAGONALS(params, *one)))
    scaled = jax.tree.map(lambda leaf, d: leaf / (d + damping), g, mean)
    return {
      "sqnorms": dot(g, g), "trace": trace, "ratio": dot(g, g) / trace,
      "diagonal": dot(g, scaled), "kfac": dot(g, fb.curvature.product(inverse, g)),
    }  # fmt: skip

  outputs, _ = NET.forward(params, x)
  losses, _ = LOSS.forward(outputs, labels)
  return {**jax.lax.map(of_one, (x, labels), batch_size=128), "losses": losses}


@partial(jax.jit, static_argnums=(3,))
def train(keys: jax.Array, x: jax.Array, labels: jax.Array, damping: float) -> Any:
  """The scores after each epoch, each `[epochs, N]`; the networks are those of `outliers.train`."""

  def step(params: Any, rows: jax.Array) -> Any:
    _, grads, _ = LOOK(params, x[rows], labels[rows])
    return jax.tree.map(lambda w, w_bar: w - RATE * w_bar, params, grads), None

  def epoch(params: Any, key: jax.Array) -> Any:
    order = jax.random.permutation(key, len(x))
    batches = order[: len(x) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
    params, _ = jax.lax.scan(step, params, batches)
    return params, look(params, x, labels, damping)

  return jax.lax.scan(epoch, NET.init(keys[0]), keys[1:])[1]


def find_flipped(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
  """What each score finds, for one seed."""
  x, labels = (rows[: settings["examples"]] for rows in load_digits())
  labels, is_wrong = flip(labels, SHARE, seed)
  # The keys of `outliers.run`, of which the first epochs are taken.
  keys = jax.random.split(jax.random.key(seed), 1 + EPOCHS)[: 1 + settings["epochs"]]
  values = jax.tree.map(np.asarray, train(keys, x, labels, settings["damping"]))
  count, found, row = int(is_wrong.sum()), {}, {}
  for name in SCORES:
    score = score_of(values[name])
    found[name] = set(np.argsort(-score, kind="stable")[:count]) & set(np.flatnonzero(is_wrong))
    row[name] = {
      "found": len(found[name]),
      "average_precision": round(average_precision_score(is_wrong, score), 4),
    }
  for name in SCORES:
    row[name]["new"] = len(found[name] - found[BASELINE])
    row[name]["lost"] = len(found[BASELINE] - found[name])
  return {"wrong": count, **row}


def table_of(results: dict[str, Any]) -> list[str]:
  """Formats medians over the seeds, with the least and the most, as on the page."""
  rows = list(results["seeds"].values())
  lines = [
    f"| score | found of {rows[0]['wrong']} | average precision | new | lost |",
    "|---|---|---|---|---|",
  ]
  for name, title in SCORES.items():
    cells = []
    for measure in ("found", "average_precision", "new", "lost"):
      of = [row[name][measure] for row in rows]
      style = ".3f" if measure == "average_precision" else ".3g"
      cells.append(f"{np.median(of):{style}} ({min(of):{style}} to {max(of):{style}})")
    lines.append(f"| {' | '.join([title, *cells])} |")
  return lines


def draw_figure(results: dict[str, Any], file: Path) -> None:
  """How many wrong labels each score finds, and which of them ‖g‖² doesn't; one dot a seed."""
  rows = list(results["seeds"].values())
  figure = Figure((10, 3.6), 100, layout="constrained")
  parts: Any = figure.subplots(1, 2, sharey=True)
  places = np.arange(len(SCORES))[::-1]
  for place, name, color in zip(places, SCORES, COLORS, strict=True):
    shift = np.linspace(-0.25, 0.25, len(rows))
    share = [row[name]["found"] / row["wrong"] for row in rows]
    parts[0].plot(share, place + shift, "o", ms=4, color=color)
    if name != BASELINE:
      parts[1].plot([row[name]["new"] for row in rows], place + shift, "o", ms=4, color=color)
      parts[1].plot([-row[name]["lost"] for row in rows], place + shift, "o", ms=4, mfc="w",
                    color=color)  # fmt: skip
  parts[0].set(xlim=(0, 1.02), xlabel="share of the wrong labels that it finds")
  parts[0].set_yticks(places, list(SCORES.values()))
  parts[1].axvline(0, color="#bbbbbb", lw=1)
  parts[1].set_xscale("symlog", linthresh=10)
  parts[1].set_xlim(-120, 20)
  parts[1].set_xticks([-50, -10, -5, 0, 5, 10], ["−50", "−10", "−5", "0", "5", "10"])
  parts[1].set(xlabel="wrong labels lost (empty) and new (full) beside ‖g‖²")
  figure.savefig(file)


def main(arguments: list[str] | None = None) -> None:
  """Trains what isn't trained yet, says what was found, and draws it."""
  file, figure, is_quick = parse("outliers_curvature", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  cells = list(map(str, range(settings["seeds"])))
  results = resume(file, settings, cells, lambda cell: find_flipped(int(cell), settings))
  print("\n".join(table_of(results)))
  draw_figure(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
