"""What is measured, without an import of jax: networks, and the contestants of an epoch."""

from typing import NamedTuple


class Size(NamedTuple):
  """A relu network in float32, and its batch.

  Attributes:
    widths: the widths from input to output.
    batch: the number of examples N in a step.
    classification: whether the loss is softmax cross-entropy of labels; otherwise it is the squared
      error of targets.
    scan: the number of steps in one timed call, by `lax.scan`: above 1 where a step is so short
      that the call overhead would dominate.
  """

  widths: tuple[int, ...]
  batch: int
  classification: bool = True
  scan: int = 1


SIZES = {
  "tiny": Size((2, 16, 16, 1), 32, classification=False, scan=1000),
  "digits": Size((64, 128, 64, 10), 64, scan=200),
  "mnist": Size((784, 512, 512, 10), 128),
  "wide": Size((1024, 4096, 4096, 1024), 256),
  "deep": Size((256,) * 65, 128),
}

QUANTITY_SIZES = {
  "digits": SIZES["digits"]._replace(scan=1),
  "mnist": SIZES["mnist"],
  "opacus-32": Size((5120, 2560, 1280), 32),
  "opacus-1024": Size((5120, 2560, 1280), 1024),
}
"""The sizes for quantities; the last two are the extreme batch sizes of Opacus's own benchmark."""


# --- Epochs ---------------------------------------------------------------------------------------


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
