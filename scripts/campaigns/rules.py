"""Right rules in the forms that other people's have, drawn by hypothesis.

A case is y = reduce(act(select(x) w)): integers, a mask or lengths select from x; the product may
be computed in a narrower dtype; the activation is closed over, or a static argument. The derivative
is written once, as tangents and cotangents, and becomes a `custom_vjp`, a `custom_jvp`, a rule
beside the function in either mode, or one in NumPy.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.specimen import Example
from fbackprop.verify.report import Report
from fbackprop.verify.self_test import verified

FORMS = ("custom_vjp", "f_vjp", "numpy", "custom_jvp", "f_jvp")
SELECTIONS = (
  "none", "gather", "gather of one", "one_hot", "scatter", "segment means", "permutation",
  "window", "mask", "lengths",
)  # fmt: skip
STATIC = ("closed over", "string", "callable", "number")
# The rows that integers point into.
ROWS = 5
# Of jax.numpy or NumPy and z: the activation, and its slope.
ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
  "tanh": (lambda xp, z: xp.tanh(z), lambda xp, z: 1 - xp.tanh(z) ** 2),
  "sine": (lambda xp, z: xp.sin(z), lambda xp, z: xp.cos(z)),
  "relu": (lambda xp, z: xp.maximum(z, 0), lambda xp, z: (z > 0).astype(z.dtype)),
  "softplus": (
    lambda xp, z: xp.logaddexp(z, z * 0),
    lambda xp, z: xp.exp(-xp.logaddexp(-z, z * 0)),
  ),
  "square": (lambda xp, z: z * z, lambda xp, z: 2 * z),
}


class Case(NamedTuple):
  """One generated case; see the module."""

  form: str
  selection: str
  activation: str
  static: str
  dtype: str
  inner: str
  reduction: str
  regime: str
  n: int
  d_in: int
  d_out: int
  seed: int


cases = st.builds(
  Case,
  form=st.sampled_from(FORMS),
  selection=st.sampled_from(SELECTIONS),
  activation=st.sampled_from(tuple(ACTIVATIONS)),
  static=st.sampled_from(STATIC),
  dtype=st.sampled_from(["float32", "float32", "float64"]),
  inner=st.sampled_from(["own", "bfloat16", "float16"]),
  reduction=st.sampled_from(["none", "mean", "sum"]),
  regime=st.sampled_from(["plain", "zeros", "ties", "small", "large"]),
  n=st.sampled_from([1, 2, 4, 7]),
  d_in=st.sampled_from([1, 2, 3]),
  d_out=st.sampled_from([1, 2, 4]),
  seed=st.integers(0, 2**31 - 1),
)


def verify(case: Case, level: str) -> Report:
  """Return the report on a case; float64 has x64 on, as for its users."""
  with jax.enable_x64(case.dtype == "float64"):
    return verified(build(case), level, case.seed % 1000)


def build(case: Case) -> Example:
  """Build the function, its arguments and its rule."""
  args, held = arguments(case), () if case.static == "closed over" else (0,)
  f = named(partial(forward, case))
  if case.form == "custom_vjp":
    carried = jax.custom_vjp(f, nondiff_argnums=held)
    carried.defvjp(lambda *a: (f(*a), a[len(held) :]), lambda *own: cotangents(case, *own))
    return Example(carried, args)
  if case.form == "custom_jvp":
    pushed = jax.custom_jvp(f, nondiff_argnums=held)
    pushed.defjvp(lambda *own: tangents(case, (*own[:-2], *own[-2]), own[-1]))
    return Example(pushed, args)
  # A separate rule doesn't say which arguments it holds; its user does.
  options = {"static": held}
  if case.form == "f_jvp":
    rule = lambda primals, dots: tangents(case, primals, dots[len(held) :])  # noqa: E731
    return Example(f, args, None, options, rule)

  def f_vjp(*args: Any) -> Any:
    if case.form == "numpy":
      args = (*args[: len(held)], *map(np.asarray, args[len(held) :]))
    y, _, pull = linearized(case, *args)
    return y, lambda y_bar: (*(None for _ in held), *pull(y_bar))

  return Example(f, args, f_vjp, options)


def named(function: Callable[..., Any]) -> Callable[..., Any]:
  """Return a function that has a name, as a `partial` hasn't."""

  def f(*args: Any) -> Any:
    return function(*args)

  return f


def forward(case: Case, *args: Any) -> Any:
  """Return the output."""
  return linearized(case, *args)[0]


def tangents(case: Case, primals: Any, dots: Any) -> Any:
  """Return the output and its tangent."""
  y, push, _ = linearized(case, *primals)
  return y, push(*dots)


def cotangents(case: Case, *own: Any) -> Any:
  """Return the cotangents, from static arguments, residuals and the output's cotangent."""
  *static, residuals, y_bar = own
  return linearized(case, *static, *residuals)[2](y_bar)


def linearized(case: Case, *args: Any) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
  """Return the output, the map of the tangents and that of the cotangents."""
  static, x, w, *ids = args if case.static != "closed over" else (case.activation, *args)
  xp = np if isinstance(x, np.ndarray) else jnp
  act, slope_of = activation_of(case, xp, static)
  select, place = selection_of(case.selection, xp, x, *ids)
  h = select(x)
  z = product(case, h, w)
  slope = slope_of(z)

  def push(x_dot: Any, w_dot: Any, *_: Any) -> Any:
    z_dot = product(case, select(x_dot), w) + product(case, h, w_dot)
    return reduced(case, slope * z_dot)

  def pull(y_bar: Any) -> Any:
    z_bar = slope * spread(case, xp, y_bar, z)
    x_bar = place(product(case, z_bar, w.T))
    return x_bar, product(case, h.T, z_bar), *(None for _ in ids)

  return reduced(case, act(z)), push, pull


def activation_of(case: Case, xp: Any, static: Any) -> tuple[Callable[..., Any], ...]:
  """Return the activation that a static argument names or is, and its slope."""
  if case.static == "number":
    return lambda z: xp.where(z > 0, z, static * z), lambda z: xp.where(z > 0, z * 0 + 1, static)
  act, slope = ACTIVATIONS[case.activation if case.static == "callable" else static]
  return partial(static if case.static == "callable" else act, xp), partial(slope, xp)


def product(case: Case, a: Any, b: Any) -> Any:
  """Multiply in the case's inner dtype."""
  # NumPy's products of bfloat16 aren't rounded as XLA's.
  inner = a.dtype if "own" in (case.inner, case.form.replace("numpy", "own")) else case.inner
  return (a.astype(inner) @ b.astype(inner)).astype(a.dtype)


def reduced(case: Case, y: Any) -> Any:
  """Reduce the outputs."""
  return y if case.reduction == "none" else y.mean(-1) if case.reduction == "mean" else y.sum()


def spread(case: Case, xp: Any, y_bar: Any, y: Any) -> Any:
  """Pull a cotangent back through `reduced`."""
  if case.reduction == "mean":
    y_bar = y_bar[..., None] / y.shape[-1]
  return xp.broadcast_to(xp.asarray(y_bar, y.dtype), y.shape)


# --- Selections -----------------------------------------------------------------------------------


def selection_of(kind: str, xp: Any, x: Any, ids: Any = None) -> tuple[Callable[..., Any], ...]:
  """Return a linear map of x, determined by integers or a mask, and its transpose."""
  if kind in ("gather", "gather of one"):
    rows = xp.atleast_1d(ids)
    return lambda x: x[rows], lambda bar: added(xp, x.shape, rows, bar)
  if kind == "permutation":
    return lambda x: x[ids], lambda bar: bar[xp.argsort(ids)]
  if kind == "one_hot":
    hot = (ids[:, None] == xp.arange(ROWS)).astype(x.dtype)
    return lambda x: hot @ x, lambda bar: hot.T @ bar
  if kind in ("scatter", "segment means"):
    counts = added(xp, (ROWS,), ids, xp.ones(ids.shape, x.dtype))
    share = (1 / xp.maximum(counts, 1) if kind == "segment means" else counts * 0 + 1)[:, None]
    return (
      lambda x: share * added(xp, (ROWS, x.shape[1]), ids, x),
      lambda bar: (share * bar)[ids],
    )
  if kind == "window":
    # As a slice's, the start is clamped.
    rows = xp.clip(ids, 0, x.shape[0] - 2) + xp.arange(2)
    if xp is np:
      return lambda x: x[rows], lambda bar: added(xp, x.shape, rows, bar)
    return (
      lambda x: jax.lax.dynamic_slice_in_dim(x, ids, 2),
      lambda bar: jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(x), bar, ids, 0),
    )
  kept: Any = (
    1 if kind == "none" else ids if kind == "mask" else xp.arange(x.shape[1]) < ids[:, None]
  )
  kept = kept[:, None] if kind == "mask" else kept
  return lambda x: x * kept, lambda bar: bar * kept


def added(xp: Any, shape: tuple[int, ...], rows: Any, values: Any) -> Any:
  """Add values to rows of zeros."""
  if xp is jnp:
    return jnp.zeros(shape, values.dtype).at[rows].add(values)
  total = np.zeros(shape, values.dtype)
  np.add.at(total, rows, values)
  return total


# --- Arguments ------------------------------------------------------------------------------------


def arguments(case: Case) -> tuple[Any, ...]:
  """Draw the arguments: a static one, x, w, and integers or a mask."""
  rng = np.random.default_rng(case.seed)
  static = {
    "closed over": (), "string": (case.activation,),
    "callable": (ACTIVATIONS[case.activation][0],), "number": (0.25,),
  }[case.static]  # fmt: skip
  rows = ROWS if case.selection in ("gather", "gather of one", "one_hot", "window") else case.n
  x, w = number(rng, case, (rows, case.d_in)), number(rng, case, (case.d_in, case.d_out))
  return *static, x, w, *integers(rng, case)


def integers(rng: np.random.Generator, case: Case) -> tuple[Any, ...]:
  """Draw the integers or the mask of a selection."""
  drawn = {
    # Half of the cases count from the end.
    "gather": lambda: rng.integers(ROWS, size=case.n) - ROWS * (case.seed % 2),
    "gather of one": lambda: rng.integers(ROWS),
    "one_hot": lambda: rng.integers(ROWS, size=case.n),
    "scatter": lambda: rng.integers(ROWS, size=case.n),
    "segment means": lambda: np.sort(rng.integers(ROWS, size=case.n)),
    "permutation": lambda: rng.permutation(case.n),
    "window": lambda: rng.integers(ROWS - 1),
    "lengths": lambda: rng.integers(case.d_in + 1, size=case.n),
  }
  if case.selection == "mask":
    return (jnp.asarray(rng.random(case.n) < 0.6),)
  return (jnp.asarray(drawn[case.selection](), jnp.int32),) if case.selection in drawn else ()


def number(rng: np.random.Generator, case: Case, shape: tuple[int, ...]) -> Any:
  """Draw numbers of the case's regime."""
  values = rng.normal(size=shape)
  if case.regime == "zeros":
    values = np.where(rng.random(shape) < 0.4, 0.0, values)
  elif case.regime == "ties":
    values = np.round(2 * values) / 2
  elif case.regime in ("small", "large"):
    # In a narrow dtype, the product of larger numbers isn't a phase any more.
    values = values * (1e-3 if case.regime == "small" else 100.0 if case.inner == "own" else 5.0)
  return jnp.asarray(values, case.dtype)
