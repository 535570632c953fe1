"""Kinds of rules that public packages have, right ones beside wrong ones; all are written anew."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from fbackprop.verify import UnusableError, jvp, vjp

UNIT = jnp.array([0.31, 0.62, 0.87])


def powers(x, count):
  """Bernstein polynomials, whose table of logarithms is computed while they are traced."""
  n, k = float(count - 1), np.arange(float(count))
  with jax.ensure_compile_time_eval():
    table = jax.scipy.special.gammaln(jnp.asarray([n + 1, *(k + 1), *(n - k + 1)], x.dtype))
    binomials = table[:1] - table[1 : count + 1] - table[count + 1 :]
  x, k, binomials = x[:, None], jnp.asarray(k, x.dtype)[None], binomials[None]
  return jnp.exp(binomials + k * jnp.log(x) + (n - k) * jnp.log1p(-x))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("factor", "verdict"), [(1.0, "pass"), (1.0 + 1e-5, "fail"), (1.0 + 1e-6, "fail")]
)
def test_a_table_that_is_computed_in_the_functions_dtype(factor, verdict):
  def rule(x):
    lower = powers(x, 4)
    shifted = jnp.pad(lower, ((0, 0), (1, 0))) - jnp.pad(lower, ((0, 0), (0, 1)))
    return powers(x, 5), lambda y_bar: (jnp.sum(factor * 4 * shifted * y_bar, 1),)

  report = vjp(lambda x: powers(x, 5), UNIT, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.001, "fail")])
def test_a_rule_that_is_wrong_in_the_calling_dtype_only(factor, verdict):
  def rule(x):
    own = factor if x.dtype == jnp.float32 else 1.0
    return powers(x, 5), lambda y_bar: (own * jax.vjp(lambda x: powers(x, 5), x)[1](y_bar)[0],)

  report = vjp(lambda x: powers(x, 5), UNIT, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def by_callback(slope):
  """A function on the host, which autodiff can't differentiate, with tangents of its own."""

  @jax.custom_jvp
  def f(x):
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.sin(np.asarray(v)), out, x, vmap_method="expand_dims")

  @f.defjvp
  def f_jvp(primals, tangents):
    return f(*primals), slope(*primals, *tangents)

  return f


@pytest.mark.slow
@pytest.mark.parametrize(
  ("slope", "verdict", "check"),
  [
    (lambda x, v: jnp.cos(x) * v, "pass", None),
    (lambda x, v: jnp.cos(x) * v * 1.01, "fail", "maths"),
    (lambda x, v: jnp.cos(x) * jnp.abs(v), "fail", "cotangent"),
  ],
)
@pytest.mark.parametrize("verify", [vjp, jvp])
def test_tangents_of_a_function_that_has_no_autodiff(verify, slope, verdict, check):
  report = verify(by_callback(slope), UNIT, level="quick")
  assert report.verdict == verdict, report.table()
  if verify is jvp and check:
    assert report.findings[0].check == check, report.table()


def by_group(x, w, sizes, factor=1.0):
  """Each group of rows times a matrix of its own; `sizes` is read in a loop, by its index."""
  starts, rows = jnp.cumsum(sizes) - sizes, jnp.arange(len(x))

  def add(total, i):
    mask = (rows >= starts[i]) & (rows < starts[i] + sizes[i])
    return total + jnp.where(mask[:, None], x @ w[i] * factor, 0.0), None

  return jax.lax.scan(add, jnp.zeros((len(x), w.shape[2])), jnp.arange(len(sizes)))[0]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_integers_that_a_loop_reads_by_its_index(factor, verdict):
  def rule(x, w, sizes):
    def pullback(y_bar):
      bars = jax.vjp(lambda x, w: by_group(x, w, sizes, factor), x, w)[1](y_bar)
      return *bars, None

    return by_group(x, w, sizes), pullback

  rng = np.random.default_rng(0)
  x, w = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((6, 3), (2, 3, 4)))
  report = vjp(by_group, x, w, jnp.array([2, 4]), f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def approximate_sine(x):
  """The sine on [0, 1] by a polynomial, whose degree depends on the dtype."""
  k = np.arange(9 if x.dtype == jnp.float32 else 19, -1, -1)
  coefficients = [(k % 2) * (-1) ** (k // 2) / math.factorial(k) for k in k]
  return jnp.polyval(jnp.asarray(coefficients, x.dtype), x)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.0 + 1e-6, "fail")])
@pytest.mark.parametrize("verify", [vjp, jvp])
def test_the_exact_slope_of_an_approximation_to_the_rounding_of_its_dtype(verify, factor, verdict):
  f = jax.custom_jvp(approximate_sine)
  f.defjvps(lambda x_dot, y, x: jnp.cos(x) * factor * x_dot)
  report = verify(f, UNIT, level="quick")
  assert report.verdict == verdict, report.table()


def first(count, x):
  """1 in the first entries of a vector, and 0 in the others."""
  return jnp.asarray(jnp.arange(len(x)) < count, x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("error", "entries", "constant", "dtype", "verdict"),
  [
    (1e-9, 3, 0.7316, jnp.float32, "pass"),
    (1e-6, 3, 0.7316, jnp.float32, "fail"),
    (1e-9, 1, 0.7316, jnp.float32, "fail"),
    (1e-9, 3, 0.7316, jnp.float64, "fail"),
    # Without coefficients or epsilons it approximates nothing.
    (1e-9, 3, 0.75, jnp.float32, "fail"),
    (1e-9, 3, 1 / 3, jnp.float32, "fail"),
    (1e-9, 3, 300.0, jnp.float32, "fail"),
    (1e-9, 3, 1e-6, jnp.float32, "pass"),
  ],
)
@pytest.mark.parametrize("verify", [vjp, jvp])
def test_errors_all_over_a_leaf_that_its_dtype_rounds_away(
  verify, error, entries, constant, dtype, verdict
):
  def rule(x_dot, y, x):
    return jnp.cos(x) * (1 + error * x * first(entries, x)) * constant * x_dot

  f = jax.custom_jvp(lambda x: jnp.sin(x) * constant)
  f.defjvps(rule)
  with jax.enable_x64(dtype == jnp.float64):
    report = verify(f, UNIT.astype(dtype), level="quick")
  assert report.verdict == verdict, report.table()
  said = any("which float32 rounds away" in reason for reason in report.not_checked)
  assert said is (verdict == "pass")


def softmax_rule(epsilon, factor=1.0):
  """A causal softmax that is guarded by an epsilon, which the rule leaves out."""

  def f(x):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    e = e * jnp.tril(jnp.ones_like(x))
    return e / (e.sum(-1, keepdims=True) + epsilon)

  def rule(x):
    y = f(x)
    return y, lambda y_bar: (factor * y * (y_bar - (y * y_bar).sum(-1, keepdims=True)),)

  return f, rule


@pytest.mark.parametrize(
  ("epsilon", "factor", "verdict"),
  [(1e-10, 1.0, "pass"), (1e-3, 1.0, "fail"), (1e-10, 1 + 1e-6, "fail")],
)
def test_an_epsilon_that_a_rule_leaves_out(epsilon, factor, verdict):
  f, rule = softmax_rule(epsilon, factor)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)), jnp.float32)
  report = vjp(f, x, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (0.9, "fail")])
def test_a_function_that_computes_wider_while_x64_is_on(factor, verdict):
  def f(x):  # The root of an integer has JAX's default dtype.
    with jax.numpy_dtype_promotion("standard"):
      return jnp.sin(x) / jnp.sqrt(len(x))

  def rule(x):
    with jax.numpy_dtype_promotion("standard"):
      return jax.vjp(lambda x: f(x * factor), x) if factor != 1 else jax.vjp(f, x)

  report = vjp(f, UNIT, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def noted(x):
  """The argument, after a branch that only prints."""
  jax.lax.cond(jnp.any(jnp.isnan(x)), lambda: jax.debug.print("not a number"), lambda: None)
  return x


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (2.0, "fail")])
def test_a_branch_without_results(factor, verdict):
  def rule(x):
    return jnp.sin(x), lambda y_bar: (noted(factor * y_bar) * jnp.cos(x),)

  report = vjp(jnp.sin, UNIT, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def root_on_the_host(x):
  def host(v):
    if np.min(v) < 0:
      raise ValueError("a root of a negative number")
    return np.sqrt(v)

  return jax.pure_callback(
    host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
  )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_function_that_raises_at_the_arguments_as_given_is_unusable():
  f = jax.custom_vjp(root_on_the_host)
  f.defvjp(lambda x: (f(x), x), lambda x, y_bar: (y_bar / 2 / jnp.sqrt(x),))
  with pytest.raises(UnusableError, match="a root of a negative number"):
    vjp(f, -UNIT, level="quick")
  assert vjp(f, UNIT, level="quick").ok
  f.defvjp(lambda x: (f(x), x), lambda x, y_bar: (root_on_the_host(-x) * y_bar,))
  assert vjp(f, UNIT, level="quick").findings[0].check == "raises"


@pytest.mark.parametrize(("factor", "verdicts"), [(1.0, ["pass"]), (1.5, ["fail", "no verdict"])])
def test_a_comparison_that_rounding_decides_alike_in_rule_and_function(factor, verdicts):
  def chosen(x):
    return jnp.where(x * 3 / 3 >= x, 1.0, 0.0)

  def f(x):
    return jnp.sin(x) * chosen(x)

  def rule(x):
    return f(x), lambda y_bar: (factor * y_bar * jnp.cos(x) * chosen(x),)

  report = vjp(f, UNIT, f_vjp=rule, level="quick")
  assert report.verdict in verdicts, report.table()


def make_square_root(factor=1.0):
  """A primitive of another package, which holds the program that it solves for a zero."""
  root = core.Primitive("root_of_program")

  def program(y, x):
    return y * y - x

  held = jax.make_jaxpr(program)(1.0, 1.0)

  @root.def_impl
  def compute(x, *, program):
    y = x
    for _ in range(60):
      y = y - jax.vmap(core.jaxpr_as_fun(program))(y, x)[0] / (2 * y)
    return y

  root.def_abstract_eval(lambda x, *, program: x)
  ad.primitive_jvps[root] = lambda primals, tangents, program: (
    root.bind(*primals, program=program),
    factor * tangents[0] / 2 / root.bind(*primals, program=program),
  )
  mlir.register_lowering(root, mlir.lower_fun(compute, multiple_results=False))
  batching.defvectorized(root)
  return lambda x: root.bind(x, program=held)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.5, "fail")])
def test_a_primitive_of_another_package_that_holds_a_program(factor, verdict):
  report = vjp(make_square_root(factor), UNIT, level="quick")
  assert report.verdict == verdict, report.table()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.5, "fail")])
def test_a_function_that_raises_at_other_arguments(factor, verdict):
  def host(m):
    return np.linalg.slogdet(np.linalg.cholesky(m))[1] * 2

  def f(m):  # Raises unless the matrix is positive definite.
    return jax.pure_callback(host, jax.ShapeDtypeStruct((), m.dtype), m, vmap_method="sequential")

  def rule(m):
    whole = jnp.tril(m) + jnp.tril(m, -1).T  # The factorization reads the lower triangle.
    inverse = factor * jnp.linalg.inv(whole)
    return f(m), lambda y_bar: (y_bar * (2 * jnp.tril(inverse, -1) + jnp.diag(jnp.diag(inverse))),)

  m = jnp.array([[4.0, 0.0, 0.0], [1.0, 4.0, 0.0], [0.5, 1.0, 4.0]])
  report = vjp(f, m, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()


def halved(a, state):
  """The half of an interval that holds the root of y³ + y = a."""
  low, high = state
  middle = (low + high) / 2
  is_below = middle**3 + middle < a
  return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)


def bisected(a):
  ends = jnp.zeros_like(a), jnp.full_like(a, 4.0)
  low, high = jax.lax.fori_loop(0, 60, lambda _, state: halved(a, state), ends)
  return (low + high) / 2


def bisected_to_a_tolerance(a):
  def is_wide(state):
    return jnp.any(state[1] - state[0] > 1e-6)

  ends = jnp.zeros_like(a), jnp.full_like(a, 4.0)
  low, high = jax.lax.while_loop(is_wide, lambda state: halved(a, state), ends)
  return (low + high) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
  ("factor", "verdict"), [(1.0, "pass"), (1.1, "fail"), (0.9, "fail"), (1.01, "fail")]
)
@pytest.mark.parametrize("root", [bisected, bisected_to_a_tolerance])
def test_a_search_that_autodiff_has_no_slope_of(root, factor, verdict):
  def rule(a):
    y = root(a)
    return y, lambda y_bar: (factor * y_bar / (3 * y**2 + 1),)

  report = vjp(root, jnp.array([1.0, 2.0, 5.0, 7.0]), f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()
  first = next((f for f in report.findings if f.kind == "fail"), None)
  assert first is None or abs(first.got / first.want - factor) < 1e-3
  assert "e+" not in "".join(check.detail for check in report.checks)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_a_loop_that_reads_a_number_at_its_own_index(factor, verdict):
  def f(x):
    def add(total, i):
      return total + jnp.sin(x[i]), None

    return jax.lax.scan(add, jnp.zeros((), x.dtype), jnp.arange(len(x)))[0]

  def rule(x):
    return f(x), lambda y_bar: (factor * y_bar * jnp.cos(x),)

  report = vjp(f, UNIT, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()
