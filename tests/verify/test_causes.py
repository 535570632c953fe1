"""Wrong rules, each with the cause that must be named; and numbers that have none."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fbackprop.verify.bank.specimen import KINDS
from fbackprop.verify.explain.causes import find_cause

RNG = np.random.default_rng(0)
X, W1, B1, W2, B2 = (RNG.normal(size=s) for s in [(7, 5), (5, 6), (6,), (6, 6), (6,)])
SQUARE = RNG.normal(size=(6, 6))
T = RNG.normal(size=(7, 6))
Y_BAR = RNG.normal(size=(7, 6))
NAMES = ("x", "w1", "b1", "w2", "b2")
ARGS = (X, W1, B1, W2, B2)


class Slips(NamedTuple):
  """What a hand-written backward pass of two layers does; the right one by default."""

  bias: float = 1.0
  slope_at: str = "z"
  batch: slice = slice(None)
  decay: float = 0.0
  transpose: bool = False
  back: float = 1.0
  residual: str = "h"
  narrow: type | None = None
  y_bar: str = ""
  flip: bool = False
  stop: str = ""


def two_layers(x, w1, b1, w2, b2):
  return jnp.tanh(x @ w1 + b1[None]) @ w2 + b2[None]


def pulled_back(y_bar, slips):
  """The backward pass of `two_layers`, with slips."""
  y_bar = {"": y_bar, "ones": np.ones_like(y_bar), "sign": np.sign(y_bar),
           "square": y_bar**2}[slips.y_bar]  # fmt: skip
  z = X @ W1 + B1
  h = np.tanh(z)
  values = {"z": z, "h": h, "x@w1": X @ W1, "t": h @ W2 + B2, "y_bar": y_bar}
  rows = slips.batch
  kept = values[slips.residual][::-1] if slips.flip else values[slips.residual]
  w2_bar = kept[rows].T @ y_bar[rows] + slips.decay * W2
  if slips.stop == "w2":
    w2_bar = 0 * w2_bar
  h_bar = slips.back * y_bar @ (W2 if slips.transpose else W2.T)
  if slips.narrow is not None:
    h_bar = h_bar.astype(slips.narrow).astype(float)
  slope = {"z": 1 - h**2, "h": 1 - np.tanh(h) ** 2, "none": 1.0, "1-h": 1 - h, "1-z2": 1 - z * z,
           "x@w1": 1 - np.tanh(X @ W1) ** 2}[slips.slope_at]  # fmt: skip
  z_bar = h_bar * slope
  return [z_bar @ W1.T, X.T @ z_bar, slips.bias * z_bar.sum(0), w2_bar, y_bar.sum(0)]


def truth(f, args, y_bar):
  with jax.enable_x64(True):
    y, pull = jax.vjp(f, *jax.tree.map(jnp.asarray, args))
    y_bar = jax.tree.map(lambda b, o: jnp.asarray(b, o.dtype), y_bar, y)
    bars = jax.tree.leaves(pull(y_bar))
    return [np.asarray(b) for b in bars if b.dtype == np.float64]


def ask(f, args, y_bar, got, leaf=None):
  """The cause of the first leaf from the end that is wrong, as a backward pass meets them."""
  want = truth(f, args, y_bar)
  got = [np.asarray(g, float) for g in got]
  bounds = [1e-14 * np.max(np.abs(w), initial=1.0) * np.ones(w.shape) for w in want]
  trios = zip(got, want, bounds, strict=True)
  wrong = [i for i, (g, w, b) in enumerate(trios) if (np.abs(g - w) > b).any()]
  leaf = wrong[-1] if leaf is None else leaf
  return find_cause(f, args, y_bar, got, want, bounds, leaf, budget_s=20.0)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("slips", "start"),
  [
    (Slips(bias=1 / 7), "constant factor: 1/N, N = 7"),
    (Slips(bias=-1.0), "constant factor: -1"),
    (Slips(bias=2.0), "constant factor: 2"),
    (Slips(bias=7 / 6), "constant factor: N/(N-1), N = 7"),
    (Slips(bias=1 + 1e-6), "constant factor: 1 + 1.0e-06"),
    (Slips(bias=0.0), "zero"),
    (Slips(bias=0.731), "constant factor: 0.731"),
    (Slips(back=0.5), "constant factor: 1/2"),
    (Slips(decay=0.01), "proportional to a parameter: 0.01 times the leaf itself"),
    (Slips(batch=slice(0, -1)), "subset of examples: the last of 7"),
    (Slips(batch=slice(0, 4)), "subset of examples: the last 3 of 7"),
    (Slips(batch=slice(1, None)), "subset of examples: the first of 7"),
    (Slips(batch=slice(0, None, 2)), "subset of examples"),
    (Slips(stop="w2"), "zero"),
    (Slips(slope_at="h"), "wrong point: the derivative of tanh at its output"),
    (Slips(slope_at="x@w1"), "wrong point: the derivative of tanh at dot_general"),
    (Slips(slope_at="none"), "other function: the derivative of the identity"),
    (Slips(slope_at="1-h"), "other function: 1 - y in place of the derivative of tanh"),
    (Slips(slope_at="1-z2"), "wrong point"),
    (Slips(residual="z"), "wrong point: add [7, 6] replaces dot_general's operand 0"),
    (Slips(residual="x@w1"), "wrong point: dot_general [7, 6] replaces"),
    (Slips(flip=True), "permuted: flipped along axis 0"),
    (Slips(transpose=True), "transposed"),
    (Slips(narrow=ml_dtypes.bfloat16), "precision"),
    (Slips(narrow=np.float16), "precision"),
    (Slips(narrow=np.float32), "precision"),
    (Slips(y_bar="ones"), "cotangent: ignored"),
    (Slips(y_bar="sign"), "cotangent: its sign alone"),
    (Slips(y_bar="square"), "cotangent: squared"),
  ],
  ids=str,
)
def test_a_slip_in_two_layers(slips, start):
  cause = ask(two_layers, ARGS, Y_BAR, pulled_back(Y_BAR, slips))
  assert cause.startswith(start)


def test_the_right_rule_is_right():
  for got, want in zip(pulled_back(Y_BAR, Slips()), truth(two_layers, ARGS, Y_BAR), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


def changed(leaf, change):
  """The right cotangents of `two_layers`, one changed."""
  got = truth(two_layers, ARGS, Y_BAR)
  got[leaf] = change(got[leaf])
  return got


def half_bfloat16(g):
  return g * (1 + 2.0**-9 * np.random.default_rng(3).uniform(-1, 1, g.shape))


@pytest.mark.parametrize(
  ("change", "start"),
  [
    (lambda g: g.T, "transposed: axes 0 and 1"),
    (lambda g: g[::-1], "permuted: flipped along axis 0"),
    (lambda g: np.roll(g, 1, 1), "permuted: rolled by 1 along axis 1"),
    (lambda g: g[[3, 0, 5, 1, 2, 4]], "permuted: along axis 0"),
    (lambda g: np.clip(g, -0.5, 0.5), "clipped: to [-0.5, 0.5]"),
    (lambda g: 5 * g / np.linalg.norm(g), "clipped: to norm 5"),
    (np.abs, "cotangent: the absolute value"),
    (
      lambda g: g.astype(ml_dtypes.bfloat16).astype(float),
      "precision: the result is rounded to bfloat16",
    ),
    (lambda g: g * (np.arange(g.shape[1]) < g.shape[1] - 1), "subset of examples|zero"),
    (half_bfloat16, "precision: errors of the size of"),
  ],
)
def test_a_slip_in_one_leaf(change, start):
  cause = ask(two_layers, ARGS, Y_BAR, changed(3, change))
  assert cause.startswith(tuple(start.split("|")))


def test_rows_of_x_that_are_zero():
  cause = ask(two_layers, ARGS, Y_BAR, changed(0, lambda g: g * (np.arange(7) < 5)[:, None]))
  assert cause.startswith("subset of examples: the last 2 of 7")


# --- Paths and functions --------------------------------------------------------------------------


def layer_norm(x, scale):
  mean = x.mean(1, keepdims=True)
  variance = ((x - mean) ** 2).mean(1, keepdims=True)
  return (x - mean) / jnp.sqrt(variance + 1e-5) * scale[None]


def layer_norm_x_bar(x, scale, y_bar, mean=1.0, variance=1.0):
  d = x - x.mean(1, keepdims=True)
  r = 1 / np.sqrt((d * d).mean(1, keepdims=True) + 1e-5)
  x_hat, bar = d * r, y_bar * scale
  return r * (
    bar
    - mean * bar.mean(1, keepdims=True)
    - variance * x_hat * (bar * x_hat).mean(1, keepdims=True)
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mean", "variance", "word"),
  [(0, 1, "missing"), (1, 0, "missing"), (0, 0, "missing"), (1, 2, "twice"), (1, -1, "sign"),
   (1, 6 / 5, "or N/(N-1)|or D")],
)  # fmt: skip
def test_the_correction_terms_of_layer_norm(mean, variance, word):
  x, scale = T, RNG.normal(size=6)
  got = truth(layer_norm, (x, scale), Y_BAR)
  got[0] = layer_norm_x_bar(x, scale, Y_BAR, mean, variance)
  cause = ask(layer_norm, (x, scale), Y_BAR, got)
  assert cause.startswith("path: ")
  assert any(w in cause for w in word.split("|"))


def tied(x, w):
  return jnp.tanh(x @ w) @ w.T


def test_a_tied_weight_that_is_used_once():
  got = truth(tied, (X, W1), np.ones((7, 5)))
  h = np.tanh(X @ W1)
  y_bar = np.ones((7, 5))
  got[1] = X.T @ ((1 - h * h) * (y_bar @ W1))
  assert ask(tied, (X, W1), y_bar, got).startswith("path: ")


def test_a_skip_connection_that_is_forgotten():
  def block(x, w):
    return x + jnp.tanh(x @ w)

  got = truth(block, (T, SQUARE), Y_BAR)
  got[0] = got[0] - Y_BAR
  assert ask(block, (T, SQUARE), Y_BAR, got).startswith("path: ")


def test_a_stop_gradient_that_is_removed():
  def regularized(x, w):
    h = x @ w
    return h * jax.lax.stop_gradient(jnp.exp(-h))

  def open_one(x, w):
    h = x @ w
    return h * jnp.exp(-h)

  got = truth(open_one, (X, W1), Y_BAR)
  assert ask(regularized, (X, W1), Y_BAR, got).startswith("stop_gradient: ")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("right", "wrong", "start"),
  [
    (lambda z: jax.nn.gelu(z, approximate=False), lambda z: jax.nn.gelu(z, approximate=True),
     "other function: the derivative of gelu's tanh form"),
    (lambda z: jax.nn.gelu(z, approximate=True), lambda z: jax.nn.gelu(z, approximate=False),
     "other function: the derivative of gelu in place"),
    (jax.nn.softplus, jax.nn.relu, "other function: the derivative of relu"),
    (jax.nn.relu, lambda z: jax.nn.leaky_relu(z, 0.01), "other function: the derivative of leaky"),
    (jax.nn.silu, jax.nn.sigmoid, "other function"),
  ],
)  # fmt: skip
def test_the_derivative_of_another_function(right, wrong, start):
  def of(activation):
    def layer(x, w):
      return activation(x @ w)

    return layer

  cause = ask(of(right), (X, W1), Y_BAR, truth(of(wrong), (X, W1), Y_BAR))
  assert cause.startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.gelu, jax.nn.sigmoid, jax.nn.softplus])
def test_an_activation_of_several_steps_at_its_output(activation):
  def layer(x, w):
    return activation(x @ w)

  with jax.enable_x64(True):
    h = layer(jnp.asarray(X), jnp.asarray(W1))
    z_bar = Y_BAR * np.asarray(jax.vmap(jax.vmap(jax.grad(activation)))(h))
  cause = ask(layer, (X, W1), Y_BAR, [z_bar @ W1.T, X.T @ z_bar])
  assert cause.startswith("wrong point: the derivative of")
  assert "at its output" in cause


@pytest.mark.slow
def test_a_loss_with_a_mean():
  labels = np.array([0, 2, 1, 5, 3, 4, 2])

  def loss(w, b, x, labels):
    logits = x @ w + b[None]
    rows = jnp.arange(7)
    return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[rows, labels])

  args = (W1, B1, X, labels)
  p = np.exp(X @ W1 + B1)
  p = p / p.sum(1, keepdims=True)
  bar = p - np.eye(6)[labels]
  summed = [X.T @ bar, bar.sum(0), bar @ W1.T]
  assert ask(loss, args, np.asarray(1.0), summed).startswith("constant factor: N, N = 7")
  bar = p / 7
  no_label = [X.T @ bar, bar.sum(0), bar @ W1.T]
  assert ask(loss, args, np.asarray(1.0), no_label).startswith("path: ")
  bar = (p - np.eye(6)[labels])[:5] / 7
  cut = [X[:5].T @ bar, bar.sum(0), np.r_[bar @ W1.T, np.zeros((2, 5))]]
  found = ask(loss, args, np.asarray(1.0), cut)
  assert found.startswith("subset of examples: the last 2 of 7")


def recurrent(w, xs):
  def body(h, x):
    h = jnp.tanh(h @ w + x)
    return h, h

  return jax.lax.scan(body, jnp.zeros(6, xs.dtype), xs)[1]


def recurrent_bars(order, is_carried=True, state=0):
  """The backward pass of `recurrent`, its turns in an order; h_t for h_{t-1} if state is 1."""
  y = [np.zeros(6)]
  for x in T:
    y.append(np.tanh(y[-1] @ SQUARE + x))
  h_bar, w_bar, xs_bar = np.zeros(6), np.zeros((6, 6)), np.zeros((7, 6))
  for t in order:
    z_bar = (h_bar + Y_BAR[t]) * (1 - y[t + 1] ** 2)
    w_bar += np.outer(y[t + state], z_bar)
    xs_bar[t] = z_bar
    h_bar = z_bar @ SQUARE.T if is_carried else h_bar
  return [w_bar, xs_bar]


BACKWARDS = tuple(reversed(range(7)))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("got", "start"),
  [
    (recurrent_bars(BACKWARDS, state=1), "wrong point: tanh [6] replaces dot_general's operand"),
    (recurrent_bars(BACKWARDS, is_carried=False), "path: "),
    (recurrent_bars(BACKWARDS[::-1]), "permuted: a scan is walked from the other end"),
  ],
  ids=["state after", "no carry", "walked forward"],
)
def test_a_slip_in_a_scan(got, start):
  assert ask(recurrent, (SQUARE, T), Y_BAR, got).startswith(start)


def test_values_that_were_computed_again_without_eps():
  scale = np.ones(6)
  got = truth(layer_norm, (T, scale), Y_BAR)
  d = T - T.mean(1, keepdims=True)
  r = 1 / np.sqrt((d * d).mean(1, keepdims=True))
  got[0] = r * (
    Y_BAR - Y_BAR.mean(1, keepdims=True) - d * r * (Y_BAR * d * r).mean(1, keepdims=True)
  )
  got[1] = (Y_BAR * d * r).sum(0)
  cause = ask(layer_norm, (T, scale), Y_BAR, got)
  assert cause.startswith(("wrong point: the values computed without", "other function: with the"))


def masked(x, mask):
  return jnp.where(mask[:, None], x**2, 0 * x)


@pytest.mark.slow
def test_a_mask_that_is_ignored():
  mask = np.arange(7) % 3 > 0
  cause = ask(masked, (T, mask), Y_BAR, [2 * T * Y_BAR])
  assert cause.startswith("subset of examples: the condition of select_n [7, 6] is ignored")


def squared(x):
  return x**2


def test_a_threshold_beyond_which_nothing_passes():
  cause = ask(squared, (T,), Y_BAR, [np.where(T > 1, 0, 2 * T * Y_BAR)])
  assert cause.startswith("other function: nothing passes through")
  assert "where argument leaf 0 is above" in cause


def test_a_slope_that_no_side_of_the_kink_has():
  x = np.where(np.arange(42).reshape(7, 6) % 5 == 0, 0.0, T)
  cause = ask(jnp.abs, (x,), Y_BAR, [np.where(x == 0, 3.0, np.sign(x)) * Y_BAR])
  assert cause.startswith("kink: ")


def one_entry(factor, g):
  g = g.copy()
  g[1, 2] *= factor
  return g


def test_one_entry_by_a_millionth():
  cause = ask(two_layers, ARGS, Y_BAR, changed(3, partial(one_entry, 1 + 1e-6)))
  assert cause.startswith("constant factor: 1 + 1.0e-06 in one entry, [1, 2]")


def test_a_cause_names_no_more_than_it_must():
  """With no time left, only what is seen in the leaf's numbers is named."""
  want = truth(two_layers, ARGS, Y_BAR)
  got = pulled_back(Y_BAR, Slips(slope_at="h"))
  bounds = [np.full(w.shape, 1e-13) for w in want]
  assert find_cause(two_layers, ARGS, Y_BAR, got, want, bounds, 2, budget_s=0.0) == (
    "no known pattern"
  )


# --- No cause -------------------------------------------------------------------------------------


def noisy(g):
  return g + 0.1 * np.random.default_rng(5).normal(size=g.shape)


@pytest.mark.parametrize(
  ("change", "leaf"),
  [(noisy, i) for i in (0, 1, 3, 4)] + [(partial(one_entry, 1.37), i) for i in (0, 1, 3)],
)
def test_what_has_no_pattern(change, leaf):
  assert ask(two_layers, ARGS, Y_BAR, changed(leaf, change)) == "no known pattern"


def test_numbers_that_are_not_finite():
  got = changed(3, lambda g: g * np.nan)
  assert ask(two_layers, ARGS, Y_BAR, got, leaf=3).startswith("not finite")


def test_every_kind_is_one_of_the_kinds():
  causes = [
    ask(two_layers, ARGS, Y_BAR, pulled_back(Y_BAR, slips))
    for slips in (Slips(bias=0.0), Slips(slope_at="h"), Slips(batch=slice(2, None)))
  ]
  assert {cause.partition(":")[0] for cause in causes} <= set(KINDS)
