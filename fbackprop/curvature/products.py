"""Products of a curvature matrix with a vector, without the matrix: Hessian, GGN, Fisher.

These are forward over reverse: the tangent of our own passes in the direction v, by `jax.jvp`, and
our own backward pass. It is the one place of the package where autodiff is called: the tangent of a
rule is the rule's own algebra again, and the second use of the passes is part of their contract.

References:
  Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994), 147–160;
  Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
  Computation 14 (2002), 1723–1738.
"""

from collections.abc import Callable
from typing import Any

import jax

from fbackprop.checks import check_like
from fbackprop.curvature.linearization import (
  Kind,
  Linearization,
  check_kind,
  check_model,
  fisher_columns,
  linearize,
)  # fmt: skip
from fbackprop.losses.rows import curvature_of
from fbackprop.quantities.gradients import plain
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params


def hessian_vector_product(net: Layer, loss: Loss) -> Callable[..., Params]:
  """Build the product of the mean loss's Hessian with a vector, H v.

  It is the tangent of the gradient: v is pushed forward through our forward and backward pass. Any
  network will do, and any loss. At a kink the slope of relu counts as constant, as everywhere else.

  Cost: that of about two gradients, and the memory of two.

  Args:
    net: the network.
    loss: the loss of each example.

  Returns:
    `f(params, x, targets, v, *, key=None, weights=None) -> H v`, v and H v like `params`; the mean
    is that of `value_and_grad`. A pure function, for jit and vmap.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: when traced: v isn't like `params`, or an argument has the wrong shape.

  Example:
    >>> import jax.numpy as jnp
    >>> import fbackprop as fb
    >>> net = fb.dense(2, 1, bias=False)
    >>> params, x = net.init(jax.random.key(0)), jnp.array([[1.0, 2.0]])
    >>> product = hessian_vector_product(net, fb.squared_error)
    >>> v = params._replace(w=jnp.array([[1.0], [0.0]]))
    >>> product(params, x, jnp.zeros((1, 1)), v).w.tolist()  # x xᵀ v
    [[1.0], [2.0]]
  """
  where = "hessian_vector_product"
  check_model(where, net, loss)
  loss_and_gradient = value_and_grad(plain(net), loss)

  def product(
    params: Params, x: Any, targets: Any, v: Params, *, key: Any = None, weights: Any = None
  ) -> Params:
    check_like(where, "v", v, params)

    def gradient(at: Params) -> Params:
      return loss_and_gradient(at, x, targets, key=key, weights=weights)[1]

    return jax.jvp(gradient, (params,), (v,))[1]

  return product


def ggn_vector_product(net: Layer, loss: Loss) -> Callable[..., Params]:
  """Build the product of the generalized Gauss–Newton matrix of the mean loss with a vector.

    G v = Σ_n a_n J_nᵀ H_n J_n v,

  v pushed forward to the outputs, multiplied by the second derivative of the loss, pulled back by
  our backward pass. G has no negative eigenvalue where the loss is convex in the outputs; it is the
  Hessian of the network that is linear in its parameters around this point.

  Cost: that of about 1½ gradients.

  Args:
    net: the network.
    loss: the loss of each example; it must state its curvature.

  Returns:
    `f(params, x, targets, v, *, key=None, weights=None) -> G v`, v and G v like `params`.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: the loss states no curvature. When traced: v isn't like `params`, or an argument has
      the wrong shape.

  References:
    Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020), section
    8.
  """
  where = "ggn_vector_product"
  check_model(where, net, loss)
  multiply = curvature_of(where, loss).product

  def of_outputs(at: Linearization, u: Array, _: Any) -> Array:
    return at.shares[:, None] * multiply(at.outputs, at.targets, u)

  f = through_outputs(where, net, loss, of_outputs)

  def product(
    params: Params, x: Any, targets: Any, v: Params, *, key: Any = None, weights: Any = None
  ) -> Params:
    return f(params, x, targets, v, key, weights, None)

  return product


def fisher_vector_product(
  net: Layer, loss: Loss, *, kind: Kind = "exact", samples: int = 1
) -> Callable[..., Params]:
  """Build the product of a Fisher information of the mean loss with a vector.

    F v = Σ_n a_n E[g_n g_nᵀ] v,   g_n the gradient of an example's loss,

  with targets drawn from the model for the mean, and without forming g_n. For cross-entropies,
  squared error and Poisson F is the GGN; for `huber` and `log_cosh`, whose second derivative
  depends on the target, it is that of their own densities.

  Args:
    net: the network.
    loss: the loss of each example.
    kind: "exact" for the expectation; "monte_carlo" for a mean over samples; "empirical" for the
      targets as they are, which is the second moment of the gradients, not a Fisher information.
    samples: draws of each example's target, at least 1; of "monte_carlo" only.

  Returns:
    `f(params, x, targets, v, *, key=None, weights=None, sample_key=None) -> F v`, v and F v like
    `params`; `sample_key` is that of the draws.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: an unknown kind; the loss states no curvature, or for "monte_carlo" no sampler. When
      traced: v isn't like `params`, or an argument has the wrong shape.

  References:
    Kunstner, Balles, Hennig, "Limitations of the empirical Fisher approximation", NeurIPS (2019).
  """
  where = "fisher_vector_product"
  check_model(where, net, loss)
  check_kind(where, kind, samples)
  if kind != "empirical":
    curvature_of(where, loss)

  def of_outputs(at: Linearization, u: Array, sample_key: Any) -> Array:
    columns = fisher_columns(where, at, kind, samples, sample_key)
    return (columns * (columns * u[None]).sum(2, keepdims=True)).sum(0)

  f = through_outputs(where, net, loss, of_outputs)

  def product(
    params: Params, x: Any, targets: Any, v: Params, *, key: Any = None, weights: Any = None,
    sample_key: Any = None,
  ) -> Params:  # fmt: skip
    return f(params, x, targets, v, key, weights, sample_key)

  return product


def through_outputs(
  where: str, net: Layer, loss: Loss, of_outputs: Callable[[Linearization, Array, Any], Array]
) -> Callable[..., Params]:
  """Build v ↦ Jᵀ B J v, with `of_outputs(at, u, sample_key)` for B u, u `[N, C]`."""
  net = plain(net)

  def product(
    params: Params, x: Any, targets: Any, v: Params, key: Any, weights: Any, sample_key: Any
  ) -> Params:
    check_like(where, "v", v, params)

    def forward(params: Params) -> tuple[Array, Linearization]:
      at = linearize(where, net, loss, params, x, targets, key, weights)
      # A Layer and a Loss aren't arrays, which alone may leave the tangent.
      return at.outputs, at._replace(net=None, loss=None)  # type: ignore[arg-type]

    _, u, at = jax.jvp(forward, (params,), (v,), has_aux=True)
    at = at._replace(net=net, loss=loss)
    return net.backward(params, at.residuals, of_outputs(at, u, sample_key))[0]

  return product
