"""The witnesses: autodiff is called here, and nowhere else in the package."""

from fbackprop.verify.circuits import CIRCUIT_TOLERANCE, CircuitCheck, check_circuit
from fbackprop.verify.live import GRADIENT_TOLERANCE, LiveCheck, make_live_check

__all__ = [
  "CIRCUIT_TOLERANCE",
  "GRADIENT_TOLERANCE",
  "CircuitCheck",
  "LiveCheck",
  "check_circuit",
  "make_live_check",
]
