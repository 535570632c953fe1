"""One entry of the bank: a function with a rule, which is wrong in one known way, or right.

A specimen is a decorated backward rule. The decorator names the function that it differentiates,
where it is called, and what is wrong with it:

  @bug(dense, (5, 4), (4, 3), (3,), leaves="b", causes="constant factor")
  def bias_mean(x, w, b, y_bar):
    return y_bar @ w.T, x.T @ y_bar, y_bar.mean(axis=0)

A specimen whose point is its form (state in a closure, a rule within a rule) is a decorated
function without arguments that returns the `Example`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import Wanted, draw

# What may stand before the colon of a cause.
KINDS = (
  "constant factor",  # Of a whole leaf: a sign, 2, N, 1/N (mean for sum), 1.000001.
  "zero",  # The whole leaf is zero, and shouldn't be.
  "transposed",
  "permuted",  # Rows or columns in another order.
  "subset of examples",  # Some examples are left out, or counted otherwise.
  "proportional to a parameter",  # Weight decay.
  "path",  # A path through the graph is missing, or is counted k times.
  "wrong point",  # A derivative at another value: the output, a neighbour's residual.
  "other function",  # The derivative of another function: gelu's tanh form.
  "stop_gradient",  # One of the reference was removed.
  "clipped",  # Entries are cut off at a value.
  "kink",
  "precision",  # Rounded to a narrower dtype on the way.
  "cotangent",  # Ignored, or not linear in it.
  "state",  # Depends on what was called before.
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
  """What `verify.vjp(f, *args, f_vjp=f_vjp, **options)` is called with.

  Attributes:
    f: carries a `custom_vjp`, or is the reference of `f_vjp`.
    args: its arguments.
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
    name: short and unique, words joined by "-".
    make: builds the example anew; nothing is computed at import.
    leaves: the leaves that may be named first, as "params/1/w"; () where the bug has no leaf, and
      for a right one.
    causes: the kinds of `KINDS` that are right to name; () of a right one.
    level: the lowest level of `vjp` that catches the bug: "standard" for what needs the points,
      sizes and transforms that "quick" leaves out.
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
  """Declare a rule to be wrong.

  Args:
    problem: the function that the rule differentiates, and its arguments as `draw` takes them;
      nothing, if the decorated function is one that makes the `Example`.
    causes: the kinds of `KINDS` that are right to name, separated by commas.
    leaves: the leaves that may be named first, separated by commas.
    level: the lowest level of `vjp` that catches the bug.
    options: of `example`.

  Returns:
    A decorator, which returns the `Specimen`: named after the function, with "-" for "_".
  """

  def declare(function: Function) -> Specimen:
    made = right(*problem, **options)(function)
    return made._replace(leaves=split(leaves), causes=split(causes), level=level)

  return declare


def right(*problem: Any, **options: Any) -> Callable[[Function], Specimen]:
  """Declare a rule to be right; takes and returns what `bug` does."""

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
  """Join a rule to the function that it differentiates.

  Args:
    reference: the function without a rule.
    rule: `rule(*residuals, y_bar) -> args_bar`.
    arguments: what `draw` draws.
    f_vjp: put the rule beside the function, as `f_vjp(*args) -> (y, pullback)`; by default a copy
      of the function carries it, by `jax.custom_vjp`.
    forward: `forward(*args) -> (y, residuals)`, `residuals` a tuple; by default it calls the
      reference and keeps all arguments.
    dtype: of the arguments that are given by their shape.
    options: of the `Example`.
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
