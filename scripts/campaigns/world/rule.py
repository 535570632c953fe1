"""What a case of `scripts/verify_world.py` is: a rule of a public package, and arguments for it.

Cases are data. A package is imported only where its rule is verified, in a process of its own, so
that this module can be read without any of them. Arguments are drawn from a seed that the rule's
name gives: they don't change when another case is added.
"""

import importlib
import pkgutil
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Draw(NamedTuple):
  """An array that is drawn: uniformly in `[low, high)`, or by `of(rng, shape)`."""

  shape: tuple[int, ...]
  low: float = 0.0
  high: float = 1.0
  of: Callable[[np.random.Generator, tuple[int, ...]], Any] | None = None


class Rule(NamedTuple):
  """A hand-written rule of a package.

  Attributes:
    package: the package as it is installed, such as "optax==0.2.8".
    path: the function, such as "optax.projections:projection_simplex"; unique among the cases.
    args: its arguments: a tree with a `Draw` for each array that is drawn.
    kwargs: its arguments by keyword, likewise.
    options: those of `fb.verify.vjp` beside them; "verify": "jvp" chooses forward mode.
    make: makes the function out of what `path` names, where the rule lies deeper: a rule inside of
      a method, or a function that is made by another.
    note: what a reader should know; of a failure what is right, and how that is known.
    name: the name in the table, by default that of the path.
    finding: the script in findings/ that shows the failure alone, without its ending.
    x64: whether the package wants float64, which then is the dtype of the arguments.
  """

  package: str
  path: str
  args: Any = ()
  kwargs: dict[str, Any] = {}  # noqa: RUF012  # Never changed.
  options: dict[str, Any] = {}  # noqa: RUF012
  make: Callable[[Any], Callable[..., Any]] | None = None
  note: str = ""
  name: str = ""
  finding: str = ""
  x64: bool = False

  @property
  def key(self) -> str:
    """The key among the results."""
    return f"{self.package.partition('==')[0]} {self.name or self.path}"


def rules_of(module: str) -> Sequence[Rule]:
  """Return the cases of a module, its `RULES`."""
  found: Sequence[Rule] = importlib.import_module(module).RULES
  return found


def between(low: float, high: float, *shape: int) -> Draw:
  """Describe an array that is uniform in an interval, float32."""
  return Draw(shape, low, high)


def normal(*shape: int) -> Draw:
  """Describe an array of standard normal numbers, float32."""
  return Draw(shape, of=lambda rng, shape: rng.standard_normal(shape))


def increasing(low: float, high: float, *shape: int) -> Draw:
  """Describe an array whose rows increase."""
  return Draw(shape, of=lambda rng, shape: np.sort(rng.uniform(low, high, shape), axis=-1))


def positive_definite(size: int) -> Draw:
  """Describe a symmetric matrix with eigenvalues of at least 1."""

  def of(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    a = rng.standard_normal(shape)
    return a @ a.T / size + np.eye(size)

  return Draw((size, size), of=of)


def drawn(rule: Rule) -> tuple[tuple[Any, ...], dict[str, Any]]:
  """Return the arguments of a rule, drawn."""
  import jax
  import jax.numpy as jnp

  rng = np.random.default_rng(zlib.crc32(rule.key.encode()))

  def value(leaf: Any) -> Any:
    if not isinstance(leaf, Draw):
      return leaf
    whole = leaf.of(rng, leaf.shape) if leaf.of else rng.uniform(leaf.low, leaf.high, leaf.shape)
    return jnp.asarray(whole, jnp.float64 if rule.x64 else jnp.float32)

  given = (rule.args() if callable(rule.args) else rule.args, rule.kwargs)
  return jax.tree.map(value, given, is_leaf=lambda leaf: isinstance(leaf, Draw) or leaf is None)


def function_of(rule: Rule) -> Callable[..., Any]:
  """Import a rule's function."""
  found = pkgutil.resolve_name(rule.path)
  return rule.make(found) if rule.make else found
