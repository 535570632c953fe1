"""Backward rules other than backpropagation, each a value: it takes a network and gives a Layer.

The forward pass is the network's own. The backward pass returns an update in the place of the
gradient, which is the word for exact backpropagation alone. One small file for each rule, beside
its paper's equation; `contract` has what they share. Names are imported on first access.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
