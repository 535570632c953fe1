"""The table of everything that has a backward rule: one row for each, and each row obeys each law.

A new gate, layer or loss joins by a row, in one of the files below or in a file of its own
(`laws.check(case)` runs every law on any row).
"""

from tests.cases_of_gates import CHOICES, GATES
from tests.cases_of_layers import LAYERS
from tests.cases_of_losses import LOSSES
from tests.cases_of_structure import STRUCTURE

CASES = (*GATES, *CHOICES, *LAYERS, *STRUCTURE, *LOSSES)
