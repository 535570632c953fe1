"""The check while training: our gradient against `jax.grad`, at the parameters of that moment.

Two questions are asked at once, and kept apart, since rounding must neither hide an error nor pass
for one. Is the mathematics right? That is the maths verdict of `verify.vjp`, by its own machinery:
our backward pass and autodiff, traced once in float64, are compared entry by entry within the
rounding error of both, which noise measures at the parameters of that moment. How much does the
working dtype round? Our gradient as the trainer computes it is compared with the same float64
truth; that number is shown, and judged by nobody.

To measure costs some ten backward passes, in NumPy. So the two programs are compiled too, and what
they give is compared first as if nothing had been rounded but the sum over the examples. The noise
is larger than that: what lies within this narrower bound needs no measuring.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from fbackprop.checks import example_count
from fbackprop.meshes import off_mesh, take_rows
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify.example_norms import example_norms, mean
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.comparison import Difference, compare
from fbackprop.verify.witnesses.rule import Leaves, Rule, as_numpy, signature_of
from fbackprop.verify.witnesses.traces import Setting, Witnesses, evaluate, gather_witnesses
from fbackprop.verify.witnesses.verdicts import judge

# Where the measured bound says nothing, as of a kernel that computes in float32 alone, an error is
# judged by its size: two float64 gradients of one network stay below about 1e-7.
GRADIENT_TOLERANCE = 1e-6
# Of what a leaf sums: what stands below the line where its gradient cancels to less.
LEAST_SHARE = 1e-8
# Where XLA computes in float64. A TPU makes pairs of float32 of it, and Metal has none.
HAS_FLOAT64 = frozenset(("cpu", "gpu", "cuda", "rocm"))
# Two samples and the unperturbed one say enough, as entries are pooled.
NOISE = Noise(samples=3)
# The cotangent of the mean loss.
SEED = [np.ones(())]


class LiveCheck(NamedTuple):
  """What one check found.

  Attributes:
    rel_error: max |ours − jax.grad| / max |jax.grad| of the worst parameter, both in float64. Where
      a gradient cancels to less than 1e-8 of what it sums, 1e-8 of that stands below the line.
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


class Traced(NamedTuple):
  """Our gradient and autodiff's, for arguments of certain shapes.

  Attributes:
    rule, witnesses: as `verify.vjp` has them.
    gradients: the arguments' leaves to those of our gradient, of autodiff's, and of the terms that
      they sum; compiled.
    unit: by how much the noise moves a sum over the examples, relative to its terms together.
  """

  rule: Rule
  witnesses: Witnesses
  gradients: Callable[..., list[list[Array]]]
  unit: float


def make_live_check(
  net: Layer,
  loss: Loss,
  *,
  ours: Callable[..., tuple[Array, Params]] | None = None,
  clip_examples: float | None = None,
) -> Callable[..., LiveCheck]:
  """Builds the check of `value_and_grad(net, loss)`; it traces and compiles once for each shape.

  Args:
    net: the network.
    loss: the loss.
    ours: what is checked, with the arguments and results of `value_and_grad(net, loss)`, which it
      is by default.
    clip_examples: the norm to which `ours` shortens each example's gradient before the mean is
      taken. `jax.grad` then goes through the examples one by one.

  Returns:
    `check(params, x, targets, *, key=None, weights=None, rows=None) -> LiveCheck`, with the
    arguments of `value_and_grad`, of the examples `rows` `[K]`, integers, or of all. Where the true
    gradient of a parameter is exactly zero and ours isn't, `rel_error` is infinite.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.mlp([3, 8, 2])
    >>> check = make_live_check(net, fb.squared_error)
    >>> check(net.init(jax.random.key(0)), jnp.ones((4, 3)), jnp.zeros((4, 2))).ok
    True
  """
  own = value_and_grad(net, loss) if ours is None else ours

  def losses_of(params: Params, x: Array, targets: Any, key: Any) -> Array:
    losses: Array = loss.forward(net.forward(params, x, key)[0], targets)[0]
    return losses

  def differentiated(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Array:
    """Losses whose mean has the gradient that `ours` gives."""
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

  def mean_loss_vjp(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Any:
    value, grads = own(params, x, targets, key=key, weights=weights)

    def pull(seed: Array) -> tuple[Any, ...]:
      return grads, None, None, None, None  # The seed is SEED.

    return value, pull

  @jax.jit
  def in_own_dtype(params: Params, x: Array, targets: Any, key: Any, weights: Any) -> Params:
    return own(params, x, targets, key=key, weights=weights)[1]

  found: dict[Any, Traced] = {}

  def traced_for(args: tuple[Any, ...]) -> Traced:
    leaves, structure = jax.tree.flatten(args)
    shapes = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
    if shapes not in found:
      signature, _ = signature_of(mean_loss, args)
      count = len(jax.tree.leaves(args[0]))
      of_params = tuple(i < count for i in range(len(leaves)))  # The rest are constants here.
      out = jax.eval_shape(mean_loss, *args)
      signature = signature._replace(is_float=of_params)
      rule = Rule(mean_loss, mean_loss_vjp, signature, jax.tree.structure(out))
      witnesses = gather_witnesses(rule, leaves, [out])
      gradients = compiled(rule, witnesses, uncancelled_loss)
      unit = NOISE.unit * (1 + 0.25 * math.sqrt(example_count(args[1])))
      found[shapes] = Traced(rule, witnesses, gradients, unit)
    return found[shapes]

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
    rounded_grads = as_numpy(jax.tree.leaves(in_own_dtype(*args)))
    # The truth is found on one device. A run's precision may name an algorithm, and those round
    # float64 products too.
    with jax.set_mesh(None), np.errstate(all="ignore"), jax.default_matmul_precision("highest"):
      args = off_mesh(args)
      leaves = where_float64_is(jax.tree.leaves(args))
      differences, terms, wrong = compare_gradients(traced_for(args), leaves)
      exact, rounded = (
        [
          relative_error(g, d.want, share * t)
          for g, d, t in zip(grads, differences, terms, strict=True)
        ]
        for grads, share in (([d.got for d in differences], LEAST_SHARE), (rounded_grads, 1.0))
      )
    # argmax takes the first NaN for the largest, as it should here.
    worst = int(np.argmax(np.where(wrong, exact, -1.0) if wrong.any() else exact))
    leaf = jax.tree_util.keystr(paths[worst])
    return LiveCheck(exact[worst], leaf, float(np.max(rounded)), bool(not wrong.any()))

  return check


def where_float64_is(leaves: list[Any]) -> list[Any]:
  """The arrays as they are, or on the CPU if they are on a device that computes no float64."""
  arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
  if all(device.platform in HAS_FLOAT64 for leaf in arrays for device in leaf.devices()):
    return leaves
  on_cpu: list[Any] = jax.device_put(leaves, jax.local_devices(backend="cpu")[0])
  return on_cpu


def compiled(
  rule: Rule, witnesses: Witnesses, uncancelled_loss: Callable[..., Array]
) -> Callable[..., list[list[Array]]]:
  """Both programs and the terms as one, in the dtypes that they were traced in."""
  if witnesses.truth is None:
    raise ValueError(f"live check: {witnesses.truth_missing}")
  ours, theirs = jaxpr_as_fun(witnesses.rule), jaxpr_as_fun(witnesses.truth)
  avals = witnesses.rule.in_avals

  @jax.jit
  def gradients(*leaves: Any) -> list[list[Array]]:
    pairs = zip([*leaves, *SEED], avals, strict=True)
    own = [jnp.asarray(x, a.dtype) if is_float(a.dtype) else x for x, a in pairs]
    terms = jax.grad(uncancelled_loss)(*rule.signature.arguments(own[:-1]))
    return [ours(*own)[1:], theirs(*own)[1:], jax.tree.leaves(terms)]

  return gradients


class Compared(NamedTuple):
  """Both gradients at one point, by parameter.

  Attributes:
    differences: entry by entry.
    terms: the size of what is summed.
    wrong: whether there is an error.
  """

  differences: list[Difference]
  terms: list[float]
  wrong: np.ndarray


def compare_gradients(traced: Traced, leaves: Leaves) -> Compared:
  """The verdict: at first sight where the rounding of one sum explains it, else measured."""
  with jax.enable_x64(True):
    got, want, terms = map(as_numpy, traced.gradients(*leaves))
  ours, theirs = (
    [np.stack([g, g + traced.unit * t]) for g, t in zip(grads, terms, strict=True)]
    for grads in (got, want)
  )
  differences = compare(ours, theirs, 1.0, may_be_vacuous=False)
  wrong = np.array([d.is_wrong.any() or not np.isfinite(d.got).all() for d in differences])
  if wrong.any():
    differences, wrong = measure(traced, as_numpy(leaves))
  return Compared(differences, [float(np.abs(t).max(initial=0.0)) for t in terms], wrong)


def measure(traced: Traced, leaves: Leaves) -> tuple[list[Difference], np.ndarray]:
  """The maths verdict of `verify.vjp` at one point: the differences, and which leaves are wrong."""
  at = Setting(traced.witnesses, leaves, SEED)
  values = evaluate(at, NOISE)
  assert values.bars_want is not None
  may_be_vacuous = bool(values.fragile or values.foreign)
  differences = compare(values.bars, values.bars_want, 1.0, may_be_vacuous)
  judgements = judge(at, differences, NOISE.seed)
  failed = {j.difference.leaf for j in judgements if j.ruling in ("fail", "undefined")}
  wrong = [
    d.leaf in failed
    or not np.isfinite(d.got).all()
    or (d.is_vacuous.any() and not relative_error(d.got, d.want, 0.0) <= GRADIENT_TOLERANCE)
    for d in differences
  ]
  return differences, np.array(wrong)


def relative_error(got: np.ndarray, want: np.ndarray, least: float) -> float:
  """max |got − want| over max |want|, or `least` where that is more; 0/0 is 0, x/0 infinite."""
  error = np.abs(got - want).max(initial=0.0)
  return float(error and error / max(np.abs(want).max(initial=0.0), least))
