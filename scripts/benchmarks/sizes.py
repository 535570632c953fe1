"""The five measured networks, without an import of jax."""

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
