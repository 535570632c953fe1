"""The check while training: our gradient against `jax.grad`, at the parameters of that moment.

Two questions are answered at once, and kept apart, since rounding must neither hide an error nor
pass for one. Is the mathematics right? Our backward pass and autodiff are both traced and compiled
in float64, once for each shape, and compared entry by entry. How much does the working dtype round?
Our gradient as the trainer computes it is compared with the same float64 truth; that number is
reported, and no verdict depends on it.

The bound of the first comparison is what the sum over the examples rounds at least: a relative
error of its terms, whose size is measured by a gradient in which nothing cancels. What lies within
it agrees. What lies beyond it may be an error, more rounding than that, or another slope of the
same kink, and this module can't tell them apart: `measure` does, of whoever builds the check. That
of `fbackprop.verify` measures the rounding by stochastic arithmetic and asks one-sided differences
at kinks. It costs some ten backward passes in NumPy, and its modules are imported only then.

Not optimal: of a rule that can't be traced in float64 each check is measured.

References:
  Higham, Accuracy and Stability of Numerical Algorithms, SIAM, 2nd ed. 2002, section 4.2, for the
    rounding error of sums.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from fbackprop.checks import example_count
from fbackprop.jaxprs import (
  Program,
  bind,
  has_library_rule,
  inner_program,
  interpret,
  shape_of,
  with_bodies,
)
from fbackprop.meshes import off_mesh, take_rows
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params

# Where the measured bound says nothing, as of a kernel that computes in float32 alone, an error is
# judged by its size: two float64 gradients of one network stay below about 1e-7.
GRADIENT_TOLERANCE = 1e-6
# Of what a leaf sums: the least denominator of its relative error, where its gradient cancels.
LEAST_SHARE = 1e-8
# Where XLA computes in float64. A TPU makes pairs of float32 of it, and Metal has none.
HAS_FLOAT64 = frozenset(("cpu", "gpu", "cuda", "rocm"))
# A little more than a float64 rounding, so that moving a number by it changes the number.
UNIT = 2.0**-51
# A difference counts from this many standard deviations of the rounding on.
SPREADS = 12.0
# Below this float64 itself flushes to zero.
FLOOR = 1e-290


class LiveCheck(NamedTuple):
  """The findings of one check.

  Attributes:
    rel_error: max |ours − jax.grad| / max |jax.grad| of the worst parameter, both in float64. Where
      a gradient cancels to less than 1e-8 of what it sums, the denominator is 1e-8 of that.
    leaf: the path of that parameter, such as "[0].w"; the worst of the wrong ones, if any is wrong.
    rounding: the error of our gradient in the dtype of the parameters, against the float64 one,
      relative to what it sums.
    ok: whether no entry is wrong: each is finite and within the measured rounding error of
      `jax.grad`'s, or a slope of the same kink, or right where `jax.grad` isn't.
  """

  rel_error: float
  leaf: str
  rounding: float
  ok: bool


class Gradients(NamedTuple):
  """Both gradients at one point, by parameter, in float64, and which of them are wrong."""

  got: list[np.ndarray]
  want: list[np.ndarray]
  wrong: np.ndarray


class Functions(NamedTuple):
  """The mean loss and the gradient that is checked, of `(params, x, targets, key, weights)`."""

  mean_loss: Callable[..., Array]
  ours: Callable[..., tuple[Array, Params]]


class Compiled(NamedTuple):
  """`gradients` of the leaves: ours, autodiff's, and their size; and whether in float64."""

  gradients: Callable[..., list[list[Array]]]
  is_wide: bool


# Judges a difference: the functions, their arguments, and the leaves of these where float64 is.
Measure = Callable[[Functions, tuple[Any, ...], list[Any]], Gradients]


def make_live_check(
  net: Layer,
  loss: Loss,
  *,
  ours: Callable[..., tuple[Array, Params]] | None = None,
  clip_examples: float | None = None,
  measure: Measure,
) -> Callable[..., LiveCheck]:
  """Build the check of `value_and_grad(net, loss)`; it traces and compiles once for each shape.

  Args:
    net: the network.
    loss: the loss.
    ours: what is checked, with the arguments and results of `value_and_grad(net, loss)`, which it
      is by default.
    clip_examples: the norm to which `ours` clips each example's gradient before the mean is taken.
      `jax.grad` then goes through the examples one by one.
    measure: judges a difference beyond the least rounding, as `fbackprop.verify.live.measure`.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`, of the examples `rows` `[K]`, integers, or of all. Where the true
    gradient of a parameter is exactly zero and ours isn't, `rel_error` is infinite.
  """
  own = value_and_grad(net, loss) if ours is None else ours

  def losses_of(params: Params, x: Array, targets: Any, key: Any) -> Array:
    losses: Array = loss.forward(net.forward(params, x, key)[0], targets)[0]
    return losses

  def differentiated(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    """Compute losses whose mean has the gradient that `ours` gives."""
    losses = losses_of(params, x, targets, key)
    if clip_examples is None:
      return losses
    norms = example_norms(losses_of, params, x, targets, key, weights)
    return losses * jax.lax.stop_gradient(jnp.minimum(1, clip_examples / norms))

  def mean_loss(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    return mean(differentiated(params, x, targets, key, weights), weights)

  def uncancelled_loss(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    # Its gradient has the size of what ours sums, though the sum may be zero: at a minimum, or by
    # symmetry. With a random factor for each example nothing cancels.
    losses = differentiated(params, x, targets, key, weights)
    return mean(jax.random.normal(jax.random.key(0), losses.shape, losses.dtype) * losses, weights)

  def own_gradient(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Any:
    return own(params, x, targets, key=key, weights=weights)

  @jax.jit
  def in_own_dtype(*args: Any) -> Params:
    return own_gradient(*args)[1]

  functions = Functions(mean_loss, own_gradient)

  found: dict[Any, Compiled] = {}  # By the shapes of the arguments.

  def compare(args: tuple[Any, ...]) -> tuple[Gradients, list[float]]:
    leaves, structure = jax.tree.flatten(args)
    leaves = where_float64_is(leaves)
    shapes = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
    if shapes not in found:
      found[shapes] = compiled(functions, uncancelled_loss, leaves, structure)
    with jax.enable_x64(True):
      got, want, terms = (list(map(as_float64, part)) for part in found[shapes].gradients(*leaves))
    unit = UNIT * (1 + 0.25 * math.sqrt(example_count(args[1])))
    wrong = np.array([differ(*each, unit) for each in zip(got, want, terms, strict=True)])
    sizes = [float(np.abs(t).max(initial=0.0)) for t in terms]
    if wrong.any() or not found[shapes].is_wide:
      return measure(functions, args, leaves), sizes
    return Gradients(got, want, wrong), sizes

  def check(
    params: Params,
    x: Array,
    targets: Array,
    *,
    key: Array | None = None,
    weights: Array | None = None,
    rows: Any = None,
  ) -> LiveCheck:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:
      return LiveCheck(0.0, "", 0.0, ok=True)
    if rows is not None:
      x, targets, weights = take_rows((x, targets, weights), rows)
    args = (params, x, targets, key, weights)
    rounded = [as_float64(leaf) for leaf in jax.tree.leaves(in_own_dtype(*args))]
    # The truth is found on one device. A run's precision may name an algorithm, and those round
    # float64 products too.
    with jax.set_mesh(None), np.errstate(all="ignore"), jax.default_matmul_precision("highest"):
      args = off_mesh(args)
      (got, want, wrong), sizes = compare(args)
      exact = [
        relative_error(g, w, LEAST_SHARE * t) for g, w, t in zip(got, want, sizes, strict=True)
      ]
      rounding = [relative_error(g, w, t) for g, w, t in zip(rounded, want, sizes, strict=True)]
    # argmax takes the first NaN for the largest, as it should here.
    worst = int(np.argmax(np.where(wrong, exact, -1.0) if wrong.any() else exact))
    leaf = jax.tree_util.keystr(paths[worst])
    return LiveCheck(exact[worst], leaf, float(np.max(rounding)), bool(not wrong.any()))

  return check


def compiled(
  functions: Functions, uncancelled_loss: Callable[..., Array], leaves: list[Any], structure: Any
) -> Compiled:
  """Trace and compile both gradients and the size of what they sum, in float64 if that can be."""
  count = len(jax.tree.leaves(jax.tree.unflatten(structure, leaves)[0]))

  def flat(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *leaves: function(*jax.tree.unflatten(structure, leaves))

  def ours(*leaves: Any) -> list[Array]:
    return jax.tree.leaves(flat(functions.ours)(*leaves)[1])

  def traced(*leaves: Any) -> tuple[Program, Program, Program]:
    written = jax.make_jaxpr(flat(functions.mean_loss))(*leaves)

    def theirs(*leaves: Any) -> Any:
      def own_loss(params: Sequence[Any]) -> Array:
        value: Array = without_rules(written, *params, *leaves[count:])[0]
        return value

      return jax.grad(own_loss)(list(leaves[:count]))

    def terms(*leaves: Any) -> list[Array]:
      return jax.tree.leaves(jax.grad(uncancelled_loss)(*jax.tree.unflatten(structure, leaves)))

    own, truth, sizes = (jax.make_jaxpr(f)(*leaves) for f in (ours, theirs, terms))
    return own, truth, sizes

  with jax.enable_x64(True):
    try:
      programs, is_wide = traced(*map(as_float64, leaves)), True
    except Exception:  # Whatever a rule raises that knows its own dtype only.
      is_wide = False
  if not is_wide:
    programs = traced(*leaves)

  @jax.jit
  def gradients(*leaves: Any) -> list[list[Array]]:
    # Converted here, so that arrays stay on the device to which they were moved.
    pairs = zip(leaves, programs[0].in_avals, strict=True)
    own = [jnp.asarray(x, a.dtype) if is_floating(x) else x for x, a in pairs]
    return [jaxpr_as_fun(program)(*own) for program in programs]

  return Compiled(gradients, is_wide)


def without_rules(program: Program, *arguments: Any) -> list[Any]:
  """Evaluate a program whose custom VJPs are gone, for autodiff: they are what is checked."""

  def apply(_: int, equation: Any, inputs: list[Any]) -> list[Any]:
    inner = None if has_library_rule(equation) else inner_program(equation)
    if inner is not None:
      return without_rules(inner, *inputs)
    return bind(equation.primitive, with_bodies(equation, body, ()), inputs)

  def body(program: Program, place: Any = None) -> Program:
    traced: Program = jax.make_jaxpr(partial(without_rules, program))(
      *map(shape_of, program.in_avals)
    )
    return traced

  return interpret(program, arguments, lambda value, _: value, apply)


def differ(got: np.ndarray, want: np.ndarray, terms: np.ndarray, unit: float) -> bool:
  """Whether two gradients differ by more than a rounding of what they sum, or aren't finite.

  Args:
    got, want: float64.
    terms: a gradient of their size in which nothing cancels.
    unit: the standard deviation of the rounding error of a sum, relative to its terms.
  """
  size = np.maximum(np.abs(got), np.abs(want))
  bound = 2 * SPREADS * unit * pooled(np.abs(terms)) + 8 * 2.0**-52 * size + FLOOR
  return not bool((np.abs(got - want) <= bound).all())


def pooled(sizes: np.ndarray) -> np.ndarray:
  """Raise each entry to at least what the mean squares of its rows and columns say together.

  One entry of `terms` is small by chance, as its random factors may cancel, all of a row are not.
  """
  largest = float(sizes.max(initial=0.0))
  if not 0 < largest < math.inf:
    return sizes
  squares = (sizes / largest) ** 2
  mean = squares.mean()
  product = mean
  for axis in range(squares.ndim):
    others = tuple(a for a in range(squares.ndim) if a != axis)
    product = product * (squares.mean(others, keepdims=True) / mean)
  return np.asarray(np.maximum(sizes, largest * np.sqrt(product)))


def as_float64(leaf: Any) -> Any:
  """Convert an array of floats to NumPy's float64; leave any other as it is."""
  return np.asarray(leaf, np.float64) if is_floating(leaf) else leaf


def is_floating(leaf: Any) -> bool:
  """Whether an array holds floats."""
  return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def where_float64_is(leaves: list[Any]) -> list[Any]:
  """Move arrays to the CPU if they are on a device that computes no float64."""
  arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
  if all(device.platform in HAS_FLOAT64 for leaf in arrays for device in leaf.devices()):
    return leaves
  on_cpu: list[Any] = jax.device_put(leaves, jax.local_devices(backend="cpu")[0])
  return on_cpu


def relative_error(got: np.ndarray, want: np.ndarray, least: float) -> float:
  """Compute max |got − want| / max(max |want|, least); 0/0 is 0, x/0 infinite."""
  error = np.abs(got - want).max(initial=0.0)
  return float(error and error / max(np.abs(want).max(initial=0.0), least))


def example_norms(
  losses_of: Callable[..., Array], params: Params, x: Array, targets: Any, key: Any, weights: Any
) -> Array:
  """Compute the norm of each example's gradient, N w_i / Σ w ∂losses_i/∂Θ, by `jax.grad`, `[N]`.

  One after another, as all of them at once would be N times the parameters. With a key each is a
  pass over the whole batch, on which an example's dropout depends.
  """
  n = x.shape[0]
  shares = (
    jnp.ones(n, x.dtype) if weights is None else n * jax.grad(mean)(jnp.ones_like(weights), weights)
  )

  def norm_of(i: Array) -> Array:
    def own_loss(params: Params) -> Array:
      if key is not None:
        return shares[i] * losses_of(params, x, targets, key)[i]
      own_x, own_targets = jax.tree.map(lambda a: a[i][None], (x, targets))
      return shares[i] * losses_of(params, own_x, own_targets, None)[0]

    grads = jax.tree.leaves(jax.grad(own_loss)(params))
    squares: Any = sum(jnp.sum(g * g) for g in grads)
    return jnp.sqrt(squares)

  norms: Array = jax.lax.map(norm_of, jnp.arange(n))
  return norms


def mean(losses: Array, weights: Array | None) -> Array:
  """Average the losses by their weights; weights that are all zero give zero, not 0/0."""
  if weights is None:
    return jnp.mean(losses)
  limits = jnp.finfo(weights.dtype)  # type: ignore[no-untyped-call]  # NumPy has no bfloat16.
  return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), float(limits.tiny))
