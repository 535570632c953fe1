"""`vjp` and `jvp`, which verify one rule, and `assert_vjp` and `assert_jvp`; their options."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import check_callable, check_flag, check_number, is_integer
from fbackprop.verify.arguments import hold_static, is_number
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.one_device import on_one_device
from fbackprop.verify.report import Report, UnusableError
from fbackprop.verify.verification import LEVELS, verify_call
from fbackprop.verify.witnesses.rule import Function, replaced


@on_one_device
def vjp(
  f: Function,
  *args: Any,
  f_vjp: Function | None = None,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "any",
  surrogate: bool = False,
  slope: Function | None = None,
  linear: bool = True,
  static: Sequence[int | str] = (),
  kwargs: Mapping[str, Any] | None = None,
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
) -> Report:
  """Verify the mathematics and the rounding of a hand-written VJP.

  Two verdicts. *Maths*: the rule is traced in float64 and compared, entry by entry, with autodiff
  of the function without its rule, within the rounding error of both, estimated by Monte Carlo
  arithmetic; where they differ, one-sided differences of the function decide. *Numerics*: the rule
  in its own dtype against that truth, in units in the last place and in standard deviations of the
  propagated rounding error. The mathematics is checked at many test points, on both sides of every
  comparison in the program, under jit, vmap, scan and remat, and in second order; properties that
  hold exactly are checked bitwise.

  Args:
    f: a function with custom rules at any depth (`jax.custom_vjp`, `custom_jvp`,
      `custom_gradient`, ...); the same function without them is the reference. Or the reference of
      `f_vjp`.
    *args: the arguments of `f`: pytrees. Float arrays are differentiated; leaves that are neither
      arrays nor numbers, and the arguments in `nondiff_argnums`, are held.
    f_vjp: the rule, `f_vjp(*args) -> (y, pullback)`, `pullback(y_bar) -> (arg_bar, ...)`, as
      `jax.vjp(f, *args)` is; None if f carries it.
    level: "quick" (a second), "standard" (ten seconds), "deep" (minutes).
    seed: the seed of all random draws.
    allowance: a factor of every bound.
    ties: "any" accepts every slope between the left and the right derivative at a kink; "reference"
      accepts only that of autodiff of f, as `jax.nn.relu` declares 0 at 0.
    surrogate: whether f's autodiff is meant to differ from its slope: a `stop_gradient` that
      changes values.
    slope: the function, of the same arguments, whose derivative the rule is meant to be: the
      identity for a straight-through rule.
    linear: whether the rule is meant to be linear in the cotangent. If not, as where it clips the
      cotangent, it is compared at cotangents of about 1e-6, where it should be.
    static: positions or names of more arguments to hold.
    kwargs: arguments by keyword; their float arrays are differentiated too.
    seconds: a time limit. The report then holds what is known by then, and lists the checks that
      weren't finished; it is no pass unless those at the arguments as given were. What JAX compiles
      and the rule itself are waited for.
    progress: called with the name of each check that begins, and of each test point that is done.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is invalid.

  Example:
    >>> @jax.custom_vjp
    ... def square(x):
    ...   return x**2
    >>> square.defvjp(lambda x: (x**2, x), lambda x, y_bar: (x * y_bar,))
    >>> report = vjp(square, jax.numpy.arange(3.0), level="quick")
    >>> report.verdict, report.findings[0].leaf, report.findings[0].cause
    ('fail', 'x', 'constant factor: 1/2 (match 0e+00)')

  References:
    Higham, "Accuracy and Stability of Numerical Algorithms", SIAM, 2002, chapter 3; Parker, "Monte
    Carlo arithmetic", UCLA CSD-970002 (1997).
  """
  return verify_options(
    "vjp", f, args, f_vjp, None, level=level, seed=seed, allowance=allowance, ties=ties,
    surrogate=surrogate, slope=slope, linear=linear, static=static, kwargs=kwargs, seconds=seconds,
    progress=progress,
  )  # fmt: skip


@on_one_device
def jvp(
  f: Function,
  *args: Any,
  f_jvp: Function | None = None,
  **options: Any,
) -> Report:
  """Verify the mathematics and the rounding of a hand-written JVP.

  The tangents of each argument are compared with those of the function without its rules, and must
  be linear; then the transposed rule is verified as by `vjp`, with all its checks.

  Args:
    f: a function with custom rules at any depth, or the reference of `f_jvp`.
    *args: the arguments of `f`, as for `vjp`.
    f_jvp: the rule, `f_jvp(primals, tangents) -> (y, y_dot)` with tuples of arguments, as
      `jax.jvp(f, primals, tangents)` is; the tangents of integers are float0. None if f carries it.
    **options: those of `vjp`, but `f_vjp`.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is invalid.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_jvp
    ... def square(x):
    ...   return x**2
    >>> @square.defjvp
    ... def square_jvp(primals, tangents):
    ...   return square(*primals), primals[0] * tangents[0]
    >>> report = jvp(square, jnp.arange(3.0), level="quick")
    >>> report.verdict, report.findings[0].leaf
    ('fail', 'x')
  """
  if "f_vjp" in options:
    raise TypeError("jvp: f_vjp is an option of vjp; give the rule as f_jvp")
  f_vjp = None
  if f_jvp is not None:
    check_callable("jvp", "f_jvp", f_jvp)
    check_call("jvp", "f_jvp(primals, tangents) -> (y, y_dot)", f_jvp, (args, args), {})
    f_vjp = functools.partial(transposed, f_jvp)
  return verify_options("jvp", f, args, f_vjp, f_jvp or functools.partial(jax.jvp, f), **options)


def assert_jvp(f: Function, *args: Any, **options: Any) -> Report:
  """Raise AssertionError unless a function's hand-written JVP passes `jvp`.

  Args:
    f: a function that contains a `jax.custom_jvp`, or the reference of the rule `f_jvp=...`.
    *args: the arguments of `f`.
    **options: those of `jvp`.

  Returns:
    The passing report.

  Raises:
    AssertionError: the verdict isn't "pass"; no verdict is no pass. The message is the report.
    UnusableError: the function or its arguments can't be used.
  """
  __tracebackhide__ = True
  return asserted(jvp(f, *args, **options))


def transposed(f_jvp: Function, *primals: Any) -> Any:
  """Return `(y, pullback)`, the pullback being the transpose of a JVP rule's tangents."""
  structure: Any
  leaves, structure = jax.tree.flatten(primals)
  numbers = [is_number(x) for x in leaves]
  floats = [i for i, x in enumerate(leaves) if numbers[i] and is_float(jnp.result_type(x))]
  zeros: list[Any] = [
    jnp.zeros_like(x) if i in floats
    else np.zeros(np.shape(x), jax.dtypes.float0) if numbers[i]
    else None
    for i, x in enumerate(leaves)
  ]  # fmt: skip

  def push(*tangents: Any) -> Any:
    return f_jvp(primals, structure.unflatten(replaced(zeros, floats, tangents)))[1]

  y, _ = f_jvp(primals, structure.unflatten(zeros))
  transpose = jax.linear_transpose(push, *(zeros[i] for i in floats))

  def pullback(y_bar: Any) -> Any:
    bars = replaced([None] * len(leaves), floats, transpose(y_bar))
    return structure.unflatten(bars)

  return y, pullback


def check_call(
  function: str, contract: str, rule: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
  """Raise an UnusableError unless a rule can be called as its contract says."""
  try:
    signature = inspect.signature(rule)
  except (TypeError, ValueError):  # Of something built in.
    return
  try:
    signature.bind(*args, **kwargs)
  except TypeError as error:
    shown = f"{getattr(rule, '__name__', type(rule).__name__)}{signature}"
    raise UnusableError(f"{function}: the rule is called as {contract}; {shown}: {error}") from None


def verify_options(
  function: str,
  f: Function,
  args: tuple[Any, ...],
  f_vjp: Function | None,
  f_jvp: Function | None,
  *,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "any",
  surrogate: bool = False,
  slope: Function | None = None,
  linear: bool = True,
  static: Sequence[int | str] = (),
  kwargs: Mapping[str, Any] | None = None,
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
) -> Report:
  """Validate the options of `vjp` or `jvp`, and verify."""
  check_callable(function, "f", f)
  if f_vjp is not None:
    check_callable(function, "f_vjp", f_vjp)
    if function == "vjp":
      check_call("vjp", "f_vjp(*args) -> (y, pullback)", f_vjp, args, kwargs or {})
  for name, value, choices in (("level", level, LEVELS), ("ties", ties, ("any", "reference"))):
    if value not in choices:
      raise ValueError(f"{function}: {name} must be one of {', '.join(choices)}, got {value!r}")
  if not is_integer(seed) or seed < 0:
    raise ValueError(f"{function}: seed must be an integer of at least 0, got {seed!r}")
  check_number(function, "allowance", allowance, 0.0)
  check_flag(function, "surrogate", surrogate)
  check_flag(function, "linear", linear)
  for option, given in (("slope", slope), ("progress", progress)):
    if given is not None:
      check_callable(function, option, given)
  if seconds is not None:
    check_number(function, "seconds", seconds, 0.0)
  call = hold_static(f, f_vjp, args, kwargs or {}, static)
  name = getattr(f, "__name__", type(f).__name__)
  return verify_call(
    name, call.f, call.args, call.f_vjp, slope=slope and call.wrap(slope), level=level, seed=seed,
    allowance=allowance, ties=ties, surrogate=surrogate, linear=linear,
    f_jvp=f_jvp and call.push(f_jvp), held=call.held, seconds=seconds, progress=progress,
  )  # fmt: skip


def assert_vjp(f: Function, *args: Any, **options: Any) -> Report:
  """Raise AssertionError unless a function's hand-written VJP passes `vjp`.

  Args:
    f: a function that contains a `jax.custom_vjp`, or the reference of the rule `f_vjp=...`.
    *args: the arguments of `f`.
    **options: those of `vjp`: `f_vjp`, `level`, `seed`, `allowance`, `ties`, ...

  Returns:
    The passing report.

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
  __tracebackhide__ = True  # pytest then shows the report at the test's line.
  return asserted(vjp(f, *args, **options))


def asserted(report: Report) -> Report:
  """Raise AssertionError with the report's table unless it passes."""
  __tracebackhide__ = True
  if not report.ok:
    raise AssertionError(report.table())
  return report
