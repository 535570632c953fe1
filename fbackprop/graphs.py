"""Graphs: layers on a directed acyclic graph, the lecture's word for a network.

`serial` is the special case of one path. Here a value may be used several times and a node may have
several inputs, and backpropagation in full has one rule more than on a chain: at a fork, the
cotangents add up. The same rule holds for parameters that several nodes share.
"""

import functools
import graphlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.combinators import is_chain, keys_of_parts
from fbackprop.errors import ArgumentError, StructureError, describe, hint, noted
from fbackprop.layers.dense import DenseParams, dense
from fbackprop.layers.sharing import add_uses, split_transposed
from fbackprop.types import Array, Layer, Params, Residuals

PARTS = "be a tuple, as of fbackprop.split, since other nodes read its parts"


class GraphError(ArgumentError, ValueError):
  """The nodes form no graph: a cycle, an unknown name, a node that leads nowhere."""


class Shared(NamedTuple):
  """In the place of a node's layer: the layer, and the parameters, of another node."""

  node: str
  transposed: bool = False
  bias: bool = True


class GraphNode(NamedTuple):
  """A node as `connect` takes it.

  Attributes:
    name: its name.
    inputs: the names of the values that enter; "s[0]" is the first part of s.
    owner: the node whose parameters it uses, by default its own.
    transposed: whether it uses the owner's w transposed, and a b of its own.
  """

  name: str
  inputs: tuple[str, ...]
  owner: str
  transposed: bool = False

  def describe(self, layer: Layer) -> str:
    """Return what `graph` was given in the place of the layer."""
    if self.transposed or self.owner != self.name:
      return f"{'transposed' if self.transposed else 'shared'}({self.owner!r})"
    return repr(layer)


def shared(node: str) -> Shared:
  """Use the layer of another node, with its parameters; their gradients add up.

  Raises:
    TypeError: `node` isn't a str.

  Example:
    >>> net = graph({"h": (dense(3, 3), "x"), "y": (shared("h"), "h")}, output="y")
    >>> list(net.init(jax.random.key(0)))
    ['h']
  """
  checks.check_that("shared", "node", node, isinstance(node, str), "be the name of a node")
  return Shared(node)


def transposed(node: str, *, bias: bool = True) -> Shared:
  """Use the weights of another node's dense layer transposed, y = x wᵀ + b, with a b of its own.

  Args:
    node: a node with a `dense` layer.
    bias: whether b is added.

  Raises:
    TypeError: `node` isn't a str, or `bias` no flag.

  Example:
    >>> net = graph({"h": (dense(8, 2), "x"), "y": (transposed("h"), "h")}, output="y")
    >>> [leaf.shape for leaf in jax.tree.leaves(net.init(jax.random.key(0)))]
    [(8, 2), (2,), (8,)]
  """
  checks.check_that("transposed", "node", node, isinstance(node, str), "be the name of a node")
  checks.check_flag("transposed", "bias", bias)
  return Shared(node, True, bias)


def graph(nodes: Mapping[str, tuple[Any, ...]], *, output: Any, inputs: Any = "x") -> Layer:
  """Connect layers on a directed acyclic graph.

  A node is `name: (layer, input, ...)`: its layer gets the value of that input, or of several the
  tuple of their values, as `fbackprop.add`, `multiply` and `concatenate` take it. Where a node's
  value is a tuple, as of `fbackprop.split`, its parts have the names "s[0]", "s[1]", ....

  Forward, the nodes are computed in topological order; backward in the reverse order, and the
  cotangents of a value that several nodes use are added up.

  Args:
    nodes: the nodes by name, in any order. In the place of a layer may stand `shared(name)`, the
      layer and the parameters of another node, or `transposed(name)`.
    output: the name of the network's output; a tuple or dict of names for several.
    inputs: the name of x; a tuple or dict of names for several inputs, and then x is such a tuple
      or dict.

  Returns:
    A `Layer`; its parameters are a dict by node, without the nodes that only share.

  Raises:
    TypeError: a node isn't a tuple of a layer and names.
    GraphError: the nodes form a cycle; a name is unknown or used twice; a node or an input doesn't
      lead to the output. The message names the nodes.
    ValueError: when traced: x or `params` don't fit; an error of a layer carries a note that names
      its node.

  Example:
    >>> from fbackprop.layers.activations import relu
    >>> from fbackprop.layers.merging import add
    >>> net = graph(
    ...   {"h": (dense(4, 4), "x"), "a": (relu, "h"), "y": (add, "a", "x")}, output="y"
    ... )
    >>> y, residuals = net.forward(net.init(jax.random.key(0)), jnp.ones((5, 4)))
    >>> y.shape
    (5, 4)

  References:
    Baydin, Pearlmutter, Radul, Siskind, "Automatic differentiation in machine learning: a survey",
    JMLR 18 (2018), section 3.2.
  """
  wanted = "be a dict of nodes, name: (layer, input, ...)"
  checks.check_that("graph", "nodes", nodes, isinstance(nodes, Mapping) and nodes, wanted)
  for name, node in nodes.items():
    check_node(name, node)
  names = {name: GraphNode(name, tuple(node[1:]), *owner_of(name, nodes))
           for name, node in nodes.items()}  # fmt: skip
  layers = {name: layer_of(name, nodes) for name in nodes}
  order = sort_nodes(names, inputs, output)
  nodes_in_order = tuple(names[name] for name in order)
  return connect(
    *map(layers.__getitem__, order), nodes=nodes_in_order, inputs=inputs, output=output
  )


def connect(
  *layers: Layer, nodes: tuple[GraphNode, ...], inputs: Any, output: Any, separate: bool = False
) -> Layer:
  """Build the layer of a graph whose nodes are in topological order; see `graph`.

  Args:
    *layers: the layer of each node.
    nodes: the nodes.
    inputs, output: trees of names.
    separate: whether `backward` leaves the contributions of nodes that share parameters apart, for
      those who look at each node.
  """
  parts_read = {ref for node in nodes for ref in node.inputs} | set(jax.tree.leaves(output))
  cut = {name_of(ref) for ref in parts_read if "[" in ref}  # Nodes whose parts are used.
  # Keys go by name: they depend neither on the order of the dict nor on the nodes between.
  by_name = dict(sorted(zip([node.name for node in nodes], layers, strict=True)))

  def graph_init(key: Array) -> Params:
    checks.check_key("init", key)
    keys = dict(zip(by_name, jax.random.split(key, len(nodes)), strict=True))
    params = {}
    for node, layer in zip(nodes, layers, strict=True):
      if node.transposed:
        params[node.name] = layer.init(keys[node.name])._replace(w=None)
      elif node.owner == node.name:
        params[node.name] = layer.init(keys[node.name])
    return params

  def graph_forward(params: Params, x: Any, key: Array | None = None) -> tuple[Any, Residuals]:
    check_params(params, nodes)
    values, residuals = dict(pairs("inputs", inputs, "x", x)), {}
    keys = dict(zip(by_name, keys_of_parts(key, tuple(by_name.values())), strict=True))
    for node, layer in zip(nodes, layers, strict=True):
      with noted(f"in node {describe_node(node, layer)} of the graph, forward"):
        entering = tuple(take(values, ref) for ref in node.inputs)
        x = entering if len(entering) > 1 else entering[0]
        y, residuals[node.name] = layer.forward(params_of(node, params), x, keys[node.name])
      values[node.name] = y
      if node.name in cut:
        has_parts = type(y) is tuple
        checks.check_that("graph", f"the value of {node.name!r}", y, has_parts, PARTS)
        parts = {f"{node.name}[{i}]": part for i, part in enumerate(y)}
        values |= parts
        unread = {ref: parts[ref] for ref in parts if ref not in parts_read}
        unread = jax.tree.map(jnp.zeros_like, unread)
        residuals[node.name] = (residuals[node.name], tuple(() for _ in parts), unread)
    y = jax.tree.map(functools.partial(take, values), output)
    # An empty array of each output, which has its shape and dtype.
    return y, (residuals, jax.tree.map(lambda a: jnp.zeros((*a.shape, 0), a.dtype), y))

  def graph_backward(params: Params, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    check_params(params, nodes)
    residuals, like = residuals
    bars: dict[str, Any] = {}

    def send(ref: str, bar: Any) -> None:
      """Add a contribution to the cotangent of a value."""
      bars[ref] = add_bars(ref, bars[ref], bar) if ref in bars else bar

    for ref, bar in y_bars(output, y_bar, like):
      send(ref, bar)
    params_bar = {}
    for node, layer in zip(reversed(nodes), reversed(layers), strict=True):
      kept = residuals[node.name]
      if node.name in cut:
        kept, parts, unread = kept
        bars |= unread
        bars[node.name] = tuple(bars.pop(f"{node.name}[{i}]") for i in range(len(parts)))
      with noted(f"in node {describe_node(node, layer)} of the graph, backward"):
        own = params_of(node, params)
        params_bar[node.name], x_bar = layer.backward(own, kept, bars.pop(node.name))
        x_bars = x_bar if len(node.inputs) > 1 else (x_bar,)
        for ref, bar in zip(node.inputs, x_bars, strict=True):
          send(ref, bar)
    return params_bar if separate else add_shared(nodes, params_bar), jax.tree.map(bars.get, inputs)

  draws = any(layer.draws for layer in layers)
  wiring = (("nodes", nodes), ("inputs", inputs), ("output", output))
  options = (("combinator", connect), *wiring, *((("separate", True),) if separate else ()))
  return Layer("graph", graph_init, graph_forward, graph_backward, layers, options, draws)


# --- Values, parameters, errors -------------------------------------------------------------------


def name_of(ref: str) -> str:
  """Return the node of a name such as "s" or "s[0]"."""
  return ref.partition("[")[0]


def take(values: dict[str, Any], ref: str) -> Any:
  """Return the value of a name; raise for a part that its node doesn't have."""
  if ref not in values:
    parts = [name for name in values if name.startswith(f"{name_of(ref)}[")]
    raise StructureError(f"graph: there is no {ref!r}; the parts are {', '.join(parts)}")
  return values[ref]


def pairs(argument: str, names: Any, name: str, values: Any) -> list[tuple[str, Any]]:
  """Pair the names of inputs or outputs with values; raise for values of another structure."""
  structure: Any = jax.tree.structure(names)
  try:
    return list(zip(jax.tree.leaves(names), structure.flatten_up_to(values), strict=True))
  except (TypeError, ValueError):
    problem = f"must be like {argument}={names!r}, got {describe(values)}"
    raise StructureError(problem, name, "graph") from None


def y_bars(output: Any, y_bar: Any, like: Any) -> list[tuple[str, Any]]:
  """Pair the names of outputs with their cotangents; raise for one that isn't like its output."""
  found = pairs("output", output, "y_bar", y_bar)
  for (ref, bar), (_, empty) in zip(found, pairs("output", output, "y", like), strict=True):
    shapes = jax.eval_shape(lambda tree: jax.tree.map(lambda a: a.sum(-1), tree), empty)
    check_bar(f"y_bar of {ref!r}", bar, shapes)
  return found


def add_bars(ref: str, a: Any, b: Any) -> Any:
  """Add two cotangents of one value."""
  check_bar(f"a cotangent of {ref!r}", b, a)
  return jax.tree.map(jnp.add, a, b)


def check_bar(name: str, bar: Any, like: Any) -> None:
  """Raise for a cotangent of another structure, shape or dtype, which would be broadcast."""
  structure: Any = jax.tree.structure(bar)
  right: Any = jax.tree.structure(like)
  checks.check_that(
    "graph", name, bar, structure == right, f"have the structure {right}", StructureError
  )
  for own, want in zip(jax.tree.leaves(bar), jax.tree.leaves(like), strict=True):
    checks.check_shape("graph", name, own, want.shape, want.dtype)


def params_of(node: GraphNode, params: Params) -> Params:
  """Return the parameters that a node's layer is called with."""
  if node.transposed:
    return DenseParams(params[node.owner].w.T, params[node.name].b)
  return params[node.owner]


def add_shared(nodes: tuple[GraphNode, ...], params_bar: dict[str, Any]) -> dict[str, Any]:
  """Add the gradients of nodes that share parameters to those of the owners."""
  params_bar = dict(params_bar)
  for node in nodes:
    if node.owner != node.name:
      bar = params_bar.pop(node.name)
      if node.transposed:
        bar, params_bar[node.name] = split_transposed(bar)
      params_bar[node.owner] = add_uses(params_bar[node.owner], bar)
  return params_bar


def add_all_shared(net: Layer, params_bar: Any) -> Any:
  """Add the shared gradients of every graph in a network whose backward left them apart."""
  options = dict(net.options)
  if options.get("combinator") is connect:
    names = [node.name for node in options["nodes"]]
    inner = {name: add_all_shared(part, params_bar[name])
             for name, part in zip(names, net.parts, strict=True)}  # fmt: skip
    return add_shared(options["nodes"], inner)
  if "combinator" not in options:
    return params_bar
  if not is_chain(net):  # Around one layer: the parameters are that layer's.
    return add_all_shared(net.parts[0], params_bar)
  return tuple(map(add_all_shared, net.parts, params_bar))


def check_params(params: Params, nodes: tuple[GraphNode, ...]) -> None:
  """Raise for parameters that can't belong to the graph."""
  names = sorted(node.name for node in nodes if node.owner == node.name or node.transposed)
  if not isinstance(params, dict) or sorted(params) != names:
    got = f"one of {', '.join(map(str, params))}" if isinstance(params, dict) else describe(params)
    raise StructureError(f"must be a dict of the nodes {', '.join(names)}, got {got}", "params")


def describe_node(node: GraphNode, layer: Layer) -> str:
  """Return a node in words: 'y' (add of 'a', 'x')."""
  return f"{node.name!r} ({layer.name} of {', '.join(map(repr, node.inputs))})"


def check_node(name: Any, node: Any) -> None:
  """Raise for a node that is invalid by itself."""
  check_name("a node", name)
  is_node = isinstance(node, tuple) and len(node) > 1
  is_node = is_node and isinstance(node[0], Layer | Shared)
  is_node = is_node and all(isinstance(ref, str) for ref in node[1:])
  wanted = "be (layer, input, ...): a Layer and the names of its inputs"
  if isinstance(node, Layer):  # Itself a tuple.
    is_node, wanted = False, f"{wanted}, such as ({node.name}, 'x')"
  checks.check_that("graph", f"node {name!r}", node, is_node, wanted)


def check_name(kind: str, name: Any) -> None:
  """Raise for a name that could be a part's or a path."""
  is_name = isinstance(name, str) and name and not re.search(r"[\[\]./]", name)
  wanted = "be a nonempty str without brackets, dots and slashes"
  checks.check_that("graph", f"the name of {kind}", name, is_name, wanted)


def owner_of(name: str, nodes: Mapping[str, tuple[Any, ...]]) -> tuple[str, bool]:
  """Return the node whose parameters a node uses, and whether transposed."""
  spec, user, path = nodes[name][0], name, [name]
  is_transposed = isinstance(spec, Shared) and spec.transposed
  while isinstance(spec, Shared):
    place = f"graph: node {user!r} shares the parameters of {spec.node!r}, which"
    if spec.node not in nodes:
      raise GraphError(f"{place} is no node; {hint(spec.node, list(nodes))}")
    if spec.node in path:
      raise GraphError(f"{place} shares those of {user!r}: one of them must have a layer")
    user, spec = spec.node, nodes[spec.node][0]
    path.append(user)
    if isinstance(spec, Shared) and spec.transposed:
      raise GraphError(f"{place} uses those of {spec.node!r} transposed: share {spec.node!r}")
  return path[-1], is_transposed


def layer_of(name: str, nodes: Mapping[str, tuple[Any, ...]]) -> Layer:
  """Return the layer of a node, which may be another node's."""
  owner, is_transposed = owner_of(name, nodes)
  layer: Layer = nodes[owner][0]
  if not is_transposed:
    return layer
  options = dict(layer.options)
  if "d_out" not in options or layer.name != "dense":
    problem = f"has the layer {layer.name}, and only that of fbackprop.dense has a transpose"
    raise GraphError(f"graph: node {name!r} is transposed({owner!r}), which {problem}")
  sizes = options["d_out"], options["d_in"]
  return dense(*sizes, bias=nodes[name][0].bias, dtype=options["dtype"])


def sort_nodes(nodes: dict[str, GraphNode], inputs: Any, output: Any) -> list[str]:
  """Return the names of the nodes in topological order; raise if they form no graph."""
  entering, leaving = jax.tree.leaves(inputs), jax.tree.leaves(output)
  for argument, refs in (("inputs", entering), ("output", leaving)):
    is_names = bool(refs) and all(isinstance(ref, str) for ref in refs)
    checks.check_that("graph", argument, refs, is_names, "be a name, or a tree of names")
  for name in entering:
    check_name("an input", name)
  known = [*entering, *nodes]
  for i, name in enumerate(known):
    if name in known[:i]:
      raise GraphError(f"graph: there are two values with the name {name!r}")
  readers = {f"node {name!r}": node.inputs for name, node in nodes.items()}
  read = {ref: reader for reader, refs in {**readers, "output": leaving}.items() for ref in refs}
  for ref, reader in read.items():
    name = name_of(ref)
    if name not in known or not re.fullmatch(r"[^\[\]]+(\[(0|[1-9][0-9]*)\])?", ref):
      told = f"which is no node and no input; {hint(name, known)}"
      if name in known:
        told = f"which is no part: write {name}[0]"
      raise GraphError(f"graph: {reader} reads {ref!r}, {told}")
    if ref != name and name in entering:
      raise GraphError(f"graph: {reader} reads {ref!r}: give the parts of x names, in inputs")
    if ref != name and name in read:
      raise GraphError(f"graph: {reader} reads {ref!r}, and {read[name]} the whole of {name!r}")
  before = {name: [name_of(ref) for ref in node.inputs] for name, node in nodes.items()}
  try:
    order = [n for n in graphlib.TopologicalSorter(before).static_order() if n in nodes]
  except graphlib.CycleError as error:
    raise GraphError(f"graph: the nodes form a cycle: {' -> '.join(error.args[1])}") from None
  used = {name_of(ref) for ref in leaving}
  for name in reversed(order):
    used |= set(before[name]) if name in used else set()
  if idle := [name for name in known if name not in used]:
    problem = "doesn't lead to the output: leave it out, or name it in output"
    raise GraphError(f"graph: {', '.join(map(repr, idle))} {problem}")
  return order
