"""The declaration of a law: a plain function of a row and a dtype, with what it applies to."""

import contextlib
import functools

import jax

DTYPES = ("float32", "float64")


def law(check=None, *, dtypes=DTYPES, fast=None, applies=None):
  """Declare a law, which runs with x64 on for float64, and off, as a user finds it, otherwise.

  Args:
    check: `check(case, dtype)` raises an AssertionError.
    dtypes: in which it is held against each row.
    fast: those of the fast suite; by default all. Nearly all of the time goes into compiling: a
      dtype that could hardly differ waits for CI, and so does a row that says that it is slow.
    applies: `applies(case, dtype)`, run with x64 on, is whether it holds for a row; by default for
      every row.
  """
  if check is None:
    return functools.partial(law, dtypes=dtypes, fast=fast, applies=applies)

  @functools.wraps(check)
  def run(case, dtype):
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
      check(case, dtype)

  run.dtypes, run.fast, run.applies = dtypes, dtypes if fast is None else fast, applies
  return run
