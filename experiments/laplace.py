"""Does a Gaussian over the last layer's weights know when the digits are turned?

Networks learn 1,000 of scikit-learn's digits; the other 797 are turned, step by step, until they
are none any more. A network says of each class how probable it is. How well do these numbers do, by
their −log (NLL) and by how far confidence and accuracy are apart (ECE, 15 bins)?

  plain    the network as it is
  kfac     Laplace over the last layer, Σ = (N A ⊗ G + δ I)⁻¹, by its Kronecker factors
  dense    the same with its whole GGN, as a matrix of 650 × 650 by dense algebra
  ensemble five networks, the mean of their probabilities

δ, the precision of the prior, has the highest evidence on the training data, of eight powers of
√10; the outputs' variance enters the probabilities by MacKay's approximation, z / √(1 + π/8 σ²) in
the softmax. It is also a check of the parts: the variance by `fb.curvature.inverse` is that of a
dense inverse of A ⊗ G in float64, and the log-determinant in the evidence is the dense one.

  python experiments/laplace.py            a minute on one core
  python experiments/laplace.py --quick --results FILE --figure FILE

Results are in results/laplace.json; docs/laplace.png is drawn from it.

References:
  MacKay, "The evidence framework applied to classification networks", Neural Computation 4 (1992);
  Daxberger and others, "Laplace redux: effortless Bayesian deep learning", NeurIPS (2021).
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import rotate

import fbackprop as fb
from experiments.common import load_digits
from experiments.rule_training import parse, resume

FULL: dict[str, Any] = {
  "groups": 3, "members": 5, "train": 1000, "steps": 1500, "batch": 50, "rate": 0.3,
  "angles": [0, 15, 30, 45, 60], "precisions": [float(10 ** (k / 2)) for k in range(-2, 6)],
}  # fmt: skip
QUICK: dict[str, Any] = {**FULL, "groups": 1, "members": 2, "train": 200, "steps": 60,
                         "angles": [0, 60], "precisions": [0.1, 10.0]}  # fmt: skip
HIDDEN = fb.serial(*fb.mlp([64, 64, 64, 10], fb.tanh).parts[:-1])
LAST = fb.dense(64, 10)
NET, LOSS = fb.serial(HIDDEN, LAST), fb.softmax_cross_entropy
NAMES = {
  "plain": "plain",
  "kfac": "Laplace, K-FAC",
  "dense": "Laplace, dense",
  "ensemble": "ensemble",
}
COLORS = {"plain": "#888888", "kfac": "#0072b2", "dense": "#e69f00", "ensemble": "#009e73"}
BINS = 15


def turned(x: np.ndarray, angle: float) -> np.ndarray:
  """The digits turned by some degrees."""
  images = x.reshape(-1, 8, 8)
  # By default what lies at the edge would be lost, for any angle.
  options: dict[str, Any] = {"reshape": False, "order": 1, "mode": "grid-constant"}
  found = rotate(images, angle, axes=(1, 2), **options)
  return np.asarray(found.reshape(len(x), 64), np.float32)


@jax.jit
def features_of(params: Any, x: Any) -> Any:
  """The inputs of the last layer `[N, 64]`."""
  return HIDDEN.forward(params, x)[0]


# --- The Gaussian over the last layer -------------------------------------------------------------


@jax.jit
def factors_of(params: Any, h: Any, labels: Any) -> Any:
  """A and G of the last layer, from its inputs `[N, 64]`."""
  return fb.curvature.kronecker_factors(LAST, LOSS)(params, h, labels)


@jax.jit
def ggn_of(params: Any, h: Any, labels: Any) -> Any:
  """The last layer's GGN `[650, 650]`, by products with unit vectors, of [w; b] row by row."""
  times = fb.curvature.ggn_vector_product(LAST, LOSS)

  def column(unit: Any) -> Any:
    v = unit.reshape(65, 10)
    w, b = times(params, h, labels, type(params)(v[:-1], v[-1]))
    return jnp.concatenate([w, b[None]]).ravel()

  return jax.vmap(column)(jnp.eye(650, dtype=h.dtype))


def evidence(value: Any, params: Any, log_det: Any, n: int, precision: float) -> Any:
  """log p(data) up to a constant, by Laplace: fit, prior, and the volume of the Gaussian."""
  squares = sum((leaf**2).sum() for leaf in params)
  return -n * value - 0.5 * precision * squares + 325 * np.log(precision) - 0.5 * log_det


@partial(jax.jit, static_argnums=2)
def variances_by_factors(blocks: Any, h: Any, n: int, precision: Any) -> Any:
  """σ² of each output `[N, 10]`: J Σ Jᵀ with J = I ⊗ [h; 1], by the blocks' own solve."""
  inverse = fb.curvature.inverse(blocks, damping=precision / n, method="exact")

  def of_one(row: Any) -> Any:
    def of_class(unit: Any) -> Any:
      j = type(LIKE)(row[:, None] * unit[None, :], unit)
      solved = fb.curvature.product(inverse, j)
      return sum(jnp.vdot(a, b) for a, b in zip(j, solved, strict=True)) / n

    return jax.vmap(of_class)(jnp.eye(10, dtype=row.dtype))

  return jax.lax.map(of_one, h, batch_size=100)


LIKE = jax.eval_shape(LAST.init, jax.random.key(0))


def covariance_of(matrix: np.ndarray, n: int, precision: float) -> np.ndarray:
  """Σ of a matrix `[650, 650]` by dense algebra, of each output by itself: `[10, 65, 65]`."""
  covariance = np.linalg.inv(n * matrix + precision * np.eye(650)).reshape(65, 10, 65, 10)
  return np.einsum("icjc->cij", covariance)


def variances_by_matrix(covariance: np.ndarray, h: np.ndarray) -> np.ndarray:
  """σ² of each output `[N, 10]` by its covariance."""
  rows = np.concatenate([h, np.ones((len(h), 1))], 1)
  return np.stack([((rows @ own) * rows).sum(1) for own in covariance], 1)


def moderated(z: np.ndarray, variances: Any) -> np.ndarray:
  """The probabilities of outputs that are uncertain."""
  z = z / np.sqrt(1 + np.pi / 8 * variances)
  e = np.exp(z - z.max(1, keepdims=True))
  return np.asarray(e / e.sum(1, keepdims=True))


def scores_of(p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """NLL in nats, ECE, and accuracy."""
  confidence, is_right = p.max(1), p.argmax(1) == labels
  bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
  gaps = [
    abs(is_right[bins == k].mean() - confidence[bins == k].mean()) * (bins == k).mean()
    for k in range(BINS) if (bins == k).any()
  ]  # fmt: skip
  own = p[np.arange(len(p)), labels]
  return {
    "nll": round(float(-np.log(np.maximum(own, 1e-300)).mean()), 4),
    "ece": round(float(sum(gaps)), 4),
    "accuracy": round(float(is_right.mean()), 4),
  }


# --- One group of networks ------------------------------------------------------------------------


def run_group(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
  """Train the members of an ensemble, and score all methods at each angle."""
  x, labels = load_digits()
  order, n = np.random.default_rng(seed).permutation(len(x)), settings["train"]
  (x, test_x), (labels, test_labels) = ((rows[order[:n]], rows[order[n:]]) for rows in (x, labels))
  result = fb.train.fit_ensemble(
    NET, LOSS, (x, labels), optimizer=fb.train.gradient_descent(settings["rate"]),
    stop=fb.train.StopRules(settings["steps"]), batch_size=settings["batch"],
    keys=jax.random.split(jax.random.key(seed), settings["members"]),
  )  # fmt: skip
  members = [jax.tree.map(lambda leaf, k=k: np.float64(leaf[k]), result.params)
             for k in range(settings["members"])]  # fmt: skip
  tests = {angle: turned(test_x, angle) for angle in settings["angles"]}
  with jax.enable_x64(True):
    found = [run_member(params, (x, labels), tests, settings) for params in members]
  rows = {}
  for angle in settings["angles"]:
    scored = {
      name: [scores_of(own["p"][angle][name], test_labels) for own in found]
      for name in ("plain", "kfac", "dense")
    }
    mean = np.mean([own["p"][angle]["plain"] for own in found], 0)
    rows[str(angle)] = {
      **{name: {key: round(float(np.mean([one[key] for one in many])), 4) for key in many[0]}
         for name, many in scored.items()},
      "ensemble": scores_of(mean, test_labels),
    }  # fmt: skip
  return {
    "precisions": {name: [own["precision"][name] for own in found] for name in ("kfac", "dense")},
    "errors": {name: max(own["errors"][name] for own in found) for name in found[0]["errors"]},
    "angles": rows,
  }


def run_member(params: Any, data: Any, tests: Any, settings: dict[str, Any]) -> dict[str, Any]:
  """The probabilities of one network by each method; x64 must be on."""
  n, own = len(data[0]), params[1]
  h = features_of(params[0], np.float64(data[0]))
  value = float(LOSS.forward(LAST.forward(own, h)[0], data[1])[0].mean())
  blocks, ggn = factors_of(own, h, data[1]), np.asarray(ggn_of(own, h, data[1]))
  (product,) = map(np.asarray, fb.curvature.matrices(blocks))
  found: dict[str, list[float]] = {"kfac": [], "dense": []}
  worst = 0.0
  for precision in settings["precisions"]:
    log_det = float(fb.curvature.log_determinant(blocks, damping=precision / n, method="exact"))
    dense = [np.linalg.slogdet(n * m + precision * np.eye(650))[1] for m in (product, ggn)]
    log_det += 650 * np.log(n)
    worst = max(worst, abs(log_det - dense[0]) / abs(dense[0]))
    for name, one in (("kfac", log_det), ("dense", dense[1])):
      found[name].append(float(evidence(value, own, one, n, precision)))
  precision = {name: settings["precisions"][int(np.argmax(own))] for name, own in found.items()}
  by_blocks, by_ggn = (
    covariance_of(matrix, n, precision[name])
    for matrix, name in ((product, "kfac"), (ggn, "dense"))
  )
  p, errors = {}, []
  for angle, rows in tests.items():
    features = np.asarray(features_of(params[0], np.float64(rows)))
    z = features @ own.w + own.b
    by_factors = np.asarray(variances_by_factors(blocks, features, n, precision["kfac"]))
    by_matrix = variances_by_matrix(by_blocks, features)
    errors.append(float(np.abs(by_factors - by_matrix).max() / by_matrix.max()))
    by_dense = variances_by_matrix(by_ggn, features)
    p[angle] = {
      "plain": moderated(z, 0.0), "kfac": moderated(z, by_factors), "dense": moderated(z, by_dense)
    }  # fmt: skip
  return {"p": p, "precision": precision, "errors": {"variance": max(errors), "log_det": worst}}


# --- What was found -------------------------------------------------------------------------------


def middles(results: dict[str, Any], name: str, measure: str) -> list[float]:
  """The mean over the groups at each angle."""
  groups = list(results["seeds"].values())
  return [
    float(np.mean([own["angles"][angle][name][measure] for own in groups]))
    for angle in groups[0]["angles"]
  ]


def table_of(results: dict[str, Any]) -> list[str]:
  """Formats NLL, ECE and accuracy at each angle, means over the groups, as on the page."""
  angles = results["settings"]["angles"]
  lines = [f"| | {' | '.join(f'{angle}°' for angle in angles)} |", "|---" * (1 + len(angles)) + "|"]
  for name, title in NAMES.items():
    of = [middles(results, name, measure) for measure in ("nll", "ece", "accuracy")]
    cells = [f"{nll:.2f}, {ece:.3f}, {right:.1%}" for nll, ece, right in zip(*of, strict=True)]
    lines.append(f"| {title} | {' | '.join(cells)} |".replace("%", " %"))
  return lines


def tell(results: dict[str, Any]) -> None:
  """Prints the table, and how far the parts are from dense algebra."""
  groups = list(results["seeds"].values())
  print("\n".join(table_of(results)))
  for name in groups[0]["errors"]:
    print(f"{name}: off by {max(own['errors'][name] for own in groups):.1e} of the dense one's")


def draw_figure(results: dict[str, Any], file: Path) -> None:
  """NLL and ECE over the angle."""
  figure = Figure((10, 3.6), 100, layout="constrained")
  parts: Any = figure.subplots(1, 3)
  angles = results["settings"]["angles"]
  titles = {"nll": "NLL, nats", "ece": "expected calibration error", "accuracy": "accuracy"}
  for axes, (measure, title) in zip(parts, titles.items(), strict=True):
    for name, label in NAMES.items():
      style = "--" if name == "dense" else "-"
      values = middles(results, name, measure)
      axes.plot(angles, values, style, color=COLORS[name], label=label, marker="o", ms=3)
    axes.set(title=title, xlabel="digits turned by, degrees")
    axes.set_ylim(bottom=0)
  parts[0].legend(frameon=False)
  figure.savefig(file)


def main(arguments: list[str] | None = None) -> None:
  """Trains what isn't trained yet, says what was found, and draws it."""
  file, figure, is_quick = parse("laplace", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  cells = list(map(str, range(settings["groups"])))
  results = resume(file, settings, cells, lambda cell: run_group(int(cell), settings))
  tell(results)
  draw_figure(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
