"""ONNX files: those that `write` has made, and chains of dense layers of anybody.

A file of ours has a description, the names of its arrays and its operators must be those that the
description gives, and the arrays are read from the file. Another file is read by its graph: from
the input over Gemm, or MatMul and Add, and what is between them. An activation is known by its
values, since each exporter writes gelu in other operators: the operators between two layers are
evaluated at some points and compared with every activation of this package.

Nothing else is evaluated, so that a file can't take more memory than its size: those operators must
be elementwise, and their constants numbers.
"""

from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from fbackprop.export.chain import NAME_OF_GATE, flat, roll, unroll
from fbackprop.export.foreign import Given, Layers, Pair, model_of
from fbackprop.export.onnx_writer import to_onnx
from fbackprop.export.recognition import POINTS, name_of_values
from fbackprop.extras import need
from fbackprop.train.data.rows import Standardization
from fbackprop.train.fitted import FittedModel
from fbackprop.train.models import KEY, parse_description

ELEMENTWISE = {
  "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
  "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow",
  "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Swish",
  "Tanh", "ThresholdedRelu",
}  # fmt: skip
# Operators that change nothing in evaluation.
TRANSPARENT = ("Cast", "Dropout", "Identity")
# Those of constants: torch writes one array for two that are equal, and Keras weights transposed.
FOLDED = ("Cast", "Identity", "Transpose")
MOST_NODES = 64  # Between two layers.


def read_onnx(path: str, content: bytes, given: Given) -> FittedModel:
  """Read a model from the content of an ONNX file; `path` names it in an error.

  Raises:
    ValueError: the file is damaged, keeps arrays in other files, or is no chain of layers.
  """
  onnx = need("onnx", extra="export")
  proto = onnx.ModelProto()
  try:
    proto.ParseFromString(content)
  except Exception as error:  # protobuf's own class, which differs between its versions.
    raise ValueError(f"{path} is no ONNX file, or a damaged one: {error}") from error
  if not proto.graph.node:
    raise ValueError(f"{path} is no ONNX file, or a damaged one: it has no graph")
  arrays = read_arrays(path, proto.graph)
  props = {prop.key: prop.value for prop in proto.metadata_props}
  if KEY in props:
    own = read_own(path, proto, props[KEY], arrays)
    if own is not None:
      given.refuse("the file has a description, which says it")
      return own
  return model_of(path, Walk(path, proto, arrays).walk(), given)


def read_arrays(path: str, graph: Any) -> dict[str, np.ndarray]:
  """Read the constant arrays of a graph."""
  numpy_helper = need("onnx.numpy_helper", extra="export")
  tensors, arrays = list(graph.initializer), {}
  for node in graph.node:
    if node.op_type == "Constant" and not node.domain and node.output:
      for attribute in node.attribute:
        if attribute.name == "value":
          tensors.append(attribute.t)
          tensors[-1].name = node.output[0]
        elif attribute.name == "value_float":
          arrays[node.output[0]] = np.asarray(attribute.f, np.float32)
  for tensor in tensors:
    if tensor.data_location:
      said = f"keeps the array {tensor.name!r:.100} in another file, which isn't read"
      raise ValueError(f"{path} {said}")
    size = int(np.prod([max(d, 0) for d in tensor.dims], dtype=object))
    if size > max(64, 8 * tensor.ByteSize()):  # At most one of eight bits for a number.
      raise ValueError(f"{path}: {tensor.name!r:.100} says that it is {list(tensor.dims)}")
    try:
      arrays[tensor.name] = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
      raise ValueError(f"{path}: the array {tensor.name!r:.100} is damaged: {error}") from error
  return arrays


def read_own(path: str, proto: Any, text: str, arrays: dict[str, np.ndarray]) -> FittedModel | None:
  """Read a file of `write`; None if its graph isn't the one of its description any more."""
  about = parse_description(path, text, len(arrays))
  opset = next((own.version for own in proto.opset_import if not own.domain), 17)
  like = about.shapes
  net = about.net
  front = 0 if about.ensemble is None else 1
  own: list[Any] = []
  for count, unit in enumerate(flat(unroll("read", net, like, front))):
    fields = getattr(unit.params, "_fields", ())
    leaves = {}
    for field in fields:
      leaf = getattr(unit.params, field)
      name = f"{count}.{field}"
      if leaf is not None:
        found = arrays.get(name)
        if found is None or found.dtype != leaf.dtype or found.size != np.prod(leaf.shape):
          return None
        leaf = jnp.asarray(found.reshape(leaf.shape))
      leaves[field] = leaf
    own.append(type(unit.params)(**leaves) if fields else ())
  params = roll(net, iter(own), front)
  again = to_onnx(net, params, about=about, opset=min(max(opset, 17), 21))
  written, found_nodes = ([n.op_type for n in p.graph.node] for p in (again, proto))
  return FittedModel(about, params) if written == found_nodes else None


class Segment(NamedTuple):
  """The elementwise operators behind the input or a dense layer: its value, and their outputs."""

  base: str
  nodes: list[Any]
  live: set[str]


class Walk:
  """The way from a graph's input to its outputs."""

  def __init__(self, path: str, proto: Any, arrays: dict[str, np.ndarray]) -> None:
    self.path, self.proto, self.arrays = path, proto, arrays
    inputs = [value.name for value in proto.graph.input if value.name not in arrays]
    if len(inputs) != 1:
      self.refuse(f"it has the inputs {', '.join(inputs) or 'none'}; a network has one, [N, D]")
    self.here = Segment(inputs[0], [], {inputs[0]})
    self.dense: list[Pair] = []
    self.norms: list[Pair] = []
    self.activations: list[str] = []
    self.affine: tuple[Any, Any] = (1.0, 0.0)  # x' = factor · x + offset.
    self.tail: set[str] = set()
    self.last = ""

  def refuse(self, problem: str) -> NoReturn:
    """Raise for a graph that is no chain."""
    advice = "read are chains of Gemm, or MatMul and Add, with one activation between them"
    raise ValueError(f"{self.path}: {problem}; {advice}")

  def walk(self) -> Layers:
    """Follow the nodes, which ONNX keeps in the order of computation."""
    for node in self.proto.graph.node:
      if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        self.refuse(f"the operator {node.op_type} is of the domain {node.domain!r:.60}")
      if not node.input or not node.output or node.output[0] in self.arrays:
        continue  # A constant, or nothing that x has a part in.
      inputs = [name for name in node.input if name and name not in self.arrays]
      if not inputs and node.op_type in FOLDED:
        own = self.arrays[node.input[0]]
        self.arrays[node.output[0]] = own.T if node.op_type == "Transpose" else own
        continue
      is_live = bool(inputs) and all(name in self.here.live for name in inputs)
      if not is_live:
        self.leave(node, inputs)
      elif node.op_type in ("Gemm", "MatMul"):
        self.add_dense(node)
      elif node.op_type == "LayerNormalization" and self.dense:
        self.add_norm(node)
      elif not self.dense and (node.op_type == "Scaler" or self.is_vector(node)):
        self.scale_input(node)
      elif node.op_type == "Add" and self.is_bias(node):
        self.add_bias(node)
      elif node.op_type in ELEMENTWISE or node.op_type in TRANSPARENT:
        self.here.nodes.append(node)
        self.here.live.update(node.output)
      else:
        if node.op_type == "Softmax":
          self.last = "softmax"
        self.tail.update(node.output)
    if not self.dense:
      self.refuse("it has no dense layer")
    rest = [node for node in self.here.nodes if node.op_type not in TRANSPARENT]
    if not self.last and rest:
      if [node.op_type for node in rest] != ["Sigmoid"] and not self.is_pair(rest):
        self.refuse(f"its last layer is followed by {', '.join(n.op_type for n in rest[:9])}")
      self.last = "sigmoid"
    factor, offset = self.affine
    standardization = None
    if np.any(factor != 1) or np.any(offset != 0):
      width = self.dense[0].w.shape[0]
      if np.size(factor + offset) not in (1, width):
        self.refuse(f"its standardisation is of {np.size(factor + offset)} columns, not {width}")
      with np.errstate(divide="ignore"):
        scale = np.broadcast_to(1 / np.asarray(factor), width)
      if not ((scale > 0) & np.isfinite(scale)).all():
        self.refuse("it multiplies a column of x by a number that isn't above 0")
      mean = np.broadcast_to(-offset / factor, width)
      standardization = Standardization(mean.copy(), scale.copy())
    return Layers(self.dense, self.norms, self.activations, standardization, self.last)

  def is_pair(self, rest: list[Any]) -> bool:
    """Return whether p = σ(z) of one output is followed by 1 - p, as of two classes."""
    if [node.op_type for node in rest] != ["Sigmoid", "Sub"] or self.dense[-1].w.shape[1] != 1:
      return False
    one = self.arrays.get(rest[1].input[0])
    return one is not None and one.size == 1 and bool((one == 1).all())

  def leave(self, node: Any, inputs: list[str]) -> None:
    """Pass a node behind the last layer, such as the choice of the label; refuse any other."""
    is_behind = any(name in self.tail for name in inputs) or node.op_type == "Concat"
    if not inputs or (is_behind and node.op_type not in ("Gemm", "MatMul")):
      self.tail.update(node.output)
      return
    self.refuse(f"the operator {node.op_type} takes {', '.join(inputs)[:100]}: it is no chain")

  def array_of(self, node: Any, i: int, what: str) -> np.ndarray:
    """Return a constant input."""
    name = node.input[i] if i < len(node.input) else ""
    if name not in self.arrays or self.arrays[name].dtype.kind not in "iuf":
      self.refuse(f"{what} of {node.op_type} must be a constant array of numbers")
    return self.arrays[name]

  def add_dense(self, node: Any) -> None:
    """Add a dense layer, and name what has been before it."""
    of = {attribute.name: attribute for attribute in node.attribute}

    def number(name: str, default: float) -> float:
      return float(of[name].f) if name in of else default

    if node.input[0] not in self.here.live or (of["transA"].i if "transA" in of else 0):
      self.refuse(f"{node.op_type} must take x on its left, [N, D]")
    w = self.array_of(node, 1, "the second input").astype(np.float64)
    if w.ndim != 2 or not w.size:
      self.refuse(f"the weights of {node.op_type} must be [D_in, D_out], got {list(w.shape)}")
    self.end_segment(node.input[0])
    w = (w.T if "transB" in of and of["transB"].i else w) * number("alpha", 1.0)
    b = np.zeros(w.shape[1])
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
      own = self.array_of(node, 2, "the bias").astype(np.float64)
      if own.size not in (1, w.shape[1]):
        self.refuse(f"the bias of Gemm must be [{w.shape[1]}], got {list(own.shape)}")
      b = b + number("beta", 1.0) * own.reshape(-1)
    self.dense.append(Pair(w, b))
    self.here = Segment(node.output[0], [], {node.output[0]})

  def is_bias(self, node: Any) -> bool:
    """Return whether an Add adds a vector to the output of a dense layer, before anything else."""
    arrays = [self.arrays[name] for name in node.input if name in self.arrays]
    is_first = all(own.op_type in TRANSPARENT for own in self.here.nodes)
    width = self.dense[-1].w.shape[1] if self.dense else 0
    return bool(self.dense) and is_first and len(arrays) == 1 and arrays[0].size == width

  def add_bias(self, node: Any) -> None:
    """Add the bias of a MatMul."""
    b = next(self.arrays[name] for name in node.input if name in self.arrays)
    w, before = self.dense[-1]
    self.dense[-1] = Pair(w, before + b.astype(np.float64).reshape(-1))
    self.here = Segment(node.output[0], [], {node.output[0]})

  def add_norm(self, node: Any) -> None:
    """Add the layer_norm behind a hidden layer."""
    of = {attribute.name: attribute for attribute in node.attribute}
    eps = of["epsilon"].f if "epsilon" in of else 1e-5
    if len(self.norms) != len(self.dense) - 1 or self.here.nodes or abs(eps - 1e-5) > 1e-9:
      self.refuse(f"a LayerNormalization must follow a dense layer, with epsilon 1e-5, got {eps:g}")
    if ("axis" in of and of["axis"].i not in (-1, 1)) or len(node.input) < 3:
      self.refuse("a LayerNormalization must be over the last axis, with a bias")
    scale, shift = (self.array_of(node, i, "the scale").astype(np.float32) for i in (1, 2))
    if scale.shape != shift.shape or scale.ndim != 1:
      self.refuse("the scale and the bias of LayerNormalization must be [D]")
    self.norms.append(Pair(scale, shift))
    self.here = Segment(node.output[0], [], {node.output[0]})

  def is_vector(self, node: Any) -> bool:
    """Return whether a node scales or shifts the columns of x by a constant vector."""
    arrays = [self.arrays[name] for name in node.input if name in self.arrays]
    is_known = node.op_type in ("Add", "Sub", "Mul", "Div") and len(node.input) == 2
    return is_known and len(arrays) == 1 and node.input[0] not in self.arrays

  def scale_input(self, node: Any) -> None:
    """Compose x' = factor · x + offset with a standardisation in the graph."""
    factor, offset = self.affine
    of = {attribute.name: list(attribute.floats) for attribute in node.attribute}
    if node.op_type == "Scaler":
      pairs: list[tuple[str, Any]] = [
        ("Sub", of.get("offset", [0.0])), ("Mul", of.get("scale", [1.0]))
      ]  # fmt: skip
    else:
      pairs = [(node.op_type, self.array_of(node, 1, "the second input"))]
    for operator, value in pairs:
      own: Any = np.asarray(value, np.float64)
      if own.size > 1 and own.shape[-1] != own.size:
        self.refuse(f"{operator} must take a number for each column of x, got {list(own.shape)}")
      own = own.reshape(-1) if own.size > 1 else np.float64(own.reshape(())[()])
      if len({np.size(each) for each in (own, factor, offset)} - {1}) > 1:
        self.refuse("its standardisation has numbers for different columns of x")
      with np.errstate(divide="ignore", invalid="ignore"):
        if operator in ("Add", "Sub"):
          offset = offset + (own if operator == "Add" else -own)
        else:
          by = own if operator == "Mul" else 1 / own
          factor, offset = factor * by, offset * by
    self.affine = (factor, offset)
    self.here = Segment(node.output[0], [], {node.output[0]})

  def end_segment(self, end: str) -> None:
    """Name the activation from a layer's output to the next one's input."""
    nodes = [node for node in self.here.nodes if node.op_type not in TRANSPARENT]
    if not self.dense:
      if nodes:
        self.refuse(f"it begins with {nodes[0].op_type}, and not with a dense layer")
      return
    self.activations.append(self.recognise(self.here.nodes, self.here.base, end))

  def recognise(self, nodes: list[Any], base: str, end: str) -> str:
    """Return the activation that some elementwise operators compute."""
    if len(nodes) > MOST_NODES:
      self.refuse(f"there are {len(nodes)} operators between two layers")
    names = {name for node in nodes for name in node.input if name in self.arrays}
    if any(self.arrays[name].size != 1 for name in names):
      self.refuse("the constants of an activation must be numbers")
    values = self.evaluate(nodes, names, base, end) if nodes else POINTS
    name = name_of_values(values)
    if name is None:
      told = ", ".join(node.op_type for node in nodes[:9])
      self.refuse(f"between two layers, {told} is none of {', '.join(NAME_OF_GATE.values())}")
    return name

  def evaluate(self, nodes: list[Any], names: set[str], base: str, end: str) -> np.ndarray:
    """Evaluate elementwise operators at `POINTS`, by onnx's reference evaluator."""
    onnx, reference = (need(f"onnx{part}", extra="export") for part in ("", ".reference"))
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, [len(POINTS)]) for name in (base, end))
    arrays = [onnx.numpy_helper.from_array(self.arrays[name], name) for name in sorted(names)]
    graph = helper.make_graph(nodes, "between", [x], [y], arrays)
    model = helper.make_model(graph, opset_imports=self.proto.opset_import)
    try:
      with np.errstate(all="ignore"):
        (values,) = reference.ReferenceEvaluator(model).run(None, {base: POINTS})
    except Exception as error:
      self.refuse(f"the operators behind {base!r:.60} can't be evaluated: {error!s:.200}")
    return np.asarray(values).reshape(-1)
