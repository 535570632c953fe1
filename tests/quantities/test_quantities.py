"""Every quantity of a captured network, against `vmap(jax.grad)` and its definition."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop import quantities as q
from tests.support import cases_of_quantities as cases
from tests.support.cases_of_quantities import N, assert_near, factors_of, found, problem_of, truth
from tests.support.witness import assert_bitwise, jit_quickly

pytestmark = pytest.mark.usefixtures("in_float64")

EACH = [pytest.param(n, marks=[] if n in cases.FAST else pytest.mark.slow) for n in cases.PROBLEMS]
every_problem = pytest.mark.parametrize("name", EACH)
plain_and_mixed = pytest.mark.parametrize(
  "name", ["plain_mlp", pytest.param("mixed", marks=pytest.mark.slow)]
)


# --- Exact ----------------------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("quantity", cases.QUANTITIES)
def test_equals_its_definition(name, quantity):
  want, scale = truth(name)[quantity]
  assert_near(found(name)[quantity], want, scale)


@pytest.mark.slow
@plain_and_mixed
def test_forward_and_x_bar_are_unchanged_to_the_bit(name):
  problem = problem_of(name)
  params, x, _, key = problem.arguments

  def run(net):
    @jax.jit
    def all_of_it(params, x):
      y, backward = fb.pullback(net)(params, x, key)
      return net.init(jax.random.key(0)), y, backward(jnp.cos(y))[1]

    return all_of_it(params, x)

  names = ("params", "y", "x_bar")
  assert_bitwise("captured", names, run(problem.captured), run(problem.plain))


@every_problem
def test_factors_stand_where_gradients_stood(name):
  problem = problem_of(name)
  factors = jax.eval_shape(partial(factors_of, problem), *problem.arguments)
  nodes = jax.tree.leaves(factors, is_leaf=lambda node: hasattr(node, "y_bar"))
  params = jax.tree.leaves(
    problem.arguments[0], is_leaf=lambda node: isinstance(node, fb.DenseParams | fb.NormParams)
  )
  kinds = {
    (fb.DenseParams, True): q.Affine,
    (fb.DenseParams, False): q.Linear,
    (fb.NormParams, True): q.Elementwise,
    (fb.NormParams, False): q.Scaling,
  }
  assert [type(node) for node in nodes] == [kinds[type(p), p[1] is not None] for p in params]
  for node, own in zip(nodes, params, strict=True):
    copies = own[0].shape[: own[0].ndim - (2 if isinstance(own, fb.DenseParams) else 1)]
    assert {leaf.shape[:-1] for leaf in node} == {(*copies, N)}


# --- Transformed ----------------------------------------------------------------------------------


@pytest.mark.slow
@plain_and_mixed
def test_the_same_under_vmap(name):
  """Two networks at once: each gets what it gets alone."""
  problem = problem_of(name)
  params, *rest = problem.arguments
  both = jax.tree.map(lambda p: jnp.stack([p, p * 0.5]), params)
  run = jit_quickly(jax.vmap(partial(cases.everything, problem), (0, None, None, None)))
  got = run(both, *rest)
  for quantity in cases.QUANTITIES:
    want, scale = truth(name)[quantity]
    assert_near(jax.tree.map(lambda leaf: leaf[0], got[quantity]), want, scale)
  assert abs(got["gram"][1] - got["gram"][0]).max() > 0.1


@pytest.mark.slow
@plain_and_mixed
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_same_on_a_mesh(name, axis_type):
  """The batch split over two devices, parameters on both."""
  problem = problem_of(name)
  devices = jax.devices("cpu")[:2]
  mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,), devices=devices)
  params, x, targets, key = problem.arguments
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  batch = jax.device_put((x, targets), NamedSharding(mesh, PartitionSpec("data")))
  with jax.set_mesh(mesh):
    got = jit_quickly(partial(cases.everything, problem))(params, *batch, key)
  assert len(got["example_sqnorms"].sharding.device_set) == 2
  for quantity in cases.QUANTITIES:
    want, scale = truth(name)[quantity]
    assert_near(got[quantity], want, scale)


@pytest.mark.slow
def test_a_second_derivative_goes_through():
  """The gradient of a summed ‖g_i‖² by the parameters, against autodiff of autodiff."""
  problem = problem_of("plain_mlp")
  params, x, targets, key = problem.arguments

  def ours(params):
    return q.example_sqnorms(factors_of(problem, params, x, targets, key)).sum()

  def theirs(params):
    def of_one(x, target):
      def loss(params):
        outputs, _ = problem.plain.forward(params, x[None])
        return problem.loss.forward(outputs, target[None])[0][0]

      return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss)(params)))

    return jax.vmap(of_one)(x, targets).sum()

  got, want = jax.jit(lambda p: (jax.grad(ours)(p), jax.grad(theirs)(p)))(params)
  assert_near(got, want, 10.0)


# --- Clipping, accumulation, kernels --------------------------------------------------------------


@pytest.mark.slow
def test_microbatches_accumulate():
  factors = found("plain_mlp")["factors"]
  clip = jax.jit(partial(q.clipped_gradient, max_norm=0.7))
  parts = [jax.tree.map(lambda f, rows=rows: f[..., rows, :], factors)
           for rows in (slice(0, 1), slice(1, N))]  # fmt: skip
  want, scale = truth("plain_mlp")["clipped_flat"]
  assert_near(jax.tree.map(jnp.add, *map(clip, parts)), want, scale)


@pytest.mark.slow
def test_no_clipped_gradient_is_longer_than_the_bound():
  factors = found("mixed")["factors"]

  @jax.jit
  @partial(jax.vmap, in_axes=(0, None))
  def norms(i, bound):
    one = jax.tree.map(lambda f: jax.lax.dynamic_slice_in_dim(f, i, 1, -2), factors)
    clipped = [
      q.clipped_gradient(one, bound, clipping=c) for c in ("flat", "automatic", "per_layer")
    ]
    return [jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(tree))) for tree in clipped]

  lengths = np.sqrt(found("mixed")["example_sqnorms"])
  bound = float(np.median(lengths))
  flat, automatic, per_layer = norms(jnp.arange(N), jnp.asarray(bound))
  np.testing.assert_allclose(flat, np.minimum(lengths, bound), rtol=1e-12)
  assert (automatic < bound).all()
  assert (per_layer <= bound * (1 + 1e-12)).all()
  assert per_layer.max() > 0.1 * bound
  # A bound above every norm, of each layer too, changes nothing, to the bit.
  for clipping in ("flat", "per_layer"):
    whole = jax.jit(partial(q.clipped_gradient, max_norm=1e5, clipping=clipping))(factors)
    assert_bitwise("unclipped", ("grads",), (whole,), (jax.jit(q.gradient)(factors),))


@pytest.mark.slow
def test_the_neural_tangent_kernel():
  """Seeded with an output's unit vector; between two batches, and between two outputs."""
  problem = problem_of("plain_mlp")
  net = problem.captured
  params, x, _, _ = problem.arguments

  @jax.jit
  def kernels(params):
    _, backward = fb.pullback(net)(params, x)
    first, second = (backward(jnp.zeros((N, 2)).at[:, c].set(1.0))[0] for c in range(2))
    jacobian = jax.jacrev(lambda p: problem.plain.forward(p, x)[0])(params)
    rows = jnp.concatenate([j.reshape(N, 2, -1) for j in jax.tree.leaves(jacobian)], 2)
    return q.gram(first), q.gram(first, second), jnp.einsum("icp,jdp->cdij", rows, rows)

  own, across, want = kernels(params)
  np.testing.assert_allclose(own, want[0, 0], rtol=0, atol=1e-12)
  np.testing.assert_allclose(across, want[0, 1], rtol=0, atol=1e-12)


# --- compute --------------------------------------------------------------------------------------

ALL = {
  "clipped_gradient": {"max_norm": 0.7},
  **{name: {} for name in (
    "cosine_similarities", "example_gradients", "example_sqnorms", "global_norm", "gram", "health",
    "noise_scale", "second_moment", "variance")},
}  # fmt: skip


@pytest.mark.slow
@plain_and_mixed
def test_compute_gives_loss_gradient_and_quantities(name):
  problem = problem_of(name)
  params, x, targets, key = problem.arguments
  loss, grads, values = jax.jit(q.compute(problem.captured, problem.loss, ALL))(
    params, x, targets, key
  )
  plain = jax.jit(fb.value_and_grad(problem.plain, problem.loss))
  want_loss, want_grads = plain(params, x, targets, key=key)
  np.testing.assert_allclose(loss, want_loss, rtol=1e-14)
  assert_near(grads, jax.tree.map(np.asarray, want_grads), truth(name)["gradient"][1] / N)
  assert list(values) == list(ALL)
  for quantity, value in values.items():
    if quantity != "health":  # It has tests of its own.
      want, scale = truth(name)[{"clipped_gradient": "clipped_flat"}.get(quantity, quantity)]
      assert_near(value, want, scale)
  assert int(values["health"].first_layer) == -1


@pytest.mark.slow
@plain_and_mixed
@pytest.mark.parametrize("weights", [[2.0, 0.0, 1.0, 5.0], [0.0] * N], ids=["some", "none"])
def test_compute_takes_weights(name, weights):
  """The examples' own losses are N w_i / Σ w times what they were, and so are their gradients."""
  problem = problem_of(name)
  params, x, targets, key = problem.arguments
  w = np.array(weights)
  shares = N * w / max(w.sum(), 1)
  names = ("example_gradients", "example_sqnorms", "gram")
  loss, grads, values = jax.jit(q.compute(problem.captured, problem.loss, names))(
    params, x, targets, key, jnp.array(w)
  )
  plain = jax.jit(fb.value_and_grad(problem.plain, problem.loss))
  want_loss, want_grads = plain(params, x, targets, key=key, weights=jnp.array(w))
  np.testing.assert_allclose(loss, want_loss, rtol=1e-14)
  scale = truth(name)["gradient"][1]
  assert_near(grads, jax.tree.map(np.asarray, want_grads), scale)
  each, scale = truth(name)["example_gradients"]
  want = jax.tree.map(lambda g: g * shares.reshape(-1, *[1] * (g.ndim - 1)), each)
  assert_near(values["example_gradients"], want, scale * shares.max())
  sqnorms, scale = truth(name)["example_sqnorms"]
  assert_near(values["example_sqnorms"], sqnorms * shares**2, scale * max(shares.max(), 1) ** 2)
  kernel, scale = truth(name)["gram"]
  assert_near(values["gram"], kernel * np.outer(shares, shares), scale * max(shares.max(), 1) ** 2)


def count_products(function, *arguments):
  return len(re.findall(r" dot\(", jax.jit(function).lower(*arguments).compile().as_text()))


@pytest.mark.slow
@plain_and_mixed
def test_what_is_not_selected_costs_nothing(name):
  """As many products as the plain backward pass, by the compiled text; and what costs, shows."""
  problem = problem_of(name)

  def plain(params, x, targets, key):
    return fb.value_and_grad(problem.plain, problem.loss)(params, x, targets, key=key)

  def captured(names):
    return q.compute(problem.captured, problem.loss, names)

  want = count_products(plain, *problem.arguments)
  assert want >= 5
  assert count_products(captured(()), *problem.arguments) == want
  # Norms are sums of squares, and the noise scale has the gradient's own products.
  assert count_products(captured(("example_sqnorms", "noise_scale")), *problem.arguments) == want
  # The second moment has a product of its own for each dense layer, and the variance no more.
  squares = count_products(captured(("second_moment",)), *problem.arguments)
  assert want < squares == count_products(captured(("variance",)), *problem.arguments)
  if name == "plain_mlp":
    assert count_products(captured(("gram",)), *problem.arguments) > want


# --- Other dtypes ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_lower_precision(dtype):
  """Gradients in the dtype of the parameters, sums of squares in float32."""
  rng = np.random.default_rng(0)
  x, y_bar = (jnp.asarray(rng.normal(size=(N, d)), dtype) for d in (3, 2))
  factors = (q.Affine(x, y_bar), q.Elementwise(y_bar, y_bar))
  rows = np.asarray(factors[0].x, np.float64), np.asarray(y_bar, np.float64)
  want = ((rows[0] ** 2).sum(1) + 1) * (rows[1] ** 2).sum(1)
  want = want + (rows[1] ** 4).sum(1) + (rows[1] ** 2).sum(1)

  @jax.jit
  def run(factors):
    gradients = (
      q.gradient(factors), q.example_gradients(factors), q.clipped_gradient(factors, 1.0)
    )  # fmt: skip
    others = (
      q.example_sqnorms(factors), q.second_moment(factors), q.variance(factors), q.gram(factors),
      q.cosine_similarities(factors), q.noise_scale(factors), q.global_norm(factors)
    )  # fmt: skip
    return gradients, others

  gradients, others = run(factors)
  np.testing.assert_allclose(others[0], want, rtol=1e-5)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(gradients)} == {dtype}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(others)} == {"float32"}
