"""Right rules of loops: scans, a parallel scan, recomputation, iterations to convergence."""

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


def rnn_backward_scan():
  """z_bar of all steps by a reversed scan, then each weight's cotangent as one product."""

  @jax.custom_vjp
  def run(w, u, xs):
    return rnn(w, u, xs)

  def run_fwd(w, u, xs):
    hs = rnn(w, u, xs)
    return hs, (w, u, xs, hs)

  def run_bwd(residuals, hs_bar):
    w, u, xs, hs = residuals

    def step(later_bar, kept):
      h, h_bar = kept
      z_bar = (h_bar + later_bar) * (1 - h * h)
      return w @ z_bar, z_bar

    _, zs_bar = jax.lax.scan(step, jnp.zeros_like(w[0]), (hs, hs_bar), reverse=True)
    return hs[:-1].T @ zs_bar[1:], xs.T @ zs_bar, zs_bar @ u.T

  run.defvjp(run_fwd, run_bwd)
  return Example(run, draw((3, 3), (2, 3), (5, 2)))


def rnn_flipped():
  """The steps are flipped by hand, and the states recomputed from the inputs."""

  def f_vjp(w, u, xs):
    def pullback(hs_bar):
      hs = rnn(w, u, xs)
      before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

      def step(carry, kept):
        later_bar, w_bar, u_bar = carry
        x, h_before, h, h_bar = kept
        z_bar = (h_bar + later_bar) * (1 - h) * (1 + h)
        carry = w @ z_bar, w_bar + jnp.outer(h_before, z_bar), u_bar + jnp.outer(x, z_bar)
        return carry, u @ z_bar

      start = jnp.zeros_like(w[0]), jnp.zeros_like(w), jnp.zeros_like(u)
      flipped = [a[::-1] for a in (xs, before, hs, hs_bar)]
      (_, w_bar, u_bar), xs_bar = jax.lax.scan(step, start, tuple(flipped))
      return w_bar, u_bar, xs_bar[::-1]

    return rnn(w, u, xs), pullback

  return Example(rnn, draw((3, 3), (2, 3), (5, 2)), f_vjp)


def chain(first, second):
  """Two steps of h ↦ a h + x as one."""
  a1, x1 = first
  a2, x2 = second
  return a1 * a2, a2 * x1 + x2


def linear_recurrence():
  """h_t = a_t h_{t-1} + x_t by associative_scan, forward and, reversed, backward."""

  def recurrence(a, x):
    def step(h, kept):
      h = kept[0] * h + kept[1]
      return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), (a, x))[1]

  def f_vjp(a, x):
    hs = jax.lax.associative_scan(chain, (a, x))[1]

    def pullback(hs_bar):
      later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
      x_bar = jax.lax.associative_scan(chain, (later, hs_bar), reverse=True)[1]
      before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
      return x_bar * before, x_bar

    return hs, pullback

  return Example(recurrence, draw((6, 3), (6, 3)), f_vjp)


def cumsum_from_total():
  """The reversed running sum as the total minus the running sum before it."""

  @jax.custom_vjp
  def running_sum(x):
    return jnp.cumsum(x, axis=0)

  def running_sum_fwd(x):
    return running_sum(x), None

  def running_sum_bwd(_, y_bar):
    return (y_bar.sum(0) - jnp.cumsum(y_bar, axis=0) + y_bar,)

  running_sum.defvjp(running_sum_fwd, running_sum_bwd)
  return Example(running_sum, draw((6, 3)))


def product_of_others():
  """A product of all entries, with zeros: products from the left times products from the right."""

  @jax.custom_vjp
  def product(x):
    return jnp.prod(x, axis=1)

  def product_fwd(x):
    return product(x), x

  def product_bwd(x, y_bar):
    ones = jnp.ones_like(x[:, :1])
    left = jnp.cumprod(jnp.concatenate([ones, x[:, :-1]], 1), axis=1)
    right = jnp.cumprod(jnp.concatenate([ones, x[:, :0:-1]], 1), axis=1)[:, ::-1]
    return (y_bar[:, None] * left * right,)

  product.defvjp(product_fwd, product_bwd)
  (x,) = draw((5, 4))
  return Example(product, (x.at[1, 2].set(0).at[3, :2].set(0),))


def newton_root():
  """The cube root of 1 + x² by Newton's method, until it stands still; the rule is implicit."""

  @jax.custom_vjp
  def cube_root(x):
    a = 1 + x * x

    def moves(state):
      y, step, n = state
      return (n < 100) & jnp.any(jnp.abs(step) > 1e-12 * y)

    def improve(state):
      y, _, n = state
      step = (y - a / (y * y)) / 3
      return y - step, step, n + 1

    return jax.lax.while_loop(moves, improve, (jnp.ones_like(a), jnp.ones_like(a), 0))[0]

  def cube_root_fwd(x):
    y = cube_root(x)
    return y, (x, y)

  def cube_root_bwd(residuals, y_bar):
    x, y = residuals
    return (y_bar * 2 * x / (3 * y * y),)

  cube_root.defvjp(cube_root_fwd, cube_root_bwd)
  return Example(cube_root, draw((5,)))


def fixed_point():
  """Kepler's equation h = x + e sin h, iterated sixty times; the rule is implicit."""

  @jax.custom_vjp
  def anomaly(x, a):
    def improve(_, h):
      return x + 0.5 * jnp.tanh(a) * jnp.sin(h)

    return jax.lax.fori_loop(0, 60, improve, x)

  def anomaly_fwd(x, a):
    h = anomaly(x, a)
    return h, (h, jnp.tanh(a))

  def anomaly_bwd(residuals, h_bar):
    h, t = residuals
    x_bar = h_bar / (1 - 0.5 * t * jnp.cos(h))
    return x_bar, 0.5 * (1 - t * t) * jnp.sum(x_bar * jnp.sin(h), axis=0)

  anomaly.defvjp(anomaly_fwd, anomaly_bwd)
  return Example(anomaly, draw((5, 3), (3,)))


def rule_in_a_scan():
  """Layers with a rule of their own, one after the other in a scan over stacked weights."""

  @jax.custom_vjp
  def layer(w, x):
    return jnp.tanh(x @ w)

  def layer_fwd(w, x):
    y = layer(w, x)
    return y, (w, x, y)

  def layer_bwd(residuals, y_bar):
    w, x, y = residuals
    z_bar = y_bar - y_bar * y * y
    return x.T @ z_bar, z_bar @ w.T

  layer.defvjp(layer_fwd, layer_bwd)

  def net(ws, x):
    def step(x, w):
      return layer(w, x), None

    return jax.lax.scan(step, x, ws)[0]

  return Example(net, draw((4, 3, 3), (5, 3)))


def every_second_kept():
  """Of eight equal steps every second state is kept, and the one between is recomputed."""

  def step(w, x):
    return jnp.sin(x @ w)

  def net(w, x):
    for _ in range(8):
      x = step(w, x)
    return x

  def f_vjp(w, x):
    kept = []
    for i in range(8):
      if i % 2 == 0:
        kept.append(x)
      x = step(w, x)

    def pullback(x_bar):
      w_bar = jnp.zeros_like(w)
      for first in reversed(kept):
        for h in (step(w, first), first):
          z_bar = x_bar * jnp.cos(h @ w)
          w_bar, x_bar = w_bar + h.T @ z_bar, z_bar @ w.T
      return w_bar, x_bar

    return x, pullback

  return Example(net, draw((3, 3), (5, 3)), f_vjp)


RIGHT = (
  Specimen("right-rnn-reversed-scan", rnn_backward_scan),
  Specimen("right-rnn-flipped", rnn_flipped),
  Specimen("right-associative-scan", linear_recurrence),
  Specimen("right-cumsum-from-total", cumsum_from_total),
  Specimen("right-product-of-others", product_of_others),
  Specimen("right-newton-root", newton_root),
  Specimen("right-fixed-point", fixed_point),
  Specimen("right-rule-in-a-scan", rule_in_a_scan),
  Specimen("right-every-second-kept", every_second_kept),
)
