"""The cost of curvature over a plain gradient, its memory beside `jax.hessian`, K-FAC's steps.

"mnist" times each function on a network of 784-512-512-10; "peers" times BackPACK and curvlinops
in turns with ours, each relative to the plain gradient of its own library; "hessian" compiles the
diagonal of the Hessian of a tanh network beside all of it by autodiff, which isn't run; "kfac"
trains on all digits as one batch, from three seeds, beside gradient descent with momentum at its
best stable rate.
"""

import json
import re
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop import curvature as c
from scripts.benchmarks.models import cycling, draw_inputs, our_net, our_step
from scripts.benchmarks.quantities import in_bytes
from scripts.benchmarks.rounds import measure, quartiles, shown
from scripts.benchmarks.subjects import SIZES, Size
from scripts.campaigns import results

EXPLANATION = """\
over: a call's time over a plain gradient's within a round; flops, bytes: the compiler's count of
operations and of memory traffic over the gradient's; temp: its count of scratch memory
"""
PEERS_EXPLANATION = """\
over: a call's time over the plain gradient's of its own library within a round; times: a peer's
over, over that of ours beside it, above 1 where ours costs less; "gradient +": the gradient too
"""
PACKAGES = {"torch": "torch", "backpack": "backpack-for-pytorch",
            "curvlinops": "curvlinops-for-pytorch"}  # fmt: skip
PEER_LINE = "{:<36} {:>9} {:>7} {:>7} {:>15}  {}"
LINE = "{:<36} {:>9} {:>7} {:>15} {:>7} {:>7} {:>10}"
COLUMNS = LINE.format("", "a call", "over", "quartiles", "flops", "bytes", "temp")
NARROW = Size((64, 64, 64, 10), 128)
CHUNK = 8
TARGET_LOSS, SEEDS, MOST_STEPS = 0.01, (0, 1, 2), 600
RATES = (0.1, 0.3, 1.0)
KFAC: dict[str, Any] = {"damping": 0.01, "adapt_damping": True, "decay": 0.0}


def functions_of(size: Size) -> dict[str, Callable[..., Any]]:
  """Build the functions `(params, x, targets) -> anything`; the first is the baseline."""
  net, loss = our_net(size)
  key = jax.random.key(0)

  def with_vector(make: Callable[..., Any]) -> Callable[..., Any]:
    product = make(net, loss)
    return lambda params, x, targets: product(params, x, targets, params)

  def factors(**options: Any) -> Callable[..., Any]:
    f = c.kronecker_factors(net, loss, **options)
    drawn = {"sample_key": key} if options.get("kind") == "monte_carlo" else {}
    return lambda *arguments: f(*arguments, **drawn)

  return {
    "plain gradient": our_step(size),
    "hessian_vector_product": with_vector(c.hessian_vector_product),
    "ggn_vector_product": with_vector(c.ggn_vector_product),
    "ggn_diagonal": c.ggn_diagonal(net, loss),
    "hesscale_diagonal": c.hesscale_diagonal(net, loss),
    "kronecker_factors, exact": factors(),
    "kronecker_factors, monte_carlo": factors(kind="monte_carlo"),
    "kronecker_factors, empirical": factors(kind="empirical"),
    "monte_carlo, with the gradient": factors(kind="monte_carlo", gradient=True),
  }


def with_gradient(size: Size) -> dict[str, Callable[..., Any]]:
  """Build the functions that return the mean loss and its gradient, too, as BackPACK does."""
  (net, loss), key = our_net(size), jax.random.key(0)
  step = our_step(size)

  def beside(f: Callable[..., Any], **drawn: Any) -> Callable[..., Any]:
    return lambda *arguments: (step(*arguments), f(*arguments, **drawn))

  factors = c.kronecker_factors(net, loss, kind="monte_carlo", gradient=True)
  return {
    "gradient + ggn_diagonal": beside(c.ggn_diagonal(net, loss)),
    "gradient + ggn_diagonal, samples=1": beside(
      c.ggn_diagonal(net, loss, samples=1), sample_key=key
    ),
    "gradient + kronecker_factors, exact": c.kronecker_factors(net, loss, gradient=True),
    "gradient + kronecker_factors, monte_carlo": lambda *a: factors(*a, sample_key=key),
  }


def counts_of(compiled: Any) -> tuple[float, float]:
  """Return the compiler's counts of operations and of bytes that are read and written."""
  found = compiled.cost_analysis()
  return found["flops"], found["bytes accessed"]


def time_mnist(rounds: int) -> list[dict[str, Any]]:
  """Time all functions in turns."""
  size = SIZES["mnist"]
  params, batches = draw_inputs(size)
  functions = functions_of(size)
  compiled: dict[str, Any] = {
    name: jax.jit(f).lower(params, *batches[0]).compile() for name, f in functions.items()
  }
  measured = measure([cycling(one, params, batches) for one in compiled.values()], rounds)
  base = next(iter(compiled))
  flops, traffic = counts_of(compiled[base])
  print(f"mnist: {'-'.join(map(str, size.widths))}, N = {size.batch}; {measured}\n{COLUMNS}")
  rows = []
  for (name, one), seconds in zip(compiled.items(), measured.seconds.T, strict=True):
    low, over, high = quartiles(seconds / measured.seconds[:, 0])
    own_flops, own_traffic = counts_of(one)
    rows.append(row := {
      "size": "mnist", "candidate": name, "seconds": float(np.median(seconds)), "over": over,
      "quartiles": [low, high], "flops": own_flops / flops, "bytes": own_traffic / traffic,
      "temp_bytes": one.memory_analysis().temp_size_in_bytes, **measured.figures,
      "date": date.today().isoformat(),
    })  # fmt: skip
    print(LINE.format(
      name, shown(row["seconds"]), f"{over:.3f}", f"{low:.3f}-{high:.3f}", f"{row['flops']:.2f}",
      f"{row['bytes']:.2f}", in_bytes(row["temp_bytes"]),
    ), flush=True)  # fmt: skip
  return rows


def time_peers(rounds: int) -> list[dict[str, Any]]:
  """Time BackPACK and curvlinops in turns with ours, each over its own plain gradient."""
  missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
  if missing:
    print(f"peers: not installed: pip install {' '.join(missing)}", flush=True)
    return []
  size = SIZES["mnist"]
  params, batches = draw_inputs(size)
  theirs = import_module("scripts.benchmarks.curvature_torch").peers_of(size)
  ours = {**functions_of(size), **with_gradient(size)}
  ours = {peer.ours: ours[peer.ours] for peer in theirs.values()}
  compiled: dict[str, Any] = {
    name: jax.jit(f).lower(params, *batches[0]).compile() for name, f in ours.items()
  }
  calls = [cycling(one, params, batches) for one in compiled.values()]
  measured = measure([*calls, *(peer.call for peer in theirs.values())], rounds)
  seconds = dict(zip([*ours, *theirs], measured.seconds.T, strict=True))
  print(
    f"{PEERS_EXPLANATION}peers: {'-'.join(map(str, size.widths))}, N = {size.batch}; {measured}"
  )
  print(PEER_LINE.format("", "a call", "over", "times", "quartiles", "ours"))
  told = {
    **measured.figures,
    "date": date.today().isoformat(),
    "versions": {package: metadata.version(package) for package in ("jax", *PACKAGES.values())},
  }
  base, rows = next(iter(theirs)), []
  for name, own in seconds.items():
    held = theirs[name].ours if name in theirs else None
    over = own / seconds[base if name in theirs else theirs[base].ours]
    row: dict[str, Any] = {
      "size": "peers", "candidate": name, "seconds": float(np.median(own)),
      "over": float(np.median(over)), "ours": held, "times": None, "quartiles": None,
    }  # fmt: skip
    if name in compiled:
      row["flops"] = counts_of(compiled[name])[0] / counts_of(compiled[theirs[base].ours])[0]
    cells = ["", "", ""]
    if held and name != base:
      low, times, high = quartiles(over / (seconds[held] / seconds[theirs[base].ours]))
      row |= {"times": times, "quartiles": [low, high]}
      cells = [f"{times:.2f}", f"{low:.2f}-{high:.2f}", held]
    rows.append({**row, **told})
    print(PEER_LINE.format(name, shown(row["seconds"]), f"{row['over']:.2f}", *cells), flush=True)
  return rows


def compare_hessian(rounds: int) -> list[dict[str, Any]]:
  """Compare the scratch memory of the Hessian's diagonal with that of the Hessian by autodiff."""
  net, loss = fb.mlp(NARROW.widths, fb.tanh), fb.softmax_cross_entropy
  params, batches = draw_inputs(NARROW)
  flat, unravel = jax.flatten_util.ravel_pytree(params)

  def by_autodiff(flat: Any, x: Any, targets: Any) -> Any:
    def mean(flat: Any) -> Any:
      return loss.forward(net.forward(unravel(flat), x)[0], targets)[0].mean()

    return jnp.diagonal(jax.hessian(mean)(flat))

  candidates = {
    "jax.hessian, its diagonal": (by_autodiff, flat),
    "hessian_diagonal": (c.hessian_diagonal(net, loss), params),
    f"hessian_diagonal, chunk={CHUNK}": (c.hessian_diagonal(net, loss, chunk=CHUNK), params),
  }
  rows: list[dict[str, Any]] = []
  print(f"hessian: {'-'.join(map(str, NARROW.widths))}, tanh, N = {NARROW.batch}")
  for name, (f, at) in candidates.items():
    compiled: Any = jax.jit(f).lower(at, *batches[0]).compile()
    temp = compiled.memory_analysis().temp_size_in_bytes
    rows.append({"size": "hessian", "candidate": name, "temp_bytes": temp})
    print(f"{name:<36} temp {in_bytes(temp):>8}, {rows[0]['temp_bytes'] / temp:.0f} times less")
  return rows


def count_steps(rounds: int) -> list[dict[str, Any]]:
  """Count the steps, and the seconds, to a training loss on all digits as one batch."""
  from sklearn.datasets import load_digits

  data = load_digits()
  batch = jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target)
  net, loss = fb.mlp(NARROW.widths, fb.tanh), fb.softmax_cross_entropy
  contestants = {
    **{f"momentum 0.9, rate {rate:g}": optax.sgd(rate, momentum=0.9) for rate in RATES},
    "kfac": c.kfac(net, loss, **KFAC),
    "kfac, monte_carlo": c.kfac(net, loss, kind="monte_carlo", **KFAC),
  }
  rows = []
  print(f"kfac: {'-'.join(map(str, NARROW.widths))}, tanh, N = 1797, to a loss of {TARGET_LOSS}")
  for name, optimizer in contestants.items():
    init, step = fb.train.make_step(net, loss, optimizer)
    step(init(jax.random.key(0)), batch)  # Compiled before the clock starts.
    steps, seconds = [], []
    for seed in SEEDS:
      state, start = init(jax.random.key(seed)), time.perf_counter()
      reached = None
      for number in range(MOST_STEPS + 1):
        state, info = step(state, batch)
        if float(info.loss) < TARGET_LOSS:  # The loss before this step.
          reached = number
          break
      steps.append(reached)
      seconds.append(time.perf_counter() - start)
    rows.append({"size": "kfac", "candidate": name, "steps": steps, "seconds": seconds})
    shown_steps = ", ".join("not reached" if one is None else str(one) for one in steps)
    print(f"{name:<36} steps {shown_steps}; {', '.join(map(shown, seconds))}", flush=True)
  return rows


# --- The page -------------------------------------------------------------------------------------

PAGE, RESULT = (
  results.RESULTS.parents[1] / "docs" / "curvature.md",
  results.RESULTS / "curvature.json",
)
MARK = "<!-- peers: scripts/benchmarks/curvature.py -->\n"


def peers_table(rows: list[dict[str, Any]]) -> str:
  """Format the peers' rows in Markdown, one core beside two; empty if there are none."""
  found = [row for row in rows if row["size"] == "peers" and row["times"]]
  if not found:
    return ""
  cores = sorted({row["cores"] for row in found})
  lines = [
    "".join(f"| {cell} " for cell in ("theirs", "ours", *(
      f"{what}, {count} core{'s' * (count > 1)}"
      for count in cores for what in ("over its gradient", "times ours")
    ))) + "|",
    "|---" * (2 + 2 * len(cores)) + "|",
  ]  # fmt: skip
  for name in dict.fromkeys(row["candidate"] for row in found):
    own = {row["cores"]: row for row in found if row["candidate"] == name}
    cells = [name, f"`{own[cores[0]]['ours']}`"]
    for row in map(own.get, cores):
      low, high = row["quartiles"] if row else (0, 0)
      cells += (
        [f"{row['over']:.2f}", f"{row['times']:.2f} ({low:.2f}–{high:.2f})"] if row else ["", ""]
      )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n\n"


def with_table(text: str, rows: list[dict[str, Any]]) -> str:
  """Return the page with the peers' table."""
  before, _, after = text.partition(MARK)
  rest = re.sub(r"\A\n*(\|.*\n)*\n*", "", after)
  return f"{before}{MARK}\n{peers_table(rows)}{rest}"


PARTS = {"mnist": time_mnist, "peers": time_peers, "hessian": compare_hessian, "kfac": count_steps}


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Measure and print every part; return the rows for the file."""
  print(EXPLANATION)
  return [row for size in sizes for row in PARTS[size](rounds)]


if __name__ == "__main__":  # Writes the page's table from the committed results.
  committed = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
  PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), committed), encoding="utf-8")
