"""Circuits: a computation as a graph of gates, solved forward and backward, and drawn.

The gates are those of `fbackprop.gates`, which the layers also use. Names are imported on first
access.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
