"""Bugs of matrix products: axes, scales, transposes, what was left in."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def bias_mean():
  """The bias's cotangent is averaged over the examples, not summed."""

  @jax.custom_vjp
  def dense(x, w, b):
    return x @ w + b

  def dense_fwd(x, w, b):
    return x @ w + b, (x, w)

  def dense_bwd(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, x.T @ y_bar, y_bar.mean(axis=0)

  dense.defvjp(dense_fwd, dense_bwd)
  return Example(dense, draw((5, 4), (4, 3), (3,)))


def divided_twice():
  """The mean's 1/N is in the residual already, and the weights divide by N once more."""

  def mean_squared_error(w, b, x, targets):
    return 0.5 * jnp.mean(jnp.sum((x @ w + b - targets) ** 2, axis=1))

  def f_vjp(w, b, x, targets):
    error = x @ w + b - targets

    def pullback(loss_bar):
      y_bar = loss_bar * error / x.shape[0]
      return x.T @ y_bar / x.shape[0], y_bar.sum(0), y_bar @ w.T, -y_bar

    return mean_squared_error(w, b, x, targets), pullback

  return Example(mean_squared_error, draw((4, 3), (3,), (7, 4), (7, 3)), f_vjp)


def input_not_transposed():
  """y_bar @ w where y_bar @ w.T belongs; nothing complains, since w is square."""

  @jax.custom_vjp
  def dense(x, w, b):
    return x @ w + b

  def dense_fwd(x, w, b):
    return x @ w + b, (x, w)

  def dense_bwd(residuals, y_bar):
    x, w = residuals
    return y_bar @ w, x.T @ y_bar, y_bar.sum(0)

  dense.defvjp(dense_fwd, dense_bwd)
  return Example(dense, draw((5, 4), (4, 4), (4,)))


def weights_transposed():
  """The weights' cotangent comes out transposed; nothing complains, since w is square."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      return y_bar @ w.T, y_bar.T @ x

    return x @ w, pullback

  return Example(linear, draw((6, 4), (4, 4)), f_vjp)


def batched_product():
  """The left factor's cotangent takes the right factor untransposed in each square matrix."""

  @jax.custom_vjp
  def product(a, b):
    return jnp.einsum("nij,njk->nik", a, b)

  def product_fwd(a, b):
    return product(a, b), (a, b)

  def product_bwd(residuals, y_bar):
    a, b = residuals
    return jnp.matmul(y_bar, b), jnp.einsum("nij,nik->njk", a, y_bar)

  product.defvjp(product_fwd, product_bwd)
  return Example(product, draw((5, 3, 3), (5, 3, 3)))


def row_bias_axis():
  """A bias for each row, summed over the rows; N equals D here."""

  def shift_rows(x, bias):
    return x + bias[:, None]

  def f_vjp(x, bias):
    def pullback(y_bar):
      return y_bar, y_bar.sum(axis=0)

    return shift_rows(x, bias), pullback

  return Example(shift_rows, draw((4, 4), (4,)), f_vjp)


def weight_decay():
  """The optimiser's weight decay, 1e-4 of w, was left in the rule."""

  @jax.custom_vjp
  def dense(x, w):
    return jnp.tanh(x @ w)

  def dense_fwd(x, w):
    y = dense(x, w)
    return y, (x, w, y)

  def dense_bwd(residuals, y_bar):
    x, w, y = residuals
    z_bar = y_bar * (1 - y * y)
    return z_bar @ w.T, x.T @ z_bar + 1e-4 * w

  dense.defvjp(dense_fwd, dense_bwd)
  return Example(dense, draw((5, 4), (4, 3)))


def bilinear_symmetric():
  """The rule of xᵀ A x takes A for symmetric."""

  def quadratic_form(x, a):
    return jnp.einsum("ni,ij,nj->n", x, a, x)

  def f_vjp(x, a):
    def pullback(y_bar):
      x_bar = 2 * y_bar[:, None] * (x @ a)
      return x_bar, jnp.einsum("n,ni,nj->ij", y_bar, x, x)

    return quadratic_form(x, a), pullback

  return Example(quadratic_form, draw((5, 4), (4, 4)), f_vjp)


BUGS = (
  Specimen("bias-mean", bias_mean, ("b",), ("constant factor",)),
  Specimen("divided-twice", divided_twice, ("w",), ("constant factor",)),
  Specimen("input-not-transposed", input_not_transposed, ("x",), ("transposed",)),
  Specimen("weights-transposed", weights_transposed, ("w",), ("transposed",)),
  Specimen("batched-product-square", batched_product, ("a",), ("transposed",)),
  Specimen("row-bias-axis", row_bias_axis, ("bias",), ("transposed", "structure")),
  Specimen("weight-decay", weight_decay, ("w",), ("proportional to a parameter",)),
  Specimen("bilinear-symmetric", bilinear_symmetric, ("x",), ("transposed", "path")),
)
