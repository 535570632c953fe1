"""Wrong backward rules of the dense layer, made of the right one."""

import jax

from fbackprop.layers.dense import dense_backward


def changed(change):
  """Build the rule whose cotangents are `change(params_bar, x_bar)` of the right ones."""

  def backward(params, x, y_bar):
    return change(*dense_backward(params, x, y_bar))

  return backward


def times(factor):
  """Build the rule whose cotangent of the parameters is so many times the right one."""
  return changed(lambda params_bar, x_bar: (jax.tree.map(lambda a: a * factor, params_bar), x_bar))


def weight(change):
  """Build the rule whose cotangent of the weight is `change(w_bar)`."""
  return changed(lambda params_bar, x_bar: (params_bar._replace(w=change(params_bar.w)), x_bar))
