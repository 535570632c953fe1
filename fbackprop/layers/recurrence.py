"""The recurrent layer, and backpropagation through time.

The lecture calls a feedforward network one without feedback connections, and recurrent networks the
counter-example. Unrolled in time they are feedforward: a chain of one layer whose steps share their
parameters, so that the gradients of the steps add. Both passes are one loop (`jax.lax.scan`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks, gates
from fbackprop.errors import DtypeError
from fbackprop.layers.factors import Each, Outer
from fbackprop.meshes import contract, product, sum_rows
from fbackprop.types import Array, Gate, Layer, Residuals, at_least_float32, exportable


@exportable
class RecurrentParams(NamedTuple):
  """`w` `[D_in, D_h]` for the input, `u` `[D_h, D_h]` for the state before, and `b` `[D_h]`."""

  w: Array
  u: Array
  b: Array


class Step(NamedTuple):
  """The two rules of one step of time, h_t = f(z_t), z_t = x_t w + b + h_{t-1} u.

  Attributes:
    forward: `forward(u, state, xw) -> (state, kept)`, with xw = x_t w + b.
    backward: `backward(u, state_bar, kept) -> (state_bar, z_bar)` of the step before.
  """

  forward: Any
  backward: Any


def make_step(gate: Gate) -> Step:
  """Build the rules of a step; the gate's residual that is the state itself is kept once."""
  found: list[tuple[Any, list[bool]]] = []

  def probe(z: Array) -> Array:
    y, kept = gate.forward(z)
    leaves, structure = jax.tree.flatten(kept)
    found.append((structure, [leaf is y for leaf in leaves]))
    return y

  jax.eval_shape(lambda: probe(jnp.zeros((1, 1))))
  structure, is_state = found[0]

  def forward(u: Array, state: Array, xw: Array) -> tuple[Array, Any]:
    state, kept = gate.forward(xw + product(state, u))
    others = [leaf for leaf, same in zip(jax.tree.leaves(kept), is_state, strict=True) if not same]
    return state, (state, others)

  def backward(u: Array, state_bar: Array, kept: Any) -> tuple[Array, Array]:
    y_bar, state, others = kept
    rest = iter(others)
    residuals = jax.tree.unflatten(structure, [state if same else next(rest) for same in is_state])
    (z_bar,) = gate.backward(residuals, state_bar + y_bar)
    return product(z_bar, u.T), z_bar

  return Step(forward, backward)


def recurrent_forward(params: RecurrentParams, x: Array, step: Step) -> tuple[Array, Residuals]:
  """h_t = f(x_t w + h_{t−1} u + b) with h_0 = 0, for t = 1, ..., T.

  Args:
    params: `w` `[D_in, D_h]`, `u` `[D_h, D_h]`, `b` `[D_h]`.
    x: `[N, T, D_in]`.
    step: the rules of one step.

  Returns:
    `(states [T, N, D_h], kept)`: the states, and what else the gate keeps.

  References:
    Elman, "Finding structure in time", Cognitive Science 14 (1990), 179–211.
  """
  xw = product(x, params.w) + params.b[None, None, :]
  xw = jnp.moveaxis(xw, 1, 0)  # All steps at once, [T, N, D_h].

  def body(state: Array, xw: Array) -> tuple[Array, Any]:
    return step.forward(params.u, state, xw)

  _, kept = jax.lax.scan(body, jnp.zeros_like(xw[0]), xw)
  return kept


def recurrent_backward(params: RecurrentParams, kept: Residuals, y_bar: Array, step: Step) -> Array:
  """Pull cotangents back through time.

  With ȳ_t the cotangent of h_t from outside, from the last step to the first

    z̄_t = (ȳ_t + h̄_t) f'(z_t),   h̄_{t−1} = z̄_t uᵀ,   h̄_T = 0.

  Args:
    params: `u` is read.
    kept: of the forward pass.
    y_bar: `[T, N, D_h]`.
    step: as in the forward pass.

  Returns:
    z̄ `[N, T, D_h]`. With it w_bar = Σ_nt x_tᵀ z̄_t, u_bar = Σ_nt h_{t−1}ᵀ z̄_t, b_bar = Σ_nt z̄_t
    and x_bar_t = z̄_t wᵀ.

  References:
    Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE
    78 (1990), 1550–1560.
  """

  def body(state_bar: Array, kept: Any) -> tuple[Array, Array]:
    return step.backward(params.u, state_bar, kept)

  states, others = kept
  _, z_bar = jax.lax.scan(body, jnp.zeros_like(y_bar[0]), (y_bar, states, others), reverse=True)
  return jnp.moveaxis(z_bar, 0, 1)


def before(states: Array) -> Array:
  """Return the state before each step, `[N, T, D_h]`, of states `[T, N, D_h]`."""
  return jnp.moveaxis(jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]]), 0, 1)


def recurrent(
  length: int,
  d_in: int,
  d_hidden: int,
  *,
  gate: Gate = gates.tanh,
  all_steps: bool = False,
  dtype: Any = jnp.float32,
) -> Layer:
  """Build a recurrent layer over sequences of a fixed length.

  Args:
    length: steps T of a sequence.
    d_in: features of a step.
    d_hidden: width of the state.
    gate: the activation, a gate of one input.
    all_steps: whether y has the states of all steps, and not the last one alone.
    dtype: the floating dtype of the parameters that `init` returns.

  Returns:
    A `Layer` from `[N, T · d_in]`, step by step, to `[N, d_hidden]`, or `[N, T · d_hidden]` for all
    steps, with `RecurrentParams(w, u, b)`: w Glorot's, u orthogonal, b zeros. It keeps x and the
    states, T arrays `[N, d_hidden]`, and what the gate keeps besides.

  Raises:
    TypeError: a size isn't an integer, `gate` isn't a Gate of one input, `dtype` isn't floating.
    ValueError: a size is below 1. When traced: x or `params` don't fit.

  Example:
    >>> layer = recurrent(40, 1, 16)
    >>> layer.forward(layer.init(jax.random.key(0)), jnp.ones((3, 40)))[0].shape
    (3, 16)

  References:
    Elman, Cognitive Science 14 (1990); Saxe, McClelland, Ganguli, ICLR (2014), for orthogonal u.
  """
  name = f"recurrent({length}, {d_in}, {d_hidden})"
  sizes = {"length": length, "d_in": d_in, "d_hidden": d_hidden}
  for argument, size in sizes.items():
    checks.check_size(name, argument, size)
  checks.check_unit(name, "gate", gate, Gate)
  if gate.arity != 1:
    raise DtypeError(f"must have one input, {gate.name} has arity {gate.arity}", "gate", name)
  checks.check_flag(name, "all_steps", all_steps)
  dtype = checks.check_float_dtype(name, dtype)
  step = make_step(gate)
  shapes = ((d_in, d_hidden), (d_hidden, d_hidden), (d_hidden,))
  d_out = length * d_hidden if all_steps else d_hidden

  def init(key: Array) -> RecurrentParams:
    checks.check_key(name, key)
    checks.check_available(name, dtype)
    w_key, u_key = jax.random.split(key)
    w = jax.nn.initializers.glorot_uniform()(w_key, shapes[0], dtype)
    # JAX has no QR decomposition of half precision.
    wide = at_least_float32(dtype)
    u = jax.nn.initializers.orthogonal()(u_key, shapes[1], wide).astype(dtype)
    return RecurrentParams(w, u, jnp.zeros(shapes[2], dtype))

  def forward(
    params: RecurrentParams, x: Array, key: Array | None = None
  ) -> tuple[Array, Residuals]:
    checks.check_params(name, params, RecurrentParams, shapes)
    checks.check_floating(name, "x", x)
    checks.check_shape(name, "x", x, ("N", length * d_in), params.w.dtype)
    kept = recurrent_forward(params, by_step(x, d_in), step)
    states = kept[0]
    y = jnp.moveaxis(states, 0, 1).reshape(x.shape[0], d_out) if all_steps else states[-1]
    return y, (x, kept)

  def backward(
    params: RecurrentParams, residuals: Residuals, y_bar: Array
  ) -> tuple[RecurrentParams, Array]:
    x, (states, _) = residuals
    z_bar = bars_of_steps(params, residuals, y_bar)
    w_bar = contract("nti,nth->ih", by_step(x, d_in), z_bar, bar_of=params.w)
    u_bar = contract("nth,ntk->hk", before(states), z_bar, bar_of=params.u)
    b_bar = sum_rows(z_bar.sum(1), bar_of=params.b)
    return RecurrentParams(w_bar, u_bar, b_bar), x_bar_of(params, x, z_bar)

  def factors(params: RecurrentParams, residuals: Residuals, y_bar: Array) -> tuple[Any, Array]:
    x, (states, _) = residuals
    z_bar = bars_of_steps(params, residuals, y_bar)
    w: Any = Outer(by_step(x, d_in), z_bar)
    u: Any = Outer(before(states), z_bar)
    b: Any = Each(z_bar.sum(1))
    return RecurrentParams(w, u, b), x_bar_of(params, x, z_bar)

  def bars_of_steps(params: RecurrentParams, residuals: Residuals, y_bar: Array) -> Array:
    """Return z̄ `[N, T, D_h]`."""
    checks.check_params(name, params, RecurrentParams, shapes)
    x, kept = residuals
    checks.check_shape(name, "y_bar", y_bar, (x.shape[0], d_out), x.dtype)
    states = kept[0]
    if all_steps:
      bars = jnp.moveaxis(by_step(y_bar, d_hidden), 1, 0)
    else:
      bars = jnp.concatenate([jnp.zeros_like(states[:-1]), y_bar[None]])
    return recurrent_backward(params, kept, bars, step)

  def x_bar_of(params: RecurrentParams, x: Array, z_bar: Array) -> Array:
    return product(z_bar, params.w.T).reshape(x.shape)

  def by_step(x: Array, width: int) -> Array:
    return x.reshape(x.shape[0], length, width)

  options = (*sizes.items(), ("gate", gate), ("all_steps", all_steps), ("dtype", dtype.name))
  return Layer("recurrent", init, forward, backward, options=options, factors=factors)
