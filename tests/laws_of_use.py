"""Laws 5 to 7: a rule is the same however it is run, keeps only what it may, has derivatives."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop.combinators import is_chain
from tests.laws_of_rules import assert_same_types, assert_true, in_precision, where
from tests.witness import (
  assert_bitwise,
  assert_close,
  bars,
  draw,
  generator,
  grad_terms,
  jvp_terms,
  leaves_of,
  pull,
  random_like,
  split,
  tolerance,
  true_sum,
)

BATCH_SIZES = (0, 1, 2, 7)


# --- Law 5: the same however it is run ------------------------------------------------------------


@in_precision
def law_same_under_jit(case, dtype):
  """Compiled as a whole, the primals traced."""
  view, primals, y_bar = draw(case, dtype)
  got = view.compiled_pull(primals, y_bar)
  assert_true(case, dtype, "jit", view, primals, y_bar, got)


def stacked(case, dtype):
  """Three draws, and the three stacked along a new first axis."""
  draws = [draw(case, dtype, n=2, variant=i) for i in range(3)]
  stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(d[1:] for d in draws))
  return draws, stack


def assert_each_true(case, dtype, what, draws, got):
  for i, (view, primals, y_bar) in enumerate(draws):
    got_i = jax.tree.map(lambda leaf, i=i: leaf[i], got)
    assert_true(case, dtype, f"{what}, entry {i}", view, primals, y_bar, got_i)


@in_precision
def law_same_under_vmap(case, dtype):
  """Over stacked primals and cotangents, and over cotangents alone."""
  draws, (stack, y_bars) = stacked(case, dtype)
  view, primals, _ = draws[0]

  @jax.jit
  def both(stack, primals, y_bars):
    mapped = functools.partial(pull, view)
    return jax.vmap(mapped)(stack, y_bars), jax.vmap(mapped, (None, 0))(primals, y_bars)

  over_all, over_cotangents = both(stack, primals, y_bars)
  assert_each_true(case, dtype, "vmap", draws, over_all)
  same_primals = [(view, primals, y_bar) for y_bar in y_bars]
  assert_each_true(case, dtype, "vmap over cotangents", same_primals, over_cotangents)


@in_precision
def law_same_under_scan(case, dtype):
  """One after another in a compiled loop."""
  draws, stack = stacked(case, dtype)

  def body(count, entry):
    return count + 1, pull(draws[0][0], *entry)

  count, got = jax.lax.scan(body, jnp.zeros((), jnp.int32), stack)
  assert count == 3
  assert_each_true(case, dtype, "scan", draws, got)


@in_precision
def law_same_on_two_devices(case, dtype):
  """The batch split over two devices, parameters on both; no rule knows of it."""
  view, primals, y_bar = draw(case, dtype, n=6)
  devices = jax.devices("cpu")[:2]
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
  everywhere = NamedSharding(mesh, PartitionSpec())
  split_over_n = NamedSharding(mesh, PartitionSpec("data"))
  placed = tuple(
    jax.device_put(primal, split_over_n if batched else everywhere)
    for primal, batched in zip(primals, view.batched, strict=True)
  )
  got = view.compiled_pull(placed, jax.device_put(y_bar, split_over_n))
  assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(got))
  assert_true(case, dtype, "two devices", view, primals, y_bar, got)


@in_precision
def law_any_batch_size(case, dtype):
  """N = 0 (whose parameters get exactly zero), 1, 2 and a prime."""
  for n in BATCH_SIZES:
    view, primals, y_bar = draw(case, dtype, n=n)
    got = view.compiled_pull(primals, y_bar)
    assert_same_types(case, dtype, view, primals, got)
    assert_true(case, dtype, f"N = {n}", view, primals, y_bar, got)


@in_precision
def law_pullbacks_are_independent(case, dtype):
  """A call in between changes nothing: the residuals are all that a pullback remembers."""
  view, primals, y_bar = draw(case, dtype)
  _, other_primals, _ = draw(case, dtype, variant=1)
  first = view.f_vjp(*primals)[1]
  before = first(y_bar)
  view.f_vjp(*other_primals)[1](y_bar)
  names = bars(view.names)
  assert_bitwise(where(case, dtype, "called again"), names, first(y_bar), before)
  again = view.f_vjp(*primals)[1](y_bar)
  assert_bitwise(where(case, dtype, "A, B, A"), names, again, before)


# --- Law 6: who reads the parameters --------------------------------------------------------------


def chained_params(layer, params):
  """The parameters of a chain's layers in order, chains in chains unrolled."""
  if is_chain(layer):
    pairs = zip(layer.parts, params, strict=True)
    return [leaf for part, own in pairs for leaf in chained_params(part, own)]
  return chained_params(layer.parts[0], params) if layer.name == "skip" else [params]


@in_precision
def law_params_bar_reads_no_params_up_to_its_own(case, dtype):
  """NaN in the parameters of layers ≤ l, in the backward pass, leaves `params_bar` of l alone."""
  _, (params, *rest), y_bar = draw(case, dtype)
  layer = case.make(jnp.dtype(dtype))
  residuals = layer.forward(params, *rest)[1]
  leaves, structure = jax.tree.flatten(params)
  names = [name for name, _ in leaves_of(("params_bar",), (params,))]
  want = jax.tree.leaves(layer.backward(params, residuals, y_bar)[0])
  start = 0
  for i, own in enumerate(chained_params(layer, params)):
    end = start + len(jax.tree.leaves(own))
    spoilt = [jnp.full_like(leaf, jnp.nan) for leaf in leaves[:end]] + leaves[end:]
    got = layer.backward(jax.tree.unflatten(structure, spoilt), residuals, y_bar)[0]
    # From layer i on: what lies before it may read the parameters of layer i.
    where_ = where(case, dtype, f"params of layers ≤ {i} are NaN")
    assert_bitwise(where_, names[start:], jax.tree.leaves(got)[start:], want[start:])
    start = end


def law_residuals_hold_no_parameter(case, dtype):
  """Residuals are arrays, and none of them, when traced, is a parameter."""
  with jax.enable_x64(True):
    _, primals, _ = draw(case, dtype)
    forward = case.make(jnp.dtype(dtype)).forward
    for leaf in jax.tree.leaves(forward(*primals)[1]):
      if not isinstance(leaf, jax.Array):
        raise AssertionError(f"{where(case, dtype, 'residuals')}: {leaf!r} isn't an array")
    if not isinstance(case.make(jnp.dtype(dtype)), fb.Layer):
      return
    jaxpr = jax.make_jaxpr(lambda *primals: forward(*primals)[1])(*primals).jaxpr
    params = jaxpr.invars[: len(jax.tree.leaves(primals[0]))]
    names = leaves_of(("params",), primals[:1])
    for variable, (name, _) in zip(params, names, strict=True):
      if any(variable is kept for kept in jaxpr.outvars):
        raise AssertionError(f"{where(case, dtype, 'residuals')}: {name} is kept")


# --- Law 7: it can be differentiated again --------------------------------------------------------


@in_precision
def law_jvp_of_backward_equals_autodiff(case, dtype):
  """How the cotangents move with the primals and with y_bar: forward over our reverse."""
  view, primals, y_bar = draw(case, dtype, n=2)
  active, constants = split(view, primals)
  tangents = random_like(generator(case, 1), (active, y_bar))

  @jax.jit
  def push(primals, tangents):
    def backward(active, y_bar):
      return pull(view, (*active, *constants), y_bar)

    return jax.jvp(backward, primals, tangents)[1]

  got = push((active, y_bar), tangents)
  truth = true_sum(case.reference, view, primals, y_bar, jvp_terms, (tangents,))
  names = tuple(f"{name}_bar_dot" for name in view.names)
  assert_close(where(case, dtype, "jvp of backward"), names, got, truth, tolerance(dtype))


@in_precision
def law_grad_of_backward_equals_autodiff(case, dtype):
  """The gradient of a weighted sum of our cotangents: reverse over our reverse."""
  view, primals, y_bar = draw(case, dtype, n=2)
  active, constants = split(view, primals)
  weights = random_like(generator(case, 1), active)

  def weighted_sum(active, y_bar):
    products = jax.tree.map(jnp.multiply, weights, pull(view, (*active, *constants), y_bar))
    return sum(leaf.sum() for leaf in jax.tree.leaves(products))

  got, got_y_bar = jax.jit(jax.grad(weighted_sum, (0, 1)))(active, y_bar)
  truth = true_sum(case.reference, view, primals, y_bar, grad_terms, (weights,))
  names = (*bars(view.names), "y_bar_bar")
  got = (*got, got_y_bar)
  assert_close(where(case, dtype, "grad of backward"), names, got, truth, tolerance(dtype))
