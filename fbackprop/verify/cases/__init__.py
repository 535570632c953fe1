"""The table of everything that has a backward rule: one row for each, and each row obeys each law.

The tests hold every law against every row, `fbackprop verify` without arguments verifies the rows
that have a title, and so do the campaigns; `scripts/accuracy.py` and the benchmarks take their
peers from here. A new gate, layer or loss joins by a row; an activation's layer has its row through
its gate's.
"""

from fbackprop.verify.cases.case import CLASSES, Case, always
from fbackprop.verify.cases.compositions import COMPOSITIONS, MLPS
from fbackprop.verify.cases.gates import CHOICES, GATES
from fbackprop.verify.cases.layers import ACTIVATIONS, LAYERS
from fbackprop.verify.cases.losses import LOSSES

CASES = (*GATES, *CHOICES, *ACTIVATIONS, *LAYERS, *COMPOSITIONS, *MLPS, *LOSSES)
TITLED = {row.title: row for row in CASES if row.title}
"""The rows that are verified by name."""

__all__ = [
  "ACTIVATIONS", "CASES", "CHOICES", "CLASSES", "COMPOSITIONS", "GATES", "LAYERS", "LOSSES", "MLPS",
  "TITLED", "Case", "always",
]  # fmt: skip
