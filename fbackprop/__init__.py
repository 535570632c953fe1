"""Feedforward networks in JAX, with a backward pass written by hand and tested against `jax.grad`.

`import fbackprop as fb` imports nothing else: a module, and jax with it, is imported when one of
its names is touched, so that the command line answers `--help` at once.

PYTEST_DONT_REWRITE: pytest would warn where this was imported before it, as in a notebook.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
