"""Curvature: second derivatives of the mean loss from the factors of the hand-written passes.

With a layer's input x and the cotangents ȳ of its output in hand, the products, diagonals and
Kronecker factors of a network's curvature are short: see docs/curvature.md. Every function builds
one of `(params, x, targets)`, of the mean loss. Names are imported on first access.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
