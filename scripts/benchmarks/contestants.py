"""Who runs an epoch in `bench.py epoch`: names only, and nothing imported yet."""

from typing import NamedTuple


class Contestant(NamedTuple):
  """One way to run an epoch.

  Attributes:
    shown: its name in the table.
    module: of `scripts.benchmarks`, whose function `make_...` builds it.
    package: what must be installed, as pip calls it.
    imported: the same, as Python imports it.
  """

  shown: str
  module: str
  package: str
  imported: str


CONTESTANTS = {
  "exact": Contestant("fbackprop, exact shuffle", "epoch_jax", "fbackprop", "fbackprop"),
  "fast": Contestant("fbackprop, fast shuffle", "epoch_jax", "fbackprop", "fbackprop"),
  "bare": Contestant("our gradient, bare scan", "epoch_jax", "fbackprop", "fbackprop"),
  "grad": Contestant("jax.grad, bare scan", "epoch_jax", "jax", "jax"),
  "equinox_scan": Contestant("equinox, bare scan", "epoch_jax_peers", "equinox", "equinox"),
  "nnx_scan": Contestant("flax nnx, bare scan", "epoch_jax_peers", "flax", "flax"),
  "equinox": Contestant("equinox loop", "epoch_jax_peers", "equinox", "equinox"),
  "nnx": Contestant("flax nnx loop", "epoch_jax_peers", "flax", "flax"),
  "keras": Contestant("keras on JAX, fit", "epoch_other_peers", "keras", "keras"),
  "torch": Contestant("torch loop", "epoch_other_peers", "torch", "torch"),
  "sklearn": Contestant("scikit-learn, fit", "epoch_other_peers", "scikit-learn", "sklearn"),
}
OURS = ("exact", "fast")
"""They always run: all others are compared with them."""

EXAMPLES = {"tiny": 2048, "digits": 1344, "mnist": 3200}
"""Of a data set, a multiple of the batch, so that nobody has a remainder: 64, 21 and 25 steps."""
PROGRAM = {"tiny": 15, "digits": 47, "mnist": 1}
"""Epochs of one call of a compiled run: of tiny and digits nearly the 1,000 steps that `fit` takes
in one."""
RATE = 0.01
