"""The bank: planted bugs, and correct but unusual implementations.

It is written as people write their rules, without types. Nothing is computed when it is imported:
each specimen builds its function and its arguments when it is asked.
"""

from fbackprop.verify.bank import (
  activations,
  arithmetic,
  attention,
  batches,
  branches,
  cotangents,
  kinks,
  loops,
  losses,
  modes,
  networks,
  normalization,
  precision,
  products,
  right_activations,
  right_calls,
  right_layers,
  right_loops,
  right_losses,
  right_normalization,
  right_precision,
  right_products,
  right_structure,
  state,
  structure,
  weighted_losses,
)
from fbackprop.verify.bank.specimen import Example, Specimen

__all__ = ["BUGS", "RIGHT", "Example", "Specimen"]

BUGS: tuple[Specimen, ...] = (
  *products.BUGS,
  *arithmetic.BUGS,
  *activations.BUGS,
  *losses.BUGS,
  *weighted_losses.BUGS,
  *normalization.BUGS,
  *attention.BUGS,
  *loops.BUGS,
  *networks.BUGS,
  *batches.BUGS,
  *branches.BUGS,
  *kinks.BUGS,
  *precision.BUGS,
  *cotangents.BUGS,
  *structure.BUGS,
  *state.BUGS,
  *modes.BUGS,
)
RIGHT: tuple[Specimen, ...] = (
  *right_products.RIGHT,
  *right_activations.RIGHT,
  *right_losses.RIGHT,
  *right_normalization.RIGHT,
  *right_loops.RIGHT,
  *right_structure.RIGHT,
  *right_calls.RIGHT,
  *right_precision.RIGHT,
  *right_layers.RIGHT,
)
