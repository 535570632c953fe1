"""The laws that every gate, layer and loss obeys, each a plain function of a row and a dtype.

A law raises an AssertionError that names the row, the leaf, the index, what came, what was wanted
and the bound. `check(case)` runs all of them on any row, also one that stands in another file:

  check(Case("my_layer", make, primals, reference))
"""

import jax
import jax.numpy as jnp

import fbackprop as fb
from tests import laws_of_rules, laws_of_use
from tests.laws_of_rules import (
  law_finite_differences_agree,
  law_float32_stays_under_x64,
  law_half_precision_keeps_its_dtype,
  law_kinks_follow_the_policy,
)
from tests.laws_of_use import law_params_bar_reads_no_params_up_to_its_own
from tests.witness import draw

DTYPES = ("float32", "float64")


def laws_in(*modules):
  named = {name: law for module in modules for name, law in vars(module).items()}
  return {name: law for name, law in named.items() if name.startswith("law_")}


LAWS = laws_in(laws_of_rules, laws_of_use)


def has_parameters(case, dtype):
  unit = case.make(jnp.dtype(dtype))
  return isinstance(unit, fb.Layer) and bool(jax.tree.leaves(draw(case, dtype, n=1)[1][0]))


def is_affine_in_its_parameters(case, dtype):
  return has_parameters(case, dtype) and not case.reads_own_params


def has_kinks(case, dtype):
  return case.kinks is not None


# Where a law applies to some rows only, and to other dtypes than the two.
APPLIES = {
  law_kinks_follow_the_policy: has_kinks,
  law_params_bar_reads_no_params_up_to_its_own: is_affine_in_its_parameters,
}
PRECISIONS = {
  law_finite_differences_agree: ("float64",),
  law_float32_stays_under_x64: ("float32",),
  law_half_precision_keeps_its_dtype: ("bfloat16", "float16"),
}


def applies(law, case, dtype):
  """Whether a law has something to say about a row in a dtype."""
  if dtype not in PRECISIONS.get(law, DTYPES):
    return False
  with jax.enable_x64(True):
    return law not in APPLIES or APPLIES[law](case, dtype)


def rows(law, cases):
  """The (case, dtype) pairs to which a law applies."""
  dtypes = PRECISIONS.get(law, DTYPES)
  return [(case, dtype) for case in cases for dtype in dtypes if applies(law, case, dtype)]


def check(case):
  """Every law that applies to a row, in every dtype."""
  for law in LAWS.values():
    for _, dtype in rows(law, [case]):
      law(case, dtype)
