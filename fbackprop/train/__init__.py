"""Training: the lecture's loop, compiled, with an explicit stop reason.

`make_step` is one step as a pure function, for custom loops; `fit` is a whole run, and the command
`fbackprop train` is a thin wrapper around it. Names are imported on first access, so that the
command line can read its defaults without jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
