"""Scans, recurrences and iterations: a wrong direction, carry or neighbouring state."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import tanh_layer
from fbackprop.verify.bank.specimen import Example, bug, draw, example, normal, right


def states(step, start, xs, **options):
  """Return all states h_t = step(h_{t-1}, x_t) of a scan."""

  def both(h, x):
    h = step(h, x)
    return h, h

  return jax.lax.scan(both, start, xs, **options)[1]


def rnn(w, u, xs):
  """Return all h_t = tanh(h_{t-1} w + x_t u) from h_0 = 0, [T, H]."""
  return states(lambda h, x: jnp.tanh(h @ w + x @ u), jnp.zeros_like(w[0]), xs)


RNN = (rnn, (3, 3), (2, 3), (5, 2))


def before(hs):
  """Shift the states by one step, starting from h_0 = 0."""
  return jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])


def rnn_backward(w, u, xs, hs_bar, changed=lambda *carry: carry, before=before, reverse=True):
  """Pull a cotangent back through `rnn`: accumulate the weights' cotangents step by step.

  `changed(h_bar, w_bar, u_bar)` changes what a step gets from the later ones, `before(hs)` is the
  state before each step.
  """

  def step(carry, kept):
    later_bar, w_bar, u_bar = changed(*carry)
    x, h_before, h, h_bar = kept
    z_bar = (h_bar + later_bar) * (1 - h * h)
    w_bar, u_bar = w_bar + jnp.outer(h_before, z_bar), u_bar + jnp.outer(x, z_bar)
    return (z_bar @ w.T, w_bar, u_bar), z_bar @ u.T

  hs = rnn(w, u, xs)
  start = (jnp.zeros_like(w[0]), jnp.zeros_like(w), jnp.zeros_like(u))
  (_, w_bar, u_bar), xs_bar = jax.lax.scan(
    step, start, (xs, before(hs), hs, hs_bar), reverse=reverse
  )
  return w_bar, u_bar, xs_bar


@bug("xs, u, w: path, stop_gradient", *RNN)
def rnn_carry_dropped(w, u, xs, hs_bar):
  """The state's cotangent isn't passed to the preceding step."""
  return rnn_backward(w, u, xs, hs_bar, lambda h_bar, *sums: (jnp.zeros_like(h_bar), *sums))


@bug("xs, u, w: permuted, path", *RNN)
def rnn_walked_forward(w, u, xs, hs_bar):
  """The backward scan runs from the first step to the last."""
  return rnn_backward(w, u, xs, hs_bar, reverse=False)


@bug("w: wrong point", *RNN)
def rnn_state_after(w, u, xs, hs_bar):
  """The recurrent weights' cotangent uses the state after the step instead of before it."""
  return rnn_backward(w, u, xs, hs_bar, before=lambda hs: hs)


@bug("w: path, subset of examples", *RNN)
def rnn_last_step_only(w, u, xs, hs_bar):
  """The weights' cotangent is overwritten in each step instead of accumulated."""
  return rnn_backward(w, u, xs, hs_bar, lambda h_bar, _, u_bar: (h_bar, jnp.zeros_like(w), u_bar))


@right(*RNN)
def right_rnn_reversed_scan(w, u, xs, hs_bar):
  """z_bar of all steps by a reversed scan, then each weight's cotangent as one product."""

  def step(later_bar, kept):
    h, h_bar = kept
    z_bar = (h_bar + later_bar) * (1 - h * h)
    return w @ z_bar, z_bar

  hs = rnn(w, u, xs)
  _, zs_bar = jax.lax.scan(step, jnp.zeros_like(w[0]), (hs, hs_bar), reverse=True)
  return hs[:-1].T @ zs_bar[1:], xs.T @ zs_bar, zs_bar @ u.T


@right(*RNN, f_vjp=True)
def right_rnn_flipped(w, u, xs, hs_bar):
  """The steps are flipped explicitly, and the states recomputed from the inputs."""
  hs = rnn(w, u, xs)

  def step(carry, kept):
    later_bar, w_bar, u_bar = carry
    x, h_before, h, h_bar = kept
    z_bar = (h_bar + later_bar) * (1 - h) * (1 + h)
    carry = w @ z_bar, w_bar + jnp.outer(h_before, z_bar), u_bar + jnp.outer(x, z_bar)
    return carry, u @ z_bar

  start = jnp.zeros_like(w[0]), jnp.zeros_like(w), jnp.zeros_like(u)
  flipped = tuple(a[::-1] for a in (xs, before(hs), hs, hs_bar))
  (_, w_bar, u_bar), xs_bar = jax.lax.scan(step, start, flipped)
  return w_bar, u_bar, xs_bar[::-1]


def moving_average(xs):
  """Return all m_t = 0.9 m_{t-1} + 0.1 x_t."""
  return states(lambda mean, x: 0.9 * mean + 0.1 * x, jnp.zeros_like(xs[0]), xs)


@bug("xs: path, other function", moving_average, (6, 3))
def average_without_decay(xs, means_bar):
  """The cotangent of a moving average is propagated without the decay."""
  sums = states(lambda carry, bar: carry + bar, jnp.zeros_like(xs[0]), means_bar, reverse=True)
  return (0.1 * sums,)


@bug("h0: zero", lambda h0, xs: states(lambda h, x: 0.5 * h + x, h0, xs), (3,), (5, 3), f_vjp=True)
def initial_state_zero(h0, xs, hs_bar):
  """The initial state of the scan is an argument, and its cotangent is zero."""
  zero = jnp.zeros_like(h0)
  return zero, states(lambda carry, h_bar: h_bar + 0.5 * carry, zero, hs_bar, reverse=True)


def compose(first, second):
  """Combine two steps h ↦ a h + x into one."""
  (a1, x1), (a2, x2) = first, second
  return a1 * a2, a2 * x1 + x2


def recurrence_forward(a, x):
  """Compute `recurrence` by associative_scan."""
  hs = jax.lax.associative_scan(compose, (a, x))[1]
  return hs, (a, hs)


@right(lambda a, x: states(lambda h, kept: kept[0] * h + kept[1], jnp.zeros_like(x[0]), (a, x)),
       (6, 3), (6, 3), forward=recurrence_forward, f_vjp=True)  # fmt: skip
def right_associative_scan(a, hs, hs_bar):
  """A linear recurrence by associative_scan, forward and, reversed, backward."""
  later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
  x_bar = jax.lax.associative_scan(compose, (later, hs_bar), reverse=True)[1]
  return x_bar * before(hs), x_bar


@bug("x: not finite", lambda x: jnp.prod(x, axis=1), (5, 3), level="standard")
def product_by_division(x, y_bar):
  """The cotangent of a product of all entries is divided by the entry: 0/0 at a zero."""
  return (y_bar[:, None] * jnp.prod(x, axis=1)[:, None] / x,)


@right(lambda x: jnp.prod(x, axis=1), lambda: draw((5, 4))[0].at[1, 2].set(0).at[3, :2].set(0))
def right_product_of_others(x, y_bar):
  """The product of the other entries is that of the left ones times that of the right ones."""
  ones = jnp.ones_like(x[:, :1])
  left = jnp.cumprod(jnp.concatenate([ones, x[:, :-1]], 1), axis=1)
  right_of = jnp.cumprod(jnp.concatenate([ones, x[:, :0:-1]], 1), axis=1)[:, ::-1]
  return (y_bar[:, None] * left * right_of,)


# Iterations.


def newton_steps(a, count):
  """Compute the square root by Newton steps."""
  y = a
  for _ in range(count):
    y = 0.5 * (y + a / y)
  return y


@bug("a: path, stop_gradient", lambda a: newton_steps(a, 3),
     lambda: jnp.abs(normal(6, seed=0)()) + 3,
     forward=lambda a: (newton_steps(a, 3), (newton_steps(a, 2),)))  # fmt: skip
def newton_unrolled_short(y, y_bar):
  """The root takes three Newton steps; the rule differentiates the last one only."""
  return (y_bar * 0.5 / y,)


def cube_root(x):
  """Compute the cube root of 1 + x² by Newton's method, until convergence."""
  a = 1 + x * x

  def moves(state):
    y, step, n = state
    return (n < 100) & jnp.any(jnp.abs(step) > 1e-12 * y)

  def improve(state):
    y, _, n = state
    step = (y - a / (y * y)) / 3
    return y - step, step, n + 1

  return jax.lax.while_loop(moves, improve, (jnp.ones_like(a), jnp.ones_like(a), 0))[0]


@right()
def right_newton_root():
  """The rule is implicit; the root that it keeps has the rule too, for a second derivative."""
  root = jax.custom_vjp(cube_root)

  def root_fwd(x):
    y = root(x)
    return y, (x, y)

  def root_bwd(residuals, y_bar):
    x, y = residuals
    return (y_bar * 2 * x / (3 * y * y),)

  root.defvjp(root_fwd, root_bwd)
  return Example(root, draw((5,)))


def anomaly(x, a):
  """Solve Kepler's equation h = x + ½ tanh(a) sin h by sixty iterations."""
  return jax.lax.fori_loop(0, 60, lambda _, h: x + 0.5 * jnp.tanh(a) * jnp.sin(h), x)


def anomaly_forward(x, a):
  """Compute `anomaly` and keep the solution."""
  h = anomaly(x, a)
  return h, (h, jnp.tanh(a))


@right(anomaly, (5, 3), (3,), forward=anomaly_forward)
def right_fixed_point(h, t, h_bar):
  """The rule of a fixed-point iteration is that of the implicit function."""
  x_bar = h_bar / (1 - 0.5 * t * jnp.cos(h))
  return x_bar, 0.5 * (1 - t * t) * jnp.sum(x_bar * jnp.sin(h), axis=0)


def tanh_layer_backward(x, w, y_bar):
  """Pull a cotangent back through `tanh_layer`."""
  y = tanh_layer(x, w)
  z_bar = y_bar - y_bar * y * y
  return z_bar @ w.T, x.T @ z_bar


@right()
def right_rule_in_a_scan():
  """Layers with a rule of their own, applied in a scan over stacked weights."""
  layer = example(tanh_layer, tanh_layer_backward).f

  def net(ws, x):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0]

  return Example(net, draw((4, 3, 3), (5, 3)))


def eight_steps(w, x):
  """Apply sin(x w) eight times."""
  for _ in range(8):
    x = jnp.sin(x @ w)
  return x


def keeping_every_second(w, x):
  """Compute `eight_steps`, and keep the state before every second step."""
  kept = []
  for _ in range(4):
    kept.append(x)
    x = jnp.sin(jnp.sin(x @ w) @ w)
  return x, (w, kept)


@right(eight_steps, (3, 3), (5, 3), forward=keeping_every_second, f_vjp=True)
def right_every_second_kept(w, kept, x_bar):
  """Every second state of eight equal steps is kept, and the one between is recomputed."""
  w_bar = jnp.zeros_like(w)
  for first in reversed(kept):
    for h in (jnp.sin(first @ w), first):
      z_bar = x_bar * jnp.cos(h @ w)
      w_bar, x_bar = w_bar + h.T @ z_bar, z_bar @ w.T
  return w_bar, x_bar
