"""Quantities: what one backward pass knows of every example, beside the gradient of their mean.

A network of `captured` layers returns the factors of its gradient, the pair of what entered a layer
and the cotangent of what left it, and these functions read from them what autodiff would need a
gradient for each example for. Names are imported when they are touched.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
