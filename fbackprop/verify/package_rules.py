"""The rules of a package that somebody installed: found in its modules, verified at drawn values.

Every module is imported, and each `jax.custom_vjp`, `custom_jvp` and `custom_gradient` among its
names, and among those of its classes, is a rule; so is a function around one, as of `jax.jit`. A
rule made by a function, when that is called, isn't seen.

What a rule takes is found by trial: the same small shape for each argument, then other shapes for
some, of normal numbers, then of positive ones, then of shares below 1, until the function itself
accepts them, and its results are finite. Arguments by default remain so; what isn't differentiated
is a small integer. That says nothing about what the arguments mean: a rule for symmetric matrices
alone fails at these, so a failure is to be confirmed with arguments of one's own.
"""

import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify import _vjp
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import Report, UnusableError, shape_of
from fbackprop.verify.witnesses.rule import raised

SHAPES = ((5,), (), (4, 3), (3, 3))
# The most arguments whose shapes are tried one by one.
MOST_MIXED = 3
# Each draws numbers of a shape.
NUMBERS: tuple[Callable[[np.random.Generator, tuple[int, ...]], Any], ...] = (
  lambda rng, shape: rng.standard_normal(shape),
  lambda rng, shape: rng.uniform(0.5, 1.5, shape),
  lambda rng, shape: rng.uniform(0.1, 0.9, shape),
)
# The values tried of arguments that aren't differentiated: an order, or an axis.
HELD = (2, 0)
# A module of tests has rules that are meant to be wrong.
OF_TESTS = ("tests", "test", "testing", "conftest", "__main__")


class Rule(NamedTuple):
  """A rule, and its name, such as "package.module:f"."""

  name: str
  function: Any


class Rules(NamedTuple):
  """The rules of a package.

  Attributes:
    rules: in the order of their names.
    not_imported: the modules whose import raises, each with its error.
  """

  rules: tuple[Rule, ...]
  not_imported: dict[str, str]


class Outcome(NamedTuple):
  """What is known of a rule.

  Attributes:
    report: its report; None if no arguments were found for it.
    arguments: the shapes of the drawn arguments, or why there are none.
  """

  report: Report | None
  arguments: str


def rules_of(package: str) -> Rules:
  """Find the rules of a package, or of a module.

  Raises:
    Exception: importing the package itself raises.
  """
  root = import_module(package)
  found: dict[int, Rule] = {}
  not_imported: dict[str, str] = {}
  for name in (package, *submodules(root)):
    try:
      module = import_module(name)
    except (Exception, SystemExit) as error:
      not_imported[name] = raised(error)
      continue
    for path, value in names_in(module):
      if is_rule(value):
        found.setdefault(id(value), Rule(f"{name}:{path}", value))
  return Rules(tuple(sorted(found.values(), key=lambda rule: rule.name)), not_imported)


def submodules(root: ModuleType) -> Iterator[str]:
  """Yield the names of the modules in a package, at any depth, but those of tests."""
  paths = getattr(root, "__path__", None)
  for module in pkgutil.iter_modules(paths, f"{root.__name__}.") if paths else ():
    own = module.name.rpartition(".")[2]
    if own in OF_TESTS or own.startswith("test_") or own.endswith("_test"):
      continue
    yield module.name
    if module.ispkg:
      try:
        inner = import_module(module.name)
      except (Exception, SystemExit):  # It is imported again, and its error reported, later.
        continue
      yield from submodules(inner)


def names_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
  """Yield the names that a module defines, and those of its classes, with their values."""
  for name, value in list(vars(module).items()):
    yield name, value
    if isinstance(value, type) and value.__module__ == module.__name__:
      for own, part in list(vars(value).items()):
        yield f"{name}.{own}", getattr(part, "__func__", part)


def is_rule(value: Any) -> bool:
  """Return whether a value is a custom rule, or a function around one."""
  for _ in range(3):
    if isinstance(value, jax.custom_vjp | jax.custom_jvp):
      return has_rule(value)
    value = inspect.getattr_static(value, "__wrapped__", None)
  return False


def has_rule(value: Any) -> bool:
  """Return whether the rule is defined, as by `defvjp`."""
  return (getattr(value, "fwd", None) or getattr(value, "jvp", None)) is not None


def verify_rule(rule: Rule, seed: int = 0, **options: Any) -> Outcome:
  """Verify a rule at drawn arguments, if there are any, with the options of `vjp`."""
  try:
    args = drawn_arguments(rule.function, seed)
  except UnusableError as error:
    return Outcome(None, str(error))
  shapes = ", ".join(shape_of(x.shape) if isinstance(x, jax.Array) else f"{x}" for x in args)
  verify = _vjp.jvp if isinstance(rule.function, jax.custom_jvp) else _vjp.vjp
  try:
    report = verify(rule.function, *args, seed=seed, **options)
  except UnusableError as error:
    return Outcome(None, str(error))
  return Outcome(report._replace(name=rule.name), f"drawn: {shapes}")


def drawn_arguments(function: Callable[..., Any], seed: int = 0) -> tuple[Any, ...]:
  """Return arguments that a function accepts, and at which its results are finite.

  Raises:
    UnusableError: none are found; the message says what the last ones gave.
  """
  are_held = arguments_of(function)
  last = "no floats come out"
  trials = itertools.product(NUMBERS, shapes_to_try(are_held.count(False)), HELD)
  for draw, shapes, held in trials:
    rng, own = np.random.default_rng([seed, 12]), iter(shapes)
    args = tuple(
      held if is_held else jnp.asarray(draw(rng, next(own)), jnp.float32) for is_held in are_held
    )
    try:
      outputs = jax.tree.leaves(jax.eval_shape(partial(called, function, args), *floats_of(args)))
      if not any(is_float(y.dtype) for y in outputs):
        continue
      outputs = jax.tree.leaves(function(*args))
    except Exception as error:
      last = raised(error)
      continue
    if all(np.isfinite(np.asarray(y)).all() for y in outputs if is_float(y.dtype)):
      return args
    last = "its results aren't finite"
  raise UnusableError(f"no arguments found: {last}")


def floats_of(args: tuple[Any, ...]) -> list[Any]:
  """Return the arrays among arguments."""
  return [x for x in args if isinstance(x, jax.Array)]


def called(function: Callable[..., Any], args: tuple[Any, ...], *floats: Any) -> Any:
  """Call a function with other arrays."""
  own = iter(floats)
  return function(*(next(own) if isinstance(x, jax.Array) else x for x in args))


def arguments_of(function: Callable[..., Any]) -> list[bool]:
  """Return of each argument without a default whether it is held, and not differentiated.

  Raises:
    UnusableError: it takes none, or any number, or some by keyword alone.
  """
  try:
    parameters = list(inspect.signature(inner(function)).parameters.values())
  except (TypeError, ValueError) as error:
    raise UnusableError("its signature isn't known") from error
  positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  needed = [p for p in parameters if p.default is inspect.Parameter.empty]
  others = [p.name for p in needed if p.kind not in positional]
  if others or not needed:
    raise UnusableError(f"what it takes as {others[0]} isn't known" if others else "no arguments")
  static = getattr(function, "nondiff_argnums", ())
  return [i in static for i, p in enumerate(parameters) if p in needed]


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
  """Return the function that `jax.custom_gradient` was given, or the function itself.

  What it returns takes any number of arguments, and closes over that function.
  """
  outer: Any = getattr(function, "fun", None)
  code = getattr(outer, "__code__", None)  # Its own name may be that of the given function.
  if not getattr(code, "co_qualname", "").startswith("custom_gradient.<locals>"):
    return function
  held = inspect.getclosurevars(outer).nonlocals.values()
  return next((value for value in held if callable(value)), function)


def shapes_to_try(count: int) -> Iterable[tuple[tuple[int, ...], ...]]:
  """Return the shapes of all arguments, the likely ones first."""
  alike = [(shape,) * count for shape in SHAPES]
  mixed = itertools.product(SHAPES, repeat=count) if 1 < count <= MOST_MIXED else ()
  return list(dict.fromkeys([*alike, *mixed]))
