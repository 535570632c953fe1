"""The names of optimizers, schedules and shuffles: the command line reads them without jax."""

from typing import Literal, get_args

OptimizerName = Literal[
  "gradient_descent", "momentum", "nesterov", "adam", "rmsprop", "adagrad", "lion"
]
ScheduleName = Literal["constant", "cosine", "linear", "exponential"]
ShuffleName = Literal["exact", "fast"]
# Responses to a nonfinite step: end the run, skip the step, or restore the last checkpoint.
NonfiniteName = Literal["raise", "skip", "rollback"]
# Diagnostics that a run can record besides the loss.
WatchName = Literal["health", "noise_scale"]
OPTIMIZERS, SCHEDULES = get_args(OptimizerName), get_args(ScheduleName)
