"""What a rule is called with: a flat list of arrays and their names, and the same in float64."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import describe
from fbackprop.meshes import is_explicit, mesh_of
from fbackprop.verify.interpret.primitives import digits, is_float
from fbackprop.verify.report.findings import UnusableError

Leaves = list[Any]


class Signature(NamedTuple):
  """The arguments of a function as a list of arrays.

  Attributes:
    structures: the tree of each argument.
    names: of each leaf, as "params/1/w".
    dtypes: of each leaf.
    is_float: whether it has a cotangent.
    fixed: by their places, the leaves that are Python integers or booleans: they are never traced.
  """

  structures: tuple[Any, ...]
  names: tuple[str, ...]
  dtypes: tuple[Any, ...]
  is_float: tuple[bool, ...]
  fixed: dict[int, Any]

  @property
  def floats(self) -> list[int]:
    """The places of the leaves that have a cotangent."""
    return [i for i, real in enumerate(self.is_float) if real]

  @property
  def float_names(self) -> list[str]:
    """Their names."""
    return [self.names[i] for i in self.floats]

  @property
  def working(self) -> Any:
    """The narrowest of the floating dtypes: what is as wide as that isn't narrowed."""
    return min((self.dtypes[i] for i in self.floats), key=digits)

  def arguments(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments again, from their leaves."""
    leaves = [self.fixed.get(i, leaf) for i, leaf in enumerate(leaves)]
    found, start = [], 0
    for structure in self.structures:
      end = start + structure.num_leaves
      found.append(jax.tree.unflatten(structure, leaves[start:end]))
      start = end
    return tuple(found)

  def in_own_dtypes(self, leaves: Sequence[Any]) -> Leaves:
    """Leaves in the dtypes of the arguments as they were given."""
    return [
      jnp.asarray(leaf, dtype) if real else leaf
      for leaf, dtype, real in zip(leaves, self.dtypes, self.is_float, strict=True)
    ]


def signature_of(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Signature, Leaves]:
  """The signature of a call, and its leaves as arrays.

  Raises:
    UnusableError: a leaf is no array and no number, or none is a float; or on an Explicit mesh.
  """
  if is_explicit(jax.sharding.get_abstract_mesh()):
    raise UnusableError("a rule is verified on one device: call it outside of jax.set_mesh")
  names: list[str] = []
  leaves: Leaves = []
  structures = []
  fixed: dict[int, Any] = {}
  for name, arg in zip(parameter_names(f, len(args)), args, strict=True):
    with_paths, structure = jax.tree_util.tree_flatten_with_path(arg)
    structures.append(structure)
    for path, leaf in with_paths:
      names.append("/".join([name, *(entry_name(entry) for entry in path)]))
      if isinstance(leaf, bool | int):
        fixed[len(leaves)] = leaf
      leaves.append(as_array(names[-1], leaf))
  dtypes = tuple(leaf.dtype for leaf in leaves)
  real = tuple(is_float(dtype) for dtype in dtypes)
  if not any(real):
    got = ", ".join(f"{n} {describe(x)}" for n, x in zip(names, leaves, strict=True)) or "nothing"
    raise UnusableError(f"args must hold an array of floats, to be differentiated by, got {got}")
  return Signature(tuple(structures), tuple(names), dtypes, real, fixed), leaves


def as_array(name: str, leaf: Any) -> Any:
  """A leaf as an array; its values aren't touched."""
  if isinstance(leaf, jax.core.Tracer):
    raise UnusableError(f"args must hold values, got {name} traced: call it outside of jit")
  if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
    raise UnusableError(f"args must hold arrays and numbers, got {name} {describe(leaf)}")
  try:
    array = jnp.asarray(leaf)
  except Exception as error:  # Of objects, a mask, an integer that is too large: JAX has none.
    reason = (str(error).strip().splitlines() or [""])[0]
    raise UnusableError(f"args must hold arrays that JAX takes: {name}: {reason}") from error
  if is_explicit(mesh_of(array)):
    raise UnusableError(
      f"a rule is verified on one device, and {name} lives on a mesh with Explicit axes: give "
      f"jax.device_get of it"
    )
  if array.is_deleted():
    raise UnusableError(f"args must hold values, but the buffer of {name} was deleted")
  if jnp.issubdtype(array.dtype, np.complexfloating):
    raise UnusableError(f"complex numbers aren't supported, got {name} {describe(array)}")
  return array


def parameter_names(f: Callable[..., Any], count: int) -> list[str]:
  """The names of the positional parameters; "args/0" and so on where there are none."""
  try:
    parameters = list(inspect.signature(f).parameters.values())
  except (TypeError, ValueError):
    parameters = []
  positional = [
    p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  return [positional[i] if i < len(positional) else f"args/{i}" for i in range(count)]


def entry_name(entry: Any) -> str:
  """One step of a path: a key, an index or a field."""
  return str(getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", entry))))


def wide(leaves: Sequence[Any]) -> Leaves:
  """The same numbers, floats in NumPy's float64."""
  return [np.asarray(x, np.float64) if is_float(x.dtype) else x for x in leaves]


def cotangent_like(rng: np.random.Generator, outputs: Sequence[Any]) -> Leaves:
  """Standard normal numbers of the shapes of float outputs; nothing for the others."""
  return [
    rng.normal(size=o.shape) if is_float(o.dtype) else np.zeros(o.shape, jax.dtypes.float0)
    for o in outputs
  ]


def with_float0(outputs: Sequence[Any], y_bar: Sequence[Any]) -> Leaves:
  """Cotangents of float outputs, with those of the others between them."""
  own = iter(y_bar)
  return [next(own) if is_float(o.dtype) else np.zeros(o.shape, jax.dtypes.float0) for o in outputs]
