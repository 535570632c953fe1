"""What may enter a rule, checked when it is traced: shapes, dtypes, keys and structures.

Nothing broadcasts and nothing is converted silently. A message names the argument, what was
expected and what came. Values (NaN, labels out of range) are the business of whoever holds them
on the host: see `check_labels`, and `fbackprop.train`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOAT_MAX = float(np.finfo(np.float64).max)


class ShapeError(ValueError):
  """An array has another shape than the one that is needed."""


class DtypeError(TypeError):
  """An array, or an argument that should be one, has another type than the one that is needed."""


class StructureError(ValueError):
  """A tree of parameters isn't the one that the network's `init` makes."""


def describe(value: Any) -> str:
  """`float32[5, 10]` for an array, and its repr, or a part of it, for anything else."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}[{', '.join(str(d) for d in value.shape)}]"
  if hasattr(value, "forward") and hasattr(value, "name"):  # Its repr would be a page.
    return f"the {type(value).__name__} {value.name!r}"
  text = repr(value)
  return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def check_array(where: str, name: str, value: Any) -> None:
  """Refuses what isn't an array: a list, a number, None."""
  if not (hasattr(value, "shape") and hasattr(value, "dtype")):
    raise DtypeError(f"{where}: {name} must be an array, got {describe(value)}")


def check_floating(where: str, name: str, value: Any) -> None:
  """Refuses an array of integers, booleans or complex numbers."""
  check_array(where, name, value)
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise DtypeError(f"{where}: {name} must have a floating dtype, got {describe(value)}")


def check_arrays(where: str, name: str, x: Any) -> None:
  """Refuses what isn't an array of floats `[N, ...]`, or a tree of them with one N; by its leaf."""
  leaves = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in
            jax.tree_util.tree_leaves_with_path(x)]  # fmt: skip
  if not any(hasattr(leaf, "dtype") for _, leaf in leaves):  # A list of numbers is no such tree.
    raise DtypeError(
      f"{where}: {name} must be an array, got {describe(x)}; several inputs are a tuple or a dict "
      "of arrays"
    )
  for leaf_name, leaf in leaves:
    check_floating(where, leaf_name, leaf)
    if not leaf.shape:
      raise ShapeError(
        f"{where}: {leaf_name} must have the number N of examples in front, got {leaf_name} "
        f"{describe(leaf)}"
      )
    if leaf.shape[0] != leaves[0][1].shape[0]:
      raise ShapeError(
        f"{where}: {leaf_name} must have the {leaves[0][1].shape[0]} examples of {leaves[0][0]} "
        f"in front, got {describe(leaf)}"
      )


def example_count(x: Any) -> int:
  """N of an array `[N, ...]`, or of a tree of such arrays."""
  count: int = jax.tree.leaves(x)[0].shape[0]  # Not int(...): `jax.export` has symbolic ones.
  return count


def check_dtype(where: str, name: str, value: Any, dtype: Any) -> None:
  """Refuses an array of another dtype: nothing is promoted silently."""
  check_array(where, name, value)
  if value.dtype != dtype:
    raise DtypeError(f"{where}: {name} must have dtype {np.dtype(dtype)}, got {describe(value)}")


def check_shape(where: str, name: str, value: Any, shape: tuple[int | str, ...]) -> None:
  """Refuses another rank or another size; a letter in `shape` stands for any size."""
  check_array(where, name, value)
  fits = len(value.shape) == len(shape) and all(
    isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join(str(d) for d in shape)
    raise ShapeError(f"{where}: {name} must have shape [{wanted}], got {describe(value)}")


def check_same(where: str, names: tuple[str, str], a: Any, b: Any) -> None:
  """Refuses two arrays that differ in shape or dtype."""
  check_shape(where, names[1], b, tuple(a.shape))
  check_dtype(where, names[1], b, a.dtype)


def check_like(name: str, tree: Any, like: Any) -> None:
  """Refuses a tree of arrays of another structure, shape or dtype; the message names the leaf.

  Args:
    name: what an error calls the tree, as "fit: params".
    tree: the one that came.
    like: the one that is needed, of arrays or of their shapes.
  """
  wanted, got = (
    {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(each)}
    for each in (like, tree)
  )
  if wanted.keys() != got.keys():
    missing, extra = (", ".join(sorted(a.keys() - b.keys())) or "none"
                      for a, b in ((wanted, got), (got, wanted)))  # fmt: skip
    raise StructureError(f"{name} is of another network: missing {missing}; not expected {extra}")
  for path, leaf in wanted.items():
    where, _, what = f"{name}{path}".rpartition(": ")
    check_shape(where, what, got[path], leaf.shape)
    check_dtype(where, what, got[path], leaf.dtype)
  must, was = str(jax.tree.structure(like)), str(jax.tree.structure(tree))
  if must != was:
    raise StructureError(f"{name} must have the structure {must}, got {was}")


def check_key(where: str, key: Any) -> None:
  """Refuses what isn't one typed key: a seed, an old-style uint32 pair, a batch of keys."""
  is_key = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  if not is_key:
    raise DtypeError(f"{where}: key must be made by jax.random.key(seed), got {describe(key)}")
  if key.shape != ():
    raise ShapeError(f"{where}: key must be a single key, got {describe(key)}")


def check_optional_key(where: str, key: Any) -> None:
  """The same for a key that may be None, which means evaluation."""
  if key is not None:
    check_key(where, key)


def is_concrete(value: Any) -> bool:
  """Whether the values can be looked at now, that is, outside of a trace."""
  return not isinstance(value, jax.core.Tracer)


def check_size(where: str, name: str, value: Any) -> None:
  """Refuses a width that isn't an integer of at least one."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise DtypeError(f"{where}: {name} must be an integer, got {describe(value)}")
  if value < 1:
    raise ShapeError(f"{where}: {name} must be at least 1, got {value}")


def check_flag(where: str, name: str, value: object) -> None:
  """Refuses what isn't True or False: "no" is true to Python."""
  if not isinstance(value, bool | np.bool):
    raise DtypeError(f"{where}: {name} must be True or False, got {describe(value)}")


def check_callable(where: str, name: str, value: object) -> None:
  """Refuses what can't be called, before it is called."""
  if not callable(value):
    raise DtypeError(f"{where}: {name} must be a function, got {describe(value)}")


def check_number(
  where: str, name: str, value: object, least: float = -math.inf, most: float = math.inf
) -> None:
  """Refuses what isn't a finite number within bounds."""
  if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
    raise DtypeError(f"{where}: {name} must be a number, got {describe(value)}")
  # Compared in its own precision, what is float32 would have bounds that overflow there.
  value = float(value) if isinstance(value, np.floating) else value
  # An integer may be larger than any float: then it can't be converted, nor asked if it is finite.
  if not (-FLOAT_MAX <= value <= FLOAT_MAX and least <= value <= most):
    if most < math.inf:
      wanted = f"a number from {least} to {most}"
    else:
      wanted = "a finite number" + (f" of at least {least}" if least > -math.inf else "")
    raise ValueError(f"{where}: {name} must be {wanted}, got {value}")


def is_integer(value: Any) -> bool:
  """Whether it is an integer of Python or NumPy; True and False aren't."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_labels(
  where: str, labels: np.ndarray, classes: int, ignore_label: int | None = None
) -> None:
  """Refuses the first label outside of 0 ... classes − 1 that isn't `ignore_label`, by its row."""
  is_wrong = (labels < 0) | (labels >= classes)
  if ignore_label is not None:
    is_wrong &= labels != ignore_label
  wrong = np.flatnonzero(is_wrong)
  if wrong.size:
    raise ValueError(
      f"{where} must be labels from 0 to {classes - 1}, got {labels[wrong[0]]} in row {wrong[0]}"
    )


def check_float_dtype(where: str, dtype: Any) -> Any:
  """The dtype of parameters; refuses what isn't a floating dtype, by any of its names."""
  try:
    known = None if dtype is None else jnp.dtype(dtype)  # None would be NumPy's float64.
  except TypeError:
    known = None
  if known is None or not jnp.issubdtype(known, jnp.floating):
    raise DtypeError(
      f"{where}: dtype must be a floating dtype, such as jax.numpy.float32, got {dtype!r}"
    )
  return known


def check_available(where: str, dtype: Any) -> None:
  """Refuses float64 where JAX would make float32 of it, with no more than a warning."""
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise DtypeError(
      f"{where}: dtype {dtype} needs x64: call this within `with jax.enable_x64(True):`"
    )


def check_unit(where: str, name: str, value: Any, kind: type) -> None:
  """Refuses what isn't a Layer, a Loss or a Gate, whichever is needed."""
  if not isinstance(value, kind):
    raise DtypeError(f"{where}: {name} must be a {kind.__name__}, got {describe(value)}")
