"""Training: the lecture's loop, compiled, stopping for a stated reason.

`make_step` is one step as a pure function, for those who write their own loop; `fit` is the whole
run, and the command `fbackprop train` is a thin face of it. Names are imported when they are
touched, so that the command line can read its defaults without jax.
"""

from fbackprop.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  "fbackprop.train",
  {
    "checkpoints": ("Checkpoints",),
    "ensemble_results": ("EnsembleEvaluation", "EnsembleResult", "Spread", "spread_of"),
    "ensembles": ("fit_ensemble",),
    "fitting": ("fit",),
    "optimizers": ("gradient_descent",),
    "results": ("Evaluation", "Result"),
    "steps": ("Batch", "Info", "State", "make_step"),
    "stopping": ("StopRules",),
    "weights": ("load_params", "save_params"),
  },
)
