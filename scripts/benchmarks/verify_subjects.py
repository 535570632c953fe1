"""What `bench.py verify` times, in a process of its own: it prints the seconds and the CPU seconds.

It is run as a script with the folder of a checkout on the path, and so uses only what every
checkout has.
"""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop import verify


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
  """Draw float32 arrays; NumPy draws them, as JAX would compile the generator."""
  rng = np.random.default_rng(0)
  return [jax.device_put(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def rule(f: Callable[..., Any], forward: Any, backward: Any) -> Any:
  """Return a function with a hand-written VJP."""
  own = jax.custom_vjp(f)
  own.defvjp(forward, backward)
  return own


def of_tanh() -> Any:
  """Verify tanh(x w), a small rule."""

  def forward(x: Any, w: Any) -> Any:
    y = jnp.tanh(x @ w)
    return y, (x, w, y)

  def backward(kept: Any, y_bar: Any) -> Any:
    x, w, y = kept
    z_bar = y_bar * (1 - y * y)
    return z_bar @ w.T, x.T @ z_bar

  return verify.vjp(rule(lambda x, w: jnp.tanh(x @ w), forward, backward), *arrays((4, 3), (3, 2)))


def of_softplus() -> Any:
  """Verify softplus."""
  softplus = rule(
    lambda x: jnp.logaddexp(x, 0.0),
    lambda x: (jnp.logaddexp(x, 0.0), x),
    lambda x, y_bar: (y_bar * jax.nn.sigmoid(x),),
  )
  return verify.vjp(softplus, *arrays((5, 4)))


def of_rms_norm() -> Any:
  """Verify a normalisation by the root mean square."""

  def forward(x: Any, scale: Any) -> Any:
    inverse = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return x * inverse * scale, (x, inverse, scale)

  def backward(kept: Any, y_bar: Any) -> Any:
    x, inverse, scale = kept
    own, own_bar = x * inverse, y_bar * scale
    along = jnp.mean(own_bar * own, -1, keepdims=True)
    return inverse * (own_bar - own * along), (y_bar * own).sum(0)

  norm = rule(lambda x, scale: forward(x, scale)[0], forward, backward)
  return verify.vjp(norm, *arrays((5, 4), (4,)))


def of_cross_entropy() -> Any:
  """Verify a mean cross-entropy of logits and probabilities."""

  def loss(z: Any, t: Any) -> Any:
    return -(t * jax.nn.log_softmax(z)).sum(-1).mean()

  def backward(kept: Any, y_bar: Any) -> Any:
    z, t = kept
    z_bar = jax.nn.softmax(z) * t.sum(-1, keepdims=True) - t
    return y_bar * z_bar / len(z), -y_bar * jax.nn.log_softmax(z) / len(z)

  z, logits = arrays((5, 4), (5, 4))
  shifted = np.exp(np.asarray(logits))
  t = jax.device_put(shifted / shifted.sum(-1, keepdims=True))
  return verify.vjp(rule(loss, lambda z, t: (loss(z, t), (z, t)), backward), z, t)


def of_network() -> Any:
  """Verify the network of the lecture's size for MNIST, as a whole and layer by layer."""
  net = fb.mlp((784, 128, 64, 10))
  shapes = [(784, 128), (128,), (128, 64), (64,), (64, 10), (10,), (32, 784)]
  *leaves, x = arrays(*shapes)
  by_shape = {leaf.shape: 0.1 * leaf for leaf in leaves}
  wanted = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: by_shape[leaf.shape], wanted)
  return verify.layer(net, params, x)


SUBJECTS: dict[str, tuple[Callable[[], Any], ...]] = {
  "small": (of_tanh,),
  "file": (of_tanh, of_softplus, of_rms_norm, of_cross_entropy),
  "network": (of_network,),
  "self-test": (verify.run_self_test,),
}


def used() -> float:
  """Return the CPU seconds of this process so far."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  jax.block_until_ready(jax.device_put(np.zeros(1)))
  start, cpu = time.perf_counter(), used()
  verdicts = [str(getattr(subject(), "verdict", "pass")) for subject in SUBJECTS[sys.argv[1]]]
  if set(verdicts) != {"pass"}:
    raise SystemExit(f"verdicts {verdicts}")
  print(time.perf_counter() - start, used() - cpu)
