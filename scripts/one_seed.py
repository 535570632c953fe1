"""Fingerprints of one seed's results on this machine and this JAX, to compare with another's.

  python scripts/one_seed.py     some seconds

Equal fingerprints are equal bits. docs/versions.md lists the results that are equal across the
lines of JAX.
"""

import hashlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb

KEY = jax.random.key(0)
DRAWS: dict[str, Callable[..., Any]] = {
  "bits": jax.random.bits,
  "uniform, float32": jax.random.uniform,
  "normal, float32": jax.random.normal,
  "bernoulli": lambda key, shape: jax.random.bernoulli(key, 0.3, shape),
  "permutation": lambda key, shape: jax.random.permutation(key, shape[0]),
}
ACTIVATIONS = (fb.relu, fb.tanh, fb.gelu, fb.sigmoid, fb.elu)


def fingerprint(tree: Any) -> str:
  """Return a short SHA-256 fingerprint of a pytree's bits."""
  bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
  return hashlib.sha256(bits).hexdigest()[:12]


def lines() -> Iterator[tuple[str, str]]:
  """Yield the name and the fingerprint of each compared result."""
  yield "keys", fingerprint(jax.random.key_data(jax.random.split(KEY, 8)))
  for name, draw in DRAWS.items():
    yield name, fingerprint(draw(KEY, (1000,)))
  sizes = [64, 128, 10]
  yield "initial parameters, float32", fingerprint(fb.mlp(sizes).init(KEY))
  with jax.enable_x64(True):
    yield "normal, float64", fingerprint(jax.random.normal(KEY, (1000,), jnp.float64))
    yield "initial parameters, float64", fingerprint(fb.mlp(sizes, dtype=jnp.float64).init(KEY))
  x, labels = jax.random.normal(KEY, (50, 64)), jnp.arange(50) % 10
  for activation in ACTIVATIONS:
    net = fb.mlp(sizes, activation)
    step = jax.jit(fb.value_and_grad(net, fb.softmax_cross_entropy))
    loss, grads = step(net.init(KEY), x, labels)
    yield f"loss and gradient, {activation.name}", f"{fingerprint(loss)}  {fingerprint(grads)}"


def main() -> None:
  """Print a line for each."""
  print(f"jax {jax.__version__}, Python {platform.python_version()}, {jax.default_backend()}")
  for name, found in lines():
    print(f"{name:<30}{found}")


if __name__ == "__main__":
  main()
