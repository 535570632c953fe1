"""Wrong rules of kinds that the bank doesn't hold, to see whether a printed cause can be trusted.

Each is a slip that ships: a forgotten term, stale statistics, a temperature left out. Beside the
rule stand patterns of the causes that would help its author; another cause than these misleads, and
"no known pattern" is only unhelpful. They were written without regard to what the search can find.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from fbackprop.verify.bank.specimen import Specimen, bug, labels, normal, positive

UNSEEN: list[tuple[Specimen, str]] = []


def unseen(helpful, *problem, **options):
  """Declare a wrong rule, with a regular expression of the causes that help."""

  def declare(rule):
    specimen = bug("x: path", *problem, **options)(rule)
    UNSEEN.append((specimen, helpful))
    return specimen

  return declare


# --- Factors that vary, or are forgotten ----------------------------------------------------------


def tempered(x, t):
  return jax.nn.softmax(x / t, -1)


@unseen("div .*to its operand 0|divided", tempered, (4, 5), positive())
def temperature_left_out_of_x(x, t, y_bar):
  p = tempered(x, t)
  z_bar = p * (y_bar - (y_bar * p).sum(-1, keepdims=True))
  return z_bar, -(z_bar * x).sum() / t**2


def sine_layer(x, w0):
  return jnp.sin(w0 * x)


@unseen("mul .*to its operand 1|multipl", sine_layer, (4, 5), positive())
def frequency_left_out(x, w0, y_bar):
  return jnp.cos(w0 * x) * y_bar, (jnp.cos(w0 * x) * x * y_bar).sum()


def rezero(x, w, a):
  return x + a * jnp.tanh(x @ w)


@unseen("factor|multipl|mul", rezero, (4, 5), (5, 5), positive())
def rezero_gate_left_out(x, w, a, y_bar):
  h = jnp.tanh(x @ w)
  z_bar = y_bar * (1 - h * h)
  return y_bar + z_bar @ w.T, x.T @ z_bar, (y_bar * h).sum()


def mean_square(x, w, b, t):
  return jnp.mean((x @ w + b[None] - t) ** 2)


@unseen("constant factor: S5, S5 = 18", mean_square, (6, 4), (4, 3), (3,), (6, 3))
def mean_left_out_of_the_bias(x, w, b, t, y_bar):
  z_bar = 2 * y_bar * (x @ w + b[None] - t) / t.size
  return z_bar @ w.T, x.T @ z_bar, z_bar.sum(0) * t.size, -z_bar


def scores(q, k, v):
  p = jax.nn.softmax(q @ k.T / np.sqrt(q.shape[-1]), -1)
  return p @ v


@unseen("constant factor: 2(?!\\.)|sqrt", scores, (5, 4), (6, 4), (6, 3))
def attention_scale_left_out_of_k(q, k, v, y_bar):
  p = jax.nn.softmax(q @ k.T / 2, -1)
  p_bar = y_bar @ v.T
  s_bar = p * (p_bar - (p_bar * p).sum(-1, keepdims=True))
  return s_bar @ k / 2, s_bar.T @ q, p.T @ y_bar


def dropped(x, mask):
  return x * mask / 0.8


@unseen(
  "constant factor: 1\\.25",
  dropped,
  (6, 5),
  lambda: (normal(6, 5, seed=3)() > -0.8).astype(jnp.float32),
)
def dropout_scaled_twice(x, mask, y_bar):
  return y_bar * mask / 0.64, x * y_bar / 0.8


def weighted_sum(x, weights):
  return jnp.sum(weights * x**2, axis=1)


@unseen("twice|multiplied", weighted_sum, (6, 5), positive(6, 5))
def soft_mask_twice(x, weights, y_bar):
  return 2 * weights**2 * x * y_bar[:, None], x**2 * y_bar[:, None]


def pooled(x, lengths):
  return x.sum(1) / lengths[:, None]


@unseen(
  "divided|multipl|factor of|replaces div|replaces mul",
  pooled,
  (4, 6, 3),
  lambda: jnp.asarray([2.0, 6.0, 3.0, 5.0]),
)
def pooled_by_the_longest(x, lengths, y_bar):
  x_bar = jnp.broadcast_to(y_bar[:, None] / x.shape[1], x.shape)
  return x_bar, -(x.sum(1) * y_bar).sum(1) / lengths**2


def averaged_segments(x, ids):
  total = jax.ops.segment_sum(x, ids, 3)
  count = jax.ops.segment_sum(jnp.ones(x.shape[0]), ids, 3)
  return total / jnp.maximum(count, 1)[:, None]


@unseen("div|factor of|max", averaged_segments, (7, 4), labels(7, 3))
def segment_counts_forgotten(x, ids, y_bar):
  return y_bar[ids], None


# --- Forgotten or wrong terms ---------------------------------------------------------------------


def focal(z, t):
  p = jax.nn.sigmoid(z)
  q = t * p + (1 - t) * (1 - p)
  return -((1 - q) ** 2) * jnp.log(q)


@unseen("path|missing|stop_gradient", focal, (5, 4), positive(5, 4))
def focal_factor_as_constant(z, t, y_bar):
  p = jax.nn.sigmoid(z)
  q = t * p + (1 - t) * (1 - p)
  z_bar = -((1 - q) ** 2) / q * (2 * t - 1) * p * (1 - p) * y_bar
  q_bar = (2 * (1 - q) * jnp.log(q) - (1 - q) ** 2 / q) * y_bar
  return z_bar, q_bar * (2 * p - 1)


def gamma_density(x, a, b):
  return a * jnp.log(b) - gammaln(a) + (a - 1) * jnp.log(x) - b * x


@unseen(
  "path|missing|digamma|lgamma",
  gamma_density,
  positive(7),
  positive(7, seed=1),
  positive(7, seed=2),
)
def digamma_forgotten(x, a, b, y_bar):
  return ((a - 1) / x - b) * y_bar, (jnp.log(b) + jnp.log(x)) * y_bar, (a / b - x) * y_bar


def student(x, df, scale):
  z = x / scale
  return (
    gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df) - jnp.log(scale)
    - (df + 1) / 2 * jnp.log1p(z * z / df)
  )  # fmt: skip


@unseen("path|missing|log", student, (6,), positive(6), positive(6, seed=1))
def student_scale_without_jacobian(x, df, scale, y_bar):
  z = x / scale
  common = (df + 1) * z / (df + z * z)
  df_bar = 0.5 * (
    digamma((df + 1) / 2) - digamma(df / 2) - 1 / df - jnp.log1p(z * z / df)
    + (df + 1) * z * z / (df * (df + z * z))
  )  # fmt: skip
  return -common / scale * y_bar, df_bar * y_bar, common * z / scale * y_bar


def cosine(a, b):
  return (a * b).sum(1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))


@unseen("path|missing|norm|sqrt|other function", cosine, (5, 4), (5, 4))
def cosine_without_projection(a, b, y_bar):
  na, nb = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
  c = cosine(a, b)[:, None]
  return b / (na * nb) * y_bar[:, None], (a / (na * nb) - c * b / nb**2) * y_bar[:, None]


def weight_norm(v, g):
  return g * v / jnp.linalg.norm(v, axis=1, keepdims=True)


@unseen("path|missing", weight_norm, (5, 4), positive(5, 1))
def weight_norm_without_projection(v, g, y_bar):
  n = jnp.linalg.norm(v, axis=1, keepdims=True)
  return g / n * y_bar, (v / n * y_bar).sum(1, keepdims=True)


def bounded(x):
  n = jnp.sqrt((x * x).sum(1, keepdims=True))
  return x * jnp.minimum(1.0, 1.5 / n)


@unseen("path|missing|stop", bounded, (6, 4))
def norm_clip_as_constant(x, y_bar):
  n = jnp.sqrt((x * x).sum(1, keepdims=True))
  return (y_bar * jnp.minimum(1.0, 1.5 / n),)


def gru_update(z, h, n):
  s = jax.nn.sigmoid(z)
  return s * h + (1 - s) * n


@unseen("path|missing", gru_update, (5, 4), (5, 4), (5, 4))
def gru_candidate_forgotten(z, h, n, y_bar):
  s = jax.nn.sigmoid(z)
  return y_bar * h * s * (1 - s), y_bar * s, y_bar * (1 - s)


@unseen("sign|-1|minus|neg", gru_update, (5, 4), (5, 4), (5, 4))
def gru_sign_of_one_term(z, h, n, y_bar):
  s = jax.nn.sigmoid(z)
  return y_bar * (h + n) * s * (1 - s), y_bar * s, y_bar * (1 - s)


def quadratic(x, a):
  return jnp.einsum("ni,ij,nj->n", x, a, x)


@unseen("twice|path|missing|transpos|replaces", quadratic, (5, 4), (4, 4))
def quadratic_as_if_symmetric(x, a, y_bar):
  return 2 * (x @ a.T) * y_bar[:, None], jnp.einsum("n,ni,nj->ij", y_bar, x, x)


@unseen("missing|path", quadratic, (5, 4), (4, 4))
def quadratic_one_use(x, a, y_bar):
  return (x @ a.T) * y_bar[:, None], jnp.einsum("n,ni,nj->ij", y_bar, x, x)


def distances(x, y):
  return ((x[:, None] - y[None]) ** 2).sum(-1)


@unseen("constant factor: 1/2", distances, (5, 3), (4, 3))
def distance_without_two_in_y(x, y, y_bar):
  d = (x[:, None] - y[None]) * y_bar[..., None]
  return 2 * d.sum(1), -d.sum(0)


@unseen("integer_pow at broadcast_in_dim", distances, (5, 3), (4, 3))
def distance_own_point_alone(x, y, y_bar):
  d = 2 * (x[:, None] - y[None]) * y_bar[..., None]
  return 2 * x * y_bar.sum(1)[:, None], -d.sum(0)


def lerp(a, b, t):
  return a + t * (b - a)


@unseen("constant factor: -1|sign", lerp, (5, 4), (5, 4), positive(5, 4))
def lerp_sign_of_t(a, b, t, y_bar):
  return (1 - t) * y_bar, t * y_bar, (a - b) * y_bar


def gaussian_nll(mu, rho, t):
  var = jax.nn.softplus(rho)
  return 0.5 * jnp.log(var) + 0.5 * (t - mu) ** 2 / var


@unseen("identity|missing|factor|logaddexp|softplus", gaussian_nll, (5, 4), (5, 4), (5, 4))
def softplus_of_the_variance_forgotten(mu, rho, t, y_bar):
  var = jax.nn.softplus(rho)
  mu_bar = (mu - t) / var * y_bar
  return mu_bar, 0.5 * (1 / var - ((t - mu) / var) ** 2) * y_bar, -mu_bar


def weighted_bce(z, t, weight):
  return weight[None] * t * jax.nn.softplus(-z) + (1 - t) * jax.nn.softplus(z)


@unseen("path|factor|weight|operand|multipl", weighted_bce, (5, 4), positive(5, 4), positive(4))
def positive_weight_ignored(z, t, weight, y_bar):
  z_bar = (jax.nn.sigmoid(z) - t) * y_bar
  t_bar = (weight[None] * jax.nn.softplus(-z) - jax.nn.softplus(z)) * y_bar
  return z_bar, t_bar, (t * jax.nn.softplus(-z) * y_bar).sum(0)


def pinball(x, t):
  return jnp.where(x > t, 0.3 * (x - t), 0.7 * (t - x))


@unseen("sign|-1|-y'|kink|condition|absolute", pinball, (6, 5), (6, 5))
def pinball_sign_of_one_side(x, t, y_bar):
  x_bar = jnp.where(x > t, 0.3, 0.7) * y_bar
  return x_bar, -jnp.where(x > t, 0.3, -0.7) * y_bar


# --- Wrong values, axes, places -------------------------------------------------------------------


def rms(x, scale):
  return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3) * scale[None]


@unseen(
  "constant|1e-06|without|eps|0.001|operand 1 of `div` .*, where `sqrt`", rms, (6, 5), positive(5)
)
def eps_outside_of_the_root(x, scale, y_bar):
  r = 1 / (jnp.sqrt(jnp.mean(x * x, -1, keepdims=True)) + 1e-3)
  bar = y_bar * scale[None]
  x_bar = r * (bar - x * r * jnp.mean(bar * x * r, -1, keepdims=True))
  return x_bar, (y_bar * rms(x, jnp.ones_like(scale))).sum(0)


def batch_norm(x, running):
  mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
  return (x - mean) / jnp.sqrt(var + 1e-3) + 0.0 * running[None]


@unseen("wrong point|replaces", batch_norm, (7, 4), positive(4))
def statistics_of_the_running_average(x, running, y_bar):
  r = 1 / jnp.sqrt(running[None] + 1e-3)
  x_hat = (x - x.mean(0, keepdims=True)) * r
  along = x_hat * (y_bar * x_hat).mean(0, keepdims=True)
  x_bar = r * (y_bar - y_bar.mean(0, keepdims=True) - along)
  return x_bar, jnp.zeros_like(running)


def centered_columns(x):
  return (x - x.mean(0, keepdims=True)) ** 2


@unseen("path|axis", centered_columns, (5, 4))
def mean_along_the_other_axis(x, y_bar):
  d_bar = 2 * (x - x.mean(0, keepdims=True)) * y_bar
  return (d_bar - d_bar.mean(1, keepdims=True),)


def group_norm(x):
  g = x.reshape(x.shape[0], 2, 3)
  g = g - g.mean(-1, keepdims=True)
  return g.reshape(x.shape)


@unseen("path|permuted|reshape|transposed", group_norm, (5, 6))
def groups_interleaved(x, y_bar):
  g = y_bar.reshape(x.shape[0], 3, 2)
  g = g - g.mean(1, keepdims=True)
  return (g.reshape(x.shape),)


def bilinear(x, a, y):
  return jnp.einsum("ni,ij,nj->n", x, a, y)


@unseen("transposed|replaces|itself", bilinear, (5, 4), (4, 4), (5, 4))
def bilinear_factor_transposed(x, a, y, y_bar):
  bar = y_bar[:, None]
  return (y @ a) * bar, jnp.einsum("n,ni,nj->ij", y_bar, x, y), (x @ a) * bar


def rotated(x, angle):
  a, b = x[:, 0], x[:, 1]
  c, s = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([c * a - s * b, s * a + c * b], 1)


@unseen("itself|sign|pair|and the one|-1", rotated, (6, 2), (6,))
def rotation_not_inverted(x, angle, y_bar):
  y = rotated(x, angle)
  return rotated(y_bar, angle), y[:, 0] * y_bar[:, 1] - y[:, 1] * y_bar[:, 0]


def angle_of(y, x):
  return jnp.arctan2(y, x)


@unseen("permuted|exchanged|cotangent of", angle_of, (6,), (6,))
def arctan_cotangents_swapped(y, x, y_bar):
  r = x * x + y * y
  return -y / r * y_bar, x / r * y_bar


def hypotenuse(x, y):
  return jnp.sqrt(x * x + y * y)


@unseen("divided|replaces|1 / y|output|other function", hypotenuse, (6,), (6,))
def hypotenuse_not_rooted(x, y, y_bar):
  r = x * x + y * y
  return x / r * y_bar, y / r * y_bar


def arsinh(x):
  return jnp.log(x + jnp.sqrt(x * x + 1))


@unseen("other function|constant -1|sign", arsinh, lambda: 1.5 + positive(6)())
def arsinh_as_arcosh(x, y_bar):
  return (y_bar / jnp.sqrt(x * x - 1),)


def from_polar(r, angle):
  return jnp.stack([r * jnp.cos(angle), r * jnp.sin(angle)], -1)


@unseen("divided|factor|mul|as if it were 1|missing|other function", from_polar, positive(6), (6,))
def polar_radius_forgotten(r, angle, y_bar):
  c, s = jnp.cos(angle), jnp.sin(angle)
  return c * y_bar[:, 0] + s * y_bar[:, 1], c * y_bar[:, 1] - s * y_bar[:, 0]


def log_det(a):
  return jnp.linalg.slogdet(a)[1]


@unseen("transposed", log_det, lambda: normal(4, 4, seed=1)() + 3 * jnp.eye(4))
def log_det_not_transposed(a, y_bar):
  return (y_bar * jnp.linalg.inv(a),)


def solved(a, b):
  return jnp.linalg.solve(a, b)


@unseen(
  "transposed|itself|replaces", solved, lambda: normal(4, 4, seed=1)() + 3 * jnp.eye(4), (4, 3)
)
def solve_not_transposed(a, b, y_bar):
  b_bar = jnp.linalg.solve(a, y_bar)
  return -b_bar @ solved(a, b).T, b_bar


@unseen("constant factor: -1|sign", solved, lambda: normal(4, 4, seed=1)() + 3 * jnp.eye(4), (4, 3))
def solve_sign_of_the_matrix(a, b, y_bar):
  b_bar = jnp.linalg.solve(a.T, y_bar)
  return b_bar @ solved(a, b).T, b_bar


# --- Sequences ------------------------------------------------------------------------------------


def recurrence(a, b):
  def step(h, ab):
    h = ab[0] * h + ab[1]
    return h, h

  return jax.lax.scan(step, jnp.zeros(b.shape[1]), (a, b))[1]


def recurrence_bars(a, b, y_bar, late=0, extra=0):
  """The backward pass; `late` reads h_t for h_{t-1}, `extra` decays once too often."""
  h = jnp.concatenate([jnp.zeros((1, b.shape[1])), recurrence(a, b)])
  carried, a_bar, b_bar = jnp.zeros(b.shape[1]), [], []
  for t in reversed(range(len(a))):
    carried = carried + y_bar[t]
    b_bar.append(carried * (a[t] if extra else 1.0))
    a_bar.append(carried * h[t + late])
    carried = carried * a[t]
  return jnp.stack(a_bar[::-1]), jnp.stack(b_bar[::-1])


@unseen("wrong point|turn|replaces", recurrence, positive(5, 3), (5, 3))
def recurrence_state_after(a, b, y_bar):
  return recurrence_bars(a, b, y_bar, late=1)


@unseen("multiplied|factor", recurrence, positive(5, 3), (5, 3))
def recurrence_decayed_once_more(a, b, y_bar):
  return recurrence_bars(a, b, y_bar, extra=1)


def running_sum(x):
  return jnp.cumsum(x, 1)


@unseen("path|rolled|shift|off|permuted|`sub` .* is one step too many", running_sum, (4, 6))
def running_sum_exclusive(x, y_bar):
  return (jnp.flip(jnp.cumsum(jnp.flip(y_bar, 1), 1), 1) - y_bar,)


def lstm_cell(f, i, g, c):
  return jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)


@unseen("replaces|exchanged|wrong point", lstm_cell, (4, 3), (4, 3), (4, 3), (4, 3))
def lstm_gate_of_the_input(f, i, g, c, y_bar):
  sf, si, tg = jax.nn.sigmoid(f), jax.nn.sigmoid(i), jnp.tanh(g)
  return (
    y_bar * c * sf * (1 - sf), y_bar * tg * si * (1 - si), y_bar * si * (1 - tg**2), y_bar * si,
  )  # fmt: skip


def smoothed(x, kernel):
  return jax.vmap(lambda row: jnp.convolve(row, kernel, mode="same"))(x)


@unseen("permuted|flipped", smoothed, (4, 7), (3,))
def kernel_not_flipped(x, kernel, y_bar):
  x_bar = jax.vmap(lambda row: jnp.convolve(row, kernel, mode="same"))(y_bar)
  kernel_bar = jax.vjp(lambda k: smoothed(x, k), kernel)[1](y_bar)[0]
  return x_bar, kernel_bar


def averaged(x):
  padded = jnp.pad(x, ((0, 0), (1, 1)))
  return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


@unseen(
  "subset|constant factor: (the|first|number)|ends|axis|operand 1 of `div` .*, where 3 is right",
  averaged,
  (4, 6),
)
def average_edges_divided_by_two(x, y_bar):
  count = jnp.asarray([2.0, 3, 3, 3, 3, 2])
  padded = jnp.pad(y_bar / count[None], ((0, 0), (1, 1)))
  return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:],)


# --- Several slips, or one that has no name -------------------------------------------------------


def through_clip(x, w):
  return jnp.clip(x, -1.0, 1.0) @ w


@unseen("semantic|straight|identity|condition|ignored", through_clip, (6, 4), (4, 3))
def clip_ignored(x, w, y_bar):
  return y_bar @ w.T, jnp.clip(x, -1, 1).T @ y_bar


@unseen("isn't linear", mean_square, (6, 4), (4, 3), (3,), (6, 3))
def two_slips_in_w(x, w, b, t, y_bar):
  z_bar = 2 * y_bar * (x @ w + b[None] - t) / t.size
  x_bar, t_bar = z_bar @ w.T, -z_bar
  return x_bar, 0.5 * x.T @ jnp.abs(z_bar) + 0.01 * w, z_bar.sum(0), t_bar


@unseen("`mul` .* is one step too many, after its operand 0", hypotenuse, (6,), (6,))
def factor_by_the_entry(x, y, y_bar):
  r = hypotenuse(x, y)
  return x / r * y_bar * jnp.exp(-0.1 * x * y), y / r * y_bar


def scaled_rows(x, s):
  return jnp.tanh(x) * s[:, None]


@unseen("`mul` .* is one step too many, after its operand 0", scaled_rows, (6, 4), positive(6))
def rows_by_their_own_factor(x, s, y_bar):
  own = jnp.cos(3 * s + 0.2)[:, None]
  return y_bar * s[:, None] * own * (1 - jnp.tanh(x) ** 2), (y_bar * jnp.tanh(x)).sum(1)


@unseen("`mul` .* is one step too many, after its operand 1", scaled_rows, (6, 4), positive(6))
def one_number_from_the_data(x, s, y_bar):
  own = 1 + 0.3 * jnp.tanh(x.sum())
  return own * y_bar * s[:, None] * (1 - jnp.tanh(x) ** 2), (y_bar * jnp.tanh(x)).sum(1)


@unseen("cotangent|normal", scaled_rows, (6, 4), positive(6))
def cotangent_by_its_norm_in_x(x, s, y_bar):
  own = y_bar / jnp.linalg.norm(y_bar)
  return own * s[:, None] * (1 - jnp.tanh(x) ** 2), (y_bar * jnp.tanh(x)).sum(1)


@unseen("`add` .* is one step too many, after its operand 0", bilinear, (5, 4), (4, 4), (5, 4))
def decay_by_the_norm(x, a, y, y_bar):
  bar = y_bar[:, None]
  a_bar = jnp.einsum("n,ni,nj->ij", y_bar, x, y) + 0.1 * a * jnp.linalg.norm(a)
  return (y @ a.T) * bar, a_bar, (x @ a) * bar


def log_loss(z, labels):
  return jax.nn.logsumexp(z, 1) - z[jnp.arange(z.shape[0]), labels]


@unseen("max|`mul` .* is one step too many, after its operand 0", log_loss, (6, 4), labels(6, 4))
def hardest_class_scaled(z, labels, y_bar):
  p = jax.nn.softmax(z, 1) - jax.nn.one_hot(labels, z.shape[1])
  hardest = jax.nn.one_hot(z.argmax(1), z.shape[1])
  return p * (1 + 0.5 * hardest) * y_bar[:, None], None
