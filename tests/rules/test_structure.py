"""What no law says of normalisation, dropout, skip, repeat, remat, and `mlp` with them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.combinators import is_chain, map_layers, name_layers
from tests.support.witness import assert_bitwise, random_like

KEY = jax.random.key(0)
OUTPUT_KEEPERS = ("relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "softplus", "relu6")
INPUT_KEEPERS = ("gelu", "gelu_tanh", "silu", "mish")


def compiled(net, n, width):
  """The compiled program of a network's forward and backward pass."""

  def run(params, x):
    y, backward = fb.pullback(net)(params, x)
    return y, backward(y)

  x = jax.ShapeDtypeStruct((n, width), jnp.float32)
  return jax.jit(run).lower(jax.eval_shape(net.init, KEY), x).compile()


def chain_of_copies(block, n):
  # A copy of the record is another layer: the parameters of each are meant to be its own.
  return fb.serial(*(block._replace() for _ in range(n)))


# --- Normalisation --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_statistics_of_half_precision_are_summed_in_float32(dtype):
  """In float16 the squares of 300 would be infinite, and the output 0."""
  x = jnp.asarray([[300.0, -300.0, 300.0, -300.0]], dtype)
  for make in (fb.layer_norm, fb.rms_norm):
    layer = make(4, dtype=dtype)
    y, _ = layer.forward(layer.init(KEY), x)
    np.testing.assert_array_equal(y, jnp.sign(x))


# --- Dropout --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_the_rate():
  x = jnp.ones((200, 500))
  y, mask = fb.dropout(0.3).forward((), x, KEY)
  # 1e5 draws: the fraction's standard deviation is 0.0014, and five of them are allowed.
  assert abs(float(mask.mean()) - 0.7) < 5 * 0.0015
  np.testing.assert_array_equal(y, jnp.where(mask, x / 0.7, 0))


@pytest.mark.slow
def test_dropout_draws_the_same_mask_in_every_dtype():
  masks = []
  for dtype in ("float16", "float32", "float64"):
    with jax.enable_x64(dtype == "float64"):
      masks.append(fb.dropout(0.5).forward((), jnp.ones((8, 8), dtype), KEY)[1])
  np.testing.assert_array_equal(masks[0], masks[1])
  np.testing.assert_array_equal(masks[0], masks[2])


def test_dropout_of_nothing_is_the_identity():
  x = jnp.ones((2, 3))
  layer = fb.dropout(0)
  assert not layer.draws
  assert layer.forward((), x, KEY) == (x, ())
  assert fb.dropout(0.9).forward((), x)[0] is x


# --- repeat ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_copies_of_a_repeat_start_differently():
  w = fb.repeat(fb.dense(3, 3), 4).init(KEY).w
  assert len(np.unique(np.asarray(w)[:, 0, 0])) == 4


@pytest.mark.slow
@pytest.mark.parametrize("layer", range(4))
def test_params_bar_in_a_repeat_reads_no_params_up_to_its_own(layer):
  net = fb.repeat(fb.serial(fb.tanh, fb.dense(3, 3)), 4)
  params = net.init(KEY)
  x, y_bar = random_like(np.random.default_rng(0), (jnp.ones((2, 3)),) * 2)
  residuals = net.forward(params, x)[1]
  want = net.backward(params, residuals, y_bar)[0][1]
  spoilt = jax.tree.map(lambda leaf: leaf.at[: layer + 1].set(jnp.nan), params)
  got = net.backward(spoilt, residuals, y_bar)[0][1]
  assert_bitwise("repeat", ("w", "b"), (got.w[layer:], got.b[layer:]),
                 (want.w[layer:], want.b[layer:]))  # fmt: skip


@pytest.mark.slow
def test_the_program_of_a_repeat_does_not_grow_with_depth():
  """The compiled text of 4 and of 512 copies has the same instructions."""

  def instructions(n):
    return compiled(fb.mlp([8] * (n + 3), repeat_hidden=True), 2, 8).as_text().count(" = ")

  assert instructions(4) == instructions(512)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "gelu"])
def test_temp_memory_of_a_repeat_is_one_stack_for_each_array_kept(activation):
  """≤ 1.1 stacks, the block being (activation, dense); (dense, activation) takes two."""
  n, width, layers = 256, 64, 64
  stack = layers * n * width * 4
  net = fb.repeat(fb.serial(getattr(fb, activation), fb.dense(width, width)), layers)
  temp = compiled(net, n, width).memory_analysis().temp_size_in_bytes
  kept = 2 if activation in INPUT_KEEPERS else 1
  assert kept * stack <= temp <= (kept + 0.1) * stack


# --- remat ----------------------------------------------------------------------------------------


def count(text, operation):
  return len(re.findall(rf" {operation}\(", text))


@pytest.mark.slow
@pytest.mark.parametrize("in_scan", [False, True], ids=["unrolled", "in a scan"])
def test_remat_computes_again(in_scan):
  """One tanh and one product more for each block, and the second forward pass isn't merged away."""
  block = fb.serial(fb.dense(16, 16), fb.tanh, fb.dense(16, 16), fb.tanh)

  def operations(block):
    net = fb.repeat(block, 8) if in_scan else chain_of_copies(block, 2)
    text = compiled(net, 4, 16).as_text()
    return count(text, "tanh"), count(text, "dot")

  blocks = 1 if in_scan else 2
  assert operations(block) == (2 * blocks, 6 * blocks)
  assert operations(fb.remat(block)) == (4 * blocks, 8 * blocks)


def test_remat_keeps_its_input_alone():
  block = fb.serial(fb.dense(6, 50), fb.gelu, fb.dense(50, 6))
  x = jax.ShapeDtypeStruct((7, 6), jnp.float32)
  assert fb.residual_bytes(block, x) == 2 * 7 * 50 * 4
  assert fb.residual_bytes(fb.remat(block), x) == 0  # Its input is x, the data.
  assert fb.residual_bytes(chain_of_copies(fb.remat(block), 2), x) == 7 * 6 * 4


@pytest.mark.slow
@pytest.mark.parametrize("combine", [fb.repeat, chain_of_copies], ids=["repeat", "unrolled"])
def test_remat_saves_memory(combine):
  """Also unrolled, where `jax.checkpoint` saves nothing on a CPU."""

  def temp(block):
    return compiled(combine(block, 16), 256, 16).memory_analysis().temp_size_in_bytes

  block = fb.serial(fb.dense(16, 128), fb.gelu, fb.dense(128, 16))
  assert temp(fb.remat(block)) < temp(block) / 4  # 16 numbers are kept where 272 were.


# --- residual_bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat_hidden", [False, True], ids=["unrolled", "repeat"])
@pytest.mark.parametrize("activation", OUTPUT_KEEPERS + INPUT_KEEPERS)
@pytest.mark.parametrize("normalization", [None, fb.layer_norm, fb.rms_norm])
def test_residuals_are_as_few_as_the_mathematics_allows(activation, normalization, repeat_hidden):
  """1 or 2 activations a layer, and 1 more for a normalisation, with one number an example."""
  net = fb.mlp(
    [6, 5, 5, 5, 3],
    getattr(fb, activation),
    normalization=normalization,
    repeat_hidden=repeat_hidden,
  )
  x = jax.ShapeDtypeStruct((7, 6), jnp.float32)
  arrays = 2 if activation in INPUT_KEEPERS else 1
  of_norms = 0 if normalization is None else 5 + 1
  assert fb.residual_bytes(net, x) == 3 * 7 * (5 * arrays + of_norms) * 4


def test_residuals_of_dropout_are_its_mask():
  net = fb.mlp([6, 5, 3], dropout=0.5)
  x = jax.ShapeDtypeStruct((7, 6), jnp.float32)
  assert fb.residual_bytes(net, x) == 7 * 5 * 4
  # relu's output, dropout's output (the input of dense), and a byte for each entry of the mask.
  assert fb.residual_bytes(net, x, KEY) == 7 * 5 * (4 + 4 + 1)


# --- mlp ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_repeat_hidden_is_the_same_function():
  sizes, options = [3, 4, 4, 4, 5, 5, 2], {"normalization": fb.layer_norm}
  looped = fb.mlp(sizes, repeat_hidden=True, **options)
  unrolled = fb.mlp(sizes, **options)
  params = looped.init(KEY)
  plain = []
  for part, own in zip(looped.parts, params, strict=True):
    if part.name == "repeat":
      n = dict(part.options)["n"]
      plain += [one for i in range(n) for one in jax.tree.map(lambda leaf, i=i: leaf[i], own)]
    else:
      plain.append(own)
  x = jax.random.normal(KEY, (6, 3))
  y = looped.forward(params, x)[0]
  np.testing.assert_allclose(y, unrolled.forward(tuple(plain), x)[0], rtol=1e-5, atol=1e-6)


def test_blocks_of_an_mlp():
  """dense, normalization, activation, dropout; skip and repeat only between equal hidden widths."""
  net = fb.mlp([4, 8, 8, 3], fb.tanh, normalization=fb.rms_norm, dropout=0.1, skip=True)
  names = [part.name for part in net.parts]
  assert names == ["dense", "rms_norm", "tanh", "dropout", "skip", "dense"]
  inner = [part.name for part in net.parts[4].parts[0].parts]
  assert inner == ["dense", "rms_norm", "tanh", "dropout"]
  # Input and output have the width of the hidden layer, and are no hidden layers.
  assert [part.name for part in fb.mlp([8, 8, 8], skip=True).parts] == ["dense", "relu", "dense"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("activation", "variance"), [("relu", 2.0), ("silu", 2.0), ("selu", 1.0), ("tanh", 1.0)]
)
def test_initial_weights_go_by_the_activation(activation, variance):
  """He: 2 / D_in; LeCun: 1 / D_in; Glorot: 2 / (D_in + D_out), which is 1 / D_in here."""
  params = fb.mlp([400, 400, 1], getattr(fb, activation)).init(KEY)
  # 160,000 draws: the relative deviation of a variance is about 0.4 %.
  assert abs(float(params[0].w.var()) * 400 / variance - 1) < 0.02


def test_layers_can_be_exchanged_and_named():
  net = fb.mlp([3, 4, 4, 4, 2], fb.gelu, skip=True, repeat_hidden=True, dropout=0.5)
  same = map_layers(lambda layer: layer, net)
  own, others = (jax.eval_shape(layer.init, KEY) for layer in (net, same))
  assert jax.tree.structure(own) == jax.tree.structure(others)
  assert same.name == "mlp"
  assert is_chain(same)
  assert same.draws
  names = ["0.dense", "1.gelu", "2.dropout", "3.0.dense", "3.1.gelu", "3.2.dropout", "4.dense"]
  assert name_layers(net) == names
  assert name_layers(fb.relu) == ["relu"]


def both(*layers):
  """A user's combinator of several parts: each gets the same input, and the outputs are added."""

  def init(key):
    return tuple(layer.init(key) for layer in layers)

  def forward(params, x, key=None):
    ys, residuals = zip(
      *(layer.forward(own, x) for layer, own in zip(layers, params, strict=True)), strict=True
    )
    return sum(ys), residuals

  def backward(params, residuals, y_bar):
    pairs = zip(layers, params, residuals, strict=True)
    params_bar, x_bars = zip(*(a.backward(p, r, y_bar) for a, p, r in pairs), strict=True)
    return params_bar, sum(x_bars)

  return fb.Layer("both", init, forward, backward, layers, (("combinator", both),))


@pytest.mark.slow
def test_a_combinator_of_several_parts_can_be_looked_into():
  net = fb.serial(both(fb.dense(3, 4), fb.serial(fb.dense(3, 4), fb.tanh)), fb.dense(4, 2))
  seen = fb.inspect(net, fb.squared_error)(net.init(KEY), jnp.ones((5, 3)), jnp.ones((5, 2)))
  assert list(seen) == ["0.0.dense", "0.1.0.dense", "0.1.1.tanh", "1.dense"]
  assert seen["0.1.1.tanh"].y.shape == (5, 4)


# --- inspect --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inspect_shows_what_passes_through_each_layer():
  net = fb.mlp([3, 4, 4, 4, 2], fb.tanh, repeat_hidden=True)
  params = net.init(KEY)
  x, targets = random_like(np.random.default_rng(0), (jnp.ones((5, 3)), jnp.ones((5, 2))))
  look = jax.jit(fb.inspect(net, fb.squared_error))
  seen = look(params, x, targets)
  assert list(seen) == ["0.dense", "1.0.tanh", "1.1.dense", "2.tanh", "3.dense"]
  assert seen["1.0.tanh"].x.shape == (2, 5, 4)
  np.testing.assert_array_equal(seen["0.dense"].x, x)
  np.testing.assert_array_equal(seen["0.dense"].y, seen["1.0.tanh"].x[0])
  np.testing.assert_array_equal(seen["2.tanh"].y, seen["3.dense"].x)
  np.testing.assert_allclose(seen["3.dense"].y_bar, (seen["3.dense"].y - targets) / 5, rtol=1e-6)

  def mean(bias):
    """The loss as a function of what is added to the output of the first dense layer."""
    spread = seen["0.dense"].y + bias
    y = fb.serial(*net.parts[1:]).forward(params[1:], spread)[0]
    return fb.squared_error.forward(y, targets)[0].mean()

  want = jax.jit(jax.grad(mean))(jnp.zeros((5, 4)))
  np.testing.assert_allclose(seen["0.dense"].y_bar, want, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_inspect_of_a_single_layer_and_of_remat():
  x, targets = jnp.ones((2, 3)), jnp.zeros((2, 4))
  net = fb.remat(fb.dense(3, 4))
  seen = fb.inspect(net, fb.squared_error)(net.init(KEY), x, targets, weights=jnp.array([1.0, 3.0]))
  assert list(seen) == ["dense"]
  y = net.forward(net.init(KEY), x)[0]
  np.testing.assert_array_equal(seen["dense"].y, y)
  np.testing.assert_allclose(seen["dense"].y_bar, y * jnp.array([[0.25], [0.75]]), rtol=1e-6)


@pytest.mark.slow
def test_inspect_shows_the_masks_of_a_training_step():
  net = fb.mlp([3, 50, 2], dropout=0.5)
  x, targets = jnp.ones((5, 3)), jnp.ones((5, 2))
  look = jax.jit(fb.inspect(net, fb.squared_error))
  seen = look(net.init(KEY), x, targets, key=KEY)
  dropped = seen["2.dropout"]
  _, mask = fb.dropout(0.5).forward((), dropped.x, jax.random.fold_in(KEY, 0))
  np.testing.assert_array_equal(dropped.y, jnp.where(mask, 2 * dropped.x, 0))
  np.testing.assert_array_equal(seen["1.relu"].y_bar, jnp.where(mask, 2 * dropped.y_bar, 0))


# --- A warning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [fb.serial, fb.remat])
def test_a_softmax_too_many_is_warned_of(around):
  net = fb.mlp([3, 4], output_activation=fb.softmax)
  with pytest.warns(UserWarning, match="leave the softmax out"):
    fb.value_and_grad(around(net), fb.softmax_cross_entropy)
  fb.value_and_grad(net, fb.squared_error)  # And this is fine.


def test_the_warning_points_to_the_user_s_line():
  net = fb.mlp([3, 4], output_activation=fb.softmax)
  optimizer = fb.train.gradient_descent(0.1)
  with pytest.warns(UserWarning, match="leave the softmax out") as warned:
    fb.train.make_step(net, fb.softmax_cross_entropy, optimizer)
  assert {warning.filename for warning in warned} == {__file__}


@pytest.mark.parametrize("layer", [fb.dense(3, 3), fb.serial(fb.relu, fb.dense(3, 3))])
def test_the_same_layer_twice_is_warned_of(layer):
  with pytest.warns(UserWarning, match="arguments 0 and 2 are the same layer.*fb.shared") as warned:
    fb.serial(layer, fb.relu, layer)
  assert warned[0].filename == __file__


def test_layers_without_parameters_may_be_given_twice():
  fb.serial(fb.relu, fb.dense(3, 3), fb.relu, fb.dense(3, 3))
  fb.mlp([3, 4, 4, 4, 2], skip=True, dropout=0.1, normalization=fb.layer_norm)


# --- `repeat` outside of jit ----------------------------------------------------------------------


@pytest.mark.slow
def test_repeat_is_traced_once_outside_of_jit():
  """Eagerly, a loop whose body is a new function each time would be compiled each time."""
  traces = []

  def forward(params, x, key=None):
    traces.append("forward")
    return jnp.sin(x), (x,)

  def backward(params, residuals, y_bar):
    traces.append("backward")
    return params, jnp.cos(residuals[0]) * y_bar

  own = fb.repeat(fb.Layer("own", lambda key: (), forward, backward), 3)
  x = jnp.linspace(-1, 1, 4)
  for _ in range(3):
    y, residuals = own.forward((), x)
    _, x_bar = own.backward((), residuals, jnp.ones_like(y))
  assert sorted(traces) == ["backward", "forward"]
  want = jax.grad(lambda x: jnp.sin(jnp.sin(jnp.sin(x))).sum())(x)
  np.testing.assert_allclose(x_bar, want, rtol=1e-6)


def test_repeat_follows_x64_on_and_off():
  """What its residuals are may depend on it."""

  def forward(params, x, key=None):
    return jnp.sin(x), (x, x.astype(jnp.result_type(float)), jnp.cos(x))

  def backward(params, residuals, y_bar):
    return params, residuals[2] * y_bar

  own = fb.repeat(fb.Layer("own", lambda key: (), forward, backward), 2)
  x = jnp.ones((3,), jnp.float32)
  for on in (False, True, False, True):
    with jax.enable_x64(on):
      y, residuals = own.forward((), x)
      assert own.backward((), residuals, y)[1].shape == (3,)
