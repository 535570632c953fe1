"""Training: the lecture's loop, compiled, stopping for a stated reason.

`make_step` is one step as a pure function, for those who write their own loop; `fit` is the whole
run, and the command `fbackprop train` is a thin face of it. Names are imported when they are
touched, so that the command line can read its defaults without jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
