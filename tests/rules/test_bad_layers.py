"""Bad input to gates with a choice, normalisation, dropout, and the combinators: as
`test_bad_input.py` has it for the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb

KEY = jax.random.key(0)
X = jnp.ones((6, 4))
NORM = fb.layer_norm(4)
NORM_PARAMS = NORM.init(KEY)
BLOCK = fb.serial(fb.relu, fb.dense(4, 4))
STACK = fb.repeat(BLOCK, 3)
STACK_PARAMS = STACK.init(KEY)


def a_function(x):
  return x


CONSTRUCTORS = {
  "relu_with a word": (
    lambda: fb.gates.relu_with(at_zero="half"),
    TypeError,
    "at_zero must be a n",
  ),
  "relu_with 2": (lambda: fb.gates.relu_with(at_zero=2), ValueError, "from 0 to 1, got 2"),
  "relu_with NaN": (lambda: fb.gates.relu_with(at_zero=jnp.nan), ValueError, "at_zero .* got nan"),
  "leaky slope 0": (lambda: fb.gates.leaky_relu_with(0), ValueError, "negative_slope .* above 0"),
  "leaky slope": (
    lambda: fb.gates.leaky_relu_with(True),
    TypeError,
    "negative_slope must be a num",
  ),
  "leaky at_zero": (
    lambda: fb.gates.leaky_relu_with(0.1, at_zero=0),
    ValueError,
    "at_zero .* from 0.1 to 1, got 0",
  ),
  "clip order": (lambda: fb.gates.clip_with(1, 1), ValueError, "low must be below high, got 1 and"),
  "clip inf": (lambda: fb.gates.clip_with(0, jnp.inf), ValueError, "high must be .* got inf"),
  "clip edges": (lambda: fb.gates.clip_with(0, 1, at_edges=-1), ValueError, "at_edges .* got -1"),
  "elu alpha": (lambda: fb.gates.elu_with(0), ValueError, "alpha must be above 0, got 0"),
  "elu a list": (lambda: fb.gates.elu_with([1]), TypeError, "alpha must be a number, got list"),
  "max ties": (
    lambda: fb.gates.max_with(ties="last"),
    ValueError,
    "'share' or 'first', got 'last'",
  ),
  "min ties": (lambda: fb.gates.min_with(ties=1), ValueError, "min_with: ties must be 'share'"),
  "norm width": (lambda: fb.layer_norm(0), ValueError, "width must be at least 1, got 0"),
  "norm eps": (
    lambda: fb.rms_norm(4, eps=0),
    ValueError,
    r"rms_norm\(4\): eps must be a finite number of at",
  ),
  "norm eps None": (
    lambda: fb.layer_norm(4, eps=None),
    TypeError,
    "eps must be a number, got None",
  ),
  "norm dtype": (lambda: fb.layer_norm(4, dtype=int), TypeError, "dtype must be a floating dtype"),
  "rate 1": (
    lambda: fb.dropout(1),
    ValueError,
    "dropout: rate must be at least 0 and below 1, got 1",
  ),
  "rate -0.1": (
    lambda: fb.dropout(-0.1),
    ValueError,
    "rate must be at least 0 and below 1, got -0.1",
  ),
  "rate a word": (lambda: fb.dropout("0.5"), TypeError, "rate must be a number, got str '0.5'"),
  "skip a function": (lambda: fb.skip(a_function), TypeError, "skip: layer must be a Layer"),
  "remat a gate": (lambda: fb.remat(fb.gates.relu), TypeError, "must be a Layer, got the Gate"),
  "repeat a list": (lambda: fb.repeat([fb.relu], 2), TypeError, "repeat: layer must be a Layer"),
  "repeat 0": (lambda: fb.repeat(fb.relu, 0), ValueError, "repeat: n must be at least 1, got 0"),
  "repeat 2.5": (lambda: fb.repeat(fb.relu, 2.5), TypeError, "n must be an integer, got float"),
  "inspect": (
    lambda: fb.inspect(a_function, fb.squared_error),
    TypeError,
    "inspect: net must be a",
  ),
  "inspect loss": (
    lambda: fb.inspect(fb.relu, fb.relu),
    TypeError,
    "loss must be a Loss, got the L",
  ),
  "lift a layer": (
    lambda: fb.activation(fb.relu),
    TypeError,
    "must be a Gate, got the Layer 'relu'",
  ),
  "dense 3": (
    lambda: fb.mlp([2, 3], dense=3),
    TypeError,
    "dense must be the constructor of a layer",
  ),
  "dense a layer": (
    lambda: fb.mlp([2, 3], dense=fb.relu),
    TypeError,
    "constructor .* got the Layer",
  ),
  "normalization": (
    lambda: fb.mlp([2, 3, 1], normalization=NORM),
    TypeError,
    "normalization must be the construct",
  ),
  "not a layer": (
    lambda: fb.mlp([2, 3, 1], normalization=lambda *_, **__: 3),
    TypeError,
    "must construct a Layer",
  ),
  "mlp's dropout": (
    lambda: fb.mlp([2, 3], dropout=1.0),
    ValueError,
    "rate must be at least 0 and below 1, got 1.0",
  ),
  "w_init": (lambda: fb.dense(2, 3, w_init=5), TypeError, "w_init must be a function, got int 5"),
  "b_init": (lambda: fb.mlp([2, 3], b_init="zeros"), TypeError, "b_init must be a function"),
  "bias": (lambda: fb.dense(2, 3, bias="no"), TypeError, "bias must be True or False, got str"),
  "skip": (lambda: fb.mlp([2, 3], skip="no"), TypeError, "skip must be True or False, got str"),
  "repeat_hidden": (
    lambda: fb.mlp([2, 3], repeat_hidden=1),
    TypeError,
    "repeat_hidden must be True",
  ),
  "rate an array": (
    lambda: fb.mlp([2, 3], dropout=jnp.zeros(2)),
    TypeError,
    "rate must be a number",
  ),
  "rate complex": (lambda: fb.dropout(np.complex64(0.5)), TypeError, "rate must be a number"),
  "rate huge": (
    lambda: fb.dropout(10**400),
    ValueError,
    "rate must be at least 0 and below 1, got 100",
  ),
  "eps tiny": (
    lambda: fb.layer_norm(3, eps=1e-50),
    ValueError,
    "eps must be a finite number of at least 1.17",
  ),
  "dtype None": (lambda: fb.dense(2, 3, dtype=None), TypeError, "floating dtype, .* got None"),
  "dtype a word": (
    lambda: fb.dense(2, 3, dtype="nope"),
    TypeError,
    "floating dtype, .* got 'nope'",
  ),
}

CALLS = {
  "float64 without x64": (
    lambda: fb.dense(2, 3, dtype=jnp.float64).init(KEY),
    TypeError,
    "needs x64: .*enable_x64",
  ),
  "float64 norm": (
    lambda: fb.layer_norm(2, dtype="float64").init(KEY),
    TypeError,
    "float64 needs x64",
  ),
  "norm's key": (lambda: NORM.init(0), TypeError, "key must be made by jax.random.key"),
  "norm's x": (
    lambda: NORM.forward(NORM_PARAMS, X[:, :3]),
    ValueError,
    r"\[N, 4\], got float32\[6",
  ),
  "norm's rank": (
    lambda: NORM.forward(NORM_PARAMS, X[0]),
    ValueError,
    r"\[N, 4\], got float32\[4\]",
  ),
  "norm's dtype": (
    lambda: NORM.forward(NORM_PARAMS, X.astype(jnp.float16)),
    TypeError,
    "dtype float32, got float16",
  ),
  "norm's params": (lambda: NORM.forward((), X), ValueError, r"must be NormParams\(scale, shift\)"),
  "norm's scale": (
    lambda: NORM.forward(fb.layer_norm(3).init(KEY), X),
    ValueError,
    r"params.scale .*\[4\]",
  ),
  "norm's shift": (
    lambda: NORM.forward(fb.rms_norm(4).init(KEY), X),
    TypeError,
    "params.shift must be an array",
  ),
  "rms's shift": (
    lambda: fb.rms_norm(4).forward(NORM_PARAMS, X),
    ValueError,
    "params.shift must be None, got fl",
  ),
  "norm's y_bar": (
    lambda: NORM.backward(NORM_PARAMS, NORM.forward(NORM_PARAMS, X)[1], X[:5]),
    ValueError,
    r"y_bar must have shape \[6, 4\], got float32\[5, 4\]",
  ),
  "dropout's key": (lambda: fb.dropout(0.5).forward((), X, 7), TypeError, "jax.random.key.*int 7"),
  "dropout's x": (lambda: fb.dropout(0.5).forward((), [1.0]), TypeError, "x must be an array"),
  "dropout's params": (
    lambda: fb.dropout(0.5).forward(None, X),
    ValueError,
    r"params must be \(\)",
  ),
  "dropout's y_bar": (
    lambda: fb.dropout(0.5).backward((), fb.dropout(0.5).forward((), X, KEY)[1], X[:1]),
    ValueError,
    r"y_bar must have shape \[6, 4\]",
  ),
  "skip's width": (
    lambda: fb.skip(fb.dense(4, 3)).forward(fb.dense(4, 3).init(KEY), X),
    ValueError,
    r"f\(x\) must have shape \[6, 4\], got float32\[6, 3\]",
  ),
  "repeat's width": (
    lambda: fb.repeat(fb.dense(4, 3), 2).forward(fb.repeat(fb.dense(4, 3), 2).init(KEY), X),
    ValueError,
    r"y, the output of the repeated layer, must have shape \[6, 4\]",
  ),
  "repeat's depth": (
    lambda: STACK.forward(fb.repeat(BLOCK, 2).init(KEY), X),
    ValueError,
    r"each array of params must have shape \[3, 4, 4\], got float32\[2, 4, 4\]",
  ),
  "repeat of one": (
    lambda: STACK.forward(BLOCK.init(KEY), X),
    ValueError,
    r"must have shape \[3, 4\], got .*\[4, 4\]",
  ),
  "repeat's key": (lambda: STACK.init(1), TypeError, "key must be made by jax.random.key"),
  "repeat's key, forward": (
    lambda: fb.repeat(fb.dropout(0.5), 3).forward((), X, 0),
    TypeError,
    "repeat: key must be made",
  ),
  "remat's key": (
    lambda: fb.remat(fb.relu).forward((), X, 0),
    TypeError,
    "remat: key must be made",
  ),
  "repeat's leaves": (
    lambda: STACK.forward(((), (1.0, 2.0)), X),
    TypeError,
    "leaf of params must be an array",
  ),
  "combine's losses_bar": (
    lambda: fb.combine((1.0, fb.squared_error, 0)).backward((((),), X), [1.0]),
    TypeError,
    "losses_bar must be an array",
  ),
  "targets in a list": (
    lambda: fb.value_and_grad(fb.identity, fb.squared_error)((), X, [X]),
    TypeError,
    "or a tuple of arrays for several losses, got list",
  ),
  "softmax of nothing": (
    lambda: fb.softmax.forward((), jnp.zeros((3, 0))),
    ValueError,
    "at least one feature",
  ),
  "softmax's rank": (
    lambda: fb.softmax.forward((), X[0]),
    ValueError,
    r"x must have shape \[N, D\]",
  ),
  "softmax's y_bar": (
    lambda: fb.softmax.backward((), X, X[:, :1]),
    ValueError,
    r"y_bar must have shape \[6, 4\]",
  ),
  "activation's y_bar": (
    lambda: fb.relu.backward((), X, X[:1]),
    ValueError,
    r"y_bar must have shape \[6, 4\]",
  ),
  "activation's y_bar dtype": (
    lambda: fb.tanh.backward((), X, X.astype(jnp.float16)),
    TypeError,
    "y_bar must have dtype float32",
  ),
  "max's y_bar": (
    lambda: fb.gates.max.backward((X > 0, X > 0), X[0]),
    ValueError,
    r"y_bar must have shape \[6, 4\]",
  ),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_constructor_refuses(name):
  construct, error, message = CONSTRUCTORS[name]
  with pytest.raises(error, match=message):
    construct()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_refuses(name):
  call, error, message = CALLS[name]
  with pytest.raises(error, match=message):
    call()


ONE_ARRAY = [
  getattr(fb.gates, name)
  for name in fb.gates.__all__
  if isinstance(getattr(fb.gates, name), fb.Gate) and getattr(fb.gates, name).arity == 1
]


@pytest.mark.parametrize("gate", ONE_ARRAY, ids=[gate.name for gate in ONE_ARRAY])
def test_a_gate_refuses_another_y_bar(gate):
  """Of every gate that keeps an array; the others hand y_bar on as it is."""
  y, residuals = gate.forward(X)
  if jax.tree.leaves(residuals):
    with pytest.raises(ValueError, match=r"gate .*: y_bar must have shape .*, got float32\[4\]"):
      gate.backward(residuals, y[0])


def test_weights_do_not_overflow():
  """Four of 3e38 or of 2e-38 in float32, and 70,000 of 1 in float16, make a mean as any do."""
  step = jax.jit(fb.value_and_grad(fb.identity, fb.squared_error))
  x = jnp.full((4, 1), 2.0)
  for weight in (3e38, 2e-38, 0.7):
    assert step((), x, 0 * x, weights=jnp.full(4, weight))[0] == 2
  x = jnp.full((70_000, 1), 0.05, jnp.float16)
  # 1/70,000 is below the smallest normal number of float16, and rounded to a digit less.
  for weights in (None, jnp.ones(70_000, jnp.float16)):
    np.testing.assert_allclose(step((), x, 0 * x, weights=weights)[0], 0.05**2 / 2, rtol=0.01)
