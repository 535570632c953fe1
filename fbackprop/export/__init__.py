"""Exchange with other programs: torch, ONNX, StableHLO, npz; flax, equinox, scikit-learn.

`write` and `read` take a whole model, with its preprocessing and the names of its inputs and
outputs, to a file and back; the other functions convert a network and its parameters. Nothing that
is read is unpickled or evaluated. Names are imported on first access.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
