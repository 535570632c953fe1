from harness import *


@case("J", "pass", mode="jvp")
def jvp_right():
  return cjvp(jnp.sin, lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0])), (n(5),)


@case("J", "fail", "x", mode="jvp")
def jvp_wrong():
  return cjvp(lambda x: jnp.sin(x), lambda p, t: (jnp.sin(p[0]), 1.01 * jnp.cos(p[0]) * t[0])), (
    n(5),
  )


@case("J", "fail", "x", mode="jvp")
def jvp_abs():
  return cjvp(lambda x: jnp.sin(x), lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * jnp.abs(t[0]))), (
    n(5),
  )


@case("J", "fail", "x", mode="jvp")
def jvp_affine():
  return cjvp(lambda x: jnp.sin(x), lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0] + 1e-3)), (
    n(5),
  )


@case("J", "pass", mode="jvp")
def f_jvp_right():
  def f(x, w):
    return jnp.tanh(x @ w)

  def r(p, t):
    y = f(*p)
    return y, (1 - y * y) * (t[0] @ p[1] + p[0] @ t[1])

  return f, (n(4, 3), n(3, 2)), {"f_jvp": r}


@case("J", "fail", "w", mode="jvp")
def f_jvp_wrong():
  def f(x, w):
    return jnp.tanh(x @ w)

  def r(p, t):
    y = f(*p)
    return y, (1 - y * y) * (t[0] @ p[1])

  return f, (n(4, 3), n(3, 2)), {"f_jvp": r}


@case("J", "pass", mode="jvp")
def f_jvp_int_and_static():
  def f(x, y, kind):
    return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)[:, 0]

  def r(p, t):
    x, y, k = p
    pr = jax.nn.softmax(x)
    return f(x, y, k), (pr * t[0]).sum(1) - jnp.take_along_axis(t[0], y[:, None], 1)[:, 0]

  return f, (n(5, 3), jnp.array([0, 1, 2, 1, 0]), "mean"), {"f_jvp": r}


@case("J", "pass", mode="jvp")
def of_custom_vjp():
  return keep(lambda x: jnp.sin(x), lambda x, g: (g * jnp.cos(x),)), (n(5),)


@case("J", "fail", "x", mode="jvp")
def of_custom_vjp_wrong():
  return keep(lambda x: jnp.sin(x), lambda x, g: (2 * g * jnp.cos(x),)), (n(5),)


@case("J", "fail", "x", mode="jvp")
def jvp_no_autodiff_wrong():
  def loop(x):
    return jax.lax.while_loop(
      lambda c: c[0] < 20,
      lambda c: (c[0] + 1, c[1] * x / (c[0] + 1), c[2] + c[1] * x / (c[0] + 1)),
      (0, jnp.ones_like(x), jnp.ones_like(x)),
    )[2]

  return cjvp(loop, lambda p, t: (loop(*p), t[0] * loop(*p) * jnp.where(p[0] > 0.2, 1.0, 1.5))), (
    n(5),
  )


@case("J", "pass", mode="jvp")
def jvp_dict():
  def f(p):
    return p["a"] * jnp.exp(p["b"])

  return cjvp(f, lambda p, t: (f(*p), t[0]["a"] * jnp.exp(p[0]["b"]) + f(*p) * t[0]["b"])), (
    {"a": n(3), "b": n(3, seed=2)},
  )


@case("J", "pass", mode="jvp")
def jvp_slope():
  return (
    cjvp(lambda x: jnp.sign(x), lambda p, t: (jnp.sign(p[0]), t[0])),
    (n(8),),
    {"slope": lambda x: x},
  )


@case("J", "pass", mode="jvp")
def plain_function():
  return (lambda x: x**3), (n(4),)


if __name__ == "__main__":
  main()
