"""The table of everything that has a backward rule: one row for each, and each row obeys each law.

A new gate, layer or loss joins by a row, in one of the three files below or in a file of its own
(`laws.check(case)` runs every law on any row).
"""

from tests.cases_of_gates import GATES
from tests.cases_of_layers import LAYERS
from tests.cases_of_losses import LOSSES

CASES = (*GATES, *LAYERS, *LOSSES)
