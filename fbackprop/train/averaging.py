"""The prediction of an ensemble from those of its members."""

import jax
import jax.numpy as jnp

from fbackprop.types import Array


def mean_outputs(outputs: Array, loss_name: str) -> Array:
  """Average the outputs of the members.

  For classes, and for several labels at once, the members' probabilities are averaged, and the
  logits of that mean returned, so that the loss and the label follow from them as from a network's
  own. For anything else the outputs themselves are averaged.

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
