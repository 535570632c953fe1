"""The contestants of `bench.py epoch`, by name, without imports."""

from typing import NamedTuple


class Contestant(NamedTuple):
  """An implementation of an epoch.

  Attributes:
    shown: its name in the table.
    module: the module of `scripts.benchmarks` whose function `make_...` builds it.
    package: the required package, by its pip name.
    imported: the required package, by its import name.
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
"""The contestants that always run, as the baselines of the others."""

EXAMPLES = {"tiny": 2048, "digits": 1344, "mnist": 3200}
"""The size of each data set, a multiple of the batch size: exactly 64, 21 and 25 steps."""
PROGRAM = {"tiny": 15, "digits": 47, "mnist": 1}
"""The epochs of one call of a compiled run: for tiny and digits nearly `fit`'s 1,000 steps."""
RATE = 0.01
