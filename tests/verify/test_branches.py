"""The search reaches what the given arguments don't: clips, masks, branches, one label."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.checks.test_points import find_batch
from fbackprop.verify.witnesses.rule import as_numpy, rule_of, signature_of

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
LABELS = jnp.array([0, 2, 1, 0, 1])


def product(x, w):
  return x @ w


def product_vjp(limit, x, w):
  def pull(y_bar):
    return limit(y_bar @ w.T), limit(x.T @ y_bar)

  return x @ w, pull


def clipped(bar):
  return jnp.clip(bar, -1e3, 1e3)


def clipped_by_norm(bar):
  norm = jnp.sqrt((bar * bar).sum())
  return jnp.where(norm > 1e4, bar * (1e4 / norm), bar)


@pytest.mark.parametrize("limit", [clipped, clipped_by_norm])
def test_a_clip_that_the_arguments_do_not_reach(limit):
  report = vjp(product, X, W, f_vjp=functools.partial(product_vjp, limit))
  assert report.verdict == "fail", report.table()
  found = report.findings[0]
  assert found.check == "maths"
  assert found.regime != "as given"


@pytest.mark.slow
def test_a_threshold_that_only_zero_is_below():
  """At zero 0 is right: only a number that is small, and isn't zero, tells."""

  def square_vjp(x):
    return x * x, lambda y_bar: (jnp.where(jnp.abs(x) < 1e-5, 0 * x, 2 * x * y_bar),)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  report = vjp(lambda x: x * x, x, f_vjp=square_vjp)
  assert report.verdict == "fail"


@pytest.mark.slow
def test_a_number_that_is_asked_for_by_name():
  def sine_vjp(x):
    return jnp.sin(3 * x), lambda y_bar: (jnp.where(x == 0.75, 0 * x, 3 * jnp.cos(3 * x) * y_bar),)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  assert vjp(lambda x: jnp.sin(3 * x), x, f_vjp=sine_vjp).verdict == "fail"


@pytest.mark.slow
def test_without_a_clip_it_passes():
  report = vjp(product, X, W, f_vjp=functools.partial(product_vjp, lambda bar: bar))
  assert report.verdict == "pass", report.table()


def square(x):
  return x * x


def branch_on_the_sum(x, y_bar):
  return y_bar * jax.lax.cond(x.sum() > 50, lambda x: x, lambda x: 2 * x, x)


@pytest.mark.slow
@pytest.mark.parametrize(
  "backward",
  [
    lambda x, y_bar: jnp.where(x > 40, jnp.zeros_like(x), 2 * x * y_bar),
    branch_on_the_sum,
    lambda x, y_bar: jnp.where(jnp.abs(x) < 1e-3, jnp.zeros_like(x), 2 * x * y_bar),
  ],
  ids=["masked", "branch_on_the_sum", "dropped_where_small"],
)
def test_a_branch_that_the_arguments_do_not_take(backward):
  def rule(x):
    return square(x), lambda y_bar: (backward(x, y_bar),)

  report = vjp(square, X, f_vjp=rule)
  assert report.verdict == "fail", report.table()
  assert report.findings[0].regime != "as given"


@pytest.mark.slow
def test_a_label_that_is_ignored():
  def picked(x, labels):
    return jnp.take_along_axis(x, labels[:, None], 1)[:, 0]

  def rule(ignored, x, labels):
    def pull(y_bar):
      kept = jnp.where(labels == ignored, jnp.zeros_like(y_bar), y_bar)
      return jnp.zeros_like(x).at[jnp.arange(x.shape[0]), labels].set(kept), None

    return picked(x, labels), pull

  report = vjp(picked, X, LABELS, f_vjp=functools.partial(rule, 3))  # No example has it.
  assert report.verdict == "fail", report.table()


def test_both_sides_are_counted():
  def rule(x):
    return square(x), lambda y_bar: (jnp.where(x > 40, 2 * x, x + x) * y_bar,)

  report = vjp(square, X, f_vjp=rule)
  assert report.ok, report.table()
  (branches,) = (c for c in report.checks if c.check == "branches")
  assert branches.times == 2
  assert branches.detail == "of 2 sides of comparisons"


# --- The axis of examples -------------------------------------------------------------------------


def loss(params, x, labels):
  scores = jnp.tanh(x @ params["w"])
  return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1).mean()


@pytest.mark.parametrize(
  ("f", "args", "leaves"),
  [
    (product, (X, W), {0}),
    (product, (X[:4], W), {0}),  # Four examples, and four inputs of each.
    (jnp.multiply, (X, X), {0, 1}),
    (lambda x, shift: x + shift[None], (X, X[0]), {0}),
    (loss, ({"w": W}, X, LABELS), {1, 2}),
    (loss, ({"w": W}, X[:4], LABELS[:4]), {1, 2}),
    (lambda x: x + x.T, (X[:4],), None),
    (lambda x: 2 * x, (jnp.float32(1.0),), None),
    (square, (X,), {0}),
  ],
)
def test_the_axis_of_examples_is_found(f, args, leaves):
  signature, own = signature_of(f, args)
  rule = rule_of(f, None, signature, own)
  found = find_batch(rule, as_numpy(own))
  assert (None if found is None else set(found)) == leaves


def permuted_rule(x, places):
  def pull(y_bar):  # The inverse: right for a permutation alone.
    return y_bar[jnp.argsort(places)], None

  return x[places], pull


@pytest.mark.slow
def test_a_permutation_stays_one():
  """With other numbers of rows too."""
  places = jnp.asarray(RNG.permutation(5))
  right = vjp(lambda x, places: x[places], X, places, f_vjp=permuted_rule)
  assert right.verdict == "pass", right.table()
  assert {"N = 2", "N = 13"} <= set(right.regimes)

  def neighbour(x, places):
    y, pull = permuted_rule(x, places)
    return y, lambda y_bar: (jnp.roll(pull(y_bar)[0], len(places) == 3, axis=0), None)

  assert vjp(lambda x, places: x[places], X, places, f_vjp=neighbour).findings[0].regime == "N = 3"


def same_label(labels):
  return (labels[:, None] == labels[None]).astype(jnp.float32)[..., None]


def attraction(x, labels):
  return 0.5 * jnp.sum(same_label(labels) * (x[:, None] - x[None]) ** 2)


def cross_entropy_of_gather(z, labels):
  return -jax.nn.log_softmax(z)[jnp.arange(labels.size), labels].sum()


def cross_entropy_of_one_hot(z, labels):
  return -(jax.nn.log_softmax(z) * jax.nn.one_hot(labels, 5)).sum()


def without_repeats(f):
  """Its gradient, wrong where a label comes twice."""

  def f_vjp(*args):
    y, pull = jax.vjp(f, *args)
    factor = jnp.where(jnp.all(jnp.diff(jnp.sort(args[1])) > 0), 1.0, 2.0)
    return y, lambda y_bar: (factor * pull(y_bar)[0], None)

  return f_vjp


@pytest.mark.slow
@pytest.mark.parametrize("f", [attraction, cross_entropy_of_gather, cross_entropy_of_one_hot])
def test_labels_that_happen_to_be_a_permutation_repeat_among_more_examples(f):
  labels = jnp.array([3, 0, 4, 1, 2])
  args = jnp.asarray(RNG.normal(size=(5, 5)), jnp.float32), labels
  assert vjp(f, *args, f_vjp=lambda *args: jax.vjp(f, *args)).verdict == "pass"
  report = vjp(f, *args, f_vjp=without_repeats(f))
  assert report.findings[0].regime == "N = 13", report.table()


@pytest.mark.slow
def test_sorted_numbers_of_segments_stay_sorted():
  segments = jnp.array([0, 0, 1, 2, 2])

  def sums(x, segments):
    return jax.ops.segment_sum(x, segments, num_segments=3)

  def by_search(x, segments):
    """The rows of a segment lie together: its sum is a difference of two cumulated ones."""
    ends = jnp.searchsorted(segments, jnp.arange(3), side="right")
    cumulated = jnp.concatenate([jnp.zeros_like(x[:1]), jnp.cumsum(x, axis=0)])
    y = jnp.diff(cumulated[ends], axis=0, prepend=jnp.zeros_like(x[:1], shape=(1, x.shape[1])))
    return y, lambda y_bar: (y_bar[segments], None)

  report = vjp(sums, X, segments, f_vjp=by_search)
  assert report.verdict == "pass", report.table()
  assert "N = 13" in report.regimes


# --- What only the function asks ------------------------------------------------------------------


def masked_loss(z, labels):
  """Rows with a negative label are ignored."""
  mask = labels >= 0
  rows = jnp.arange(labels.size), jnp.where(mask, labels, 0)
  return jnp.where(mask, -jax.nn.log_softmax(z)[rows], 0.0).sum()


@pytest.mark.slow
def test_an_order_of_integers():
  def masked_vjp(z, labels, is_masked):
    def pull(y_bar):
      z_bar = y_bar * (jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[1]))
      return jnp.where(is_masked & (labels < 0)[:, None], 0.0, z_bar), None

    return masked_loss(z, labels), pull

  right = vjp(masked_loss, X, LABELS, f_vjp=functools.partial(masked_vjp, is_masked=True))
  assert right.verdict == "pass", right.table()
  assert "some integers -1" in right.regimes
  wrong = vjp(masked_loss, X, LABELS, f_vjp=functools.partial(masked_vjp, is_masked=False))
  assert wrong.findings[0].regime == "some integers -1"


@pytest.mark.slow
def test_a_count_that_only_the_function_compares():
  def warmed_up(x, step):
    return jnp.where(step > 100, jnp.sin(x), x)

  def rule(x, step):
    return warmed_up(x, step), lambda y_bar: (y_bar, None)

  report = vjp(warmed_up, X, jnp.array(5), f_vjp=rule)
  assert report.findings[0].regime == "some integers 101"


def test_a_bend_that_only_the_function_has():
  """The forward pass of the rule doesn't know it: no comparison of the rule tells of it."""

  def bent(x):
    return jnp.where(jnp.abs(x - 300.0) < 0.5, 2 * x, x)

  def straight(x):
    return x, lambda y_bar: (y_bar,)

  report = vjp(bent, X, f_vjp=straight)
  assert report.verdict == "fail"
  assert report.findings[0].regime == "lt below, for the first time"


# --- Loops and branches through which each point goes its own way -------------------------------


@pytest.mark.slow
def test_differences_over_a_loop_whose_turns_differ():
  """Newton's method for a root, from 1: at zero it ends before it is there."""

  def root(a):
    def is_far(y):
      return (jnp.abs(y * y - a) > 1e-6 * (1 + a)).any()

    return jax.lax.while_loop(is_far, lambda y: 0.5 * (y + a / y), jnp.ones_like(a))

  def root_vjp(a):
    y = root(a)
    return y, lambda y_bar: (y_bar / (2 * y),)

  a = jnp.abs(X[0]) + 0.5
  right = vjp(root, a, f_vjp=root_vjp)
  assert right.verdict == "pass", right.table()

  def wrong_vjp(a):
    y = root(a)
    return y, lambda y_bar: (y_bar / y,)

  assert vjp(root, a, f_vjp=wrong_vjp).verdict == "fail"


def test_differences_over_a_branch_that_each_point_takes_for_itself():
  """At the kink of a cond, differences see both sides."""

  def hinge(x):
    return jax.lax.cond(x > 0, lambda x: 3 * x, lambda x: x, x)

  def of(slope):
    return lambda x: (
      hinge(x),
      lambda y_bar: (jnp.where(x == 0, slope, jnp.where(x > 0, 3.0, 1.0)) * y_bar,),
    )

  zero = jnp.zeros(())
  assert vjp(hinge, zero, f_vjp=of(2.0)).verdict == "pass"  # Between its sides.
  assert vjp(hinge, zero, f_vjp=of(4.0)).verdict == "fail"


def cross_entropy_of(labels_to_weights):
  def loss(z, labels):
    rows = jnp.arange(labels.size), labels
    return (labels_to_weights(labels) * -jax.nn.log_softmax(z)[rows]).sum()

  def loss_vjp(z, labels):
    def pull(y_bar):
      z_bar = jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[1])
      return y_bar * labels_to_weights(labels)[:, None] * z_bar, None

    return loss(z, labels), pull

  return loss, loss_vjp


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_only_numbers_that_the_function_tells_apart_are_tried(dtype):
  """-1 is no label: labels > 0 tells 0 from 1."""
  loss, loss_vjp = cross_entropy_of(lambda labels: jnp.where(labels > 0, 2.0, 1.0))
  report = vjp(loss, X, LABELS.astype(dtype), f_vjp=loss_vjp)
  assert report.verdict == "pass", report.table()
  assert {"some integers 0", "some integers 1"} <= set(report.regimes)
  assert "some integers -1" not in report.regimes


@pytest.mark.slow
def test_numbers_are_for_what_is_compared_alone():
  loss, loss_vjp = cross_entropy_of(lambda labels: jnp.ones(labels.shape))

  def warmed_up(z, labels, step):
    return jnp.where(step > 100, 2.0, 1.0) * loss(z, labels)

  def warmed_up_vjp(z, labels, step):
    y, pull = loss_vjp(z, labels)
    factor = jnp.where(step > 100, 2.0, 1.0)
    return factor * y, lambda y_bar: (*pull(factor * y_bar), None)

  report = vjp(warmed_up, X, LABELS, jnp.array(3), f_vjp=warmed_up_vjp)
  assert report.verdict == "pass", report.table()


# --- Loops that end by a tolerance, or hardly ever ------------------------------------------------


def halved(x):
  """A fixed point, found by turns that autodiff doesn't see."""
  still = jax.lax.stop_gradient(x)
  y = jax.lax.while_loop(
    lambda y: (jnp.abs(y - 0.5 * jnp.cos(y) - still) > 1e-6).any(),
    lambda y: 0.5 * jnp.cos(y) + still,
    jnp.zeros_like(x),
  )
  return 0.5 * jnp.cos(jax.lax.stop_gradient(y)) + x


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (-1.0, "fail"), (2.0, "fail")])
def test_a_loop_excuses_no_wrong_rule(factor, verdict):
  """A rule that is declared to be no slope has no differences to confirm it."""

  def rule(x):
    return halved(x), lambda y_bar: (factor * y_bar,)

  report = vjp(halved, X[0], f_vjp=rule, surrogate=True, level="quick")
  assert report.verdict == verdict, report.table()


@pytest.mark.slow
@pytest.mark.parametrize(("turns", "verdict"), [(5_000, "pass"), (5_000_000, "no verdict")])
def test_a_loop_of_very_many_turns(turns, verdict):
  def rule(x):
    n = jax.lax.while_loop(lambda i: i < turns, lambda i: i + 1, 0)
    return float(turns) * x, lambda y_bar: (n * y_bar,)

  with jax.numpy_dtype_promotion("standard"):
    report = vjp(lambda x: float(turns) * x, X, f_vjp=rule, level="quick")
  assert report.verdict == verdict, report.table()
  if verdict == "no verdict":
    assert "a loop goes round more than" in report.findings[0].message
