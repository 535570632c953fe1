"""Specimens of the bank: functions with a rule that is wrong in one known way, or right.

A specimen is a decorated backward rule. The decorator names the function that it differentiates,
its arguments, and the expected findings:

  @bug("b: constant factor", dense, (5, 4), (4, 3), (3,))
  def bias_mean(x, w, b, y_bar):
    return y_bar @ w.T, x.T @ y_bar, y_bar.mean(axis=0)

A rule in forward mode takes the tangents after the arguments, and returns the output's:

  @bug("z: other function", ref.softplus, (5, 3), custom_jvp=True)
  def tangent_of_relu(z, z_dot):
    return z_dot * (z > 0)

A specimen that depends on its form (state in a closure, a rule within a rule) is a decorated
function without arguments that returns the `Example`.

The arguments are small, deterministic, with distinct dimensions except on purpose; `draw` draws
them. A tuple is the shape of a standard normal array; any other argument is a function that returns
the argument: `positive(3)` describes an array, and `positive(3)()` draws it. So a decorator can
state its arguments without any computation at import.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.types import Array

# The kinds of causes, the text before the colon. First a whole leaf's: a constant factor is a sign,
# 2, N, 1/N (mean for sum), 1.000001; permuted are rows or columns; a subset of examples is omitted
# or counted with another weight; "proportional to a parameter" is weight decay. Then: a path
# through the graph that is missing, or counted k times; a derivative at a wrong point, such as the
# output or a neighbour's residual, or of another function, such as gelu's tanh form; a
# stop_gradient of the reference that was removed; entries cut off at a value; a result rounded to a
# narrower dtype on the way; a cotangent that is ignored or used nonlinearly; a result that depends
# on earlier calls; a mode (jit, vmap, scan, second order) in which alone the rule is wrong; None
# for a float leaf; an output that isn't the function's; a straight-through rule that wasn't
# declared.
KINDS = (
  "constant factor", "zero", "transposed", "permuted", "subset of examples",
  "proportional to a parameter", "path", "wrong point", "other function", "stop_gradient",
  "clipped", "kink", "precision", "cotangent", "state", "mode", "structure", "dtype", "no gradient",
  "raises", "not finite", "forward", "semantic",
)  # fmt: skip

Function = Callable[..., Any]
Wanted = tuple[int, ...] | Callable[[], Any]


class Example(NamedTuple):
  """The arguments of `verify.vjp(f, *args, f_vjp=f_vjp, **options)`, or of `verify.jvp`.

  Attributes:
    f: a function that contains a `custom_vjp` or `custom_jvp`, or the reference of a rule.
    args: the arguments of `f`.
    f_vjp: `f_vjp(*args) -> (y, pullback)`, or None.
    options: more keywords, such as a tie policy.
    f_jvp: `f_jvp(primals, tangents) -> (y, y_dot)`, the rule that `verify.jvp` verifies, or None.
  """

  f: Function
  args: tuple[Any, ...]
  f_vjp: Function | None = None
  options: Mapping[str, Any] = {}
  f_jvp: Function | None = None


class Specimen(NamedTuple):
  """A planted bug, or a correct and unusual implementation.

  Attributes:
    name: a short, unique name, its words joined by "-".
    make: builds a new example; nothing is computed at import.
    leaves: the leaves that may be named first, such as "params/1/w"; () where the bug has no leaf,
      and for a right rule.
    causes: the acceptable kinds of cause, of `KINDS`; () for a right rule.
    level: the lowest level of `vjp` that catches the bug: "standard" for a bug that needs the
      points, sizes and transformations that "quick" omits.
  """

  name: str
  make: Callable[[], Example]
  leaves: tuple[str, ...] = ()
  causes: tuple[str, ...] = ()
  level: str = "quick"


def bug(
  expected: str, *problem: Any, level: str = "quick", **options: Any
) -> Callable[[Function], Specimen]:
  """Declare a wrong rule.

  Args:
    expected: the leaves that may be named first and the acceptable kinds of cause, of `KINDS`, as
      "x, w: path, zero"; without a leaf, the kinds alone.
    problem: the function that the rule differentiates, and its arguments as `draw` takes them;
      nothing, if the decorated function returns the `Example`.
    level: the lowest level of `vjp` that catches the bug.
    options: the options of `example`.

  Returns:
    A decorator, which returns the `Specimen`: named after the function, with "-" for "_".
  """
  leaves, causes = (
    tuple(words.split(", ")) if words else () for words in expected.rpartition(": ")[::2]
  )

  def declare(function: Function) -> Specimen:
    @functools.wraps(function)
    def make() -> Example:
      return example(problem[0], function, *problem[1:], **options) if problem else function()

    return Specimen(function.__name__.replace("_", "-"), make, leaves, causes, level)

  return declare


# Declares a right rule; its arguments are the others of `bug`.
right = functools.partial(bug, "")


def example(
  reference: Function,
  rule: Function,
  *arguments: Wanted,
  f_vjp: bool = False,
  f_jvp: bool = False,
  custom_jvp: bool = False,
  forward: Function | None = None,
  nondiff_argnums: tuple[int, ...] = (),
  dtype: Any = jnp.float32,
  state: Callable[[], Any] | None = None,
  **options: Any,
) -> Example:
  """Combine a rule with the function that it differentiates.

  Args:
    reference: the function without a rule.
    rule: `rule(*residuals, y_bar) -> args_bar`; in forward mode `rule(*args, *args_dot) -> y_dot`.
    arguments: the arguments as `draw` takes them.
    f_vjp: whether to return the rule separately, as `f_vjp(*args) -> (y, pullback)`; by default a
      copy of the function contains it, by `jax.custom_vjp`.
    f_jvp: whether the rule is in forward mode, and returned separately.
    custom_jvp: whether the rule is in forward mode, and contained in a copy of the function.
    forward: `forward(*args) -> (y, residuals)`, `residuals` a tuple; by default it calls the
      reference and keeps all arguments that are differentiated.
    nondiff_argnums: the positions of static arguments, which the rule gets first.
    dtype: the dtype of the arguments that are given by their shape.
    state: makes a state, which the rule gets before the residuals and keeps from call to call.
    options: the options of the `Example`.
  """
  args = draw(*arguments, dtype=dtype)
  if f_jvp or custom_jvp:

    def with_tangents(primals, tangents):
      return reference(*primals), rule(*primals, *tangents)

    if f_jvp:
      return Example(reference, args, None, options, with_tangents)
    pushed = jax.custom_jvp(reference)
    pushed.defjvp(with_tangents)
    return Example(pushed, args, None, options)

  def keeping_all(*args):
    return reference(*args), tuple(a for i, a in enumerate(args) if i not in nondiff_argnums)

  forward = forward or keeping_all
  rule = functools.partial(rule, state()) if state else rule

  def with_pullback(*args):
    y, residuals = forward(*args)
    return y, functools.partial(rule, *residuals)

  if f_vjp:
    return Example(reference, args, with_pullback, options)
  f = jax.custom_vjp(reference, nondiff_argnums=nondiff_argnums)
  # Called with the static arguments, the residuals and the cotangent.
  f.defvjp(forward, lambda *own: rule(*own[:-2], *own[-2], own[-1]))
  return Example(f, args, None, options)


# The arguments.


def draw(*wanted: Wanted, seed: int = 0, dtype: Any = jnp.float32) -> tuple[Any, ...]:
  """Draw the arguments; those given by shape share one generator."""
  generator = np.random.default_rng(seed)
  return tuple(a() if callable(a) else jnp.asarray(generator.normal(size=a), dtype) for a in wanted)


def described(function: Function) -> Callable[..., Callable[[], Any]]:
  """Make a call of the function describe its result instead of computing it."""
  return functools.wraps(function)(functools.partial(functools.partial, function))


@described
def normal(*shape: int, seed: int, times: float = 1) -> Array:
  """Draw a standard normal array from a seed of its own, and scale it."""
  return times * jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@described
def normal_with_zeros(*shape: int) -> Array:
  """Draw a standard normal array with an exact zero in every third entry."""
  return draw(shape)[0].ravel().at[::3].set(0).reshape(shape)


@described
def positive(*shape: int, seed: int = 0) -> Array:
  """Draw numbers between 0.5 and 2."""
  return jnp.asarray(np.random.default_rng(seed).uniform(0.5, 2, size=shape), jnp.float32)


@described
def labels(n: int, classes: int) -> Array:
  """Draw labels [N] from 0 to C - 1."""
  return jnp.asarray(np.random.default_rng(0).integers(classes, size=n), jnp.int32)


@described
def integers(*values: int) -> Array:
  """Return these integers, or booleans."""
  return jnp.asarray(values)


def static(value: Any) -> Callable[[], Any]:
  """Return a description of this value: a string, a number of Python, a function."""
  return lambda: value


@described
def probabilities(n: int, classes: int, seed: int = 0) -> Array:
  """Draw positive rows [N, C] that sum to one."""
  rows = np.random.default_rng(seed).uniform(0.1, 1, size=(n, classes))
  return jnp.asarray(rows / rows.sum(1, keepdims=True), jnp.float32)


@described
def mlp_params(*sizes: int) -> tuple[dict[str, Array], ...]:
  """Draw the parameters of an MLP: a dictionary of w and b for each layer."""
  generator = np.random.default_rng(0)
  return tuple(
    {
      "b": jnp.asarray(generator.normal(size=d_out) / 4, jnp.float32),
      "w": jnp.asarray(generator.normal(size=(d_in, d_out)) / np.sqrt(d_in), jnp.float32),
    }
    for d_in, d_out in itertools.pairwise(sizes)
  )


@described
def one_layer(d_in: int, d_out: int) -> dict[str, Array]:
  """Draw the parameters of one layer."""
  return mlp_params(d_in, d_out)()[0]
