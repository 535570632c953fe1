"""Gradient check during training: our gradient against `jax.grad` at the current parameters.

The check answers two questions separately, since rounding must neither hide an error nor be taken
for one. Is the mathematics right? Our backward pass and autodiff are both traced and compiled in
float64, once for each shape, and compared entry by entry. How large is the rounding error of the
working dtype? The trainer's own gradient is compared with the same float64 reference; that number
is reported, and the verdict doesn't depend on it.

Method: the bound of the first comparison is the least rounding error of a sum over the examples, a
relative error of its terms. Their magnitude is estimated by a gradient without cancellation: that
of the losses times random normal factors. A difference within the bound is agreement. A difference
beyond it may be an error, a larger rounding error, or another slope of the same kink. The second is
common: where a prediction is nearly sure, autodiff computes p − 1 and loses the digits of 1 − p. So
both programs are run again with every rounding changed, and the spread of the results is the bound.
What exceeds that too is left to a `Measure`, which the builder of the check supplies. That of
`fbackprop.verify` draws the roundings of loops as well and takes one-sided differences at kinks. It
costs some ten backward passes in NumPy, and its modules are imported only then.

Doubts: a rule that can't be traced in float64 is measured in every check, which is slow. The random
factors can cancel too: `pooled` compensates by whole rows and columns, a heuristic.

References:
  Higham, Accuracy and Stability of Numerical Algorithms, SIAM, 2nd ed. 2002, section 4.2, for the
    rounding error of sums.
  Vignes, Discrete stochastic arithmetic for validating results of numerical software, Numerical
    Algorithms 37, 2004, for the changed roundings.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from fbackprop import jaxprs
from fbackprop.checks import example_count
from fbackprop.combinators import as_declared, is_linear
from fbackprop.meshes import off_mesh, take_rows
from fbackprop.rounding import LARGEST_SPREAD, UNIT, differ, evaluate_changed, spreads_of
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params

# Where the measured bound is meaningless, as for a kernel that computes in float32 only, an error
# is judged by its size: two float64 gradients of the same network differ by less than about 1e-7.
GRADIENT_TOLERANCE = 1e-6
# Least denominator of a leaf's relative error where its gradient cancels, as a fraction of the
# largest sum of terms.
LEAST_SHARE = 1e-8
# Platforms on which XLA computes in float64. A TPU emulates it by pairs of float32; Metal lacks it.
HAS_FLOAT64 = frozenset(("cpu", "gpu", "cuda", "rocm"))
# The factor of a loss whose cotangents have to be too small to be clipped.
TINY = 2.0**-20


class LiveCheck(NamedTuple):
  """The result of one gradient check.

  Attributes:
    rel_error: max |ours − jax.grad| / max |jax.grad| of the worst parameter, both in float64. Where
      a gradient cancels to less than 1e-8 of its terms, the denominator is 1e-8 of those.
    leaf: path of that parameter, such as "[0].w"; the worst of the wrong ones, if any is wrong.
    rounding: error of our gradient in the dtype of the parameters against the float64 reference,
      relative to the terms of its sum.
    ok: whether every entry is finite and within the measured rounding error of `jax.grad`, or a
      slope of the same kink, or right where `jax.grad` is wrong.
  """

  rel_error: float
  leaf: str
  rounding: float
  ok: bool


class Gradients(NamedTuple):
  """Both gradients at one point, by parameter, in float64, with a flag for each wrong one."""

  got: list[np.ndarray]
  want: list[np.ndarray]
  wrong: np.ndarray


class Functions(NamedTuple):
  """The mean loss and the gradient under test, both of `(params, x, targets, key, weights)`."""

  mean_loss: Callable[..., Array]
  ours: Callable[..., tuple[Array, Params]]


class Programs(NamedTuple):
  """The compiled programs of one shape.

  Attributes:
    gradients: of the arguments' leaves: our gradient, autodiff's, the terms of their sums, and our
      gradient in the arguments' own dtypes if it was given.
    changed: of a bit and the leaves: the first two of those with every rounding changed, up or down
      by that bit of the result.
    is_wide: whether they compute in float64.
  """

  gradients: Callable[..., list[list[Array]]]
  changed: Callable[..., list[list[Array]]]
  is_wide: bool


# Judges a difference, given the functions, their arguments, and the leaves of the arguments moved
# to a device with float64.
Measure = Callable[[Functions, tuple[Any, ...], list[Any]], Gradients]


def make_live_check(
  net: Layer,
  loss: Loss,
  *,
  ours: Callable[..., tuple[Array, Params]] | None = None,
  clip_examples: float | None = None,
  make_measure: Callable[[], Measure],
) -> Callable[..., LiveCheck]:
  """Build the gradient check of `value_and_grad(net, loss)`, compiled once for each shape.

  Args:
    net: the network. Where a layer declares a `slope`, that is differentiated by `jax.grad`.
    loss: the loss; `checked_loss` of it, if a layer isn't meant to be linear in its cotangent.
    ours: the gradient under test, with the arguments and results of `value_and_grad(net, loss)`,
      which is the default.
    clip_examples: the norm to which `ours` clips each example's gradient before averaging.
      `jax.grad` is then taken of each example in turn.
    make_measure: called at the first difference beyond the least rounding, such as
      `fbackprop.verify.live.make_measure`; what it returns judges each of them.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`, over the examples `rows`, integers `[K]`, or over all of them.
    `rel_error` is infinite where the true gradient of a parameter is exactly zero and ours isn't.
  """
  own = value_and_grad(net, loss) if ours is None else ours
  reference = as_declared(net)

  def losses_of(params: Params, x: Array, targets: Any, key: Any) -> Array:
    return loss.forward(reference.forward(params, x, key)[0], targets)[0]

  def differentiated(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    """Compute losses whose mean has the gradient of `ours`, with clipping as constant factors."""
    losses = losses_of(params, x, targets, key)
    if clip_examples is None:
      return losses
    norms = example_norms(losses_of, params, x, targets, key, weights)
    return losses * jax.lax.stop_gradient(jnp.minimum(1, clip_examples / norms))

  def mean_loss(*args: Any) -> Array:
    return mean(differentiated(*args), args[4])

  def uncancelled_loss(*args: Any) -> Array:
    # The gradient itself may vanish, at a minimum or by symmetry, and then has no scale. A random
    # factor for each example prevents the cancellation.
    losses = differentiated(*args)
    return mean(jax.random.normal(jax.random.key(0), losses.shape, losses.dtype) * losses, args[4])

  def own_gradient(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Any:
    return own(params, x, targets, key=key, weights=weights)

  def rounded_gradient(*args: Any) -> Any:
    return own_gradient(*args)[1]

  in_own_dtype = jax.jit(rounded_gradient)
  functions, measure = Functions(mean_loss, own_gradient), functools.cache(make_measure)
  found: dict[Any, Any] = {}  # What `compiled` returned, by structure, shapes and dtypes.

  def measured(args: tuple[Any, ...]) -> tuple[Any, list[Any], Programs]:
    """Compute the gradients; return them, the arguments' leaves there, and the programs."""
    moved = where_float64_is(off_mesh(args))
    leaves, here = jax.tree.leaves(moved), jax.tree.leaves(args)
    # The gradient in its own dtype is a part of the program, unless that runs elsewhere.
    is_here = all(map(operator.is_, leaves, here))
    settings: Any = jax.config
    precision = settings.jax_default_matmul_precision
    shapes = (is_here, precision, jax.tree.structure(moved),
              *((a.shape, a.dtype) for a in leaves))  # fmt: skip
    is_new = shapes not in found
    # At the run's own precision.
    rounded = jax.make_jaxpr(rounded_gradient)(*args) if is_new and is_here else None
    # The reference is computed on one device and at the highest matmul precision: the precision of
    # the run may name an algorithm, and those round float64 products as well.
    with jax.set_mesh(None), jax.default_matmul_precision("highest"):
      if is_new:
        found[shapes] = compiled(functions, uncancelled_loss, moved, rounded)
      programs = found[shapes]
      with jax.enable_x64(True):
        every = programs.gradients(*leaves)
    own_dtype = every[3] if is_here else jax.tree.leaves(in_own_dtype(*args))
    return [list(map(as_float64, part)) for part in (*every[:3], own_dtype)], leaves, programs

  def compare(args: tuple[Any, ...]) -> tuple[Gradients, list[np.ndarray], list[float]]:
    (got, want, terms, rounded), leaves, programs = measured(args)
    # The rounding error of a sum of N terms grows like √N, as of a random walk.
    unit = UNIT * (1 + 0.25 * math.sqrt(example_count(args[1])))
    spreads = [unit * np.abs(t) for t in terms]
    wrong = np.array(list(map(differ, got, want, spreads)))
    sizes = [float(np.abs(t).max(initial=0.0)) for t in terms]
    with jax.set_mesh(None), jax.default_matmul_precision("highest"):
      if wrong.any() and programs.is_wide:
        found_spreads = spreads_of(programs.changed, leaves, got, want)
        may_be_rounding = [float(s.max(initial=0.0)) <= LARGEST_SPREAD * size
                           for s, size in zip(found_spreads, sizes, strict=True)]  # fmt: skip
        spreads = list(map(np.maximum, spreads, found_spreads))
        wrong &= ~np.array(may_be_rounding) | np.array(list(map(differ, got, want, spreads)))
      if wrong.any() or not programs.is_wide:
        return measure()(functions, off_mesh(args), leaves), rounded, sizes
    return Gradients(got, want, wrong), rounded, sizes

  def check(
    params: Params, x: Array, targets: Array, *, key: Any = None, weights: Any = None,
    rows: Any = None,
  ) -> LiveCheck:  # fmt: skip
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:
      return LiveCheck(0.0, "", 0.0, ok=True)
    if rows is not None:
      x, targets, weights = take_rows((x, targets, weights), rows)
    args = (params, x, targets, key, weights)
    with np.errstate(all="ignore"):
      (got, want, wrong), rounded, sizes = compare(args)
      exact = list(map(relative_error, got, want, [LEAST_SHARE * size for size in sizes]))
      rounding = list(map(relative_error, rounded, want, sizes))
    # argmax treats the first NaN as the largest, as intended here.
    worst = int(np.argmax(np.where(wrong, exact, -1.0) if wrong.any() else exact))
    leaf = jax.tree_util.keystr(paths[worst])
    return LiveCheck(exact[worst], leaf, float(np.max(rounding)), bool(not wrong.any()))

  return check


def checked_loss(net: Layer, loss: Loss) -> Loss:
  """Return the loss whose gradient is checked: where a layer clips its cotangent, a tiny one."""
  if is_linear(net):
    return loss

  def forward(y: Array, targets: Any) -> tuple[Array, Any]:
    losses, residuals = loss.forward(y, targets)
    return TINY * losses, residuals

  def backward(residuals: Any, losses_bar: Array) -> Array:
    return loss.backward(residuals, TINY * losses_bar)

  return loss._replace(forward=forward, backward=backward)


def compiled(
  functions: Functions,
  uncancelled_loss: Callable[..., Array],
  args: tuple[Any, ...],
  rounded: jaxprs.Program | None = None,
) -> Programs:
  """Trace and compile both gradients and the terms of their sums, in float64 if possible.

  Args:
    functions: the functions under test.
    uncancelled_loss: a loss whose gradient has the magnitude of the terms.
    args: the functions' arguments.
    rounded: our gradient in the arguments' own dtypes, to be computed by the same program.
  """

  def traced(args: Any) -> list[jaxprs.Program]:
    written = jax.make_jaxpr(functions.mean_loss)(*args)

    def own_loss(*args: Any) -> Any:
      # Without its custom VJPs, so that autodiff ignores the rules under test.
      return jaxprs.evaluate_flat(written, True, *jax.tree.leaves(args))[0]

    def ours(*args: Any) -> Params:
      return functions.ours(*args)[1]

    gradients = (ours, jax.grad(own_loss), jax.grad(uncancelled_loss))
    return [jax.make_jaxpr(gradient)(*args) for gradient in gradients]

  wide: list[jaxprs.Program] = []
  # Any error of a user's rule that supports only its own dtype.
  with jax.enable_x64(True), suppress(Exception):
    wide = jaxprs.released(traced(jax.tree.map(as_float64, args)))
  programs = wide or traced(args)

  def converted(leaves: Sequence[Any]) -> list[Any]:
    # Inside the jit, so that arrays stay on the device to which they were moved.
    pairs = zip(leaves, programs[0].in_avals, strict=True)
    return [jnp.asarray(x, a.dtype) if is_floating(x) else x for x, a in pairs]

  @jax.jit
  def changed(bit: Any, *leaves: Any) -> list[list[Array]]:
    return [evaluate_changed(program, bit, converted(leaves)) for program in programs[:2]]

  @jax.jit
  def gradients(*leaves: Any) -> list[list[Array]]:
    own = converted(leaves)
    every = [jaxpr_as_fun(program)(*own) for program in programs]
    if rounded is None:
      return every
    # Here x64 is on: NumPy's float64 isn't narrowed to the float32 of the run.
    pairs = zip(leaves, rounded.in_avals, strict=True)
    narrow = [x if x.dtype == a.dtype else x.astype(a.dtype) for x, a in pairs]
    return [*every, jaxpr_as_fun(rounded)(*narrow)]

  return Programs(gradients, changed, bool(wide))


def as_float64(leaf: Any) -> Any:
  """Convert a floating array to NumPy's float64; return any other leaf unchanged."""
  return np.asarray(leaf, np.float64) if is_floating(leaf) else leaf


def is_floating(leaf: Any) -> bool:
  """Return whether an array is floating."""
  return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def where_float64_is(tree: Any) -> Any:
  """Move arrays to the CPU if any of them is on a device without native float64."""
  arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
  if all(device.platform in HAS_FLOAT64 for leaf in arrays for device in leaf.devices()):
    return tree
  return jax.device_put(tree, jax.local_devices(backend="cpu")[0])


def relative_error(got: np.ndarray, want: np.ndarray, least: float) -> float:
  """Compute max |got − want| / max(max |want|, least), with 0/0 = 0 and x/0 = ∞."""
  error = np.abs(got - want).max(initial=0.0)
  return float(error and error / max(np.abs(want).max(initial=0.0), least))


def example_norms(
  losses_of: Callable[..., Array], params: Params, x: Array, targets: Any, key: Any, weights: Any
) -> Array:
  """Compute the norm `[N]` of each example's gradient, N w_i / Σ w ∂losses_i/∂Θ, by `jax.grad`.

  The examples are mapped sequentially, since all gradients at once need N times the memory of the
  parameters. With a key, each is a pass over the whole batch, as an example's dropout mask depends
  on its place there.
  """
  n = x.shape[0]
  even = jnp.ones(n, x.dtype if weights is None else weights.dtype)
  shares = even if weights is None else n * jax.grad(mean)(even, weights)

  def norm_of(i: Array) -> Array:
    def own_loss(params: Params) -> Array:
      if key is not None:
        return shares[i] * losses_of(params, x, targets, key)[i]
      own_x, own_targets = jax.tree.map(lambda a: a[i][None], (x, targets))
      return shares[i] * losses_of(params, own_x, own_targets, None)[0]

    squares: Any = sum(jnp.sum(g * g) for g in jax.tree.leaves(jax.grad(own_loss)(params)))
    return jnp.sqrt(squares)

  return jax.lax.map(norm_of, jnp.arange(n))


def mean(losses: Array, weights: Array | None) -> Array:
  """Compute the weighted mean of the losses; 0 instead of 0/0 where all weights are zero."""
  if weights is None:
    return jnp.mean(losses)
  limits = jnp.finfo(weights.dtype)  # type: ignore[no-untyped-call]  # NumPy has no bfloat16.
  return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), float(limits.tiny))
