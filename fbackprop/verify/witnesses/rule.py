"""The verified rule as a function of flat lists of arrays, and the contract of its results."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import describe
from fbackprop.verify.deadline import END, waited
from fbackprop.verify.interpret.primitives import digits, is_float, rounded
from fbackprop.verify.report import RuleError, UnusableError

Leaves = list[Any]
Function = Callable[..., Any]
# A rule that clips its cotangent is compared with a derivative at cotangents of this size.
TINY = 2.0**-20


class Signature(NamedTuple):
  """The arguments of a function as a list of arrays.

  Attributes:
    structure: the tree structure of the tuple of arguments.
    names: the path of each leaf, such as "params/1/w".
    dtypes: the dtype of each leaf.
    is_float: whether each leaf has a cotangent.
    fixed: the leaves that are Python integers or booleans, by position; they are never traced.
  """

  structure: Any
  names: tuple[str, ...]
  dtypes: tuple[Any, ...]
  is_float: tuple[bool, ...]
  fixed: dict[int, Any]

  @property
  def floats(self) -> list[int]:
    """The positions of the leaves that have a cotangent."""
    return [i for i, real in enumerate(self.is_float) if real]

  @property
  def float_names(self) -> list[str]:
    """The paths of these leaves."""
    return [self.names[i] for i in self.floats]

  @property
  def float_dtypes(self) -> list[Any]:
    """The dtypes of these leaves."""
    return [self.dtypes[i] for i in self.floats]

  @property
  def working(self) -> Any:
    """The narrowest floating dtype of the arguments: casts to it or to a wider one don't narrow."""
    return min(self.float_dtypes, key=digits)

  def arguments(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Rebuild the arguments from their leaves."""
    own = [self.fixed.get(i, leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(self.structure, own)

  def in_own_dtypes(self, leaves: Sequence[Any]) -> Leaves:
    """Return the arguments that a caller has: float leaves in their own dtypes, arrays of JAX.

    NumPy's integers can't be indexed by a tracer, as JAX's can.
    """
    return [
      in_dtype(leaf, dtype) if real
      else jax.device_put(leaf) if isinstance(leaf, np.ndarray)
      else leaf
      for leaf, dtype, real in zip(leaves, self.dtypes, self.is_float, strict=True)
    ]  # fmt: skip


def replaced(values: Sequence[Any], positions: Sequence[int], others: Sequence[Any]) -> Leaves:
  """Return a list with some entries replaced."""
  found = dict(zip(positions, others, strict=True))
  return [found.get(i, value) for i, value in enumerate(values)]


def signature_of(f: Function, args: tuple[Any, ...]) -> tuple[Signature, Leaves]:
  """Return the signature of a call, and its leaves as arrays.

  Raises:
    UnusableError: a leaf is neither an array nor a number, or no leaf is a float.
  """
  arguments, paths = parameter_names(f, len(args)), jax.tree_util.tree_leaves_with_path(args)
  names = tuple(path_name((arguments[path[0].idx], *path[1:])) for path, _ in paths)
  fixed = {i: leaf for i, (_, leaf) in enumerate(paths) if isinstance(leaf, bool | int)}
  leaves = [as_array(name, leaf) for name, (_, leaf) in zip(names, paths, strict=True)]
  dtypes = tuple(leaf.dtype for leaf in leaves)
  real = tuple(map(is_float, dtypes))
  if not any(real):
    got = ", ".join(f"{n} {describe(x)}" for n, x in zip(names, leaves, strict=True)) or "nothing"
    raise UnusableError(f"args must hold an array of floats, to be differentiated by, got {got}")
  return Signature(jax.tree.structure(args), names, dtypes, real, fixed), leaves


def as_array(name: str, leaf: Any) -> Any:
  """Return a leaf as a JAX array."""
  if isinstance(leaf, jax.core.Tracer):
    raise UnusableError(f"args must hold values, got {name} traced: call it outside of jit")
  if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
    raise UnusableError(f"args must hold arrays and numbers, got {name} {describe(leaf)}")
  try:
    array = jnp.asarray(leaf)
  except Exception as error:  # JAX has no arrays of objects, masked arrays, or integers this large.
    reason = (str(error).strip().splitlines() or [""])[0]
    raise UnusableError(f"args must hold arrays that JAX takes: {name}: {reason}") from error
  refusals = (
    (array.is_deleted(), f"args must hold values, but the buffer of {name} was deleted"),
    (is_complex(array), f"complex numbers aren't supported, got {name} {describe(array)}"),
  )  # fmt: skip
  for is_refused, message in refusals:
    if is_refused:
      raise UnusableError(message)
  return array


def parameter_names(f: Function, count: int) -> list[str]:
  """Return the names of the positional parameters, or "args/0" and so on without any."""
  try:
    parameters = list(inspect.signature(f).parameters.values())
  except (TypeError, ValueError):
    parameters = []
  names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
  return [*names, *(f"args/{i}" for i in range(len(names), count))][:count]


def path_name(path: Sequence[Any]) -> str:
  """Return a path of words, keys, indices and fields, such as "params/1/w"."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def is_complex(x: Any) -> bool:
  """Return whether an array is of complex numbers."""
  return bool(jnp.issubdtype(x.dtype, np.complexfloating))


def as_numpy(leaves: Sequence[Any]) -> Leaves:
  """Convert arrays to NumPy, floats to float64; typed keys remain JAX's."""
  return [
    x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else
    np.asarray(x, np.float64) if is_float(x.dtype) else np.asarray(x)
    for x in leaves
  ]  # fmt: skip


def with_float0(outputs: Sequence[Any], y_bar: Sequence[Any]) -> Leaves:
  """Insert the float0 cotangents of the other outputs among those of the float outputs."""
  own = iter(y_bar)
  return [next(own) if is_float(o.dtype) else np.zeros(o.shape, jax.dtypes.float0) for o in outputs]


def in_dtypes_of(outputs: Sequence[Any], y_bar: Sequence[np.ndarray]) -> Leaves:
  """Return the cotangents of all outputs, those of the floats in their own dtypes."""
  floats = [o.dtype for o in outputs if is_float(o.dtype)]
  return with_float0(outputs, [in_dtype(b, d) for b, d in zip(y_bar, floats, strict=True)])


def in_dtype(x: Any, dtype: Any) -> Any:
  """Return a JAX array of this dtype.

  NumPy casts it: JAX compiles a program for each shape, which takes longer than a small rule.
  """
  return jax.device_put(np.asarray(x).astype(dtype))


class Rule(NamedTuple):
  """A function and the rule to verify.

  Attributes:
    f: the function; without its custom VJPs it is the reference.
    f_vjp: `f_vjp(*args) -> (y, pullback)`; None if f contains its rule.
    signature: the signature of the arguments.
    out_structure: the tree structure of y.
    outputs: the shapes and dtypes of y.
    slope: the function whose derivative the rule is meant to be; None if it is f's own.
    by_callback: whether `f_vjp` needs the values of its arguments, as a rule in NumPy does, so that
      it is traced as a callback.
    takes_numpy: whether such a rule works on NumPy's arrays, which are quicker in a callback; one
      that uses what only JAX's have, such as `.at`, is given those.
  """

  f: Function
  f_vjp: Function | None
  signature: Signature
  out_structure: Any
  outputs: list[Any]
  slope: Function | None = None
  by_callback: bool = False
  takes_numpy: bool = True

  def forward(self, *leaves: Any) -> Leaves:
    """Return the outputs of f."""
    return jax.tree.leaves(self.f(*self.signature.arguments(leaves)))

  def is_outside(self, leaves: Sequence[Any]) -> bool:
    """Return whether f itself raises at these arguments, when it runs."""
    try:
      jax.block_until_ready(self.forward(*leaves))
    except Exception:  # Any exception is f's own.
      return True
    return False

  def differentiated(self, *leaves: Any) -> Leaves:
    """Return the outputs of the function whose derivative is meant."""
    return jax.tree.leaves((self.slope or self.f)(*self.signature.arguments(leaves)))

  def draw(self, seed: int, stream: int, linear: bool = True) -> list[np.ndarray]:
    """Draw cotangents of the float outputs, representable in the outputs' own dtypes.

    They are `TINY` for a rule that isn't meant to be linear in them.
    """
    rng, size = np.random.default_rng([seed, 10, stream]), 1.0 if linear else TINY
    own = (o for o in self.outputs if is_float(o.dtype))
    return [size * rounded(rng.normal(size=o.shape), o.dtype) for o in own]

  def both(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> tuple[Leaves, Leaves]:
    """Return the rule's outputs, and its cotangents of the float leaves.

    Raises:
      RuleError: the cotangents don't have the structure, shapes or dtypes of the arguments.
    """
    y, pull = self.pullback(leaves)
    structure = jax.tree.structure(y)
    if structure != self.out_structure:
      raise RuleError("structure", f"the rule's output is {structure}, f's is {self.out_structure}")
    outputs = [output_array(leaf) for leaf in jax.tree.leaves(y)]
    return outputs, pull(jax.tree.unflatten(structure, list(y_bar)))

  def call(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> tuple[Leaves, Leaves]:
    """Return `both`; raise a RuleError for any exception of the rule, or of JAX on its results."""
    return as_rule(self.both, leaves, y_bar)

  def compiled(self, transform: Function = jax.jit) -> Function:
    """Return `call` as one compiled program, or under another transform; it raises likewise.

    A rule that needs the values of its arguments is called as it is.
    """
    if self.by_callback:
      return self.call

    def backward(leaves: Leaves, floats: Leaves) -> Any:  # No transform accepts a float0.
      return self.both(leaves, with_float0(self.outputs, floats))

    program, is_limited = transform(backward), not math.isinf(END.get())

    def call(leaves: Leaves, y_bar: Leaves) -> Any:
      inputs = leaves, [b for b in y_bar if is_float(b.dtype)]
      if is_limited and hasattr(program, "lower"):
        waited(as_rule(program.lower, *inputs).compile)
      return as_rule(program, *inputs)

    return call

  def pullback(self, leaves: Sequence[Any]) -> tuple[Any, Callable[[Any], Leaves]]:
    """Return the rule's output and its pullback to the float leaves."""
    signature = self.signature
    if self.f_vjp is None:

      def of_floats(*floats: Any) -> Any:
        return self.f(*signature.arguments(replaced(leaves, signature.floats, floats)))

      y, pull_floats = jax.vjp(of_floats, *(jnp.asarray(leaves[i]) for i in signature.floats))
      return y, lambda y_bar: list(pull_floats(y_bar))
    args = signature.arguments(leaves)
    if self.by_callback and any(isinstance(x, jax.core.Tracer) for x in leaves):
      return self.called_back(args)
    found = self.f_vjp(*args)
    if not (isinstance(found, tuple) and len(found) == 2 and callable(found[1])):
      raise misfit("f_vjp must return (y, pullback)", found)
    y, pull = found
    return y, lambda y_bar: self.checked(args, pull(y_bar))

  def called_back(self, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Leaves]]:
    """Return the output and pullback of a rule that is called with values at run time."""
    structure: Any
    leaves, structure = jax.tree.flatten(args)
    outputs = jax.tree.leaves(jax.eval_shape(self.f, *args))
    floats = [
      jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
      for x, real in zip(leaves, self.signature.is_float, strict=True)
      if real
    ]

    def run(leaves: Sequence[Any]) -> Any:
      assert self.f_vjp is not None
      as_given: Function = np.asarray if self.takes_numpy else jax.device_put
      return self.f_vjp(*structure.unflatten(map(as_given, leaves)))

    def forward(*leaves: Any) -> Leaves:
      y = jax.tree.leaves(run(leaves)[0])
      return [np.asarray(v, o.dtype) for v, o in zip(y, outputs, strict=True)]

    def backward(leaves: Sequence[Any], y_bar: Any) -> Leaves:
      bars = self.checked(structure.unflatten(leaves), run(leaves)[1](y_bar))
      return [np.asarray(b, s.dtype) for b, s in zip(bars, floats, strict=True)]

    def pull(y_bar: Any) -> Leaves:
      return list(jax.pure_callback(backward, floats, leaves, y_bar, vmap_method="sequential"))

    y = jax.pure_callback(forward, outputs, *leaves, vmap_method="sequential")
    return jax.tree.unflatten(self.out_structure, y), pull

  def checked(self, args: tuple[Any, ...], bars: Any) -> Leaves:
    """Return the cotangents of the float leaves, in order; raise unless they fit the arguments."""
    rest = iter(zip(self.signature.names, self.signature.is_float, strict=True))
    if not isinstance(bars, tuple | list) or len(bars) != len(args):
      what = f"the pullback must return a tuple of {len(args)} cotangents, one for each argument"
      raise misfit(what, bars)
    found: Leaves = []
    structure: Any
    for arg, bar in zip(args, bars, strict=True):
      leaves, structure = jax.tree.flatten(arg)
      own = [next(rest) for _ in leaves]
      if bar is None and not any(real for _, real in own):
        continue
      try:
        own_bars = structure.flatten_up_to(bar)
      except ValueError as error:
        name = own[0][0] if own else ""
        got = f"the cotangent of {name or 'an empty argument'} must be {structure}, got "
        got += str(jax.tree.structure(bar))
        raise RuleError("structure", got, name.partition("/")[0]) from error
      for (name, real), leaf, own_bar in zip(own, leaves, own_bars, strict=True):
        if real:
          found.append(checked_leaf(name, leaf, own_bar))
        elif own_bar is not None and getattr(own_bar, "dtype", None) != jax.dtypes.float0:
          what = f"{name} holds integers, whose cotangent must be None or float0"
          raise misfit(what, own_bar, name)
    return found


def as_rule(function: Function, *arguments: Any) -> Any:
  """Call a function, converting any exception to a RuleError."""
  try:
    return function(*arguments)
  except Exception as error:
    raise as_rule_error(error) from error


def as_rule_error(error: Exception) -> RuleError:
  """Convert an exception to a RuleError, of structure where JAX rejects the return value."""
  if isinstance(error, RuleError):
    return error
  if isinstance(error, jax.errors.UnexpectedTracerError):
    return RuleError("repeated call", "the rule reads a value that an earlier call has kept")
  if isinstance(error, NotImplementedError) and "Transpose rule" in str(error):
    what = "the rule isn't linear in the tangent, so that it has no transpose"
    return RuleError("cotangent", f"{what}: {raised(error)}")
  lowered = str(error).lower()
  is_structure = any(word in lowered for word in ("custom vjp", "custom_vjp", "bwd")) and any(
    word in lowered for word in ("structure", "shape", "dtype", "tuple", "cotangent", "produce")
  )
  return RuleError("structure" if is_structure else "raises", raised(error))


def misfit(what: str, got: Any, leaf: str = "") -> RuleError:
  """Return the error of a result of another structure."""
  return RuleError("structure", f"{what}, got {describe(got)}", leaf)


def output_array(leaf: Any) -> Any:
  """Return an output of the rule as an array; a Python number, such as a count, becomes one."""
  if isinstance(leaf, bool | int | float):
    return jnp.asarray(leaf)
  if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
    raise misfit("the rule's outputs must be arrays", leaf)
  return leaf


def checked_leaf(name: str, leaf: Any, bar: Any) -> Any:
  """Return the cotangent of one float leaf; raise unless it fits the leaf."""
  shape, dtype = getattr(bar, "shape", None), getattr(bar, "dtype", None)
  is_array, is_float0 = dtype is not None and shape == leaf.shape, dtype == jax.dtypes.float0
  if is_array and is_float(dtype):
    return bar
  check = "no gradient" if bar is None or is_float0 else "dtype" if is_array else "structure"
  got = "None" if bar is None else "float0" if is_float0 else describe(bar)
  raise RuleError(check, f"the cotangent of {name} must be {describe(leaf)}, got {got}", name)


def rule_of(
  f: Function,
  f_vjp: Function | None,
  signature: Signature,
  leaves: Leaves,
  slope: Function | None = None,
  by_callback: bool | None = None,
) -> Rule:
  """Return the rule at arguments of these shapes.

  Args:
    f, f_vjp, slope: the function, its rule, and the function whose derivative is meant, if any.
    signature, leaves: the arguments.
    by_callback: whether the rule needs the values of its arguments; None to find out.

  Raises:
    UnusableError: f raises, or returns no float array; the outputs of `slope` are others.
  """
  try:
    out = jax.eval_shape(lambda *leaves: f(*signature.arguments(leaves)), *leaves)
  except Exception as error:
    raise UnusableError(f"f(*args) raises {raised(error)}") from error
  outputs = jax.tree.leaves(out)
  if not any(hasattr(o, "dtype") and is_float(o.dtype) for o in outputs):
    got = ", ".join(describe(o) for o in outputs) or "nothing"
    raise UnusableError(f"f must return an array of floats, got {got}")
  for o in filter(is_complex, outputs):
    raise UnusableError(f"complex numbers aren't supported, f returns {describe(o)}")
  rule = Rule(f, f_vjp, signature, jax.tree.structure(out), outputs, slope)
  if slope is not None:
    try:
      meant = jax.eval_shape(rule.differentiated, *leaves)
    except Exception as error:
      raise UnusableError(f"slope(*args) raises {raised(error)}") from error
    if [o.shape for o in meant] != [o.shape for o in outputs]:
      got, want = (", ".join(map(describe, found)) for found in (meant, outputs))
      raise UnusableError(f"slope must return outputs of f's shapes, {want}, got {got}")
  known = needs_values(rule, leaves) if by_callback is None else by_callback
  return rule._replace(by_callback=known, takes_numpy=not known or takes_numpy(rule, leaves))


def needs_values(rule: Rule, leaves: Leaves) -> bool:
  """Return whether a separate rule can't be traced since it needs the values of its arguments."""
  if rule.f_vjp is None:
    return False
  y_bar = in_dtypes_of(rule.outputs, rule.draw(0, 0))
  try:
    rule.compiled(lambda backward: partial(jax.eval_shape, backward))(leaves, y_bar)
  except RuleError as error:  # Any other error is a finding, of the check that calls the rule.
    return isinstance(error.__cause__, jax.errors.JAXTypeError | jax.errors.JAXIndexError)
  return False


def takes_numpy(rule: Rule, leaves: Leaves) -> bool:
  """Return whether a separate rule works on arrays of NumPy."""
  try:
    rule.both(list(map(np.asarray, leaves)), in_dtypes_of(rule.outputs, rule.draw(0, 0)))
  except Exception:  # What is wrong with it otherwise is found where it gets those of JAX.
    return False
  return True


def raised(error: BaseException) -> str:
  """Return the type and the first line of an error, in at most 200 characters.

  Of a callback's error, which is quoted with its traceback, it is the last line.
  """
  lines = [line for line in str(error).splitlines() if line.strip("- \t")] or [""]
  text = lines[-1 if "Traceback (most recent call last)" in lines[0] else 0].strip()
  text = text if len(text) <= 200 else text[:197] + "..."
  return f"{type(error).__name__}: {text}"
