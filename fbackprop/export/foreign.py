"""Files of other programs: their kind, told by their content, and the network that they hold.

What would have to be unpickled, or run, is refused by its name, with what to do instead.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, get_args

import jax.numpy as jnp
import numpy as np

from fbackprop.errors import DtypeError, RangeError, check_choice
from fbackprop.export.chain import NAME_OF_GATE
from fbackprop.files import open_plain, size_of
from fbackprop.layers.dense import DenseParams
from fbackprop.layers.normalization import NormParams
from fbackprop.train.data.names import Task
from fbackprop.train.data.rows import WIDEST, Standardization, numbered
from fbackprop.train.fitted import FittedModel
from fbackprop.train.models import Description
from fbackprop.train.weights import Stored

WHERE = "read"
HEAD = 64
PICKLES = "holds pickles, which run code when they are loaded, and isn't read"
IN_TORCH = "in torch: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
IN_KERAS = "in Keras: model.export('model.onnx', format='onnx')"
# By the first bytes of a file.
MAGIC = {
  b"\x89HDF": f"is an HDF5 file, as of Keras; {IN_KERAS}",
  b"\x93NUMPY": "is one array of NumPy, and not the arrays of a network: give an npz file",
  b"\x1f\x8b": "is a gzip file: unpack it first",
  b"ML\xefR": "is a StableHLO program, which is not read back: give the model that it was made of",
}
# By the name of a member of a zip file. A .pt2 file has pickles among its members, too.
MEMBERS = (
  (r"(^|/)(archive_format|serialized_exported_program\.json)$",
   f"is a program of torch.export (.pt2), which {PICKLES}; {IN_TORCH}"),
  (r"\.(pkl|pickle)$", f"is a file of torch.save (.pt, .pth), which {PICKLES}; {IN_TORCH}"),
  (r"(^|/)model\.weights\.h5$",
   f"is a Keras file; {IN_KERAS}"),
)  # fmt: skip


class Given(NamedTuple):
  """What the caller says of a file; None for what it doesn't."""

  activation: str | None
  task: str | None
  features: Sequence[str] | None
  labels: Sequence[str] | None

  def check(self) -> None:
    """Raise for values of the wrong kind."""
    if self.activation is not None:
      check_choice(WHERE, "activation", self.activation, NAME_OF_GATE.values())
    if self.task is not None:
      check_choice(WHERE, "task", self.task, get_args(Task))
    for name in ("features", "labels"):
      value = getattr(self, name)
      is_words = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
      if value is not None and not is_words:
        raise DtypeError(f"must be a list of words, got {value!r:.60}", name, WHERE)

  def refuse(self, reason: str) -> None:
    """Raise for anything that is given."""
    for name, value in self._asdict().items():
      if value is not None:
        raise RangeError(f"must not be given: {reason}", name, WHERE)


class Pair(NamedTuple):
  """The arrays of a dense layer, w `[D_in, D_out]` and b `[D_out]`, or a norm's scale and shift."""

  w: np.ndarray
  b: np.ndarray


class Layers(NamedTuple):
  """A plain network in a file.

  Attributes:
    dense: the arrays of each dense layer.
    norms: the layer_norm after each hidden dense layer; empty without.
    activations: the names of the hidden activations, as far as the file says.
    standardization: standardisation of x in the file's graph.
    last: "softmax" or "sigmoid" after the last layer; "" for neither.
  """

  dense: list[Pair]
  norms: list[Pair]
  activations: list[str]
  standardization: Standardization | None = None
  last: str = ""


def kind_of(path: str) -> str:
  """Return "safetensors", "npz" or "onnx"; raise for every other kind of file.

  Raises:
    ValueError: the file is of a kind that isn't read; the message names it.
    OSError: it can't be read, or isn't regular.
  """
  with open_plain(path) as file:
    head = file.read(HEAD)
    # The header is JSON, behind its length, whose bytes may be those of another kind.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size_of(file):
      return "safetensors"
    for magic, what in MAGIC.items():
      if head.startswith(magic) or head[4:].startswith(magic):
        refuse(path, what)
    if head.startswith(b"PK\x03\x04"):
      try:
        names = zipfile.ZipFile(file).namelist()
      except Exception as error:  # zipfile raises more than it documents.
        raise ValueError(f"{path} is a zip file that can't be read: {error}") from error
      for pattern, what in MEMBERS:
        if any(re.search(pattern, name) for name in names):
          refuse(path, what)
      if not all(name.endswith(".npy") for name in names):
        refuse(path, "is a zip file, and no npz file: it has members other than arrays")
      return "npz"
  if head[:1] == b"\x80" and head[1:2] <= b"\x05":
    refuse(path, f"is a pickle, as of joblib or torch.save: it {PICKLES}; {IN_TORCH}")
  if head[:1] == b"\x08":  # The field ir_version, which every writer puts first.
    return "onnx"
  return refuse(path, "is no safetensors, ONNX or npz file")


def refuse(path: str, what: str) -> NoReturn:
  """Raise for a kind of file."""
  raise ValueError(f"{path} {what}")


# --- State dicts ----------------------------------------------------------------------------------


def layers_of(stored: Stored, arrays: Mapping[str, np.ndarray]) -> Layers:
  """Return the layers of a state dict of torch, in the natural order of their names.

  Raises:
    ValueError: an array is neither the weight nor the bias of a Linear or a LayerNorm, or the
      Linears don't follow one another.
  """
  path = str(stored.path)
  modules: dict[str, dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    module, _, kind = name.rpartition(".")
    wanted = {"weight": (1, 2), "bias": (1,)}.get(kind, ())
    is_number = array.dtype.kind == "f" or array.dtype == jnp.bfloat16
    if array.ndim not in wanted or not is_number or not array.size:
      got = f"{name} {array.dtype}{list(array.shape)}"
      raise ValueError(f"{path}: expected the weight and bias of Linear and LayerNorm, got {got}")
    modules.setdefault(module, {})[kind] = array.astype(np.float32)
  dense: list[Pair] = []
  norms: list[Pair] = []
  follows = []
  for module in sorted(modules, key=natural):
    own = modules[module]
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None:
      raise ValueError(f"{path}: {module} has a bias and no weight")
    width = weight.shape[0]
    if bias is not None and bias.shape != (width,):
      raise ValueError(f"{path}: {module}.bias must be [{width}], got {list(bias.shape)}")
    if weight.ndim == 2:
      dense.append(Pair(weight.T, np.zeros(width, np.float32) if bias is None else bias))
    elif bias is None:
      eps = "torch's RMSNorm has another eps by default, which the file doesn't say"
      raise ValueError(f"{path}: {module} has a weight [{width}] without bias: {eps}")
    else:
      norms.append(Pair(weight, bias))
      follows.append(len(dense))
  if norms and follows != list(range(1, len(dense))):
    raise ValueError(f"{path}: a LayerNorm must follow each hidden Linear, and no other")
  return Layers(dense, norms, [])


def natural(name: str) -> list[Any]:
  """Return a key that sorts fc2 before fc10."""
  parts = re.split(r"(\d+)", name)
  return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


# --- The model ------------------------------------------------------------------------------------


def model_of(path: str, layers: Layers, given: Given) -> FittedModel:
  """Describe a plain network by what the file and the caller say.

  Raises:
    ValueError: the layers don't fit one another, their activations differ, or something isn't said,
      or is said in another way by the caller.
  """
  dense, hidden = layers.dense, len(layers.dense) - 1
  if not dense:
    raise ValueError(f"{path} has no dense layer")
  sizes = (dense[0].w.shape[0], *(layer.w.shape[1] for layer in dense))
  for i, layer in enumerate(dense):
    if layer.w.shape[0] != sizes[i]:
      took = f"its layer {i} takes {layer.w.shape[0]} inputs, and the one before gives {sizes[i]}"
      raise ValueError(f"{path} is no chain of layers: {took}")
  if max(sizes) > WIDEST:
    raise ValueError(f"{path} is {max(sizes):,} wide, and a network at most {WIDEST:,}")
  for i, norm in enumerate(layers.norms):
    if norm.w.shape != (sizes[i + 1],):
      raise ValueError(f"{path}: the LayerNorm after layer {i} is {norm.w.shape[0]} wide")
  activation = activation_of(path, layers, given, hidden)
  task = task_of(path, layers, given)
  last = dense[-1]
  if task == "classification" and last.w.shape[1] == 1:
    # Of one logit z: softmax(0, z) = (1 - σ(z), σ(z)).
    zero = np.zeros_like(last.w)
    last = Pair(np.hstack([zero, last.w]), np.append(np.zeros_like(last.b), last.b))
    sizes = (*sizes[:-1], 2)
  names = {"classification": tuple(map(str, range(sizes[-1])))}.get(task, numbered("y", sizes[-1]))
  features = names_of("features", given.features, numbered("x", sizes[0]))
  outputs = names_of("labels", given.labels, names)
  about = Description(
    sizes, activation, task, outputs, features, layers.standardization, None,
    normalization="layer_norm" if layers.norms else "none",
  )  # fmt: skip
  params: list[Any] = []
  for i, own in enumerate([*dense[:-1], last]):
    params.append(DenseParams(*(jnp.asarray(leaf, jnp.float32) for leaf in own)))
    if i < hidden:
      after = [NormParams(*map(jnp.asarray, layers.norms[i]))] if layers.norms else []
      params += [*after, ()]
  return FittedModel(about, tuple(params))


def activation_of(path: str, layers: Layers, given: Given, hidden: int) -> str:
  """Return the hidden activation; raise if it isn't known, or if there are several."""
  found = sorted(set(layers.activations))
  if len(found) > 1:
    raise ValueError(f"{path} has several activations, and a model one: {', '.join(found)}")
  if found and given.activation not in (None, found[0]):
    raise RangeError(f"must be that of the file, {found[0]}, or left out", "activation", WHERE)
  if not found and given.activation is None and hidden:
    raise RangeError("must be given: a file of weights doesn't say it", "activation", WHERE)
  return (found or [given.activation or "relu"])[0]


def task_of(path: str, layers: Layers, given: Given) -> Any:
  """Return the task by the last operator, or as it is given."""
  is_one = layers.dense[-1].w.shape[1] == 1
  of_sigmoid = "classification" if is_one else "multilabel"
  found = {"softmax": "classification", "sigmoid": of_sigmoid}.get(layers.last)
  if found is not None and given.task not in (None, found):
    raise RangeError(f"must be {found}, as the file ends in {layers.last}", "task", WHERE)
  return found or given.task or "regression"


def names_of(
  argument: str, given: Sequence[str] | None, default: tuple[str, ...]
) -> tuple[str, ...]:
  """Return the given names, one for each column; by default the default ones."""
  if given is None:
    return default
  if len(given) != len(default):
    raise RangeError(f"must be {len(default)} names, got {len(given)}", argument, WHERE)
  return tuple(given)
