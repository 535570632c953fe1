"""Programs of every kind, on this line of JAX: known and evaluated, or no verdict."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import hijax
from jax.extend import core
from jax.interpreters import mlir

import fbackprop as fb
from fbackprop import jaxprs
from fbackprop.verify import vjp
from fbackprop.verify.interpret.evaluation import Evaluator

X = np.random.default_rng(0).normal(size=6)
GRID = np.linspace(-2.0, 2.0, 7)


def grid(x):
  return jnp.asarray(GRID, x.dtype)


def root(x):
  def newton(f, y):
    return jax.lax.fori_loop(0, 30, lambda _, y: y - f(y) / jax.grad(f)(y), y)

  def one(x):
    def cube(y):
      return y**3 + y - x

    return jax.lax.custom_root(cube, jnp.ones_like(x), newton, lambda g, y: y / g(1.0))

  return jax.vmap(one)(x)


# Since JAX 0.12 these are equations whose program is in a method, or primitives of their own.
LIBRARY = {
  "interp": lambda x: jnp.interp(x, grid(x), grid(x) ** 2),
  "searchsorted": lambda x: jnp.searchsorted(grid(x), x).astype(x.dtype) * x,
  "digitize": lambda x: jnp.digitize(x, grid(x)).astype(x.dtype) * x,
  "nonzero": lambda x: x[jnp.nonzero(x > 0, size=3)[0]],
  "unique": lambda x: jnp.unique(jnp.round(x), size=4) + x[:4],
  "ldexp": lambda x: jnp.ldexp(x, jnp.arange(6) - 2),
  "frexp": lambda x: jnp.frexp(x)[0],
  "custom_root": root,
  "sinc": jnp.sinc,
  "log2": lambda x: jnp.log2(x**2 + 1),
  "polyval": lambda x: jnp.polyval(jnp.arange(4.0, dtype=x.dtype), x),
  "unstack": lambda x: jnp.stack(jnp.unstack(jnp.sin(x))[::-1]),
  "slope of tanh": jax.vmap(jax.grad(jnp.tanh)),
  "slope of asin": jax.vmap(jax.grad(lambda x: jnp.arcsin(jnp.tanh(x)))),
  "barrier": lambda x: sum(jax.lax.optimization_barrier((x, jnp.sin(x)))),
  "expm": lambda x: jax.scipy.linalg.expm(jnp.outer(x[:2], x[2:4]))[0],
  "platform": lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos),
  "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * grid(x)[:6]),
  "scan of a slope": jax.grad(lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c) * a, a), 1.0, x)[0]),
}


# What has no derivative in JAX.
EVALUATED = LIBRARY | {"composite": lambda x: jax.lax.composite(jnp.sin, "test.sine")(x)}


def ruled(function, factor):
  """A function with a rule, whose cotangent is `factor` times the right one."""

  @jax.custom_vjp
  def f(x):
    return function(x)

  def forward(x):
    y, pull = jax.vjp(function, x)
    return y, pull

  f.defvjp(forward, lambda pull, y_bar: (factor * pull(y_bar)[0],))
  return f


@pytest.mark.parametrize("name", EVALUATED)
def test_the_evaluator_equals_jax(name):
  with jax.enable_x64(True):
    x = jnp.asarray(X)
    program = jax.make_jaxpr(EVALUATED[name])(x)
    want = EVALUATED[name](x)
  (got,) = Evaluator().run(program, [X])
  np.testing.assert_allclose(got[0], want, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_a_right_rule_around_the_library_passes_and_a_wrong_one_fails(name):
  x = jnp.asarray(X, jnp.float32)
  assert vjp(ruled(LIBRARY[name], 1.0), x, level="quick").verdict == "pass"
  assert vjp(ruled(LIBRARY[name], 1.01), x, level="quick").verdict == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LIBRARY.keys() - {"digitize"}))  # A searchsorted.
def test_a_right_rule_around_the_library_passes_at_the_standard_level(name):
  assert vjp(ruled(LIBRARY[name], 1.0), jnp.asarray(X, jnp.float32)).verdict == "pass"


# --- Rules that hide in a representation ----------------------------------------------------------


@pytest.fixture(params=["as usual", "jax_custom_vjp3"])
def custom_vjp(request):
  """How JAX represents a `jax.custom_vjp`: as it does, or by the flag that replaces it."""
  before = jax.config.jax_custom_vjp3
  jax.config.update("jax_custom_vjp3", request.param == "jax_custom_vjp3")
  yield request.param
  jax.config.update("jax_custom_vjp3", before)


def within(f, where):
  if where == "jit":
    return jax.jit(f)
  if where == "checkpoint":
    return jax.checkpoint(f)
  if where == "scan":
    return lambda x: jax.lax.scan(lambda c, a: (c + f(a[None])[0], f(c[None])[0]), 0.3, x)[1]
  if where == "vmap":
    return lambda x: jax.vmap(f)(jnp.stack([x, 2 * x]))
  if where == "cond":
    return lambda x: jax.lax.cond(x[0] > 0, f, jnp.cos, x)
  return f


PLACES = [
  ("alone", "standard"), ("jit", "quick"), ("checkpoint", "quick"), ("scan", "quick"),
  ("vmap", "quick"), ("cond", "quick"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("where", "level"), PLACES)
def test_the_rule_is_seen_however_it_is_represented(custom_vjp, where, level):
  x = jnp.asarray(np.abs(X), jnp.float32)
  right = vjp(within(ruled(jnp.sin, 1.0), where), x, level=level)
  assert right.verdict == "pass", right
  assert not [f for f in right.findings if f.check == "rule"], "its rule wasn't seen"
  assert vjp(within(ruled(jnp.sin, 1.001), where), x, level=level).verdict == "fail"


MODES = {
  "jit": jax.jit,
  "vmap": lambda f: lambda params, x: jax.vmap(f, (None, 0))(params, jnp.stack([x, 2 * x])),
  "scan": lambda f: (
    lambda params, x: jax.lax.scan(lambda carry, row: (carry, f(params, row[None])), None, x)[1]
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_our_own_rule_is_right_however_it_is_represented(custom_vjp, mode):
  """First order, second order, and under vmap of the derivative."""
  with jax.enable_x64(True):
    net = fb.mlp([3, 4, 2], fb.tanh, dtype=jnp.float64)
    params = net.init(jax.random.key(0))
    x = jnp.asarray(X).reshape(2, 3)

    def total(f, params, x):
      return jnp.sin(MODES[mode](f)(params, x)).sum()

    def along(f):
      """The gradient, and the gradient of a number that is made of the gradient."""
      gradient = jax.grad(partial(total, f), (0, 1))

      def size(*args):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient(*args)))

      each = jax.vmap(gradient, (None, 0))(params, x[:, None])
      return gradient(params, x), jax.grad(size, (0, 1))(params, x), each

    got = jax.jit(along, static_argnums=0)(fb.as_custom_vjp(net))
    want = jax.jit(along, static_argnums=0)(lambda params, x: net.forward(params, x)[0])
    chex.assert_trees_all_close(got, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_generic_batching_is_a_representation_too(factor):
  f = ruled(lambda x: (jnp.sin(x), (x**2).sum()), factor)
  if not hasattr(f, "generic_batching"):  # It came with JAX 0.12.
    with pytest.raises(TypeError, match="generic_batching"):
      f.defvjp(f.fwd, f.bwd, generic_batching=True)
    return
  f.defvjp(f.fwd, f.bwd, generic_batching=True)
  for g in (f, lambda x: jax.vmap(f)(jnp.stack([x, 2 * x]))):
    report = vjp(g, jnp.asarray(X, jnp.float32))
    assert report.verdict == ("pass" if factor == 1.0 else "fail"), report


BASE = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive


class Sine(BASE):
  """A hijax primitive as a user writes one, with a rule of his own."""

  def __init__(self, aval, factor):
    self.in_avals, self.out_aval = (aval,), aval
    self.params = {"factor": factor}
    super().__init__()

  def expand(self, x):
    return jnp.sin(x)

  def vjp_fwd(self, nzs_in, x):
    return self(x), x

  def vjp_bwd_retval(self, x, y_bar):
    return (self.factor * y_bar * jnp.cos(x),)

  def batch(self, axis_data, args, dims):
    (x,), (dim,) = args, dims
    return Sine(jax.typeof(x), self.factor)(x), dim


def test_the_rule_of_a_hijax_primitive_is_verified():
  x = jnp.asarray(X, jnp.float32)
  for factor, verdict in ((1.0, "pass"), (1.001, "fail")):
    report = vjp(lambda x, factor=factor: Sine(jax.typeof(x), factor)(x), x, level="quick")
    assert report.verdict == verdict, report


def test_the_rule_of_a_linear_call_is_verified():
  def doubled(factor, x):
    def backward(scale, y_bar):
      return factor * scale * y_bar

    scale = jnp.asarray(2, x.dtype)
    return jax.custom_derivatives.linear_call(jnp.multiply, backward, scale, x)

  x = jnp.asarray(X, jnp.float32)
  for factor, verdict in ((1.0, "pass"), (1.001, "fail")):
    assert vjp(partial(doubled, factor), x, level="quick").verdict == verdict


# --- What isn't known -----------------------------------------------------------------------------

# A primitive that a JAX to come may have: a call, of which nothing is known here.
call_p = core.Primitive("call_of_tomorrow")
call_p.multiple_results = True
call_p.def_impl(lambda *xs, body: core.jaxpr_as_fun(body)(*xs))
call_p.impl.__module__ = "jax.tomorrow"  # Those of other packages are left to their own code.
call_p.def_abstract_eval(lambda *_, body: body.out_avals)
mlir.register_lowering(
  call_p, mlir.lower_fun(lambda *xs, body: core.jaxpr_as_fun(body)(*xs), multiple_results=True)
)


def sine_vjp(x):
  return jnp.sin(x), lambda y_bar: (y_bar * jnp.cos(x),)


def assert_unknown(report, said):
  (finding,) = report.findings
  assert report.verdict == "no verdict", report
  assert finding.message == f"{said} of JAX {jax.__version__} is unknown"


def test_a_call_that_is_not_known_gives_no_verdict():
  def in_a_call(x):
    return call_p.bind(x, body=jax.make_jaxpr(jnp.sin)(x))[0]

  x = jnp.asarray(X, jnp.float32)
  said = "the primitive 'call_of_tomorrow', which holds a program,"
  assert_unknown(vjp(in_a_call, x, f_vjp=sine_vjp), said)

  def in_the_rule(x):
    return jnp.sin(x), lambda y_bar: (y_bar * in_a_call(x + jnp.pi / 2),)

  def in_a_loop(x):
    return jax.lax.fori_loop(0, 2, lambda _, x: in_a_call(x), x)

  assert_unknown(vjp(jnp.sin, x, f_vjp=in_the_rule), said)
  assert_unknown(vjp(in_a_loop, x, f_vjp=sine_vjp), said)


def test_parameters_that_are_not_known_give_no_verdict(monkeypatch):
  """A scan, a loop, a choice and a call whose parameters have other names than they had."""
  x = jnp.asarray(X, jnp.float32)
  sine, parameter = ruled(jnp.sin, 1.0), jaxprs.parameter
  up_to_three = partial(jax.lax.while_loop, lambda i: i < 3, lambda i: i + 1)

  def renamed(name, key):
    def missing(equation, *keys):
      if equation.primitive.name == name and key in keys:
        params = {f"new_{k}": v for k, v in equation.params.items()}
        equation = equation.replace(params=params)
      return parameter(equation, *keys)

    monkeypatch.setattr(jaxprs, "parameter", missing)

  for name, key, f in (
    ("scan", "jaxpr", lambda x: jax.lax.scan(lambda c, a: (c, sine(a)), 0.0, x)[1]),
    ("cond", "branches", lambda x: jax.lax.cond(x[0] > 0, sine, jnp.cos, x)),
    ("jit", "jaxpr", jax.jit(sine)),
    ("custom_vjp_call", "call_jaxpr", sine),
    ("while", "cond_jaxpr", lambda x: sine(up_to_three(0) * x)),
  ):
    renamed(name, key)
    (finding,) = vjp(f, x, level="quick").findings
    assert finding.kind == "no verdict"
    assert finding.message.startswith(f"'{name}' without a parameter '{key}' (it has new_")
    assert finding.message.endswith(f"of JAX {jax.__version__} is unknown")


def test_a_scan_of_another_shape_gives_no_verdict(monkeypatch):
  class Parts:
    def unpack(self):
      return (), ()

  bodies_of = jaxprs.scan_of

  def of_two_parts(equation):
    params = {k: v for k, v in equation.params.items() if k not in ("num_consts", "num_carry")}
    return bodies_of(equation.replace(params={**params, "ft_in": Parts()}))

  monkeypatch.setattr(jaxprs, "scan_of", of_two_parts)

  def f(x):
    return jax.lax.scan(lambda c, a: (c, ruled(jnp.sin, 1.0)(a)), 0.0, x)[1]

  report = vjp(f, jnp.asarray(X, jnp.float32), level="quick")
  assert_unknown(report, "'scan' whose operands have 2 parts")


def test_a_hijax_equation_of_another_form_gives_no_verdict(monkeypatch):
  monkeypatch.setattr(jaxprs, "HiPrim", ())
  report = vjp(lambda x: Sine(jax.typeof(x), 1.0)(x), jnp.asarray(X, jnp.float32), level="quick")
  assert_unknown(report, "the hijax equation 'Sine'")


@pytest.mark.slow
def test_a_rule_inside_of_shard_map():
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = partial(jax.shard_map, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
  x = jnp.asarray(X, jnp.float32)
  for factor, verdict in ((1.001, "fail"), (1.0, "pass")):
    report = vjp(split(ruled(jnp.sin, factor)), x, level="quick")
    assert report.verdict == verdict, report.table()
  assert vjp(split(jnp.sin), x, f_vjp=sine_vjp, level="quick").verdict == "pass"


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "pass"), (1.02, "fail")])
def test_a_rule_with_optimize_remat_is_judged(scale, verdict):
  f = jax.custom_vjp(jnp.sin)
  f.defvjp(lambda v: (jnp.sin(v), v), lambda v, g: (scale * g * jnp.cos(v),), optimize_remat=True)
  assert fb.verify.vjp(f, jnp.linspace(-1, 1, 5), level="quick").verdict == verdict
