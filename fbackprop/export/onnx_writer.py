"""Networks and models as ONNX, written by `onnx.helper`, in opset 17 to 21.

A model's graph takes raw rows: the standardisation is computed in float64, as `predict` does.

References:
  The operators: https://onnx.ai/onnx/operators
"""

import itertools
from typing import Any

import jax
import numpy as np

from fbackprop.errors import DtypeError, check_that, describe
from fbackprop.export.chain import units_of
from fbackprop.export.onnx_activations import Nodes, write_units
from fbackprop.extras import need
from fbackprop.ranges import Range, check_range
from fbackprop.train.data.encodings import Encoding
from fbackprop.train.data.rows import Standardization
from fbackprop.train.models import Description, metadata_of
from fbackprop.train.run_folder import version_of
from fbackprop.types import Layer, Params

OPSETS = Range(int, 17, 21)
# The largest |mean| / deviation of a column that float32 holds to 1e-6 of a deviation.
FAR = 16.0
# The operators of classical machine learning, one of which numbers words.
ML, ML_OPSET = "ai.onnx.ml", 3


def to_onnx(
  net: Layer, params: Params, *, about: Description | None = None, opset: int = 17
) -> Any:
  """Convert a network to an ONNX model; `onnx.save` writes it.

  Without `about` it has one input `x` `[N, D]` and one output `y` `[N, C]`, as the network.

  With it, the input `x` has raw rows, in float32 or, where that would cost precision (see
  `is_wide`), in float64. A classification has the outputs `label` `[N]` (int64 if every class is
  called by an integer, else strings) and `probabilities` `[N, C]`; several labels, `label` `[N, C]`
  of 0 and 1, and `probabilities`; a regression, `values` `[N, C]` in the units of the data.

  A model of mixed columns has an input `[N, 1]` for each, called as its column: numbers, NaN where
  one is missing; dates, as days since 1970-01-01 (see `fbackprop.train.data.columns.days_of`);
  words as strings, "" where one is missing.

  Args:
    net: a network of dense layers, activations, normalizations, dropout (the identity) and `skip`.
    params: its parameters, float32 or float64.
    about: the description of a model, such as that of `fbackprop.load`, which is also stored in the
      model's metadata.
    opset: the version of ONNX's operators, 17 to 21.

  Returns:
    An `onnx.ModelProto`, which onnx's checker has passed.

  Raises:
    ValueError: the network is a graph, or has a layer of the reader's own; opset is out of range.
    TypeError: an argument has the wrong type or dtype.
    ModuleNotFoundError: onnx isn't installed.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([4, 8, 3])
    >>> model = to_onnx(net, net.init(jax.random.key(0)))
    >>> [node.op_type for node in model.graph.node]
    ['Gemm', 'Relu', 'Gemm', 'Identity']
  """
  check_range("to_onnx", "opset", opset, OPSETS)
  is_known = about is None or isinstance(about, Description)
  check_that("to_onnx", "about", about, is_known, "be the description of a model")
  onnx = need("onnx", extra="export")
  members = None if about is None else about.ensemble
  units = units_of("to_onnx", net, params, members)
  nodes = Nodes(dtype_of(params), members)
  if about is None:
    graph = write_network(nodes, units, net.name)
  else:
    graph = write_model(nodes, units, about)
  opsets = [onnx.helper.make_opsetid("", opset)]
  if about is not None and about.encoding is not None:
    opsets.append(onnx.helper.make_opsetid(ML, ML_OPSET))
  model = onnx.helper.make_model(
    graph, opset_imports=opsets, producer_name="fbackprop",
    producer_version=version_of("fbackprop") or "",
    ir_version=onnx.helper.find_min_ir_version_for(opsets),
  )  # fmt: skip
  if about is not None:
    onnx.helper.set_model_props(model, metadata_of(about))
  onnx.checker.check_model(model, full_check=True)
  return model


def dtype_of(params: Params) -> np.dtype:
  """Return the dtype of all parameters."""
  dtypes = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(params)} or {np.dtype(np.float32)}
  if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
    leaf = next(x for x in jax.tree.leaves(params) if x.dtype != np.float32)
    problem = f"must be all float32 or all float64, got {describe(leaf)}"
    raise DtypeError(problem, "params", "to_onnx")
  return dtypes.pop()


def is_wide(about: Description) -> bool:
  """Return whether raw features, or values, need float64.

  So it is where a column's mean is more than 16 deviations from 0, as of time stamps (float32 would
  round by more than 1e-6 of a deviation), and where a mean or a deviation isn't a float32.
  """
  both = about.standardization, about.target_standardization
  return any(bool(are_wide(own).any()) for own in both if own is not None)


def are_wide(own: Standardization) -> np.ndarray:
  """Return which columns need float64, `[D]`."""
  limits = np.finfo(np.float32)
  is_far = np.abs(own.mean) > FAR * own.scale
  is_out = (own.scale < limits.tiny) | (own.scale > limits.max) | (np.abs(own.mean) > limits.max)
  return is_far | is_out


def write_network(nodes: Nodes, units: Any, name: str) -> Any:
  """Write the graph of a network."""
  widths = [unit.options for unit in units if unit.kind == "dense"]
  d, c = (widths[0]["d_in"], widths[-1]["d_out"]) if widths else ("D", "D")
  write_output(nodes, write_units(nodes, units, "x", itertools.count().__next__), "y")
  return make_graph(nodes, name, {"x": (nodes.dtype, d)}, {"y": (nodes.dtype, ("N", c))})


def write_model(nodes: Nodes, units: Any, about: Description) -> Any:
  """Write the graph of a model: raw rows to answers."""
  wide, narrow = np.dtype(np.float64), nodes.dtype
  of_input, own = wide if is_wide(about) else narrow, about.standardization
  x, inputs = "x", {"x": (of_input, about.sizes[0])}
  if about.encoding is not None:
    x, inputs = write_encoding(nodes, about.encoding, own)
    of_input = wide
  if own is not None:
    if of_input != wide:
      x = cast(nodes, x, wide)
    x = nodes.add("Sub", x, nodes.array("mean", own.mean))
    x = cast(nodes, nodes.add("Div", x, nodes.array("scale", own.scale)), narrow)
  elif of_input != narrow:
    x = cast(nodes, x, narrow)
  outputs = write_units(nodes, units, x, itertools.count().__next__)
  n, c = "N", about.sizes[-1]
  if about.task == "regression":
    values, scale = mean_of_members(nodes, outputs), about.target_standardization
    if scale is not None:
      values = nodes.add("Mul", cast(nodes, values, wide), nodes.array("values_scale", scale.scale))
      values = nodes.add("Add", values, nodes.array("values_mean", scale.mean))
    write_output(nodes, values, "values")
    answers = {"values": (narrow if scale is None else wide, (n, c))}
  else:
    is_one = about.task == "classification"
    each = nodes.add("Softmax", outputs, axis=-1) if is_one else nodes.add("Sigmoid", outputs)
    chances = mean_of_members(nodes, each)
    write_output(nodes, chances, "probabilities")
    label = write_labels(nodes, about, outputs if nodes.members is None else chances)
    answers = {"label": label, "probabilities": (narrow, (n, c))}
  if about.encoding is not None:
    return make_graph(nodes, "model", named_by_columns(nodes, about.features, inputs), answers)
  columns = f"the columns {', '.join(about.features)}"
  return make_graph(nodes, "model", inputs, answers, columns)


def write_encoding(
  nodes: Nodes, encoding: Encoding, own: Standardization | None
) -> tuple[str, dict[str, Any]]:
  """Write the encoding of mixed columns; return its value `[N, W]`, float64, and the inputs."""
  wide, narrow = np.dtype(np.float64), np.dtype(np.float32)
  inputs: dict[str, Any] = {}
  numbers: list[str] = []
  marks: list[str] = []
  words: list[str] = []
  is_far = np.zeros(len(encoding.names), bool) if own is None else are_wide(own)
  for j, state in enumerate(encoding.states):
    x = place_of_input(j)
    if state.column.kind == "word":
      inputs[x] = None, 1
      codes = np.arange(len(state.words), dtype=np.int64)
      code = nodes.add(
        "LabelEncoder", x, domain=ML, keys_strings=state.words, values_int64s=codes.tolist(),
        default_int64=-1,
      )  # fmt: skip
      one_hot = nodes.add("Equal", code, nodes.array(f"codes_{j}", codes[None]))
      words.append(cast(nodes, one_hot, wide))
      continue
    dtype = wide if is_far[len(numbers)] else narrow
    inputs[x] = dtype, 1
    value = x if dtype == wide else cast(nodes, x, wide)
    is_missing = nodes.add("IsNaN", value)
    fill = nodes.array(f"fill_{j}", np.float64(state.fill))
    numbers.append(nodes.add("Where", is_missing, fill, value))
    if state.is_marked:
      marks.append(cast(nodes, is_missing, wide))
  return nodes.add("Concat", *numbers, *marks, *words, axis=1), inputs


def place_of_input(j: int) -> str:
  """Return the name of an input while the graph is written, which no other value has."""
  return f"<{j}>"


def named_by_columns(
  nodes: Nodes, names: tuple[str, ...], inputs: dict[str, Any]
) -> dict[str, Any]:
  """Call the inputs as their columns; one that is called as another value gets a prime."""
  taken = {*nodes.arrays, *(output for node in nodes.nodes for output in node.output)}
  known: dict[str, str] = {}
  for place, name in zip(inputs, names, strict=True):
    while name in taken:
      name += "'"
    known[place] = name
    taken.add(name)
  for node in nodes.nodes:
    node.input[:] = [known.get(name, name) for name in node.input]
  return {known[place]: own for place, own in inputs.items()}


def write_labels(nodes: Nodes, about: Description, outputs: str) -> tuple[Any, tuple[Any, ...]]:
  """Write the output `label`, and return its dtype (None for strings) and its shape."""
  if about.task == "multilabel":
    # Of a network the logits, of an ensemble the probabilities: as `predict`.
    edge = nodes.number(0.0 if nodes.members is None else 0.5)
    write_output(nodes, cast(nodes, nodes.add("Greater", outputs, edge), np.int64), "label")
    return np.dtype(np.int64), ("N", about.sizes[-1])
  index = nodes.add("ArgMax", outputs, axis=1, keepdims=0)
  names, kind = class_names(about.outputs)
  nodes.add("Gather", nodes.array("classes", names), index, name="label", axis=0)
  return kind, ("N",)


def class_names(outputs: tuple[str, ...]) -> tuple[np.ndarray, Any]:
  """Return the classes as int64 if all are integers, else as strings, and the dtype or None."""
  is_integer = [name.lstrip("-").isdecimal() and str(int(name)) == name for name in outputs]
  if all(is_integer) and all(abs(int(name)) < 2**63 for name in outputs):
    return np.array(list(map(int, outputs)), np.int64), np.dtype(np.int64)
  return np.array(outputs, object), None


def mean_of_members(nodes: Nodes, values: str) -> str:
  """Average over an ensemble's members, `[K, N, C]` to `[N, C]`; else return the values."""
  if nodes.members is None:
    return values
  first = nodes.array("first_axis", np.array([0], np.int64))
  total = nodes.add("ReduceSum", values, first, keepdims=0)
  return nodes.add("Div", total, nodes.number(float(nodes.members)))


def write_output(nodes: Nodes, value: str, name: str) -> None:
  """Give a value the name of an output."""
  nodes.add("Identity", value, name=name)


def cast(nodes: Nodes, value: str, dtype: Any) -> str:
  """Write a cast."""
  return nodes.add("Cast", value, to=onnx_type(dtype))


def onnx_type(dtype: Any) -> int:
  """Return ONNX's number of a dtype; None for strings."""
  onnx = need("onnx", extra="export")
  if dtype is None:
    return int(onnx.TensorProto.STRING)
  return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def make_graph(
  nodes: Nodes, name: str, inputs: dict[str, Any], outputs: dict[str, Any], doc: str = ""
) -> Any:
  """Build the graph; inputs have a dtype, None for strings, and a width."""
  onnx = need("onnx", extra="export")
  info = onnx.helper.make_tensor_value_info
  arrays = [onnx.numpy_helper.from_array(array, name) for name, array in nodes.arrays.items()]
  x_infos = [info(x, onnx_type(kind), ("N", width), doc) for x, (kind, width) in inputs.items()]
  infos = [info(name, onnx_type(kind), shape) for name, (kind, shape) in outputs.items()]
  return onnx.helper.make_graph(nodes.nodes, name, x_infos, infos, arrays)
