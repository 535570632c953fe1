"""The names of optimisers, schedules and shuffles: the command line reads them without jax."""

from typing import Literal, get_args

OptimizerName = Literal[
  "gradient_descent", "momentum", "nesterov", "adam", "rmsprop", "adagrad", "lion"
]
ScheduleName = Literal["constant", "cosine", "linear", "exponential"]
ShuffleName = Literal["exact", "fast"]
# What a step that isn't finite does: it ends the run, is left out, or sends it back.
NonfiniteName = Literal["raise", "skip", "rollback"]
# What a run tells of its examples and its layers, beside the loss.
WatchName = Literal["health", "noise_scale"]
OPTIMIZERS, SCHEDULES = get_args(OptimizerName), get_args(ScheduleName)
