"""Activation layers: one-input gates applied to each unit of a layer; and softmax.

To add one, write its gate in `fbackprop.gates` (and its name in `__all__` there), lift it here by
`activation`, name it in the package's `__init__.pyi`, and give it a row in `verify.cases.gates`.

Kinks follow the gates' policy, and the gates' options choose another value:
`activation(gates.relu_with(at_zero=0.5))`.
"""

import jax
import jax.numpy as jnp

from fbackprop import checks, gates
from fbackprop.errors import DtypeError, ShapeError, StructureError, describe
from fbackprop.gates.arithmetic import flat
from fbackprop.types import Array, Gate, Layer, Params, Residuals, Second


def activation(gate: Gate) -> Layer:
  """Lift a one-input gate to a layer without parameters.

  Args:
    gate: a `Gate` of arity 1, ours or the user's own.

  Returns:
    The `Layer` that applies the gate to each entry of x `[N, D]`; its parameters are `()`.

  Raises:
    TypeError: `gate` isn't a Gate of arity 1.

  Example:
    >>> import jax.numpy as jnp
    >>> y, residuals = activation(gates.relu).forward((), jnp.array([[-1.0, 2.0]]))
    >>> print(y)
    [[0. 2.]]
  """
  checks.check_unit("activation", "gate", gate, Gate)
  if gate.arity != 1:
    problem = f"must have one input, {gate.name} has arity {gate.arity}"
    raise DtypeError(problem, "gate", "activation")

  def lifted_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    check_no_params(gate.name, params)
    return gate.forward(x)

  def lifted_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_no_params(gate.name, params)
    (x_bar,) = gate.backward(residuals, y_bar)
    return (), x_bar

  options = (("gate", gate),)
  rules = (no_params, lifted_forward, lifted_backward)
  return Layer(gate.name, *rules, options=options, second=lifted_second(gate))


def lifted_second(gate: Gate) -> Second | None:
  """Return the second-order rules of a gate's layer; None if its second derivative isn't known."""
  second = gate.second
  if second is None:
    return None

  def bend(params: Params, residuals: Residuals, y_bar: Array) -> Array:
    return second(residuals, y_bar)[0]

  def squares(params: Params, residuals: Residuals, h: Array) -> Array:
    # φ'² h, by the backward rule twice.
    return gate.backward(residuals, gate.backward(residuals, h)[0])[0]

  return Second(None if second is flat else bend, squares)


def no_params(key: Array) -> Params:
  """Initialise a layer without parameters."""
  return ()


def check_no_params(where: str, params: Params) -> None:
  """Raise for anything but the empty tuple, such as the parameters of another network."""
  if type(params) is not tuple or params:
    raise StructureError(f"must be (), got {describe(params)}", "params", where)


def softmax_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
  """y_nc = e^x_nc / Σ_k e^x_nk: the normalised exponentials of each example's features.

  Don't use it before `softmax_cross_entropy`, which takes logits.

  Args:
    params: `()`.
    x: `[N, D]`. A −inf gives 0, unless the whole row is −inf.
    key: not used.

  Returns:
    `(y, residuals)`; the residual is y.

  References:
    Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI F68 (1990), 227–236.
  """
  check_no_params("softmax", params)
  checks.check_floating("softmax", "x", x)
  checks.check_shape("softmax", "x", x, ("N", "D"))
  checks.check_that("softmax", "x", x, x.shape[1] != 0, "have at least one feature", ShapeError)
  unnormalized = jnp.exp(x - jax.lax.stop_gradient(x.max(1, keepdims=True)))
  y = unnormalized / unnormalized.sum(1, keepdims=True)
  return y, y


def softmax_backward(params: Params, y: Residuals, y_bar: Array) -> tuple[Params, Array]:
  """x_bar = y (y_bar − Σ_c y_c y_bar_c): raising one output lowers the others."""
  check_no_params("softmax", params)
  checks.check_shape("softmax", "y_bar", y_bar, tuple(y.shape), y.dtype)
  return (), y * (y_bar - (y * y_bar).sum(1, keepdims=True))


def softmax_bend(params: Params, y: Residuals, y_bar: Array) -> Array:
  """Σ_k ȳ_k ∂²y_k/∂x_i∂x_j = diag(x̄) − x̄ yᵀ − y x̄ᵀ, x̄ = y (ȳ − Σ_c y_c ȳ_c) as above."""
  _, x_bar = softmax_backward(params, y, y_bar)
  cross = x_bar[:, :, None] * y[:, None, :]
  identity = jnp.eye(y.shape[1], dtype=y.dtype)
  return identity[None] * x_bar[:, None, :] - cross - jnp.swapaxes(cross, 1, 2)


def softmax_squares(params: Params, y: Residuals, h: Array) -> Array:
  """Σ_k h_k (y_k (δ_ki − y_i))² = y_i² (h_i − 2 h_i y_i + Σ_k h_k y_k²)."""
  check_no_params("softmax", params)
  return y * y * (h * (1 - 2 * y) + (h * y * y).sum(1, keepdims=True))


softmax = Layer(
  "softmax", no_params, softmax_forward, softmax_backward,
  second=Second(softmax_bend, softmax_squares),
)  # fmt: skip
relu = activation(gates.relu)
leaky_relu = activation(gates.leaky_relu)
relu6 = activation(gates.relu6)
hard_tanh = activation(gates.hard_tanh)
sigmoid = activation(gates.sigmoid)
tanh = activation(gates.tanh)
softplus = activation(gates.softplus)
elu = activation(gates.elu)
selu = activation(gates.selu)
gelu = activation(gates.gelu)
gelu_tanh = activation(gates.gelu_tanh)
silu = activation(gates.silu)
mish = activation(gates.mish)
identity = activation(gates.identity)
