"""Slopes at kinks and in saturation: fbackprop's beside those of JAX, PyTorch, TensorFlow.

  python scripts/slopes.py            measures what is installed here, and prints it
  python scripts/slopes.py --record   puts it into experiments/results/slopes.json, docs/slopes.md
  python scripts/slopes.py --check    measures again what is recorded of the versions that are here

At a kink there is no derivative, and each library has its choice; where a function saturates there
is one, of which rounding may leave nothing. Everything is in float32, on the CPU, eager. The column
of another version, or of a library that isn't needed here, is made by running --record with the
Python that has it: a library that is missing is left out.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Container, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # Also where fbackprop isn't installed, as beside torch alone.

from scripts import longdouble as true  # noqa: E402

RESULTS, PAGE = ROOT / "experiments/results/slopes.json", ROOT / "docs/slopes.md"
SMALLEST = 1.2e-38  # The smallest normal number; some processors flush those below to 0.
Slopes = dict[str, float]


class Row(NamedTuple):
  """A point at which slopes are compared.

  Attributes:
    gate: our name of the function.
    point: its inputs.
    by: the index of the varied input.
    truth: the slope, or the one-sided slopes, as displayed.
  """

  gate: str
  point: tuple[float, ...]
  by: int
  truth: str

  @property
  def key(self) -> str:
    """The key in the file: "relu(0)", "max(1, 1) by 0"."""
    inside = ", ".join(f"{x:g}" for x in self.point)
    return f"{self.gate}({inside})" + (f" by {self.by}" if len(self.point) > 1 else "")


# The kinks of functions of one input, with the one-sided slopes, ...
KINKS: dict[str, dict[float, str]] = {
  "relu": {0: "0 to 1"}, "leaky_relu": {0: "0.01 to 1"}, "relu6": {0: "0 to 1", 6: "0 to 1"},
  "hard_tanh": {-1: "0 to 1", 1: "0 to 1"}, "abs": {0: "-1 to 1"}, "elu": {0: "1"},
  "selu": {0: "1.051 to 1.758"},
}  # fmt: skip
# ... points of saturation ...
TAILS: dict[str, tuple[float, ...]] = {
  "elu": (-10, -20, -90), "selu": (-10, -20, -90), "sigmoid": (-90, -20, 10, 20, 90),
  "tanh": (-20, -5, 5, 9, 20), "softplus": (-90, -20, 20, 90), "gelu": (-10, -5, 5, 10),
  "gelu_tanh": (-10, -5, 5, 10), "silu": (-90, -20, 20, 90), "mish": (-90, -20, 20, 90),
}  # fmt: skip
# ... and the slopes at -∞ and ∞.
LIMITS = {
  "relu": ("0", "1"), "leaky_relu": ("0.01", "1"), "relu6": ("0", "0"), "hard_tanh": ("0", "0"),
  "abs": ("-1", "1"), "elu": ("0", "1"), "selu": ("0", "1.051"), "sigmoid": ("0", "0"),
  "tanh": ("0", "0"), "softplus": ("0", "1"), "gelu": ("0", "1"), "gelu_tanh": ("0", "1"),
  "silu": ("0", "1"), "mish": ("0", "1"),
}  # fmt: skip
OTHERS = (
  Row("sqrt", (0,), 0, "∞"),
  Row("power", (0, 0), 0, "0"),
  Row("power", (0, 1), 0, "1"),
  Row("power", (0, 2), 1, "0"),
  Row("power", (-2, 2), 0, "-4"),
  Row("power", (-2, 2), 1, "none"),
)


def rows() -> list[Row]:
  """Return all rows, function by function."""
  found = []
  for name, limits in LIMITS.items():
    found += [Row(name, (x,), 0, shown) for x, shown in KINKS.get(name, {}).items()]
    for x in TAILS.get(name, ()):
      _, terms = getattr(true, name)(np.asarray([x], np.longdouble))
      found.append(Row(name, (x,), 0, show(float(np.sum(terms)))))
    found += [Row(name, (x,), 0, shown) for x, shown in zip((-np.inf, np.inf), limits, strict=True)]
  for name in ("max", "min"):
    for point in ((1.0, 1.0), (2.0, 2.0, 2.0)):
      found += [Row(name, point, by, "0 to 1") for by in range(len(point))]
  return [*found, *OTHERS]


# --- The libraries --------------------------------------------------------------------------------


SAME_NAMES = ("relu", "leaky_relu", "relu6", "sigmoid", "softplus", "elu", "selu", "silu")


def ours() -> tuple[str, Slopes]:
  """Return fbackprop's backward rules, on the installed JAX."""
  import jax
  import jax.numpy as jnp

  from fbackprop import gates

  def slope(row: Row) -> float:
    gate = getattr(gates, row.gate)
    y, residuals = gate.forward(*map(jnp.float32, row.point))
    return float(gate.backward(residuals, jnp.ones_like(y))[row.by])

  return f"fbackprop on jax {jax.__version__}", measured(slope, dir(gates))


def jaxs() -> tuple[str, Slopes]:
  """Return `jax.grad` of the functions of `jax.nn` and `jax.numpy`."""
  import jax
  import jax.numpy as jnp

  functions: dict[str, Callable[..., Any]] = {
    **{name: getattr(jax.nn, name) for name in (*SAME_NAMES, "hard_tanh", "mish")},
    **{name: getattr(jnp, name) for name in ("tanh", "abs", "sqrt", "power")},
    "gelu": partial(jax.nn.gelu, approximate=False), "gelu_tanh": jax.nn.gelu,
    **extremes(jnp, ""),
  }  # fmt: skip

  def slope(row: Row) -> float:
    return float(jax.grad(functions[row.gate], row.by)(*map(jnp.float32, row.point)))

  return f"jax {jax.__version__}", measured(slope, functions)


def torchs() -> tuple[str, Slopes]:
  """Return the functions of `torch.nn.functional` and `torch`."""
  torch: Any = import_module("torch")
  functional = torch.nn.functional

  functions: dict[str, Callable[..., Any]] = {
    **{name: getattr(functional, name) for name in (*SAME_NAMES, "mish", "gelu")},
    **{name: getattr(torch, name) for name in ("tanh", "abs", "sqrt")}, "power": torch.pow,
    "hard_tanh": functional.hardtanh, "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    **extremes(torch, "a"),
  }  # fmt: skip

  def slope(row: Row) -> float:
    inputs = [torch.tensor(float(x), requires_grad=True) for x in row.point]
    functions[row.gate](*inputs).backward()
    return float(inputs[row.by].grad)

  return f"torch {torch.__version__.partition('+')[0]}", measured(slope, functions)


def tensorflows() -> tuple[str, Slopes]:
  """Return the functions of `tf.nn` and `tf.math`."""
  tf: Any = import_module("tensorflow")

  functions: dict[str, Callable[..., Any]] = {
    **{name: getattr(tf.nn, name) for name in (*SAME_NAMES, "tanh")},
    "leaky_relu": partial(tf.nn.leaky_relu, alpha=0.01), "abs": tf.math.abs, "sqrt": tf.math.sqrt,
    "hard_tanh": partial(tf.clip_by_value, clip_value_min=-1, clip_value_max=1),
    "gelu": partial(tf.nn.gelu, approximate=False),
    "gelu_tanh": partial(tf.nn.gelu, approximate=True), "power": tf.math.pow,
    **extremes(tf, "reduce_"),
  }  # fmt: skip

  def slope(row: Row) -> float:
    inputs = [tf.Variable(float(x)) for x in row.point]
    with tf.GradientTape() as tape:
      y = functions[row.gate](*inputs)
    return float(tape.gradient(y, inputs[row.by]))

  return f"tensorflow {tf.__version__}", measured(slope, functions)


def extremes(library: Any, prefix: str) -> dict[str, Callable[..., Any]]:
  """Return the maximum and minimum of some numbers: a library's of two of them, or of a vector."""

  def extreme(name: str, *xs: Any) -> Any:
    if len(xs) == 2:
      return getattr(library, f"{name}imum")(*xs)
    return getattr(library, prefix + name)(library.stack(xs), 0)

  return {name: partial(extreme, name) for name in ("max", "min")}


def measured(slope: Callable[[Row], float], names: Container[str]) -> Slopes:
  """Return a library's slope at each row whose function it has."""
  return {row.key: slope(row) for row in rows() if row.gate in names}


# --- The table ------------------------------------------------------------------------------------


def measure() -> dict[str, Slopes]:
  """Return the columns of the installed libraries."""
  columns: dict[str, Slopes] = {}
  for library in (ours, jaxs, torchs, tensorflows):
    try:
      columns.update([library()])
    except ModuleNotFoundError as error:
      if error.name not in ("jax", "torch", "tensorflow"):
        raise
  return columns


def show(x: float | None) -> str:
  """Format a slope for the table."""
  if x is None:
    return "–"
  if not math.isfinite(x):
    return "NaN" if math.isnan(x) else "∞" if x > 0 else "-∞"
  return f"{x + 0.0:.4g}" if x == 0 or abs(x) >= 1e-3 else f"{x:.1e}"


def order(heading: str) -> tuple[int, list[int]]:
  """Return the sort key: ours first, and each library's versions from old to new."""
  library, _, version = heading.rpartition(" ")
  place = ("fbackprop on jax", "jax", "torch", "tensorflow").index(library)
  return place, [int(part) for part in version.split(".") if part.isdigit()]


def table(columns: Mapping[str, Slopes]) -> list[str]:
  """Format the columns as lines of a Markdown table, with equal ones of one library merged."""
  versions: dict[tuple[str, ...], list[str]] = {}
  for heading in sorted(columns, key=order):
    library, _, version = heading.rpartition(" ")
    shown = (show(columns[heading].get(row.key)) for row in rows())
    versions.setdefault((library, *shown), []).append(version)
  heads = (f"{library} {', '.join(own)}" for (library, *_), own in versions.items())
  table = [["function", "at", "by input", "slope", *heads]]
  for row, *cells in zip(rows(), *(shown for _, *shown in versions), strict=True):
    at = ", ".join(show(x) for x in row.point)
    table.append([row.gate, at, "" if len(row.point) == 1 else str(row.by + 1), row.truth, *cells])
  lines = [f"| {' | '.join(cells)} |" for cells in table]
  return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def page(columns: Mapping[str, Slopes]) -> str:
  """Return docs/slopes.md; the text around its table is hand-written there."""
  between = re.compile("(?<=<!-- table -->\n).*(?=<!-- end of table -->\n)", re.DOTALL)
  lines = "\n".join(table(columns))
  return between.sub(lambda _: f"\n{lines}\n\n", PAGE.read_text("utf-8"))


def differences(recorded: Mapping[str, Slopes], now: Mapping[str, Slopes]) -> list[str]:
  """Return the differences from the recorded slopes, for the versions in both."""
  return [
    f"{heading}: {key}: recorded {show(then)}, here {show(value)}"
    for heading in (heading for heading in now if heading in recorded)
    for key, value in now[heading].items()
    if (then := recorded[heading].get(key)) is None or not same(then, value)
  ]


def same(a: float, b: float) -> bool:
  """Return whether two slopes are equal up to the rounding of another processor."""
  are_nan = math.isnan(a) and math.isnan(b)
  return are_nan or math.isclose(a, b, rel_tol=1e-4, abs_tol=SMALLEST)


def read() -> dict[str, Slopes]:
  """Read the recorded columns; words represent NaN and infinity, which JSON lacks."""
  columns = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
  return {head: {k: float(v) for k, v in column.items()} for head, column in columns.items()}


def write(columns: Mapping[str, Slopes]) -> None:
  """Record the columns, and generate the page from them."""
  plain = {
    heading: {k: v if math.isfinite(v) else str(v) for k, v in columns[heading].items()}
    for heading in sorted(columns, key=order)
  }
  RESULTS.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", "utf-8")
  PAGE.write_text(page(columns), "utf-8")


def main(arguments: list[str] | None = None) -> int:
  """Measure, and print, record or compare the slopes; return 1 after a difference."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--record", action="store_true", help="write the results and the page")
  parser.add_argument("--check", action="store_true", help="compare with the results and the page")
  options = parser.parse_args(arguments)
  now = measure()
  if options.record:
    write({**read(), **now})
    print(f"recorded: {', '.join(now)}")
    return 0
  if not options.check:
    print("\n".join(table(now)))
    return 0
  recorded = read()
  found = differences(recorded, now)
  if PAGE.read_text("utf-8") != page(recorded):
    found.append(f"{PAGE.name} isn't the page of {RESULTS.name}: python scripts/slopes.py --record")
  print("\n".join(found) or f"as recorded: {', '.join(h for h in now if h in recorded)}")
  return int(bool(found))


if __name__ == "__main__":
  raise SystemExit(main())
