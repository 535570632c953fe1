"""Laws 5 to 7: a rule under transformations, its residuals, and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop.combinators import is_chain
from tests.support import witness
from tests.support.law import law
from tests.support.laws_of_rules import assert_close, assert_same_types, assert_true, where

# Besides 7, a prime, of most laws, and 2 of those on stacked draws.
BATCH_SIZES = (0, 1)


# --- Law 5: the same however it is run ------------------------------------------------------------


@law(fast=("float32",))
def law_same_under_jit(case, dtype):
  """Compile the whole call, with traced primals."""
  view, primals, y_bar = witness.draw(case, dtype)
  got = view.compiled_pull(primals, y_bar)
  assert_true(case, dtype, "jit", view, primals, y_bar, got)


def stacked(case, dtype):
  """Draw three times, and stack the three draws along a new first axis."""
  draws = [witness.draw(case, dtype, n=2, variant=i) for i in range(3)]
  stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(d[1:] for d in draws))
  return draws, stack


def assert_each_true(case, dtype, what, draws, got):
  for i, (view, primals, y_bar) in enumerate(draws):
    got_i = jax.tree.map(lambda leaf, i=i: leaf[i], got)
    assert_true(case, dtype, f"{what}, entry {i}", view, primals, y_bar, got_i)


@law(dtypes=("float64",), fast=())
def law_same_under_vmap(case, dtype):
  """Map over stacked primals and cotangents, and over cotangents alone."""
  draws, (stack, y_bars) = stacked(case, dtype)
  view, primals, _ = draws[0]

  @witness.jit_quickly
  def both(stack, primals, y_bars):
    mapped = functools.partial(witness.pull, view)
    return jax.vmap(mapped)(stack, y_bars), jax.vmap(mapped, (None, 0))(primals, y_bars)

  over_all, over_cotangents = both(stack, primals, y_bars)
  assert_each_true(case, dtype, "vmap", draws, over_all)
  same_primals = [(view, primals, y_bar) for y_bar in y_bars]
  assert_each_true(case, dtype, "vmap over cotangents", same_primals, over_cotangents)


@law(dtypes=("float64",), fast=())
def law_same_under_scan(case, dtype):
  """Run the draws one after another in a compiled loop."""
  draws, stack = stacked(case, dtype)

  def body(count, entry):
    return count + 1, witness.pull(draws[0][0], *entry)

  count, got = witness.jit_quickly(jax.lax.scan, static_argnums=0)(
    body, jnp.zeros((), jnp.int32), stack
  )
  assert count == 3
  assert_each_true(case, dtype, "scan", draws, got)


def on_a_mesh(view, primals, y_bar, axis_type):
  """Return the mesh of two devices, and the arguments on it: batch split, parameters replicated."""
  devices = jax.devices("cpu")[:2]
  mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,), devices=devices)
  everywhere = NamedSharding(mesh, PartitionSpec())
  split_over_n = NamedSharding(mesh, PartitionSpec("data"))
  placed = tuple(
    jax.device_put(primal, split_over_n if batched else everywhere)
    for primal, batched in zip(primals, view.batched, strict=True)
  )
  return mesh, placed, jax.device_put(y_bar, split_over_n)


@law(dtypes=("float64",), fast=())
def law_same_on_a_mesh(case, dtype):
  """Split the batch over two devices, by the compiler or by the arrays' types.

  On Explicit axes, the default of `jax.make_mesh`, a cotangent has its primal's sharding.
  """
  view, primals, y_bar = witness.draw(case, dtype, n=6)
  for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh, placed, placed_bar = on_a_mesh(view, primals, y_bar, axis_type)
    with jax.set_mesh(mesh):
      got = view.compiled_quickly(placed, placed_bar)[1]
      types = [jax.tree.map(jax.typeof, tree) for tree in (got, witness.split(view, placed)[0])]
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(got))
    assert types[0] == types[1], where(case, dtype, f"{axis_type}: {types}")
    assert_true(case, dtype, str(axis_type), view, primals, y_bar, jax.device_get(got))


@law(dtypes=("float64",), fast=())
def law_same_within_shard_map(case, dtype):
  """Give each device its own examples on manual axes, and sum the cotangents of shared arguments.

  A key draws for each device as if its examples were the whole batch.
  """
  view, primals, y_bar = witness.draw(case, dtype, n=6)
  mesh, placed, placed_bar = on_a_mesh(view, primals, y_bar, AxisType.Explicit)
  batched = witness.split(view, view.batched)[0]
  specs = tuple(PartitionSpec("data") if own else PartitionSpec() for own in view.batched)

  def pull_own(primals, y_bar):
    pairs = zip(batched, witness.pull(view, primals, y_bar), strict=True)
    return tuple(bar if own else jax.lax.psum(bar, "data") for own, bar in pairs)

  mapped = jax.shard_map(
    pull_own, mesh=mesh, in_specs=(specs, PartitionSpec("data")), out_specs=specs[: len(batched)]
  )
  got = jax.device_get(witness.jit_quickly(mapped)(placed, placed_bar))
  if view.constants is None:
    assert_true(case, dtype, "shard_map", view, primals, y_bar, got)
    return
  shards = [
    witness.true_sum(case.reference, view, witness.take(view, primals, rows), y_bar[rows])
    for rows in (slice(0, 3), slice(3, 6))
  ]
  want = tuple(
    jax.tree.map(lambda a, b, own=own: np.concatenate([a, b]) if own else a + b, *halves)
    for own, *halves in zip(batched, shards[0].want, shards[1].want, strict=True)
  )
  truth = witness.Truth(want, jax.tree.map(max, shards[0].scale, shards[1].scale))
  assert_close(case, dtype, "shard_map", witness.bars(view.names), got, truth)


@law(dtypes=("float64",), fast=())
def law_any_batch_size(case, dtype):
  """Run N = 0, whose parameters get exactly zero, and N = 1."""
  for n in BATCH_SIZES:
    view, primals, y_bar = witness.draw(case, dtype, n=n)
    got = view.compiled_quickly(primals, y_bar)[1]
    assert_same_types(case, dtype, view, primals, got)
    assert_true(case, dtype, f"N = {n}", view, primals, y_bar, got)


@law(dtypes=("float64",), fast=())
def law_pullbacks_are_independent(case, dtype):
  """Interleave another call: the residuals must be all that a pullback depends on."""
  view, primals, y_bar = witness.draw(case, dtype)
  _, other_primals, _ = witness.draw(case, dtype, variant=1)
  first = view.f_vjp(*primals)[1]
  before = first(y_bar)
  view.f_vjp(*other_primals)[1](y_bar)
  names = witness.bars(view.names)
  witness.assert_bitwise(where(case, dtype, "called again"), names, first(y_bar), before)
  again = view.f_vjp(*primals)[1](y_bar)
  witness.assert_bitwise(where(case, dtype, "A, B, A"), names, again, before)


# --- Law 6: who reads the parameters --------------------------------------------------------------


def chained_params(layer, params):
  """Return the parameters of a chain's layers in order, with nested chains flattened."""
  if is_chain(layer):
    pairs = zip(layer.parts, params, strict=True)
    return [leaf for part, own in pairs for leaf in chained_params(part, own)]
  if layer.name == "graph":
    names = [node.name for node in dict(layer.options)["nodes"]]
    assert names == sorted(params), "the leaves of a dict are in the order of its names"
    return [params[name] for name in names]
  return chained_params(layer.parts[0], params) if layer.name == "skip" else [params]


def is_affine_in_its_parameters(case, dtype):
  unit = case.make(jnp.dtype(dtype))
  if not isinstance(unit, fb.Layer) or case.reads_own_params:
    return False
  return bool(jax.tree.leaves(jax.eval_shape(unit.init, jax.random.key(0))))


@law(fast=("float32",), applies=is_affine_in_its_parameters)
def law_params_bar_reads_no_params_up_to_its_own(case, dtype):
  """Require `params_bar` of layer l to ignore NaNs in the parameters of layers ≤ l."""
  _, (params, *rest), y_bar = witness.draw(case, dtype)
  layer = case.make(jnp.dtype(dtype))

  @jax.jit
  def params_bar(spoilt):
    return layer.backward(spoilt, layer.forward(params, *rest)[1], y_bar)[0]

  leaves, structure = jax.tree.flatten(params)
  names = [name for name, _ in witness.leaves_of(("params_bar",), (params,))]
  want = jax.tree.leaves(params_bar(params))
  start = 0
  for i, own in enumerate(chained_params(layer, params)):
    end = start + len(jax.tree.leaves(own))
    spoilt = [jnp.full_like(leaf, jnp.nan) for leaf in leaves[:end]] + leaves[end:]
    got = params_bar(jax.tree.unflatten(structure, spoilt))
    # From layer i on: cotangents of earlier layers may read the parameters of layer i.
    where_ = where(case, dtype, f"params of layers ≤ {i} are NaN")
    witness.assert_bitwise(where_, names[start:], jax.tree.leaves(got)[start:], want[start:])
    start = end


@law(fast=("float32",))
def law_residuals_hold_no_parameter(case, dtype):
  """Require residuals to be arrays, none of which, when traced, is a parameter."""
  with jax.enable_x64(True):
    _, primals, _ = witness.draw(case, dtype)
    unit = case.make(jnp.dtype(dtype))

    def kept(*primals):
      residuals = unit.forward(*primals)[1]
      for leaf in jax.tree.leaves(residuals):
        if not isinstance(leaf, jax.Array):
          raise AssertionError(f"{where(case, dtype, 'residuals')}: {leaf!r} isn't an array")
      return residuals

    jaxpr = jax.make_jaxpr(kept)(*primals).jaxpr
    if not isinstance(unit, fb.Layer):
      return
    params = jaxpr.invars[: len(jax.tree.leaves(primals[0]))]
    names = witness.leaves_of(("params",), primals[:1])
    for variable, (name, _) in zip(params, names, strict=True):
      if any(variable is kept for kept in jaxpr.outvars):
        raise AssertionError(f"{where(case, dtype, 'residuals')}: {name} is kept")


# --- Law 7: it can be differentiated again --------------------------------------------------------


@law(dtypes=("float64",), fast=())
def law_jvp_of_backward_equals_autodiff(case, dtype):
  """Require the derivative of the cotangents by the primals and y_bar: forward over our reverse."""
  view, primals, y_bar = witness.draw(case, dtype, n=2)
  active, constants = witness.split(view, primals)
  tangents = witness.random_like(witness.generator(case, 1), (active, y_bar))

  @witness.jit_quickly
  def push(primals, tangents):
    def backward(active, y_bar):
      return witness.pull(view, (*active, *constants), y_bar)

    return jax.jvp(backward, primals, tangents)[1]

  got = push((active, y_bar), tangents)
  truth = witness.true_sum(case.reference, view, primals, y_bar, witness.jvp_terms, (tangents,))
  names = tuple(f"{name}_bar_dot" for name in view.names)
  assert_close(case, dtype, "jvp of backward", names, got, truth)


@law(dtypes=("float64",), fast=())
def law_grad_of_backward_equals_autodiff(case, dtype):
  """Require the gradient of a weighted sum of our cotangents: reverse over our reverse."""
  view, primals, y_bar = witness.draw(case, dtype, n=2)
  active, constants = witness.split(view, primals)
  weights = witness.random_like(witness.generator(case, 1), active)

  def weighted_sum(active, y_bar):
    products = jax.tree.map(jnp.multiply, weights, witness.pull(view, (*active, *constants), y_bar))
    return sum(leaf.sum() for leaf in jax.tree.leaves(products))

  got, got_y_bar = witness.jit_quickly(jax.grad(weighted_sum, (0, 1)))(active, y_bar)
  truth = witness.true_sum(case.reference, view, primals, y_bar, witness.grad_terms, (weights,))
  names = (*witness.bars(view.names), "y_bar_bar")
  assert_close(case, dtype, "grad of backward", names, (*got, got_y_bar), truth)
