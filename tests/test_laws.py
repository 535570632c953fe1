"""Every law of `laws.py` for every row of `cases.py`, in every dtype to which it applies.

An id names law, row and dtype: `test_vjp_equals_autodiff[dense-float64]`. The rows are in
`cases.py`; what each law says, and how sharply, is in its docstring.
"""

import pytest

from tests import laws
from tests import laws_of_rules as rules
from tests import laws_of_use as use
from tests.cases import CASES


def every_row(law, fast=laws.DTYPES):
  """One test for each row and dtype to which the law applies.

  Nearly all of the time goes into compiling. Where a dtype that isn't `fast` could hardly differ,
  it waits for CI, and so does a row that says of itself that it is slow.
  """
  rows = []
  for case, dtype in laws.rows(law, CASES):
    is_fast = dtype in (*fast, *laws.PRECISIONS.get(law, ())) and not case.slow
    marks = [] if is_fast else [pytest.mark.slow]
    rows.append(pytest.param(case, dtype, id=f"{case.id}-{dtype}", marks=marks))
  return pytest.mark.parametrize(("case", "dtype"), rows)


@every_row(rules.law_forward_equals_reference, fast=("float64",))
def test_forward_equals_reference(case, dtype):
  rules.law_forward_equals_reference(case, dtype)


@every_row(rules.law_backward_has_the_structure_of_its_primals, fast=("float32",))
def test_backward_has_the_structure_of_its_primals(case, dtype):
  rules.law_backward_has_the_structure_of_its_primals(case, dtype)


@every_row(rules.law_half_precision_keeps_its_dtype)
def test_half_precision_keeps_its_dtype(case, dtype):
  rules.law_half_precision_keeps_its_dtype(case, dtype)


@pytest.mark.slow
@every_row(rules.law_float32_stays_under_x64)
def test_float32_stays_under_x64(case, dtype):
  rules.law_float32_stays_under_x64(case, dtype)


@every_row(rules.law_linear_in_the_cotangent, fast=("float32",))
def test_linear_in_the_cotangent(case, dtype):
  rules.law_linear_in_the_cotangent(case, dtype)


@every_row(rules.law_vjp_equals_autodiff, fast=("float64",))
def test_vjp_equals_autodiff(case, dtype):
  rules.law_vjp_equals_autodiff(case, dtype)


@every_row(rules.law_kinks_follow_the_policy, fast=("float64",))
def test_kinks_follow_the_policy(case, dtype):
  rules.law_kinks_follow_the_policy(case, dtype)


@every_row(rules.law_finite_differences_agree)
def test_finite_differences_agree(case, dtype):
  rules.law_finite_differences_agree(case, dtype)


@every_row(rules.law_dot_products_agree, fast=("float64",))
def test_dot_products_agree(case, dtype):
  rules.law_dot_products_agree(case, dtype)


@every_row(rules.law_nan_passes, fast=("float32",))
def test_nan_passes(case, dtype):
  rules.law_nan_passes(case, dtype)


@every_row(use.law_same_under_jit, fast=("float32",))
def test_same_under_jit(case, dtype):
  use.law_same_under_jit(case, dtype)


@pytest.mark.slow
@every_row(use.law_same_under_vmap, fast=("float32",))
def test_same_under_vmap(case, dtype):
  use.law_same_under_vmap(case, dtype)


@every_row(use.law_same_under_scan, fast=())
def test_same_under_scan(case, dtype):
  use.law_same_under_scan(case, dtype)


@pytest.mark.slow
@every_row(use.law_same_on_a_mesh, fast=("float32",))
def test_same_on_a_mesh(case, dtype):
  use.law_same_on_a_mesh(case, dtype)


@pytest.mark.slow
@every_row(use.law_same_within_shard_map, fast=("float32",))
def test_same_within_shard_map(case, dtype):
  use.law_same_within_shard_map(case, dtype)


@pytest.mark.slow
@every_row(use.law_any_batch_size, fast=("float32",))
def test_any_batch_size(case, dtype):
  use.law_any_batch_size(case, dtype)


@pytest.mark.slow
@every_row(use.law_pullbacks_are_independent, fast=("float32",))
def test_pullbacks_are_independent(case, dtype):
  use.law_pullbacks_are_independent(case, dtype)


@every_row(use.law_params_bar_reads_no_params_up_to_its_own, fast=("float32",))
def test_params_bar_reads_no_params_up_to_its_own(case, dtype):
  use.law_params_bar_reads_no_params_up_to_its_own(case, dtype)


@every_row(use.law_residuals_hold_no_parameter, fast=("float32",))
def test_residuals_hold_no_parameter(case, dtype):
  use.law_residuals_hold_no_parameter(case, dtype)


@pytest.mark.slow
@every_row(use.law_jvp_of_backward_equals_autodiff, fast=("float64",))
def test_jvp_of_backward_equals_autodiff(case, dtype):
  use.law_jvp_of_backward_equals_autodiff(case, dtype)


@every_row(use.law_grad_of_backward_equals_autodiff, fast=())
def test_grad_of_backward_equals_autodiff(case, dtype):
  use.law_grad_of_backward_equals_autodiff(case, dtype)


def test_every_law_is_tested():
  """A law that is added to `laws.py` needs its test here."""
  tested = {name.replace("test_", "law_", 1) for name in globals() if name.startswith("test_")}
  assert set(laws.LAWS) <= tested


def test_row_ids_are_unique():
  ids = [case.id for case in CASES]
  assert len(ids) == len(set(ids))
