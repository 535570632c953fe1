"""Wrong rules, which the laws must catch: what a law lets pass tells nothing about our rules.

Each control is a row of the table with one planted bug. The laws that it names must fail on it,
and must pass the row without the bug.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from fbackprop.verify.cases import Case
from fbackprop.verify.cases.layers import affine, layer_row
from tests.support import laws
from tests.support.models import MODELS, ROWS, assert_mean_gradient, draw_model

# --- Planted bugs: each takes the right unit and gives the wrong one ------------------------------


def factor(layer):
  def backward(params, residuals, y_bar):
    return jax.tree.map(partial(jnp.multiply, 1.001), layer.backward(params, residuals, y_bar))

  return layer._replace(backward=backward)


def in_its_place(rule):
  """The bug of a backward rule in the place of the unit's."""

  @functools.wraps(rule)
  def plant(unit):
    return unit._replace(backward=rule)

  return plant


@in_its_place
def transposed_weight(params, x, y_bar):
  return fb.DenseParams(x.T @ y_bar, y_bar.sum(0)), y_bar @ params.w


@in_its_place
def bias_not_summed(params, x, y_bar):
  return fb.DenseParams(x.T @ y_bar, y_bar), y_bar @ params.w.T


@in_its_place
def bias_of_the_first_example(params, x, y_bar):
  return fb.DenseParams(x.T @ y_bar, y_bar[0]), y_bar @ params.w.T


@in_its_place
def mean_for_sum(params, x, y_bar):
  return fb.DenseParams(x.T @ y_bar / len(x), y_bar.mean(0)), y_bar @ params.w.T


@in_its_place
def weight_decay_of_zero(params, x, y_bar):
  """The right values; but they were read off the parameters, which feedback rules exchange."""
  return fb.DenseParams(x.T @ y_bar + 0 * params.w, y_bar.sum(0)), y_bar @ params.w.T


@in_its_place
def ignored_cotangent(params, x, y_bar):
  ones = jnp.ones_like(y_bar)
  return fb.DenseParams(x.T @ ones, ones.sum(0)), ones @ params.w.T


@in_its_place
def frozen_cotangent(params, x, y_bar):
  """Right to first order; as a function of the parameters it is constant."""
  w = jax.lax.stop_gradient(params.w)
  return fb.DenseParams(x.T @ y_bar, y_bar.sum(0)), y_bar @ w.T


def kept_parameter(layer):
  def forward(params, x, key=None):
    y, residuals = layer.forward(params, x, key)
    return y, (residuals, params.w)

  def backward(params, residuals, y_bar):
    return layer.backward(params, residuals[0], y_bar)

  return layer._replace(forward=forward, backward=backward)


def stale_residual(layer):
  """What a cache does that isn't emptied: the residuals of the call before."""
  previous = []

  def forward(params, x, key=None):
    y, residuals = layer.forward(params, x, key)
    if isinstance(x, jax.core.Tracer):  # Only shapes are asked for.
      return y, residuals
    previous.append(residuals)
    return y, previous[max(len(previous) - 2, 0)]

  return layer._replace(forward=forward)


def last_call_wins(layer):
  """The residuals live in the layer, so that a second call overwrites those of the first."""
  latest = {}

  def forward(params, x, key=None):
    y, latest["residuals"] = layer.forward(params, x, key)
    return y, ()

  def backward(params, residuals, y_bar):
    return layer.backward(params, latest["residuals"], y_bar)

  return layer._replace(forward=forward, backward=backward)


def mixed_examples(layer):
  """Examples see one another, as in a batch normalisation."""

  def forward(params, x, key=None):
    y, residuals = layer.forward(params, x, key)
    return y - y.mean(0, keepdims=True), residuals

  return layer._replace(forward=forward)


@in_its_place
def wrong_sign(residuals, y_bar):
  return y_bar, y_bar


def slope_one_at_zero(gate):
  def forward(z):
    return gate.forward(z)[0], z

  def backward(z, y_bar):
    return (jnp.where(z < 0, jnp.zeros_like(y_bar), y_bar),)

  return gate._replace(forward=forward, backward=backward)


def hidden_nan(gate):
  def forward(z):
    y = jnp.where(z > 0, z, jnp.zeros_like(z))
    return y, y

  return gate._replace(forward=forward)


@in_its_place
def tie_to_the_first(attained, y_bar):
  bars, free = [], jnp.ones_like(attained[0])
  for a in attained:
    bars.append(jnp.where(a & free, y_bar, jnp.zeros_like(y_bar)))
    free = free & ~a
  return tuple(bars)


@in_its_place
def slope_at_the_output(y, y_bar):
  """σ'(z) taken at y in place of z, as when the wrong array was kept."""
  s = jax.nn.sigmoid(y)
  return (y_bar * s * (1 - s),)


def widened(gate):
  def backward(residuals, y_bar):
    return tuple(jnp.asarray(bar, float) for bar in gate.backward(residuals, y_bar))

  return gate._replace(backward=backward)


def tanh_form(gate):
  def forward(z):
    return jax.nn.gelu(z, approximate=True), z

  return gate._replace(forward=forward)


def second_without_its_factor(gate):
  """φ″ of tanh is -2 y (1 - y²)."""

  def second(y, y_bar):
    return (-y * (1 - y * y) * y_bar,)

  return gate._replace(second=second)


def weights_not_squared(layer):
  def squares(params, residuals, h):
    return h @ jnp.abs(params.w).T

  return layer._replace(second=layer.second._replace(squares=squares))


def curvature_without_the_outer_product(loss):
  """diag(p) in the place of diag(p) - p pᵀ."""

  def root(outputs, targets):
    p = jax.nn.softmax(outputs)
    return jnp.moveaxis(jax.vmap(jnp.diag)(jnp.sqrt(p)), 1, 0)

  return loss._replace(curvature=loss.curvature._replace(root=root))


# --- The table of controls ------------------------------------------------------------------------


class Control(NamedTuple):
  """A bug, the row that it is planted in, and the laws that must catch it."""

  plant: Callable[[Any], Any]
  case: Case
  caught_by: str


def make_square(dtype):
  """A weight that can be transposed without any shape being wrong."""
  return fb.dense(3, 3, dtype=dtype)


SQUARE = layer_row("dense_square", make_square, 3, affine)
VALUES = (
  "vjp_equals_autodiff finite_differences_agree dot_products_agree same_under_jit same_under_vmap "
  "same_under_scan same_on_a_mesh same_within_shard_map any_batch_size float32_stays_under_x64"
)

DENSE = ROWS["dense"]
CONTROLS = [
  Control(factor, DENSE, VALUES),
  Control(transposed_weight, SQUARE, "vjp_equals_autodiff dot_products_agree"),
  Control(
    bias_not_summed,
    DENSE,
    "backward_has_the_structure_of_its_primals half_precision_keeps_its_dtype vjp_equals_autodiff",
  ),
  Control(
    bias_of_the_first_example,
    DENSE,
    "vjp_equals_autodiff finite_differences_agree dot_products_agree",
  ),
  Control(mean_for_sum, DENSE, "vjp_equals_autodiff any_batch_size"),
  Control(weight_decay_of_zero, DENSE, "params_bar_reads_no_params_up_to_its_own"),
  Control(ignored_cotangent, DENSE, "linear_in_the_cotangent vjp_equals_autodiff"),
  Control(
    frozen_cotangent, DENSE, "jvp_of_backward_equals_autodiff grad_of_backward_equals_autodiff"
  ),
  Control(kept_parameter, DENSE, "residuals_hold_no_parameter"),
  Control(stale_residual, DENSE, "pullbacks_are_independent"),
  Control(last_call_wins, DENSE, "pullbacks_are_independent"),
  Control(mixed_examples, DENSE, "forward_equals_reference nan_passes finite_differences_agree"),
  Control(wrong_sign, ROWS["gate_subtract"], "vjp_equals_autodiff finite_differences_agree"),
  Control(slope_one_at_zero, ROWS["gate_relu"], "kinks_follow_the_policy"),
  Control(hidden_nan, ROWS["gate_relu"], "nan_passes"),
  Control(tie_to_the_first, ROWS["gate_max_3"], "kinks_follow_the_policy"),
  Control(
    slope_at_the_output, ROWS["gate_sigmoid"], "vjp_equals_autodiff finite_differences_agree"
  ),
  Control(widened, ROWS["gate_tanh"], "float32_stays_under_x64 half_precision_keeps_its_dtype"),
  Control(tanh_form, ROWS["gate_gelu"], "forward_equals_reference finite_differences_agree"),
  Control(second_without_its_factor, ROWS["gate_tanh"], "second_is_the_slope_of_the_slope"),
  Control(weights_not_squared, DENSE, "second_order_rules_are_those_of_the_reference"),
  Control(
    curvature_without_the_outer_product,
    ROWS["softmax_cross_entropy_labels"],
    "curvature_is_the_hessian_of_the_reference",
  ),
]
CONTROLS = {control.plant.__name__: control for control in CONTROLS}


def planted_case(control):
  """A fresh row, so that a bug that remembers calls remembers those of one law only."""

  def make(dtype):
    return control.plant(control.case.make(dtype))

  return control.case._replace(make=make)


PAIRS = [(name, law) for name, control in CONTROLS.items() for law in control.caught_by.split()]


@pytest.mark.parametrize(("name", "law"), PAIRS, ids=[f"{name}-{law}" for name, law in PAIRS])
def test_law_catches(name, law):
  control, check = CONTROLS[name], laws.LAWS[f"law_{law}"]
  dtype = "float64" if "float64" in check.dtypes else check.dtypes[0]
  check(control.case, dtype)
  with pytest.raises(AssertionError, match=control.case.id):
    check(planted_case(control), dtype)


def test_every_law_catches_something():
  assert {f"law_{law}" for _, law in PAIRS} == set(laws.LAWS)


@pytest.mark.parametrize("name", ["slope_one_at_zero", "tie_to_the_first"])
def test_a_policy_shows_at_the_kink_only(name):
  """Random numbers never meet the kink: without its own points a wrong policy would pass."""
  laws.LAWS["law_vjp_equals_autodiff"](planted_case(CONTROLS[name]), "float64")


def test_message_names_row_leaf_index_and_numbers():
  pattern = (
    r"dense \(float64\), vjp: params_bar\.w\[0, 0\] got \S+ want \S+ bound \S+; 12 of 12 entries"
  )
  with pytest.raises(AssertionError, match=pattern):
    laws.LAWS["law_vjp_equals_autodiff"](planted_case(CONTROLS["factor"]), "float64")


@pytest.mark.slow
def test_forgotten_mean_is_caught():
  """A loss that doesn't multiply by its cotangent, which is where the 1/N comes in."""
  model = MODELS[0]
  problem = draw_model(model, "float32")

  def backward(rows, losses_bar):
    return rows

  def run(loss):
    step = fb.value_and_grad(problem.net, loss, input_gradient=True)
    mean, (grads, x_bar) = step(problem.params, problem.x, problem.targets)
    return mean, grads, x_bar

  assert_mean_gradient(model, problem, run(problem.loss))
  with pytest.raises(AssertionError, match="grads"):
    assert_mean_gradient(model, problem, run(problem.loss._replace(backward=backward)))
