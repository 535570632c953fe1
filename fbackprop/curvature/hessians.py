"""The diagonal of the Hessian: exact, and by one more backward pass (HesScale, BL89).

The Hessian of an example's loss by a layer's input x is, from that by its output y,

  H_x = Jᵀ H_y J + Σ_k ȳ_k ∂²y_k/∂x²,

the GGN's recursion and a residual, which for an activation is diag(ȳ φ″(z)) and for a dense layer 0
(`Second.bend`). So a second pass backward carries H `[N, D, D]` of each example where the first
carries ȳ `[N, D]`. Of a dense layer the diagonal by w_ij is then Σ_n x_ni² H_njj. BackPACK's
DiagHessian carries square roots of the residuals instead, of which each activation adds D columns.

HesScale carries the diagonal of H alone, with (J∘J)ᵀ in the place of Jᵀ · J.

References:
  Becker, LeCun, "Improving the convergence of back-propagation learning with second order methods",
  Connectionist models summer school (1989), eq. 3 to 6; Botev, Ritter, Barber, "Practical
  Gauss–Newton optimisation for deep learning", ICML (2017), section 2; Elsayed, Farrahi, Dangel,
  Mahmood, "Revisiting scalable Hessian diagonal approximations for applications in reinforcement
  learning", ICML (2024), section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.combinators import is_chain, places, skip
from fbackprop.curvature.diagonals import ggn_diagonal, weigh
from fbackprop.curvature.linearization import (
  Linearization,
  check_chunk,
  check_model,
  check_unshared,
  linearize,
  without_remat,
)  # fmt: skip
from fbackprop.errors import StructureError
from fbackprop.layers.factors import ByParameter
from fbackprop.losses.rows import curvature_of
from fbackprop.quantities.capture import captured, captured_layer
from fbackprop.types import Array, Layer, Loss, Params, Residuals, Second, widen


def hessian_diagonal(net: Layer, loss: Loss, *, chunk: int | None = None) -> Callable[..., Params]:
  """Build the exact diagonal of the Hessian of the mean loss.

  Where the network is piecewise linear, as with relu, it is the diagonal of the GGN, and computed
  as that. Else a pass backward carries the Hessian `[N, D, D]` of each example by each layer's
  output, and no more: nothing of the size of the parameters squared.

  Kinks: the slopes there count as constant, as autodiff has it.

  Cost: for a smooth network N D² numbers of memory and N D² (D_in + D_out) products for a layer:
  for narrow networks and few outputs no more than some gradients, for a width D about D times the
  gradient.

  Args:
    net: chains, loops, skips and graphs of layers that state their second-order rules, as all
      activations, dense and normalisation layers do, without shared parameters. A graph has one
      input, one output and no `split`, unless the network is piecewise linear.
    loss: the loss of each example; it must state its curvature.
    chunk: the most examples that are in memory at once; None for all. Not with a key that draws.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> diagonal`, like `params`, in float32 at
    least. A pure function, for jit.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: a layer states no factors, or no second-order rules; nodes share parameters; the
      network isn't piecewise linear, and a graph in it has several inputs, outputs or a `split`;
      the loss states no curvature. When traced: an argument has the wrong shape.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([2, 3, 1], fb.tanh)
    >>> f = jax.jit(hessian_diagonal(net, fb.squared_error))
    >>> diagonal = f(net.init(jax.random.key(0)), jnp.ones((4, 2)), jnp.zeros((4, 1)))
    >>> [leaf.shape for leaf in jax.tree.leaves(diagonal)]
    [(2, 3), (3,), (3, 1), (1,)]
  """
  where = "hessian_diagonal"
  check_model(where, net, loss)
  curvature_of(where, loss)
  check_chunk(where, chunk)
  captured(net)  # Each layer must state its factors.
  check_unshared(where, net, "take ggn_diagonal, which has their cross terms")
  check_second(where, net, "bend")
  if all(place.layer.second.bend is None for place in places(net)):  # type: ignore[union-attr]
    return piecewise_linear(where, net, loss, chunk)
  check_graphs(where, net)
  net = without_remat(net)
  first = rebuilt(net, recorded)
  second = rebuilt(net, with_hessians, skip_with_hessians, graph_with_hessians)

  def of_point(at: Linearization) -> Params:
    return second_pass(first, second, at, output_hessians(where, at))

  def diagonal(
    params: Params, x: Any, targets: Any, *, key: Any = None, weights: Any = None
  ) -> Params:
    at = linearize(where, net, loss, params, x, targets, key, weights)
    n = checks.example_count(x)
    if chunk is None or chunk >= n:
      return of_point(at)
    if key is not None and net.draws:
      problem = "must be None with a key, by which the network draws for all examples at once"
      raise StructureError(problem, "chunk", where)

    def of_part(x: Any, targets: Any, shares: Array) -> Params:
      part = linearize(where, net, loss, params, x, targets, None, None)
      return of_point(part._replace(shares=shares))

    # Rows of weight 0, copies of the first, fill the last chunk.
    x, targets = jax.tree.map(lambda rows: in_chunks(rows, chunk), (x, targets))
    parts = x, targets, jnp.pad(at.shares, (0, -n % chunk)).reshape(-1, chunk)
    total = jax.eval_shape(of_part, *jax.tree.map(lambda rows: rows[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), total)

    def add(total: Params, part: Any) -> tuple[Params, None]:
      return jax.tree.map(jnp.add, total, of_part(*part)), None

    return jax.lax.scan(add, zeros, parts)[0]

  return diagonal


def in_chunks(rows: Array, chunk: int) -> Array:
  """Cut rows into `[K, chunk, ...]`, the last chunk filled with copies of the first row."""
  fill = jnp.broadcast_to(rows[:1], (-rows.shape[0] % chunk, *rows.shape[1:]))
  return jnp.concatenate([rows, fill]).reshape(-1, chunk, *rows.shape[1:])


def piecewise_linear(
  where: str, net: Layer, loss: Loss, chunk: int | None
) -> Callable[..., Params]:
  """Build the Hessian's diagonal as that of the GGN."""
  of_ggn = ggn_diagonal(net, loss, chunk=chunk)

  def diagonal(
    params: Params, x: Any, targets: Any, *, key: Any = None, weights: Any = None
  ) -> Params:
    return of_ggn(params, x, targets, key=key, weights=weights)

  return diagonal


def hesscale_diagonal(
  net: Layer, loss: Loss, *, gauss_newton: bool = False
) -> Callable[..., Params]:
  """Build HesScale's approximation of the Hessian's diagonal, by one more backward pass.

  The exact diagonal of the Hessian by the outputs is pulled back through squared derivatives, as if
  the Hessian by every layer's output were diagonal: of a dense layer h_x = (w∘w) h_y, of an
  activation h_z = φ′² h_y + ȳ φ″. It is exact for the last dense layer, and for a network of one
  unit per layer. With losses that sum over outputs, such as squared error, it is the rule of Becker
  and LeCun (BL89); for softmax cross-entropy that rule goes through the softmax as another layer,
  and HesScale starts from p (1 − p). At a fork, as of `skip` and `graph`, the branches add up.

  Entries may be negative where the Hessian's are.

  Cost: that of a gradient, less the product of the weight gradient of one of the two passes.

  Args:
    net: a network whose layers state their second-order rules, without shared parameters.
    loss: the loss of each example; it must state its curvature.
    gauss_newton: whether to leave ȳ φ″ out: HesScaleGN, an approximation of the GGN's diagonal,
      never below 0.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> diagonal`, like `params`, in float32 at
    least. A pure function, for jit and vmap.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: a layer states no factors, or no second-order rules; nodes share parameters; the
      loss states no curvature. When traced: an argument has the wrong shape.
  """
  where = "hesscale_diagonal"
  check_model(where, net, loss)
  curvature_of(where, loss)
  checks.check_flag(where, "gauss_newton", gauss_newton)
  captured(net)
  check_unshared(where, net, "take ggn_diagonal, which has their cross terms")
  check_second(where, net, "squares")
  net = without_remat(net)
  first = rebuilt(net, unrecorded if gauss_newton else recorded)
  second = rebuilt(net, with_squares)

  def diagonal(
    params: Params, x: Any, targets: Any, *, key: Any = None, weights: Any = None
  ) -> Params:
    at = linearize(where, net, loss, params, x, targets, key, weights)
    diagonals = jnp.diagonal(output_hessians(where, at), axis1=1, axis2=2)
    return second_pass(first, second, at, diagonals)

  return diagonal


def check_second(where: str, net: Layer, rule: str) -> None:
  """Raise for a layer that doesn't state a second-order rule."""
  for place in places(net):
    second = place.layer.second
    if second is None or (rule == "squares" and second.squares is None):
      raise StructureError(
        f"{where}: the layer {place.name} states no second-order rules ({rule}): give its Gate the "
        "field second, or its Layer a fbackprop.Second, as docs/curvature.md shows; "
        "ggn_diagonal needs none"
      )


def check_graphs(where: str, net: Layer) -> None:
  """Raise for a graph whose values aren't arrays `[N, D]`, or whose joins bend."""
  options = dict(net.options)
  if "nodes" in options:
    refs = [ref for node in options["nodes"] for ref in node.inputs]
    ends = (options["inputs"], options["output"])
    joins = [part for node, part in zip(options["nodes"], net.parts, strict=True)
             if len(node.inputs) > 1]  # fmt: skip
    is_plain = all(isinstance(end, str) for end in ends) and not any("[" in ref for ref in refs)
    if not is_plain or any(join.second is None or join.second.bend is not None for join in joins):
      raise StructureError(
        f"{where}: a graph must have one input, one output, no split, and only sums and "
        "concatenations as nodes of several inputs, unless it is piecewise linear; take "
        "ggn_diagonal or hesscale_diagonal"
      )
  for part in net.parts:
    check_graphs(where, part)


# --- Two passes backward --------------------------------------------------------------------------


class Recorded(NamedTuple):
  """A layer's parameters, and beside them the ȳ that the first pass met there, or None."""

  params: Params
  y_bar: Any


def output_hessians(where: str, at: Linearization) -> Array:
  """Compute the Hessian of each example's share of the mean by its outputs, `[N, C, C]`."""
  multiply, c = curvature_of(where, at.loss).product, at.outputs.shape[1]
  identity = jnp.eye(c, dtype=at.outputs.dtype)

  def column(unit: Array) -> Array:
    return multiply(at.outputs, at.targets, jnp.broadcast_to(unit[None], at.outputs.shape))

  return jax.vmap(column, out_axes=2)(identity) * at.shares[:, None, None]


def second_pass(first: Layer, second: Layer, at: Linearization, curvature: Array) -> Params:
  """Run the first pass, which records ȳ, and the second, which carries a curvature."""
  outputs_bar = at.loss.backward(at.loss_residuals, at.shares)
  y_bars, _ = first.backward(at.params, at.residuals, outputs_bar)
  return second.backward(beside(first, at.params, y_bars), at.residuals, curvature)[0]


def beside(net: Layer, params: Params, y_bars: Any) -> Any:
  """Put each layer's parameters and its ȳ side by side."""
  options = dict(net.options)
  if "combinator" not in options:
    return Recorded(params, y_bars)
  if "nodes" in options:
    names = [node.name for node in options["nodes"]]
    return {name: beside(part, params[name], y_bars[name])
            for name, part in zip(names, net.parts, strict=True)}  # fmt: skip
  if is_chain(net):
    return tuple(map(beside, net.parts, params, y_bars))
  return beside(net.parts[0], params, y_bars)


def params_of(tree: Any) -> Any:
  """Return the parameters alone."""
  return jax.tree.map(lambda at: at.params, tree, is_leaf=lambda node: isinstance(node, Recorded))


Backward = Callable[[Any, Residuals, Any], tuple[Any, Any]]


def rebuilt(
  net: Layer,
  primitive: Callable[[Layer], Backward],
  around_skip: Callable[[Layer, Layer], Backward] | None = None,
  around_graph: Callable[[Layer, list[Layer]], Backward] | None = None,
) -> Layer:
  """Return a network in which each primitive layer has another backward rule.

  Args:
    net: the network.
    primitive: gives a layer's rule.
    around_skip: gives the rule of a `skip`, from its layer as it is and as it is rebuilt; None for
      its own.
    around_graph: gives the rule of a `graph`, from it as it is and its rebuilt layers; None for its
      own.
  """
  options = dict(net.options)
  combinator = options.pop("combinator", None)
  if combinator is None:
    return net._replace(backward=primitive(net))
  parts = [rebuilt(part, primitive, around_skip, around_graph) for part in net.parts]
  if "nodes" in options and around_graph is not None:
    return net._replace(backward=around_graph(net, parts))
  if combinator is skip and around_skip is not None:
    return net._replace(backward=around_skip(net.parts[0], parts[0]))
  made: Layer = combinator(*parts, **options)
  return made


def recorded(layer: Layer) -> Backward:
  """Return the rule of the first pass: ȳ, where the layer bends, in the place of its gradient."""

  def backward(params: Params, residuals: Residuals, y_bar: Any) -> tuple[Any, Any]:
    _, x_bar = layer.backward(params, residuals, y_bar)
    return None if second_of(layer).bend is None else y_bar, x_bar

  return backward


def unrecorded(layer: Layer) -> Backward:
  """Return the rule of a first pass that records nothing, so that no layer bends."""

  def backward(params: Params, residuals: Residuals, y_bar: Any) -> tuple[Any, Any]:
    return None, layer.backward(params, residuals, y_bar)[1]

  return backward


def with_hessians(layer: Layer) -> Backward:
  """Return the rule that pulls H `[N, D_out, D_out]` back, and gives the diagonal by the params."""

  def backward(at: Recorded, residuals: Residuals, hessians: Array) -> tuple[Any, Array]:
    half = pull_rows(layer, at.params, residuals, hessians)
    x_hessians = pull_rows(layer, at.params, residuals, jnp.swapaxes(half, 1, 2))
    bend = second_of(layer).bend
    if bend is not None:
      more = bend(at.params, residuals, at.y_bar)
      is_diagonal = more.ndim == 2
      identity = jnp.eye(more.shape[1], dtype=more.dtype)[None]
      x_hessians = x_hessians + (more[:, None, :] * identity if is_diagonal else more)
    own = jnp.diagonal(hessians, axis1=1, axis2=2)
    return own_diagonal(layer, at.params, residuals, own), x_hessians

  return backward


def pull_rows(layer: Layer, params: Params, residuals: Residuals, rows: Array) -> Array:
  """Compute M J of each example, M `[N, K, D_out]`: each of its rows is a cotangent of y."""

  def pull(y_bar: Array) -> Array:
    x_bar: Array = layer.backward(params, residuals, y_bar)[1]
    return x_bar

  return jax.vmap(pull, 1, 1)(rows)


def skip_with_hessians(layer: Layer, inner: Layer) -> Backward:
  """Return the rule of y = x + f(x): H_x = H_y + H_y J + (H_y J)ᵀ + that of f."""

  def backward(at: Any, residuals: Residuals, hessians: Array) -> tuple[Any, Array]:
    half = pull_rows(layer, params_of(at), residuals, hessians)
    diagonal, own = inner.backward(at, residuals, hessians)
    return diagonal, hessians + half + jnp.swapaxes(half, 1, 2) + own

  return backward


def graph_with_hessians(net: Layer, inner: list[Layer]) -> Backward:
  """Return the rule of a graph, of the Hessian by all values that are still to be pulled back.

  It has a block for each two of them. A node y = f(u, ..) takes its rows and columns out, and pulls
  them back to its inputs: H_zu += H_zy J_u for any other value z, and H_uv += J_uᵀ H_yy J_v and
  what f bends. z may be u itself, of a value that is used again after y.
  """
  options = dict(net.options)

  def backward(at: Any, residuals: Residuals, hessians: Array) -> tuple[Any, Array]:
    kept, _ = residuals
    blocks = {(options["output"],) * 2: hessians}

    def send(z: str, u: str, block: Array) -> None:
      blocks[z, u] = blocks[z, u] + block if (z, u) in blocks else block

    diagonals = {}
    for node, layer, own in reversed(list(zip(options["nodes"], net.parts, inner, strict=True))):
      y, params = node.name, params_of(at[node.name])
      of_y, rows = blocks.pop((y, y)), {}
      for z in [z for z, u in blocks if u == y]:
        rows[z] = blocks.pop((z, y))
        del blocks[y, z]

      def pull(block: Array, layer: Layer = layer, params: Any = params, y: str = y) -> list[Array]:
        pulled: Any = pull_rows(layer, params, kept[y], block)  # A tuple for several inputs.
        return list(pulled) if isinstance(pulled, tuple) else [pulled]

      for z, block in rows.items():
        for u, pulled in zip(node.inputs, pull(block), strict=True):
          send(z, u, pulled)
          send(u, z, jnp.swapaxes(pulled, 1, 2))
      if len(node.inputs) == 1:
        diagonals[y], pulled = own.backward(at[y], kept[y], of_y)
        send(node.inputs[0], node.inputs[0], pulled)
      else:  # A sum or a concatenation, which doesn't bend.
        diagonals[y] = params
        for u, half in zip(node.inputs, pull(of_y), strict=True):
          for v, pulled in zip(node.inputs, pull(jnp.swapaxes(half, 1, 2)), strict=True):
            send(u, v, pulled)
    return diagonals, blocks[(options["inputs"],) * 2]

  return backward


def with_squares(layer: Layer) -> Backward:
  """Return the rule that pulls the diagonals h `[N, D_out]` back."""

  def backward(at: Recorded, residuals: Residuals, h: Any) -> tuple[Any, Any]:
    second = second_of(layer)
    assert second.squares is not None  # By `check_second`.
    x_h = second.squares(at.params, residuals, h)
    if second.bend is not None and at.y_bar is not None:
      more = second.bend(at.params, residuals, at.y_bar)
      x_h = x_h + (more if more.ndim == 2 else jnp.diagonal(more, axis1=1, axis2=2))
    return own_diagonal(layer, at.params, residuals, h), x_h

  return backward


def own_diagonal(layer: Layer, params: Params, residuals: Residuals, h: Any) -> Any:
  """Compute the diagonal by a layer's own parameters from that by its output, `[N, D_out]`."""
  if not jax.tree.leaves(params):
    return params
  factors, _ = captured_layer(layer).backward(params, residuals, h)
  if isinstance(factors, ByParameter):
    raise StructureError(
      f"the diagonal of the Hessian isn't written out for the layer {layer.name}, whose parameters "
      "each example uses several times; take ggn_diagonal"
    )
  return weigh(factors, widen(factors.y_bar))


def second_of(layer: Layer) -> Second:
  """Return the layer's second-order rules, which `check_second` has found."""
  assert layer.second is not None
  return layer.second
