"""The error of the rules in units in the last place (ULP), in float32, beside that of their peers.

  python scripts/accuracy.py                  all activation gates and losses; some seconds
  python scripts/accuracy.py --json FILE      also writes the numbers to a file

Ours is the value of the forward rule and the result of the backward rule; the peer is `jax.nn`, or
optax, or the usual formula, with `jax.grad`. The truth is in `longdouble.py`.

A sum of terms of both signs may cancel, and no computation that rounds the terms is then accurate:
the error is measured in units of the largest term. Results below 1e-30 aren't counted, nor is
z = 0, a kink. An error of 2^24 = 1.68e+07 means that no digit is right.
`tests/rules/test_extremes.py` tests bounds on the losses by the same functions.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop.verify.cases import ACTIVATIONS, TITLED
from scripts import longdouble as true
from scripts.longdouble import Terms

LEAST = 1e-30


class Row(NamedTuple):
  """A gate or a loss, its peer, and the truth.

  Attributes:
    name: the name in the table, with the range.
    unit: a `Gate` of one input, or a `Loss`.
    peer: the peer's function of the same arguments; for a loss, one number for each example.
    truth: a function of the arguments in longdouble: the terms of the values and those of the
      slopes.
    arguments: x, or (outputs, targets).
  """

  name: str
  unit: fb.Gate | fb.Loss
  peer: Callable[..., Any]
  truth: Callable[..., tuple[Terms, Terms]]
  arguments: tuple[np.ndarray, ...]


def ulps(got: Any, terms: Terms) -> np.ndarray:
  """Return a result's errors, in float32 ULP of its largest term, where that is above 1e-30."""
  largest = np.max([np.abs(term) for term in terms], axis=0)
  counted = (largest > LEAST) & (largest < np.finfo(np.float32).max)
  error = np.abs(np.asarray(got).astype(np.longdouble) - np.sum(terms, axis=0))
  return (error / np.spacing(largest.astype(np.float32)))[counted]


# --- The peers ------------------------------------------------------------------------------------


def summed(loss: Callable[..., Any]) -> Callable[..., Any]:
  """Return an elementwise loss of optax, summed over outputs."""
  return lambda outputs, targets: loss(outputs, targets).sum(1)


# --- The table ------------------------------------------------------------------------------------


def line(largest: float, smallest: float = 1e-6) -> np.ndarray:
  """Return points of both signs, spaced logarithmically and linearly, without 0."""
  sizes = np.geomspace(smallest, largest, 20_000)
  points = np.concatenate([-sizes, sizes, np.linspace(-largest, largest, 20_000)])
  return points.astype(np.float32)


def one_output(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
  """Return examples of a single output, so that no sum hides an error."""
  return outputs[:, None], np.broadcast_to(targets, outputs.shape).astype(np.float32)[:, None]


def classes(kind: str, scale: float, n: int = 20_000, c: int = 10) -> tuple[np.ndarray, np.ndarray]:
  """Return logits of a scale, with half of the labels at the largest logit and half anywhere."""
  rng = np.random.default_rng(int(scale))
  logits = (scale * rng.normal(size=(n, c))).astype(np.float32)
  labels = np.where(np.arange(n) % 2, logits.argmax(1), rng.integers(0, c, n)).astype(np.int32)
  if kind == "soft targets":
    return logits, rng.dirichlet(np.ones(c), n).astype(np.float32)
  return logits, labels if kind == "labels" else np.eye(c, dtype=np.float32)[labels]


REACH = {
  **dict.fromkeys(("relu", "leaky_relu", "relu6", "hard_tanh", "identity"), "1e4"),
  "tanh": "34", "gelu": "10", "gelu_tanh": "10",
}  # fmt: skip
"""The distance from 0 up to which a gate is measured; others to 68, where e^-z is near `LEAST`."""
# Their references differ from `jax.nn` in the derivative at the kinks.
PEERS = {name: getattr(jax.nn, name) for name in ("leaky_relu", "relu6", "hard_tanh")}


def peer_of(activation: str) -> Callable[[Any], Any]:
  """Return an activation of `jax.nn`."""
  return PEERS.get(activation) or partial(TITLED[activation].reference, ())


def gate_rows() -> list[Row]:
  """Return a row for each activation gate that `longdouble` knows."""
  names = [row.title for row in ACTIVATIONS if hasattr(true, row.title)]
  return [
    Row(f"{name} ±{reach}", getattr(fb.gates, name), peer_of(name), getattr(true, name),
        (line(float(reach)),))
    for name, reach in ((name, REACH.get(name, "68")) for name in names)
  ]  # fmt: skip


def loss_rows() -> list[Row]:
  """Return a row for each loss, and for each kind of target and scale of the logits."""
  o = optax.losses
  errors = one_output(line(1e4, 1e-12), np.zeros(()))
  rates = one_output(line(80), np.arange(60_000) % 5)
  soft = one_output(line(80), (np.arange(60_000) % 11) / 10)
  rows = [
    Row("squared_error   ±1e4", fb.squared_error, summed(o.l2_loss), true.squared_error, errors),
    Row("huber           ±1e4", fb.huber, summed(o.huber_loss), true.huber, errors),
    Row("log_cosh        ±1e4", fb.log_cosh, summed(o.log_cosh), true.log_cosh, errors),
    # optax has none; this is its formula.
    Row("poisson_nll      ±80", fb.poisson_nll, summed(lambda z, t: jnp.exp(z) - t * z),
        true.poisson_nll, rates),
    Row("sigmoid_cross_entropy ±80", fb.sigmoid_cross_entropy,
        summed(o.sigmoid_binary_cross_entropy), true.sigmoid_cross_entropy, soft),
    Row("hinge       scale 10", fb.hinge, o.multiclass_hinge_loss, true.hinge,
        classes("labels", 10)),
  ]  # fmt: skip
  peers = dict.fromkeys(("labels", "one-hot rows", "soft targets"), o.softmax_cross_entropy)
  peers["labels"] = o.softmax_cross_entropy_with_integer_labels
  return rows + [
    Row(f"softmax_cross_entropy, {kind}, scale {scale}", fb.softmax_cross_entropy, peer,
        true.softmax_cross_entropy, classes(kind, scale))
    for kind, peer in peers.items() for scale in (1, 10, 50, 1000)
  ]  # fmt: skip


# --- Measuring ------------------------------------------------------------------------------------


def our_value_and_slope(unit: fb.Gate | fb.Loss) -> Callable[..., tuple[Any, Any]]:
  """Return the value, and the result of the backward rule for a cotangent of ones."""

  def run(*arguments: Any) -> tuple[Any, Any]:
    y, residuals = unit.forward(*arguments)
    x_bar = unit.backward(residuals, jnp.ones_like(y))
    return y, x_bar[0] if isinstance(unit, fb.Gate) else x_bar

  return run


def peer_value_and_slope(peer: Callable[..., Any], x: Any, *targets: Any) -> tuple[Any, Any]:
  """Return the value of the peer, and its slope by autodiff."""
  y, pull = jax.vjp(lambda x: peer(x, *targets), x)
  return y, pull(jnp.ones_like(y))[0]


def measure(row: Row) -> dict[str, Any]:
  """Return the largest and the median error, forward and backward, of ours and of the peer."""
  as_truth = (a.astype(np.longdouble) if a.dtype == np.float32 else a for a in row.arguments)
  with np.errstate(over="ignore", under="ignore"):
    truths = row.truth(*as_truth)
  found: dict[str, Any] = {"name": " ".join(row.name.split())}
  peer: Any = partial(peer_value_and_slope, row.peer)
  for who, run in zip(("ours", "peer"), (our_value_and_slope(row.unit), peer), strict=True):
    results = jax.jit(run)(*map(jnp.asarray, row.arguments))
    for direction, got, terms in zip(("forward", "backward"), results, truths, strict=True):
      errors = ulps(got, terms)
      found[f"{who} {direction}"] = {"max": float(errors.max()), "median": float(np.median(errors))}
  return found


def main(arguments: list[str] | None = None) -> int:
  """Print the table, and optionally write it to a file."""
  parser = argparse.ArgumentParser(description="Errors of the rules in ULP, in float32.")
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
  options = parser.parse_args(arguments)
  columns = [f"{who} {way}" for way in ("forward", "backward") for who in ("ours", "peer")]
  print(f"{'ULP of float32: max (median)':48}" + "".join(f"{name:>22}" for name in columns))
  table = []
  for found in map(measure, (*gate_rows(), *loss_rows())):
    table.append(found)
    cells = ("{max:>13.3g} ({median:6.2g})".format_map(found[name]) for name in columns)
    print(f"{found['name']:48}{''.join(cells)}", flush=True)
  if options.json:
    about = {"jax": jax.__version__, "device": jax.devices()[0].platform, "dtype": "float32"}
    options.json.write_text(json.dumps({**about, "rows": table}, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
