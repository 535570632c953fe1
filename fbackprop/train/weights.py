"""Parameters as a safetensors file, which any framework reads and nobody has to unpickle."""

import json
import os
from collections.abc import Callable
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

# What safetensors calls them. Its own reader for NumPy knows no bfloat16: it would fail at a file
# that its writer has made.
DTYPES = {
  "BF16": np.dtype(jnp.bfloat16),
  **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
  **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
  **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
  "BOOL": np.dtype(bool),
}
# Annotated here, as safetensors doesn't.
deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


def save_params(
  path: str | os.PathLike[str], params: Params, metadata: dict[str, str] | None = None
) -> None:
  """Writes parameters to a safetensors file, whole or not at all.

  Args:
    path: the file.
    params: a tree of arrays; an array's name in the file is its path in the tree, as "0.w".
    metadata: text that goes into the file's header. The same parameters and metadata give the same
      bytes.

  Raises:
    ValueError: two arrays would have one name, as for a key "a.b" beside a key "b" under "a".
    OSError: the file can't be written; what stood there before still does.
  """
  # safetensors writes the buffer as it lies in memory: a transposed view would be written wrongly.
  # (Not ascontiguousarray, which makes a [1] of a [].)
  arrays = {name: np.asarray(leaf, order="C") for name, leaf in named_leaves(params)}
  write_whole(path, with_sorted_metadata(safetensors.numpy.save(arrays, metadata)))


def load_params(path: str | os.PathLike[str], like: Params) -> Params:
  """Reads parameters that `save_params` wrote.

  Args:
    path: the file.
    like: a tree of the same structure, shapes and dtypes, such as `net.init(key)` or its
      `jax.eval_shape`.

  Returns:
    The tree, with the file's arrays.

  Raises:
    ValueError: the file is no safetensors file, its names or shapes aren't those of `like`, or two
      arrays of `like` would have one name.
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
    entries = dict(deserialize(Path(path).read_bytes()))
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is not a safetensors file: {error}") from error
  wanted = dict(named_leaves(like))
  if entries.keys() != wanted.keys():
    missing, extra = sorted(wanted.keys() - entries.keys()), sorted(entries.keys() - wanted.keys())
    raise StructureError(f"{path} is of another network: missing {missing}, not expected {extra}")
  leaves = []
  for name, leaf in wanted.items():
    entry = entries[name]
    shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
    got = f"{entry['dtype'] if dtype is None else dtype}[{', '.join(map(str, shape))}]"
    if shape != leaf.shape:
      raise ShapeError(f"{path}: {name} must be {describe(leaf)}, got {got}")
    if dtype != leaf.dtype:
      raise DtypeError(f"{path}: {name} must be {describe(leaf)}, got {got}")
    leaves.append(jnp.asarray(np.frombuffer(entry["data"], dtype).reshape(shape)))
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def with_sorted_metadata(content: bytes) -> bytes:
  """The file with its metadata in order: safetensors writes them in another one each time.

  References:
    The format: the header's length in eight bytes, the header in JSON, filled up with blanks to a
    multiple of eight, the arrays. https://huggingface.co/docs/safetensors
  """
  end = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:end])
  if "__metadata__" in header:
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text + content[end:]


def named_leaves(params: Params) -> list[tuple[str, Any]]:
  """Each array with its path, such as "0.w"; two paths of one name are refused."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  named: dict[str, tuple[Any, Any]] = {}
  for path, leaf in leaves:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name in named:
      keystr = jax.tree_util.keystr
      raise StructureError(
        f"params: {keystr(named[name][0])} and {keystr(path)} would both be called {name!r}"
      )
    named[name] = path, leaf
  return [(name, leaf) for name, (_, leaf) in named.items()]
