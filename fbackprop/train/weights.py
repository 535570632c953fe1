"""Parameters as a safetensors file, which any framework reads and nobody has to unpickle."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from fbackprop.checks import DtypeError, ShapeError, StructureError, describe
from fbackprop.train.files import write_whole
from fbackprop.types import Params


def save_params(
  path: str | os.PathLike[str], params: Params, metadata: dict[str, str] | None = None
) -> None:
  """Writes parameters to a safetensors file, whole or not at all.

  Args:
    path: the file.
    params: a tree of arrays; an array's name in the file is its path in the tree, as "0.w".
    metadata: text that goes into the file's header.

  Raises:
    OSError: the file can't be written; what stood there before still does.
  """
  # safetensors writes the buffer as it lies in memory: a transposed view would be written wrongly.
  arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(params)}
  write_whole(path, safetensors.numpy.save(arrays, metadata))


def load_params(path: str | os.PathLike[str], like: Params) -> Params:
  """Reads parameters that `save_params` wrote.

  Args:
    path: the file.
    like: a tree of the same structure, shapes and dtypes, such as `net.init(key)` or its
      `jax.eval_shape`.

  Returns:
    The tree, with the file's arrays.

  Raises:
    ValueError: the file is no safetensors file, or its names or shapes aren't those of `like`.
    TypeError: a dtype isn't that of `like`.
    OSError: the file can't be read.

  Example:
    >>> import tempfile
    >>> import fbackprop as fb
    >>> net = fb.mlp([3, 4, 2])
    >>> params = net.init(jax.random.key(0))
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> save_params(path, params)
    >>> loaded = load_params(path, like=params)
    >>> bool((loaded[0].w == params[0].w).all())
    True
  """
  try:
    arrays = safetensors.numpy.load(Path(path).read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is not a safetensors file: {error}") from error
  wanted = dict(named_leaves(like))
  if arrays.keys() != wanted.keys():
    missing, extra = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
    raise StructureError(f"{path} is of another network: missing {missing}, not expected {extra}")
  for name, leaf in wanted.items():
    if arrays[name].shape != leaf.shape:
      raise ShapeError(f"{path}: {name} must be {describe(leaf)}, got {describe(arrays[name])}")
    if arrays[name].dtype != leaf.dtype:
      raise DtypeError(f"{path}: {name} must be {describe(leaf)}, got {describe(arrays[name])}")
  leaves = [jnp.asarray(arrays[name]) for name, _ in named_leaves(like)]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named_leaves(params: Params) -> list[tuple[str, Any]]:
  """Each array with its path, such as "0.w"."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return [(jax.tree_util.keystr(p, simple=True, separator="."), leaf) for p, leaf in leaves]
