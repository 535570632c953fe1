"""What follows from the measurements of `noise_scale.py`: the fits, the numbers, and the picture.

Every function takes what results/noise_scale.json holds; nothing is trained here.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's.


def fit_tradeoff(sizes: Any, steps: Any) -> tuple[float, float]:
  """S_min and B_crit, of the steps that each batch size took; NaN is left out.

  With E = B S the hyperbola is S = S_min (1 + B_crit / B). It is fitted in logs, where a deviation
  by a tenth counts alike for a small and a large batch.
  """
  sizes, steps = np.asarray(sizes, float), np.asarray(steps, float)
  sizes, steps = sizes[np.isfinite(steps)], steps[np.isfinite(steps)]

  def rest(log_critical: float) -> Any:
    return np.log(steps / (1 + np.exp(log_critical) / sizes))

  bounds = np.log(sizes.min() / 100), np.log(sizes.max() * 100)
  best = minimize_scalar(lambda critical: rest(critical).var(), bounds=bounds, method="bounded")
  return float(np.exp(rest(best.x).mean())), float(np.exp(best.x))


def deviations(results: dict[str, Any]) -> Any:
  """(mean - exact) / standard error of tr Σ and of ‖G‖², `[seeds, moments, sizes, 2]`."""
  exact, found = checks_of(results)
  return (found[..., :2, 0] - exact[:, :, None]) / found[..., :2, 1]


def checks_of(results: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """The exact values `[seeds, moments, 2]`; mean and error of estimates `[.., sizes, 3, 2]`."""
  checks = [own["checks"] for own in results["seeds"].values()]
  exact = np.array([[check["exact"] for check in own] for own in checks])
  return exact, np.array([[check["estimates"] for check in own] for own in checks])


def tradeoffs(results: dict[str, Any]) -> dict[float, dict[str, Any]]:
  """For each target the best rates; and of each seed the steps, the fit, and what was predicted.

  A rate is the best one for all seeds together, by the median of their steps; a seed that didn't
  get there counts as infinitely many.
  """
  sweep = np.array([own["sweep"] for own in results["seeds"].values()], float)
  sizes, rates, targets = (results["settings"][name] for name in ("sizes", "rates", "targets"))
  table = {}
  for target, of in zip(targets, np.moveaxis(sweep, 3, 0), strict=True):  # [seeds, sizes, rates, 2]
    best = np.median(np.nan_to_num(of[..., 0], nan=np.inf), 0).argmin(1)
    steps = of[:, np.arange(len(sizes)), best, 0]
    table[target] = {
      "rates": [rates[k] for k in best],
      "steps": steps,
      "critical": np.array([fit_tradeoff(sizes, own)[1] for own in steps]),
      "predicted": of[:, -1, best[-1], 1],
    }
  return table


def middle(values: Any) -> str:
  """Median, and least and most in brackets."""
  return f"{np.median(values):.3g} ({np.min(values):.3g} to {np.max(values):.3g})"


def tell(results: dict[str, Any]) -> None:
  """Prints what was found, as the median over seeds, with the least and the most."""
  z = deviations(results)
  print(
    f"1. Of {z.size} means {np.mean(abs(z) < 2):.0%} are within two standard errors of the exact"
  )
  print(f"   value, and the farthest is {abs(z).max():.1f} of them away.")
  print("2. Along the long run:")
  runs = [own["long"] for own in results["seeds"].values()]
  losses, scales = (np.array([run[name] for run in runs], float) for name in ("loss", "scale"))
  for k, step in enumerate(runs[0]["step"]):
    print(f"   step {step:5.0f}: loss {middle(losses[:, k])}, noise scale {middle(scales[:, k])}")
  print("3. Steps down to a loss, with the best rate for each batch size:")
  for target, own in tradeoffs(results).items():
    ratio = middle(own["predicted"] / own["critical"])
    print(f"   loss {target}: critical batch size {middle(own['critical'])}, noise scale", end=" ")
    print(f"{middle(own['predicted'])}, {ratio} times as large")
    for size, rate, steps in zip(
      results["settings"]["sizes"], own["rates"], own["steps"].T, strict=True
    ):
      print(f"     B = {size:4}, rate {rate:5}: {middle(steps)} steps")


def draw_figure(results: dict[str, Any], file: Path) -> None:
  """The estimates, the noise scale along a run, the trade-off, and what was predicted of it."""
  figure = Figure((9, 7.4), 96, layout="constrained")
  (bias, run), (tradeoff, prediction) = figure.subplots(2, 2)
  draw_estimates(results, bias, run)
  draw_tradeoffs(results, tradeoff, prediction)
  for axes in (bias, run, tradeoff, prediction):
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)
  bias.set_ylim(bottom=0.02)
  bias.legend(frameon=False, ncols=2, loc="lower center")
  figure.savefig(file)


def draw_estimates(results: dict[str, Any], bias: Any, run: Any) -> None:
  """Claims 1 and 2."""
  exact, found = checks_of(results)
  moments, sizes = results["settings"]["moments"], results["settings"]["checked_sizes"]
  means, errors = np.moveaxis(found[..., 1:, :] / exact[:, :, 1:, None, None], -1, 0)
  errors = 2 * (errors**2).mean(0) ** 0.5 / len(errors) ** 0.5  # Two, of the mean over the seeds.
  for moment, mean, error, color in zip(moments, means.mean(0), errors, COLORS, strict=False):
    bias.errorbar(sizes, mean[:, 0], error[:, 0], fmt="o-", color=color, capsize=3)
    bias.plot(sizes, mean[:, 1], "s:", color=color, mfc="white", label=f"after {moment:,} steps")
  bias.set(xlabel="batch size", ylabel="mean estimate / exact value")
  bias.set_title("1. ‖G‖²: debiased (●), the batch's own (□)")
  runs = [own["long"] for own in results["seeds"].values()]
  scales = np.array([own["scale"] for own in runs], float)
  run.plot(runs[0]["step"], scales.T, color="#bbbbbb", lw=0.8)
  run.plot(runs[0]["step"], np.median(scales, 0), color="#222222", label="median of the seeds")
  for moment, own in zip(moments, np.moveaxis(exact, 1, 0), strict=True):
    label = "all examples, at one moment" if moment == moments[0] else None
    run.plot([moment] * len(own), own[:, 0] / own[:, 1], "D", color=COLORS[1], ms=4, label=label)
  run.set(xlabel="step", ylabel="tr Σ / ‖G‖², in examples", title="2. The noise scale along a run")


def draw_tradeoffs(results: dict[str, Any], tradeoff: Any, prediction: Any) -> None:
  """Claim 3."""
  sizes = np.array(results["settings"]["sizes"])
  fine = np.geomspace(sizes[0] / 2, sizes[-1] * 2)
  reach = []
  for (target, own), color in zip(tradeoffs(results).items(), COLORS, strict=False):
    steps = np.median(own["steps"], 0)
    least, critical = fit_tradeoff(sizes, steps)
    tradeoff.plot(least * (1 + critical / fine), least * (fine + critical), color=color, lw=1)
    tradeoff.plot(steps, steps * sizes, "o", color=color, label=f"loss {target}")
    prediction.plot(own["predicted"], own["critical"], "o", color=color, label=f"loss {target}")
    reach += [*own["predicted"], *own["critical"]]
  ends = [min(reach) / 1.3, max(reach) * 1.3]
  prediction.plot(ends, ends, color="#888888", lw=1)
  tradeoff.set(xlabel="steps $S$", ylabel="examples $E = B S$")
  tradeoff.set_title(f"3. What a loss costs, B from {sizes[0]} to {sizes[-1]:,}")
  prediction.set(xlabel="mean noise scale, largest batch", ylabel="critical batch size, fitted")
  prediction.set_title("4. Predicted and found; one dot a seed")
