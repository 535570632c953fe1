"""Laws 0 to 4: the contract of a forward rule and its backward rule; and the second order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from tests.support import witness
from tests.support.law import law


def where(case, dtype, what):
  return f"{case.id} ({dtype}), {what}"


def assert_close(case, dtype, what, names, got, truth):
  """Raise unless these leaves are true to the dtype's tolerance."""
  witness.assert_close(where(case, dtype, what), names, got, truth, witness.tolerance(dtype))


# --- Law 0: the forward rule ----------------------------------------------------------------------


@law(fast=("float64",))
def law_forward_equals_reference(case, dtype):
  """Require the reference's value, with and without the residuals."""
  view, primals, y_bar = witness.draw(case, dtype)
  want = witness.true_value(case.reference, view, primals, y_bar)
  truth = witness.Truth((want,), (np.abs(want).max(initial=1.0),))
  for name, got in (("f", view.f(*primals)), ("f_vjp", view.f_vjp(*primals)[0])):
    assert_close(case, dtype, name, ("y",), (got,), truth)


# --- Law 1: structure -----------------------------------------------------------------------------


@law(fast=("float32",))
def law_backward_has_the_structure_of_its_primals(case, dtype):
  """Require structure, shapes, dtypes, and no weak dtype, which would change later promotions."""
  view, primals, y_bar = witness.draw(case, dtype)
  got = jax.eval_shape(functools.partial(witness.pull, view), primals, y_bar)
  assert_same_types(case, dtype, view, primals, got)


def assert_same_types(case, dtype, view, primals, got):
  active, _ = witness.split(view, primals)
  if jax.tree.structure(got) != jax.tree.structure(active):
    raise AssertionError(
      f"{where(case, dtype, 'structure')}: got {jax.tree.structure(got)} want "
      f"{jax.tree.structure(active)}"
    )
  names = witness.bars(view.names)
  for (name, g), (_, p) in zip(
    witness.leaves_of(names, got), witness.leaves_of(names, active), strict=True
  ):
    if (g.shape, g.dtype, g.weak_type) != (p.shape, p.dtype, False):
      weak = " weak" if g.weak_type else ""
      raise AssertionError(
        f"{where(case, dtype, 'structure')}: {name} got {g.dtype}{weak}{g.shape} want "
        f"{p.dtype}{p.shape}"
      )


@law(dtypes=("bfloat16", "float16"))
def law_half_precision_keeps_its_dtype(case, dtype):
  """Require bfloat16 and float16 to be preserved, by tracing without computing."""
  view, primals, y_bar = witness.draw(case, dtype, n=2)
  y, got = jax.eval_shape(
    lambda primals, y_bar: (view.f(*primals), witness.pull(view, primals, y_bar)), primals, y_bar
  )
  if y.dtype != jnp.dtype(dtype):
    raise AssertionError(f"{where(case, dtype, 'forward')}: y got {y.dtype} want {dtype}")
  assert_same_types(case, dtype, view, primals, got)


@law(dtypes=("float32",), fast=())
def law_float32_stays_under_x64(case, dtype):
  """Require float32 results for float32 arguments under x64: no constant of ours widens them."""
  with jax.enable_x64(True):
    view, primals, y_bar = witness.draw(case, dtype)
    got = view.compiled_pull(primals, y_bar)
    y = jax.eval_shape(view.f, *primals)
    if y.dtype != jnp.dtype(dtype):
      raise AssertionError(f"{where(case, dtype, 'x64 on')}: y got {y.dtype} want {dtype}")
    assert_same_types(case, dtype, view, primals, got)
  assert_true(case, dtype, "x64 on", view, primals, y_bar, got)


# --- Law 2: linearity -----------------------------------------------------------------------------


@law(fast=("float32",))
def law_linear_in_the_cotangent(case, dtype):
  """Require that zero gives exactly zero, and that a power of two scales every bit."""
  view, primals, y_bar = witness.draw(case, dtype)
  names = witness.bars(view.names)
  got = view.compiled_pull(primals, jnp.zeros_like(y_bar))
  zeros = jax.tree.map(jnp.zeros_like, got)
  witness.assert_bitwise(where(case, dtype, "zero cotangent"), names, got, zeros)
  once = view.compiled_pull(primals, y_bar)
  for k in (7, -7, -1):
    factor = jnp.asarray(2.0**k, y_bar.dtype)
    want = jax.tree.map(functools.partial(jnp.multiply, factor), once)
    got = view.compiled_pull(primals, factor * y_bar)
    witness.assert_bitwise(where(case, dtype, f"cotangent times 2^{k}"), names, got, want)


# --- Law 3: the truth -----------------------------------------------------------------------------


def assert_true(case, dtype, what, view, primals, y_bar, got):
  truth = witness.true_sum(case.reference, view, primals, y_bar)
  assert_close(case, dtype, what, witness.bars(view.names), got, truth)


@law(fast=("float64",))
def law_vjp_equals_autodiff(case, dtype):
  """Require the cotangents of `jax.vjp` of the reference."""
  view, primals, y_bar = witness.draw(case, dtype)
  assert_true(case, dtype, "vjp", view, primals, y_bar, witness.pull(view, primals, y_bar))


def has_kinks(case, dtype):
  return case.kinks is not None


@law(fast=("float64",), applies=has_kinks)
def law_kinks_follow_the_policy(case, dtype):
  """Require relu'(0) = 0, 1/k for k ties, and the reference's values at other delicate points."""
  for i, (view, primals, y_bar) in enumerate(witness.draw_kinks(case, dtype)):
    got = view.compiled_pull(primals, y_bar)
    assert_true(case, dtype, f"kink {i}", view, primals, y_bar, got)


@law(dtypes=("float64",))
def law_finite_differences_agree(case, dtype):
  """Compare with ⟨y_bar, f(p + εd) − f(p − εd)⟩ / 2ε, for a random direction d in each leaf."""
  view, primals, y_bar = witness.draw(case, dtype)
  active, constants = witness.split(view, primals)
  leaves, structure = jax.tree.flatten(active)
  directions = witness.random_like(witness.generator(case, 1), leaves)
  got = witness.leaves_of(witness.bars(view.names), view.compiled_pull(primals, y_bar))
  scales = jax.tree.leaves(witness.true_sum(case.reference, view, primals, y_bar).scale)
  step = 1e-5
  for i, direction in enumerate(directions):
    ends = []
    for end in (step, -step):
      moved = [*leaves[:i], leaves[i] + end * direction, *leaves[i + 1 :]]
      moved = (*jax.tree.unflatten(structure, moved), *constants)
      ends.append(np.asarray(view.compiled(moved, y_bar)[0]))
    want = np.sum(np.asarray(y_bar) * (ends[0] - ends[1])) / (2 * step)
    slope = np.sum(np.asarray(got[i][1]) * np.asarray(direction))
    truth = witness.Truth((want,), (scales[i] * np.abs(direction).max(initial=0.0),))
    where_, bound = where(case, dtype, "finite differences"), witness.TOLERANCE["differences"]
    witness.assert_close(where_, (f"slope of {got[i][0]}",), (slope,), truth, bound)


# --- Law 4: the dot product -----------------------------------------------------------------------


@law(fast=("float64",))
def law_dot_products_agree(case, dtype):
  """Require ⟨y_bar, y_dot⟩ = ⟨x_bar, x_dot⟩ + ⟨params_bar, params_dot⟩, y_dot by `jax.jvp` of f."""
  view, primals, y_bar = witness.draw(case, dtype)
  active, constants = witness.split(view, primals)
  tangents = witness.random_like(witness.generator(case, 1), active)

  @jax.jit
  def push(active, tangents):
    return jax.jvp(lambda *active: view.f(*active, *constants), active, tangents)[1]

  y_dot = push(active, tangents)
  scales = jax.tree.leaves(witness.true_sum(case.reference, view, primals, y_bar).scale)
  got, largest = 0.0, 0.0
  cotangents = jax.tree.leaves(view.compiled_pull(primals, y_bar))
  for bar, dot, scale in zip(cotangents, jax.tree.leaves(tangents), scales, strict=True):
    got += np.vdot(np.asarray(bar, np.float64), np.asarray(dot, np.float64))
    largest = max(largest, scale * np.abs(dot).max(initial=0.0))
  want = np.vdot(np.asarray(y_bar, np.float64), np.asarray(y_dot, np.float64))
  truth = witness.Truth((want,), (largest,))
  assert_close(case, dtype, "dot product", ("⟨cotangents, tangents⟩",), (got,), truth)


# --- NaN passes -----------------------------------------------------------------------------------


@law(fast=("float32",))
def law_nan_passes(case, dtype):
  """Require a NaN in an example to reach that example's output and cotangent, and no other's."""
  view, primals, y_bar = witness.draw(case, dtype)
  others, ones = np.arange(len(y_bar)) != 1, jnp.ones_like(y_bar)
  y = np.asarray(view.compiled(primals, ones)[0])
  for i, name in enumerate(view.names):
    if not view.batched[i]:
      continue
    spoilt = list(primals)
    spoilt[i] = primals[i].at[1, 0].set(jnp.nan)
    got, cotangents = view.compiled(tuple(spoilt), ones)
    if not np.isnan(np.asarray(got)[1]).any():
      raise AssertionError(f"{where(case, dtype, 'NaN')}: {name}[1, 0] is NaN, and y[1] hides it")
    witness.assert_bitwise(
      where(case, dtype, "NaN"), ("y",), (np.asarray(got)[others],), (y[others],)
    )
    if cotangents[i][1, 0] == 0:
      raise AssertionError(f"{where(case, dtype, 'NaN')}: {name}_bar[1, 0] is 0, which hides it")


# --- The second order -----------------------------------------------------------------------------


def has_second(case, dtype):
  unit = case.make(jnp.dtype(dtype))
  return isinstance(unit, fb.Gate) and unit.second is not None


@law(dtypes=("float64",), applies=has_second)
def law_second_is_the_slope_of_the_slope(case, dtype):
  """Require `Gate.second` to be autodiff of the backward rule, at kinks and in the tails too."""
  gate = case.make(jnp.dtype(dtype))

  def slope(z, y_bar):
    return gate.backward(gate.forward(z)[1], y_bar)[0]

  @witness.jit_quickly
  def both(z, y_bar):
    want = jax.jvp(lambda z: slope(z, y_bar), (z,), (jnp.ones_like(z),))[1]
    return gate.second(gate.forward(z)[1], y_bar)[0], want

  kinks = witness.draw_kinks(case, dtype) if case.kinks else []
  for _, (z,), y_bar in [witness.draw(case, dtype), *kinks]:
    got, want = map(np.asarray, both(z, y_bar))
    # Far out autodiff multiplies 0 by infinity; the rule must not.
    assert np.isfinite(got).all(), where(case, dtype, f"second derivative at {z}")
    known = np.isfinite(want)
    truth = witness.Truth((want[known],), (np.abs(y_bar).max(initial=0.0),))
    assert_close(case, dtype, "second derivative", ("z_bar",), (got[known],), truth)


def has_second_rules(case, dtype):
  unit = case.make(jnp.dtype(dtype))
  if not isinstance(unit, fb.Layer) or unit.second is None:
    return False
  # An activation has its gate's rule; layers of several inputs or outputs have their backward rule.
  return "gate" not in dict(unit.options) and unit.name not in ("concatenate", "split")


@law(dtypes=("float64",), applies=has_second_rules)
def law_second_order_rules_are_those_of_the_reference(case, dtype):
  """Require a layer's `bend` and `squares` to be its Hessian and its squared Jacobian."""
  layer = case.make(jnp.dtype(dtype))
  _, (params, x, *key), y_bar = witness.draw(case, dtype, n=2)
  h = y_bar * y_bar

  @witness.jit_quickly
  def both(x, y_bar, h):
    residuals = layer.forward(params, x, *key)[1]
    squares, bend = layer.second.squares, layer.second.bend
    first = x[0]

    def f(row):  # In its place of the batch, where its mask is.
      return layer.forward(params, x.at[0].set(row), *key)[0][0]

    jacobian, hessian = jax.jacfwd(f)(first), jax.hessian(lambda row: f(row) @ y_bar[0])(first)
    found = {"hessian": bend(params, residuals, y_bar)[0] if bend else jnp.zeros_like(hessian)}
    wanted = {"hessian": hessian}
    if squares is not None:
      found["squares"], wanted["squares"] = squares(params, residuals, h)[0], h[0] @ jacobian**2
    return found, wanted

  found, wanted = both(x, y_bar, h)
  for name, want in wanted.items():
    truth = witness.Truth((np.asarray(want),), (max(1.0, np.abs(want).max(initial=0.0)),))
    assert_close(case, dtype, name, (name,), (np.asarray(found[name]),), truth)


def has_curvature(case, dtype):
  return isinstance(case.make(jnp.dtype(dtype)), fb.Loss)


@law(dtypes=("float64",), applies=has_curvature)
def law_curvature_is_the_hessian_of_the_reference(case, dtype):
  """Require root · rootᵀ and the product to be those of autodiff's Hessian by the outputs."""
  loss = case.make(jnp.dtype(dtype))
  _, (outputs, targets), _ = witness.draw(case, dtype)
  v = witness.random_like(witness.generator(case, 1), outputs)

  @witness.jit_quickly
  def both(outputs, targets, v):
    def of_one(row, target):
      return case.reference(row[None], jax.tree.map(lambda t: t[None], target))[0]

    hessians = jax.vmap(jax.hessian(of_one))(outputs, targets)
    root = loss.curvature.root(outputs, targets)
    product = loss.curvature.product(outputs, targets, v)
    return (jnp.einsum("rnc,rnd->ncd", root, root), product), (
      hessians, jnp.einsum("ncd,nd->nc", hessians, v),
    )  # fmt: skip

  got, want = both(outputs, targets, v)
  truth = witness.Truth(want, tuple(max(1.0, np.abs(w).max(initial=0.0)) for w in want))
  assert_close(case, dtype, "curvature", ("root rootᵀ", "H v"), got, truth)
