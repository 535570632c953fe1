"""How fast do cotangents vanish or explode with depth, and does theory know the slope?

In a wide network with weights of variance σ²/D, the squared length of a cotangent is multiplied by

  χ = σ² E[φ'(√q g)²],  g standard normal,  q = σ² E[φ(√q g)²]

from each layer to the one before (Poole et al., NIPS 2016; Schoenholz et al., ICLR 2017): it
vanishes for χ < 1 and explodes for χ > 1. Here networks of 60 layers of 400 units are drawn, the
mean square of every layer's cotangent is taken by `fb.inspect`, and the slope of its logarithm over
the layers is held against log χ.

  python experiments/depth.py            a minute on one core
  python experiments/depth.py --quick --results FILE --figure FILE

Results are in results/depth.json; docs/depth.png is drawn from it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from experiments import rule_training as common

FULL: dict[str, Any] = {
  "depth": 60, "width": 400, "seeds": 3, "examples": 16,
  "gains": {"tanh": [0.7, 0.9, 1.0, 1.2, 1.5, 2.0], "relu": [1.0, 1.41421, 1.8],
            "identity": [0.8, 1.0, 1.2]},
}  # fmt: skip
QUICK: dict[str, Any] = {
  **FULL,
  "depth": 12,
  "width": 32,
  "seeds": 2,
  "gains": {"tanh": [0.7], "relu": [1.0]},
}
# φ and φ' of each activation.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
  "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
  "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
  "identity": (lambda z: z, np.ones_like),
}


def theory(activation: str, gain: float, depth: int) -> float:
  """log χ, averaged over the layers, of q that begins at σ² for inputs of mean square 1."""
  # Midpoints, none of which is a kink; a Gauss rule would see a slope's jump badly.
  nodes = np.arange(-10, 10, 1e-3) + 5e-4
  weights = np.exp(-(nodes**2) / 2)
  weights = weights / weights.sum()
  function, slope = FUNCTIONS[activation]
  q, slopes = gain**2, []
  for _ in range(depth):
    z = np.sqrt(q) * nodes
    slopes.append(np.log(gain**2 * (weights * slope(z) ** 2).sum()))
    q = gain**2 * (weights * function(z) ** 2).sum()
  return float(np.mean(slopes[1:]))


def measure(cell: str, settings: dict[str, Any]) -> dict[str, Any]:
  """The slopes of the seeds, theory's, and the mean squares of the first seed by layer."""
  name, gain = cell.split("/")
  width, depth, n = settings["width"], settings["depth"], settings["examples"]
  scale = jax.nn.initializers.variance_scaling(float(gain) ** 2, "fan_in", "normal")
  sizes = [width] * (depth + 1)
  net = fb.mlp([*sizes, 1], getattr(fb, name), w_init=scale, repeat_hidden=True)

  def squares(seed: jax.Array) -> jax.Array:
    """The mean square of the cotangent of each hidden pre-activation, first to last."""
    key = jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 1), (n, width))
    # Of targets 1: the error doesn't vanish with the output, and no square leaves float32.
    seen = fb.inspect(net, fb.squared_error)(net.init(key), x, jnp.ones((n, 1)))
    loop = next(s for place, s in seen.items() if place.startswith("1.") and "dense" in place)
    return (loop.y_bar**2).mean((1, 2))

  found = jax.device_get(jax.jit(jax.vmap(squares))(jnp.arange(settings["seeds"])))
  logs = np.log(np.maximum(found, np.finfo(np.float32).tiny))
  # From a layer to the one before, as the cotangent goes; the line of least squares.
  slopes = [-float(np.polyfit(np.arange(len(row)), row, 1)[0]) for row in logs]
  return {"theory": theory(name, float(gain), depth), "slopes": slopes, "logs": logs[0].tolist()}


def table(results: dict[str, Any]) -> str:
  """A row for each activation and gain."""
  lines = ["| activation | σ | log χ | measured |", "|---|---|---|---|"]
  for cell, found in results["seeds"].items():
    name, gain = cell.split("/")
    lines.append(f"| {name} | {gain} | {found['theory']:.3f} | {common.spread(found['slopes'])} |")
  return "\n".join(lines)


def draw(results: dict[str, Any], file: Path) -> None:
  """The mean squares by layer, each with theory's line through its last point."""
  import matplotlib as mpl

  mpl.use("agg")
  from matplotlib import pyplot as plt

  names = list(results["settings"]["gains"])
  size = (4 * len(names), 3.4)
  figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, layout="constrained")
  for name, ax in zip(names, axes[0], strict=True):
    for i, gain in enumerate(results["settings"]["gains"][name]):
      cell = results["seeds"][f"{name}/{gain}"]
      layers, logs = np.arange(len(cell["logs"])), np.array(cell["logs"])
      ax.plot(layers, logs / np.log(10), ".", ms=3, color=f"C{i}", label=f"σ = {gain:g}")
      line = logs[-1] + cell["theory"] * (layers[-1] - layers)
      ax.plot(layers, line / np.log(10), "-", lw=0.8, color=f"C{i}")
    ax.set(title=name, xlabel="layer", ylabel="log10 of the mean square of ȳ")
    ax.legend(fontsize=7)
  figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> None:
  """Measures, prints each slope beside theory's, and draws."""
  file, figure, is_quick = common.parse("depth", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  cells = [f"{name}/{gain}" for name, own in settings["gains"].items() for gain in own]
  results = common.resume(file, settings, cells, lambda cell: measure(cell, settings))
  print(table(results))
  draw(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
