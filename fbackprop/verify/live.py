"""The check while training: our gradient against `jax.grad`, at the parameters of that moment.

Two questions are asked at once, and kept apart, since rounding must neither hide an error nor pass
for one. Is the mathematics right? Our backward pass is traced again in float64 and compared with
autodiff in float64. How much does the working dtype round? Our gradient as the trainer computes it
is compared with the same float64 truth; that number is shown, and judged by nobody.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params

# Two float64 gradients of one network differ by some 1e-15 of the terms that an entry sums, and the
# error is taken relative to at least 1e-8 of those terms: right rules stay below about 1e-7.
GRADIENT_TOLERANCE = 1e-6
LEAST_SHARE = 1e-8


class LiveCheck(NamedTuple):
  """What one check found.

  Attributes:
    rel_error: max |ours − jax.grad| / max |jax.grad| of the worst parameter, both in float64. Where
      a gradient cancels to less than 1e-8 of what it sums, 1e-8 of that stands below the line.
    leaf: the path of that parameter, such as "[0].w".
    rounding: the error of our gradient in the dtype of the parameters, against the float64 one,
      relative to what it sums.
    ok: whether `rel_error` is within `GRADIENT_TOLERANCE`; not for a NaN.
  """

  rel_error: float
  leaf: str
  rounding: float

  @property
  def ok(self) -> bool:
    """Whether the backward pass is right here; False for a NaN."""
    return self.rel_error <= GRADIENT_TOLERANCE


def make_live_check(net: Layer, loss: Loss) -> Callable[..., LiveCheck]:
  """Builds the check of `value_and_grad(net, loss)`; it compiles once for each shape.

  Args:
    net: the network.
    loss: the loss.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`, of the examples `rows` `[K]`, integers, or of all. A parameter
    whose true gradient is exactly zero must be exactly zero in ours: else its error is infinite.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([3, 8, 2])
    >>> check = make_live_check(net, fb.squared_error)
    >>> check(net.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.zeros((4, 2))).ok
    True
  """
  ours = value_and_grad(net, loss)

  def theirs(params: Params, batch: Any, key: Array | None) -> Array:
    x, targets, weights = batch
    losses = loss.forward(net.forward(params, x, key)[0], targets)[0]
    if weights is None:
      return jnp.mean(losses)
    tiny = np.finfo(weights.dtype).tiny  # Weights that are all zero give zero, not 0/0.
    return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), tiny)

  def theirs_uncancelled(params: Params, batch: Any, key: Array | None) -> Array:
    # The size of what a gradient sums, though the sum may be zero: at a minimum, or by symmetry.
    # With a random factor for each example nothing cancels.
    x, targets, _ = batch
    losses = loss.forward(net.forward(params, x, key)[0], targets)[0]
    factors = jax.random.normal(jax.random.key(0), losses.shape, losses.dtype)
    return jnp.mean(factors * losses)

  @jax.jit
  def errors(params: Params, batch: Any, key: Array | None, rows: Any) -> tuple[Array, Array]:
    if rows is not None:
      batch = jax.tree.map(lambda a: a[rows], batch)
    exact_params, exact_batch = jax.tree.map(to_float64, (params, batch))
    truth = jax.grad(theirs)(exact_params, exact_batch, key)
    terms = jax.grad(theirs_uncancelled)(exact_params, exact_batch, key)

    def our_gradient(params: Params, batch: Any) -> Params:
      x, targets, weights = batch
      return ours(params, x, targets, key=key, weights=weights)[1]

    in_float64 = our_gradient(exact_params, exact_batch)
    return (
      relative_errors(in_float64, truth, terms, LEAST_SHARE),
      relative_errors(our_gradient(params, batch), truth, terms, 1.0),
    )

  def check(
    params: Params,
    x: Array,
    targets: Array,
    *,
    key: Array | None = None,
    weights: Array | None = None,
    rows: Any = None,
  ) -> LiveCheck:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:
      return LiveCheck(0.0, "", 0.0)
    with jax.enable_x64(True):
      exact, rounded = jax.device_get(errors(params, (x, targets, weights), key, rows))
    worst = int(np.argmax(exact))  # argmax takes the first NaN for the largest, as it should here.
    leaf = jax.tree_util.keystr(paths[worst])
    return LiveCheck(float(exact[worst]), leaf, float(np.max(rounded)))

  return check


def to_float64(value: Any) -> Any:
  """The array in float64, unless it holds integers."""
  return value.astype(jnp.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def relative_errors(grads: Params, truth: Params, terms: Params, share: float) -> Array:
  """max |g − t| of each leaf over max |t|, or over a share of the terms where that is more.

  0/0 counts as 0, and x/0 as infinite.
  """
  rows = []
  leaves = (jax.tree.leaves(tree) for tree in (grads, truth, terms))
  for g, t, term in zip(*leaves, strict=True):
    error = jnp.abs(g.astype(t.dtype) - t).max()
    scale = jnp.maximum(jnp.abs(t).max(), share * jnp.abs(term).max())
    rows.append(jnp.where(error == 0, jnp.zeros_like(error), error / scale))
  return jnp.stack(rows)
