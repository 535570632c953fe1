"""One step of training, as a pure function: the lecture's loop body."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fbackprop import checks
from fbackprop.meshes import splits_of
from fbackprop.quantities import clipping, gradients
from fbackprop.quantities._compute import captured_pass
from fbackprop.ranges import check_in_range
from fbackprop.train.arguments import WatchName, check_watch
from fbackprop.train.optimizers import make_update
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params, at_least_float32, exportable


@exportable
class Batch(NamedTuple):
  """Examples: x `[N, D_in]`, the loss's targets, and weights `[N]`, or None for a plain mean.

  For a network of several inputs, x is a pytree of arrays `[N, ...]`.
  """

  x: Any
  targets: Any
  weights: Array | None = None


@exportable
class State(NamedTuple):
  """The state of training: number of steps taken, parameters, optimizer state, key."""

  step: Array
  params: Params
  opt_state: Any
  key: Array


@exportable
class Watched(NamedTuple):
  """The diagnostics of a step's examples; None for those that aren't requested.

  Attributes:
    noise_scale: gradient noise scale of the batch, each part `[]`; sum the parts over steps before
      dividing, as their ratio is biased.
    clipped: fraction of the examples whose gradients were clipped, `[]`.
  """

  noise_scale: gradients.NoiseScale | None = None
  clipped: Array | None = None


@exportable
class Info(NamedTuple):
  """The diagnostics of a step.

  Attributes:
    loss: mean loss of the batch at the parameters before the update, `[]`.
    weight: weight of the loss in a mean over batches: Σ w, or N without weights, `[]`, in float32
      at least.
    grad_norms: norm of the gradient of each layer that has parameters, in the order of
      `layer_names`, `[layers]`, in float32 at least.
    finite: whether the loss, the norms, the optimizer state and the new parameters are finite. If
      not, the step is rejected: the state is the previous one, which is the last finite one. Arrays
      of the optimizer state that weren't finite before may stay so, such as a best loss that is
      initialised to infinity.
    watched: the diagnostics of `clip_examples` and `watch`.
  """

  loss: Array
  weight: Array
  grad_norms: Array
  finite: Array
  watched: Watched = Watched()


InitAndStep = tuple[Callable[..., State], Callable[[State, Any], tuple[State, Info]]]


def make_step(
  net: Layer,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  *,
  clip_examples: float | None = None,
  watch: Sequence[WatchName] = (),
  donate: bool = False,
) -> InitAndStep:
  """Compile the initialisation and the step of a training run.

  Args:
    net: the network.
    loss: the loss.
    optimizer: `fbackprop.train.gradient_descent(rate)`, or any of optax's. Extra arguments are
      passed to those that take them: `value=` the batch's loss, `grad=` its gradient, `batch=` and
      `key=` those of the step, for `fbackprop.curvature.kfac`, and `value_fn=` the loss as a
      function of the parameters: a line search, such as that of `optax.lbfgs`, also differentiates
      by our backward pass.
    clip_examples: clip each example's gradient to this norm before averaging, see
      `fbackprop.quantities.clipped_gradient`. None for no clipping.
    watch: further diagnostics in `Info.watched`: "noise_scale". Either of these two needs a network
      of `fbackprop.quantities.captured` layers.
    donate: whether the step may reuse the buffers of its input state, whose arrays are deleted
      then. This saves a copy of the parameters and of the optimizer state.

  Returns:
    `(init, step)`: `init(key, params=None) -> State` draws the parameters, or starts from a copy of
    given ones, and `step(state, batch) -> (State, Info)` takes a `Batch` or a plain
    `(x, targets)`. The step doesn't block on the device. The gradient is our own backward pass.

  Raises:
    TypeError: an argument has the wrong type. When the step is traced: the optimizer's `update`
      returns a state with other dtypes than its `init`; the message names the leaf. By `init`: a
      leaf of `params` has the wrong dtype.
    ValueError: likewise for the wrong shape or structure.

  Example:
    >>> import fbackprop as fb
    >>> init, step = make_step(fb.mlp([2, 8, 1]), fb.squared_error, optax.adam(0.01))
    >>> state, info = step(init(jax.random.key(0)), (jnp.ones((4, 2)), jnp.ones((4, 1))))
    >>> int(state.step)
    1
  """
  checks.check_flag("make_step", "donate", donate)
  return make_guarded_step(net, loss, optimizer, True, clip_examples, watch, donate)


def make_guarded_step(
  net: Layer,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  is_thorough: bool,
  clip_examples: float | None = None,
  watch: Sequence[WatchName] = (),
  donate: bool = False,
) -> InitAndStep:
  """Compile as `make_step`, with a choice of how much of a step is checked.

  Args:
    net, loss, optimizer, clip_examples, watch, donate: as of `make_step`.
    is_thorough: whether the new parameters and the optimizer state are checked too, and a nonfinite
      step is rejected. If not, `finite` covers only the loss and the gradient norms, which are
      computed in any case, and the step is taken regardless: for callers that can repeat it. On a
      CPU that saves up to a fifth of a step.
  """
  checks.check_unit("make_step", "net", net, Layer)
  checks.check_unit("make_step", "loss", loss, Loss)
  update = make_update(optimizer, gradients.plain(net), loss)
  loss_and_gradient = make_gradient(net, loss, clip_examples, watch)

  @jax.jit
  def init(key: Array, params: Params = None) -> State:
    checks.check_key("init", key)
    params_key, key = jax.random.split(key)
    if params is None:
      params = net.init(params_key)
    else:
      checks.check_like("init", "params", params, jax.eval_shape(net.init, params_key))
      # Copied, so that donating the state doesn't delete the caller's arrays.
      params = jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), params)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)

  @partial(jax.jit, donate_argnums=(0,) if donate else ())
  def step(state: State, batch: Any) -> tuple[State, Info]:
    is_batch = isinstance(batch, tuple | list) and len(batch) in (2, 3)
    checks.check_that("step", "batch", batch, is_batch, "be (x, targets) or a Batch")
    is_state = isinstance(state, State)
    checks.check_that("step", "state", state, is_state, "be a State, as init gives it")
    batch = Batch(*batch)
    key = noise_key(net, state)
    value, grads, watched = loss_and_gradient(
      state.params, batch.x, batch.targets, key=key, weights=batch.weights
    )
    last = grads if is_thorough else after_backward(grads, value)
    params, opt_state = update(state.params, state.opt_state, batch, key, value, last)
    check_carried(opt_state, state.opt_state)
    norms = layer_norms(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(norms).all()
    proposed = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    if is_thorough:
      finite &= all_finite(params) & stays_finite(opt_state, state.opt_state)
      # Not `where`, which is a kernel per array.
      proposed = jax.lax.cond(finite, lambda new, _: new, lambda _, old: old, proposed, state)
    return proposed, Info(value, total_weight(batch, value.dtype), norms, finite, watched)

  return init, step


def after_backward(grads: Params, value: Array) -> Params:
  """Return the same gradients, bit for bit, as values that XLA can't know before the first layer's.

  A parameter is read by the loss and by the backward pass of its layer. Unless its update depends
  on the results, XLA doesn't know which comes first, and a compiled loop copies all such parameters
  in each step to be safe; with this it updates them in place. The comparison is always false: no
  number is above infinity. An `optimization_barrier` is dropped too early to have this effect.
  """
  first = next(iter(jax.tree.leaves(grads)), None)
  if first is None or not (first.size and holds_floats(first)) or any(splits_of(first)):
    return grads
  never = (first[(0,) * first.ndim] > jnp.inf) | (value > jnp.inf)
  # Not `where`, which broadcasts the predicate, and so needs its sharding.
  return jax.tree.map(lambda g: jax.lax.select_n(never, g, jnp.zeros_like(g)), grads)


def make_gradient(
  net: Layer, loss: Loss, clip_examples: float | None = None, watch: Sequence[WatchName] = ()
) -> Callable[..., tuple[Array, Params, Watched]]:
  """Build the gradient function of a step.

  Args:
    net: the network, with captured layers if examples are clipped or the noise scale is watched;
      see `fbackprop.quantities`.
    loss: the loss.
    clip_examples: C; the gradient is then Σ_i min(1, C / ‖g_i‖) g_i / N, where g_i is the gradient
      of example i's loss, times N w_i / Σ w with weights. None for the plain mean.
    watch: "noise_scale" or nothing.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> (loss, grads, Watched)`, with the mean
    loss without clipping.

  Raises:
    TypeError, ValueError: `clip_examples` isn't a norm in float32's range, or `watch` holds a name
      that isn't a diagnostic of a step.
  """
  check_watch(watch, ("noise_scale",))
  if clip_examples is not None:
    check_in_range("make_step", "clip_examples", clip_examples)
  plain_pass = value_and_grad(gradients.plain(net), loss)

  def loss_and_gradient(
    params: Params, x: Array, targets: Any, *, key: Any = None, weights: Any = None
  ) -> tuple[Array, Params, Watched]:
    if clip_examples is None and not watch:
      return *plain_pass(params, x, targets, key=key, weights=weights), Watched()
    value, captured = captured_pass("make_step", net, loss, params, x, targets, key, weights)
    noise = gradients.noise_scale(captured) if watch else None
    if clip_examples is None:
      return value, gradients.mean_gradient(captured), Watched(noise)
    factors = clipping.clipping_factors(captured, clip_examples)
    # Divided before the sum, as in the mean without clipping.
    grads = clipping.weighted_gradient(captured, factors / max(checks.example_count(x), 1))
    return value, grads, Watched(noise, (factors < 1).mean(dtype=jnp.float32))

  return loss_and_gradient


def check_carried(new: Any, old: Any) -> None:
  """Raise unless an optimizer's state has the same structure, shapes and dtypes after a step.

  Converting it silently would hide that its precision differs from that of its `init`, or change
  the program of the next step, which no compiled loop could carry.

  Raises:
    StructureError: `update` returns another structure than `init`.
    ShapeError, DtypeError: a leaf has another shape or dtype; the message names it.
  """
  want, got = map(str, map(jax.tree.structure, (old, new)))
  if want != got:
    wanted = f"a state of the structure that its init gives, {want}, got {got}"
    raise checks.StructureError(f"step: the optimizer's update must give {wanted}")
  paths = jax.tree_util.tree_leaves_with_path(old)
  for (path, before), after in zip(paths, jax.tree.leaves(new), strict=True):
    name = f"step: of the optimizer's state, the leaf {jax.tree_util.keystr(path) or 'itself'}"
    was, now = map(jnp.asarray, (before, after))
    if was.dtype != now.dtype:
      advice = f"let init make it {now.dtype}, or end update with .astype({str(was.dtype)!r})"
      dtypes = f"{was.dtype} by its init and {now.dtype} after its update"
      raise checks.DtypeError(f"{name} is {dtypes}; {advice}")
    if was.shape != now.shape:
      shapes = f"{list(was.shape)} by its init and {list(now.shape)} after its update"
      raise checks.ShapeError(f"{name} has shape {shapes}")


def total_weight(batch: Batch, dtype: Any) -> Array:
  """Compute Σ w, or N without weights, for a loss of this dtype."""
  dtype = at_least_float32(dtype)
  if batch.weights is None:
    return jnp.asarray(checks.example_count(batch.x), dtype)
  return batch.weights.sum(dtype=dtype)


def noise_key(net: Layer, state: State) -> Array | None:
  """Derive the key of a step's forward pass; None for a deterministic network."""
  return jax.random.fold_in(state.key, state.step) if net.draws else None


def all_finite(tree: Params) -> Array:
  """Return whether every entry of every floating array is finite.

  x − x is 0 for a finite x and NaN for any other, so that one sum decides for a whole array. On a
  CPU that costs half of `isfinite(x).all()`, which is vectorised badly. (Not 0 · x: if x is itself
  c · v, XLA rewrites it to (0 · c) · v, and an overflow of c · v goes unnoticed.)
  """
  finite = jnp.ones((), bool)
  for leaf in jax.tree.leaves(tree):
    if holds_floats(leaf):
      finite &= (leaf - leaf).sum() == 0
  return finite


def stays_finite(new: Any, old: Any) -> Array:
  """Return whether each array of `new` is finite, or wasn't finite in `old` either."""

  def compare() -> Array:
    stays = jnp.ones((), bool)
    for after, before in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
      stays &= all_finite(after) | ~all_finite(before)
    return stays

  return jax.lax.cond(all_finite(new), lambda: jnp.ones((), bool), compare)


def holds_floats(leaf: Array) -> bool:
  """Return whether an array can hold infinities, unlike counters and keys."""
  return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def layer_norms(grads: Params) -> Array:
  """Compute the Euclidean norm of each layer's gradient, w and b together, `[layers]`."""
  squares = [sum(map(square_sum, leaves)) for leaves in by_layer(grads).values()]
  return jnp.sqrt(jnp.stack(squares)) if squares else jnp.zeros((0,))


def square_sum(leaf: Array) -> Array:
  """Compute Σ g², in float32 at least."""
  dtype = at_least_float32(leaf.dtype)
  if any(splits_of(leaf)):  # A sharded array can't be flattened, as the dot product requires.
    return (leaf.astype(dtype) ** 2).sum()
  return jnp.vdot(leaf, leaf, preferred_element_type=dtype)


def layer_names(params: Params) -> list[str]:
  """Return the path of each layer that has parameters, such as `["[0]", "[2]"]`."""
  return list(by_layer(params))


def by_layer(tree: Params) -> dict[str, list[Array]]:
  """Group the arrays by layer, that is, by record, such as w and b of a dense layer."""
  layers: dict[str, list[Array]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    layers.setdefault(jax.tree_util.keystr(path[:-1]), []).append(leaf)
  return layers
