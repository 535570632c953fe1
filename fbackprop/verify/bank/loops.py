"""Bugs of scans and recurrences: the direction, the carry, the neighbour's state."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def rnn(w, u, xs):
  """h_t = tanh(h_{t-1} w + x_t u) from h_0 = 0; all h_t, [T, H]."""

  def step(h, x):
    h = jnp.tanh(h @ w + x @ u)
    return h, h

  return jax.lax.scan(step, jnp.zeros_like(w[0]), xs)[1]


def rnn_with(step_backward, reverse=True):
  """The rnn with a rule whose scan makes `step_backward(carry, kept, w, u)` of each step."""

  @jax.custom_vjp
  def run(w, u, xs):
    return rnn(w, u, xs)

  def run_fwd(w, u, xs):
    hs = rnn(w, u, xs)
    return hs, (w, u, xs, hs)

  def run_bwd(residuals, hs_bar):
    w, u, xs, hs = residuals
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def step(carry, kept):
      return step_backward(carry, kept, w, u)

    start = (jnp.zeros_like(w[0]), jnp.zeros_like(w), jnp.zeros_like(u))
    (_, w_bar, u_bar), xs_bar = jax.lax.scan(step, start, (xs, before, hs, hs_bar), reverse=reverse)
    return w_bar, u_bar, xs_bar

  run.defvjp(run_fwd, run_bwd)
  return Example(run, draw((3, 3), (2, 3), (5, 2)))


def carry_dropped():
  """The state's cotangent isn't handed to the step before: backpropagation through no time."""

  def step_backward(carry, kept, w, u):
    _, w_bar, u_bar = carry
    x, h_before, h, h_bar = kept
    z_bar = h_bar * (1 - h * h)
    w_bar, u_bar = w_bar + jnp.outer(h_before, z_bar), u_bar + jnp.outer(x, z_bar)
    return (z_bar @ w.T, w_bar, u_bar), z_bar @ u.T

  return rnn_with(step_backward)


def full_step(carry, kept, w, u):
  """One step of backpropagation through time."""
  later_bar, w_bar, u_bar = carry
  x, h_before, h, h_bar = kept
  z_bar = (h_bar + later_bar) * (1 - h * h)
  w_bar, u_bar = w_bar + jnp.outer(h_before, z_bar), u_bar + jnp.outer(x, z_bar)
  return (z_bar @ w.T, w_bar, u_bar), z_bar @ u.T


def walked_forward():
  """The backward scan walks from the first step to the last."""
  return rnn_with(full_step, reverse=False)


def state_after():
  """The recurrent weights' cotangent takes the state after the step, not before it."""

  def step_backward(carry, kept, w, u):
    x, _, h, h_bar = kept
    return full_step(carry, (x, h, h, h_bar), w, u)

  return rnn_with(step_backward)


def last_step_only():
  """The weights' cotangent is overwritten in each step, so that one step is left."""

  def step_backward(carry, kept, w, u):
    (later_bar, _, u_bar) = carry
    (h_bar, _, u_bar), x_bar = full_step((later_bar, jnp.zeros_like(w), u_bar), kept, w, u)
    _, h_before, h, own_bar = kept
    z_bar = (own_bar + later_bar) * (1 - h * h)
    return (h_bar, jnp.outer(h_before, z_bar), u_bar), x_bar

  return rnn_with(step_backward)


def average_without_decay():
  """A moving average whose cotangent is carried back without the decay."""

  @jax.custom_vjp
  def moving_average(xs):
    def step(mean, x):
      mean = 0.9 * mean + 0.1 * x
      return mean, mean

    return jax.lax.scan(step, jnp.zeros_like(xs[0]), xs)[1]

  def moving_average_fwd(xs):
    return moving_average(xs), None

  def moving_average_bwd(_, means_bar):
    def step(carry, mean_bar):
      carry = carry + mean_bar
      return carry, 0.1 * carry

    return (jax.lax.scan(step, jnp.zeros_like(means_bar[0]), means_bar, reverse=True)[1],)

  moving_average.defvjp(moving_average_fwd, moving_average_bwd)
  return Example(moving_average, draw((6, 3)))


def initial_state_zero():
  """The state from which the scan starts is an argument, and gets the cotangent zero."""

  def decay(h0, xs):
    def step(h, x):
      h = 0.5 * h + x
      return h, h

    return jax.lax.scan(step, h0, xs)[1]

  def f_vjp(h0, xs):
    def pullback(hs_bar):
      def step(carry, h_bar):
        carry = h_bar + 0.5 * carry
        return carry, carry

      _, xs_bar = jax.lax.scan(step, jnp.zeros_like(h0), hs_bar, reverse=True)
      return jnp.zeros_like(h0), xs_bar

    return decay(h0, xs), pullback

  return Example(decay, draw((3,), (5, 3)), f_vjp)


def product_by_division():
  """The cotangent of a product of all entries divides by the entry: 0/0 at a zero."""

  @jax.custom_vjp
  def product(x):
    return jnp.prod(x, axis=1)

  def product_fwd(x):
    y = product(x)
    return y, (x, y)

  def product_bwd(residuals, y_bar):
    x, y = residuals
    return (y_bar[:, None] * y[:, None] / x,)

  product.defvjp(product_fwd, product_bwd)
  return Example(product, draw((5, 3)))


def newton_unrolled_short():
  """Three Newton steps for a root; the rule differentiates the last of them only."""

  @jax.custom_vjp
  def root(a):
    y = a
    for _ in range(3):
      y = 0.5 * (y + a / y)
    return y

  def root_fwd(a):
    y = a
    for _ in range(2):
      y = 0.5 * (y + a / y)
    return 0.5 * (y + a / y), y

  def root_bwd(y, y_bar):
    return (y_bar * 0.5 / y,)

  root.defvjp(root_fwd, root_bwd)
  return Example(root, (jnp.abs(draw((6,))[0]) + 3,))


BUGS = (
  Specimen("rnn-carry-dropped", carry_dropped, ("xs", "u", "w"), ("path", "stop_gradient")),
  Specimen("rnn-walked-forward", walked_forward, ("xs", "u", "w"), ("permuted", "path")),
  Specimen("rnn-state-after", state_after, ("w",), ("wrong point",)),
  Specimen("rnn-last-step-only", last_step_only, ("w",), ("path", "subset of examples")),
  Specimen("average-without-decay", average_without_decay, ("xs",), ("path", "other function")),
  Specimen("initial-state-zero", initial_state_zero, ("h0",), ("zero",)),
  Specimen("product-by-division", product_by_division, ("x",), ("not finite",), level="standard"),
  Specimen("newton-unrolled-short", newton_unrolled_short, ("a",), ("path", "stop_gradient")),
)
