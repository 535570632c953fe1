"""The integers that point: which arguments index another array, and how far they may point.

A test point that shortens an axis must not leave an index behind that points beyond it, one that
redraws labels should reach the last class, and lengths should reach zero and the whole row. These
limits aren't in the values of one call but in the program: integers are followed from the arguments
through the operations that keep them, to gathers, scatters, slices, and comparisons with an `iota`,
as of `one_hot` and of masks from lengths.

Doubts: an integer that is computed from arguments by arithmetic, as a stride or an offset, is only
known to point: it keeps the range in which it was given. What happens inside of kernels isn't seen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from fbackprop.jaxprs import BODIES, Program, bodies, inner_program, scan_of, while_of

# Operations whose results are the integers of their operand.
KEPT = frozenset((
  "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose",
  "slice", "dynamic_slice", "rev", "copy", "copy_p", "stop_gradient", "clamp", "sort", "pad",
  "concatenate", "gather", "optimization_barrier", "split", "max", "min",
))  # fmt: skip
COMPARED = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))


class Pointer(NamedTuple):
  """What an integer argument points into.

  Attributes:
    end: the values are below it: the length of the axis, or one more for lengths; None if it isn't
      known.
    is_overwriting: whether equal values would compete for an entry, as in `x.at[i].set(y)`.
  """

  end: int | None = None
  is_overwriting: bool = False


class Origin(NamedTuple):
  """An integer input from which a variable is computed.

  Attributes:
    place: the position of the input; constants of the program follow the inputs.
    kind: "kept" for the input's own values; "shifted" for these plus a constant, as a negative
      index is wrapped; "computed" for others.
  """

  place: int
  kind: str


Origins = frozenset[Origin]
NONE: Origins = frozenset()


class State:
  """The origins of the variables of a program, and the pointers found so far."""

  def __init__(self) -> None:
    self.found: dict[int, list[Pointer]] = {}

  def point(self, origins: Origins, end: int, is_overwriting: bool = False) -> None:
    """Record that a variable is used as an index."""
    for origin in origins:
      known = end if origin.kind == "kept" else None
      self.found.setdefault(origin.place, []).append(Pointer(known, is_overwriting))

  def walk(self, program: Program, inputs: Sequence[Origins]) -> list[Origins]:
    """Follow the origins of a program's inputs to its outputs."""
    jaxpr = program.jaxpr
    origins: dict[Any, Origins] = dict(zip(jaxpr.invars, inputs, strict=True))
    sizes: dict[Any, int] = {}  # Variables that count the places of an axis, and its length.
    columns: dict[Any, list[Origins]] = {}

    def of(atom: Any) -> Origins:
      return NONE if isinstance(atom, core.Literal) else origins.get(atom, NONE)

    for equation in jaxpr.eqns:
      name, own = equation.primitive.name, [of(v) for v in equation.invars]
      if name == "iota":
        sizes[equation.outvars[0]] = equation.params["shape"][equation.params["dimension"]]
        continue
      inner = inner_program(equation)
      if inner is not None:
        results = self.walk(inner, own)
      elif name in BODIES:
        results = self.body(equation, own)
      else:
        counted = [
          s
          for v in equation.invars
          if not isinstance(v, core.Literal)
          for s in [sizes.get(v)]
          if s is not None
        ]
        if counted and (name in KEPT or name in ("add", "sub")):
          sizes[equation.outvars[0]] = counted[0]
        if counted and name in COMPARED:
          end = counted[0] + (name not in ("eq", "ne"))
          for origin in own:
            self.point(origin, end)
        self.uses(equation, own, columns)
        results = [derived(name, equation, own)] * len(equation.outvars)
        if (
          name == "concatenate"
          and all(v.aval.shape[-1:] == (1,) for v in equation.invars)
          and equation.params["dimension"] == len(equation.outvars[0].aval.shape) - 1
        ):
          columns[equation.outvars[0]] = own
      origins.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]

  def uses(self, equation: Any, own: list[Origins], columns: dict[Any, list[Origins]]) -> None:
    """Record the indices of a gather, a scatter or a slice."""
    name, shape = (
      equation.primitive.name,
      getattr(equation.invars[0].aval, "shape", ()) if equation.invars else (),
    )
    if name == "gather" or name.startswith("scatter"):
      numbers = equation.params["dimension_numbers"]
      if name == "gather":
        axes, sizes = numbers.start_index_map, equation.params["slice_sizes"]
      else:
        axes = numbers.scatter_dims_to_operand_dims
        window = iter(numbers.update_window_dims)
        updates = equation.invars[2].aval.shape
        left = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        sizes = [1 if d in left else updates[next(window)] for d in range(len(shape))]
      ends = [shape[a] - sizes[a] + 1 for a in axes]
      parts = columns.get(equation.invars[1], [])
      if len(parts) != len(axes):
        parts, ends = [own[1]], [min(ends, default=0)]
      for part, end in zip(parts, ends, strict=True):
        self.point(part, end, name == "scatter")
    elif name in ("dynamic_slice", "dynamic_update_slice"):
      first = 1 if name == "dynamic_slice" else 2
      size = equation.params["slice_sizes"] if first == 1 else equation.invars[1].aval.shape
      for axis, part in enumerate(own[first : first + len(shape)]):
        self.point(part, shape[axis] - size[axis] + 1, first == 2)

  def body(self, equation: Any, own: list[Origins]) -> list[Origins]:
    """Follow the origins through a loop, twice for what is carried, or through all branches."""
    name = equation.primitive.name
    if name == "scan":
      body, consts, carried, _, _ = scan_of(equation)
      for _ in range(2):
        results = self.walk(body, own)
        carry = [a | b for a, b in zip(own[consts:], results[:carried], strict=False)]
        own = [*own[:consts], *carry, *own[consts + carried :]]
      return results
    if name == "while":
      cond, cond_consts, body, body_consts = while_of(equation)
      ends = cond_consts, cond_consts + body_consts
      first, second, carry = own[: ends[0]], own[ends[0] : ends[1]], own[ends[1] :]
      for _ in range(2):
        self.walk(cond, [*first, *carry])
        results = self.walk(body, [*second, *carry])
        carry = [a | b for a, b in zip(carry, results, strict=True)]
      return carry
    branches = [self.walk(b, own[1:]) for b in bodies(equation)]
    self.point(own[0], len(branches))
    return [frozenset().union(*found) for found in zip(*branches, strict=True)]


def derived(name: str, equation: Any, own: list[Origins]) -> Origins:
  """Return the origins of an equation's results."""
  if name == "gather" or name == "dynamic_slice":
    return own[0]
  if name in KEPT:
    return frozenset().union(*own)
  if name == "select_n":
    together = frozenset().union(*own[1:])
    kept = {o.place for o in together if o.kind == "kept"}
    # The wrapped negative index, i + n where i < 0, is an index as i is.
    return frozenset(o for o in together if not (o.kind == "shifted" and o.place in kept))
  if name == "add" and any(isinstance(v, core.Literal) for v in equation.invars):
    return frozenset(
      Origin(o.place, "shifted" if o.kind == "kept" else "computed")
      for o in frozenset().union(*own)
    )
  if name in COMPARED or not all(
    np.issubdtype(v.aval.dtype, np.integer)
    for v in equation.outvars
    if isinstance(v.aval.dtype, np.dtype)
  ):
    return NONE
  return frozenset(Origin(o.place, "computed") for o in frozenset().union(*own))


def pointers_of(program: Program) -> dict[int, Pointer]:
  """Return the pointers among a program's inputs, by position.

  The integer constants that a program closes over follow its inputs.
  """
  state, count = State(), len(program.jaxpr.invars)
  lifted = [*program.jaxpr.invars, *program.jaxpr.constvars]
  whole = (
    program.jaxpr.replace(invars=lifted, constvars=[]) if program.jaxpr.constvars else program.jaxpr
  )
  inputs = [
    frozenset([Origin(i, "kept")]) if is_integer_dtype(v.aval.dtype) else NONE
    for i, v in enumerate(lifted)
  ]
  state.walk(core.ClosedJaxpr(whole, ()) if count != len(lifted) else program, inputs)
  found = {}
  for place, uses in state.found.items():
    ends = [p.end for p in uses]
    end = None if None in ends else min(e for e in ends if e is not None)
    found[place] = Pointer(end, any(p.is_overwriting for p in uses))
  return found


def permutations(program: Program, leaves: Sequence[Any]) -> set[int]:
  """Return the positions of the leaves that are a permutation of the axis that they point into."""
  return {
    place
    for place, pointer in pointers_of(program).items()
    if place < len(leaves) and np.array_equal(np.sort(leaves[place]), np.arange(pointer.end or 0))
  }


def within(program: Program, leaves: Sequence[Any]) -> list[Any] | None:
  """Return the leaves with integers that don't point beyond the axes of a program's arguments.

  Returns:
    None if integers that the program closes over do, or if several would overwrite one entry.
  """
  found = list(leaves)
  for place, pointer in pointers_of(program).items():
    if place >= len(found):
      constant = np.asarray(program.consts[place - len(found)])
      if pointer.end is None or (constant >= pointer.end).any():
        return None
    elif pointer.end is not None and np.size(found[place]):
      x = np.asarray(found[place])
      end = max(pointer.end, 1)
      if (x >= end).any() or (x < -end).any():
        found[place] = np.where(x < 0, -((-x - 1) % end) - 1, x % end).astype(x.dtype)
    if place < len(leaves) and pointer.is_overwriting:
      x = np.asarray(found[place])
      if np.unique(x % pointer.end if pointer.end else x).size < x.size:
        return None
  return found


def is_integer_dtype(dtype: Any) -> bool:
  """Return whether a dtype is an integer's."""
  return isinstance(dtype, np.dtype) and np.issubdtype(dtype, np.integer)
