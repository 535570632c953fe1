"""Layers: the rules of a network's parts, each forward rule above its backward rule.

The constructors and the activation layers are names of `fbackprop` itself: `fb.dense`, `fb.relu`;
those of sequences are names of this package: `fb.layers.conv1d`, `fb.layers.recurrent`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
