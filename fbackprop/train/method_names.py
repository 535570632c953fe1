"""The names of optimisers and schedules. The command line reads them from here, without jax."""

from typing import Literal, get_args

OptimizerName = Literal[
  "gradient_descent", "momentum", "nesterov", "adam", "rmsprop", "adagrad", "lion"
]
ScheduleName = Literal["constant", "cosine", "linear", "exponential"]
OPTIMIZERS, SCHEDULES = get_args(OptimizerName), get_args(ScheduleName)
