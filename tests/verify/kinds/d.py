from harness import *


# V4: integers that point
def nll(z, y):
  return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)[:, 0]


def nll1(z, y):
  return -jax.nn.log_softmax(z)[y]


def oneh(z, y):
  return jax.nn.one_hot(y, z.shape[-1])


@case("V4", "pass")
def pick_one_label():
  return (
    keep(nll1, lambda z, y, g: (g * (jax.nn.softmax(z) - oneh(z, y)), None)),
    (n(5), jnp.int32(3)),
    {"level": "standard"},
  )


@case("V4", "pass")
def nll_rows():
  return (
    keep(nll, lambda z, y, g: (g[:, None] * (jax.nn.softmax(z) - oneh(z, y)), None)),
    (n(6, 5), jnp.array([0, 1, 2, 3, 4, 2])),
    {"level": "standard"},
  )


@case("V4", "fail", "z")
def nll_rows_wrong():
  return keep(nll, lambda z, y, g: (g[:, None] * (jax.nn.softmax(z) - 1.001 * oneh(z, y)), None)), (
    n(6, 5),
    jnp.array([0, 1, 2, 3, 4, 2]),
  )


@case("V4", "pass")
def take_rows():
  return (
    keep(lambda w, i: w[i], lambda w, i, g: (jnp.zeros_like(w).at[i].add(g), None)),
    (n(6, 3), jnp.array([0, 5, 2, 2])),
    {"level": "standard"},
  )


@case("V4", "pass")
def take_one():
  return (
    keep(lambda w, i: w[i], lambda w, i, g: (jnp.zeros_like(w).at[i].add(g), None)),
    (n(6, 3), jnp.int32(4)),
    {"level": "standard"},
  )


@case("V4", "pass")
def message_passing():
  def f(x, src, dst):
    return jnp.zeros_like(x).at[dst].add(x[src])

  return (
    keep(f, lambda x, s, d, g: (jnp.zeros_like(x).at[s].add(g[d]), None, None)),
    (n(5, 2), jnp.array([0, 1, 2, 4, 3, 3]), jnp.array([4, 4, 0, 1, 2, 3])),
    {"level": "standard"},
  )


@case("V4", "fail", "x")
def message_passing_wrong():
  def f(x, src, dst):
    return jnp.zeros_like(x).at[dst].add(x[src])

  return (
    keep(f, lambda x, s, d, g: (jnp.zeros_like(x).at[s].set(g[d]), None, None)),
    (n(5, 2), jnp.array([0, 1, 2, 4, 3]), jnp.array([4, 4, 0, 1, 2])),
    {"level": "standard"},
  )


@case("V4", "pass")
def closed_labels():
  y = jnp.array([0, 4, 2])

  def f(z):
    return nll(z, y)

  return (
    keep(f, lambda z, g: (g[:, None] * (jax.nn.softmax(z) - oneh(z, y)),)),
    (n(3, 5),),
    {"level": "standard"},
  )


@case("V4", "fail", "z")
def closed_labels_wrong():
  y = jnp.array([0, 4, 2])

  def f(z):
    return nll(z, y)

  return (
    keep(f, lambda z, g: (g[:, None] * (jax.nn.softmax(z) - 1.01 * oneh(z, y)),)),
    (n(3, 5),),
    {"level": "standard"},
  )


@case("V4", "pass")
def dynamic_slice():
  def f(x, i):
    return jax.lax.dynamic_slice(x, (i,), (3,))

  return (
    keep(f, lambda x, i, g: (jax.lax.dynamic_update_slice(jnp.zeros_like(x), g, (i,)), None)),
    (n(8), jnp.int32(2)),
    {"level": "standard"},
  )


@case("V4", "pass")
def segment_sum():
  def f(x, s):
    return jax.ops.segment_sum(x, s, num_segments=4)

  return (
    keep(f, lambda x, s, g: (g[s], None)),
    (n(6, 2), jnp.array([0, 0, 1, 3, 3, 3])),
    {"level": "standard"},
  )


@case("V4", "pass")
def embedding_wrapped_negative():
  return (
    keep(lambda w, i: w[i], lambda w, i, g: (jnp.zeros_like(w).at[i].add(g), None)),
    (n(6, 3), jnp.array([-1, 0, -3])),
    {"level": "standard"},
  )


@case("V4", "pass")
def csr_rows():
  # indptr-like pointers: row of each value
  def f(v, col, row, x):
    return jnp.zeros(4).at[row].add(v * x[col])

  return (
    keep(f, lambda v, c, r, x, g: (g[r] * x[c], None, None, jnp.zeros_like(x).at[c].add(v * g[r]))),
    (n(6), jnp.array([0, 2, 1, 4, 3, 0]), jnp.array([0, 0, 1, 2, 3, 3]), n(5, seed=1)),
    {"level": "standard"},
  )


@case("V4", "pass")
def permutation_gather():
  def f(x, p):
    return x[p]

  return (
    keep(f, lambda x, p, g: (g[jnp.argsort(p)], None)),
    (n(5, 2), jnp.array([3, 1, 4, 0, 2])),
    {"level": "standard"},
  )


# V5: repeated ids
@case("V5", "fail", "w")
def set_for_add():
  return (
    keep(lambda w, i: w[i], lambda w, i, g: (jnp.zeros_like(w).at[i].set(g), None)),
    (n(6, 3), jnp.array([0, 1, 2, 4])),
    {"level": "standard"},
  )


@case("V5", "fail", "w")
def set_for_add_quick():
  return (
    keep(lambda w, i: w[i], lambda w, i, g: (jnp.zeros_like(w).at[i].set(g), None)),
    (n(6, 3), jnp.array([0, 1, 2, 4])),
    {"level": "quick"},
  )


@case("V5", "fail", "x")
def unique_segments():
  def f(x, s):
    return jnp.zeros(5).at[s].add(x) ** 2

  return (
    keep(f, lambda x, s, g: (2 * x * g[s], None)),
    (n(4), jnp.array([0, 1, 3, 4])),
    {"level": "standard"},
  )


@case("V5", "pass")
def segments_right():
  def f(x, s):
    return jnp.zeros(5).at[s].add(x) ** 2

  return (
    keep(f, lambda x, s, g: ((2 * jnp.zeros(5).at[s].add(x) * g)[s], None)),
    (n(4), jnp.array([0, 1, 3, 4])),
    {"level": "standard"},
  )


@case("V5", "pass")
def scatter_set_right():
  def f(x, i, v):
    return x.at[i].set(v)

  return (
    keep(f, lambda x, i, v, g: (g.at[i].set(0.0), None, g[i])),
    (n(6), jnp.array([0, 1, 4]), n(3)),
    {"level": "standard"},
  )


# V15: masks, flags, lengths
def masked_mean(x, m):
  return (x * m[:, None]).sum(0) / jnp.maximum(m.sum(), 1)


@case("V15", "pass")
def masked_mean_right():
  return (
    keep(masked_mean, lambda x, m, g: (m[:, None] * g / jnp.maximum(m.sum(), 1), None)),
    (n(5, 3), jnp.array([True, False, True, True, False])),
    {"level": "standard"},
  )


@case("V15", "fail", "x")
def masked_mean_empty():
  return (
    keep(
      masked_mean,
      lambda x, m, g: (
        jnp.where(m.any(), m[:, None] * g / jnp.maximum(m.sum(), 1), g / len(m)),
        None,
      ),
    ),
    (n(5, 3), jnp.array([True, False, True, True, False])),
    {"level": "standard"},
  )


@case("V15", "fail", "x")
def masked_full_wrong():
  return (
    keep(
      masked_mean,
      lambda x, m, g: (m[:, None] * g / jnp.where(m.all(), 2.0, jnp.maximum(m.sum(), 1)), None),
    ),
    (n(5, 3), jnp.array([True, False, True, True, False])),
    {"level": "standard"},
  )


def by_length(x, l):
  m = jnp.arange(x.shape[1])[None] < l[:, None]
  return (x * m).sum(1) / jnp.maximum(l, 1)


@case("V15", "pass")
def lengths_right():
  return (
    keep(
      by_length,
      lambda x, l, g: (
        (jnp.arange(x.shape[1])[None] < l[:, None]) * (g / jnp.maximum(l, 1))[:, None],
        None,
      ),
    ),
    (n(3, 5), jnp.array([2, 5, 3])),
    {"level": "standard"},
  )


@case("V15", "fail", "x")
def lengths_zero_wrong():
  return (
    keep(
      by_length,
      lambda x, l, g: (
        jnp.where(
          (jnp.arange(x.shape[1])[None] < l[:, None]) | (l == 0)[:, None],
          (g / jnp.maximum(l, 1))[:, None],
          0,
        ),
        None,
      ),
    ),
    (n(3, 5), jnp.array([2, 5, 3])),
    {"level": "standard"},
  )


@case("V15", "fail", "x")
def lengths_full_wrong():
  return (
    keep(
      by_length,
      lambda x, l, g: (
        (jnp.arange(x.shape[1])[None] < jnp.minimum(l, x.shape[1] - 1)[:, None])
        * (g / jnp.maximum(l, 1))[:, None],
        None,
      ),
    ),
    (n(3, 5), jnp.array([2, 1, 3])),
    {"level": "standard"},
  )


def returns(r, done):
  def step(c, rd):
    r, d = rd
    c = r + 0.9 * c * (1 - d)
    return c, c

  return jax.lax.scan(step, 0.0, (r, done), reverse=True)[1]


def returns_bwd(r, done, g, bug=False):
  def step(c, gd):
    g, dprev = gd
    c = g + 0.9 * c * (1 - dprev)
    return c, c

  dp = (
    jnp.concatenate([jnp.zeros(1), done[:-1]])
    if not bug
    else jnp.concatenate([jnp.zeros(1), done[:-1]])
  )
  # c_t = sum over earlier: rbar_t = g_t + .9(1-d_{t-1}) rbar_{t-1}
  rb = jax.lax.scan(step, 0.0, (g, dp))[1]
  if bug:
    rb = jnp.where(done[-1] > 0, rb.at[-1].set(0.0), rb)
  c = returns(r, done)
  nxt = jnp.concatenate([c[1:], jnp.zeros(1)])
  return rb, -0.9 * rb * nxt


@case("V15", "pass")
def episode_right():
  return (
    keep(returns, lambda r, d, g: returns_bwd(r, d, g)),
    (n(6), jnp.array([0.0, 0, 1, 0, 0, 0])),
    {"level": "standard"},
  )


@case("V15", "fail", "r")
def episode_end_last_wrong():
  return (
    keep(returns, lambda r, d, g: returns_bwd(r, d, g, True)),
    (n(6), jnp.array([0.0, 0, 1, 0, 0, 0])),
    {"level": "standard"},
  )


@case("V15", "fail", "x")
def flag_wrong():
  def f(x, train):
    return jnp.where(train, 2 * x, x)

  return keep(f, lambda x, t, g: (2 * g, None)), (n(4), jnp.array(True)), {"level": "standard"}


@case("V15", "fail", "x")
def python_flag_held():
  def f(x, train):
    return 2 * x if train else x

  return (jax.custom_vjp(f, nondiff_argnums=(1,)),) and (
    keepflag(f),
    (n(4), True),
    {"level": "standard"},
  )


def keepflag(f):
  g = jax.custom_vjp(f, nondiff_argnums=(1,))
  g.defvjp(lambda x, t: (f(x, t), None), lambda t, r, gb: (3 * gb,))
  return g


# V17: axes
def blocked(x):
  return x.cumsum(-1)


def cumsum_bwd(bug, b=4):
  def bwd(x, g):
    full = jnp.flip(jnp.cumsum(jnp.flip(g, -1), -1), -1)
    if not bug:
      return (full,)
    t = g.shape[-1]
    rem = t % b
    return (full.at[..., t - rem :].multiply(0.0) if rem else full,)

  return bwd


@case("V17", "pass")
def cumsum_last_axis():
  return keep(blocked, cumsum_bwd(False)), (n(2, 8),), {"level": "standard"}


@case("V17", "fail", "x")
def cumsum_remainder_of_last_axis():
  return keep(blocked, cumsum_bwd(True)), (n(2, 8),), {"level": "standard"}


@case("V17", "fail", "x")
def middle_axis():
  def f(x):
    return x.mean(1)

  def bwd(x, g):
    return (
      jnp.broadcast_to(g[:, None], x.shape) / x.shape[1]
      if x.shape[1] % 2 == 0
      else jnp.broadcast_to(g[:, None], x.shape) / (x.shape[1] + 1),
    )

  return keep(f, bwd), (n(2, 4, 3),), {"level": "standard"}


@case("V17", "fail", "q, k, v")
def attention_length():
  def f(q, k, v):
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k)), v)

  def bwd(q, k, v, g):
    qb, kb, vb = jax.vjp(f, q, k, v)[1](g)
    return qb, kb, jnp.where(k.shape[1] % 2 == 0, vb, vb * 1.1)

  return keep(f, bwd), (n(2, 4, 3), n(2, 4, 3, seed=1), n(2, 4, 3, seed=2)), {"level": "standard"}


@case("V17", "pass")
def attention_right():
  def f(q, k, v):
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k)), v)

  return (
    keep(f, lambda q, k, v, g: jax.vjp(f, q, k, v)[1](g)),
    (n(2, 4, 3), n(2, 4, 3, seed=1), n(2, 4, 3, seed=2)),
    {"level": "standard"},
  )


@case("V17", "fail", "x")
def strided_pool():
  def f(x):
    t = x.shape[1] // 2 * 2
    return x[:, :t].reshape(x.shape[0], -1, 2, x.shape[2]).mean(2)

  def bwd(x, g):
    return (
      jnp.repeat(g / 2, 2, axis=1)
      if x.shape[1] % 2 == 0
      else jnp.pad(jnp.repeat(g / 2, 2, axis=1), ((0, 0), (1, 0), (0, 0))),
    )

  return keep(f, bwd), (n(2, 6, 3),), {"level": "standard"}


if __name__ == "__main__":
  main()
