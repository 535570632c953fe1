"""The check while training: our gradient against `jax.grad`, at the parameters of that moment.

Two questions are asked at once, and kept apart, since rounding must neither hide an error nor pass
for one. Is the mathematics right? That is the maths verdict of `verify.vjp`, by its own machinery:
our backward pass and autodiff, traced once in float64, are evaluated at each check under noise and
compared entry by entry within the rounding error that the noise measures. How much does the working
dtype round? Our gradient as the trainer computes it is compared with the same float64 truth; that
number is shown, and judged by nobody.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify.arguments import Leaves, signature_of
from fbackprop.verify.comparison import compare, spread
from fbackprop.verify.evaluation import Noise
from fbackprop.verify.judging import judge
from fbackprop.verify.regimes import as_numpy
from fbackprop.verify.rules import Rule
from fbackprop.verify.witnesses import Witnesses, evaluate, gather_witnesses

# Where the measured bound says nothing, as of a kernel that computes in float32 alone, an error is
# judged by its size: two float64 gradients of one network stay below about 1e-7.
GRADIENT_TOLERANCE = 1e-6
# Of what a leaf sums: what stands below the line where its gradient cancels to less.
LEAST_SHARE = 1e-8
# By about so many roundings of its terms the noise moves a sum: that many spreads are their size.
ROUNDINGS = 8.0
# A sample costs a backward pass. Two and the unperturbed one say enough, as entries are pooled.
NOISE = Noise(samples=3)
# The cotangent of the mean loss.
SEED = [np.ones(())]


class LiveCheck(NamedTuple):
  """What one check found.

  Attributes:
    rel_error: max |ours − jax.grad| / max |jax.grad| of the worst parameter, both in float64. Where
      a gradient cancels to less than 1e-8 of what it sums, 1e-8 of that stands below the line.
    leaf: the path of that parameter, such as "[0].w"; the worst of the wrong ones, if any is wrong.
    rounding: the error of our gradient in the dtype of the parameters, against the float64 one,
      relative to what it sums.
    ok: whether no entry is wrong: each is finite and within the measured rounding error of
      `jax.grad`'s, or a slope of the same kink, or right where `jax.grad` isn't.
  """

  rel_error: float
  leaf: str
  rounding: float
  ok: bool


class Traced(NamedTuple):
  """Our gradient and autodiff's, traced for arguments of certain shapes."""

  rule: Rule
  witnesses: Witnesses


def make_live_check(net: Layer, loss: Loss) -> Callable[..., LiveCheck]:
  """Builds the check of `value_and_grad(net, loss)`; it traces and compiles once for each shape.

  Args:
    net: the network.
    loss: the loss.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`, of the examples `rows` `[K]`, integers, or of all. Where the true
    gradient of a parameter is exactly zero and ours isn't, `rel_error` is infinite.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([3, 8, 2])
    >>> check = make_live_check(net, fb.squared_error)
    >>> check(net.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.zeros((4, 2))).ok
    True
  """
  ours = value_and_grad(net, loss)

  def mean_loss(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    losses = loss.forward(net.forward(params, x, key)[0], targets)[0]
    if weights is None:
      return jnp.mean(losses)
    tiny = np.finfo(weights.dtype).tiny  # Weights that are all zero give zero, not 0/0.
    return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), tiny)

  def mean_loss_vjp(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Any:
    value, grads = ours(params, x, targets, key=key, weights=weights)

    def pull(seed: Array) -> tuple[Any, ...]:
      return grads, None, None, None, None  # The seed is SEED.

    return value, pull

  @jax.jit
  def in_own_dtype(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Params:
    return ours(params, x, targets, key=key, weights=weights)[1]

  found: dict[Any, Traced] = {}

  def traced_for(args: tuple[Any, ...]) -> Traced:
    leaves, structure = jax.tree.flatten(args)
    shapes = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
    if shapes not in found:
      signature, _ = signature_of(mean_loss, args)
      count = len(jax.tree.leaves(args[0]))
      of_params = tuple(i < count for i in range(len(leaves)))  # The rest are constants here.
      out = jax.eval_shape(mean_loss, *args)
      signature = signature._replace(is_float=of_params)
      rule = Rule(mean_loss, mean_loss_vjp, signature, jax.tree.structure(out))
      found[shapes] = Traced(rule, gather_witnesses(rule, leaves, [out]))
    return found[shapes]

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
      return LiveCheck(0.0, "", 0.0, ok=True)
    if rows is not None:
      x, targets, weights = jax.tree.map(lambda a: a[rows], (x, targets, weights))
    args = (params, x, targets, key, weights)
    rounded = jax.tree.leaves(in_own_dtype(*args))
    wrong, exact, rounding = compare_leaves(
      traced_for(args), as_numpy(jax.tree.leaves(args)), as_numpy(rounded)
    )
    # argmax takes the first NaN for the largest, as it should here.
    worst = int(np.argmax(np.where(wrong, exact, -1.0) if wrong.any() else exact))
    leaf = jax.tree_util.keystr(paths[worst])
    return LiveCheck(float(exact[worst]), leaf, float(np.max(rounding)), not wrong.any())

  return check


def compare_leaves(
  traced: Traced, leaves: Leaves, rounded: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of each parameter: whether it is wrong, its relative error, and that of `rounded`."""
  values = evaluate(traced.witnesses, leaves, SEED, NOISE)
  if values.bars_want is None:
    raise ValueError(f"live check: {traced.witnesses.truth_missing}")
  may_be_vacuous = bool(values.fragile or values.foreign)
  with np.errstate(all="ignore"):
    differences = compare(values.bars, values.bars_want, 1.0, may_be_vacuous)
    judgements = judge(traced.rule, traced.witnesses, leaves, SEED, differences, NOISE.seed)
    failed = {j.difference.leaf for j in judgements if j.ruling in ("fail", "undefined")}
    # The spread of float64's roundings tells the size of what is summed, though the sum be zero.
    terms = [np.max(spread(w), initial=0.0) / (ROUNDINGS * NOISE.unit) for w in values.bars_want]
    exact, rounding = (
      np.array([
        relative_error(g, d.want, share * term)
        for g, d, term in zip(got, differences, terms, strict=True)
      ])
      for got, share in (([d.got for d in differences], LEAST_SHARE), (rounded, 1.0))
    )  # fmt: skip
    wrong = np.array([
      d.leaf in failed
      or not np.isfinite(d.got).all()
      or (d.is_vacuous.any() and not error <= GRADIENT_TOLERANCE)
      for d, error in zip(differences, exact, strict=True)
    ])  # fmt: skip
  return wrong, exact, rounding


def relative_error(got: np.ndarray, want: np.ndarray, least: float) -> float:
  """max |got − want| over max |want|, or `least` where that is more; 0/0 is 0, x/0 infinite."""
  error = np.abs(got - want).max(initial=0.0)
  return float(error and error / max(np.abs(want).max(initial=0.0), least))
