"""Feedforward networks in JAX, with a backward pass written by hand and tested against `jax.grad`.

`import fbackprop as fb` imports nothing else: a module, and jax with it, is imported when one of
its names is touched, so that the command line answers `--help` at once.
"""

from fbackprop.lazy import lazy_names

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(
  "fbackprop",
  {
    "activations": (
      "activation",
      "elu",
      "gelu",
      "gelu_tanh",
      "hard_tanh",
      "identity",
      "leaky_relu",
      "mish",
      "relu",
      "relu6",
      "selu",
      "sigmoid",
      "silu",
      "softmax",
      "softplus",
      "tanh",
    ),
    "checks": ("DtypeError", "ShapeError", "StructureError"),
    "combinators": ("serial", "skip"),
    "inspection": ("Signals", "as_custom_vjp_with_logs", "inspect"),
    "linear": ("DenseParams", "dense"),
    "losses": (
      "combine",
      "hinge",
      "huber",
      "huber_with",
      "log_cosh",
      "poisson_nll",
      "sigmoid_cross_entropy",
      "softmax_cross_entropy",
      "softmax_cross_entropy_with",
      "squared_error",
    ),
    "networks": ("mlp",),
    "noise": ("dropout",),
    "normalization": ("NormParams", "layer_norm", "rms_norm"),
    "repetition": ("remat", "repeat"),
    "transforms": ("as_custom_vjp", "pullback", "residual_bytes", "value_and_grad"),
    "types": ("Gate", "Layer", "Loss"),
  },
  subpackages=("circuit", "gates", "quantities", "train", "verify"),
)
