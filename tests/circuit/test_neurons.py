"""Networks taken apart into gates: the gradients of `fb.value_and_grad`, weight by weight."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import from_mlp
from fbackprop.layers import activations


def network_gradients(net, params, x, target, loss):
  """Those of `fb.value_and_grad`, by the names that the circuit gives."""
  value, (grads, x_bar) = fb.value_and_grad(net, loss, input_gradient=True)(
    params, x[None], target[None]
  )
  grads, x_bar = jax.device_get((grads, x_bar))
  found = {f"x{i + 1}": x_bar[0, i] for i in range(x_bar.shape[1])}
  for depth, own in enumerate((g for g in grads if g), 1):
    for i, j in np.ndindex(own.w.shape):
      found[f"w{depth}_{i + 1}_{j + 1}"] = own.w[i, j]
    for j in range(own.w.shape[1]):
      found |= {} if own.b is None else {f"b{depth}_{j + 1}": own.b[j]}
  return float(value), found


def compare(net, target, loss, scale=1.0):
  with jax.enable_x64(True):
    params = jax.tree.map(lambda p: p * scale, net.init(jax.random.key(3)))
    x = jax.random.normal(jax.random.key(4), (3,), float)
    t = from_mlp(net, params, x, target, loss).trace()
    value, grads = network_gradients(net, params, x, jnp.asarray(target), loss)
  assert set(t.gradients) == set(grads)
  np.testing.assert_allclose(t.value, value, rtol=1e-12)
  largest = max(float(abs(g)) for g in grads.values())
  for name, grad in grads.items():
    assert abs(t.gradients[name] - grad) <= 1e-12 * largest, name
  return t


ACTIVATIONS = {
  name: value
  for name, value in vars(activations).items()
  if isinstance(value, fb.types.Layer) and "gate" in dict(value.options)
}


NETS = [
  fb.mlp([3, 4, 2], dtype=jnp.float64),
  fb.mlp([3, 2, 3, 2], fb.tanh, output_activation=fb.sigmoid, dtype=jnp.float64),
  fb.mlp([3, 4, 2], fb.gelu, bias=False, dtype=jnp.float64),
  fb.mlp([3, 2], dtype=jnp.float64),
  fb.mlp([3, 4, 2], fb.activation(fb.gates.leaky_relu_with(0.3)), dtype=jnp.float64),
  *(fb.mlp([3, 3, 2], activation, dtype=jnp.float64) for activation in ACTIVATIONS.values()),
]


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS, ids=str)
def test_a_network_has_the_gradients_of_value_and_grad(net):
  compare(net, np.array([0.3, -0.8]), fb.squared_error)


def test_there_are_activations_to_ask():
  assert {"relu", "gelu", "tanh", "softplus", "hard_tanh"} <= set(ACTIVATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("target", [np.int32(1), np.array([0.2, 0.0, 0.8]), np.array([0.5, 1, 2])])
@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_naive_softmax_gates_are_good_to_the_stated_bound(target, scale):
  t = compare(fb.mlp([3, 3], dtype=jnp.float64), target, fb.softmax_cross_entropy, scale)
  logits = [abs(t.values[f"z1_{j}"]) for j in (1, 2, 3)]
  assert max(logits) < 300
  assert scale == 1 or max(logits) > 100


@pytest.mark.slow
def test_every_weight_is_on_a_wire_of_its_own():
  with jax.enable_x64(True):
    c = from_mlp(
      fb.mlp([2, 3, 1], dtype=jnp.float64), fb.mlp([2, 3, 1]).init(jax.random.key(0)),
      np.ones(2), np.zeros(1), fb.squared_error,
    )  # fmt: skip
  ops = Counter(node.op for node in c.nodes)
  assert ops["multiply"] == 2 * 3 + 3 * 1 + 1  # And ½ of the loss.
  assert (ops["relu"], len(c.inputs)) == (3, 2 + (2 * 3 + 3) + (3 * 1 + 1))
  assert c.trace(w1_1_1=0.5).values["w1_1_1"] == 0.5


@pytest.mark.slow
def test_two_activations_of_one_name_keep_their_rules():
  half = fb.activation(fb.gates.relu_with(at_zero=0.5))
  net = fb.serial(fb.dense(1, 1), half, half, fb.relu)
  params = (fb.DenseParams(np.zeros((1, 1)), np.zeros(1)), (), (), ())
  t = from_mlp(net, params, np.ones(1), np.ones(1), fb.squared_error).trace()
  assert [(g.op, g.local) for g in t.gates[2:5]] == [
    ("relu_2", (0.5,)), ("relu_2", (0.5,)), ("relu", (0.0,))
  ]  # fmt: skip
  check = fb.verify.check_circuit(t)
  assert (check.ok, check.kinks) == (True, ("h1_1", "h1_1_", "h1_1__"))


NOT_EXPANDED = [
  ({"net": fb.mlp([2, 2], output_activation=fb.softmax)}, "layer 'softmax'; softmax_cross_ent"),
  ({"net": fb.serial(fb.dense(2, 2), fb.dropout(0.5))}, "it has the layer 'dropout'"),
  ({"net": fb.relu.forward}, "net must be a Layer"),
  ({"loss": fb.sigmoid_cross_entropy}, "loss must be squared_error or softmax_cross_entropy"),
  ({"x": np.ones((1, 2))}, r"x must have shape \[D_in\]"),
  ({"x": np.ones(3)}, r"w of layer 1 must have shape \[3, D_out\]"),
  ({"x": np.ones(2) * 1j}, r"x must be an array of real numbers, got complex128\[2\]"),
  ({"x": [[1.0], [2.0, 3.0]]}, "x must be an array of real numbers, got list"),
  ({"target": np.ones(2) * 1j}, "target must be an array of real numbers, got complex128"),
  ({"b": np.ones(2) * 1j}, "b of layer 1 must be an array of real numbers, got complex128"),
  ({"b": np.ones(3)}, r"b of layer 1 must have shape \[2\], got float64\[3\]"),
  ({"target": np.ones(3)}, r"target must have shape \[2\]"),
  ({"loss": fb.softmax_cross_entropy, "target": np.int32(2)}, "must be a label from 0 to 1"),
  ({"loss": fb.softmax_cross_entropy, "target": np.array(["a"])}, "must be a label or prob"),
  ({"loss": fb.softmax_cross_entropy, "target": np.zeros(2)}, "target is zero everywhere"),
]


@pytest.mark.parametrize(("change", "said"), NOT_EXPANDED)
def test_networks_that_cannot_be_expanded_are_refused(change, said):
  given = {"net": fb.mlp([2, 2]), "x": np.ones(2), "target": np.ones(2), "loss": fb.squared_error}
  given |= change
  layers = getattr(given["net"], "parts", ())
  dense = fb.DenseParams(given.get("w", np.ones((2, 2))), given.get("b", np.ones(2)))
  params = tuple(dense if layer.name == "dense" else () for layer in layers)
  with pytest.raises((TypeError, ValueError), match=said):
    from_mlp(given["net"], params, given["x"], given["target"], given["loss"])
