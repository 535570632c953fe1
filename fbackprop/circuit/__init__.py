"""Circuits: a computation as a graph of gates, solved forward and backward, and drawn.

The gates are those of `fbackprop.gates`, of which the layers are made too. Names are imported when
they are touched.
"""

from fbackprop.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  "fbackprop.circuit",
  {
    "examples": ("EXAMPLES", "example"),
    "graph": ("Circuit", "CircuitError", "GateTrace", "Node", "Trace", "build"),
    "neurons": ("from_mlp",),
    "parsing": ("parse",),
    "source": ("ParseError",),
  },
)
