"""What `fbackprop verify` verifies when it is given nothing: every rule of this library, small.

A layer is checked by `layer`, which looks inside of a composition; a loss, and what the transforms
make, by `vjp`, as anybody's function is. Targets are constants: labels are an argument, which has
no cotangent, and real targets are closed over.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import losses
from fbackprop.combinators import serial, skip
from fbackprop.layers import activations
from fbackprop.layers.dense import dense
from fbackprop.layers.dropout import dropout
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.networks import mlp
from fbackprop.repetition import remat, repeat
from fbackprop.transforms import as_custom_vjp, value_and_grad
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify._layer import layer
from fbackprop.verify._vjp import vjp
from fbackprop.verify.report.report import Report

N, WIDTH, CLASSES = 5, 3, 4
ACTIVATIONS = (
  "elu", "gelu", "gelu_tanh", "hard_tanh", "identity", "leaky_relu", "mish", "relu", "relu6",
  "selu", "sigmoid", "silu", "softmax", "softplus", "tanh",
)  # fmt: skip


class Entry(NamedTuple):
  """A rule of the library: `verify(**options)` of `vjp` gives the report."""

  name: str
  verify: Callable[..., Report]


def arguments_of(make: Callable[[], Layer]) -> tuple[Layer, Params, Array]:
  """A layer, parameters whose biases aren't zero, and inputs."""
  net = make()
  params_key, noise_key, x_key = jax.random.split(jax.random.key(0), 3)
  leaves, structure = jax.tree.flatten(net.init(params_key))
  keys = jax.random.split(noise_key, max(len(leaves), 1))
  moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=False)]
  return net, jax.tree.unflatten(structure, moved), jax.random.normal(x_key, (N, WIDTH))


def verify_layer(make: Callable[[], Layer], **options: Any) -> Report:
  """Layer by layer."""
  return layer(*arguments_of(make), **options)


def verify_training_pass(make: Callable[[], Layer], **options: Any) -> Report:
  """Layer by layer, with a key: of a layer that draws."""
  return layer(*arguments_of(make), key=jax.random.key(1), **options)


def verify_custom_vjp(make: Callable[[], Layer], **options: Any) -> Report:
  """The rule as `jax.grad` finds it."""
  net, params, x = arguments_of(make)
  return vjp(as_custom_vjp(net), params, x, **options)


def verify_value_and_grad(make: Callable[[], Layer], loss: Loss, **options: Any) -> Report:
  """The mean loss of a network, by parameters and data."""
  net, params, x = arguments_of(make)
  loss_and_gradient = value_and_grad(net, loss, input_gradient=True)

  def f(params: Params, x: Array, labels: Array) -> Array:
    return jnp.mean(loss.forward(net.forward(params, x)[0], labels)[0])

  def f_vjp(params: Params, x: Array, labels: Array) -> Any:
    mean, grads = loss_and_gradient(params, x, labels)

    def backward(mean_bar: Array) -> Any:
      return (*jax.tree.map(lambda grad: mean_bar * grad, grads), None)

    return mean, backward

  return vjp(f, params, x, labels(), f_vjp=f_vjp, **options)


def verify_loss(loss: Loss, make_targets: Callable[[], Any], **options: Any) -> Report:
  """A loss of each example, by its outputs."""
  outputs = 2 * jax.random.normal(jax.random.key(2), (N, CLASSES))
  targets = make_targets()

  def f(outputs: Array, targets: Any = targets) -> Array:
    return loss.forward(outputs, targets)[0]

  def f_vjp(outputs: Array, *given: Any) -> Any:
    losses, residuals = loss.forward(outputs, *(given or (targets,)))

    def backward(losses_bar: Array) -> Any:
      return (loss.backward(residuals, losses_bar), *(None for _ in given))

    return losses, backward

  are_labels = getattr(targets, "dtype", None) == jnp.int32
  return vjp(f, outputs, *([targets] if are_labels else []), f_vjp=f_vjp, **options)


# --- Targets --------------------------------------------------------------------------------------


def labels() -> Array:
  """Each class, and one of them twice."""
  return jnp.arange(N, dtype=jnp.int32) % CLASSES


def labels_with_gaps() -> Array:
  """Some rows are to be ignored."""
  return jnp.where(jnp.arange(N) % 3 == 0, -1, labels())


def real_targets() -> Array:
  """Numbers of either sign."""
  return jax.random.normal(jax.random.key(3), (N, CLASSES))


def shares() -> Array:
  """Numbers in (0, 1) that don't sum to one."""
  return jax.random.uniform(jax.random.key(4), (N, CLASSES), minval=0.1)


def counts() -> Array:
  """Whole numbers from 0."""
  return jnp.asarray(np.arange(N * CLASSES).reshape(N, CLASSES) % 5, jnp.float32)


def for_two_losses() -> tuple[Array, Array]:
  """Labels of the first three outputs, numbers for the last two."""
  return labels() % 3, real_targets()[:, :2]


# --- Networks -------------------------------------------------------------------------------------


def chain() -> Layer:
  """A chain within a chain."""
  return serial(serial(dense(WIDTH, 4), activations.tanh, dense(4, 2, bias=False)),
                activations.gelu, dense(2, CLASSES))  # fmt: skip


def branch() -> Layer:
  """x + f(x)."""
  return skip(serial(dense(WIDTH, 5), activations.tanh, dense(5, WIDTH)))


def loop() -> Layer:
  """Equal blocks, the activation first, as a repeat likes it."""
  return repeat(serial(activations.tanh, dense(WIDTH, WIDTH)), 3)


def computed_again() -> Layer:
  """A chain that keeps its input alone."""
  return remat(chain())


def plain_mlp() -> Layer:
  """As it trains by default."""
  return mlp([WIDTH, 6, 5, CLASSES])


def mlp_without_bias() -> Layer:
  """Weights alone."""
  return mlp([WIDTH, 6, CLASSES], activations.silu, bias=False)


def normalized_mlp() -> Layer:
  """Normalised by the root mean square, in a loop."""
  return mlp([WIDTH, 4, 4, 4, CLASSES], activations.tanh, normalization=rms_norm,
             repeat_hidden=True)  # fmt: skip


def mlp_with_everything() -> Layer:
  """Every option at once."""
  return mlp([WIDTH, 4, 4, 4, CLASSES], activations.silu, normalization=layer_norm, dropout=0.3,
             skip=True, repeat_hidden=True)  # fmt: skip


def activation_of(name: str) -> Layer:
  """A layer of `fbackprop.layers.activations`."""
  found: Layer = getattr(activations, name)
  return found


LIBRARY: tuple[Entry, ...] = (
  *(Entry(name, partial(verify_layer, partial(activation_of, name))) for name in ACTIVATIONS),
  Entry("dense", partial(verify_layer, partial(dense, WIDTH, CLASSES))),
  Entry("dense, no bias", partial(verify_layer, partial(dense, WIDTH, CLASSES, bias=False))),
  Entry("layer_norm", partial(verify_layer, partial(layer_norm, WIDTH))),
  Entry("rms_norm", partial(verify_layer, partial(rms_norm, WIDTH))),
  Entry("dropout", partial(verify_training_pass, partial(dropout, 0.3))),
  Entry("serial", partial(verify_layer, chain)),
  Entry("skip", partial(verify_layer, branch)),
  Entry("repeat", partial(verify_layer, loop)),
  Entry("remat", partial(verify_layer, computed_again)),
  Entry("mlp", partial(verify_layer, plain_mlp)),
  Entry("mlp, no bias", partial(verify_layer, mlp_without_bias)),
  Entry("mlp, rms_norm, repeat", partial(verify_layer, normalized_mlp)),
  Entry("mlp, everything", partial(verify_training_pass, mlp_with_everything)),
  Entry("as_custom_vjp", partial(verify_custom_vjp, plain_mlp)),
  Entry("value_and_grad", partial(verify_value_and_grad, plain_mlp, losses.softmax_cross_entropy)),
  Entry("squared_error", partial(verify_loss, losses.squared_error, real_targets)),
  Entry("huber", partial(verify_loss, losses.huber, real_targets)),
  Entry("huber_with", partial(verify_loss, losses.huber_with(0.5), real_targets)),
  Entry("log_cosh", partial(verify_loss, losses.log_cosh, real_targets)),
  Entry("poisson_nll", partial(verify_loss, losses.poisson_nll, counts)),
  Entry("hinge", partial(verify_loss, losses.hinge, labels)),
  Entry("sigmoid_cross_entropy", partial(verify_loss, losses.sigmoid_cross_entropy, shares)),
  Entry("softmax_cross_entropy", partial(verify_loss, losses.softmax_cross_entropy, labels)),
  Entry("softmax_cross_entropy, rows", partial(verify_loss, losses.softmax_cross_entropy, shares)),
  Entry(
    "softmax_cross_entropy_with",
    partial(
      verify_loss,
      losses.softmax_cross_entropy_with(
        label_smoothing=0.25, class_weights=(0.5, 1.0, 2.0, 0.0), ignore_label=-1
      ),
      labels_with_gaps,
    ),
  ),
  Entry(
    "combine",
    partial(
      verify_loss,
      losses.combine(
        (0.5, losses.softmax_cross_entropy, slice(0, 3)),
        (2.0, losses.squared_error, slice(-2, None)),
      ),
      for_two_losses,
    ),
  ),
)
