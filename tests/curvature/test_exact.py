"""Products and diagonals against all entries of the matrices by autodiff, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from tests.curvature.problems import (
  PROBLEMS,
  assert_near,
  data_of,
  dense,
  flat_of,
  matrices_of,
  mlp,
)  # fmt: skip
from tests.support.witness import jit_quickly

pytestmark = pytest.mark.usefixtures("in_float64")
# Compilation takes nearly all of the time: what other rows have in other words is left to CI.
SLOW = ("remat", "graph")
CHAINS = [name for name in PROBLEMS if name not in ("graph", "tied")]


def rows(names):
  return [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in names]


@functools.cache
def products_of(name):
  """All products with two vectors, by one compiled program, and the vectors."""
  net, loss = PROBLEMS[name][:2]
  data = data_of(name)
  rng = np.random.default_rng(1)
  vs = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(2, *p.shape))), data.params)
  functions = {
    "hessian": fb.curvature.hessian_vector_product(net, loss),
    "ggn": fb.curvature.ggn_vector_product(net, loss),
    "fisher": fb.curvature.fisher_vector_product(net, loss),
    "empirical": fb.curvature.fisher_vector_product(net, loss, kind="empirical"),
  }

  @jit_quickly
  def all_of(params, x, targets, weights, vs):
    def one(v):
      return {k: f(params, x, targets, v, weights=weights) for k, f in functions.items()}

    return jax.vmap(one)(vs)

  return vs, all_of(*data, vs)


@pytest.mark.slow
@pytest.mark.parametrize("name", rows(PROBLEMS))
def test_products_equal_the_matrix_times_the_vector(name):
  vs, found = products_of(name)
  wanted = matrices_of(name)._asdict()
  for i in range(2):
    v = flat_of(jax.tree.map(lambda leaf: leaf[i], vs))  # noqa: B023
    for kind in ("hessian", "ggn", "empirical"):
      got = flat_of(jax.tree.map(lambda leaf: leaf[i], found[kind]))  # noqa: B023
      assert_near(f"{kind} of {name}", got, wanted[kind] @ np.asarray(v))


@pytest.mark.slow
def test_the_exact_fisher_is_the_ggn_where_the_curvature_does_not_depend_on_the_target():
  for name in ("relu", "skip", "repeat"):
    _, found = products_of(name)
    assert_near(name, flat_of(found["fisher"]), flat_of(found["ggn"]))
  _, found = products_of("norm")  # With log_cosh.
  assert np.abs(np.asarray(flat_of(found["fisher"]) - flat_of(found["ggn"]))).max() > 0.01


@functools.cache
def diagonals_of(name):
  """All diagonals of a problem, by one compiled program."""
  net, loss = PROBLEMS[name][:2]
  functions = {
    "ggn": fb.curvature.ggn_diagonal(net, loss),
  }
  if name in ("norm", "tied"):
    functions["chunked"] = fb.curvature.ggn_diagonal(net, loss, chunk=2)
  if name in (*CHAINS, "graph"):
    functions["hesscale"] = fb.curvature.hesscale_diagonal(net, loss)
    functions["hesscale_gn"] = fb.curvature.hesscale_diagonal(net, loss, gauss_newton=True)
    functions["hessian"] = fb.curvature.hessian_diagonal(net, loss)
  if name == "norm":
    functions["hessian_chunked"] = fb.curvature.hessian_diagonal(net, loss, chunk=2)

  @jit_quickly
  def all_of(params, x, targets, weights):
    found = {k: f(params, x, targets, weights=weights) for k, f in functions.items()}
    return found | {"examples": fb.curvature.example_ggn_diagonals(net, loss)(params, x, targets)}

  return all_of(*data_of(name))


@pytest.mark.parametrize("name", rows(PROBLEMS))
def test_diagonals_equal_those_of_the_matrices(name):
  found, wanted = diagonals_of(name), matrices_of(name)
  for kind in ("ggn", "chunked"):
    if kind in found:
      assert_near(f"{kind} of {name}", flat_of(found[kind]), np.diagonal(wanted.ggn))
  each = np.asarray(jax.vmap(flat_of)(found["examples"]))
  assert_near(f"examples of {name}", each, np.diagonal(wanted.ggns, axis1=1, axis2=2))
  for kind in ("hessian", "hessian_chunked"):
    if kind in found:
      assert_near(f"{kind} of {name}", flat_of(found[kind]), np.diagonal(wanted.hessian))


def test_the_hessian_of_a_piecewise_linear_network_has_the_diagonal_of_the_ggn():
  wanted = matrices_of("relu")
  assert_near("relu", np.diagonal(wanted.hessian), np.diagonal(wanted.ggn))
  other = matrices_of("skip")
  assert np.abs(np.diagonal(other.hessian) - np.diagonal(other.ggn)).max() > 0.01


def test_a_skip_as_a_graph_has_the_hessian_of_the_skip():
  """A value that is used again, x + f(x), with the terms that the branches have together."""
  inner, last = mlp([2, 3, 2], fb.tanh), dense(2, 2)
  chain = fb.serial(fb.skip(inner), last)
  nodes = {"f": (inner, "x"), "s": (fb.add, "f", "x"), "y": (last, "s")}
  params = chain.init(jax.random.key(0))
  data = jnp.ones((2, 2)) * jnp.array([[0.3], [-0.8]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
  of_chain, of_graph = (
    fb.curvature.hessian_diagonal(net, fb.squared_error)
    for net in (chain, fb.graph(nodes, output="y"))
  )
  want, found = jit_quickly(
    lambda params: (
      of_chain(params, *data), of_graph({"f": params[0], "s": (), "y": params[1]}, *data)
    )
  )(params)  # fmt: skip
  assert_near("f", flat_of(found["f"]), flat_of(want[0]))
  assert_near("y", flat_of(found["y"]), flat_of(want[1]))


def last_layer(tree):
  return tree["y"] if isinstance(tree, dict) else tree[-1]


@pytest.mark.parametrize("name", rows([*CHAINS, "graph"]))
def test_hesscale_is_exact_for_the_last_layer_and_near_elsewhere(name):
  found, wanted = diagonals_of(name), matrices_of(name)
  assert_near(name, flat_of(last_layer(found["hesscale"])), flat_of(last_layer(found["ggn"])))
  # Elsewhere it leaves out what the outputs have in common; it must still tell large from small.
  # Around a skip it also leaves out the products of the two branches, which are as large.
  exact = np.diagonal(wanted.hessian)
  got = np.asarray(flat_of(found["hesscale"]))
  assert name == "skip" or np.corrcoef(got, exact)[0, 1] > 0.7
  assert (np.asarray(flat_of(found["hesscale_gn"])) >= 0).all()


@pytest.mark.slow
def test_hesscale_is_exact_for_one_unit_per_layer():
  net = fb.mlp([1, 1, 1, 1], fb.tanh, dtype=jnp.float64)
  params = jax.tree.map(lambda p: p + 0.4, net.init(jax.random.key(0)))
  data = params, jnp.array([[0.3], [-1.2], [2.0]]), jnp.array([[1.0], [0.0], [0.5]])
  approximate, exact, ggn, scale_gn = jit_quickly(
    lambda *data: [
      f(net, fb.squared_error)(*data)
      for f in (
        fb.curvature.hesscale_diagonal, fb.curvature.hessian_diagonal, fb.curvature.ggn_diagonal,
        functools.partial(fb.curvature.hesscale_diagonal, gauss_newton=True),
      )
    ]
  )(*data)  # fmt: skip
  assert_near("Hessian", flat_of(approximate), flat_of(exact))
  assert_near("GGN", flat_of(scale_gn), flat_of(ggn))
  assert (np.asarray(flat_of(exact)) < 0).any()


def test_random_columns_estimate_the_diagonal_without_bias():
  net, loss = PROBLEMS["relu"][:2]
  params, x, targets, weights = data_of("relu")
  one = fb.curvature.ggn_diagonal(net, loss, samples=2)

  @jit_quickly
  def many(keys):
    draws = jax.vmap(lambda key: flat_of(one(params, x, targets, weights=weights, sample_key=key)))(
      keys
    )
    return draws.mean(0), draws.std(0)

  mean, spread = map(np.asarray, many(jax.random.split(jax.random.key(0), 4_000)))
  want = np.diagonal(matrices_of("relu").ggn)
  assert (np.abs(mean - want) <= 5 * spread / np.sqrt(4_000) + 1e-12).all()
  assert (spread > 0).any()


@pytest.mark.slow
def test_monte_carlo_fisher_products_tend_to_the_exact_one():
  net, loss = PROBLEMS["relu"][:2]
  params, x, targets, weights = data_of("relu")
  v = jax.tree.map(jnp.ones_like, params)
  one = fb.curvature.fisher_vector_product(net, loss, kind="monte_carlo", samples=3)

  @jit_quickly
  def many(keys):
    draws = jax.vmap(
      lambda key: flat_of(one(params, x, targets, v, weights=weights, sample_key=key))
    )(keys)
    return draws.mean(0), draws.std(0)

  mean, spread = map(np.asarray, many(jax.random.split(jax.random.key(1), 4_000)))
  want = matrices_of("relu").ggn @ np.ones(len(mean))
  assert (np.abs(mean - want) <= 5 * spread / np.sqrt(4_000) + 1e-12).all()
