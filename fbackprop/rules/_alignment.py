"""How far a rule's update is from the gradient, layer by layer."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import check_unit
from fbackprop.combinators import places
from fbackprop.errors import StructureError
from fbackprop.rules.contract import RuleParams, network_of
from fbackprop.rules.norms import over_largest, root_mean_square
from fbackprop.transforms import nonzero, value_and_grad
from fbackprop.types import Array, Layer, Loss, exportable, widen


@exportable
class Alignment(NamedTuple):
  """A layer's update beside its gradient; each `[]`.

  Attributes:
    angle: between the update and the gradient, in degrees: 0 for backpropagation, and below 90
      where the update descends.
    norm_ratio: the norm of the update over that of the gradient.
    weight_angle: between the weights and those that the backward pass uses, in degrees; NaN where
      the rule uses none of their shape, and for a layer without arrays of two axes or more.
  """

  angle: Array
  norm_ratio: Array
  weight_angle: Array


def alignment(rule: Layer, loss: Loss) -> Callable[..., "OrderedDict[str, Alignment]"]:
  """Build a function that compares a rule's update with the gradient.

  Args:
    rule: a network under a rule of `fbackprop.rules`.
    loss: the loss.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> {layer: Alignment}`, with the arguments of
    `value_and_grad(rule, loss)`, for each layer with parameters, by names as "0.dense". Angles are
    of all parameters of a layer, the weights' angle of arrays of two axes or more, besides the axes
    of a `repeat`. Where one of the two is zero, the angle is NaN. It is pure: jit it.

  Raises:
    TypeError: `rule` isn't a Layer, or `loss` isn't a Loss.
    ValueError: `rule` isn't a network under a rule.

  Example:
    >>> import fbackprop as fb
    >>> rule = fb.rules.feedback_alignment(fb.mlp([3, 8, 2]))
    >>> measure = alignment(rule, fb.squared_error)
    >>> found = measure(rule.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.zeros((4, 2)))
    >>> list(found), float(found["2.dense"].angle)
    (['0.dense', '2.dense'], 0.0)
  """
  check_unit("alignment", "rule", rule, Layer)
  check_unit("alignment", "loss", loss, Loss)
  net = network_of(rule)
  if net is rule:
    problem = f"must be a network under a rule, such as feedback_alignment(net), got {rule.name}"
    raise StructureError(problem, "rule", "alignment")
  weights_of = dict(rule.options).get("weights", lambda params, key: params.feedback)
  updates_of, gradient_of = value_and_grad(rule, loss), value_and_grad(net, loss)

  def measure(params: RuleParams, x: Any, targets: Any, **options: Any) -> Any:
    _, updates = updates_of(params, x, targets, **options)
    _, grads = gradient_of(params.params, x, targets, **options)
    feedback = weights_of(params, options.get("key"))
    own, standing_for = map(jax.tree.structure, (params.params, feedback))
    is_like_weights = str(own) == str(standing_for)
    found: OrderedDict[str, Alignment] = OrderedDict()
    for place in places(net):
      if not in_tree(grads, place.path) or not jax.tree.leaves(place.node(grads)):
        continue
      update, grad = (flat(place.node(tree)) for tree in (updates.params, grads))
      weight_angle = jnp.full((), jnp.nan)
      if is_like_weights:
        weights, standing = (
          [leaf for leaf in jax.tree.leaves(place.node(tree)) if leaf.ndim - place.copies > 1]
          for tree in (params.params, feedback)
        )
        weight_angle = angle(flat(weights), flat(standing)) if weights else weight_angle
      ratio = (root_mean_square(update) / nonzero(root_mean_square(grad)))[0]
      found[place.name] = Alignment(angle(update, grad), ratio, weight_angle)
    return found

  return measure


def in_tree(tree: Any, path: tuple[Any, ...]) -> bool:
  """Return whether a tree has a node: nodes of a graph that only share have none."""
  for key in path:
    if isinstance(tree, dict) and key not in tree:
      return False
    tree = tree[key]
  return True


def flat(tree: Any) -> Array:
  """Return all numbers of a tree as one vector, in float32 at least."""
  return jnp.concatenate([widen(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


def angle(a: Array, b: Array) -> Array:
  """Compute the angle of two vectors in degrees, accurately also near 0; NaN for a zero vector.

  References:
    Kahan, "How futile are mindless assessments of roundoff in floating-point computation?" (2006),
    section 12: 2 atan2(‖a/‖a‖ − b/‖b‖‖, ‖a/‖a‖ + b/‖b‖‖).
  """
  a, b = (v / jnp.linalg.norm(v) for v, _ in map(over_largest, (a, b)))
  return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b)))
