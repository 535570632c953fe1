"""Code of a rule's author gets arrays of JAX, wherever JAX itself would hand over such arrays.

The verifier computes in NumPy. What it calls of another's code may use what only arrays of JAX
have: `.at`, an aval, devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fbackprop import verify

# More entries than JAX writes into a program as literals.
TABLE = np.arange(8.0).reshape(2, 4) + 0.5
TABLE32 = jnp.asarray(TABLE, jnp.float32)


def require(*values):
  """Use what each array of JAX has, and none of NumPy."""
  for value in values:
    assert isinstance(value, jax.Array), type(value)
    assert value.aval.shape == value.shape
    assert value.at[...].get().shape == value.shape
    if not isinstance(value, jax.core.Tracer):
      assert value.devices()
  return values


def scaled_impl(x, table):
  x, table = require(x, table)
  return [x * jnp.sum(table.at[0].set(1.0), 0).astype(x.dtype)]


def shape_of(x, table):
  return jax.core.ShapedArray(np.broadcast_shapes(x.shape, table.shape[1:]), x.dtype)


def written_primitive(name, impl, jvp, transpose):
  """Return a primitive whose rules are functions of arrays, as packages write them.

  Equinox's own are batched so: under `jax.vmap` the function is called on what isn't traced.
  """
  primitive = Primitive(name)
  primitive.multiple_results = True
  primitive.def_impl(impl)
  primitive.def_abstract_eval(lambda x, table: [shape_of(x, table)])

  def batch(values, axes):
    if all(axis is None for axis in axes):
      return primitive.bind(*values), [None]
    return jax.vmap(impl, axes)(*values), [0]

  batching.primitive_batchers[primitive] = batch
  ad.primitive_jvps[primitive] = jvp
  ad.primitive_transposes[primitive] = transpose
  mlir.register_lowering(primitive, mlir.lower_fun(impl, multiple_results=True))
  return primitive


def scaled_jvp(primals, tangents):
  (x, table), (x_dot, _) = primals, tangents
  require(x, table)
  return scaled_p.bind(x, table), scaled_p.bind(x_dot, table)


def scaled_transpose(y_bars, x, table):
  require(table)
  return [*scaled_p.bind(y_bars[0], table), None]


scaled_p = written_primitive("scaled", scaled_impl, scaled_jvp, scaled_transpose)


def with_rule(f, backward, is_jvp):
  """Return f with a rule of either kind; `backward(residuals, bar)` is linear in its last one."""
  if is_jvp:
    rule = jax.custom_jvp(f)
    rule.defjvp(lambda primals, tangents: (f(*primals), backward(primals, tangents[0])))
    return rule
  rule = jax.custom_vjp(f)
  rule.defvjp(
    lambda *args: (f(*args), args),
    lambda residuals, bar: (backward(residuals, bar), *map(jnp.zeros_like, residuals[1:])),
  )
  return rule


def cubed(factor, args, bar):
  x, *rest = require(*args)
  return factor * 3 * x * x * bar * sum((c.at[0].get() for c in rest), jnp.ones_like(x))


def primitive_of(factor, is_jvp):
  """A rule that calls a primitive of its own, on a constant, within a loop and outside of it."""

  def f(x):
    (y,) = scaled_p.bind(x, TABLE32)
    return jax.lax.fori_loop(0, 2, lambda i, y: scaled_p.bind(y, TABLE32)[0], jnp.sin(y))

  def backward(residuals, bar):
    (x,) = require(*residuals)
    s = jnp.sum(TABLE32.at[0].set(1.0), 0).astype(x.dtype)
    return factor * s**3 * jnp.cos(s * x) * bar

  return with_rule(f, backward, is_jvp)


def constant_of(factor, is_jvp):
  """A rule that is called on constants: one of NumPy, one of JAX, a number."""
  return with_rule(lambda x: x**3, partial(cubed, factor), is_jvp)


def called_on_constants(factor, is_jvp):
  def f(x, c, d):
    return jnp.sin(x) * jnp.sum(c) + x * jnp.sum(d)

  def backward(args, bar):
    x, c, d = require(*args)
    return factor * (jnp.cos(x) * jnp.sum(c.at[0].get()) + jnp.sum(d)) * bar

  rule = with_rule(f, backward, is_jvp)
  return lambda x: rule(x, TABLE32[:1].astype(x.dtype), jnp.asarray(2.0, x.dtype))


def inner_rule(factor, is_jvp):
  """A primitive within a function whose own rule is JAX's: its JVP is called on constants."""
  rule = constant_of(factor, is_jvp)
  return lambda x: scaled_p.bind(rule(x), TABLE32)[0]


MAKERS = (primitive_of, constant_of, called_on_constants, inner_rule)
X = jnp.asarray([0.3, -0.7, 1.1, 0.2], jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("is_jvp", [False, True])
@pytest.mark.parametrize("level", ["quick", "deep"])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_verdict(make, level, factor, is_jvp):
  report = verify.vjp(make(factor, is_jvp), X, level=level)
  assert report.verdict == ("pass" if factor == 1 else "fail"), report.table()
  assert not any("broke" in text for text in report.not_checked), report.not_checked
  if factor != 1:
    assert report.findings[0].cause.startswith("constant factor: 1.5"), report.table()
    assert report.findings[0].check == "maths", report.table()


@pytest.mark.parametrize("level", ["quick", "deep"])
def test_integers_of_a_rule_are_arrays_of_jax(level):
  def f(x, places):
    require(places)
    return x[places.at[0].get()] ** 2

  def f_vjp(x, places):
    require(x, places)
    return f(x, places), lambda bar: (
      jnp.zeros_like(x).at[places.at[0].get()].add(2 * x[places.at[0].get()] * bar), None,
    )  # fmt: skip

  report = verify.vjp(f, X, jnp.array([[2, 0, 1], [0, 0, 0]]), f_vjp=f_vjp, level=level)
  assert report.verdict == "pass", report.table()
  assert not any("broke" in text for text in report.not_checked), report.not_checked


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_rule_that_needs_values_gets_arrays_of_jax_if_it_uses_them(factor):
  def f_vjp(x):
    sign = 1.0 if float(x[0]) < 100 else -1.0  # Can't be traced.
    (x,) = require(x)
    return jnp.sin(x), lambda bar: (factor * sign * jnp.cos(x).at[...].multiply(bar),)

  report = verify.vjp(jnp.sin, X, f_vjp=f_vjp, level="quick")
  assert report.verdict == ("pass" if factor == 1 else "fail"), report.table()
  assert factor == 1 or report.findings[0].check == "maths", report.table()
