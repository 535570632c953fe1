"""Quantities: per-example statistics from one backward pass, beside the gradient of the mean loss.

A network of `captured` layers returns the factors of its gradient, the pairs of a layer's input and
the cotangent of its output. From these the functions compute quantities for which autodiff would
need a gradient for each example. Names are imported on first access.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
