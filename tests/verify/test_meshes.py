"""Rules within `shard_map`, and verifications within the context of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import fbackprop as fb
from fbackprop.verify import vjp
from fbackprop.verify.interpret.evaluation import Evaluator

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()


def mesh_of_two(axis_type=AxisType.Auto):
  return jax.make_mesh((2,), ("data",), axis_types=(axis_type,))


def ruled(factor=1.0):
  """tanh(x w), with a factor of w's cotangent."""

  @jax.custom_vjp
  def layer(x, w):
    return jnp.tanh(x @ w)

  def forward(x, w):
    y = layer(x, w)
    return y, (x, w, y)

  def backward(kept, y_bar):
    x, w, y = kept
    z_bar = y_bar * (1 - y * y)
    return z_bar @ w.T, factor * x.T @ z_bar

  layer.defvjp(forward, backward)
  return layer


def mapped(body, *outs):
  specs = {"in_specs": (SPLIT, WHOLE), "out_specs": outs}
  return jax.shard_map(body, mesh=mesh_of_two(), **specs)


def collected(x, w):
  """Compute with every kind of collective, and in a loop."""
  y = jnp.tanh(x @ w)
  other = jax.lax.ppermute(y, "data", [(0, 1), (1, 0)])
  y = jax.lax.fori_loop(0, 3, lambda i, c: c + 0.1 * jax.lax.psum(c, "data"), y)
  scattered = jax.lax.psum_scatter(y, "data", scatter_dimension=1, tiled=True)
  everything = jax.lax.all_gather(y, "data").sum()
  return (
    y * jax.lax.axis_index("data").astype(y.dtype) + other,
    jax.lax.pmean(y.sum(0), "data"),
    jax.lax.psum(everything + scattered.sum(), "data"),
    jax.lax.pmax(jax.lax.stop_gradient(y.max()), "data"),
  )


@pytest.mark.slow
def test_a_sharded_program_is_evaluated_without_devices():
  f = mapped(collected, SPLIT, WHOLE, WHOLE, WHOLE)

  def loss(x, w):
    return sum(jnp.sum(jnp.sin(y)) for y in f(x, w))

  for function in (f, jax.grad(loss, (0, 1))):
    program = jax.make_jaxpr(function)(X, W)
    for got, want in zip(Evaluator(np.float32).run(program, [X, W]), function(X, W), strict=True):
      np.testing.assert_allclose(got[0], want, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail"), (2.0, "fail")])
def test_a_rule_within_shard_map(factor, verdict):
  """The rule's own factor is found, though JAX sums w's cotangent over the devices."""

  def body(x, w):
    return ruled(factor)(x, jax.lax.pcast(w, "data", to="varying"))

  report = vjp(jax.shard_map(body, mesh=mesh_of_two(), in_specs=(SPLIT, WHOLE), out_specs=SPLIT),
               X, W, level="quick")  # fmt: skip
  assert report.verdict == verdict, report.table()
  assert not report.findings or report.findings[0].leaf == "w"


def test_a_missing_sum_over_devices():
  """A backward pass by shard_map that forgets the psum of w's cotangent."""

  def rule(x, w):
    def backward(x, w, y_bar):
      z_bar = y_bar * (1 - jnp.tanh(x @ w) ** 2)
      return z_bar @ w.T, jax.lax.pmean(x.T @ z_bar, "data")

    specs = {"in_specs": (SPLIT, WHOLE, SPLIT), "out_specs": (SPLIT, WHOLE)}
    pull = jax.shard_map(backward, mesh=mesh_of_two(), **specs)
    return jnp.tanh(x @ w), lambda y_bar: pull(x, w, y_bar)

  report = vjp(lambda x, w: jnp.tanh(x @ w), X, W, f_vjp=rule, level="quick")
  assert (report.verdict, report.findings[0].leaf) == ("fail", "w"), report.table()
  assert "1/2" in report.findings[0].cause


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "fail")])
def test_the_context_of_a_mesh(axis_type, factor, verdict):
  """x is split over two devices; the sum over examples would be ambiguous on Explicit axes."""
  mesh = mesh_of_two(axis_type)
  with jax.set_mesh(mesh):
    x = jax.device_put(X, jax.NamedSharding(mesh, SPLIT))
    report = vjp(ruled(factor), x, W, level="quick")
  assert report.verdict == verdict, report.table()
  assert vjp(ruled(factor), x, W, level="quick").verdict == verdict


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_function_that_needs_the_mesh_of_the_context(axis_type):
  def f(x, w):
    def body(x, w):
      return ruled(2.0)(x, jax.lax.pcast(w, "data", to="varying"))

    return jax.shard_map(body, in_specs=(SPLIT, WHOLE), out_specs=SPLIT)(x, w)

  with jax.set_mesh(mesh_of_two(axis_type)):
    report = vjp(f, X, W, level="quick")
  assert (report.verdict, report.findings[0].leaf) == ("fail", "w"), report.table()


@pytest.mark.slow
def test_a_network_in_the_context_of_a_mesh():
  mesh = mesh_of_two(AxisType.Explicit)
  net = fb.mlp((3, 4, 2))
  with jax.set_mesh(mesh):
    params = net.init(jax.random.key(0))
    x = jax.device_put(X, jax.NamedSharding(mesh, SPLIT))
    assert fb.verify.layer(net, params, x, level="quick").verdict == "pass"
