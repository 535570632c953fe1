from harness import *
import functools, enum, dataclasses


# V3 statics
def huber_raw(x, d):
  return jnp.where(jnp.abs(x) < d, 0.5 * x * x, d * (jnp.abs(x) - 0.5 * d))


def huber(scale=1.0):
  f = jax.custom_vjp(huber_raw, nondiff_argnums=(1,))
  f.defvjp(
    lambda x, d: (huber_raw(x, d), (x,)), lambda d, r, g: (scale * g * jnp.clip(r[0], -d, d),)
  )
  return f


@case("V3", "pass")
def nondiff_delta():
  return huber(), (n(8), 0.7)


@case("V3", "fail", "x")
def nondiff_delta_wrong():
  return huber(1.01), (n(8), 0.7)


@case("V3", "pass")
def nondiff_delta_inside():
  return (lambda x, d: huber()(2 * x, d).sum()), (n(8), 0.7)


@case("V3", "fail", "x")
def nondiff_delta_inside_wrong():
  return (lambda x, d: huber(2.0)(2 * x, d).sum()), (n(8), 0.7)


ACT = {"tanh": (jnp.tanh, lambda z: 1 - jnp.tanh(z) ** 2), "sin": (jnp.sin, jnp.cos)}


def named(wrong=False):
  def raw(kind, x):
    return ACT[kind][0](x)

  f = jax.custom_vjp(raw, nondiff_argnums=(0,))
  f.defvjp(lambda k, x: (raw(k, x), x), lambda k, x, g: (g * ACT[k][1](x) * (1.1 if wrong else 1),))
  return f


@case("V3", "pass")
def static_string():
  return named(), ("sin", n(5))


@case("V3", "fail", "x")
def static_string_wrong():
  return named(True), ("tanh", n(5))


@case("V3", "pass")
def static_callable():
  def raw(fn, x):
    return fn(x)

  f = jax.custom_vjp(raw, nondiff_argnums=(0,))
  f.defvjp(lambda fn, x: (fn(x), x), lambda fn, x, g: jax.vjp(fn, x)[1](g))
  return f, (jnp.sin, n(5))


@dataclasses.dataclass(frozen=True)
class Config:
  eps: float = 1e-5
  kind: str = "rms"


def rms(wrong=False):
  def raw(x, g, c):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + c.eps) * g

  def bwd(c, r, yb):
    x, g = r
    s = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + c.eps)
    xh = x * s
    gb = yb * g
    xb = s * (gb - xh * (gb * xh).mean(-1, keepdims=True)) if not wrong else s * gb
    return xb, (yb * xh).sum(0)

  f = jax.custom_vjp(raw, nondiff_argnums=(2,))
  f.defvjp(lambda x, g, c: (raw(x, g, c), (x, g)), bwd)
  return f


@case("V3", "pass")
def static_dataclass():
  return rms(), (n(4, 6), pos(6), Config())


@case("V3", "fail", "x")
def static_dataclass_wrong():
  return rms(True), (n(4, 6), pos(6), Config())


class Mode(enum.Enum):
  A = 1


@case("V3", "pass")
def f_vjp_with_static():
  def f(x, mode, axis):
    return jnp.sin(x).sum(axis)

  def r(x, mode, axis):
    return f(x, mode, axis), lambda g: (jnp.cos(x) * jnp.expand_dims(g, axis), None, None)

  return f, (n(3, 4), Mode.A, 1), {"f_vjp": r}


@case("V3", "pass")
def dtype_static():
  def raw(x, dt):
    return x.astype(dt) * 2

  f = jax.custom_vjp(raw, nondiff_argnums=(1,))
  f.defvjp(lambda x, dt: (raw(x, dt), None), lambda dt, r, g: (2 * g.astype(jnp.float32),))
  return f, (n(4), jnp.float32)


@case("V3", "pass")
def shape_tuple():
  def raw(x, shape):
    return jnp.broadcast_to(x, shape)

  f = jax.custom_vjp(raw, nondiff_argnums=(1,))
  f.defvjp(lambda x, s: (raw(x, s), None), lambda s, r, g: (g.sum(0),))
  return f, (n(4), (3, 4))


@case("V3", "fail", "x")
def keyword_arguments():
  def raw(x, scale=1.0):
    return jnp.sin(x) * scale

  f = jax.custom_vjp(raw)
  f.defvjp(
    lambda x, scale=1.0: (raw(x, scale), (x, scale)),
    lambda r, g: (g * r[1] * jnp.cos(r[0]) * 2, (g * jnp.sin(r[0])).sum()),
  )
  return f, (n(4),), {"kwargs": {"scale": jnp.float32(2.0)}}


@case("V3", "pass")
def static_by_hand():
  def f(x, p):
    return x**p

  return keep2(f), (pos(4), 3.0), {"static": ("p",)}


def keep2(f):
  g = jax.custom_vjp(f, nondiff_argnums=(1,))
  g.defvjp(lambda x, p: (f(x, p), x), lambda p, x, gb: (gb * p * x ** (p - 1),))
  return g


@case("V3", "pass")
def jit_static():
  @functools.partial(jax.jit, static_argnames="p")
  def f(x, p):
    return keep(lambda x: x**p, lambda x, g: (g * p * x ** (p - 1),))(x)

  return f, (pos(4), 3.0)


# V7
def ste():
  return keep(lambda x: jnp.round(x), lambda x, g: (g,))


@case("V7", "pass")
def straight_through_declared():
  return ste(), (n(6) * 3,), {"slope": lambda x: x}


@case("V7", "fail", "x")
def straight_through_declared_but_wrong():
  return keep(lambda x: jnp.round(x), lambda x, g: (2 * g,)), (n(6) * 3,), {"slope": lambda x: x}


@case("V7", "fail", "x")
def straight_through_undeclared():
  return ste(), (n(6) * 3,)


@case("V7", "pass")
def reversal_declared():
  return keep(lambda x: x, lambda x, g: (-g,)), (n(6),), {"slope": lambda x: -x}


@case("V7", "fail", "x")
def reversal_undeclared():
  return keep(lambda x: x, lambda x, g: (-g,)), (n(6),)


@case("V7", "pass")
def clipped_declared():
  return keep(lambda x: x, lambda x, g: (jnp.clip(g, -0.1, 0.1),)), (n(6),), {"linear": False}


@case("V7", "fail", "x")
def clipped_undeclared():
  return keep(lambda x: x, lambda x, g: (jnp.clip(g, -0.1, 0.1),)), (n(6),)


@case("V7", "fail", "x")
def clipped_declared_wrong():
  return keep(jnp.sin, lambda x, g: (jnp.clip(g, -0.1, 0.1),)), (n(6),), {"linear": False}


@case("V7", "pass")
def norm_clipped_declared():
  return (
    keep(
      lambda x: jnp.sin(x),
      lambda x, g: (lambda b: b * jnp.minimum(1, 0.5 / jnp.maximum(jnp.linalg.norm(b), 1e-30)))(
        g * jnp.cos(x)
      ),
    )
    if False
    else keep(
      jnp.sin,
      lambda x, g: (
        (lambda b: b * jnp.minimum(1.0, 0.5 / jnp.maximum(jnp.linalg.norm(b), 1e-30)))(
          g * jnp.cos(x)
        ),
      ),
    ),
    (n(6),),
    {"linear": False},
  )


@case("V7", "pass")
def surrogate_spike():
  return (
    keep(lambda v: (v > 0).astype(v.dtype), lambda v, g: (g / (1 + 10 * jnp.abs(v)) ** 2,)),
    (n(8),),
    {"slope": lambda v: v / (1 + 10 * jnp.abs(v))},
  )


@case("V7", "pass")
def straight_through_jvp():
  return cjvp(jnp.sign, lambda p, t: (jnp.sign(p[0]), t[0])), (n(8),), {"slope": lambda x: x}


@case("V7", "pass")
def stop_gradient_idiom():
  return (
    (lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)),
    (n(6) * 3,),
    {"slope": lambda x: x},
  )


@case("V8", "fail", "x")
def stop_gradient_undeclared():
  return (lambda x: x**2 * jax.lax.stop_gradient(x)), (n(4),)


# V6
def unit(x):
  s = jnp.linalg.norm(x)
  return jnp.where(s > 0, x / jnp.where(s > 0, s, 1), 0.0)


@case("V6", "fail")
def norm_nan_at_zero():
  def f(x):
    return jnp.sqrt((x * x).sum(-1))

  return keep(f, lambda x, g: (g[:, None] * x / f(x)[:, None],)), (n(3, 2).at[1].set(0),)


@case("V6", "pass")
def norm_zero_at_zero():
  def f(x):
    return jnp.sqrt((x * x).sum(-1))

  return keep(f, lambda x, g: (g[:, None] * x / jnp.where(f(x) == 0, 1, f(x))[:, None],)), (
    n(3, 2).at[1].set(0),
  )


@case("V6", "fail")
def smooth_but_nan():
  def f(x):
    return jnp.where(x == 0, 1.0, jnp.sin(x) / jnp.where(x == 0, 1.0, x))

  return keep(f, lambda x, g: (g * (jnp.cos(x) * x - jnp.sin(x)) / x**2,)), (n(4).at[0].set(0),)


@case("V6", "fail")
def smooth_but_nan_standard():
  def f(x):
    return jnp.where(x == 0, 1.0, jnp.sin(x) / jnp.where(x == 0, 1.0, x))

  return (
    keep(f, lambda x, g: (g * (jnp.cos(x) * x - jnp.sin(x)) / x**2,)),
    (n(4),),
    {"level": "standard"},
  )


@case("V6", "pass")
def sqrt_infinite_at_zero():
  return keep(jnp.sqrt, lambda x, g: (g * 0.5 / jnp.sqrt(x),)), (pos(4).at[0].set(0),)


@case("V6", "fail")
def both_nan():
  def f(x):
    return jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1.0)), 0.0) ** 2

  def f2(x):
    return (x * jnp.log(x)) if False else jnp.where(x == 0, 0.0, x * x * jnp.log(x * x) * x)

  return keep(f2, lambda x, g: (g * (3 * x * x * jnp.log(x * x) + 2 * x * x),)), (
    n(4).at[0].set(0),
  )


if __name__ == "__main__":
  main()
