"""State dicts of `torch.nn.Sequential`: a Linear has W `[D_out, D_in]`, with y = x Wᵀ + b.

A module's number is its place in the Sequential, where activations and dropout count too. Needs no
torch: the arrays are NumPy's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.errors import DtypeError, ShapeError, StructureError, describe
from fbackprop.export.chain import Unit, refuse_skips, roll, units_of, unroll
from fbackprop.layers.dense import DenseParams
from fbackprop.layers.normalization import NormParams
from fbackprop.types import Layer, Params

# Modules of torch with the same values; `approximate` and `eps` aren't its defaults.
MODULES = {
  "relu": "ReLU()", "leaky_relu": "LeakyReLU(0.01)", "relu6": "ReLU6()", "hard_tanh": "Hardtanh()",
  "sigmoid": "Sigmoid()", "tanh": "Tanh()", "softplus": "Softplus()", "elu": "ELU()",
  "selu": "SELU()", "gelu": "GELU()", "gelu_tanh": "GELU(approximate='tanh')", "silu": "SiLU()",
  "mish": "Mish()", "identity": "Identity()", "softmax": "Softmax(dim=1)",
}  # fmt: skip


def to_torch(net: Layer, params: Params) -> dict[str, np.ndarray]:
  """Convert parameters to the state dict of a `torch.nn.Sequential`, as `torch_modules` builds it.

  Args:
    net: a network of dense layers, activations, normalizations and dropout, without `skip`.
    params: its parameters.

  Returns:
    Arrays by name, such as "0.weight" `[D_out, D_in]` and "0.bias" `[D_out]`; by
    `torch.from_numpy` tensors that `load_state_dict(..., strict=True)` takes.

  Raises:
    ValueError: the network has a skip connection, is a graph, or has a layer of the reader's own.
    TypeError: an array is bfloat16, which NumPy can't give to torch.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([4, 8, 3])
    >>> {name: array.shape for name, array in to_torch(net, net.init(jax.random.key(0))).items()}
    {'0.weight': (8, 4), '0.bias': (8,), '2.weight': (3, 8), '2.bias': (3,)}
  """
  units = units_of("to_torch", net, params)
  refuse_skips("to_torch", units)
  state = {}
  for i, unit in enumerate(units):
    for name, array in torch_arrays(unit).items():
      if array.dtype.kind != "f":
        got = f"{describe(array)}; cast the parameters to float32 first"
        raise DtypeError(f"must be float16, float32 or float64, got {got}", "params", "to_torch")
      state[f"{i}.{name}"] = array
  return state


def torch_arrays(unit: Unit) -> dict[str, np.ndarray]:
  """Return the arrays of a layer by torch's names, contiguous."""
  if unit.kind == "dense":
    arrays = {"weight": np.asarray(unit.params.w).T, "bias": unit.params.b}
  elif isinstance(unit.params, NormParams):
    arrays = {"weight": unit.params.scale, "bias": unit.params.shift}
  else:
    return {}
  return {k: np.array(a, order="C") for k, a in arrays.items() if a is not None}


def from_torch(net: Layer, state: Mapping[str, Any]) -> Params:
  """Convert the state dict of a `torch.nn.Sequential` to the parameters of a network like it.

  Args:
    net: the same network: `torch_modules(net)` must be the Sequential.
    state: arrays, or tensors on the CPU, by name: `model.state_dict()`, or
      `safetensors.numpy.load_file(path)`.

  Returns:
    The parameters, in the dtypes of `net`.

  Raises:
    ValueError: a name is missing or not expected, or a shape differs.
    TypeError: an array has another dtype.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([4, 8, 3])
    >>> params = net.init(jax.random.key(0))
    >>> back = from_torch(net, to_torch(net, params))
    >>> bool((back[0].w == params[0].w).all())
    True
  """
  checks.check_unit("from_torch", "net", net, Layer)
  is_dict = isinstance(state, Mapping)
  checks.check_that("from_torch", "state", state, is_dict, "be a state dict: arrays by name")
  like = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  units = sequential("from_torch", net, like)
  wanted = {f"{i}.{name}": leaf for i, unit in enumerate(units) for name, leaf in names_of(unit)}
  if state.keys() != wanted.keys():
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    said = f"is of another network: missing {missing}, not expected {extra}; expected"
    raise StructureError(f"{said} that of {torch_modules(net)}", "state", "from_torch")

  def array(name: str) -> Any:
    leaf, own = wanted[name], np.asarray(state[name])
    is_matrix = len(leaf.shape) == 2
    shape = leaf.shape[::-1] if is_matrix else leaf.shape
    if own.shape != shape or own.dtype != leaf.dtype:
      error = DtypeError if own.shape == shape else ShapeError
      problem = f"must be {describe(np.empty(shape, leaf.dtype))}, got {describe(own)}"
      raise error(problem, f"state[{name!r}]", "from_torch")
    return jnp.asarray(own.T if is_matrix else own)

  def params_of(i: int, unit: Unit) -> Params:
    if not isinstance(unit.params, DenseParams | NormParams):
      return ()
    weight, bias = (f"{i}.{name}" for name in ("weight", "bias"))
    return type(unit.params)(array(weight), array(bias) if bias in wanted else None)

  return roll(net, iter([params_of(i, unit) for i, unit in enumerate(units)]))


def torch_modules(net: Layer) -> str:
  """Write the `torch.nn.Sequential` with the values of a network, as a line of Python.

  Args:
    net: as of `to_torch`.

  Example:
    >>> import fbackprop as fb
    >>> torch_modules(fb.mlp([4, 8, 3], fb.gelu))
    'nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))'
  """
  checks.check_unit("torch_modules", "net", net, Layer)
  like = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  modules = ", ".join(f"nn.{module_of(u)}" for u in sequential("torch_modules", net, like))
  return f"nn.Sequential({modules})"


def module_of(unit: Unit) -> str:
  """Write the module of a layer."""
  options = unit.options
  if unit.kind == "dense":
    bias = "" if unit.params.b is not None else ", bias=False"
    return f"Linear({options['d_in']}, {options['d_out']}{bias})"
  if unit.kind == "dropout":
    return f"Dropout({options['rate']:g})"
  if unit.kind in ("layer_norm", "rms_norm"):
    name = "LayerNorm" if unit.kind == "layer_norm" else "RMSNorm"
    return f"{name}({options['width']}, eps={options['eps']:g})"
  return MODULES[unit.kind]


def sequential(where: str, net: Layer, params: Params) -> list[Unit]:
  """List the modules of a network's Sequential; raise where it would need a skip connection."""
  units = unroll(where, net, params)
  refuse_skips(where, units)
  return units


def names_of(unit: Unit) -> list[tuple[str, Any]]:
  """Return torch's names of a layer's arrays, with ours."""
  if not isinstance(unit.params, DenseParams | NormParams):
    return []
  pairs = zip(("weight", "bias"), unit.params, strict=True)
  return [(name, leaf) for name, leaf in pairs if leaf is not None]
