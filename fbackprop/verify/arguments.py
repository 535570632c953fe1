"""Static arguments: what a function takes beside arrays is held, and never traced.

A rule may take a string, a callable, a dtype, a configuration, or a Python number in a position of
`nondiff_argnums`. They are taken out of the arguments, where the rest of the verifier sees None,
and put back at each call.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.verify.report import UnusableError
from fbackprop.verify.witnesses.rule import parameter_names, path_name

Function = Callable[..., Any]


class Call(NamedTuple):
  """A call whose arguments are arrays alone.

  Attributes:
    f, f_vjp: the function and its rule, of `args`.
    args: the arguments, with None for each static leaf.
    held: the paths of the numbers that are held, though they are floats.
    wrap: makes a function of the original arguments one of `args`.
    push: likewise a rule in forward mode, of tuples of them.
  """

  f: Function
  f_vjp: Function | None
  args: tuple[Any, ...]
  held: tuple[str, ...] = ()
  wrap: Callable[[Function], Function] = lambda function: function
  push: Callable[[Function], Function] = lambda f_jvp: f_jvp


def hold_static(
  f: Function,
  f_vjp: Function | None,
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  static: Sequence[int | str],
) -> Call:
  """Take the static leaves out of the arguments of a call, and name keywords as arguments.

  Static are leaves that are neither arrays nor numbers; the arguments named by `static`; those that
  a `custom_vjp` or `custom_jvp` declares as `nondiff_argnums`; and Python numbers that f doesn't
  accept traced, as a `jax.jit` with `static_argnums` or a rule deeper inside.

  Args:
    f, f_vjp: the function and its rule, or None.
    args, kwargs: the arguments, positional and by name; floats among both are differentiated.
    static: positions or names of arguments to be held.

  Raises:
    UnusableError: `static` names no argument.
  """
  names = [*parameter_names(f, len(args)), *kwargs]
  values, count = [*args, *kwargs.values()], len(args)
  chosen = set(getattr(f, "nondiff_argnums", ()) or ())
  for which in static:
    place = which if isinstance(which, int) else names.index(which) if which in names else None
    if place is None or not -count <= place < len(names):
      raise UnusableError(
        f"static must hold positions or names of {', '.join(names)}, got {which!r}"
      )
    chosen.add(place % len(names))
  structure: Any
  paths, structure = jax.tree_util.tree_flatten_with_path(values)
  leaves = [leaf for _, leaf in paths]
  is_static = [path[0].idx in chosen or not is_number(leaf) for path, leaf in paths]
  numbers = [i for i, leaf in enumerate(leaves) if isinstance(leaf, float) and not is_static[i]]
  if numbers and not is_traceable(f, leaves, is_static, structure, count, list(kwargs)):
    for group in [*([i] for i in numbers), numbers]:
      tried = [own or i in group for i, own in enumerate(is_static)]
      if is_traceable(f, leaves, tried, structure, count, list(kwargs)):
        is_static = tried
        break
  if not any(is_static) and not kwargs:
    return Call(f, f_vjp, args)

  def split(values: Any) -> Any:
    """Return the values with None for each static leaf."""
    found = structure.flatten_up_to(values)
    return structure.unflatten([None if s else x for s, x in zip(is_static, found, strict=True)])

  def filled(own: Sequence[Any], others: Sequence[Any] = leaves) -> Any:
    """Return the values, with those of `others` for static leaves."""
    rest = iter(jax.tree.leaves(list(own)))
    return structure.unflatten(
      [x if s else next(rest) for s, x in zip(is_static, others, strict=True)]
    )

  def called(function: Function) -> Function:
    def with_static(*own: Any) -> Any:
      whole = filled(own)
      return function(*whole[:count], **dict(zip(kwargs, whole[count:], strict=True)))

    # A name such as "args/0", of an argument without a parameter of its own, is none in Python.
    own_names = (name.replace("/", "_") for name in names)
    parameters = [inspect.Parameter(p, inspect.Parameter.POSITIONAL_ONLY) for p in own_names]
    with_static.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_static.__name__ = getattr(function, "__name__", type(function).__name__)
    return with_static

  def rule(*own: Any) -> Any:
    assert f_vjp is not None
    found = called(f_vjp)(*own)
    if not (isinstance(found, tuple) and len(found) == 2 and callable(found[1])):
      return found
    y, pull = found

    def pullback(y_bar: Any) -> Any:
      bars = pull(y_bar)
      if isinstance(bars, tuple | list) and len(bars) == len(values):
        bars = tuple(
          None if not jax.tree.leaves(part) else bar for part, bar in zip(own, bars, strict=True)
        )
      return bars

    return y, pullback

  def pushed(f_jvp: Function) -> Function:
    def with_static(primals: Any, tangents: Any) -> Any:
      # A static leaf has no tangent: the function of the others is pushed forward.
      if isinstance(f_jvp, functools.partial) and f_jvp.func is jax.jvp:
        return jax.jvp(called(f), primals, tangents)
      return f_jvp(filled(primals), filled(tangents, [None] * len(leaves)))

    return with_static

  held = [
    path_name((names[path[0].idx], *path[1:]))
    for (path, leaf), own in zip(paths, is_static, strict=True)
    if own and is_number(leaf) and np.issubdtype(np.result_type(leaf), np.floating)
  ]
  own_rule = None if f_vjp is None else rule
  return Call(called(f), own_rule, tuple(split(values)), tuple(held), called, pushed)


def is_number(leaf: Any) -> bool:
  """Return whether a leaf is an array or a number, possibly a tracer."""
  return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)


def is_traceable(
  f: Function,
  leaves: Sequence[Any],
  is_static: Sequence[bool],
  structure: Any,
  count: int,
  names: Sequence[str],
) -> bool:
  """Return whether f accepts tracers for the leaves that aren't static."""

  def call(*traced: Any) -> Any:
    rest = iter(traced)
    full = [
      x if s or isinstance(x, bool | int) else next(rest)
      for s, x in zip(is_static, leaves, strict=True)
    ]
    whole = structure.unflatten(full)
    return f(*whole[:count], **dict(zip(names, whole[count:], strict=True)))

  moving = [
    x for s, x in zip(is_static, leaves, strict=True) if not s and not isinstance(x, bool | int)
  ]
  try:
    jax.eval_shape(call, *moving)
  except Exception:  # Any exception: it may also be the function's own.
    return False
  return True
