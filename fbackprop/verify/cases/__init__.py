"""The table of everything that has a backward rule: one row for each unit; each row obeys each law.

The tests apply every law to every row. `fbackprop verify` without arguments and the campaigns
verify the rows that have a title; `scripts/accuracy.py` and the benchmarks take their references
from here. To add a gate, layer or loss, add a row; an activation layer gets its row from its
gate's.
"""

from fbackprop.verify.cases.case import CLASSES, Case, always
from fbackprop.verify.cases.gates import CHOICES, GATES
from fbackprop.verify.cases.layers import ACTIVATIONS, COMPOSITIONS, GRAPHS, LAYERS, MLPS, SEQUENCES
from fbackprop.verify.cases.losses import LOSSES

CASES = (
  *GATES,
  *CHOICES,
  *ACTIVATIONS,
  *LAYERS,
  *SEQUENCES,
  *COMPOSITIONS,
  *GRAPHS,
  *MLPS,
  *LOSSES,
)
TITLED = {row.title: row for row in CASES if row.title}
"""The rows that are verified by name."""

__all__ = [
  "ACTIVATIONS", "CASES", "CHOICES", "CLASSES", "COMPOSITIONS", "GATES", "GRAPHS", "LAYERS",
  "LOSSES", "MLPS", "SEQUENCES", "TITLED", "Case", "always",
]  # fmt: skip
