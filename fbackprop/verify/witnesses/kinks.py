"""Kinks: ties of comparisons, where a rule may choose another subgradient than autodiff's.

At a tie, an exact equality of the two sides of a comparison, a program isn't differentiable, and
any element of the Clarke subdifferential may be chosen: a convex combination of the derivatives of
its two sides. A policy gives each comparison a share p of one side and 1 − p of the other. A rule
that equals autodiff under some policy, in every entry, differs from the reference by its choices at
ties alone.

Doubts: the policies that are tried have the shares 0, 1 and 1/2, one for each comparison rather
than for each entry, and are fitted by coordinate descent. A rule with other choices is left to the
differences (`verdicts`), which judge single entries.

References:
  Clarke, "Optimization and Nonsmooth Analysis", Wiley, 1983; Griewank, Walther, "Evaluating
  Derivatives", SIAM, 2008, chapter 14.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Place
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import COMPARISONS, is_float
from fbackprop.verify.witnesses.traces import Setting, truth_with

Policy = Mapping[Place, float]
SHARES = (0.0, 1.0, 0.5)
# With more tied comparisons than this, all share one policy.
MOST_SITES = 8


def find_ties(at: Setting) -> list[Place]:
  """Return the sites of the reference's comparisons that are tied anywhere."""
  tied: dict[Place, None] = {}

  def watch(place: Place, name: str, a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype.kind == "f" and np.any(a == b):
      tied[place if name != "clamp" else place[:-1]] = None

  evaluator = Evaluator(at.witnesses.signature.working, watch=watch)
  evaluator.run(at.witnesses.forward, at.leaves)
  return list(tied)


def fit_policy(
  at: Setting, got: Sequence[np.ndarray], bounds: Sequence[np.ndarray], sites: Sequence[Place]
) -> Policy | None:
  """Return the shares under which autodiff gives the rule's numbers; None if none does."""
  best: dict[Place, float] = {}

  def policies() -> Iterator[dict[Place, float]]:
    """Yield one share for all ties, then coordinate descent from the best, tie by tie."""
    yield from (dict.fromkeys(sites, share) for share in SHARES)
    for site in 2 * list(sites) if len(sites) <= MOST_SITES else []:
      yield from ({**best, site: share} for share in SHARES if share != best[site])

  fewest = sum(map(np.size, got)) + 1
  for policy in policies():
    try:
      want = truth_with(at, partial(at_ties, policy))
    except Exception:  # Without autodiff of the reference there is no policy.
      return None
    pairs = zip(got, want, bounds, strict=True)
    count = sum(int((~(np.abs(g - w) <= 4 * b)).sum()) for g, w, b in pairs)
    if count == 0:
      return policy
    if count < fewest:
      best, fewest = policy, count
  return None


def at_ties(
  policy: Policy, equation: Any, inputs: list[Any], place: Place, compared: dict[Any, Any]
) -> list[Any] | None:
  """Evaluate an equation with a policy's derivative at its ties; None for other equations."""
  name = equation.primitive.name
  if name in COMPARISONS:
    compared[equation.outvars[0]] = (place, name, *inputs)
    return None
  if name == "select_n" and equation.invars[0] in compared and len(inputs) == 3:
    site, op, a, b = compared[equation.invars[0]]
    if site not in policy or not is_float(equation.outvars[0].aval.dtype):
      return None
    which, no, yes = inputs
    share = policy[site] if op in ("gt", "ge") else 1 - policy[site]
    # Where the branches differ at the tie the function jumps, and has no subgradient to choose.
    is_tie = jnp.broadcast_to(jnp.equal(a, b), jnp.shape(which)) & (no == yes)
    return [jnp.where(is_tie, mix(share, yes, no), jnp.where(which, yes, no))]
  if place not in policy:
    return None
  share = policy[place]
  if name in ("max", "min"):
    return [extreme(inputs[0], inputs[1], share, name == "max")]
  if name == "abs":
    return [extreme(inputs[0], -inputs[0], share, True)]
  if name == "clamp":
    low, x, high = inputs
    return [extreme(extreme(x, low, share, True), high, share, False)]
  if name in ("reduce_max", "reduce_min"):
    return [reduced(inputs[0], equation.params["axes"], share, name == "reduce_max")]
  return None


def mix(share: float, a: Any, b: Any) -> Any:
  """Return share · a + (1 − share) · b, in their dtype."""
  return jnp.asarray(share, a.dtype) * a + jnp.asarray(1 - share, b.dtype) * b


def extreme(a: Any, b: Any, share: float, is_max: bool) -> Any:
  """Return max or min, of which a has a share at a tie."""
  a, b = jnp.broadcast_arrays(a, b)
  first = a > b if is_max else a < b
  return jnp.where(a == b, mix(share, a, b), jnp.where(first, a, b))


def reduced(x: Any, axes: tuple[int, ...], share: float, is_max: bool) -> Any:
  """Reduce over axes: share 1/2 divides the cotangent among ties, 1 gives it to the first."""
  front = jnp.moveaxis(x, axes, range(len(axes)))
  rows = front.reshape(-1, *front.shape[len(axes) :])
  # The weights are constants, so that autodiff divides the cotangent in exactly these shares.
  stopped = jax.lax.stop_gradient(rows)
  tied = stopped == (stopped.max if is_max else stopped.min)(0)
  if share == 0.5:
    weights = tied / tied.sum(0).astype(x.dtype)
  else:
    order = jnp.cumsum(tied, 0) if share == 1 else jnp.cumsum(tied[::-1], 0)[::-1]
    weights = (tied & (order == 1)).astype(x.dtype)
  return (jnp.where(tied, rows, 0) * weights).sum(0).astype(x.dtype)
