"""Activation layers: one-input gates applied to every unit of a layer."""

from fbackprop import gates
from fbackprop.checks import StructureError, describe
from fbackprop.types import Array, Gate, Layer, Params, Residuals


def activation(gate: Gate) -> Layer:
  """Lifts a one-input gate to a layer without parameters.

  Args:
    gate: a `Gate` of arity 1, ours or the reader's own.

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
  if not isinstance(gate, Gate):
    raise TypeError(f"activation: gate must be a Gate, got {gate!r}")
  if gate.arity != 1:
    raise TypeError(f"activation: gate must have one input, {gate.name} has arity {gate.arity}")

  def activation_init(key: Array) -> Params:
    return ()

  def activation_forward(
    params: Params, x: Array, key: Array | None = None
  ) -> tuple[Array, Residuals]:
    check_no_params(gate.name, params)
    return gate.forward(x)

  def activation_backward(
    params: Params, residuals: Residuals, y_bar: Array
  ) -> tuple[Params, Array]:
    check_no_params(gate.name, params)
    (x_bar,) = gate.backward(residuals, y_bar)
    return (), x_bar

  return Layer(gate.name, activation_init, activation_forward, activation_backward)


def check_no_params(where: str, params: Params) -> None:
  """Refuses anything but the empty tuple: the parameters of another network."""
  if type(params) is not tuple or params:
    raise StructureError(f"{where}: params must be (), got {describe(params)}")


relu = activation(gates.relu)
sigmoid = activation(gates.sigmoid)
tanh = activation(gates.tanh)
gelu = activation(gates.gelu)
identity = activation(gates.identity)
