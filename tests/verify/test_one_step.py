"""One edit of a rule's own program that makes its numbers right: which are found, and which not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.bank.specimen import normal
from fbackprop.verify.explain import causes, one_step
from fbackprop.verify.explain.causes import UNKNOWN
from fbackprop.verify.explain.edits import other_parameters
from fbackprop.verify.explain.spots import Spot, fitting
from fbackprop.verify.explain.steps import Steps


def gelu(x):
  return x * jax.scipy.stats.norm.cdf(x)


def gelu_backward(x, y_bar, density):
  return (y_bar * (jax.scipy.stats.norm.cdf(x) + x * density),)


def centred(x):
  return jnp.tanh(x - jnp.mean(x, 1, keepdims=True))


def centred_backward(x, y_bar, total):
  bar = y_bar * (1 - centred(x) ** 2)
  return (bar - total(bar) / x.shape[1],)


def decay(x, w):
  def body(carry, row):
    carry = jnp.tanh(carry * w + row)
    return carry, carry

  return jax.lax.scan(body, jnp.zeros_like(w), x)[1]


def decay_backward(x, w, y_bar, slope):
  states = decay(x, w)
  before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])

  def body(carry, row):
    (h_bar, w_bar), (y_row, h, h_before) = carry, row
    z_bar = (h_bar + y_row) * slope(h)
    return (z_bar * w, w_bar + z_bar * h_before), z_bar

  start = (jnp.zeros_like(w), jnp.zeros_like(w))
  (_, w_bar), x_bar = jax.lax.scan(body, start, (y_bar, states, before), reverse=True)
  return x_bar, w_bar


def halves(x, i):
  return jnp.where(i > 1, x * x, 3 * x)


# A function, its wrong rule, its arguments, and the cause.
WRONG = {
  "a factor is missing": (
    gelu, lambda x, y_bar: gelu_backward(x, y_bar, jnp.exp(-0.5 * x) / jnp.sqrt(2 * jnp.pi)),
    (normal(5, 3, seed=0),), "`mul` [5, 3] at test_one_step.py:N lacks the factor x",
  ),
  "a constant is another": (
    gelu, lambda x, y_bar: gelu_backward(x, y_bar, jnp.exp(-0.37 * x * x) / jnp.sqrt(2 * jnp.pi)),
    (normal(5, 3, seed=0),), "is -0.37, where -0.5 is right",
  ),
  "a step is one too many": (
    gelu,
    lambda x, y_bar: gelu_backward(x, y_bar, jnp.exp(-0.5 * x**2 * x) / jnp.sqrt(2 * jnp.pi)),
    (normal(5, 3, seed=0),), "`mul` [5, 3] at test_one_step.py:N is one step too many",
  ),
  "a sign": (
    gelu, lambda x, y_bar: gelu_backward(x, y_bar, jnp.exp(0.5 * x * x) / jnp.sqrt(2 * jnp.pi)),
    (normal(5, 3, seed=0),), "path: `mul` [5, 3] at test_one_step.py:N has the wrong sign",
  ),
  "a reduction": (
    centred, lambda x, y_bar: centred_backward(x, y_bar, lambda bar: bar.max(1, keepdims=True)),
    (normal(4, 3, seed=0),), "`reduce_max` [4] at test_one_step.py:N instead of reduce_sum",
  ),
  "all turns of a scan": (
    decay, lambda x, w, y_bar: decay_backward(x, w, y_bar, lambda h: 1 - h * h * h),
    (normal(5, 3, seed=0), normal(3, seed=1)),
    "`mul` [3] at test_one_step.py:N is one step too many",
  ),
  "a constant in a scan": (
    decay, lambda x, w, y_bar: decay_backward(x, w, y_bar, lambda h: 1.1 - h * h),
    (normal(5, 3, seed=0), normal(3, seed=1)), "is 1.1, where 1 is right",
  ),
  "a condition": (
    halves, lambda x, i, y_bar: (y_bar * jnp.where(i >= 1, 2 * x, 3), None),
    (normal(6, seed=0), lambda: jnp.array([0, 1, 2, 1, 0, 3])),
    "operand 0 of `select_n` [6] at test_one_step.py:N, where `gt` [6]",
  ),
}  # fmt: skip


def with_pullback(f, backward):
  """The rule beside its function, whose lines a trace notes."""
  return lambda *args: (f(*args), lambda y_bar: backward(*args, y_bar))


def cause_of(f, backward, made):
  args = tuple(make() for make in made)
  report = vjp(f, *args, f_vjp=with_pullback(f, backward), level="quick")
  assert report.verdict == "fail"
  return report.findings[0].cause


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_the_edit_is_named(name):
  f, backward, made, text = WRONG[name]
  cause = cause_of(f, backward, made)
  start, _, end = text.partition("N")
  assert start in cause, cause
  assert end in cause, cause
  assert cause.endswith(one_step.ONE_EDIT)


def test_the_line_is_that_of_the_equation():
  cause = cause_of(*WRONG["a reduction"][:3])
  (line,) = re.findall(r"test_one_step.py:(\d+)", cause)
  assert "bar.max(1" in Path(__file__).read_text(encoding="utf-8").splitlines()[int(line) - 1]


@pytest.mark.slow
@pytest.mark.parametrize(
  "backward",
  [
    # Two edits.
    lambda x, y_bar: (y_bar * (jax.nn.sigmoid(x) + jnp.exp(-0.4 * x * x) / jnp.sqrt(3 * jnp.pi)),),
    # One, of what depends on no equation of the rule.
    lambda x, y_bar: (y_bar * jnp.arctan(1 + jnp.sin(3 * x)),),
    # A number of each point.
    lambda x, y_bar: (y_bar * jax.grad(lambda x: gelu(x).sum())(x) * (1 + jnp.sum(x) ** 2),),
  ],
)
def test_what_is_no_single_edit_has_no_name(backward):
  cause = cause_of(gelu, backward, (normal(5, 3, seed=0),))
  assert cause == UNKNOWN or "is one step too many, after its operand" in cause


def test_right_leaves_stay_right():
  # With z of the other sign x_bar would be right, and w_bar wrong.
  def backward(x, w, y_bar):
    z_bar = y_bar * (1 - jnp.tanh(x * w) ** 2)
    return -(z_bar * w) * jnp.where(x > 9, 2.0, 1.0), z_bar * x

  cause = cause_of(lambda x, w: jnp.tanh(x * w), backward, (normal(5, seed=0), normal(5, seed=1)))
  assert cause.startswith("constant factor: -1")


def test_a_user_s_own_code_is_not_run_for_each_edit():
  calls = []

  def doubled(x):
    calls.append(1)
    return np.asarray(2 * x, x.dtype)

  def backward(x, y_bar):
    twice = jax.pure_callback(doubled, jax.ShapeDtypeStruct(x.shape, x.dtype), x * jnp.exp(x),
                              vmap_method="sequential")  # fmt: skip
    return (y_bar * twice,)

  assert cause_of(jnp.sin, backward, (normal(5, seed=0),)) == UNKNOWN
  assert len(calls) < 60


@pytest.mark.slow
def test_no_time_gives_no_cause(monkeypatch):
  monkeypatch.setattr(causes, "EDITS_S", 0.0)
  f, backward, made, _ = WRONG["a sign"]
  assert cause_of(f, backward, made) == UNKNOWN


@pytest.mark.parametrize(
  ("shape", "wanted", "is_fitting"),
  [
    ((3,), (4, 3), True), ((4,), (4, 3), True), ((), (4, 3), True), ((4, 1), (4, 3), True),
    ((3, 4), (4, 3), True), ((4, 3), (4,), False), ((2, 3), (4, 3), False), ((1, 5), (5,), True),
  ],
)  # fmt: skip
def test_values_that_fit_get_the_shape(shape, wanted, is_fitting):
  fit = fitting(shape, wanted)
  assert (fit is not None) == is_fitting
  if fit is not None:
    assert np.shape(fit(np.ones(shape))) == wanted


def spot_of(function, *args):
  """The last equation of a function as a spot."""
  steps = Steps(jax.make_jaxpr(function)(*args), args)
  steps.values = [np.asarray(x) for x in steps.values]
  return Spot(steps, [len(steps.steps) - 1], "it", [])


X = np.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize(
  ("function", "meant"),
  [
    (lambda x: x.sum(0), lambda x: x.sum(1)),
    (lambda x: jax.lax.cumsum(x, 0), lambda x: jax.lax.cumsum(x, 0, reverse=True)),
    (lambda x: jax.lax.cumsum(x, 0), lambda x: jax.lax.cumsum(x, 1)),
    (lambda x: jax.lax.slice(x, (0, 0), (2, 3)), lambda x: x[1:]),
    (lambda x: jax.lax.dot(x, x), lambda x: x @ x.T),
    (lambda x: x.T, lambda x: x),
    (lambda x: jax.lax.argmax(x, 0, np.int64), lambda x: jax.lax.argmax(x, 1, np.int64)),
  ],
)
def test_an_equation_along_other_axes(function, meant):
  with jax.enable_x64(True):
    spot, wanted = spot_of(function, X), np.asarray(meant(X))
    edits = list(other_parameters(spot))
    found = [edit.outputs(lambda i: spot.steps.values[i], 0)[0] for edit in edits]
  assert edits
  assert any(np.array_equal(value, wanted) for value in found)
