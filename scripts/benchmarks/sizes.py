"""The five networks that are measured; no jax is needed to name them."""

from typing import NamedTuple


class Size(NamedTuple):
  """A relu network in float32, and its batch.

  Attributes:
    widths: from input to output.
    batch: examples N of a step.
    classification: labels and softmax cross-entropy; otherwise targets and squared error.
    scan: how many steps one timed call makes, in a `lax.scan`: above 1 where a step is so short
      that calling it would be most of the time.
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
"""Where quantities are measured; the last two are of Opacus's own benchmark, at both ends of its
batch sizes."""
