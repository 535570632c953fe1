"""Bad input to the public functions: a typed error that names the argument, what was expected and
what came. (That of `fit`, `make_step` and the stop rules is in their own tests.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from tests.support.refusals import refusals

KEY = jax.random.key(0)
NET = fb.mlp([4, 5, 3])
PARAMS = NET.init(KEY)
X = jnp.ones((6, 4))
LABELS = jnp.zeros(6, jnp.int32)
LOGITS = jnp.ones((6, 3))
of_classes = fb.softmax_cross_entropy.forward


def gradient(params=PARAMS, x=X, targets=LABELS, loss=fb.softmax_cross_entropy, **options):
  return fb.value_and_grad(NET, loss)(params, x, targets, **options)


def a_function(x):
  return x


REFUSED = [
  (lambda: fb.mlp([4, 0, 3]), ValueError, r"mlp: sizes\[1\] must be at least 1, got 0"),
  (lambda: fb.dense(4, -1), ValueError, r"d_out must be at least 1, got -1"),
  (lambda: fb.mlp([4, 2.0]), TypeError, r"sizes\[1\] must be an integer, got float"),
  (lambda: fb.dense(True, 3), TypeError, "d_in must be an integer, got bool True"),
  (lambda: fb.mlp([4]), ValueError, "sizes must name at least .* got \\[4\\]"),
  (lambda: fb.mlp("64"), TypeError, "sizes must be a list or tuple .* got str"),
  (lambda: fb.mlp([4, 3], a_function), TypeError, "activation must be a Layer"),
  (lambda: fb.mlp([4, 3], jax.nn.relu), TypeError, "activation must be a Layer"),
  (lambda: fb.mlp([4, 3], fb.gates.relu), TypeError, r"lift a gate by .*activation"),
  (lambda: fb.mlp([4, 3], "relu"), TypeError, "must be a Layer, .* got str 'relu'"),
  (lambda: fb.mlp([4, 3], output_activation=a_function), TypeError, "output_activation must be"),
  (lambda: fb.dense(4, 3, dtype=jnp.int32), TypeError, "dtype must be a floating"),
  (lambda: fb.serial(fb.relu, a_function), TypeError, "argument 1 must be a Layer"),
  (lambda: fb.activation(a_function), TypeError, "gate must be a Gate"),
  (lambda: fb.activation(fb.gates.add), TypeError, "add has arity None"),
  (lambda: fb.value_and_grad(a_function, fb.relu), TypeError, "net must be a Layer"),
  (lambda: fb.value_and_grad(NET, a_function), TypeError, "loss must be a Loss"),
  (lambda: fb.pullback(fb.gates.relu), TypeError, "net must be a Layer, got the Gate"),
  (lambda: fb.as_custom_vjp(None), TypeError, "net must be a Layer, got NoneType"),
  (lambda: fb.residual_bytes(3, X), TypeError, "net must be a Layer, got int 3"),
  (lambda: fb.residual_bytes(NET, [1.0]), TypeError, "x must be an array"),
  (lambda: gradient(x=X[0], targets=LABELS[:4]), ValueError, r"\[N, 4\], got float32\[4\]"),
  (lambda: gradient(x=X[0, 0]), ValueError, r"number N of examples .* x float32\[\]"),
  (lambda: gradient(x=X[:, None]), ValueError, r"\[N, 4\], got float32\[6, 1, 4\]"),
  (lambda: gradient(x=X[:, :3]), ValueError, r"\[N, 4\], got float32\[6, 3\]"),
  (lambda: gradient(targets=LABELS[:5]), ValueError, r"number N .* targets int32\[5\]"),
  (lambda: gradient(x=X.astype(int)), TypeError, "x must have a floating dtype"),
  (lambda: gradient(x=X > 0), TypeError, r"floating dtype, got bool\[6, 4\]"),
  (lambda: gradient(x=X.astype(complex)), TypeError, "floating dtype, got complex64"),
  (lambda: gradient(x=X.astype(jnp.float16)), TypeError, "dtype float32, got float16"),
  (lambda: gradient(x=[[1.0] * 4]), TypeError, "x must be an array, got list"),
  (lambda: gradient(targets=[0] * 6), TypeError, "targets must be an array"),
  (lambda: gradient(targets=LABELS[:, None]), ValueError, r"\[6, 3\], got int32"),
  (lambda: gradient(targets=LABELS.astype(float)), TypeError, r"integer labels .* float32\[6\]"),
  (lambda: gradient(targets=LABELS.at[2].set(3)), ValueError, "0 to 2, got 3 in row 2"),
  (lambda: gradient(targets=LABELS - 1), ValueError, "from 0 to 2, got -1 in row 0"),
  (lambda: gradient(loss=fb.squared_error, targets=X[:, 0]), ValueError, r"targets .*\[6, 3\]"),
  (lambda: gradient(key=0), TypeError, "key must be made by jax.random.key.* int 0"),
  (lambda: gradient(key=jax.random.PRNGKey(0)), TypeError, r"jax.random.key.*got uint32\[2\]"),
  (lambda: gradient(key=jax.random.split(KEY)), ValueError, "must be a single key"),
  (lambda: fb.pullback(NET)(PARAMS, X, 0), TypeError, "pullback: key must be made by .* got int 0"),
  (lambda: fb.as_custom_vjp(NET)(PARAMS, X, 0), TypeError, "as_custom_vjp: key must be made by"),
  (lambda: fb.residual_bytes(NET, X, 0), TypeError, "residual_bytes: key must"),
  (lambda: NET.init(0), TypeError, "key must be made by jax.random.key"),
  (lambda: gradient(weights=jnp.ones(5)), ValueError, r"weights .*\[6\], got"),
  (lambda: gradient(weights=jnp.ones((6, 1))), ValueError, r"shape \[6\]"),
  (lambda: gradient(weights=LABELS), TypeError, "weights .* float32, got int32"),
  (lambda: fb.as_custom_vjp(NET)(PARAMS, X[0, 0]), ValueError, r"x must have shape \[..., D_in\]"),
  (
    lambda: NET.backward(PARAMS, NET.forward(PARAMS, X)[1], LOGITS[:5]),
    ValueError,
    r"y_bar must have shape \[6, 3\], got float32\[5, 3\]",
  ),
  (lambda: fb.squared_error.backward(LOGITS, jnp.ones(5)), ValueError, r"losses_bar .*\[6\]"),
  (lambda: fb.squared_error.forward(LOGITS[:, 0], LOGITS), ValueError, r"outputs .*\[N, C\]"),
  (lambda: fb.squared_error.forward(LABELS[:, None], LOGITS), TypeError, "outputs .* floating"),
  (lambda: fb.squared_error.forward(X[:, :1], X[:, 0]), ValueError, r"\[6, 1\], got .*\[6\]"),
  (lambda: fb.squared_error.forward(X[:, :1], LABELS[:, None]), TypeError, "dtype float32"),
  (lambda: fb.sigmoid_cross_entropy.forward(LOGITS, LABELS), ValueError, r"shape \[6, 3\]"),
  (lambda: of_classes(LOGITS, X), ValueError, r"\[6, 3\], got .*\[6, 4\]"),
  (lambda: of_classes(LOGITS, LABELS[:5]), ValueError, r"\[6\], got int32\[5\]"),
  (lambda: of_classes(LOGITS, LABELS > 0), TypeError, "integer labels"),
  (lambda: fb.gates.add.forward(), TypeError, "add takes at least 1 input, got 0"),
  (lambda: fb.gates.relu.forward(X, X), TypeError, "takes 1 positional argument but 2"),
  (lambda: fb.gates.multiply.forward(X, X[0]), ValueError, r"input 1 .*\[6, 4\], got .*\[4\]"),
  (lambda: fb.gates.max.forward(X, X.astype(jnp.float16)), TypeError, "input 1 .* dtype float32"),
  (lambda: fb.gates.exp.forward(LABELS), TypeError, "gate exp: input 0 must have a floating dtype"),
  (lambda: fb.gates.tanh.forward(1.0), TypeError, "input 0 must be an array, got float 1.0"),
]

OTHER_NETS = [
  (fb.mlp([4, 6, 3]).init(KEY), r"params.w must have shape \[4, 5\], got float32\[4, 6\]"),
  (fb.mlp([4, 5, 5, 3]).init(KEY), "params must be a tuple of 3 .*, got a tuple of 5"),
  (list(PARAMS), "params must be a tuple of 3 .*, got list"),
  (PARAMS[0], "params must be a tuple of 3 .*, got DenseParams"),
  (tuple(tuple(p) for p in PARAMS), "params must be DenseParams.*, got tuple"),
  (fb.mlp([4, 5, 3], bias=False).init(KEY), r"params.b must be an array, got NoneType"),
  ((PARAMS[0]._replace(b=jnp.ones(1)), *PARAMS[1:]), r"\[5\], got float32\[1\]"),
  ((PARAMS[0], PARAMS[0], PARAMS[2]), r"relu: params must be \(\), got DenseParams"),
  (None, "params must be a tuple of 3 .*, got NoneType"),
]


test_bad_input_is_refused = refusals(lambda call: call(), REFUSED)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(("params", "message"), OTHER_NETS)
def test_params_of_another_net_are_refused(params, message, jit):
  f = jax.jit(gradient) if jit else gradient
  with pytest.raises((fb.StructureError, fb.ShapeError, fb.DtypeError), match=message):
    f(params)


def test_an_error_says_in_which_layer_it_arose():
  with pytest.raises(fb.ShapeError) as raised:
    fb.serial(fb.relu, NET).forward(((), PARAMS), X[:, :3])
  assert raised.value.__notes__ == [
    "in layer 0 (dense) of 3, forward",
    "in layer 1 (mlp) of 2, forward",
  ]
  with pytest.raises(fb.ShapeError) as raised:
    NET.backward(PARAMS, NET.forward(PARAMS, X)[1], X)
  assert raised.value.__notes__ == ["in layer 2 (dense) of 3, backward"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32"])
def test_labels_may_have_any_integer_dtype(dtype):
  labels, logits = np.array([0, 100, 44], dtype), jnp.zeros((3, 300))
  losses, rows = fb.softmax_cross_entropy.forward(logits, labels)
  np.testing.assert_allclose(losses, np.log(300), rtol=1e-6)
  traced = jax.jit(fb.softmax_cross_entropy.forward)(logits, jnp.asarray(labels))
  np.testing.assert_array_equal(traced[1], rows)
