"""Combinators: layers made of layers; a composition has the type of its parts.

`serial` chains layers and `skip` adds x to a layer's output; `repeat` compiles one block for n
copies, and `remat` recomputes activations. `graphs` has the general case, a directed acyclic graph.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.errors import StructureError, callers_level, describe, noted
from fbackprop.meshes import splits_of
from fbackprop.types import Array, Layer, Params, Residuals


def serial(*layers: Layer) -> Layer:
  """Chain layers: x enters the first, and each output is the next layer's input.

  This is the lecture's network, and its backward pass is the whole of backpropagation: the
  cotangent of the output is pulled back through one layer at a time, from the last to the first,
  so that no intermediate term of the chain rule is computed twice.

  Args:
    *layers: any number of layers; of none, the identity. A chain may stand in a chain. Each gets
      parameters of its own; where one layer object with parameters is given twice, a warning says
      so.

  Returns:
    A `Layer`; its parameters, and its residuals, are the tuple of those of `layers`.

  Raises:
    TypeError: something isn't a Layer.
    ValueError: when traced, `params` isn't a tuple of the length of the chain; an error of a layer
      carries a note that says at which place of the chain it stands.

  Example:
    >>> from fbackprop.layers.activations import relu
    >>> from fbackprop.layers.dense import dense
    >>> net = serial(dense(4, 8), relu, dense(8, 3))
    >>> y, residuals = net.forward(net.init(jax.random.key(0)), jax.numpy.ones((5, 4)))
    >>> y.shape
    (5, 3)

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536.
  """
  for i, layer in enumerate(layers):
    checks.check_unit("serial", f"argument {i}", layer, Layer)
  warn_of_same_layers(layers)

  def serial_init(key: Array) -> Params:
    checks.check_key("init", key)
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(keys[i]) for i, layer in enumerate(layers))

  def serial_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    check_length(params, layers)
    keys = keys_of_parts(key, layers)
    residuals = []
    for i, layer in enumerate(layers):
      with noted(f"in layer {i} ({layer.name}) of {len(layers)}, forward"):
        x, kept = layer.forward(params[i], x, keys[i])
      residuals.append(kept)
    return x, tuple(residuals)

  def serial_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_length(params, layers)
    params_bar = []
    for i in reversed(range(len(layers))):
      with noted(f"in layer {i} ({layers[i].name}) of {len(layers)}, backward"):
        layer_bar, y_bar = layers[i].backward(params[i], residuals[i], y_bar)
      params_bar.append(layer_bar)
    return tuple(reversed(params_bar)), y_bar

  draws = any(layer.draws for layer in layers)
  options: tuple[tuple[str, Any], ...] = (("combinator", serial),)
  return Layer("serial", serial_init, serial_forward, serial_backward, layers, options, draws)


def warn_of_same_layers(layers: tuple[Layer, ...]) -> None:
  """Warn of one layer object in two places: elsewhere that would mean shared parameters."""
  first = {id(layer): i for i, layer in reversed(list(enumerate(layers)))}
  for i, layer in enumerate(layers):
    if first[id(layer)] != i and jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0))):
      warnings.warn(
        f"serial: arguments {first[id(layer)]} and {i} are the same layer, {layer!r}, which gets "
        "parameters of its own in each place; build it anew to say so, repeat it by "
        "fb.repeat(layer, n), or share its parameters by fb.graph and fb.shared",
        stacklevel=callers_level(),
      )
      return


def skip(layer: Layer) -> Layer:
  """Add a skip connection around a layer: y = x + f(x).

  Args:
    layer: f, whose output must have the shape and dtype of its input.

  Returns:
    A `Layer` with the parameters and the residuals of `layer`: a sum keeps nothing.

  Raises:
    TypeError: `layer` isn't a Layer.
    ValueError: when traced: f(x) differs from x in shape or dtype.

  Example:
    >>> from fbackprop.layers.dense import dense
    >>> net = skip(dense(3, 3, w_init=jax.nn.initializers.zeros))
    >>> y, _ = net.forward(net.init(jax.random.key(0)), jax.numpy.array([[1.0, 2.0, 3.0]]))
    >>> print(y)
    [[1. 2. 3.]]

  References:
    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR (2016), eq. 1.
  """
  checks.check_unit("skip", "layer", layer, Layer)

  def skip_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_array("skip", "x", x)
    y, residuals = layer.forward(params, x, key)
    checks.check_shape("skip", "f(x)", y, x.shape, x.dtype)
    return x + y, residuals

  def skip_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    params_bar, x_bar = layer.backward(params, residuals, y_bar)
    return params_bar, y_bar + x_bar

  options = (("combinator", skip),)
  return Layer("skip", layer.init, skip_forward, skip_backward, (layer,), options, layer.draws)


def map_layers(function: Callable[[Layer], Layer], net: Layer, *, separate: bool = False) -> Layer:
  """Apply `function` to each primitive layer and rebuild the network around the results.

  A composition is known by its option "combinator", the function that made it of its parts.

  Args:
    function: takes a layer and gives the one that will stand there.
    net: any network.
    separate: whether `backward` then returns what each node of a graph returns, apart from other
      nodes that share its parameters.

  Returns:
    The network, made anew.
  """
  options = dict(net.options)
  combinator = options.pop("combinator", None)
  if combinator is None:
    return function(net)
  if separate and "nodes" in options:
    options["separate"] = True
  parts = (map_layers(function, part, separate=separate) for part in net.parts)
  made: Layer = combinator(*parts, **options)
  return made._replace(name=net.name)


def as_declared(net: Layer) -> Layer:
  """Return a network for autodiff: where a layer declares a `slope`, that is differentiated.

  Its outputs are the network's own, since what is added to them is zero.
  """

  def declared(layer: Layer) -> Layer:
    if layer.slope is None:
      return layer
    own, slope = layer.forward, layer.slope

    def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
      y, residuals = own(*jax.lax.stop_gradient((params, x)), key)
      smooth = slope(params, x, key)
      return y + (smooth - jax.lax.stop_gradient(smooth)), residuals

    return layer._replace(forward=forward)

  return map_layers(declared, net)


def is_linear(net: Layer) -> bool:
  """Return whether the backward pass of every layer is meant to be linear in the cotangent."""
  return net.linear and all(map(is_linear, net.parts))


def is_chain(net: Layer) -> bool:
  """Return whether a network was made by `serial`: its parameters are its parts' in a tuple."""
  return dict(net.options).get("combinator") is serial


class LayerPlace(NamedTuple):
  """A primitive layer of a network.

  Attributes:
    name: its position and its own name, as "0.dense".
    layer: the layer.
    path: the keys of its node of the parameters.
    copies: in how many loops it is, each of which stacks the arrays of its node.
  """

  name: str
  layer: Layer
  path: tuple[Any, ...]
  copies: int

  def node(self, tree: Any) -> Any:
    """Return the layer's node of a tree that is like the parameters, shared ones apart."""
    for key in self.path:
      tree = tree[key]
    return tree


def places(net: Layer, path: tuple[Any, ...] = (), copies: int = 0) -> Iterator[LayerPlace]:
  """Yield the primitive layers of a network in the order of its forward pass."""
  options = dict(net.options)
  if "combinator" not in options:
    yield LayerPlace(".".join(map(str, (*path, net.name))), net, path, copies)
  elif len(net.parts) == 1 and not is_chain(net) and "nodes" not in options:
    # Around one layer: it stands where that stands.
    yield from places(net.parts[0], path, copies + (options["combinator"] is repeat))
  else:
    nodes = options.get("nodes")
    keys = range(len(net.parts)) if nodes is None else [node.name for node in nodes]
    for key, part in zip(keys, net.parts, strict=True):
      yield from places(part, (*path, key), copies)


def copies(net: Layer, params: Params) -> Params:
  """Count for each array of the parameters the loops that it is stacked for, as `LayerPlace`."""
  known = {place.path: place.copies for place in places(net)}

  def copies_of(path: tuple[Any, ...], _: Any) -> int:
    keys = tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path)
    return next(known[keys[:i]] for i in range(len(keys) + 1) if keys[:i] in known)

  return jax.tree_util.tree_map_with_path(copies_of, params)


def name_layers(net: Layer) -> list[str]:
  """Name each primitive layer by its position and its own name, in the order of computation.

  As "0.dense", "1.relu"; in a chain that stands at place 2 of another, "2.0.dense"; of the node h
  of a graph, "h.dense".
  """
  return [place.name for place in places(net)]


def check_length(params: Params, layers: tuple[Layer, ...]) -> None:
  """Raise `StructureError` for parameters that can't belong to the chain."""
  if type(params) is not tuple or len(params) != len(layers):
    got = f"a tuple of {len(params)}" if type(params) is tuple else describe(params)
    names = ", ".join(layer.name for layer in layers)
    raise StructureError(f"must be a tuple of {len(layers)} ({names}), got {got}", "params")


def keys_of_parts(key: Array | None, layers: tuple[Layer, ...]) -> list[Array | None]:
  """Split a key among the layers that draw; the others get None.

  The k-th layer that draws gets `fold_in(key, k)`: layers that don't draw aren't counted, so that
  inserting an activation leaves every mask as it was.
  """
  if key is None:
    return [None] * len(layers)
  checks.check_key("forward", key)
  drawn = itertools.count()
  return [jax.random.fold_in(key, next(drawn)) if layer.draws else None for layer in layers]


# --- Depth at less cost ---------------------------------------------------------------------------


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
  def forward_step(inputs: Any) -> tuple[Repeated, Any]:
    shared = Repeated()

    def step(x: Array, own: Any) -> tuple[Array, Any]:
      own_params, own_key = own
      y, residuals = layer.forward(own_params, x, own_key)
      checks.check_shape("repeat", "y, the output of the repeated layer,", y, x.shape, x.dtype)
      return y, shared.take_out(residuals)

    return shared, step

  def repeat_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_stacked(params, n)
    shared = Repeated()
    stacks = shared.take_out(residuals)
    step = backward_step(shared.structure, tuple(shared.places))
    x_bar, params_bar = jax.lax.scan(step, y_bar, (params, stacks), length=n, reverse=True)
    return params_bar, x_bar

  @functools.cache
  def backward_step(structure: Any, places: tuple[int, ...]) -> Any:
    shared = Repeated(structure, places)

    def step(y_bar: Array, own: Any) -> tuple[Array, Params]:
      own_params, own_stacks = own
      own_bar, x_bar = layer.backward(own_params, shared.put_back(own_stacks), y_bar)
      return x_bar, own_bar

    return step

  rules, options = (repeat_forward, repeat_backward), (("combinator", repeat), ("n", n))
  return Layer("repeat", repeat_init, *rules, (layer,), options, layer.draws)


def signature(tree: Any) -> Any:
  """Return what identifies a loop over these arrays to the compiler: shapes, dtypes, shardings."""
  leaves, structure = jax.tree.flatten(tree)
  avals = tuple((leaf.shape, leaf.dtype, jax.typeof(leaf).weak_type) for leaf in leaves)
  return structure, avals, jnp.result_type(float)  # What x64 gives, and so residuals may have.


class Repeated:
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
    some_bar = jax.tree.leaves(y_bar)[0]
    x = jax.tree.map(functools.partial(wait_for, some_bar), x)
    if key is not None:
      data = wait_for(some_bar, jax.random.key_data(key))
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
  return jnp.where((some > jnp.inf).any(), jnp.zeros_like(x), x)
