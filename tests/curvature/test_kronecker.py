"""Kronecker factors: where they are exact, their algebra against dense matrices, conventions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from tests.curvature.problems import Problem, assert_near, dense, mlp, shared
from tests.support.witness import jit_quickly

pytestmark = pytest.mark.usefixtures("in_float64")
curvature = fb.curvature

LINEAR = Problem(mlp([3, 4, 5, 2], fb.identity), fb.squared_error, 3, "values")
TANH = Problem(mlp([3, 4, 4, 2], fb.tanh, repeat_hidden=True), fb.squared_error, 3, "values")
SOFTMAX = Problem(
  mlp([3, 4, 3], fb.tanh, normalization=fb.layer_norm), fb.softmax_cross_entropy, 3, "labels"
)
NETS = {"linear": LINEAR, "tanh": TANH, "softmax": SOFTMAX}


@functools.cache
def arguments(name, n):
  problem, rng = NETS[name], np.random.default_rng(n)
  shapes = jax.eval_shape(problem.net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
  x = jnp.asarray(rng.normal(size=(n, 3)))
  values, labels = jnp.asarray(rng.normal(size=(n, 2))), jnp.asarray(rng.integers(0, 3, n))
  weights = jnp.asarray(rng.uniform(0.5, 2, size=n))
  return params, x, labels if problem.targets == "labels" else values, weights


def as_matrix(v):
  """[w; b] of a dense layer, or a row, with the copies of a loop apart."""
  if isinstance(v, fb.DenseParams):
    return v.w if v.b is None else jnp.concatenate([v.w, v.b[..., None, :]], -2)
  return v[..., None, :]


def is_block(node):
  return isinstance(node, curvature.Kronecker | curvature.Eigen)


def is_dense(node):
  return isinstance(node, fb.DenseParams)


def layer_blocks(net, loss, params, x, targets, weights):
  """The blocks of the GGN and of the empirical Fisher by autodiff, each copy of a layer apart."""
  shares = weights / weights.sum()

  def outputs_of(params, row):
    return net.forward(params, row[None])[0][0]

  def loss_of(outputs, target):
    return loss.forward(outputs[None], target[None])[0][0]

  def of_one(row, target):
    jacobian = jax.jacrev(outputs_of)(params, row)
    outputs = outputs_of(params, row)
    return jacobian, jax.hessian(loss_of)(outputs, target), jax.grad(loss_of)(outputs, target)

  jacobians, inner, slopes = jax.vmap(of_one)(x, targets)
  ggns, empirical = [], []
  for part in jax.tree.leaves(jacobians, is_leaf=is_dense):
    columns = as_matrix(part)  # [N, C, (copies,) D_a, D_g]
    columns = columns.reshape(*columns.shape[:2], -1, np.prod(columns.shape[-2:]))
    ggns.append(jnp.einsum("n,nckp,ncd,ndkq->kpq", shares, columns, inner, columns))
    grads = jnp.einsum("nckp,nc->nkp", columns, slopes)
    empirical.append(jnp.einsum("n,nkp,nkq->kpq", shares, grads, grads))
  return ggns, empirical


@functools.cache
def found(name, n):
  """The blocks of each kind, corrected and not, and those of autodiff, by one program."""
  net, loss = NETS[name][:2]
  kinds = {
    f"{kind} {eigen}": curvature.kronecker_factors(net, loss, kind=kind, eigen=eigen)
    for kind in ("exact", "empirical") for eigen in (False, True)
  }  # fmt: skip

  @jit_quickly
  def all_of(params, x, targets, weights):
    blocks = {k: f(params, x, targets, weights=weights) for k, f in kinds.items()}
    dense = {k: curvature.matrices(blocks[k]) for k in kinds}
    return blocks, dense, layer_blocks(net, loss, params, x, targets, weights)

  return all_of(*arguments(name, n))


def assert_blocks(what, got, wanted):
  for i, (own, want) in enumerate(zip(got, wanted, strict=True)):
    assert_near(f"{what}, layer {i}", np.asarray(own).reshape(want.shape), want)


def errors(got, wanted):
  pairs = zip(got, wanted, strict=True)
  return [np.linalg.norm(np.asarray(own).reshape(want.shape) - want) for own, want in pairs]


def test_linear_networks_with_squared_error_have_exact_blocks():
  _, got, (ggns, _) = found("linear", 5)
  assert_blocks("K-FAC", got["exact False"], ggns)
  assert_blocks("EKFAC", got["exact True"], ggns)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "softmax"])
def test_one_example_has_exact_blocks(name):
  _, got, (ggns, empirical) = found(name, 1)
  for eigen in (False, True):
    assert_blocks(f"exact, {eigen}", got[f"exact {eigen}"], ggns)
    assert_blocks(f"empirical, {eigen}", got[f"empirical {eigen}"], empirical)


@pytest.mark.slow
def test_the_last_layer_of_a_regression_is_exact_and_the_others_are_not():
  _, got, (ggns, _) = found("tanh", 5)
  assert_blocks("last", got["exact False"][-1:], ggns[-1:])
  assert errors(got["exact False"], ggns)[0] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "softmax"])
def test_corrected_eigenvalues_are_no_worse(name):
  _, got, (ggns, empirical) = found(name, 5)
  for kind, wanted in (("exact", ggns), ("empirical", empirical)):
    plain, corrected = (errors(got[f"{kind} {eigen}"], wanted) for eigen in (False, True))
    assert all(b <= a + 1e-12 for a, b in zip(plain, corrected, strict=True))
    assert sum(corrected) < sum(plain)


@pytest.mark.slow
def test_scales_shifts_and_biases_have_exact_blocks():
  blocks, got, (ggns, _) = found("softmax", 5)
  names = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(blocks["exact False"], is_leaf=is_block)
  ]
  assert names == ["[0]", "[1].scale", "[1].shift", "[3]"]
  assert_blocks("norm", got["exact False"][1:3], ggns[1:3])
  # The block of the bias, the last rows of [w; b], is G for every loss.
  last = np.asarray(got["exact False"][3])
  assert_near("bias", last[-3:, -3:], np.asarray(ggns[3])[0, -3:, -3:])


@pytest.mark.slow
def test_draws_tend_to_the_exact_factors():
  net, loss = NETS["softmax"][:2]
  params, x, targets, weights = arguments("softmax", 5)
  one = curvature.kronecker_factors(net, loss, kind="monte_carlo", samples=2)

  @jit_quickly
  def many(keys):
    draws = jax.vmap(lambda key: one(params, x, targets, weights=weights, sample_key=key))(keys)
    return jax.tree.map(lambda a: (a.mean(0), a.std(0)), draws)

  got = many(jax.random.split(jax.random.key(0), 4_000))
  exact, _, _ = found("softmax", 5)
  for (mean, spread), want in zip(
    jax.tree.leaves(got, is_leaf=lambda node: type(node) is tuple and len(node) == 2
                    and hasattr(node[0], "shape")),
    jax.tree.leaves(exact["exact False"]), strict=True,
  ):  # fmt: skip
    assert (np.abs(mean - want) <= 5 * np.asarray(spread) / np.sqrt(4_000) + 1e-12).all()


def random_like(params):
  rng = np.random.default_rng(5)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)


@pytest.mark.parametrize("method", ["pi", "eigenvalues", "exact", None])
@pytest.mark.parametrize("name", ["tanh", "softmax"])
def test_the_algebra_of_blocks_is_that_of_dense_matrices(name, method):
  blocks, dense_blocks, _ = found(name, 5)
  eigen = method is None  # An Eigen has but one way.
  kind = f"exact {eigen}"
  blocks, dense_blocks = blocks[kind], dense_blocks[kind]
  v, damping = random_like(arguments(name, 5)[0]), 0.3

  @jit_quickly
  def algebra(blocks, v):
    return (
      curvature.product(blocks, v), curvature.solve(blocks, v, damping=damping, method=method),
      curvature.trace(blocks), curvature.log_determinant(blocks, damping=damping, method=method),
    )  # fmt: skip

  product, solution, trace, log_determinant = algebra(blocks, v)
  want_trace = want_log = 0.0
  trees = [jax.tree.leaves(t, is_leaf=is_dense) for t in (v, product, solution)]
  pairs = jax.tree.leaves(blocks, is_leaf=is_block)
  for block, dense_block, *parts in zip(pairs, dense_blocks, *trees, strict=True):
    size = dense_block.shape[-1]
    copies = np.asarray(dense_block).reshape(-1, size, size)
    rows = [np.asarray(as_matrix(part)).reshape(-1, size) for part in parts]
    for i, matrix in enumerate(copies):
      if method in ("pi", "eigenvalues"):
        a, g = (np.asarray(m).reshape(-1, *m.shape[-2:])[i] for m in block)
        pi = np.sqrt(np.diag(a).mean() / np.diag(g).mean())
        of_a, of_g = (
          (damping, damping) if method == "eigenvalues"
          else (pi * np.sqrt(damping), np.sqrt(damping) / pi)
        )  # fmt: skip
        damped = np.kron(a + of_a * np.eye(len(a)), g + of_g * np.eye(len(g)))
      else:
        damped = matrix + damping * np.eye(size)
      assert_near("product", rows[1][i], matrix @ rows[0][i])
      assert_near("solve", rows[2][i], np.linalg.solve(damped, rows[0][i]))
      want_trace += np.trace(matrix)
      want_log += np.linalg.slogdet(damped)[1]
  assert_near("trace", trace, want_trace)
  assert_near("log-determinant", log_determinant, want_log)


def test_the_rules_of_shared_weights():
  net = shared(dense(3, 2))
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
  x, targets = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(5, 2)))

  @jit_quickly
  def all_of(params):
    kinds = [
      curvature.kronecker_factors(net, fb.squared_error, kind="empirical", sharing=sharing)
      for sharing in ("expand", "reduce")
    ]
    outputs, residuals = fb.quantities.captured(net).forward(params, x)
    captured = fb.quantities.captured(net).backward(params, residuals, outputs - targets)[0]
    return [f(params, x, targets)["h"].w for f in kinds], captured["h"].leaves.w

  (expand, reduce), uses = all_of(params)
  xs, bars = np.asarray(uses.x), np.asarray(uses.y_bar)
  assert xs.shape == (5, 2, 3)
  assert_near("A, expand", expand.a, np.einsum("npi,npj->ij", xs, xs) / 5)
  assert_near("G, expand", expand.g, np.einsum("npi,npj->ij", bars, bars) / 10)
  assert_near("A, reduce", reduce.a, np.einsum("ni,nj->ij", xs.mean(1), xs.mean(1)) / 5)
  assert_near("G, reduce", reduce.g, np.einsum("ni,nj->ij", bars.sum(1), bars.sum(1)) / 5)


def test_wide_symmetric_products_are_formed_by_half():
  from fbackprop.curvature.kronecker import symmetric_product

  rows = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 1, 515)))
  got = np.asarray(symmetric_product("...npi,...npj->...ij", rows, rows))
  assert_near("product", got, np.einsum("cnpi,cnpj->cij", rows, rows))
  np.testing.assert_array_equal(got, np.swapaxes(got, 1, 2))


def test_the_gradient_comes_along():
  net, loss = NETS["softmax"][:2]
  params, x, targets, weights = arguments("softmax", 5)
  f = curvature.kronecker_factors(net, loss, kind="empirical", gradient=True)
  value, grads, _ = jit_quickly(f)(params, x, targets, weights=weights)
  want, want_grads = jit_quickly(fb.value_and_grad(net, loss))(params, x, targets, weights=weights)
  assert_near("loss", value, want)
  jax.tree.map(lambda a, b: assert_near("grads", a, b), grads, want_grads)
