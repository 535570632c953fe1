"""Model files: a trained network with everything that predictions from raw rows need."""

import itertools
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.layers import activations
from fbackprop.layers.dense import dense
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from fbackprop.losses.regression import squared_error
from fbackprop.networks import mlp
from fbackprop.train.data.encodings import Encoding, read_encoding
from fbackprop.train.data.names import TASKS, Task
from fbackprop.train.data.rows import WIDEST, Dataset, Standardization, as_float32
from fbackprop.train.ensembles import mean_outputs
from fbackprop.train.weights import Stored, params_of, read_stored, save_params
from fbackprop.types import Layer, Loss, Params

LOSSES = {
  "classification": softmax_cross_entropy,
  "multilabel": sigmoid_cross_entropy,
  "regression": squared_error,
}
NORMALIZATIONS = {"none": None, "layer_norm": layer_norm, "rms_norm": rms_norm}
# Key of the description in the file's metadata.
KEY = "fbackprop"
# Largest number of layers accepted; `--repeat-hidden on` easily makes a thousand.
DEEPEST = 2**14


# Validation of the options of `Description`: a predicate, and its description for an error.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
  "normalization": (NORMALIZATIONS.__contains__, f"one of {', '.join(NORMALIZATIONS)}"),
  "dropout": (lambda v: type(v) in (int, float) and 0 <= v < 1, "a number from 0 to below 1"),
  "skip": (lambda v: isinstance(v, bool), "true or false"),
  "repeat_hidden": (lambda v: isinstance(v, bool), "true or false"),
  "ensemble": (
    lambda v: v is None or (type(v) is int and 1 <= v <= 2**20), "a number of networks",
  ),
  "decimal": (lambda v: v in ("point", "comma"), "point or comma"),
}  # fmt: skip


class Description(NamedTuple):
  """A network, and the meanings of its inputs and outputs.

  Attributes:
    sizes: widths, beginning with the input's.
    activation: name of the hidden layers' activation.
    task: the kind of targets.
    outputs: names of the classes, or of the values.
    features: names of the raw input columns.
    standardization: standardization of the features, encoded if they are; None without.
    target_standardization: standardization of a regression's values; None without.
    normalization: name of the normalization after each hidden dense layer, or "none".
    dropout: rate of the dropout after each hidden activation; without a key nothing is dropped.
    skip, repeat_hidden: as of `fbackprop.mlp`.
    ensemble: number of networks stacked along the first axis of the parameters, or None.
    encoding: encoding of mixed columns to the network's input; None if they are numbers.
    decimal: how numbers were written in the training set's file, "point" or "comma"; other files
      are read so where no cell decides.
  """

  sizes: tuple[int, ...]
  activation: str
  task: Task
  outputs: tuple[str, ...]
  features: tuple[str, ...]
  standardization: Standardization | None
  target_standardization: Standardization | None
  normalization: str = "none"
  dropout: float = 0.0
  skip: bool = False
  repeat_hidden: bool = False
  ensemble: int | None = None
  encoding: Encoding | None = None
  decimal: str = "point"

  @property
  def net(self) -> Layer:
    """Build the network."""
    return self.network_of(lambda constructor: constructor)

  @property
  def shapes(self) -> Params:
    """The shapes of the parameters; of an ensemble with an axis of members in front."""
    like = jax.eval_shape(lambda: self.net.init(jax.random.key(0)))
    stack = () if self.ensemble is None else (self.ensemble,)
    return jax.tree.map(lambda leaf: leaf.update(shape=(*stack, *leaf.shape)), like)

  def network_of(self, wrap: Callable[[Callable[..., Layer]], Callable[..., Layer]]) -> Layer:
    """Build the network, wrapping the constructors of its layers with parameters.

    With `fbackprop.quantities.captured` its gradients are factored.
    """
    normalization = NORMALIZATIONS[self.normalization]
    return mlp(
      self.sizes, getattr(activations, self.activation), dense=wrap(dense),
      normalization=None if normalization is None else wrap(normalization),
      dropout=self.dropout, skip=self.skip, repeat_hidden=self.repeat_hidden,
    )  # fmt: skip

  @property
  def loss(self) -> Loss:
    """Return the plain loss of the task, whatever options the training had."""
    return LOSSES[self.task]

  def forward(self, params: Params, x: jax.Array) -> jax.Array:
    """Compute the outputs `[N, C]` for standardised features; of an ensemble, those of its mean."""
    net = self.net
    if self.ensemble is None:
      return net.forward(params, x)[0]
    outputs = jax.vmap(lambda params: net.forward(params, x)[0])(params)
    return mean_outputs(outputs, self.loss.name)

  @property
  def encoded(self) -> "Description":
    """The description of the same network for rows that are encoded already."""
    own = self.encoding
    return self if own is None else self._replace(encoding=None, features=own.names)

  def standardized(self, x: Any) -> np.ndarray:
    """Encode and standardise raw features `[N, D]` in float64, and round them to float32.

    Raises:
      ValueError: a feature overflows float32.
    """
    own, encoding = self.standardization, self.encoding
    names = self.features if encoding is None else encoding.names
    x = np.asarray(x) if encoding is None else encoding.encode(x)
    return as_float32(x if own is None else own.wide(x), names)

  def in_units(self, outputs: np.ndarray) -> np.ndarray:
    """Convert a regression's values to the units of the data, in float64; else return them."""
    own = self.target_standardization
    return outputs if own is None else own.undo(outputs)

  def probabilities(self, outputs: Any) -> Any:
    """Compute probabilities `[N, C]`: softmax of classes, sigmoid of several labels."""
    last = activations.softmax if self.task == "classification" else activations.sigmoid
    return last.forward((), outputs)[0]

  def as_text(self) -> str:
    """Describe the network, as "mlp 4-8-3, relu, softmax_cross_entropy" or "linear 4-3, ..."."""
    is_on = {
      self.normalization: self.normalization != "none", f"dropout {self.dropout:g}": self.dropout,
      "skip": self.skip, "repeated": self.repeat_hidden,
    }  # fmt: skip
    options = [option for option, is_used in is_on.items() if is_used]
    sizes = "-".join(map(str, self.sizes))
    many = "" if self.ensemble is None else f"{self.ensemble} of "
    # A network without hidden layers has no activation.
    kind = [f"mlp {sizes}", self.activation] if len(self.sizes) > 2 else [f"linear {sizes}"]
    return many + ", ".join([*kind, *options, self.loss.name])


class Model(NamedTuple):
  """A network, or an ensemble, with its parameters."""

  description: Description
  params: Params

  def outputs(self, x: np.ndarray) -> np.ndarray:
    """Compute the outputs for raw features: logits, or a regression's values.

    For an ensemble: the logits of the mean of its probabilities, or the mean of its values.

    Args:
      x: `[N, D]`, in the units of the data; standardised here if the network requires it.

    Returns:
      `[N, C]` in the units of the data: float64 where the targets were standardised, else float32.

    Raises:
      ValueError: a feature overflows float32.
    """
    x = self.description.standardized(x)
    # As one program: called eagerly, each operation would be compiled by itself.
    y = jax.jit(self.description.forward)(self.params, jnp.asarray(x))
    return self.description.in_units(np.asarray(y))

  def probabilities(self, outputs: np.ndarray) -> np.ndarray:
    """Compute probabilities `[N, C]`: softmax of classes, sigmoid of several labels."""
    return np.asarray(jax.jit(self.description.probabilities)(outputs))


def describe_model(
  sizes: tuple[int, ...], activation: str, dataset: Dataset, **options: Any
) -> Description:
  """Describe a network for a data set; `options` are the last fields of `Description`."""
  encoding = dataset.encoding
  features = dataset.features if encoding is None else encoding.raw_names
  return Description(
    sizes, activation, dataset.task, dataset.output_names, features,
    dataset.standardization, dataset.target_standardization, encoding=encoding,
    decimal=dataset.decimal, **options,
  )  # fmt: skip


def save_model(path: str | os.PathLike[str], params: Params, description: Description) -> None:
  """Write a network to a safetensors file, atomically and with a checksum.

  Raises:
    OSError: the file can't be written.
  """
  save_params(path, params, metadata_of(description))


def metadata_of(description: Description) -> dict[str, str]:
  """Return the description as a file's metadata: in words, and in JSON under `KEY`."""
  content: dict[str, Any] = description._asdict()
  for name in ("standardization", "target_standardization"):
    own = content[name]
    content[name] = own and {key: part.tolist() for key, part in own._asdict().items()}
  # Only what a table needs: the file of a model of plain numbers has always been the same.
  encoding, decimal = content.pop("encoding"), content.pop("decimal")
  content |= {} if encoding is None else {"encoding": encoding.as_json()}
  content |= {} if decimal == "point" else {"decimal": decimal}
  return {"network": description.as_text(), KEY: json.dumps(content, sort_keys=True)}


def load_model(path: str | os.PathLike[str]) -> Model:
  """Read a network written by `save_model`.

  Raises:
    ValueError: the file isn't such a network, or is damaged; the message names the file.
    TypeError: the dtype of a parameter differs from the network's.
    OSError: the file can't be read, or isn't regular.
  """
  stored = read_stored(path)
  description = description_of(stored)
  if description is None:
    said = "has no description of its network: it was not written by fbackprop train"
    raise ValueError(f"{path} {said}")
  return Model(description, params_of(stored, description.shapes))


def description_of(stored: Stored) -> Description | None:
  """Read the description in a file; None without one.

  Raises:
    ValueError: it is invalid; the message names the file.
  """
  if KEY not in stored.metadata:
    return None
  return parse_description(str(stored.path), stored.metadata[KEY], len(stored.entries))


def parse_description(path: str, text: str, arrays: int) -> Description:
  """Parse a description in JSON, of a file that holds so many arrays.

  Raises:
    ValueError: it is invalid; the message names the file.
  """
  try:
    description = read_description(json.loads(text))
    sizes = description.sizes
    # Before any layer is built.
    layers = [n for n, _ in itertools.groupby(sizes)] if description.repeat_hidden else sizes
    if arrays < len(layers) - 1:
      raise ValueError(f"{len(sizes) - 1} layers, and {arrays} arrays")
  except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
    raise ValueError(f"{path} describes no network: {error}") from error
  return description


def read_description(content: Any) -> Description:
  """Parse and validate a description; the file is untrusted input."""
  sizes = tuple(content["sizes"])
  is_width = all(type(n) is int and 1 <= n <= WIDEST for n in sizes)
  if not is_width or not 2 <= len(sizes) <= DEEPEST:
    raise ValueError(f"sizes must be a list of widths, got {content['sizes']!r:.100}")
  activation, task = content["activation"], content["task"]
  if not isinstance(getattr(activations, str(activation), None), Layer):
    raise ValueError(f"there is no activation {activation!r:.100}")
  if task not in TASKS:
    raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r:.100}")
  features, outputs = (tuple(map(str, content[key])) for key in ("features", "outputs"))
  encoding = read_encoding(content.get("encoding"), sizes[0])
  inputs = sizes[0] if encoding is None else len(encoding.states)
  if (len(features), len(outputs)) != (inputs, sizes[-1]):
    got = f"{len(features)} and {len(outputs)}"
    raise ValueError(f"{inputs} features and {sizes[-1]} outputs must have names, got {got}")
  if encoding is not None and encoding.raw_names != features:
    raise ValueError("the features must be the columns of the encoding")
  "".join((*features, *outputs)).encode()  # Raises for lone surrogates, which can't be printed.
  of_x = read_standardization(content, "standardization", sizes[0])
  of_targets = read_standardization(content, "target_standardization", sizes[-1])
  options = {**read_options(content), "encoding": encoding}
  return Description(sizes, activation, task, outputs, features, of_x, of_targets, **options)


def read_options(content: Any) -> dict[str, Any]:
  """Read the options between the dense layers; a missing one has its default."""
  defaults = Description._field_defaults
  options = {name: content.get(name, defaults[name]) for name in OPTIONS}
  for name, (is_valid, expected) in OPTIONS.items():
    if not is_valid(options[name]):
      raise ValueError(f"{name} must be {expected}, got {options[name]!r:.100}")
  return options


def read_standardization(content: Any, name: str, width: int) -> Standardization | None:
  """Read a standardization, or None."""
  own = content[name]
  if own is None:
    return None
  found = Standardization(*(np.asarray(own[key], np.float64) for key in ("mean", "scale")))
  if any(part.shape != (width,) or not np.isfinite(part).all() for part in found):
    raise ValueError(f"{name} must hold {width} finite numbers twice")
  if not (found.scale > 0).all():
    raise ValueError(f"{name} must have scales above 0, got {found.scale.min()}")
  return found
