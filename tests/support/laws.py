"""The laws that every gate, layer and loss obeys, each a plain function of a row and a dtype.

A law raises an AssertionError that names the row, the leaf, the index, the value got, the value
wanted and the bound. `check(case)` runs all of them on any row, including rows outside of the
table:

  check(Case("my_layer", make, primals, reference))
"""

import jax

from tests.support import laws_of_rules, laws_of_use

LAWS = {
  name: law
  for module in (laws_of_rules, laws_of_use)
  for name, law in vars(module).items()
  if name.startswith("law_")
}


def rows(law, cases):
  """Return the (case, dtype) pairs to which a law applies."""
  with jax.enable_x64(True):
    return [
      (case, dtype)
      for case in cases
      for dtype in law.dtypes
      if law.applies is None or law.applies(case, dtype)
    ]


def check(case):
  """Apply every law that applies to a row, in every dtype."""
  for law in LAWS.values():
    for _, dtype in rows(law, [case]):
      law(case, dtype)
