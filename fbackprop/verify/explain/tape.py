"""A function's program as a list of steps, whose backward sweep can be altered at any of them.

The reference is traced in float64, its calls are written out and short scans unrolled. Each step's
pullback is traced once and evaluated by NumPy, so that nothing is compiled, and many altered
sweeps run as one: arrays have an axis of samples in front, of length 1 where all are the same.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Program, bind
from fbackprop.verify.explain.steps import Writer, pullback_of, struct
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float

# Replaces a step's operand cotangents: given its place, its inputs and its outputs' cotangents.
Hook = Callable[[int, list[np.ndarray], list[np.ndarray]], list[np.ndarray | None] | None]


class Tape:
  """The program of a function at one point, with its values and cotangents.

  Args:
    function: of flat arrays; it returns a list of arrays.
    leaves: its arguments; floats are float64.
    y_bar: cotangents of the outputs; None for one that isn't a float.
    until: the moment at which the search must end.

  Attributes:
    values: of every variable, without an axis of samples.
    bars: the cotangent of every variable, or None where there is none.
    edges: the cotangent that each step sends to each operand.
    float_leaves: the places of the arguments that are floats.
  """

  def __init__(
    self,
    function: Callable[..., list[Any]],
    leaves: Sequence[Any],
    y_bar: Sequence[np.ndarray | None],
    until: float = math.inf,
  ) -> None:
    self.until = until
    self.pullbacks: dict[Any, Program] = {}
    written = Writer(jax.make_jaxpr(function)(*leaves))
    self.steps, self.constants, self.count = written.steps, written.constants, written.count
    self.outputs = written.outputs
    self.leaves = list(leaves)
    self.float_leaves = [i for i, x in enumerate(leaves) if is_float(x.dtype)]
    self.values = self.evaluated()
    self.depends = self.dependent()
    self.y_bars = {
      place: np.asarray(bar)[None]
      for place, bar in self.summed(zip(self.outputs, y_bar, strict=True)).items()
    }
    self.bars, self.edges = self.sweep(self.y_bars)

  # --- Values -----------------------------------------------------------------------------------

  def run(self, *floats: Any) -> list[Any]:
    """All values, in JAX, of the float leaves."""
    values: list[Any] = [None] * self.count
    for place, leaf in enumerate(self.leaves):
      values[place] = leaf
    for place, x in zip(self.float_leaves, floats, strict=True):
      values[place] = x
    for place, x in self.constants.items():
      values[place] = x
    for step in self.steps:
      outputs = bind(step.primitive, step.params, [values[i] for i in step.inputs])
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x
    return [jnp.zeros(()) if x is None else x for x in values]

  def evaluated(self) -> list[Any]:
    """The values, by NumPy."""
    floats = [self.leaves[i] for i in self.float_leaves]
    program = jax.make_jaxpr(self.run)(*floats)
    return [x[0] for x in Evaluator().run(program, floats)]

  def tangents(self, directions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The derivative of every float value along directions of the float leaves, `[S, ...]` each."""
    floats = [self.leaves[i] for i in self.float_leaves]

    def push(*dots: Any) -> list[Any]:
      values, dots_out = jax.jvp(self.run, tuple(floats), dots)
      return [
        d if is_float(v.dtype) else jnp.zeros(()) for v, d in zip(values, dots_out, strict=True)
      ]

    program = jax.make_jaxpr(push)(*floats)
    return [np.asarray(d) for d in Evaluator().run_stacked(program, list(directions))]

  def dependent(self) -> set[int]:
    """The places whose values depend on a float leaf, also through a `stop_gradient`."""
    found = set(self.float_leaves)
    for step in self.steps:
      if any(i in found for i in step.inputs):
        found.update(i for i in step.outputs if is_float(self.values[i].dtype))
    return found

  # --- Backward -----------------------------------------------------------------------------------

  def summed(self, bars: Any) -> dict[int, Any]:
    """Cotangents by place; those of one place are added."""
    total: dict[int, Any] = {}
    for place, bar in bars:
      if bar is not None:
        total[place] = total[place] + bar if place in total else bar
    return total

  def sweep(
    self, bars: dict[int, np.ndarray], hook: Hook | None = None
  ) -> tuple[dict[int, np.ndarray], dict[tuple[int, int], np.ndarray]]:
    """Pulls cotangents, each with an axis of samples, back to the leaves.

    Args:
      bars: by place; several may be given.
      hook: replaces what some steps do.

    Returns:
      The cotangents by place, and by step and operand.
    """
    total = dict(bars)
    edges: dict[tuple[int, int], np.ndarray] = {}
    for k in range(len(self.steps) - 1, -1, -1):
      step = self.steps[k]
      if not any(i in total for i in step.outputs):
        continue
      if not any(i in self.depends for i in step.inputs):
        continue
      if time.monotonic() > self.until:
        raise TimeoutError
      out = [total.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in step.outputs]
      inputs = [self.stacked(i) for i in step.inputs]
      pulled = hook(k, inputs, out) if hook is not None else None
      if pulled is None:
        pulled = self.pull(k, inputs, out)
      for j, (place, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
        if bar is not None and place in self.depends:
          edges[k, j] = bar
          total[place] = total[place] + bar if place in total else bar
    return total, edges

  def stacked(self, place: int) -> Any:
    """A value with an axis of one sample."""
    return stacked(self.values[place])

  def pull(self, k: int, inputs: list[Any], bars: list[np.ndarray]) -> list[np.ndarray | None]:
    """The pullback of one step; None for an operand that isn't a float."""
    step = self.steps[k]
    if step.name == "stop_gradient":
      return [None] * len(inputs)
    is_real = [is_float(self.values[i].dtype) for i in step.inputs]
    which = [j for j, real in enumerate(is_real) if real]
    outs = [b for b, i in zip(bars, step.outputs, strict=True) if is_float(self.values[i].dtype)]
    found: list[np.ndarray | None] = [None] * len(inputs)
    if not outs or not which:
      return found
    if k not in self.pullbacks:
      shapes = [struct(np.shape(x)[1:], x.dtype) for x in inputs]
      out_shapes = [struct(b.shape[1:], np.float64) for b in outs]
      # Equal steps, as the layers of a network, share one.
      parameters = "\n".join(f"{key}={value}" for key, value in step.params.items())
      key = (step.name, parameters, *((s.shape, str(s.dtype)) for s in shapes))
      is_shared = step.name != "custom_jvp_call" and "jaxpr" not in parameters
      if not (is_shared and key in self.pullbacks):
        pullback = partial(pullback_of, step, which, len(out_shapes))
        self.pullbacks[key if is_shared else k] = jax.make_jaxpr(pullback)(*shapes, *out_shapes)
      self.pullbacks[k] = self.pullbacks[key if is_shared else k]
    pulled = Evaluator().run_stacked(self.pullbacks[k], [*inputs, *outs])
    for j, bar in zip(which, pulled, strict=True):
      found[j] = np.asarray(bar)
    return found

  def recomputed(
    self, changes: dict[int, Any], read_instead: dict[int, dict[int, Any]]
  ) -> list[Any]:
    """All values again, some of them given, or some operands of some steps.

    Args:
      changes: values by place.
      read_instead: by step and operand, the value that is read.
    """
    values = list(self.values)
    for place, x in changes.items():
      values[place] = x
    changed = set(changes)
    for k, step in enumerate(self.steps):
      own = read_instead.get(k, {})
      if not own and not any(i in changed for i in step.inputs):
        continue
      if time.monotonic() > self.until:
        raise TimeoutError
      inputs = [own.get(j, values[i]) for j, i in enumerate(step.inputs)]
      outputs = Evaluator().apply(step.equation, [stacked(x) for x in inputs], ())
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x[0]
        changed.add(place)
    return values

  def applied(self, k: int, inputs: dict[int, np.ndarray]) -> list[np.ndarray]:
    """What a step makes of other operands, with an axis of samples."""
    step = self.steps[k]
    values = [stacked(inputs.get(j, self.values[i])) for j, i in enumerate(step.inputs)]
    return [np.asarray(x) for x in Evaluator().apply(step.equation, values, ())]

  def alike(self, place: int, is_own: bool = False) -> list[int]:
    """Other values of a value's shape and dtype, each number once; also itself, if wanted."""
    value = self.values[place]
    if not isinstance(value, np.ndarray):
      return []
    seen = set() if is_own else {value.tobytes()}
    found = []
    for other, x in enumerate(self.values):
      if isinstance(x, np.ndarray) and (x.dtype, x.shape) == (value.dtype, value.shape):
        key = x.tobytes()
        if key not in seen:
          seen.add(key)
          found.append(other)
    return found

  def describe(self, place: int) -> str:
    """A value, by what computed it."""
    for step in self.steps:
      if place in step.outputs:
        return f"{step.name} {list(np.shape(self.values[place]))}"
    return f"argument leaf {place}" if place < len(self.leaves) else "a constant"

  def data_dependent(self) -> set[int]:
    """The places that depend on a float leaf, those of integers and conditions too."""
    found = set(self.float_leaves)
    for step in self.steps:
      if any(i in found for i in step.inputs):
        found.update(step.outputs)
    return found

  def at_leaves(self, bars: dict[int, np.ndarray]) -> list[np.ndarray]:
    """The cotangents of the float leaves; zeros where none arrives."""
    shapes = [np.shape(self.values[i]) for i in self.float_leaves]
    return [bars.get(i, np.zeros((1, *s))) for i, s in zip(self.float_leaves, shapes, strict=True)]


def stacked(value: Any) -> Any:
  """A value with an axis of one sample."""
  return value[None] if hasattr(value, "shape") else np.asarray(value)[None]
