from harness import *


# V9: rules in NumPy
@case("V9", "pass")
def numpy_rule():
  def f(x, w):
    return jnp.tanh(x @ w)

  def r(x, w):
    x, w = np.asarray(x), np.asarray(w)
    y = np.tanh(x @ w)

    def pull(g):
      z = np.asarray(g) * (1 - y * y)
      return z @ w.T, x.T @ z

    return y, pull

  return f, (n(4, 3), n(3, 2)), {"f_vjp": r}


@case("V9", "fail", "w")
def numpy_rule_wrong():
  def f(x, w):
    return jnp.tanh(x @ w)

  def r(x, w):
    x, w = np.asarray(x), np.asarray(w)
    y = np.tanh(x @ w)

    def pull(g):
      z = np.asarray(g) * (1 - y * y)
      return z @ w.T, x.T @ np.asarray(g)

    return y, pull

  return f, (n(4, 3), n(3, 2)), {"f_vjp": r}


@case("V9", "fail", "w")
def numpy_rule_wrong_standard():
  return numpy_rule_wrong()[:2] + ({"f_vjp": numpy_rule_wrong()[2]["f_vjp"], "level": "standard"},)


@case("V9", "pass")
def numpy_rule_standard():
  return numpy_rule()[:2] + ({"f_vjp": numpy_rule()[2]["f_vjp"], "level": "standard"},)


@case("V9", "fail", "x")
def python_branch_on_values():
  def f(x):
    return jnp.where(x > 0, x, 0.1 * x)

  def r(x):
    y = f(x)

    def pull(g):
      out = np.array(g)
      for i in range(out.size):
        if float(x[i]) < -1:
          out[i] *= 0.3
        elif float(x[i]) < 0:
          out[i] *= 0.1
      return (jnp.asarray(out),)

    return y, pull

  return f, (n(8) * 2,), {"f_vjp": r}


# V10
@case("V10", "pass")
def raises_outside_domain():
  def f(x):
    if isinstance(x, jax.core.Tracer) and x.shape[0] % 2:
      raise ValueError("even lengths alone")
    return jnp.fft.fft(x).real if False else (x.reshape(-1, 2).sum(1))

  return keep(f, lambda x, g: (jnp.repeat(g, 2),)), (n(6),), {"level": "standard"}


@case("V10", "pass")
def numpy_int64_closure():
  idx = np.array([2, 0, 1])

  def f(x):
    return x[idx] * np.int64(2)

  return keep(f, lambda x, g: (jnp.zeros_like(x).at[idx].add(2 * g),)), (n(3),)


@case("V10", "pass")
def needs_square():
  def f(a):
    assert a.shape[0] == a.shape[1]
    return jnp.trace(a @ a)

  return keep(f, lambda a, g: (2 * g * a.T,)), (n(3, 3),), {"level": "standard"}


# V12
@case("V12", "pass")
def nearly_cancelling_entry():
  def f(x, w):
    return x @ w

  return (
    keep(f, lambda x, w, g: (g @ w.T, x.T @ g)),
    (
      jnp.array([[1e3, -1e3, 1.0], [1.0, 2.0, 3.0]]),
      jnp.array([[1.0, 1], [1.0000001, 1], [1e-4, 2]]),
    ),
  )


# V13
@case("V13", "fail", "x")
def assumes_symmetric():
  def f(a, x):
    return a @ x

  return (
    keep(f, lambda a, x, g: (jnp.outer(g, x), a @ g)),
    ((lambda s: s + s.T)(n(3, 3)), n(3)),
    {"level": "standard"},
  )


@case("V13", "fail", "p")
def assumes_normalised():
  def f(p, x):
    return (p * x).sum(-1) / p.sum(-1)

  def bwd(p, x, g):
    return (g[:, None] * (x - f(p, x)[:, None]), g[:, None] * p)

  return keep(f, bwd), (jax.nn.softmax(n(4, 3)), n(4, 3, seed=1)), {"level": "standard"}


@case("V13", "fail", "t, z")
def assumes_onehot():
  def f(z, t):
    return -(t * jax.nn.log_softmax(z)).sum(-1)

  def bwd(z, t, g):
    return g[:, None] * (jax.nn.softmax(z) - t), -g[:, None] * jax.nn.log_softmax(z)

  return keep(f, bwd), (n(4, 3), jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3)), {"level": "standard"}


@case("V13", "fail", "x")
def assumes_positive():
  def f(x):
    return jnp.abs(x)

  return keep(f, lambda x, g: (g,)), (pos(5),), {"level": "standard"}


@case("V13", "fail", "a, b")
def assumes_orthogonal():
  def f(a, b):
    return jnp.linalg.inv(a) @ b

  return (
    keep(
      f,
      lambda a, b, g: (
        -jnp.outer(a @ g, a.T @ b) if b.ndim == 1 else -(a @ g) @ (a.T @ b).T,
        a @ g,
      ),
    ),
    (jnp.linalg.qr(n(3, 3))[0], n(3, 2)),
    {"level": "standard"},
  )


@case("V13", "fail", "x")
def assumes_sorted():
  def f(x):
    return jnp.sort(x)

  return keep(f, lambda x, g: (g,)), (jnp.arange(5.0) ** 1.5,), {"level": "standard"}


@case("V13", "fail", "a")
def assumes_triangular():
  def f(a, b):
    return a @ b

  return (
    keep(f, lambda a, b, g: (jnp.tril(jnp.outer(g, b)), a.T @ g)),
    (jnp.tril(n(3, 3)), n(3)),
    {"level": "standard"},
  )


@case("V13", "fail", "w")
def assumes_equal_rows():
  def f(x, w):
    return x @ w

  return (
    keep(f, lambda x, w, g: (g @ w.T, jnp.outer(x[0], g.sum(0)))),
    (jnp.tile(n(1, 3), (4, 1)), n(3, 2)),
    {"level": "standard"},
  )


# V14
@case("V14", "no verdict")
def sinc_near_zero():
  def f(x):
    return jnp.sinc(x)

  return keep(f, lambda x, g: (jax.vjp(f, x)[1](g)[0],)), (
    jnp.array([1e-5, 2e-5, 3e-5], jnp.float32),
  )


# V16
def bf(x):
  return x.astype(jnp.bfloat16)


@case("V16", "pass")
def bf16_matmul_inside():
  def f(x, w):
    return (bf(x) @ bf(w)).astype(jnp.float32)

  return keep(f, lambda x, w, g: jax.vjp(f, x, w)[1](g)), (n(8, 16), n(16, 4))


@case("V16", "pass")
def bf16_by_hand():
  def f(x, w):
    return (bf(x) @ bf(w)).astype(jnp.float32)

  def bwd(x, w, g):
    g = bf(g)
    return (g @ bf(w).T).astype(jnp.float32), (bf(x).T @ g).astype(jnp.float32)

  return keep(f, bwd), (n(8, 16), n(16, 4)), {"level": "standard"}


@case("V16", "fail", "w")
def bf16_wrong():
  def f(x, w):
    return (bf(x) @ bf(w)).astype(jnp.float32)

  def bwd(x, w, g):
    g = bf(g)
    return (g @ bf(w).T).astype(jnp.float32), (bf(x).T @ g).astype(jnp.float32) * 1.1

  return keep(f, bwd), (n(8, 16), n(16, 4))


@case("V16", "pass")
def float16_activation():
  def f(x):
    return jnp.tanh(x.astype(jnp.float16)).astype(jnp.float32)

  def bwd(x, g):
    y = jnp.tanh(x.astype(jnp.float16))
    return ((g.astype(jnp.float16) * (1 - y * y)).astype(jnp.float32),)

  return keep(f, bwd), (n(16),), {"level": "standard"}


@case("V16", "fail", "x")
def needless_bf16_in_backward():
  def f(x):
    return jnp.tanh(x)

  return keep(f, lambda x, g: ((bf(g) * bf(1 - jnp.tanh(x) ** 2)).astype(jnp.float32),)), (n(16),)


@case("V16", "pass")
def layer_mixed():
  def f(x, w, b):
    return jax.nn.gelu((bf(x) @ bf(w)).astype(jnp.float32) + b)

  return (
    keep(f, lambda x, w, b, g: jax.vjp(f, x, w, b)[1](g)),
    (n(8, 16), n(16, 4), n(4)),
    {"level": "standard"},
  )


# V18
@case("V18", "pass")
def barrier():
  def f(x, y):
    x, y = jax.lax.optimization_barrier((x, y))
    return x * y

  return keep(f, lambda x, y, g: (g * y, g * x)), (n(4), n(4, seed=1)), {"level": "standard"}


# V19
def power(x):
  return jnp.abs(jnp.fft.rfft(x)) ** 2


@case("V19", "pass")
def spectrum():
  def bwd(x, g):
    X = jnp.fft.rfft(x)
    nn = x.shape[-1]
    k = g.shape[-1]
    full = (
      jnp.zeros(nn, jnp.complex64 if x.dtype == jnp.float32 else jnp.complex128)
      .at[:k]
      .set(2 * g * X)
    )
    return (jnp.real(jnp.fft.ifft(full) * nn).astype(x.dtype),)

  return keep(power, bwd), (n(8),), {"level": "standard"}


@case("V19", "fail", "x")
def spectrum_wrong():
  def bwd(x, g):
    X = jnp.fft.rfft(x)
    nn = x.shape[-1]
    k = g.shape[-1]
    full = (
      jnp.zeros(nn, jnp.complex64 if x.dtype == jnp.float32 else jnp.complex128)
      .at[:k]
      .set(2 * g * X)
    )
    return (jnp.real(jnp.fft.ifft(full)).astype(x.dtype),)

  return keep(power, bwd), (n(8),)


@case("V19", "pass")
def complex_division():
  def f(a, b):
    z = jax.lax.complex(a, b)
    return jnp.real(1 / (1 + z * z))

  return (
    keep(f, lambda a, b, g: jax.vjp(f, a, b)[1](g)),
    (pos(4), pos(4, seed=1)),
    {"level": "standard"},
  )


if __name__ == "__main__":
  main()
