"""A whole model as a file of another program, and back."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fbackprop.errors import RangeError, check_choice, check_that
from fbackprop.export import foreign, onnx_reader
from fbackprop.export.onnx_writer import to_onnx
from fbackprop.export.stablehlo import to_stablehlo
from fbackprop.export.state_dicts import from_torch, to_torch, torch_modules
from fbackprop.files import read_plain, write_whole
from fbackprop.train.data.npz import MOST_MEMBERS, read_arrays
from fbackprop.train.fitted import FittedModel, load
from fbackprop.train.models import KEY, Description, description_of, metadata_of, parse_description
from fbackprop.train.weights import (
  DTYPES,
  Stored,
  bytes_of,
  named_leaves,
  params_of,
  read_stored,
)  # fmt: skip

Format = Literal["torch", "onnx", "stablehlo", "npz"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {
  ".safetensors": "torch", ".onnx": "onnx", ".stablehlo": "stablehlo", ".npz": "npz",
}  # fmt: skip


def write(
  model: FittedModel, path: str | os.PathLike[str], *, to: Format | None = None, opset: int = 17
) -> None:
  """Write a model to a file of another program, atomically.

  | format | what is in it |
  |---|---|
  | torch | safetensors with the names of an `nn.Sequential`; the preprocessing in the metadata |
  | onnx | raw rows to `label` and `probabilities`, or `values`: see `to_onnx` |
  | stablehlo | raw rows to probabilities, or values, differentiable: see `to_stablehlo` |
  | npz | NumPy arrays by our names, "0.w"; the preprocessing in `fbackprop`, as JSON |

  Args:
    model: as of `fbackprop.load`.
    path: the file; its folder must exist.
    to: the format; by default by the file's ending: .safetensors, .onnx, .stablehlo or .npz.
    opset: of ONNX, 17 to 21.

  Raises:
    ValueError: unknown format; a network that the format can't hold, such as an ensemble in torch.
    OSError: the file can't be written.
    ModuleNotFoundError: a package isn't installed; the message says which.
  """
  is_model = isinstance(model, FittedModel)
  check_that("write", "model", model, is_model, "be a model, as of fbackprop.load(run)")
  if to is None:
    to = SUFFIXES.get(Path(path).suffix)
    if to is None:
      known = f"end in {', '.join(SUFFIXES)}, or its format be given"
      raise RangeError(f"must {known}; got {str(path)!r:.100}", "path", "write")
  check_choice("write", "to", to, FORMATS)
  write_whole(path, content_of(model, to, opset))


def content_of(model: FittedModel, to: Format, opset: int = 17) -> bytes:
  """Return the content of the file of `write`."""
  return WRITERS[to](model, opset)


def as_torch(model: FittedModel, opset: int) -> bytes:
  """Write torch's names as safetensors, with the description and the modules in the metadata."""
  about = model.description
  if about.ensemble is not None:
    networks = f"an ensemble of {about.ensemble} networks, and a Sequential is one"
    raise RangeError(f"{networks}; export it as onnx, stablehlo or npz", None, "write")
  state = to_torch(model.net, model.params)
  return bytes_of(state, {**metadata_of(about), "torch": torch_modules(model.net)})


def as_npz(model: FittedModel, opset: int) -> bytes:
  """Write our names as npz."""
  arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(model.params).items()}
  file = io.BytesIO()
  about = np.array(metadata_of(model.description)[KEY])
  if len(arrays) >= MOST_MEMBERS:
    problem = (
      f"has {len(arrays)} arrays, and an npz file at most {MOST_MEMBERS - 1}; give safetensors"
    )
    raise RangeError(problem, "model", "write")
  np.savez(file, allow_pickle=False, **arrays, **{KEY: about})
  return file.getvalue()


def as_onnx(model: FittedModel, opset: int) -> bytes:
  """Write ONNX."""
  proto = to_onnx(model.net, model.params, about=model.description, opset=opset)
  return bytes(proto.SerializeToString(deterministic=True))


def as_stablehlo(model: FittedModel, opset: int) -> bytes:
  """Write StableHLO."""
  return to_stablehlo(model.net, model.params, about=model.description)


WRITERS: dict[Format, Callable[[FittedModel, int], bytes]] = {
  "torch": as_torch, "onnx": as_onnx, "stablehlo": as_stablehlo, "npz": as_npz,
}  # fmt: skip


# --- Reading --------------------------------------------------------------------------------------


def read(
  path: str | os.PathLike[str],
  *,
  activation: str | None = None,
  task: str | None = None,
  features: Sequence[str] | None = None,
  labels: Sequence[str] | None = None,
) -> FittedModel:
  """Read a model from a file of another program, or of ours.

  Files written by `write` need no argument. For a file of somebody else the arguments say what it
  doesn't: a state dict of torch has no activation, and no file has names of columns.

  Args:
    path: a safetensors file of torch's names, in the order of the network; an ONNX file of a chain
      of Gemm, or MatMul and Add, and activations; an npz file of `write`; a model file, or the
      folder of a run.
    activation: name of the hidden layers' activation.
    task: "classification", "regression" or "multilabel"; by default by the last operator of an ONNX
      file (softmax, or sigmoid), else a regression.
    features: names of the input columns, by default x0, x1, ...
    labels: names of the classes, or of the values, by default 0, 1, ..., or y0, y1, ...

  Returns:
    The model; its parameters are rounded to float32.

  Raises:
    ValueError: the file is of a kind that isn't read, such as a pickle, or is damaged; it is no
      chain; an argument is missing or doesn't fit.
    OSError: it can't be read, or isn't regular.
    ModuleNotFoundError: onnx isn't installed, for an ONNX file.
  """
  given = foreign.Given(activation, task, features, labels)
  given.check()
  if Path(path).is_dir():
    return refuse_given(given, load(path))
  kind = foreign.kind_of(os.fspath(path))
  if kind == "safetensors":
    return read_safetensors(path, given)
  if kind == "npz":
    return refuse_given(given, read_npz(os.fspath(path)))
  return onnx_reader.read_onnx(os.fspath(path), read_plain(path), given)


def refuse_given(given: foreign.Given, model: FittedModel) -> FittedModel:
  """Return a model that is described wholly; raise for arguments that would describe it anew."""
  given.refuse("the file has a description, which says it")
  return model


def read_safetensors(path: Any, given: foreign.Given) -> FittedModel:
  """Read safetensors: of torch's names, or a model file."""
  stored = read_stored(path)
  about = description_of(stored)
  if about is None:
    return foreign.model_of(str(path), foreign.layers_of(stored, arrays_of(stored)), given)
  if any(name.endswith(".weight") for name in stored.entries):
    arrays = arrays_of(stored)
    try:
      return refuse_given(given, FittedModel(about, from_torch(about.net, arrays)))
    except (ValueError, TypeError) as error:
      raise type(error)(f"{path}: {error}") from error
  return refuse_given(given, load(path))


def arrays_of(stored: Stored) -> dict[str, np.ndarray]:
  """Return the arrays of a safetensors file."""
  arrays = {}
  for name, entry in stored.entries.items():
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
      raise ValueError(f"{stored.path}: {name} has the dtype {entry['dtype']}, which isn't read")
    arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
  return arrays


def read_npz(path: str) -> FittedModel:
  """Read an npz file of `write`."""
  known = read_arrays(path, {KEY})
  if KEY not in known.arrays or known.arrays[KEY].dtype.kind != "U" or known.arrays[KEY].ndim:
    advice = "in other npz files the network isn't known; give safetensors or ONNX"
    raise ValueError(f"{path} has no text {KEY!r}, which fbackprop export writes; {advice}")
  about = parse_description(path, str(known.arrays[KEY]), len(known.names) - 1)
  arrays = read_arrays(path, set(known.names) - {KEY}).arrays
  return FittedModel(about, params_like(path, about, arrays))


def params_like(path: str, about: Description, arrays: dict[str, np.ndarray]) -> Any:
  """Return the parameters of a described network from arrays by our names."""
  names = {dtype: name for name, dtype in DTYPES.items()}
  entries = {
    name: {"shape": a.shape, "dtype": names.get(a.dtype, str(a.dtype)), "data": a.tobytes()}
    for name, a in arrays.items()
  }
  return params_of(Stored(path, {}, entries), about.shapes)
