"""The outputs of an ensemble as a whole, from those of its members."""

import jax
import jax.numpy as jnp

from fbackprop.types import Array


def mean_outputs(outputs: Array, loss_name: str) -> Array:
  """What all members say together.

  Of classes, and of several labels at once, the members' probabilities are averaged; the logits of
  that mean are returned, so that the loss and the label are taken of them as of a network's own.
  Of anything else the outputs themselves are averaged.

  Args:
    outputs: `[K, N, C]`, of K members.
    loss_name: of the loss that they were trained by.

  Returns:
    `[N, C]`.
  """
  log_k = jnp.log(jnp.asarray(outputs.shape[0], outputs.dtype))
  if loss_name == "softmax_cross_entropy":
    return jax.nn.logsumexp(jax.nn.log_softmax(outputs, axis=2), axis=0) - log_k
  if loss_name == "sigmoid_cross_entropy":
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(z), axis=0) for z in (outputs, -outputs))
    return yes - no
  return outputs.mean(0)
