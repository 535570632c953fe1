"""Depth at less cost: `repeat` compiles one block for n copies, `remat` recomputes activations."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.meshes import splits_of
from fbackprop.types import Array, Layer, Params, Residuals


def repeat(layer: Layer, n: int) -> Layer:
  """Chain n copies of a layer, each with its own parameters, as one compiled scan.

  Compile time doesn't grow with n. An array that the layer's residuals hold twice is stacked once,
  so a block should begin with its activation: in `serial(relu, dense(D, D))` the output of relu is
  the input of dense, and one stack is kept. In `serial(dense(D, D), relu)` the input of one copy is
  the output of the copy before, which a loop can't see, and two are.

  Args:
    layer: x and y must have one shape and dtype.
    n: number of copies, at least 1.

  Returns:
    A `Layer`; its parameters are those of `layer` with an axis `[n, ...]` in front.

  Raises:
    TypeError: `layer` isn't a Layer, or `n` isn't an integer.
    ValueError: `n` is below 1. When traced: y differs from x in shape or dtype.

  Example:
    >>> from fbackprop.layers.activations import relu
    >>> from fbackprop.combinators import serial
    >>> from fbackprop.layers.dense import dense
    >>> net = repeat(serial(relu, dense(8, 8)), 100)
    >>> net.init(jax.random.key(0))[1].w.shape
    (100, 8, 8)
  """
  checks.check_unit("repeat", "layer", layer, Layer)
  checks.check_size("repeat", "n", n)

  def repeat_init(key: Array) -> Params:
    checks.check_key("repeat", key)
    return jax.vmap(layer.init)(jax.random.split(key, n))

  def repeat_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    check_stacked(params, n)
    checks.check_array("repeat", "x", x)
    checks.check_optional_key("repeat", key)
    keys = None if key is None or not layer.draws else jax.random.split(key, n)
    shared, step = forward_step(signature((params, x, keys)))
    y, stacks = jax.lax.scan(step, x, (params, keys), length=n)
    return y, shared.put_back(stacks)

  # Outside of jit a loop is compiled anew for each new function, and not for one that was met.
  @functools.cache
  def forward_step(inputs: Any) -> tuple[Shared, Any]:
    shared = Shared()

    def step(x: Array, own: Any) -> tuple[Array, Any]:
      own_params, own_key = own
      y, residuals = layer.forward(own_params, x, own_key)
      checks.check_same("repeat", ("x", "y, the output of the repeated layer,"), x, y)
      return y, shared.take_out(residuals)

    return shared, step

  def repeat_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_stacked(params, n)
    shared = Shared()
    stacks = shared.take_out(residuals)
    step = backward_step(shared.structure, tuple(shared.places))
    x_bar, params_bar = jax.lax.scan(step, y_bar, (params, stacks), length=n, reverse=True)
    return params_bar, x_bar

  @functools.cache
  def backward_step(structure: Any, places: tuple[int, ...]) -> Any:
    shared = Shared(structure, places)

    def step(y_bar: Array, own: Any) -> tuple[Array, Params]:
      own_params, own_stacks = own
      own_bar, x_bar = layer.backward(own_params, shared.put_back(own_stacks), y_bar)
      return x_bar, own_bar

    return step

  options = (("combinator", repeat), ("n", n))
  return Layer(
    "repeat", repeat_init, repeat_forward, repeat_backward, (layer,), options, layer.draws
  )


def signature(tree: Any) -> Any:
  """Return what identifies a loop over these arrays to the compiler: shapes, dtypes, shardings."""
  leaves, structure = jax.tree.flatten(tree)
  avals = tuple((leaf.shape, leaf.dtype, jax.typeof(leaf).weak_type) for leaf in leaves)
  return structure, avals, jnp.result_type(float)  # What x64 gives, and so residuals may have.


class Shared:
  """Arrays that occur several times in a pytree, so that a loop carries each of them once."""

  def __init__(self, structure: Any = None, places: Sequence[int] = ()) -> None:
    self.structure, self.places = structure, places

  def take_out(self, tree: Any) -> list[Array]:
    """Return the distinct leaves, and remember where each of them occurs in the tree."""
    leaves, self.structure = jax.tree.flatten(tree)
    distinct = {id(leaf): leaf for leaf in leaves}
    place_of = {identity: place for place, identity in enumerate(distinct)}
    self.places = [place_of[id(leaf)] for leaf in leaves]
    return list(distinct.values())

  def put_back(self, distinct: list[Array]) -> Any:
    """Rebuild the tree with other leaves in the same positions."""
    return jax.tree.unflatten(self.structure, [distinct[place] for place in self.places])


def check_stacked(params: Params, n: int) -> None:
  """Raise `StructureError` for parameters that aren't stacked n deep."""
  for leaf in jax.tree.leaves(params):
    checks.check_array("repeat", "each leaf of params", leaf)
    checks.check_shape("repeat", "each array of params", leaf, (n, *leaf.shape[1:]))


def remat(layer: Layer) -> Layer:
  """Rematerialise a layer: keep its input alone and recompute the rest in the backward pass.

  It trades one more forward pass for the memory of the residuals. The backward pass computes with
  the parameters that it is given, which must be those of the forward pass: no feedback alignment
  through a `remat`.

  Args:
    layer: often a chain, or a part of one.

  Returns:
    A `Layer` with the parameters of `layer`; kept are x and the key.

  Raises:
    TypeError: `layer` isn't a Layer.

  References:
    Griewank, Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000); Chen et al., "Training deep
    nets with sublinear memory cost", arXiv:1604.06174 (2016).
  """
  checks.check_unit("remat", "layer", layer, Layer)

  def remat_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_optional_key("remat", key)
    return layer.forward(params, x, key)[0], (x, key)

  def remat_backward(params: Params, kept: Residuals, y_bar: Array) -> tuple[Params, Array]:
    x, key = kept
    x = jax.tree.map(functools.partial(wait_for, y_bar), x)
    if key is not None:
      data = wait_for(y_bar, jax.random.key_data(key))
      key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
    _, residuals = layer.forward(params, x, key)
    return layer.backward(params, residuals, y_bar)

  options = (("combinator", remat),)
  return Layer("remat", layer.init, remat_forward, remat_backward, (layer,), options, layer.draws)


def wait_for(y_bar: Array, x: Array) -> Array:
  """Return x with a data dependency on y_bar, which the compiler can't remove.

  Otherwise the compiler sees that the second forward pass is the first one, and keeps its results
  after all. `lax.optimization_barrier` is meant for this; on a CPU it is taken away before equal
  operations are merged. That no number is greater than infinity, the compiler doesn't know.
  """
  # One number would do; of an array that is split over devices that has no place of its own.
  some = y_bar if any(splits_of(y_bar)) else y_bar.reshape(-1)[:1]
  never = (some > jnp.inf).any()
  return jnp.where(never, jnp.zeros_like(x), x)
