"""Right networks: our own layers, by `pullback` and by `as_custom_vjp`, and two by hand."""

import jax
import jax.numpy as jnp

from fbackprop.combinators import serial, skip
from fbackprop.layers.activations import gelu, relu, tanh
from fbackprop.layers.dense import dense
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.losses import softmax_cross_entropy
from fbackprop.networks import mlp
from fbackprop.repetition import remat, repeat
from fbackprop.transforms import as_custom_vjp, pullback, value_and_grad
from fbackprop.verify.bank.arguments import draw, draw_labels
from fbackprop.verify.bank.specimen import Example, Specimen


def params_of(net):
  """Parameters of a network, drawn without running its initialisers, which take a while."""
  leaves, structure = jax.tree.flatten(jax.eval_shape(net.init, jax.random.key(0)))
  drawn = draw(*(leaf.shape for leaf in leaves), seed=4)
  return jax.tree.unflatten(structure, [0.5 * leaf for leaf in drawn])


def of_layer(net, n=5, width=4, key=None):
  """The example of a network by `pullback`."""

  def f(params, x):
    return net.forward(params, x, key)[0]

  def f_vjp(params, x):
    return pullback(net)(params, x, key)

  return Example(f, (params_of(net), *draw((n, width))), f_vjp)


def mlp_relu():
  """An MLP with relu by `as_custom_vjp`."""
  net = mlp([4, 6, 5, 3], relu)
  return Example(as_custom_vjp(net), (params_of(net), *draw((5, 4))))


def mlp_gelu():
  """An MLP with gelu and layer_norm by `pullback`."""
  return of_layer(mlp([4, 6, 3], gelu, normalization=layer_norm))


def mlp_dropout():
  """An MLP with dropout, its key closed over."""
  return of_layer(mlp([4, 6, 3], tanh, dropout=0.5), key=jax.random.key(3))


def repeated():
  """A block repeated in a scan over stacked parameters."""
  return of_layer(repeat(serial(tanh, dense(4, 4)), 3))


def recomputed():
  """A block that keeps its input and computes again."""
  return of_layer(remat(serial(dense(4, 6), gelu, dense(6, 3))))


def skipped():
  """x + block(x), with rms_norm in front."""
  return of_layer(serial(skip(serial(rms_norm(4), dense(4, 4), gelu)), dense(4, 2)))


def loss_of_a_net():
  """The mean loss of a network with labels, by `value_and_grad`."""
  net = mlp([4, 6, 3], tanh)
  our_gradient = value_and_grad(net, softmax_cross_entropy, input_gradient=True)

  def f(params, x, labels):
    outputs = net.forward(params, x)[0]
    return softmax_cross_entropy.forward(outputs, labels)[0].sum() / max(x.shape[0], 1)

  def f_vjp(params, x, labels):
    loss, (grads, x_bar) = our_gradient(params, x, labels)

    def pull(loss_bar):
      def scaled(bar):
        return loss_bar * bar

      return (*jax.tree.map(scaled, (grads, x_bar)), None)

    return loss, pull

  arguments = (params_of(net), *draw((6, 4)), draw_labels(6, 3))
  return Example(f, arguments, f_vjp)


def autoencoder_tied():
  """w and its transpose in one network: both uses are added in one product."""

  @jax.custom_vjp
  def autoencode(w, x):
    return jnp.tanh(x @ w) @ w.T

  def autoencode_fwd(w, x):
    h = jnp.tanh(x @ w)
    return h @ w.T, (w, x, h)

  def autoencode_bwd(residuals, y_bar):
    w, x, h = residuals
    z_bar = (y_bar @ w) * (1 - h * h)
    both = jnp.concatenate([x, y_bar]).T @ jnp.concatenate([z_bar, h])
    return both, z_bar @ w.T

  autoencode.defvjp(autoencode_fwd, autoencode_bwd)
  return Example(autoencode, draw((5, 3), (6, 5)))


def low_rank():
  """x (u v) by (x u) v, and the cotangents without ever forming u v."""

  def adapted(x, u, v):
    return x @ (u @ v)

  def f_vjp(x, u, v):
    def pull(y_bar):
      bar = y_bar @ v.T
      return bar @ u.T, x.T @ bar, (x @ u).T @ y_bar

    return (x @ u) @ v, pull

  return Example(adapted, draw((6, 5), (5, 2), (2, 4)), f_vjp)


RIGHT = (
  Specimen("right-mlp-relu", mlp_relu),
  Specimen("right-mlp-gelu-layer-norm", mlp_gelu),
  Specimen("right-mlp-dropout", mlp_dropout),
  Specimen("right-repeat", repeated),
  Specimen("right-remat", recomputed),
  Specimen("right-skip-rms-norm", skipped),
  Specimen("right-loss-of-a-net", loss_of_a_net),
  Specimen("right-autoencoder-tied", autoencoder_tied),
  Specimen("right-low-rank", low_rank),
)
