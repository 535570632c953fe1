"""`layer`: a network as a whole, and each of its layers with the cotangent that arrives there."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.checks import check_unit
from fbackprop.combinators import map_layers, name_layers
from fbackprop.transforms import pullback
from fbackprop.types import Array, Layer, Params, Residuals
from fbackprop.verify._vjp import verify_call, vjp
from fbackprop.verify.report.findings import Checked, Finding, first_verdict
from fbackprop.verify.report.report import Report
from fbackprop.verify.witnesses.arguments import entry_name


def layer(
  net: Layer,
  params: Params,
  x: Array,
  *,
  key: Array | None = None,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "reference",
) -> Report:
  """Verifies a `Layer`: the whole of it, and each layer in it by itself.

  The bounds of one layer alone are tight at any depth, so an error is found where it is made: the
  finding's leaf is that of the layer which is wrong, though everything upstream is wrong too.

  Args:
    net: a layer or a network of layers.
    params: its parameters.
    x: `[N, D_in]`.
    key: of a training pass; None for evaluation.
    level, seed, allowance, ties: as `vjp` takes them; at ties our layers state their choice in
      their forward rule, hence "reference".

  Returns:
    The `Report`. The leaf of a parameter is "params/1/w"; that of a layer's input cotangent is
    "input of 1.relu".

  Raises:
    UnusableError: the network can't be called so.
    TypeError, ValueError: as `vjp`.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([3, 8, 2])
    >>> report = layer(net, net.init(jax.random.key(0)), jax.numpy.ones((4, 3)), level="quick")
    >>> report.verdict
    'pass'
  """
  check_unit("layer", "net", net, Layer)
  start = time.monotonic()
  options: dict[str, Any] = {
    "level": level, "seed": seed, "allowance": allowance, "ties": ties,
  }  # fmt: skip
  args = (params, x) if key is None else (params, x, key)
  whole = vjp(forward_of(net), *args, f_vjp=vjp_of(net), **options)._replace(name=net.name)
  if "combinator" not in dict(net.options):
    return whole._replace(seconds=time.monotonic() - start)
  parts, missing = [], ""
  try:
    arrivals = list(arrivals_of(net, params, x, key, seed))
  except Exception as error:  # What it raises is among the findings of the whole.
    arrivals, missing = [], f"layer by layer: {type(error).__name__}: {error}"
  seen: set[Any] = set()
  for name, path, part, arrival in arrivals:
    shapes = (part.name, str(jax.tree.map(np.shape, (arrival.params, arrival.x))))
    own_level = level if shapes not in seen else "quick"
    seen.add(shapes)
    part_args = (arrival.params, arrival.x, *(() if arrival.key is None else (arrival.key,)))
    if not jax.tree.leaves(part_args):
      continue
    report = verify_call(
      name, forward_of(part), part_args, vjp_of(part), own_level, seed, allowance, ties,
      y_bar=[np.asarray(arrival.y_bar, np.float64)],
    )  # fmt: skip
    parts.append(placed(report, name, path))
  return joined(whole, parts, missing)._replace(seconds=time.monotonic() - start)


def forward_of(net: Layer) -> Callable[..., Array]:
  """The function that a layer is."""

  def forward(params: Params, x: Array, key: Array | None = None) -> Array:
    return net.forward(params, x, key)[0]

  return forward


def vjp_of(net: Layer) -> Callable[..., Any]:
  """Its rule, with a place for the cotangent of a key."""
  f_vjp = pullback(net)

  def with_key(params: Params, x: Array, *key: Array) -> Any:
    y, backward = f_vjp(params, x, *key)
    return y, lambda y_bar: (*backward(y_bar), *(None for _ in key))

  return with_key


class Arrival(NamedTuple):
  """What one layer is called with, forward and backward."""

  params: Params
  x: Array
  key: Array | None
  y_bar: Array


def arrivals_of(
  net: Layer, params: Params, x: Array, key: Array | None, seed: int
) -> Iterator[tuple[str, str, Layer, Arrival]]:
  """Each layer that isn't a composition, from last to first: name, path, layer, arrival."""
  found: list[Layer] = []

  def tapped(part: Layer) -> Layer:
    found.append(part)

    def tapped_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Any, Residuals]:
      y, residuals = part.forward(params, x, key)
      return y, (params, x, key, residuals)

    def tapped_backward(params: Params, kept: Residuals, y_bar: Array) -> tuple[Params, Array]:
      own_params, x, key, residuals = kept
      return Arrival(own_params, x, key, y_bar), part.backward(params, residuals, y_bar)[1]

    return part._replace(forward=tapped_forward, backward=tapped_backward)

  tapped_net = map_layers(tapped, net)
  y, residuals = tapped_net.forward(params, x, key)
  y_bar = np.random.default_rng([seed, 10, 0]).normal(size=y.shape)
  tree, _ = tapped_net.backward(params, residuals, jax.numpy.asarray(y_bar, y.dtype))
  with_paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_arrival)
  named = zip(name_layers(net), found, with_paths, strict=True)
  for name, part, (path, arrival) in reversed(list(named)):
    place = "/".join(["params", *map(entry_name, path)])
    if arrival.y_bar.ndim > y.ndim:  # Inside of a repeat: the last of its layers stands for all.
      arrival = jax.tree.map(lambda leaf: leaf[-1], arrival)
    yield name, place, part, arrival


def is_arrival(value: Any) -> bool:
  """Whether a node of a tree is one layer's `Arrival`."""
  return isinstance(value, Arrival)


def placed(report: Report, name: str, path: str) -> Report:
  """A layer's report, its leaves named as those of the network."""

  def leaf_of(leaf: str) -> str:
    if leaf.partition("/")[0] == "params":
      return path + leaf.removeprefix("params")
    return f"input of {name}" if leaf == "x" else leaf

  findings = [
    f._replace(
      leaf=leaf_of(f.leaf), message="; ".join(filter(None, [f"in layer {name}", f.message]))
    )
    for f in report.findings
  ]
  return report._replace(findings=tuple(findings), verified=tuple(map(leaf_of, report.verified)))


def joined(whole: Report, parts: list[Report], missing: str) -> Report:
  """One report: a layer that is wrong comes before what it makes wrong upstream."""
  findings: list[Finding] = [f for part in parts for f in part.findings]
  verdicts = ("fail", "oracle fault", "no verdict", "note")
  findings = sorted([*findings, *whole.findings], key=lambda f: verdicts.index(f.kind))
  counts: dict[str, int] = {}
  for report in (whole, *parts):
    for checked in report.checks:
      counts[checked.check] = counts.get(checked.check, 0) + checked.times
  checks = tuple(
    Checked(check, times, first_verdict([f.kind for f in findings if f.check == check]))
    for check, times in counts.items()
  )
  reasons = [r for report in (whole, *parts) for r in report.not_checked]
  wrong = {f.leaf for f in findings if f.kind in ("fail", "no verdict")}
  return whole._replace(
    findings=tuple(findings),
    checks=checks,
    not_checked=tuple(dict.fromkeys([*reasons, *([missing] if missing else [])])),
    verified=tuple(v for v in whole.verified if v not in wrong),
    worst_ulp=max([whole.worst_ulp, *(p.worst_ulp for p in parts)]),
    max_sigma=max([whole.max_sigma, *(p.max_sigma for p in parts)]),
    regimes=tuple(dict.fromkeys(r for report in (whole, *parts) for r in report.regimes)),
  )
