"""Every law of `laws.py` for every row of the table of cases, in every dtype to which it applies.

An id names law, row and dtype: `test_vjp_equals_autodiff[dense-float64]` holds
`law_vjp_equals_autodiff` against the row of `dense`. What each law says, and how sharply, is in its
docstring.
"""

import pytest

from fbackprop.verify.cases import CASES
from tests.support import laws


def generate(law):
  """Generate the test of a law: a case for each row and dtype to which it applies."""
  rows = [
    pytest.param(
      case,
      dtype,
      id=f"{case.id}-{dtype}",
      marks=[pytest.mark.slow] if case.slow or dtype not in law.fast else [],
    )
    for case, dtype in laws.rows(law, CASES)
  ]

  @pytest.mark.parametrize(("case", "dtype"), rows)
  def test(case, dtype):
    law(case, dtype)

  return test


globals().update({n.replace("law_", "test_", 1): generate(law) for n, law in laws.LAWS.items()})


def test_row_ids_are_unique():
  ids = [case.id for case in CASES]
  assert len(ids) == len(set(ids))
