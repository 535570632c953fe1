"""The layers of a network as nodes of ONNX, in operators that opset 17 has.

silu, mish and gelu_tanh are z times a gate, and onnxruntime's Sigmoid has an absolute error of 5e-8
where its value is as small: written here are several operators, which are accurate at any z. With
a = e^min(z, 0) and b = e^min(-z, 0) nothing overflows, and a / b = e^z.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fbackprop.export.chain import Unit
from fbackprop.extras import need
from fbackprop.gates import smooth


class Nodes:
  """The nodes of a graph while it is written; a value is known by its name.

  Attributes:
    nodes: the nodes, in the order of computation.
    arrays: the constant arrays, by name.
    dtype: the floating dtype of the network.
    members: the number of an ensemble's members, which is an axis in front of every array; or None.
  """

  def __init__(self, dtype: np.dtype, members: int | None = None) -> None:
    self.nodes: list[Any] = []
    self.arrays: dict[str, np.ndarray] = {}
    self.dtype, self.members = np.dtype(dtype), members

  def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
    """Append a node, and return the name of its output."""
    name = name or f"{operator.lower()}_{len(self.nodes)}"
    helper = need("onnx.helper", extra="export")
    self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
    return name

  def array(self, name: str, value: Any) -> str:
    """Store an array, and return its name."""
    self.arrays[name] = np.array(value, order="C")
    return name

  def number(self, value: float) -> str:
    """Store a number in the network's dtype, once, and return its name."""
    return self.array(f"number_{value!r}", self.dtype.type(value))

  def parameter(self, name: str, value: Any) -> str:
    """Store a vector of parameters; of an ensemble, so that it is the same for every example."""
    own = np.asarray(value)
    return self.array(name, own if self.members is None else own[:, None, :])


def halves(nodes: Nodes, z: str) -> tuple[str, str]:
  """Compute e^min(z, 0) and e^min(-z, 0)."""
  zero = nodes.number(0.0)
  a = nodes.add("Exp", nodes.add("Min", z, zero))
  return a, nodes.add("Exp", nodes.add("Min", nodes.add("Neg", z), zero))


def write_silu(nodes: Nodes, z: str) -> str:
  """z σ(z) = z a / (a + b)."""
  return gated(nodes, z, z)


def gated(nodes: Nodes, z: str, v: str) -> str:
  """Write z σ(v)."""
  a, b = halves(nodes, v)
  return nodes.add("Mul", z, nodes.add("Div", a, nodes.add("Add", a, b)))


def write_mish(nodes: Nodes, z: str) -> str:
  """z tanh(ln(1 + e^z)) = z n / (n + 2 b²), n = a (a + 2 b)."""
  a, b = halves(nodes, z)
  two_b = nodes.add("Add", b, b)
  n = nodes.add("Mul", a, nodes.add("Add", a, two_b))
  whole = nodes.add("Add", n, nodes.add("Mul", two_b, b))
  return nodes.add("Mul", z, nodes.add("Div", n, whole))


def write_gelu(nodes: Nodes, z: str) -> str:
  """z (1 + erf(z/√2)) / 2."""
  erf = nodes.add("Erf", nodes.add("Mul", z, nodes.number(math.sqrt(0.5))))
  twice = nodes.add("Mul", z, nodes.add("Add", erf, nodes.number(1.0)))
  return nodes.add("Mul", twice, nodes.number(0.5))


def write_gelu_tanh(nodes: Nodes, z: str) -> str:
  """z σ(c (z + 0.044715 z³)), with z clipped as in `fbackprop.gates.gelu_tanh`."""
  short = nodes.add("Clip", z, nodes.number(-24.0), nodes.number(24.0))
  square = nodes.add("Mul", short, short)
  c = 2 * math.sqrt(2 / math.pi)
  slope = nodes.add("Mul", square, nodes.number(0.044715 * c))
  return gated(nodes, z, nodes.add("Mul", short, nodes.add("Add", slope, nodes.number(c))))


def clip(low: float, high: float) -> Callable[[Nodes, str], str]:
  """Return the writer of a clip."""
  return lambda nodes, z: nodes.add("Clip", z, nodes.number(low), nodes.number(high))


def plain(operator: str, **attributes: Any) -> Callable[[Nodes, str], str]:
  """Return the writer of one operator."""
  return lambda nodes, z: nodes.add(operator, z, **attributes)


ACTIVATIONS: dict[str, Callable[[Nodes, str], str]] = {
  "relu": plain("Relu"),
  "leaky_relu": plain("LeakyRelu", alpha=0.01),
  "relu6": clip(0.0, 6.0),
  "hard_tanh": clip(-1.0, 1.0),
  "sigmoid": plain("Sigmoid"),
  "tanh": plain("Tanh"),
  "softplus": plain("Softplus"),
  "elu": plain("Elu", alpha=1.0),
  "selu": plain("Selu", alpha=smooth.SELU_ALPHA, gamma=smooth.SELU_SCALE),
  "gelu": write_gelu,
  "gelu_tanh": write_gelu_tanh,
  "silu": write_silu,
  "mish": write_mish,
  "identity": plain("Identity"),
  "softmax": plain("Softmax", axis=-1),
}


def write_units(nodes: Nodes, units: Any, x: str, count: Callable[[], int]) -> str:
  """Write the layers of a list one after another, and return the name of the output.

  Args:
    nodes: the graph.
    units: the list, as of `fbackprop.export.chain.unroll`.
    x: the name of the input, `[N, D]` or, of an ensemble's later layers, `[K, N, D]`.
    count: numbers the layers, those within skip connections too; an array's name is that of its
      layer, as "0.w".
  """
  for unit in units:
    if unit.kind == "skip":
      x = nodes.add("Add", x, write_units(nodes, unit.inner, x, count))
    else:
      x = write_unit(nodes, unit, x, count())
  return x


def write_unit(nodes: Nodes, unit: Unit, x: str, i: int) -> str:
  """Write a primitive layer."""
  if unit.kind == "dense":
    w = nodes.array(f"{i}.w", unit.params.w)
    b = () if unit.params.b is None else (nodes.parameter(f"{i}.b", unit.params.b),)
    if nodes.members is None:
      return nodes.add("Gemm", x, w, *b)
    y = nodes.add("MatMul", x, w)
    return nodes.add("Add", y, *b) if b else y
  if unit.kind in ("layer_norm", "rms_norm"):
    return write_norm(nodes, unit, x, i)
  if unit.kind == "dropout":
    return x
  return ACTIVATIONS[unit.kind](nodes, x)


def write_norm(nodes: Nodes, unit: Unit, x: str, i: int) -> str:
  """Write a normalization: x_hat scale + shift."""
  width, eps = unit.options["width"], unit.options["eps"]
  last = nodes.array("last_axis", np.array([-1], np.int64))

  def mean(value: str) -> str:
    # Not ReduceMean, whose axes are an attribute before opset 18 and an input from then on.
    return nodes.add("Div", nodes.add("ReduceSum", value, last, keepdims=1), nodes.number(width))

  if unit.kind == "layer_norm":
    x = nodes.add("Sub", x, mean(x))
  spread = nodes.add("Sqrt", nodes.add("Add", mean(nodes.add("Mul", x, x)), nodes.number(eps)))
  scale = nodes.parameter(f"{i}.scale", unit.params.scale)
  y = nodes.add("Mul", nodes.add("Div", x, spread), scale)
  if unit.params.shift is None:
    return y
  return nodes.add("Add", y, nodes.parameter(f"{i}.shift", unit.params.shift))
