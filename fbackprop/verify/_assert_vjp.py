"""One line in a test: a rule that isn't proved right is an AssertionError with the whole report."""

from collections.abc import Callable
from typing import Any

from fbackprop.verify._vjp import vjp
from fbackprop.verify.report.report import Report


def assert_vjp(f: Callable[..., Any], *args: Any, **options: Any) -> Report:
  """Verifies a function's hand-written VJP, for a test.

  Args:
    f: carries a `jax.custom_vjp`, or is the reference of the rule `f_vjp=...`.
    *args: its arguments.
    **options: those of `vjp`: `f_vjp`, `level`, `seed`, `allowance`, `ties`, ...

  Returns:
    The report of a pass.

  Raises:
    AssertionError: the verdict isn't "pass"; no verdict is no pass. The message is the report.
    UnusableError: the function or its arguments can't be used.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def cube(x):
    ...   return x**3
    >>> def cube_forward(x):
    ...   return cube(x), x
    >>> def cube_backward(x, y_bar):
    ...   return (3 * x**2 * y_bar,)
    >>> cube.defvjp(cube_forward, cube_backward)
    >>> assert_vjp(cube, jnp.array([-1.5, 0.5, 2.0]), level="quick").ok
    True
  """
  __tracebackhide__ = True  # pytest then shows the report at the line of the test.
  report = vjp(f, *args, **options)
  if not report.ok:
    raise AssertionError(report.table())
  return report
