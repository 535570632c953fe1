"""`layer`: a network as a whole, and each of its layers at the cotangent of its output."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.checks import check_unit
from fbackprop.combinators import as_declared, is_linear, map_layers, places
from fbackprop.transforms import pullback
from fbackprop.types import Array, Layer, Params, Residuals
from fbackprop.verify._vjp import vjp
from fbackprop.verify.deadline import is_over, time_limit
from fbackprop.verify.one_device import on_one_device
from fbackprop.verify.report import VERDICTS, Report
from fbackprop.verify.verification import checks_of, verify_call
from fbackprop.verify.witnesses.rule import TINY, in_dtype


@on_one_device
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
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
) -> Report:
  """Verify a `Layer`: as a whole, and each layer in it by itself.

  The bounds of a single layer are tight at any depth, so an error is located where it arises: the
  finding names the leaf of the wrong layer, although all cotangents behind it in the backward pass
  are wrong too.

  Args:
    net: a layer or a network of layers.
    params: its parameters.
    x: `[N, D_in]`.
    key: the key of a training pass; None for evaluation.
    level, seed, allowance, ties, seconds, progress: as for `vjp`; `ties` is "reference" by default,
      since our forward rules state the choices at ties.

  Returns:
    The `Report`. The leaf of a parameter is "params/1/w"; that of a layer's input cotangent is
    "input of 1.relu".

  Raises:
    UnusableError: the network can't be called with these arguments.
    TypeError, ValueError: as for `vjp`.

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
    "level": level, "seed": seed, "allowance": allowance, "ties": ties, "progress": progress,
  }  # fmt: skip
  args = (params, x) if key is None else (params, x, key)
  whole = vjp(
    forward_of(net), *args, f_vjp=vjp_of(net), seconds=seconds, **options, **declarations_of(net)
  )
  whole = whole._replace(name=net.name)
  if "combinator" not in dict(net.options):
    return whole._replace(seconds=time.monotonic() - start)
  parts, missing = [], ""
  left = None if seconds is None else max(0.0, seconds - (time.monotonic() - start))
  try:
    calls = list(layer_calls(net, params, x, key, seed))
  except Exception as error:  # The whole network's report contains the error.
    calls, missing = [], f"layer by layer: {type(error).__name__}: {error}"
  seen: set[Any] = set()
  with time_limit(left):
    for name, path, part, (own_args, y_bar) in calls:
      if is_over():
        missing = f"layer by layer: out of time for {name} and those before it"
        break
      shapes = (part.name, str(jax.tree.map(np.shape, own_args)))
      if jax.tree.leaves(own_args):
        # Of several equal layers the first is checked in full.
        own_options = {**options, **declarations_of(part)}
        own_options["level"] = "quick" if shapes in seen else level
        scale = 1.0 if part.linear else TINY
        bars = [scale * np.asarray(bar, np.float64) for bar in jax.tree.leaves(y_bar)]
        report = verify_call(name, forward_of(part), own_args, vjp_of(part), bars, **own_options)
        parts.append(renamed(report, name, path))
      seen.add(shapes)
  return merged(whole, parts, missing)._replace(seconds=time.monotonic() - start)


def declarations_of(net: Layer) -> dict[str, Any]:
  """Return the options of `vjp` that state what a network and its layers declare."""
  options: dict[str, Any] = {} if is_linear(net) else {"linear": False}
  if net.slope is not None:
    return options | {"slope": net.slope}
  if has_slope(net):  # Differences of the whole don't know the slope of a part.
    return options | {"slope": forward_of(as_declared(net)), "surrogate": True}
  return options


def has_slope(net: Layer) -> bool:
  """Return whether a layer of a network declares a slope."""
  return net.slope is not None or any(map(has_slope, net.parts))


def forward_of(net: Layer) -> Callable[..., Array]:
  """Return the forward pass of a layer as a function."""
  return lambda params, x, key=None: net.forward(params, x, key)[0]


def vjp_of(net: Layer) -> Callable[..., Any]:
  """Return the rule of a layer, with a cotangent for the key."""
  f_vjp = pullback(net)

  def with_key(params: Params, x: Array, *key: Array) -> Any:
    y, backward = f_vjp(params, x, *key)
    return y, lambda y_bar: (*backward(y_bar), *(None for _ in key))

  return with_key


class Arrival(NamedTuple):
  """The arguments (params, x, and the key if there is one) and the cotangent of one layer."""

  args: tuple[Any, ...]
  y_bar: Array


def layer_calls(
  net: Layer, params: Params, x: Array, key: Array | None, seed: int
) -> Iterator[tuple[str, str, Layer, Arrival]]:
  """Yield the call of each layer that isn't a composition, from last to first.

  Yields:
    The layer's name, such as "1.relu", the path of its parameters, such as "params/1", the layer,
    and its arguments and cotangent in a pass through the network.
  """

  def tapped(part: Layer) -> Layer:
    def tapped_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Any, Residuals]:
      y, residuals = part.forward(params, x, key)
      return y, ((params, x) if key is None else (params, x, key), residuals)

    def tapped_backward(params: Params, kept: Residuals, y_bar: Array) -> tuple[Params, Array]:
      args, residuals = kept
      return Arrival(args, y_bar), part.backward(params, residuals, y_bar)[1]

    return part._replace(forward=tapped_forward, backward=tapped_backward)

  tapped_net = map_layers(tapped, net, separate=True)

  @jax.jit  # Eager, each operation would be compiled by itself.
  def arrivals(params: Params, x: Array, key: Array | None, y_bar: Array) -> Params:
    _, residuals = tapped_net.forward(params, x, key)
    return tapped_net.backward(params, residuals, y_bar)[0]

  y = jax.eval_shape(forward_of(net), params, x, key)
  rng = np.random.default_rng([seed, 10, 0])
  y_bar = jax.tree.map(lambda leaf: in_dtype(rng.normal(size=leaf.shape), leaf.dtype), y)
  tree = arrivals(params, x, key, y_bar)
  for place in reversed(list(places(net))):
    arrival = place.node(tree)
    for _ in range(place.copies):  # The last copy represents all.
      arrival = jax.tree.map(lambda leaf: leaf[-1], arrival)
    yield place.name, "/".join(map(str, ("params", *place.path))), place.layer, arrival


def renamed(report: Report, name: str, path: str) -> Report:
  """Rename the leaves of a layer's report to those of the network."""

  def leaf_of(leaf: str) -> str:
    if leaf.partition("/")[0] == "params":
      return path + leaf.removeprefix("params")
    input_, slash, part = leaf.partition("/")
    return f"input {part}{' ' * bool(slash)}of {name}" if input_ == "x" else leaf

  where = f"in layer {name}"
  findings = [
    f._replace(leaf=leaf_of(f.leaf), message=f"{where}; {f.message}" if f.message else where)
    for f in report.findings
  ]
  verified, leaves = (tuple(map(leaf_of, names)) for names in (report.verified, report.leaves))
  return report._replace(findings=tuple(findings), verified=verified, leaves=leaves)


def merged(whole: Report, parts: list[Report], missing: str) -> Report:
  """Merge reports, a wrong layer's before those of the cotangents that it spoils."""
  reports = (whole, *parts)
  findings = [f for report in (*parts, whole) for f in report.findings]
  findings.sort(key=lambda f: (*VERDICTS, "note").index(f.kind))
  counts = (Counter({c.check: c.times for c in report.checks}) for report in reports)
  reasons = [reason for report in reports for reason in report.not_checked] + [missing]
  wrong = {f.leaf for f in findings if f.kind in ("fail", "no verdict")}
  leaves = tuple(dict.fromkeys(leaf for r in (*parts, whole) for leaf in r.leaves))
  right = {leaf for report in reports for leaf in report.verified} - wrong
  return whole._replace(
    findings=tuple(findings),
    checks=checks_of(sum(counts, Counter()), findings, {}),
    not_checked=tuple(filter(None, dict.fromkeys(reasons))),
    verified=tuple(leaf for leaf in leaves if leaf in right),
    worst_ulp=max(r.worst_ulp for r in reports),
    max_sigma=max(r.max_sigma for r in reports),
    regimes=tuple(dict.fromkeys(name for report in reports for name in report.regimes)),
    leaves=leaves,
  )
