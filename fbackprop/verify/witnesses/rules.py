"""The rule that is verified, as a function of flat lists, and what it may not return."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import describe
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report.findings import RuleError, UnusableError
from fbackprop.verify.witnesses.arguments import Leaves, Signature, with_float0


class Rule(NamedTuple):
  """A function with the rule that is to be verified.

  Attributes:
    f: the function; the reference, once custom VJPs are taken out of it.
    f_vjp: `f_vjp(*args) -> (y, pullback)`; None if f carries its rule.
    signature: of the arguments.
    out_structure: the tree of y.
  """

  f: Callable[..., Any]
  f_vjp: Callable[..., Any] | None
  signature: Signature
  out_structure: Any

  def forward(self, *leaves: Any) -> Leaves:
    """The outputs of f."""
    return jax.tree.leaves(self.f(*self.signature.arguments(leaves)))

  def both(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> tuple[Leaves, Leaves]:
    """The rule's outputs, and its cotangents of the float leaves.

    Raises:
      RuleError: the cotangents haven't the structure, shapes or dtypes of the arguments.
    """
    y, pull = self.pullback(leaves)
    structure = jax.tree.structure(y)
    if structure != self.out_structure:
      raise RuleError("structure", f"the rule's output is {structure}, f's is {self.out_structure}")
    outputs = [output_array(leaf) for leaf in jax.tree.leaves(y)]
    return outputs, pull(jax.tree.unflatten(structure, list(y_bar)))

  def backward(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> Leaves:
    """The cotangents alone."""
    return self.both(leaves, y_bar)[1]

  def of_floats(self, y_bar: Sequence[Any]) -> tuple[Callable[[Leaves, Leaves], Leaves], Leaves]:
    """`backward` as a function of leaves and float cotangents, which is what jit takes; and those.

    Args:
      y_bar: the cotangents of all outputs, float0 of those that aren't floats.
    """

    def backward(leaves: Leaves, floats: Leaves) -> Leaves:
      return self.backward(leaves, with_float0(y_bar, floats))

    return backward, [b for b in y_bar if is_float(b.dtype)]

  def pullback(self, leaves: Sequence[Any]) -> tuple[Any, Callable[[Any], Leaves]]:
    """The rule's output and its pullback to the float leaves."""
    if self.f_vjp is None:
      floats = self.signature.floats

      def of_floats(*own: Any) -> Any:
        full = list(leaves)
        for place, leaf in zip(floats, own, strict=True):
          full[place] = leaf
        return self.f(*self.signature.arguments(full))

      y, pull_floats = jax.vjp(of_floats, *(jnp.asarray(leaves[i]) for i in floats))
      return y, lambda y_bar: list(pull_floats(y_bar))
    args = self.signature.arguments(leaves)
    found = self.f_vjp(*args)
    if not (isinstance(found, tuple) and len(found) == 2 and callable(found[1])):
      raise RuleError("structure", f"f_vjp must return (y, pullback), got {describe(found)}")
    y, pull = found
    return y, lambda y_bar: self.checked(args, pull(y_bar))

  def checked(self, args: tuple[Any, ...], bars: Any) -> Leaves:
    """The cotangents of the float leaves, in order."""
    places = iter(zip(self.signature.names, self.signature.is_float, strict=True))
    if not isinstance(bars, tuple | list) or len(bars) != len(args):
      raise RuleError(
        "structure",
        f"the pullback must return a tuple of {len(args)} cotangents, one for each argument, got "
        f"{describe(bars)}",
      )
    found: Leaves = []
    for arg, bar in zip(args, bars, strict=True):
      structure: Any = jax.tree.structure(arg)
      leaves = jax.tree.leaves(arg)
      own: Any
      own_places = [next(places) for _ in leaves]
      own_names = [name for name, _ in own_places]
      if bar is None and not any(real for _, real in own_places):
        continue
      try:
        own_bars = structure.flatten_up_to(bar)
      except ValueError as error:
        raise RuleError(
          "structure",
          f"the cotangent of {own_names[0] if own_names else 'an empty argument'} must be "
          f"{structure}, got {jax.tree.structure(bar)}",
          own_names[0].partition("/")[0] if own_names else "",
        ) from error
      for (name, real), leaf, own in zip(own_places, leaves, own_bars, strict=True):
        if real:
          found.append(checked_leaf(name, leaf, own))
        elif own is not None and getattr(own, "dtype", None) != jax.dtypes.float0:
          raise RuleError(
            "structure",
            f"{name} holds integers, whose cotangent must be None or float0, got {describe(own)}",
            name,
          )
    return found


def output_array(leaf: Any) -> Any:
  """An output of the rule; a number of Python's is one, as in a function that returns a count."""
  if isinstance(leaf, bool | int | float):
    return jnp.asarray(leaf)
  if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
    raise RuleError("structure", f"the rule's outputs must be arrays, got {describe(leaf)}")
  return leaf


def checked_leaf(name: str, leaf: Any, bar: Any) -> Any:
  """The cotangent of one float leaf."""
  if bar is None or getattr(bar, "dtype", None) == jax.dtypes.float0:
    got = "None" if bar is None else "float0"
    raise RuleError(
      "no gradient", f"the cotangent of {name} must be {describe(leaf)}, got {got}", name
    )
  if not (hasattr(bar, "shape") and hasattr(bar, "dtype")):
    raise RuleError(
      "structure", f"the cotangent of {name} must be {describe(leaf)}, got {describe(bar)}", name
    )
  if bar.shape != leaf.shape:
    raise RuleError(
      "structure", f"the cotangent of {name} must be {describe(leaf)}, got {describe(bar)}", name
    )
  if not is_float(bar.dtype):
    raise RuleError(
      "dtype", f"the cotangent of {name} must be {describe(leaf)}, got {describe(bar)}", name
    )
  return bar


def rule_of(
  f: Callable[..., Any],
  f_vjp: Callable[..., Any] | None,
  signature: Signature,
  leaves: Leaves,
) -> tuple[Rule, list[Any]]:
  """The rule, and the shapes of the outputs of f.

  Raises:
    UnusableError: f raises, or returns no array of floats.
  """
  try:
    out = jax.eval_shape(lambda *leaves: f(*signature.arguments(leaves)), *leaves)
  except Exception as error:
    raise UnusableError(f"f(*args) raises {type(error).__name__}: {first_line(error)}") from error
  outputs = jax.tree.leaves(out)
  if not any(hasattr(o, "dtype") and is_float(o.dtype) for o in outputs):
    got = ", ".join(describe(o) for o in outputs) or "nothing"
    raise UnusableError(f"f must return an array of floats, got {got}")
  for o in outputs:
    if jnp.issubdtype(o.dtype, np.complexfloating):
      raise UnusableError(f"complex numbers aren't supported, f returns {describe(o)}")
  return Rule(f, f_vjp, signature, jax.tree.structure(out)), outputs


def first_line(error: BaseException) -> str:
  """What an error says, in a line of at most 200 characters."""
  text = (str(error).strip().splitlines() or [""])[0]
  return text if len(text) <= 200 else text[:197] + "..."


def types_of(bars: Sequence[Any]) -> list[tuple[tuple[int, ...], np.dtype[Any], bool]]:
  """Shape, dtype and weak type of cotangents."""
  return [(b.shape, jnp.dtype(b.dtype), bool(getattr(b, "weak_type", False))) for b in bars]
