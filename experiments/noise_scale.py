"""How large should a batch be? What the noise scale says of it, and what training says, on digits.

The noise scale tr Σ / ‖G‖² holds the scatter of the examples' gradients against their mean. Three
claims of its paper, McCandlish et al., "An empirical model of large-batch training"
(arXiv:1812.06162, 2018), are held here against scikit-learn's digits, over five seeds:

1. Small batches tell it without bias. At fixed parameters the mean of thousands of estimates of
   tr Σ, and of ‖G‖², is held against the value of all 1,797 examples by `jax.grad`, in standard
   errors. Beside it stands the squared norm of the batch's gradient, which is too large.
2. It grows as the loss falls. A run with batches of 64 takes both estimates in every step, averages
   each over the last third or so of the steps made, and divides then.
3. It predicts the critical batch size. If noise costs what theory says, the steps S and examples
   E = B S down to some loss lie on (S / S_min - 1) (E / E_min - 1) = 1, and B_crit = E_min / S_min,
   where both are twice their least, is the mean of the noise scale over the steps of a very large
   batch. So networks are trained with batches of 8 to 1,024, each at its best rate, the hyperbola
   is fitted to their steps, and the noise scale is averaged over the steps of the largest.

  python experiments/noise_scale.py     three minutes on one core; draws docs/noise_scale.png

Examples are drawn with replacement, as theory has it: so batches of 1,024 are independent too.
Results are in results/noise_scale.json, and a seed that is there isn't measured again;
noise_scale_report.py fits, tells and draws.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from experiments import noise_scale_report
from experiments.common import load_digits, parse_files, read_results, write_results
from experiments.tour import plain_cost

NET = fb.mlp([64, 128, 64, 10], dense=fb.quantities.captured(fb.dense))
LOSS = fb.softmax_cross_entropy
LOOK = fb.quantities.compute(NET, LOSS, ("noise_scale",))
SEEDS = 5
SETTINGS: dict[str, Any] = {
  "moments": [10, 100, 1000, 10000],  # Steps after which the estimates are checked,
  "drawn": 2**18,  # by so many examples,
  "checked_sizes": [8, 32, 128, 512],  # in batches of these.
  "long": {"size": 64, "rate": 0.1, "steps": 16384},
  "sizes": [8, 16, 32, 64, 128, 256, 512, 1024],
  "rates": [round(float(2 ** (k / 2)), 3) for k in range(-7, 2)],  # From 0.09 to 1.4, by √2.
  "targets": [0.5, 0.2, 0.1, 0.05],
  "most_steps": 3000,
}

Data = tuple[jax.Array, jax.Array]  # x `[N, 64]` between 0 and 1, and labels `[N]`.


def ends_of(first: int, most: int, ratio: float) -> np.ndarray:
  """Steps after which to look at the loss: each is `ratio` times the one before."""
  looks = round(np.log(most / first) / np.log(ratio)) + 1
  return np.unique(np.rint(np.geomspace(first, most, looks)).astype(np.int32))


def draw(key: jax.Array, data: Data, size: int) -> Data:
  """A batch, with replacement."""
  x, labels = data
  rows = jax.random.randint(key, (size,), 0, len(labels))
  return x[rows], labels[rows]


def step(params: Any, batch: Data, rate: Any) -> tuple[Any, jax.Array]:
  """A step of gradient descent; and tr Σ and ‖G‖² as its batch has them, from the same pass."""
  _, grads, found = LOOK(params, *batch)
  params = jax.tree.map(lambda w, w_bar: w - rate * w_bar, params, grads)
  return params, jnp.stack(found["noise_scale"][1:])


@partial(jax.jit, static_argnames="size")
def train(key: jax.Array, data: Data, rate: Any, ends: jax.Array, until: Any, size: int) -> Any:
  """The parameters after gradient descent until the loss is `until`, or broken; and a row for each
  of `ends`: the loss of all examples there, and the means of tr Σ and of ‖G‖² over the steps since
  the end before. A row after the last step is NaN.
  """

  def stretch(carry: Any, end: jax.Array) -> Any:
    params, start, is_running = carry

    def one(i: jax.Array, carry: Any) -> Any:
      params, noise = step(carry[0], draw(jax.random.fold_in(key, i), data, size), rate)
      return params, carry[1] + noise / (end - start)

    def go_on() -> Any:
      after, noise = jax.lax.fori_loop(start, end, one, (params, jnp.zeros(2)))
      loss = LOSS.forward(NET.forward(after, data[0])[0], data[1])[0].mean()
      return (after, end, (loss > until) & (loss < 10)), jnp.append(loss, noise)

    return jax.lax.cond(is_running, go_on, lambda: (carry, jnp.full(3, jnp.nan)))

  start = NET.init(key), jnp.zeros((), ends.dtype), jnp.array(True)
  (params, _, _), curve = jax.lax.scan(stretch, start, ends)
  return params, curve


def sqnorm_of(grads: Any) -> Any:
  """‖g‖² over all parameters."""
  return sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))


@jax.jit
def exact_noise(params: Any, data: Data) -> jax.Array:
  """tr Σ and ‖G‖² over all examples, by `jax.grad` of the tour's network for each of them."""

  def of_one(example: Data) -> Any:
    x, label = example
    return sqnorm_of(jax.grad(plain_cost)(params, x[None], label[None]))

  sqnorm = sqnorm_of(jax.grad(plain_cost)(params, *data))
  return jnp.stack([jax.lax.map(of_one, data, batch_size=128).mean() - sqnorm, sqnorm])


@partial(jax.jit, static_argnames=("size", "draws"))
def estimate(params: Any, key: jax.Array, data: Data, size: int, draws: int) -> jax.Array:
  """Mean and standard error of tr Σ, of ‖G‖², and of the squared norm of the batch's gradient."""

  def look(key: jax.Array) -> jax.Array:
    _, grads, found = LOOK(params, *draw(key, data, size))
    return jnp.stack([*found["noise_scale"][1:], sqnorm_of(grads)])

  values = jax.lax.map(look, jax.random.split(key, draws))
  return jnp.stack([values.mean(0), values.std(0, ddof=1) / draws**0.5], 1)


def check_estimates(key: jax.Array, data: Data) -> list[dict[str, Any]]:
  """Claim 1: at some moments of the long run the exact values, and each batch size's estimates."""
  long, rows = SETTINGS["long"], []
  for moment in SETTINGS["moments"]:
    params, _ = train(key, data, long["rate"], jnp.array([moment]), 0.0, long["size"])
    found = []
    for size in SETTINGS["checked_sizes"]:
      own = jax.random.fold_in(jax.random.fold_in(key, moment), size)
      found.append(estimate(params, own, data, size, SETTINGS["drawn"] // size).tolist())
    rows.append({"exact": exact_noise(params, data).tolist(), "estimates": found})
  return rows


def run_long(key: jax.Array, data: Data) -> dict[str, list[float]]:
  """Claim 2: loss and noise scale along a run, each average over the stretch before its step."""
  long = SETTINGS["long"]
  ends = ends_of(8, long["steps"], 2**0.5)
  _, curve = train(key, data, long["rate"], jnp.array(ends), 0.0, long["size"])
  losses, traces, sqnorms = np.array(curve).T
  return {"step": ends.tolist(), "loss": losses.tolist(), "scale": (traces / sqnorms).tolist()}


def run_to_targets(key: jax.Array, data: Data, rate: float, size: int) -> list[list[float]]:
  """Claim 3: for each target the steps down to it and their mean noise scale; NaN if never."""
  ends, targets = ends_of(1, SETTINGS["most_steps"], 1.1), SETTINGS["targets"]
  _, curve = train(key, data, rate, jnp.array(ends), targets[-1], size)
  losses, traces, sqnorms = np.array(curve, float).T
  scales = np.cumsum(np.diff(ends, prepend=0) * traces / sqnorms) / ends
  found = []
  for target in targets:
    k = int((losses <= target).argmax())
    if k == 0:  # Never: it isn't in the first step.
      found.append([np.nan, np.nan])
      continue
    near = slice(k - 1, k + 1)  # The loss is a line, in logs, from the look before to this one.
    steps = np.interp(-np.log(target), -np.log(losses[near]), ends[near])
    found.append([float(steps), float(scales[k])])
  return found


def short(value: float) -> float | None:
  """Five digits; JSON has no NaN."""
  return float(f"{value:.5g}") if np.isfinite(value) else None


def main(arguments: list[str] | None = None) -> None:
  """Measures what isn't measured yet, says what follows, and draws it."""
  file, figure = parse_files("noise_scale", __doc__, arguments)
  results = read_results(file, SETTINGS)
  x, labels = map(jnp.asarray, load_digits())
  for seed in range(SEEDS):
    if str(seed) not in results["seeds"]:
      key, data = jax.random.key(seed), (x, labels)
      sweep = [[run_to_targets(key, data, rate, size) for rate in SETTINGS["rates"]]
               for size in SETTINGS["sizes"]]  # fmt: skip
      found = {"checks": check_estimates(key, data), "long": run_long(key, data), "sweep": sweep}
      results["seeds"][str(seed)] = jax.tree.map(short, found)
      write_results(results, file)
      print(f"seed {seed} is measured", flush=True)
  noise_scale_report.tell(results)
  noise_scale_report.draw_figure(results, figure)
  print(f"The picture: {figure}")


if __name__ == "__main__":
  main()
