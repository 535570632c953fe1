"""The backward sweep of a traced program, recorded so that it can be altered at any step.

Each step's pullback is traced once and evaluated by NumPy, so that nothing is compiled, and many
altered sweeps run as one: arrays have a leading axis of samples, of length 1 where all samples are
equal.

References:
  Griewank, Walther, "Evaluating Derivatives", SIAM, 2008, chapter 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fbackprop.jaxprs import Program
from fbackprop.verify.explain.steps import Steps, Values
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.rule import replaced

# The cotangents of a step's operands, given its number, its inputs and its outputs' cotangents;
# None for an operand that has none.
Pulled = list[np.ndarray | None]
Pull = Callable[[int, list[Any], list[np.ndarray]], Pulled]
Bars = Mapping[int, np.ndarray]
Edges = Mapping[tuple[int, int], np.ndarray]


class Tape(Steps):
  """The steps of a function at one point, with their values and cotangents.

  Attributes:
    depends: the places of floats that depend on a float argument.
    bars: the cotangent of every variable that has one.
    edges: the cotangent that each step sends to each operand.
    wants: the cotangents of the arguments that are floats.
  """

  def __init__(
    self,
    function: Callable[..., list[Any]],
    leaves: Sequence[Any],
    y_bar: Sequence[np.ndarray | None],
    until: float = math.inf,
  ) -> None:
    """Record the sweep.

    Args:
      function: a function of flat arrays that returns a list of arrays.
      leaves: the arguments; floats are float64.
      y_bar: the cotangents of the outputs; None for an output that isn't a float.
      until: the deadline of the search; TimeoutError is raised beyond it.
    """
    super().__init__(jax.make_jaxpr(function)(*leaves), leaves, until)
    self.pullbacks: dict[Any, Program] = {}
    self.depends = self.dependent()
    self.y_bars: dict[int, np.ndarray] = {}
    for place, bar in zip(self.outputs, y_bar, strict=True):
      if bar is not None:
        self.y_bars[place] = self.y_bars.get(place, 0.0) + np.asarray(bar)[None]
    self.bars, self.edges = self.sweep(self.y_bars)
    self.wants = [x[0] for x in self.at_leaves(self.bars)]

  def tangents(self, directions: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Differentiate every float value along directions of the float leaves, `[S, ...]` each."""
    places = [place for place, x in enumerate(self.values) if is_float(x.dtype)]
    floats = [self.leaves[i] for i in self.float_leaves]

    def run(*given: Any) -> list[Any]:
      values = dict(enumerate(self.leaves)) | self.constants
      values |= zip(self.float_leaves, given, strict=True)
      for step in self.steps:
        values |= zip(step.outputs, step.bind([values[i] for i in step.inputs]), strict=True)
      return [values[place] for place in places]

    program = jax.make_jaxpr(lambda *dots: jax.jvp(run, floats, list(dots))[1])(*floats)
    dots = Evaluator().run_stacked(program, directions)
    return {place: np.asarray(d) for place, d in zip(places, dots, strict=True)}

  # --- Backward -----------------------------------------------------------------------------------

  def sweep(self, bars: Bars, pull: Pull | None = None) -> tuple[Bars, Edges]:
    """Pull cotangents, each with an axis of samples, back to the leaves.

    Args:
      bars: cotangents by place.
      pull: replaces `self.pull`.

    Returns:
      The cotangents by place, and by step and operand.
    """
    total = dict(bars)
    edges: dict[tuple[int, int], np.ndarray] = {}
    for k, step in reversed(list(enumerate(self.steps))):
      if total.keys().isdisjoint(step.outputs) or self.depends.isdisjoint(step.inputs):
        continue
      self.check_time()
      out = [total.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in step.outputs]
      pulled = (pull or self.pull)(k, self.operands(k), out)
      for j, (place, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
        if bar is not None and place in self.depends:
          edges[k, j] = bar
          total[place] = total[place] + bar if place in total else bar
    return total, edges

  def pulled(self, bars: Bars | None = None, pull: Pull | None = None) -> list[np.ndarray]:
    """Return the cotangents of the float leaves, by default those of the outputs' cotangents."""
    return self.at_leaves(self.sweep(self.y_bars if bars is None else bars, pull)[0])

  def at_leaves(self, bars: Bars) -> list[np.ndarray]:
    """Return the cotangents of the float leaves; zeros where none arrives."""
    return [bars.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in self.float_leaves]

  def operands(self, k: int) -> list[Any]:
    """Return the inputs of a step, each with an axis of one sample."""
    return [self.values[i][None] for i in self.steps[k].inputs]

  def pull(self, k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
    """Apply the pullback of one step; None for an operand that isn't a float."""
    step = self.steps[k]
    which = [j for j, i in enumerate(step.inputs) if is_float(self.values[i].dtype)]
    outs = [b for b, i in zip(bars, step.outputs, strict=True) if is_float(self.values[i].dtype)]
    none: Pulled = [None] * len(inputs)
    if step.name == "stop_gradient" or not outs or not which:
      return none

    def pullback(*arrays: Any) -> list[Any]:
      def own(*floats: Any) -> list[Any]:
        outputs = step.bind(replaced(list(arrays[: len(inputs)]), which, floats))
        return [y for y in outputs if is_float(y.dtype)]

      y, pull = jax.vjp(own, *[arrays[j] for j in which])
      own_bars = zip(arrays[len(inputs) :], y, strict=True)
      return list(pull([bar.astype(out.dtype) for bar, out in own_bars]))

    arrays = [*inputs, *outs]
    if k not in self.pullbacks:
      # Equal steps, such as those of a network's layers, share one trace.
      types = [(x.shape[1:], str(x.dtype)) for x in arrays]
      key = f"{step.name} {step.equation.params} {types}"
      if "jaxpr" in key or key not in self.pullbacks:
        self.pullbacks[key] = jax.make_jaxpr(pullback)(*[x[0] for x in arrays])
      self.pullbacks[k] = self.pullbacks[key]
    return replaced(none, which, Evaluator().run_stacked(self.pullbacks[k], arrays))

  def reading(self, places: Mapping[int, Values]) -> Pull:
    """Return `pull` with the rules of some steps reading other places, by step and operand."""

    def pull(k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
      own = places.get(k, {})
      inputs = [self.values[own[j]][None] if j in own else x for j, x in enumerate(inputs)]
      return self.pull(k, inputs, bars)

    return pull
