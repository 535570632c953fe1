"""The declaration of a law: a plain function of a row and a dtype, with its scope."""

import contextlib
import functools

import jax

DTYPES = ("float32", "float64")


def law(check=None, *, dtypes=DTYPES, fast=None, applies=None):
  """Declare a law, which runs with x64 on for float64, and otherwise off, the user's default.

  Args:
    check: `check(case, dtype)` raises an AssertionError.
    dtypes: the dtypes in which each row is tested.
    fast: the dtypes of the fast suite; by default all. Compilation takes nearly all of the time, so
      a dtype that is unlikely to differ is left to CI, and so is a slow row.
    applies: `applies(case, dtype)`, run with x64 on, returns whether the law applies to a row; by
      default it applies to every row.
  """
  if check is None:
    return functools.partial(law, dtypes=dtypes, fast=fast, applies=applies)

  @functools.wraps(check)
  def run(case, dtype):
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
      check(case, dtype)

  run.dtypes, run.fast, run.applies = dtypes, dtypes if fast is None else fast, applies
  return run
