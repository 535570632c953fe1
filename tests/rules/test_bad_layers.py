"""Bad input to gates with a choice, normalisation, dropout, and the combinators: as
`test_bad_input.py` has it for the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from tests.support.refusals import refusals

KEY = jax.random.key(0)
X = jnp.ones((6, 4))
NORM = fb.layer_norm(4)
NORM_PARAMS = NORM.init(KEY)
BLOCK = fb.serial(fb.relu, fb.dense(4, 4))
STACK = fb.repeat(BLOCK, 3)
HALF = X.astype(jnp.float16)
DROPOUT, NARROWER = fb.dropout(0.5), fb.dense(4, 3)
NARROW = NARROWER.init(KEY)
COMBINED = fb.combine((1.0, fb.squared_error, 0))
STEP = fb.value_and_grad(fb.identity, fb.squared_error)
Y_BAR = r"y_bar must have shape \[6, 4\], got float32"


def a_function(x):
  return x


REFUSED = [
  (lambda: fb.gates.relu_with(at_zero="half"), TypeError, "at_zero must be a n"),
  (lambda: fb.gates.relu_with(at_zero=2), ValueError, "from 0 to 1, got 2"),
  (lambda: fb.gates.relu_with(at_zero=jnp.nan), ValueError, "at_zero .* got nan"),
  (lambda: fb.gates.leaky_relu_with(0), ValueError, "negative_slope .* above 0"),
  (lambda: fb.gates.leaky_relu_with(True), TypeError, "negative_slope must be a num"),
  (lambda: fb.gates.leaky_relu_with(0.1, at_zero=0), ValueError, "at_zero .* from 0.1 to 1, got 0"),
  (lambda: fb.gates.clip_with(1, 1), ValueError, "low must be below high, got 1 and"),
  (lambda: fb.gates.clip_with(0, jnp.inf), ValueError, "high must be .* got inf"),
  (lambda: fb.gates.clip_with(0, 1, at_edges=-1), ValueError, "at_edges .* got -1"),
  (lambda: fb.gates.elu_with(0), ValueError, "alpha must be a finite number above 0, got 0"),
  (lambda: fb.gates.elu_with([1]), TypeError, "alpha must be a number, got list"),
  (lambda: fb.gates.max_with(ties="last"), ValueError, "'share' or 'first', got 'last'"),
  (lambda: fb.gates.min_with(ties=1), ValueError, "min_with: ties must be 'share'"),
  (lambda: fb.layer_norm(0), ValueError, "width must be at least 1, got 0"),
  (lambda: fb.rms_norm(4, eps=0), ValueError, r"rms_norm\(4\): eps must be a finite number of at"),
  (lambda: fb.layer_norm(4, dtype=int), TypeError, "dtype must be a floating dtype"),
  (lambda: fb.dropout(1), ValueError, "dropout: rate must be at least 0 and below 1, got 1"),
  (lambda: fb.dropout("0.5"), TypeError, "rate must be a number, got str '0.5'"),
  (lambda: fb.skip(a_function), TypeError, "skip: layer must be a Layer"),
  (lambda: fb.remat(fb.gates.relu), TypeError, "must be a Layer, got the Gate"),
  (lambda: fb.repeat([fb.relu], 2), TypeError, "repeat: layer must be a Layer"),
  (lambda: fb.repeat(fb.relu, 0), ValueError, "repeat: n must be at least 1, got 0"),
  (lambda: fb.repeat(fb.relu, 2.5), TypeError, "n must be an integer, got float"),
  (lambda: fb.inspect(a_function, fb.squared_error), TypeError, "inspect: net must be a"),
  (lambda: fb.inspect(fb.relu, fb.relu), TypeError, "loss must be a Loss, got the L"),
  (lambda: fb.activation(fb.relu), TypeError, "must be a Gate, got the Layer 'relu'"),
  (lambda: fb.mlp([2, 3], dense=3), TypeError, "dense must be the constructor of a layer"),
  (lambda: fb.mlp([2, 3], dense=fb.relu), TypeError, "constructor .* got the Layer"),
  (lambda: fb.mlp([2, 3, 1], normalization=NORM), TypeError, "normalization must be the construct"),
  (lambda: fb.mlp([2, 3, 1], normalization=lambda *_, **__: 3), TypeError, "must construct a L"),
  (lambda: fb.dense(2, 3, w_init=5), TypeError, "w_init must be a function, got int 5"),
  (lambda: fb.mlp([2, 3], b_init="zeros"), TypeError, "b_init must be a function"),
  (lambda: fb.dense(2, 3, bias="no"), TypeError, "bias must be True or False, got str"),
  (lambda: fb.mlp([2, 3], skip="no"), TypeError, "skip must be True or False, got str"),
  (lambda: fb.mlp([2, 3], repeat_hidden=1), TypeError, "repeat_hidden must be True"),
  (lambda: fb.layer_norm(3, eps=1e-50), ValueError, "eps must be a finite number of at least 1.17"),
  (lambda: fb.dense(2, 3, dtype=None), TypeError, "floating dtype, .* got None"),
  (lambda: fb.dense(2, 3, dtype="nope"), TypeError, "floating dtype, .* got 'nope'"),
  (lambda: fb.dense(2, 3, dtype=jnp.float64).init(KEY), TypeError, "needs x64: .*enable_x64"),
  (lambda: fb.layer_norm(2, dtype="float64").init(KEY), TypeError, "float64 needs x64"),
  (lambda: NORM.init(0), TypeError, "key must be made by jax.random.key"),
  (lambda: NORM.forward(NORM_PARAMS, X[:, :3]), ValueError, r"\[N, 4\], got float32\[6"),
  (lambda: NORM.forward(NORM_PARAMS, X[0]), ValueError, r"\[N, 4\], got float32\[4\]"),
  (lambda: NORM.forward(NORM_PARAMS, HALF), TypeError, "dtype float32, got float16"),
  (lambda: NORM.forward((), X), ValueError, r"must be NormParams\(scale, shift\)"),
  (lambda: NORM.forward(fb.layer_norm(3).init(KEY), X), ValueError, r"params.scale .*\[4\]"),
  (lambda: NORM.forward(fb.rms_norm(4).init(KEY), X), TypeError, "params.shift must be an array"),
  (
    lambda: fb.rms_norm(4).forward(NORM_PARAMS, X),
    ValueError,
    "params.shift must be None, as this",
  ),
  (lambda: NORM.backward(NORM_PARAMS, NORM.forward(NORM_PARAMS, X)[1], X[:5]), ValueError, Y_BAR),
  (lambda: DROPOUT.forward((), X, 7), TypeError, "jax.random.key.*int 7"),
  (lambda: DROPOUT.forward((), [1.0]), TypeError, "x must be an array"),
  (lambda: DROPOUT.forward(None, X), ValueError, r"params must be \(\)"),
  (lambda: DROPOUT.backward((), DROPOUT.forward((), X, KEY)[1], X[:1]), ValueError, Y_BAR),
  (lambda: fb.skip(NARROWER).forward(NARROW, X), ValueError, r"f\(x\) must have shape \[6, 4\], g"),
  (
    lambda: fb.repeat(NARROWER, 2).forward(fb.repeat(NARROWER, 2).init(KEY), X),
    ValueError,
    r"y, the output of the repeated layer, must have shape \[6, 4\]",
  ),
  (
    lambda: STACK.forward(fb.repeat(BLOCK, 2).init(KEY), X),
    ValueError,
    r"each array of params must have shape \[3, 4, 4\], got float32\[2, 4, 4\]",
  ),
  (lambda: STACK.forward(BLOCK.init(KEY), X), ValueError, r"shape \[3, 4\], got .*\[4, 4\]"),
  (lambda: STACK.init(1), TypeError, "key must be made by jax.random.key"),
  (lambda: fb.repeat(fb.dropout(0.5), 3).forward((), X, 0), TypeError, "repeat: key must be made"),
  (lambda: fb.remat(fb.relu).forward((), X, 0), TypeError, "remat: key must be made"),
  (lambda: STACK.forward(((), (1.0, 2.0)), X), TypeError, "leaf of params must be an array"),
  (lambda: COMBINED.backward((((),), X), [1.0]), TypeError, "losses_bar must be an array"),
  (lambda: STEP((), X, [X]), TypeError, "or a tuple of arrays for several losses, got list"),
  (lambda: fb.softmax.forward((), jnp.zeros((3, 0))), ValueError, "at least one feature"),
  (lambda: fb.softmax.forward((), X[0]), ValueError, r"x must have shape \[N, D\]"),
  (lambda: fb.softmax.backward((), X, X[:, :1]), ValueError, Y_BAR),
  (lambda: fb.relu.backward((), X, X[:1]), ValueError, Y_BAR),
  (lambda: fb.tanh.backward((), X, HALF), TypeError, "y_bar must have dtype float32"),
  (lambda: fb.gates.max.backward((X > 0, X > 0), X[0]), ValueError, Y_BAR),
]


test_bad_input_is_refused = refusals(lambda call: call(), REFUSED)


GATES = [gate for gate in vars(fb.gates).values() if isinstance(gate, fb.Gate) and gate.arity == 1]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_refuses_another_y_bar(gate):
  """Of every gate that keeps an array; the others hand y_bar on as it is."""
  y, residuals = gate.forward(X)
  if jax.tree.leaves(residuals):
    with pytest.raises(ValueError, match=r"gate .*: y_bar must have shape .*, got float32\[4\]"):
      gate.backward(residuals, y[0])


@pytest.mark.slow
def test_weights_do_not_overflow():
  """Four of 3e38 or of 2e-38 in float32, and 70,000 of 1 in float16, make a mean as any do."""
  step = jax.jit(STEP)
  x = jnp.full((4, 1), 2.0)
  for weight in (3e38, 2e-38, 0.7):
    assert step((), x, 0 * x, weights=jnp.full(4, weight))[0] == 2
  x = jnp.full((70_000, 1), 0.05, jnp.float16)
  # 1/70,000 is below the smallest normal number of float16, and rounded to a digit less.
  for weights in (None, jnp.ones(70_000, jnp.float16)):
    np.testing.assert_allclose(step((), x, 0 * x, weights=weights)[0], 0.05**2 / 2, rtol=0.01)
