"""The rules of a package that somebody installed."""

import sys

import numpy as np
import pytest

from fbackprop.verify import UnusableError
from fbackprop.verify.package_rules import drawn_arguments, rules_of, verify_rule

RULES = """
import functools
import jax
import jax.numpy as jnp


def carrying(f, slope):
  rule = jax.custom_vjp(f)
  rule.defvjp(lambda x: (f(x), x), lambda x, y_bar: (slope(x) * y_bar,))
  return rule


square = carrying(lambda x: x**2, lambda x: 2 * x)
cube = carrying(lambda x: x**3, lambda x: 2 * x**2)
compiled = jax.jit(square)
unfinished = jax.custom_vjp(jnp.sin)
log = carrying(jnp.log, lambda x: 1 / x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def power(n, x):
  return x**n


@power.defjvp
def power_jvp(n, primals, tangents):
  return power(n, *primals), n * primals[0] ** (n - 1) * tangents[0]


@jax.custom_vjp
def product(a, b, scale=2.0):
  assert a.ndim == b.ndim == 2
  return a @ b * scale


def product_forward(a, b, scale=2.0):
  return product(a, b, scale), (a, b, scale)


def product_backward(residuals, y_bar):
  a, b, scale = residuals
  return y_bar @ b.T * scale, a.T @ y_bar * scale, jnp.sum(a @ b * y_bar)


product.defvjp(product_forward, product_backward)


@jax.custom_gradient
def sine(x):
  return jnp.sin(x), lambda y_bar: y_bar * jnp.sin(x)


@jax.custom_vjp
def named(name, x):
  return {"sin": jnp.sin}[name](x)


named.defvjp(lambda name, x: (named(name, x), x), lambda x, y_bar: (None, y_bar))


class Group:
  square = staticmethod(carrying(lambda x: x**2, lambda x: 2 * x))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package of somebody's, with a module that can't be imported and one of tests."""
  folder = tmp_path / "somebodys"
  (folder / "inner").mkdir(parents=True)
  (folder / "__init__.py").write_text("from somebodys.rules import square\n")
  (folder / "rules.py").write_text(RULES)
  (folder / "inner" / "__init__.py").write_text("from somebodys.rules import cube\n")
  (folder / "inner" / "needy.py").write_text("import a_module_that_is_not\n")
  (folder / "rules_test.py").write_text("raise AssertionError\n")
  monkeypatch.syspath_prepend(tmp_path)
  yield "somebodys"
  for name in [name for name in sys.modules if name.partition(".")[0] == "somebodys"]:
    del sys.modules[name]


def test_the_rules_are_found_once_each_and_what_cannot_be_imported_is_told(package):
  found = rules_of(package)
  assert [rule.name for rule in found.rules] == [
    "somebodys.inner:cube",
    "somebodys.rules:Group.square",
    "somebodys.rules:compiled",
    "somebodys.rules:log",
    "somebodys.rules:named",
    "somebodys.rules:power",
    "somebodys.rules:product",
    "somebodys.rules:sine",
    "somebodys:square",
  ]
  assert list(found.not_imported) == ["somebodys.inner.needy"]
  assert "a_module_that_is_not" in found.not_imported["somebodys.inner.needy"]
  assert [rule.name for rule in rules_of("somebodys.inner").rules] == ["somebodys.inner:cube"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "verdict", "arguments"),
  [
    ("square", "pass", "(5,)"),
    ("cube", "fail", "(5,)"),
    ("compiled", "pass", "(5,)"),
    ("log", "pass", "(5,)"),
    ("power", "pass", "2, (5,)"),
    ("product", "pass", "(3,3), (3,3)"),
    ("sine", "fail", "(5,)"),
    ("named", None, "no arguments found: "),
  ],
)
def test_each_is_verified_where_its_arguments_can_be_drawn(package, name, verdict, arguments):
  [rule] = [r for r in rules_of(package).rules if r.name.endswith(f":{name}")]
  found = verify_rule(rule, level="quick")
  assert (found.report and found.report.verdict) == verdict, found
  assert found.arguments.startswith(arguments if verdict is None else f"drawn: {arguments}")
  if found.report:
    assert found.report.name == rule.name


def test_arguments_are_such_that_the_results_are_finite(package):
  [rule] = [r for r in rules_of(package).rules if r.name.endswith(":log")]
  [x] = drawn_arguments(rule.function)
  assert (np.asarray(x) > 0).all()
  assert not np.array_equal(x, *drawn_arguments(rule.function, seed=1))


@pytest.mark.parametrize(
  "function", [lambda *args: args, lambda: 1.0, lambda *, x: x, lambda x: 1, max]
)
def test_what_takes_no_arrays_or_gives_no_floats_is_left_out(function):
  with pytest.raises(UnusableError):
    drawn_arguments(function)
