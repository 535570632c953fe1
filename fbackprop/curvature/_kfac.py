"""K-FAC as an optimizer: natural gradient descent by Kronecker factors, for optax.

The update is δ = −α (A ⊗ G + λ I)⁻¹ g, layer by layer. The factors are running means over batches.
Without a rate, α (and the share μ of the update before, a momentum) minimise the quadratic model of
the batch,

  M(δ) = gᵀ δ + ½ δᵀ (GGN + λ I) δ,   δ = α d + μ δ_before,

for which two products with the GGN are enough: a step of the right length, whatever the factors
leave out. λ can follow how well the model foretold the loss (Levenberg and Marquardt's rule).

Doubts: the rule compares losses of two batches, and so is for full batches, or large ones.

References:
  Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML
  (2015), sections 6.4 to 7, and appendix of arXiv:1503.05671.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fbackprop.checks import check_flag
from fbackprop.combinators import is_chain, repeat
from fbackprop.curvature.blocks import METHODS, Method, inverse, product
from fbackprop.curvature.kronecker import Eigen, Kronecker, Sharing, kronecker_factors
from fbackprop.curvature.linearization import Kind
from fbackprop.curvature.products import ggn_vector_product
from fbackprop.errors import DtypeError, check_choice, check_that
from fbackprop.layers.dense import DenseParams
from fbackprop.layers.factors import refuse_factors
from fbackprop.ranges import POSITIVE, SHARE, Range, check_range
from fbackprop.types import Array, Layer, Loss, Params, at_least_float32, exportable


@exportable
class KfacState(NamedTuple):
  """The state of K-FAC.

  Attributes:
    steps: steps taken, `[]`, int32.
    damping: λ, `[]`.
    blocks: the running means of the factors.
    inverse: the inverse of the damped blocks, as of the last refresh.
    update: the update before.
    value: the loss before that update, `[]`.
    predicted: the change of the loss that the quadratic model foretold of it, `[]`.
  """

  steps: Array
  damping: Array
  blocks: Any
  inverse: Any
  update: Params
  value: Array
  predicted: Array


def kfac(
  net: Layer,
  loss: Loss,
  *,
  rate: float | Callable[[Array], Any] | None = None,
  damping: float = 1e-3,
  adapt_damping: bool = False,
  decay: float = 0.95,
  refresh: tuple[int, int] = (1, 1),
  momentum: float = 0.0,
  kl_bound: float | None = None,
  kind: Kind = "exact",
  samples: int = 1,
  sharing: Sharing = "expand",
  eigen: bool = False,
  method: Method | None = None,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Build the optimizer K-FAC, or with `eigen` EKFAC, as an optax transformation.

  Its `update` needs the batch: `update(grads, state, params, batch=(x, targets, weights), key=key,
  value=value)`, with weights None for a plain mean, and the key of the forward pass.
  `fbackprop.train.make_step` and `fit` pass these to every optimizer.

  Args:
    net: the network; each layer with parameters must state its factors.
    loss: the loss of each example; it must state its curvature, unless the kind is "empirical" and
      there is a rate.
    rate: α, a number or an optax schedule; None for that of the quadratic model, with its momentum.
    damping: λ, above 0, in units of the curvature of the mean loss.
    adapt_damping: whether λ is multiplied by 0.7 or divided by it after a step, where the loss fell
      by more than ¾ or less than ¼ of what the model foretold. For full batches; without a rate.
    decay: the weight of the running mean's past, from 0, which forgets it, to below 1; its first
      steps take the plain mean.
    refresh: steps from one computation of the factors to the next, and from one inversion to the
      next. Between them a step costs a gradient, and two products with the GGN if there is no rate.
    momentum: of the updates, from 0 to below 1, with a rate.
    kl_bound: κ, above 0: with a rate, α is at most √(2κ / dᵀ g), so that by the factors' own word
      the outputs' distribution moves by at most κ nats per example (Ba, Grosse, Martens,
      "Distributed second-order optimization using Kronecker-factored approximations", ICLR 2017,
      section 5). Small batches need it. None for no bound.
    kind, samples, sharing, eigen: as of `kronecker_factors`.
    method: the way of damping, as of `inverse`.
    seed: that of the draws of kind "monte_carlo".

  Returns:
    The transformation; its state is a `KfacState`.

  Raises:
    TypeError: an argument of another type; by `update`: there is no batch.
    ValueError: a number out of its range; a layer states no factors, or the loss no curvature.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([2, 8, 1], fb.tanh)
    >>> optimizer = kfac(net, fb.squared_error)
    >>> init, step = fb.train.make_step(net, fb.squared_error, optimizer)
    >>> state, info = step(init(jax.random.key(0)), (jnp.ones((4, 2)), jnp.ones((4, 1))))
    >>> int(state.opt_state.steps)
    1
  """
  where = "kfac"
  factors_of = kronecker_factors(
    net, loss, kind=kind, samples=samples, sharing=sharing, eigen=eigen
  )  # fmt: skip
  curvature_times = None if rate is not None else ggn_vector_product(net, loss)
  if rate is not None and not callable(rate):
    check_range(where, "rate", rate, POSITIVE)
  check_range(where, "damping", damping, POSITIVE)
  check_flag(where, "adapt_damping", adapt_damping)
  is_free = not (adapt_damping and rate is not None)
  check_that(where, "adapt_damping", adapt_damping, is_free, "be False where there is a rate")
  check_range(where, "decay", decay, SHARE)
  check_range(where, "momentum", momentum, SHARE)
  if kl_bound is not None:
    check_range(where, "kl_bound", kl_bound, POSITIVE)
    check_that(where, "kl_bound", kl_bound, rate is not None, "be None where there is no rate")
  is_pair = isinstance(refresh, tuple | list) and len(refresh) == 2
  check_that(where, "refresh", refresh, is_pair, "be two numbers of steps")
  for i, steps in enumerate(refresh):
    check_range(where, f"refresh[{i}]", steps, Range(int, 1))
  if method is not None:
    check_choice(where, "method", method, ("exact",) if eigen else METHODS)
  every_factors, every_inverse = refresh

  def init(params: Params) -> KfacState:
    blocks = zero_blocks(net, params, eigen)
    inverted = jax.eval_shape(lambda: inverse(blocks, damping=damping, method=method))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inverted)
    dtype = at_least_float32(jax.tree.leaves(params)[0].dtype)
    zero = jnp.zeros((), dtype)
    previous = jax.tree.map(jnp.zeros_like, params)
    start = jnp.asarray(damping, dtype)
    return KfacState(jnp.zeros((), jnp.int32), start, blocks, nothing, previous, zero, zero)

  def update(
    grads: Params, state: KfacState, params: Params = None, *, batch: Any = None, key: Any = None,
    value: Any = None, **_: Any,
  ) -> tuple[Params, KfacState]:  # fmt: skip
    refuse_factors(where, "grads", grads)
    check_extras(batch, params, value, adapt_damping)
    x, targets, weights = batch
    count, zero = state.steps, jnp.zeros((), state.value.dtype)

    def refreshed() -> Any:
      sample_key = jax.random.fold_in(jax.random.key(seed), count)
      new = factors_of(params, x, targets, key=key, weights=weights, sample_key=sample_key)
      done = count // every_factors
      past = jnp.minimum(done / (done + 1), decay)
      return jax.tree.map(lambda a, b: past.astype(a.dtype) * (a - b) + b, state.blocks, new)

    blocks = jax.lax.cond(count % every_factors == 0, refreshed, lambda: state.blocks)
    now = state.damping
    value = zero if value is None else jnp.asarray(value, zero.dtype)
    if adapt_damping:
      now = adapted(now, count, value - state.value, state.predicted)
    inverted = jax.lax.cond(
      count % every_inverse == 0,
      lambda: inverse(blocks, damping=now, method=method),
      lambda: state.inverse,
    )
    direction = jax.tree.map(
      lambda d, p: -d.astype(p.dtype), product(inverted, widened(grads)), params
    )
    predicted = zero
    if curvature_times is None:
      alpha = jnp.asarray(rate(count) if callable(rate) else rate, zero.dtype)
      if kl_bound is not None:
        slope = jnp.maximum(-inner(grads, direction), 1e-37)  # 0 at a minimum.
        alpha = jnp.minimum(alpha, jnp.sqrt(2 * kl_bound / slope))
      steps = jax.tree.map(
        lambda d, before: as_number(alpha, d) * d + momentum * before, direction, state.update
      )
    else:

      def times(v: Params) -> Params:
        product_of = curvature_times(params, x, targets, v, key=key, weights=weights)
        return jax.tree.map(lambda a, b: a + now.astype(b.dtype) * b, product_of, v)

      alpha, mu, predicted = best_of_plane(grads, direction, state.update, times)
      steps = jax.tree.map(
        lambda d, before: as_number(alpha, d) * d + as_number(mu, d) * before,
        direction, state.update,
      )  # fmt: skip
    predicted = predicted.astype(zero.dtype)
    return steps, KfacState(count + 1, now, blocks, inverted, steps, value, predicted)

  return optax.GradientTransformationExtraArgs(init, update)


def check_extras(batch: Any, params: Any, value: Any, adapt_damping: bool) -> None:
  """Raise where `update` lacks what K-FAC needs besides the gradient."""
  is_batch = isinstance(batch, tuple | list) and len(batch) == 3
  wanted = "be (x, targets, weights): call update(grads, state, params, batch=..., key=...)"
  check_that("kfac", "batch", batch, is_batch, wanted)
  check_that("kfac", "params", params, params is not None, "be given to update")
  if adapt_damping and value is None:
    raise DtypeError(
      "must be the loss of the batch, to adapt the damping, got None", "value", "kfac"
    )


def adapted(damping: Array, count: Array, change: Array, predicted: Array) -> Array:
  """Follow the quadratic model's success by Levenberg and Marquardt's rule."""
  ratio = jnp.where(predicted < 0, change / jnp.where(predicted < 0, predicted, -1), 1)
  factor = jnp.where(ratio > 0.75, 0.7, jnp.where(ratio < 0.25, 1 / 0.7, 1.0))
  # A loss that isn't finite is a failure, too.
  factor = jnp.where(jnp.isnan(ratio), 1 / 0.7, factor).astype(damping.dtype)
  return jnp.where(count > 0, damping * factor, damping)


def best_of_plane(
  grads: Params, direction: Params, before: Params, times: Callable[[Params], Params]
) -> tuple[Array, Array, Array]:
  """Minimise gᵀδ + ½ δᵀ B δ over δ = α d + μ δ_before, B positive; also return the minimum."""
  of_direction, of_before = times(direction), times(before)
  dd, db, bb = (inner(direction, of_direction), inner(direction, of_before),
                inner(before, of_before))  # fmt: skip
  gd, gb = inner(grads, direction), inner(grads, before)
  det = dd * bb - db * db
  # In the first step, and where both are parallel, there is one direction only.
  is_plane = det > 1e-6 * dd * bb
  safe = jnp.where(is_plane, det, jnp.ones_like(det))
  alone = -gd / jnp.where(dd > 0, dd, jnp.ones_like(dd))
  alpha = jnp.where(is_plane, (db * gb - bb * gd) / safe, alone)
  mu = jnp.where(is_plane, (db * gd - dd * gb) / safe, jnp.zeros_like(alone))
  return alpha, mu, 0.5 * (alpha * gd + mu * gb)


def inner(a: Params, b: Params) -> Array:
  """Compute the inner product of two trees, in float32 at least."""
  pairs = zip(jax.tree.leaves(widened(a)), jax.tree.leaves(widened(b)), strict=True)
  return sum((jnp.vdot(p, q) for p, q in pairs), jnp.zeros(()))


def widened(tree: Params) -> Params:
  """Cast to the dtype of sums."""
  return jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf.dtype)), tree)


def as_number(value: Any, like: Array) -> Array:
  """Cast a number to the dtype of an array."""
  return jnp.asarray(value, like.dtype)


def zero_blocks(
  net: Layer, params: Params, eigen: bool, copies: int = 0, *, is_shared: bool = False
) -> Any:
  """Return blocks of zeros for the parameters of a network, as of `kronecker_factors`.

  Args:
    net, params: the network and its parameters.
    eigen: whether the blocks are `Eigen`.
    copies: in how many loops it is.
    is_shared: whether several nodes of a graph share it, so that its w and its b are apart.
  """
  options = dict(net.options)
  if "nodes" in options:
    shared = {node.owner for node in options["nodes"] if node.owner != node.name}
    pairs = zip(options["nodes"], net.parts, strict=True)
    return {
      node.name: zero_blocks(part, params[node.name], eigen, copies, is_shared=node.name in shared)
      for node, part in pairs if node.name in params
    }  # fmt: skip
  if is_chain(net):
    pairs = zip(net.parts, params, strict=True)
    return tuple(zero_blocks(part, own, eigen, copies) for part, own in pairs)
  if "combinator" in options:
    deeper = copies + (options["combinator"] is repeat)
    return zero_blocks(net.parts[0], params, eigen, deeper, is_shared=is_shared)

  def zeros(leaf: Array, more: int = 0) -> Any:
    front, (*rows, d_g) = leaf.shape[:copies], leaf.shape[copies:]
    shapes = [(math.prod(rows) + more,) * 2, (d_g, d_g), (math.prod(rows) + more, d_g)]
    dtype = at_least_float32(leaf.dtype)
    arrays = [jnp.zeros((*front, *shape), dtype) for shape in shapes]
    return Eigen(*arrays) if eigen else Kronecker(*arrays[:2])

  if isinstance(params, DenseParams) and not is_shared:
    return zeros(params.w, 0 if params.b is None else 1)
  return jax.tree.map(zeros, params)
