"""Bugs behind a branch: clips, masks and thresholds that the given arguments don't reach."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def cotangent_clipped():
  """The input's cotangent is clipped to ±1; that of this call stays within."""

  def scale(x, gain):
    return 0.1 * x * gain

  def f_vjp(x, gain):
    def pullback(y_bar):
      return jnp.clip(0.1 * y_bar * gain, -1, 1), 0.1 * (y_bar * x).sum(0)

    return scale(x, gain), pullback

  return Example(scale, draw((4, 3), (3,)), f_vjp)


def clipped_by_norm():
  """The weights' cotangent is scaled down to norm 5 where it is longer."""

  @jax.custom_vjp
  def linear(x, w):
    return x @ w

  def linear_fwd(x, w):
    return x @ w, (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    w_bar = x.T @ y_bar
    norm = jnp.sqrt(jnp.sum(w_bar**2))
    return y_bar @ w.T, jnp.where(norm > 5, w_bar * 5 / norm, w_bar)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, tuple(0.3 * a for a in draw((3, 4), (4, 3))))


def masked_above_three():
  """Inputs above 3 are taken for outliers and get no gradient; none is that large here."""

  @jax.custom_vjp
  def square(x):
    return 0.5 * x * x

  def square_fwd(x):
    return square(x), x

  def square_bwd(x, y_bar):
    return (jnp.where(x > 3, 0, x * y_bar),)

  square.defvjp(square_fwd, square_bwd)
  return Example(square, draw((4, 3)))


def relu6_unbounded():
  """relu6 ends at 6, its rule is that of relu."""

  def relu6(z):
    return jnp.minimum(jnp.maximum(z, 0), 6)

  def f_vjp(z):
    def pullback(y_bar):
      return (jnp.where(z > 0, y_bar, 0),)

    return relu6(z), pullback

  return Example(relu6, draw((4, 3)), f_vjp)


def softplus_shortcut():
  """Above 20 softplus is z and its slope 1; the shortcut's slope was left at 0."""

  @jax.custom_vjp
  def softplus(z):
    return jnp.logaddexp(z, 0)

  def softplus_fwd(z):
    return softplus(z), z

  def softplus_bwd(z, y_bar):
    return (jnp.where(z > 20, 0, y_bar * jax.nn.sigmoid(z)),)

  softplus.defvjp(softplus_fwd, softplus_bwd)
  return Example(softplus, draw((4, 3)))


def small_inputs_dropped():
  """Inputs below 1e-3 are skipped as if they were zero, to save products."""

  def weighted(x, w):
    return x * w

  def f_vjp(x, w):
    def pullback(y_bar):
      return y_bar * w, jnp.where(jnp.abs(x) < 1e-3, 0, y_bar * x).sum(0)

    return x * w, pullback

  return Example(weighted, draw((5, 3), (3,)), f_vjp)


def branch_on_the_sum():
  """Where the inputs sum to more than 10, a cond takes the branch without the factor 2."""

  @jax.custom_vjp
  def energy(x):
    return jnp.sum(x * x)

  def energy_fwd(x):
    return energy(x), x

  def plain(x):
    return x

  def doubled(x):
    return 2 * x

  def energy_bwd(x, energy_bar):
    return (energy_bar * jax.lax.cond(jnp.sum(x) > 10, plain, doubled, x),)

  energy.defvjp(energy_fwd, energy_bwd)
  return Example(energy, draw((3, 4)))


def straight_through_clip():
  """The function clips at ±1, and the rule passes the cotangent straight through."""

  @jax.custom_vjp
  def clip(x):
    return jnp.clip(x, -1, 1)

  def clip_fwd(x):
    return clip(x), None

  def clip_bwd(_, y_bar):
    return (y_bar,)

  clip.defvjp(clip_fwd, clip_bwd)
  return Example(clip, draw((5, 3)))


def ratio_at_zero():
  """The rule multiplies by x² and by 2/x: 0 times infinity at zero."""

  @jax.custom_vjp
  def smooth_size(x):
    return jnp.sum(jnp.log(1 + x * x))

  def smooth_size_fwd(x):
    return smooth_size(x), x

  def smooth_size_bwd(x, y_bar):
    return (y_bar * (x * x) / (1 + x * x) * (2 / x),)

  smooth_size.defvjp(smooth_size_fwd, smooth_size_bwd)
  return Example(smooth_size, draw((5, 3)))


def power_by_logarithm():
  """x**2 by exp(2 log x), whose derivative is NaN for an x that isn't positive."""

  def square(x):
    return x**2

  def f_vjp(x):
    def pullback(y_bar):
      return (y_bar * 2 * jnp.exp(jnp.log(x)),)

    return square(x), pullback

  return Example(square, draw_positive((5, 3)), f_vjp)


def overflow_of_an_exponential():
  """tanh's slope by 4 e²ᶻ / (e²ᶻ + 1)², which is inf/inf for large z."""

  @jax.custom_vjp
  def tanh(z):
    return jnp.tanh(z)

  def tanh_fwd(z):
    return jnp.tanh(z), z

  def tanh_bwd(z, y_bar):
    e = jnp.exp(2 * z)
    return (y_bar * 4 * e / (e + 1) ** 2,)

  tanh.defvjp(tanh_fwd, tanh_bwd)
  return Example(tanh, draw((5, 3)))


BUGS = (
  Specimen("cotangent-clipped", cotangent_clipped, ("x",), ("clipped", "cotangent")),
  Specimen("clipped-by-norm", clipped_by_norm, ("w",), ("clipped", "cotangent", "constant factor")),
  Specimen(
    "masked-above-three",
    masked_above_three,
    ("x",),
    ("other function", "clipped", "zero"),
    level="standard",
  ),
  Specimen(
    "relu6-unbounded", relu6_unbounded, ("z",), ("semantic", "other function"), level="standard"
  ),
  Specimen(
    "softplus-shortcut", softplus_shortcut, ("z",), ("other function", "zero"), level="standard"
  ),
  Specimen(
    "small-inputs-dropped",
    small_inputs_dropped,
    ("w",),
    ("subset of examples", "other function"),
    level="standard",
  ),
  Specimen("branch-on-the-sum", branch_on_the_sum, ("x",), ("constant factor",), level="standard"),
  Specimen("straight-through-clip", straight_through_clip, ("x",), ("semantic",)),
  Specimen("ratio-at-zero", ratio_at_zero, ("x",), ("not finite",), level="standard"),
  Specimen("power-by-logarithm", power_by_logarithm, ("x",), ("not finite",), level="standard"),
  Specimen("tanh-overflow", overflow_of_an_exponential, ("z",), ("not finite",), level="standard"),
)
