"""Specimens of the bank: functions with a rule that is wrong in one known way, or right.

A specimen is a decorated backward rule. The decorator names the function that it differentiates,
its arguments, and the expected findings:

  @bug(dense, (5, 4), (4, 3), (3,), leaves="b", causes="constant factor")
  def bias_mean(x, w, b, y_bar):
    return y_bar @ w.T, x.T @ y_bar, y_bar.mean(axis=0)

A specimen that depends on its form (state in a closure, a rule within a rule) is a decorated
function without arguments that returns the `Example`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import Wanted, draw

# The kinds of causes: the text before the colon.
KINDS = (
  "constant factor",  # A whole leaf's: a sign, 2, N, 1/N (mean for sum), 1.000001.
  "zero",  # The whole leaf is wrongly zero.
  "transposed",
  "permuted",  # Rows or columns in another order.
  "subset of examples",  # Some examples are omitted, or counted with another weight.
  "proportional to a parameter",  # Weight decay.
  "path",  # A path through the graph is missing, or counted k times.
  "wrong point",  # A derivative at another value: the output, a neighbour's residual.
  "other function",  # The derivative of another function: gelu's tanh form.
  "stop_gradient",  # A stop_gradient of the reference was removed.
  "clipped",  # Entries are cut off at a value.
  "kink",
  "precision",  # Rounded to a narrower dtype on the way.
  "cotangent",  # Ignored, or used nonlinearly.
  "state",  # Depends on earlier calls.
  "mode",  # Wrong only under jit, vmap, scan, or in second order.
  "structure",
  "dtype",
  "no gradient",  # None for a float leaf.
  "raises",
  "not finite",
  "forward",  # The rule's output isn't the function's.
  "semantic",  # A straight-through rule that wasn't declared.
)


class Example(NamedTuple):
  """The arguments of `verify.vjp(f, *args, f_vjp=f_vjp, **options)`.

  Attributes:
    f: a function that contains a `custom_vjp`, or the reference of `f_vjp`.
    args: the arguments of `f`.
    f_vjp: `f_vjp(*args) -> (y, pullback)`, or None.
    options: more keywords, such as a tie policy.
  """

  f: Callable[..., Any]
  args: tuple[Any, ...]
  f_vjp: Callable[..., Any] | None = None
  options: Mapping[str, Any] = {}


class Specimen(NamedTuple):
  """A planted bug, or a correct and unusual implementation.

  Attributes:
    name: a short, unique name, its words joined by "-".
    make: builds a new example; nothing is computed at import.
    leaves: the leaves that may be named first, such as "params/1/w"; () where the bug has no leaf,
      and for a right rule.
    causes: the acceptable kinds of cause, of `KINDS`; () for a right rule.
    level: the lowest level of `vjp` that catches the bug: "standard" for a bug that needs the
      points, sizes and transformations that "quick" omits.
  """

  name: str
  make: Callable[[], Example]
  leaves: tuple[str, ...] = ()
  causes: tuple[str, ...] = ()
  level: str = "quick"


Function = Callable[..., Any]


def bug(
  *problem: Any, causes: str, leaves: str = "", level: str = "quick", **options: Any
) -> Callable[[Function], Specimen]:
  """Declare a wrong rule.

  Args:
    problem: the function that the rule differentiates, and its arguments as `draw` takes them;
      nothing, if the decorated function returns the `Example`.
    causes: the acceptable kinds of cause, of `KINDS`, separated by commas.
    leaves: the leaves that may be named first, separated by commas.
    level: the lowest level of `vjp` that catches the bug.
    options: the options of `example`.

  Returns:
    A decorator, which returns the `Specimen`: named after the function, with "-" for "_".
  """

  def declare(function: Function) -> Specimen:
    made = right(*problem, **options)(function)
    return made._replace(leaves=split(leaves), causes=split(causes), level=level)

  return declare


def right(*problem: Any, **options: Any) -> Callable[[Function], Specimen]:
  """Declare a right rule, with the arguments and the result of `bug`."""

  def declare(function: Function) -> Specimen:
    @functools.wraps(function)
    def make() -> Example:
      if not problem:
        made: Example = function()
        return made
      reference, *arguments = problem
      return example(reference, function, *arguments, **options)

    return Specimen(function.__name__.replace("_", "-"), make)

  return declare


def split(words: str) -> tuple[str, ...]:
  """Split at commas."""
  return tuple(words.split(", ")) if words else ()


def example(
  reference: Function,
  rule: Function,
  *arguments: Wanted,
  f_vjp: bool = False,
  forward: Function | None = None,
  dtype: Any = jnp.float32,
  **options: Any,
) -> Example:
  """Combine a rule with the function that it differentiates.

  Args:
    reference: the function without a rule.
    rule: `rule(*residuals, y_bar) -> args_bar`.
    arguments: the arguments as `draw` takes them.
    f_vjp: whether to return the rule separately, as `f_vjp(*args) -> (y, pullback)`; by default a
      copy of the function contains it, by `jax.custom_vjp`.
    forward: `forward(*args) -> (y, residuals)`, `residuals` a tuple; by default it calls the
      reference and keeps all arguments.
    dtype: the dtype of the arguments that are given by their shape.
    options: the options of the `Example`.
  """

  def keep_arguments(*args):
    return reference(*args), args

  forward = forward or keep_arguments

  def with_pullback(*args):
    y, residuals = forward(*args)
    return y, functools.partial(rule, *residuals)

  def backward(residuals, y_bar):
    return rule(*residuals, y_bar)

  args = draw(*arguments, dtype=dtype)
  if f_vjp:
    return Example(reference, args, with_pullback, options)
  f = jax.custom_vjp(reference)
  f.defvjp(forward, backward)
  return Example(f, args, None, options)
