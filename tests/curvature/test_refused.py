"""Arguments that are refused, by name and with what to do."""

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb

curvature = fb.curvature
NET = fb.dense(2, 2)
MADE_BY = ("hessian_vector_product", "ggn_vector_product", "fisher_vector_product", "ggn_diagonal",
           "example_ggn_diagonals", "hessian_diagonal", "hesscale_diagonal",
           "kronecker_factors")  # fmt: skip
BLOCKS = (curvature.Kronecker(jnp.eye(3), jnp.eye(2)),)
PARAMS = (fb.DenseParams(jnp.ones((2, 2)), jnp.ones(2)),)


@pytest.mark.parametrize("name", MADE_BY)
def test_what_is_no_network_or_no_loss_is_named(name):
  make = getattr(curvature, name)
  with pytest.raises(TypeError, match=f"{name}: net must be a Layer, got"):
    make(fb.squared_error, fb.squared_error)
  with pytest.raises(TypeError, match=f"{name}: loss must be a Loss, got"):
    make(NET, jnp.square)


@pytest.mark.parametrize("name", [name for name in MADE_BY if name != "hessian_vector_product"])
def test_a_loss_without_curvature_is_named(name):
  mine = fb.Loss("mine", fb.squared_error.forward, fb.squared_error.backward)
  with pytest.raises(ValueError, match=f"{name}: the loss mine states no curvature"):
    getattr(curvature, name)(NET, mine)


@pytest.mark.parametrize("name", MADE_BY[3:])
def test_a_layer_without_factors_is_named(name):
  net = fb.serial(NET, fb.dense(2, 2)._replace(factors=None, name="mine"))
  with pytest.raises(ValueError, match="the layer mine states no factors"):
    getattr(curvature, name)(net, fb.squared_error)


def test_a_gate_or_a_layer_without_second_derivative_is_named():
  gate = fb.gates.tanh._replace(name="mine", second=None)
  net = fb.serial(NET, fb.activation(gate))
  for name in ("hessian_diagonal", "hesscale_diagonal"):
    with pytest.raises(ValueError, match=f"{name}: the layer 1.mine states no second-order rules"):
      getattr(curvature, name)(net, fb.squared_error)


def test_graphs_and_shared_weights():
  shared = fb.graph({"h": (NET, "x"), "y": (fb.shared("h"), "h")}, output="y")
  for name in ("hessian_diagonal", "hesscale_diagonal"):
    with pytest.raises(ValueError, match="'y' shares the parameters of 'h'; take ggn_diagonal"):
      getattr(curvature, name)(shared, fb.squared_error)
  split = {"s": (fb.split(1, 1), "x"), "h": (fb.tanh, "s[0]"), "y": (fb.add, "h", "s[1]")}
  product = {"h": (NET, "x"), "g": (fb.tanh, "h"), "y": (fb.multiply, "g", "h")}
  for nodes, wanted in (
    (split, "no split"), (product, "states no second-order rules"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=f"hessian_diagonal: .*{wanted}"):
      curvature.hessian_diagonal(fb.graph(nodes, output="y"), fb.squared_error)
  tied = fb.graph({"h": (NET, "x"), "y": (fb.transposed("h"), "h")}, output="y")
  with pytest.raises(ValueError, match="'y' uses the weights of 'h' transposed"):
    curvature.kronecker_factors(tied, fb.squared_error)


@pytest.mark.parametrize("damping", [0, -1.0, float("nan"), jnp.zeros(())])
def test_damping_that_is_not_above_0(damping):
  for function in (curvature.inverse, curvature.log_determinant):
    with pytest.raises(
      ValueError, match=f"{function.__name__}: damping must be a finite number ab"
    ):
      function(BLOCKS, damping=damping)


def test_other_arguments():
  with pytest.raises(ValueError, match="unknown value 'mc' for kind; there are: exact, monte_c"):
    curvature.kronecker_factors(NET, fb.squared_error, kind="mc")
  with pytest.raises(ValueError, match="unknown value 'all' for sharing"):
    curvature.kronecker_factors(NET, fb.squared_error, sharing="all")
  with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
    curvature.ggn_diagonal(NET, fb.squared_error, samples=0)
  with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
    curvature.hessian_diagonal(NET, fb.squared_error, chunk=0)
  with pytest.raises(ValueError, match="the loss hinge has no sampler"):
    curvature.kronecker_factors(NET, fb.hinge, kind="monte_carlo")
  with pytest.raises(ValueError, match="unknown value 'both' for method"):
    curvature.inverse(BLOCKS, damping=1.0, method="both")
  eigen = (curvature.Eigen(jnp.eye(3), jnp.eye(2), jnp.ones((3, 2))),)
  with pytest.raises(ValueError, match="method must be 'exact' for eigenvalue-corrected blocks"):
    curvature.solve(eigen, PARAMS, damping=1.0, method="pi")
  with pytest.raises(TypeError, match="blocks must be a tree of Kronecker or Eigen"):
    curvature.trace(PARAMS)
  with pytest.raises(ValueError, match=r"v\[0\] must have the 6 numbers of its block, got 2"):
    curvature.product(BLOCKS, (jnp.ones(2),))
  with pytest.raises(ValueError, match="v must be like the parameters that the blocks are of"):
    curvature.product(BLOCKS, {})


def test_where_the_keys_of_draws_are_missing():
  params = NET.init(jax.random.key(0))
  data = params, jnp.ones((3, 2)), jnp.ones((3, 2))
  with pytest.raises(TypeError, match="sample_key must be given where samples are drawn"):
    curvature.ggn_diagonal(NET, fb.squared_error, samples=1)(*data)
  with pytest.raises(TypeError, match='sample_key must be given with kind="monte_carlo"'):
    curvature.kronecker_factors(NET, fb.squared_error, kind="monte_carlo")(*data)
  noisy = fb.serial(NET, fb.dropout(0.5), fb.tanh)
  with pytest.raises(ValueError, match="chunk must be None with a key"):
    curvature.hessian_diagonal(noisy, fb.squared_error, chunk=1)(
      (params, (), ()), *data[1:], key=jax.random.key(0)
    )
