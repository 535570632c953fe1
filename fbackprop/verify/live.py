"""The gradient check during training, with the verdict of `verify.vjp` on differences.

The check itself is `fbackprop.live_check`. Where the two gradients differ by more than minimal
rounding, `make_measure` computes the maths verdict at that point: the rounding error by stochastic
arithmetic, one-sided differences and other slopes at kinks.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbackprop import live_check
from fbackprop.live_check import GRADIENT_TOLERANCE as GRADIENT_TOLERANCE
from fbackprop.live_check import Functions, Gradients, Measure, relative_error
from fbackprop.live_check import LiveCheck as LiveCheck
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.witnesses.rule import as_numpy, rule_of, signature_of
from fbackprop.verify.witnesses.traces import Setting, Witnesses, evaluate, gather_witnesses
from fbackprop.verify.witnesses.verdicts import compare, judge

# Two samples beside the unperturbed one suffice, as entries are pooled.
NOISE = Noise(samples=3)
# The seed cotangent of the mean loss.
SEED = [np.ones(())]


def make_live_check(
  net: Layer,
  loss: Loss,
  *,
  ours: Callable[..., tuple[Array, Params]] | None = None,
  clip_examples: float | None = None,
) -> Callable[..., LiveCheck]:
  """Build the check of `value_and_grad(net, loss)`; it traces and compiles once for each shape.

  Args:
    net, loss, ours, clip_examples: as for `fbackprop.live_check.make_live_check`. If a layer isn't
      `linear`, the gradient of 2⁻²⁰ times the loss is checked.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`. It checks the examples `rows` `[K]`, integers, or all of them.
    Where the true gradient of a parameter is exactly zero and ours isn't, `rel_error` is infinite.

  Example:
    >>> import fbackprop as fb
    >>> import jax.numpy as jnp
    >>> net = fb.mlp([3, 8, 2])
    >>> check = make_live_check(net, fb.squared_error)
    >>> check(net.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.zeros((4, 2))).ok
    True
  """
  loss = live_check.checked_loss(net, loss)
  return live_check.make_live_check(
    net, loss, ours=ours, clip_examples=clip_examples, make_measure=make_measure
  )


def make_measure() -> Measure:
  """Build the maths verdict of `verify.vjp` at one point; it traces once for each shape."""
  found: dict[Any, Witnesses] = {}

  def measure(functions: Functions, args: tuple[Any, ...], leaves: list[Any]) -> Gradients:
    shapes = (functions, jax.tree.structure(args), *((a.shape, a.dtype) for a in leaves))
    if shapes not in found:
      found[shapes] = witnesses_of(functions, args)
    at = Setting(found[shapes], as_numpy(leaves), SEED)
    values = evaluate(at, NOISE)
    assert values.bars_want is not None
    may_be_vacuous = bool(values.fragile or values.foreign)
    differences = compare(values.bars, values.bars_want, 1.0, may_be_vacuous)
    judgements = judge(at, differences, NOISE.seed)
    failed = {j.difference.leaf for j in judgements if j.ruling in ("fail", "undefined")}
    wrong = [
      d.leaf in failed
      or not np.isfinite(d.got).all()
      or (d.is_vacuous.any() and not relative_error(d.got, d.want, 0.0) <= GRADIENT_TOLERANCE)
      for d in differences
    ]
    return Gradients([d.got for d in differences], [d.want for d in differences], np.array(wrong))

  return measure


def witnesses_of(functions: Functions, args: tuple[Any, ...]) -> Witnesses:
  """Trace the checked gradient as a rule for the cotangent of the parameters."""

  def mean_loss_vjp(*args: Any) -> Any:
    value, grads = functions.ours(*args)

    def pull(seed: Array) -> tuple[Any, ...]:
      return grads, None, None, None, None  # The seed cotangent is SEED.

    return value, pull

  signature, leaves = signature_of(functions.mean_loss, args)
  count = len(jax.tree.leaves(args[0]))
  of_params = tuple(i < count for i in range(len(leaves)))  # The rest are constants here.
  signature = signature._replace(is_float=of_params)
  rule = rule_of(functions.mean_loss, mean_loss_vjp, signature, leaves)
  witnesses = gather_witnesses(rule, leaves)
  if witnesses.truth is None:
    raise ValueError(f"live check: {witnesses.truth_missing}")
  return witnesses
