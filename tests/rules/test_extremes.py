"""The losses at the ends of their range: right to some units in the last place (ULP), and finite.

The truth is NumPy's longdouble, of the float32 numbers that the losses were given. What the bounds
were measured against is the table of `scripts/accuracy.py`: with room for another machine's exp,
log1p and tanh they are some three times what is seen here.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from scripts import accuracy, longdouble
from tests.support.losses import assert_losses
from tests.support.public import layers_of_one_array


def over_ten(f):
  """f under jit and vmap, over ten parts of the examples."""

  def run(*arguments):
    parts = [a.reshape(10, -1, *a.shape[1:]) for a in arguments]
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), jax.jit(jax.vmap(f))(*parts))

  return run


def one_after_another(f):
  """f under scan, over ten parts of the examples."""

  def run(*arguments):
    parts = tuple(a.reshape(10, -1, *a.shape[1:]) for a in arguments)
    got = jax.lax.scan(lambda carry, part: (carry, f(*part)), 0, parts)[1]
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), got)

  return run


FORMS = {"eager": lambda f: f, "jit": jax.jit, "vmap": over_ten, "scan": one_after_another}


def worst(loss, truth, arguments, form=jax.jit):
  """The largest errors of the losses and of their gradient, in ULP of the arguments' dtype."""
  got = form(accuracy.our_value_and_slope(loss))(*map(jnp.asarray, arguments))
  wide = (a.astype(np.longdouble) if a.dtype.kind == "f" else a for a in arguments)
  pairs = zip(got, truth(*wide), strict=True)
  return [accuracy.ulps(g, terms).max() for g, terms in pairs]


# Value and slope; some three times what is seen. None for a slope that is written in the output,
# which has its digits absolutely. In the lower tail of gelu the rounding of z counts z² times.
GATE_BOUNDS = {
  "relu": (0.5, 0.5),
  "leaky_relu": (3, 1),
  "relu6": (0.5, 0.5),
  "hard_tanh": (0.5, 0.5),
  "identity": (0.5, 0.5),
  "sigmoid": (8, None),
  "tanh": (12, None),
  "softplus": (8, 16),
  "elu": (16, None),
  "selu": (16, None),
  "gelu": (300, 100),
  "gelu_tanh": (350, 400),
  "silu": (8, 10),
  "mish": (16, 16),
}
GATE_ROWS = {row.name.split()[0]: row for row in accuracy.gate_rows()}


@pytest.mark.parametrize("name", GATE_ROWS)
def test_gate_has_its_digits(name):
  row = GATE_ROWS[name]
  errors = worst(row.unit, row.truth, row.arguments)
  for error, bound in zip(errors, GATE_BOUNDS[name], strict=True):
    assert bound is None or error <= bound


# --- Units in the last place ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1, 10, 50, 1000])
@pytest.mark.parametrize(
  ("kind", "bound"), [("labels", 16), ("one-hot rows", 32), ("soft targets", 16)]
)
def test_softmax_cross_entropy_has_its_digits(kind, bound, scale, form):
  """However right or wrong the prediction; `lse − z_y` and `p − 1` lose all of them."""
  arguments = accuracy.classes(kind, scale, n=2000)
  errors = worst(fb.softmax_cross_entropy, longdouble.softmax_cross_entropy, arguments, FORMS[form])
  assert max(errors) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("c", [2, 1000])
def test_softmax_cross_entropy_has_its_digits_with_other_numbers_of_classes(c):
  arguments = accuracy.classes("labels", 10, n=400, c=c)
  errors = worst(fb.softmax_cross_entropy, longdouble.softmax_cross_entropy, arguments)
  assert max(errors) <= 16


def test_a_single_class_costs_nothing():
  assert_losses(fb.softmax_cross_entropy, [[1e4], [-3.0]], [0, 0], ([0, 0], [[0], [0]]))


@pytest.mark.slow
def test_ties_have_their_digits():
  """Two, three and all of the logits at the maximum, at the label or not."""
  logits = np.array([[3, 3, -60], [3, 3, 3], [-60, 3, 3], [-70, -70, 3]], np.float32)
  labels = np.array([0, 1, 0, 2], np.int32)
  errors = worst(fb.softmax_cross_entropy, longdouble.softmax_cross_entropy, (logits, labels))
  assert max(errors) <= 16


ROWS = {row.name.split()[0]: row for row in accuracy.loss_rows()[:6]}
BOUNDS = {"squared_error": 2, "huber": 2, "hinge": 2, "poisson_nll": 6,
          "sigmoid_cross_entropy": 16, "log_cosh": 27}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_a_loss_has_its_digits(name):
  """From 1e-12 to 1e4 on both sides of 0; logarithms and logits to ±80."""
  row = ROWS[name]
  assert max(worst(row.unit, row.truth, row.arguments)) <= BOUNDS[name]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_once(dtype):
  """The right result of the half-precision logits, rounded: float32 within, half outside."""
  logits, labels = accuracy.classes("labels", 10, n=2000)
  logits = jnp.asarray(logits, dtype)
  got = jax.jit(accuracy.our_value_and_slope(fb.softmax_cross_entropy))(logits, labels)
  want = accuracy.our_value_and_slope(fb.softmax_cross_entropy)(
    logits.astype(jnp.float32), jnp.asarray(labels)
  )
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, b.astype(dtype))


def test_the_measure_finds_a_loss_that_loses_its_digits():
  """The bounds above catch the formula that everybody writes."""

  def forward(outputs, labels):
    p = jax.nn.softmax(outputs, axis=1)
    rows = p - jax.nn.one_hot(labels, outputs.shape[1])
    own = jnp.take_along_axis(outputs, labels[:, None], 1)[:, 0]
    return jax.nn.logsumexp(outputs, axis=1) - own, rows

  naive = fb.Loss("naive", forward, fb.softmax_cross_entropy.backward)
  arguments = accuracy.classes("labels", 10, n=2000)
  assert min(worst(naive, longdouble.softmax_cross_entropy, arguments)) > 1e6


def test_the_table_names_every_activation_gate_and_every_loss():
  gates = {row.unit.name for row in accuracy.gate_rows()}
  assert gates == set(GATE_BOUNDS) == layers_of_one_array() - {"softmax"}  # It isn't elementwise.
  losses = {row.unit.name for row in accuracy.loss_rows()}
  assert losses == {
    loss.name for name in fb.__all__ if isinstance(loss := getattr(fb, name), fb.Loss)
  }


@pytest.mark.slow
def test_the_script_prints_a_row_for_each_and_writes_the_same(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(accuracy, "gate_rows", lambda: [])
  monkeypatch.setattr(accuracy, "loss_rows", lambda: list(ROWS.values())[:2])
  assert accuracy.main(["--json", str(tmp_path / "table.json")]) == 0
  head, *printed = capsys.readouterr().out.splitlines()
  assert "ours forward" in head
  assert [line.split()[0] for line in printed] == list(ROWS)[:2]
  written = json.loads((tmp_path / "table.json").read_text())
  assert [row["name"] for row in written["rows"]] == ["squared_error ±1e4", "huber ±1e4"]
  assert written["rows"][0]["ours backward"]["max"] == 0


# --- Infinite and huge ----------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [[0, 0], [[1, 0, 0], [1, 0, 0]]], ids=["labels", "rows"])
def test_the_label_of_an_impossible_class(targets):
  """The loss is infinite, and the gradient is that of the limit: p − t."""
  logits = [[-np.inf, 0, 0], [-np.inf, -np.inf, 0]]
  want = [np.inf, np.inf], [[-1, 0.5, 0.5], [-1, 0, 1]]
  assert_losses(fb.softmax_cross_entropy, logits, targets, want)


@pytest.mark.slow
def test_the_second_derivative_with_ties_and_impossible_classes():
  """diag(p) − p pᵀ, by autodiff of our gradient, and twice of our value."""
  z = jnp.array([[2.0, 2.0, -jnp.inf, 1.0]])
  p = jax.nn.softmax(z[0])
  label = jnp.array([0])

  def slope(z):
    return accuracy.our_value_and_slope(fb.softmax_cross_entropy)(z, label)[1]

  want = jnp.diag(p) - p[:, None] * p[None, :]

  def value(z):
    return fb.softmax_cross_entropy.forward(z, label)[0][0]

  for second in (jax.jacfwd(slope), jax.hessian(value)):
    np.testing.assert_allclose(jax.jit(second)(z)[0, :, 0], want, atol=1e-7)


def test_certain_answers_of_the_sigmoid():
  """Logits ±inf: nothing to pay where it is right, everything where it is wrong."""
  logits, targets = [[np.inf, -np.inf], [-np.inf, np.inf]], [[1, 0], [1, 0]]
  assert_losses(fb.sigmoid_cross_entropy, logits, targets, ([0, np.inf], [[0, 0], [-1, 1]]))


def test_a_rate_of_zero():
  want = [0, np.inf], [[0], [-2]]
  assert_losses(fb.poisson_nll, [[-np.inf], [-np.inf]], [[0], [2]], want)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_of_huge_errors(dtype):
  with jax.enable_x64(dtype == "float64"):
    outputs, zeros, slopes = [[1e4, -1e4, 0.0]], np.zeros((1, 3)), [[1, -1, 0]]
    for loss, value in ((fb.huber, 2e4 - 1), (fb.log_cosh, 2e4 - 2 * np.log(2))):
      assert_losses(loss, outputs, zeros, ([value], slopes), dtype, rtol=1e-6)
    assert_losses(fb.hinge, outputs, [1], ([2e4 + 1], slopes), dtype)
    impossible = [[-np.inf, 0.0, 1.0], [-np.inf, 0.0, 2.0]]
    assert_losses(fb.hinge, impossible, [2, 0], ([0, np.inf], [[0, 0, 0], [-1, 0, 1]]), dtype)
