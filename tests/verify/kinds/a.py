from harness import *


# V1: JVP rules
def softplus(z):
  return jnp.logaddexp(z, 0.0)


def tangents(slope):
  def rule(p, t):
    (z,), (zt,) = p, t
    return softplus(z), slope(z) * zt

  return rule


@case("V1", "fail", "z")
def jvp_softplus_far():
  return (
    cjvp(softplus, tangents(lambda z: jnp.where(z > 20, 1.5, jax.nn.sigmoid(z)))),
    (n(5, 3),),
    {"level": "standard"},
  )


@case("V1", "pass")
def jvp_softplus_right():
  return cjvp(softplus, tangents(jax.nn.sigmoid)), (n(5, 3),)


@case("V1", "fail", "z")
def jvp_softplus_factor():
  return cjvp(softplus, tangents(lambda z: 1.001 * jax.nn.sigmoid(z))), (n(5, 3),)


@case("V1", "fail")
def jvp_defjvps_wrong():
  f = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)
  f.defjvps(lambda t, a, x, y: t * jnp.cos(x) * y, lambda t, a, x, y: t * jnp.cos(x))
  return f, (n(4, seed=1), n(4, seed=2))


@case("V1", "pass")
def jvp_defjvps_right():
  f = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)
  f.defjvps(lambda t, a, x, y: t * jnp.cos(x) * y, lambda t, a, x, y: t * jnp.sin(x))
  return f, (n(4, seed=1), n(4, seed=2))


@case("V1", "fail")
def jvp_of_library_function():
  f = jax.custom_jvp(jnp.sinh)
  f.defjvps(lambda t, a, x: t * a)
  return f, (n(4),)


@case("V1", "pass")
def jvp_of_library_function_right():
  f = jax.custom_jvp(jnp.sinh)
  f.defjvps(lambda t, a, x: t * jnp.cosh(x))
  return f, (n(4),)


@case("V1", "fail", "w, x")
def jvp_deep_inside():
  act = cjvp(jnp.tanh, lambda p, t: (jnp.tanh(p[0]), (1 - p[0] ** 2) * t[0]))

  @jax.jit
  def layer(w, x):
    return jax.lax.scan(lambda h, _: (act(h @ w), None), x, None, length=2)[0]

  return layer, (n(3, 3) / 2, n(4, 3))


@case("V1", "pass")
def jvp_deep_right():
  act = cjvp(jnp.tanh, lambda p, t: (jnp.tanh(p[0]), (1 - jnp.tanh(p[0]) ** 2) * t[0]))
  return (lambda w, x: jax.lax.scan(lambda h, _: (act(h @ w), None), x, None, length=2)[0]), (
    n(3, 3) / 2,
    n(4, 3),
  )


@case("V1", "pass")
def relu_of_jax():
  return (lambda x: jax.nn.relu(x)), (n(5, 3),)


@case("V1", "pass")
def jvp_relu_with_half_at_zero():
  return cjvp(
    lambda x: jnp.maximum(x, 0),
    lambda p, t: (
      jnp.maximum(p[0], 0),
      jnp.where(p[0] > 0, 1.0, jnp.where(p[0] < 0, 0.0, 0.5)) * t[0],
    ),
  ), (n(5, 3).at[0, 0].set(0),)


@case("V1", "fail", "x")
def jvp_abs_tangent():
  return cjvp(jnp.sin, lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * jnp.abs(t[0]))), (n(4),)


@case("V1", "fail", "x, y")
def jvp_norm_wrong():
  def f(x, y):
    return jnp.sqrt(x**2 + y**2)

  return cjvp(f, lambda p, t: (f(*p), (p[0] * t[0] - p[1] * t[1]) / f(*p))), (
    pos(4),
    pos(4, seed=1),
  )


@case("V1", "pass")
def jvp_none_for_integer():
  def f(x, k):
    return x**2 * k

  g = jax.custom_jvp(f)
  g.defjvps(lambda t, a, x, k: 2 * x * k * t, None)
  return g, (n(4), jnp.arange(4))


@case("V1", "fail", "x")
def jvp_in_custom_vjp():
  inner = cjvp(jnp.exp, lambda p, t: (jnp.exp(p[0]), jnp.exp(p[0]) * t[0] * 2))

  def f(x):
    return inner(x) * x

  return keep(f, lambda x, g: (g * (jnp.exp(x) * x + 2 * jnp.exp(x)),)), (n(4),)


@case("V1", "pass")
def vjp_right_over_wrong_inner_jvp():
  inner = cjvp(jnp.exp, lambda p, t: (jnp.exp(p[0]), jnp.exp(p[0]) * t[0] * 2))

  def f(x):
    return inner(x) * x

  return keep(f, lambda x, g: (g * (jnp.exp(x) * x + jnp.exp(x)),)), (n(4),)


@case("V1", "fail")
def custom_gradient_wrong():
  @jax.custom_gradient
  def f(x):
    return x**3, lambda g: g * 2 * x**2

  return f, (n(4),)


@case("V1", "pass")
def custom_gradient_right():
  @jax.custom_gradient
  def f(x):
    return x**3, lambda g: g * 3 * x**2

  return f, (n(4),)


@case("V1", "fail")
def linear_solve_wrong():
  def f(a, b):
    return jax.lax.custom_linear_solve(
      lambda x: a @ x, b, lambda mv, b: jnp.linalg.solve(a, b), lambda vm, b: jnp.linalg.solve(a, b)
    )

  return f, (n(3, 3) + 3 * jnp.eye(3), n(3))


@case("V1", "pass")
def linear_solve_right():
  def f(a, b):
    return jax.lax.custom_linear_solve(
      lambda x: a @ x,
      b,
      lambda mv, b: jnp.linalg.solve(a, b),
      lambda vm, b: jnp.linalg.solve(a.T, b),
    )

  return f, (n(3, 3) + 3 * jnp.eye(3), n(3))


def newton(f, x0):
  return jax.lax.fori_loop(0, 30, lambda i, x: x - f(x) / jax.grad(lambda z: f(z).sum())(x), x0)


@case("V1", "pass")
def root_right():
  def f(a):
    return jax.lax.custom_root(
      lambda x: x**3 - a,
      jnp.ones_like(a),
      lambda g, x0: newton(g, x0),
      lambda g, y: y / g(jnp.ones_like(y)),
    )

  return f, (pos(3),)


@case("V1", "fail")
def root_wrong():
  def f(a):
    return jax.lax.custom_root(
      lambda x: x**3 - a,
      jnp.ones_like(a),
      lambda g, x0: newton(g, x0),
      lambda g, y: 2 * y / g(jnp.ones_like(y)),
    )

  return f, (pos(3),)


# V2
def loop_exp(x):  # while primal: no reverse mode
  def body(c):
    i, t, s = c
    t = t * x / i
    return i + 1, t, s + t

  return jax.lax.while_loop(lambda c: c[0] < 25, body, (1, jnp.ones_like(x), jnp.ones_like(x)))[2]


@case("V2", "fail", "x")
def while_primal_wrong_above_half():
  return (
    keep(loop_exp, lambda x, g: (g * jnp.where(x > 0.5, 3.0, 1.0) * jnp.exp(x),)),
    (n(6),),
    {"level": "standard"},
  )


@case("V2", "pass")
def while_primal_right():
  return keep(loop_exp, lambda x, g: (g * jnp.exp(x),)), (n(6),)


def inc(a, x):
  return jax.scipy.special.gammainc(a, x)


@case("V2", "pass")
def betainc_right_by_x():
  def f(a, b, x):
    return jax.scipy.special.betainc(a, b, x)

  from jax.scipy.special import betaln

  def num(fn, v, h=1e-3):
    return (fn(v + h) - fn(v - h)) / (2 * h)

  return (
    lambda x: keep(
      lambda x: f(2.0, 3.0, x),
      lambda x, g: (g * jnp.exp(jnp.log(x) + 2 * jnp.log1p(-x) - betaln(2.0, 3.0)),),
    )(x)
  ), (pos(4) / 3,)


def bessel(v):  # pure callback: no derivative at all
  import scipy.special as sp

  return jax.pure_callback(
    lambda x: sp.i0(np.asarray(x, np.float64)).astype(x.dtype),
    jax.ShapeDtypeStruct(v.shape, v.dtype),
    v,
    vmap_method="broadcast_all",
  )


def bessel1(v):
  import scipy.special as sp

  return jax.pure_callback(
    lambda x: sp.i1(np.asarray(x, np.float64)).astype(x.dtype),
    jax.ShapeDtypeStruct(v.shape, v.dtype),
    v,
    vmap_method="broadcast_all",
  )


@case("V2", "pass")
def callback_right():
  return keep(bessel, lambda v, g: (g * bessel1(v),)), (n(5),)


@case("V2", "fail", "v")
def callback_wrong():
  return (
    keep(bessel, lambda v, g: (g * bessel1(v) * jnp.where(v > 0.3, 3.0, 1.0),)),
    (n(5),),
    {"level": "standard"},
  )


@case("V2", "fail", "v")
def callback_wrong_everywhere():
  return keep(bessel, lambda v, g: (3 * g * bessel1(v),)), (n(5),)


@case("V2", "fail", "v")
def callback_wrong_surrogate():
  return keep(bessel, lambda v, g: (3 * g * bessel1(v),)), (n(5),), {"surrogate": True}


@case("V2", "fail", "c")
def while_two_leaves():
  def f(x, c):
    return jax.lax.while_loop(
      lambda s: s[0] < 4, lambda s: (s[0] + 1, jnp.tanh(s[1] * c) + x), (0, x)
    )[1]

  def one(x, c):
    s = x
    for _ in range(4):
      s = jnp.tanh(s * c) + x
    return s

  def bwd(x, c, g):
    xb, cb = jax.vjp(one, x, c)[1](g)
    return xb, cb * 1.0001

  return keep(f, bwd), (n(4), n(4, seed=3))


if __name__ == "__main__":
  main()
