"""Argument checks at trace time: shapes, dtypes, keys and structures.

Nothing is broadcast or converted silently. A message names the argument, the expected value and the
value received; see `errors`. Values (NaN, labels out of range) are only checked where they are
available on the host: see `check_labels`, and `fbackprop.train`.
"""

from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.errors import ArgumentError as ArgumentError
from fbackprop.errors import DtypeError as DtypeError
from fbackprop.errors import RangeError as RangeError
from fbackprop.errors import ShapeError as ShapeError
from fbackprop.errors import StructureError as StructureError
from fbackprop.errors import check_that as check_that
from fbackprop.errors import describe as describe
from fbackprop.ranges import FLOAT_MAX as FLOAT_MAX
from fbackprop.ranges import Range, check_range


def check_array(where: str, name: str, value: Any) -> None:
  """Raise a DtypeError unless a value is an array, and not a list, a number or None."""
  check_that(where, name, value, hasattr(value, "shape") and hasattr(value, "dtype"), "be an array")


def check_floating(where: str, name: str, value: Any) -> None:
  """Raise a DtypeError unless an array is floating, and not integer, boolean or complex."""
  check_array(where, name, value)
  check_that(where, name, value, jnp.issubdtype(value.dtype, jnp.floating), "have a floating dtype")


def check_arrays(where: str, name: str, x: Any) -> None:
  """Raise unless all leaves of a pytree are floating arrays `[N, ...]` with the same N."""
  leaves = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in
            jax.tree_util.tree_leaves_with_path(x)]  # fmt: skip
  if not any(hasattr(leaf, "dtype") for _, leaf in leaves):  # Such as a list of Python numbers.
    raise DtypeError(
      f"must be an array, got {describe(x)}; several inputs are a tuple or a dict of arrays",
      name, where,
    )  # fmt: skip
  for leaf_name, leaf in leaves:
    check_floating(where, leaf_name, leaf)
    if not leaf.shape:
      problem = f"must have the number N of examples in front, got {leaf_name} {describe(leaf)}"
      raise ShapeError(problem, leaf_name, where)
    n = leaves[0][1].shape[0]
    wanted = f"have the {n} examples of {leaves[0][0]} in front"
    check_that(where, leaf_name, leaf, leaf.shape[0] == n, wanted, ShapeError)


def example_count(x: Any) -> int:
  """Return N, the leading size of an array `[N, ...]` or of a pytree of such arrays."""
  return jax.tree.leaves(x)[0].shape[0]  # No int(...): `jax.export` has symbolic sizes.


def check_dtype(where: str, name: str, value: Any, dtype: Any) -> None:
  """Raise a DtypeError unless an array has this dtype; nothing is promoted silently."""
  check_array(where, name, value)
  if value.dtype != dtype:
    raise DtypeError(f"must have dtype {np.dtype(dtype)}, got {describe(value)}", name, where)


def check_shape(
  where: str, name: str, value: Any, shape: tuple[int | str, ...], dtype: Any = None
) -> None:
  """Raise unless an array has this shape, and this dtype if one is given.

  A letter in `shape` matches any size.
  """
  check_array(where, name, value)
  sizes = zip(shape, value.shape, strict=False)
  fits = len(value.shape) == len(shape) and all(isinstance(a, str) or a == b for a, b in sizes)
  check_that(where, name, value, fits, f"have shape [{', '.join(map(str, shape))}]", ShapeError)
  if dtype is not None:
    check_dtype(where, name, value, dtype)


def check_like(where: str, name: str, tree: Any, like: Any) -> None:
  """Raise unless two pytrees of arrays agree in structure, shapes and dtypes; errors name the leaf.

  Args:
    where, name: the function and the name of the pytree in an error.
    tree: the pytree.
    like: the expected pytree, of arrays or of their shapes.
  """
  wanted, got = (
    {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(each)}
    for each in (like, tree)
  )
  if wanted.keys() != got.keys():
    missing, extra = (", ".join(sorted(a.keys() - b.keys())) or "none"
                      for a, b in ((wanted, got), (got, wanted)))  # fmt: skip
    problem = f"is of another network: missing {missing}; not expected {extra}"
    raise StructureError(problem, name, where)
  for path, leaf in wanted.items():
    check_shape(where, name + path, got[path], leaf.shape, leaf.dtype)
  must, was = str(jax.tree.structure(like)), str(jax.tree.structure(tree))
  if must != was:
    raise StructureError(f"must have the structure {must}, got {was}", name, where)


def check_key(where: str, key: Any) -> None:
  """Raise unless a value is one typed key; seeds, uint32 pairs and batches of keys are refused."""
  is_key = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  check_that(where, "key", key, is_key, "be made by jax.random.key(seed)")
  check_that(where, "key", key, key.shape == (), "be a single key", ShapeError)


def check_optional_key(where: str, key: Any) -> None:
  """Raise unless a value is one typed key, or None, which means evaluation mode."""
  if key is not None:
    check_key(where, key)


def is_concrete(value: Any) -> bool:
  """Return whether an array has a concrete value, that is, isn't a tracer."""
  return not isinstance(value, jax.core.Tracer)


def check_size(where: str, name: str, value: Any) -> None:
  """Raise unless a layer's width is an integer of at least 1."""
  try:
    check_range(where, name, value, Range(int, 1))
  except RangeError as error:
    raise ShapeError(error.problem, name, where) from None


def check_flag(where: str, name: str, value: object) -> None:
  """Raise a DtypeError unless a value is True or False; the string "no" is truthy in Python."""
  check_that(where, name, value, isinstance(value, bool | np.bool), "be True or False")


def check_callable(where: str, name: str, value: object) -> None:
  """Raise a DtypeError unless a value is callable."""
  check_that(where, name, value, callable(value), "be a function")


def check_number(where: str, name: str, value: object, *ends: Any) -> None:
  """Raise unless a value is a finite number, from the first end and to the second, if given."""
  check_range(where, name, value, Range(float, *ends))


def is_integer(value: Any) -> bool:
  """Return whether a value is a Python or NumPy integer; booleans aren't."""
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_labels(
  where: str, name: str, labels: np.ndarray, classes: int, ignore_label: int | None = None
) -> None:
  """Raise a RangeError unless all labels are in 0 ... classes − 1 or equal `ignore_label`.

  The message names the first invalid row.

  Args:
    where, name: the function and the name of the labels in an error.
    labels: `[N]`.
    classes: the number of classes.
    ignore_label: a further label that is allowed.
  """
  is_wrong = (labels < 0) | (labels >= classes)
  if ignore_label is not None:
    is_wrong &= labels != ignore_label
  wrong = np.flatnonzero(is_wrong)
  if wrong.size:
    got = f"{labels[wrong[0]]} in row {wrong[0]}"
    raise RangeError(f"must be labels from 0 to {classes - 1}, got {got}", name, where)


def check_float_dtype(where: str, dtype: Any) -> Any:
  """Return the floating dtype of that name or type; raise a DtypeError for any other."""
  known = None
  with suppress(TypeError):
    known = None if dtype is None else jnp.dtype(dtype)  # np.dtype(None) is float64.
  if known is None or not jnp.issubdtype(known, jnp.floating):
    problem = f"must be a floating dtype, such as jax.numpy.float32, got {dtype!r}"
    raise DtypeError(problem, "dtype", where)
  return known


def check_available(where: str, dtype: Any) -> None:
  """Raise a DtypeError for float64 without x64; JAX would make it float32 with a mere warning."""
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    problem = f"{dtype} needs x64: call this within `with jax.enable_x64(True):`"
    raise DtypeError(problem, "dtype", where)


def check_params(
  where: str, params: Any, kind: Any, shapes: tuple[tuple[int, ...] | None, ...]
) -> None:
  """Raise unless parameters are a NamedTuple of arrays of these shapes and one floating dtype.

  Args:
    where: the layer in an error.
    params: the parameters.
    kind: the NamedTuple.
    shapes: the shape of each field; None for a bias that there is none of.
  """
  wanted = f"be {kind.__name__}({', '.join(kind._fields)})"
  check_that(where, "params", params, isinstance(params, kind), wanted, StructureError)
  for field, leaf, shape in zip(kind._fields, params, shapes, strict=True):
    name = f"params.{field}"
    if shape is None:
      check_that(where, name, leaf, leaf is None, "be None, as this layer has none", StructureError)
    else:
      check_shape(where, name, leaf, shape, None if leaf is params[0] else params[0].dtype)
      check_floating(where, name, leaf)


def check_unit(where: str, name: str, value: Any, kind: type) -> None:
  """Raise a DtypeError unless a value is of the given kind: a Layer, a Loss or a Gate."""
  check_that(where, name, value, isinstance(value, kind), f"be a {kind.__name__}")
