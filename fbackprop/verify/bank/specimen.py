"""One entry of the bank: a function with a rule, which is wrong in one known way, or right."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
