"""Parameters as a safetensors file, which any framework reads and which needs no unpickling."""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from fbackprop.checks import DtypeError, ShapeError, StructureError, describe
from fbackprop.files import read_plain, write_whole
from fbackprop.types import Params

# Names of dtypes in safetensors. Its own reader for NumPy doesn't know bfloat16, and fails on files
# written by its own writer.
DTYPES = {
  "BF16": np.dtype(jnp.bfloat16),
  **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
  **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
  **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
  "BOOL": np.dtype(bool),
}
# The metadata hold the checksum's method and its digits. Each entry requires the other, so that a
# flipped bit in a key can't hide that the file has a checksum.
METHOD, CHECKSUM = "fbackprop.checksum", "fbackprop.sha256"
HOW = "SHA-256 of the whole file with 64 zeros in the place of these digits"
ZEROS = "0" * 64
# Annotated here, as safetensors is untyped.
deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


class Stored(NamedTuple):
  """The content of a safetensors file.

  Attributes:
    path: path of the file.
    metadata: text, by key.
    entries: shape, dtype and data of each array, by name, as returned by `safetensors.deserialize`.
  """

  path: str | os.PathLike[str]
  metadata: dict[str, str]
  entries: dict[str, dict[str, Any]]


def save_params(
  path: str | os.PathLike[str], params: Params, metadata: dict[str, str] | None = None
) -> None:
  """Write parameters to a safetensors file, atomically and with a checksum.

  Args:
    path: the file.
    params: pytree of arrays; an array's name in the file is its path in the pytree, such as "0.w".
    metadata: text for the file's header. The same parameters and metadata give the same bytes. The
      checksum of the whole file, including the header, is added as `fbackprop.sha256` and
      `fbackprop.checksum`; existing values of these keys are replaced.

  Raises:
    ValueError: two arrays would have the same name, as with a key "a.b" beside a key "b" under "a".
    OSError: the file can't be written; an existing one is unchanged.

  References:
    The format: https://huggingface.co/docs/safetensors
  """
  write_whole(path, bytes_of(params, metadata))


def bytes_of(params: Params, metadata: dict[str, str] | None = None) -> bytes:
  """Return the content of the file of `save_params`."""
  # safetensors writes the buffer in memory order: a transposed view would be written wrongly. (Not
  # ascontiguousarray, which turns a scalar [] into [1].)
  arrays = {name: np.asarray(leaf, order="C") for name, leaf in named_leaves(params).items()}
  content = safetensors.numpy.save(arrays)
  end = end_of_header(content)
  own = {**(metadata or {}), METHOD: HOW, CHECKSUM: ZEROS}
  # Sorted here, as safetensors writes metadata in varying order. The header is JSON, padded with
  # spaces to a multiple of eight, after its length in eight bytes.
  header = {"__metadata__": dict(sorted(own.items())), **json.loads(content[8:end])}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  content = len(text).to_bytes(8, "little") + text + content[end:]
  return content.replace(entry_of(ZEROS), entry_of(checksum_of(content, ZEROS)), 1)


def load_params(path: str | os.PathLike[str], like: Params) -> Params:
  """Read parameters written by `save_params`.

  Args:
    path: the file. A checksum is verified if there is one; files of other programs, or of older
      versions, have none.
    like: pytree of the same structure, shapes and dtypes, such as `net.init(key)` or its
      `jax.eval_shape`.

  Returns:
    The pytree, with the file's arrays.

  Raises:
    ValueError: the file isn't a safetensors file, its checksum doesn't match, its names or shapes
      differ from those of `like`, or two arrays of `like` would have the same name.
    TypeError: a dtype differs from that of `like`.
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
  return params_of(read_stored(path), like)


def read_stored(path: str | os.PathLike[str]) -> Stored:
  """Read a safetensors file of any size, and verify its checksum if it has one.

  Raises:
    ValueError: the file isn't a safetensors file, or its checksum doesn't match.
    OSError: it can't be read, or isn't regular.
  """
  content = read_plain(path)
  try:
    # safetensors validates the header first: its length, the shapes and dtypes, and that the arrays
    # fill the file without gaps.
    entries = dict(deserialize(content))
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path} is not a safetensors file: {error}") from error
  header = json.loads(content[8 : end_of_header(content)])
  metadata: dict[str, str] = header.get("__metadata__") or {}
  if METHOD in metadata or CHECKSUM in metadata:
    said = metadata.get(CHECKSUM)
    if metadata.get(METHOD) != HOW or said is None:
      raise ValueError(f"{path} is damaged: its checksum is not whole")
    found = checksum_of(content, said)
    if found != said:
      raise ValueError(f"{path} is damaged: its checksum is {found}, and was {said:.64}")
  return Stored(path, metadata, entries)


def params_of(stored: Stored, like: Params) -> Params:
  """Convert the arrays of a file to a pytree like `like`; see `load_params`."""
  path, entries = stored.path, stored.entries
  wanted = named_leaves(like)
  if entries.keys() != wanted.keys():
    missing, extra = sorted(wanted.keys() - entries.keys()), sorted(entries.keys() - wanted.keys())
    raise StructureError(f"{path} is of another network: missing {missing}, not expected {extra}")
  leaves = []
  for name, leaf in wanted.items():
    entry = entries[name]
    shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
    got = f"{entry['dtype'] if dtype is None else dtype}[{', '.join(map(str, shape))}]"
    if shape != leaf.shape or dtype != leaf.dtype:
      error = DtypeError if shape == leaf.shape else ShapeError
      raise error(f"{path}: {name} must be {describe(leaf)}, got {got}")
    leaves.append(jnp.asarray(np.frombuffer(entry["data"], dtype).reshape(shape)))
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def end_of_header(content: bytes) -> int:
  """Return the offset of the array data in a file."""
  return 8 + int.from_bytes(content[:8], "little")


def checksum_of(content: bytes, digits: str) -> str:
  """Compute the checksum of a file, with the `digits` in its header replaced by zeros."""
  end = end_of_header(content)
  sha = hashlib.sha256(content[:end].replace(entry_of(digits), entry_of(ZEROS)))
  sha.update(memoryview(content)[end:])
  return sha.hexdigest()


def entry_of(digits: str) -> bytes:
  """Return the checksum's entry in the header; JSON strings can't contain its unescaped quotes."""
  return f'"{CHECKSUM}":"{digits}"'.encode()


def named_leaves(params: Params) -> dict[str, Any]:
  """Name each array by its path, such as "0.w"; raise if two names are equal."""
  keystr = jax.tree_util.keystr
  paths: dict[str, Any] = {}
  leaves: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = keystr(path, simple=True, separator=".")
    if name in paths:
      both = f"{keystr(paths[name])} and {keystr(path)}"
      raise StructureError(f"params: {both} would both be called {name!r}")
    paths[name], leaves[name] = path, leaf
  return leaves
