"""The axes whose lengths a function lets vary, found by abstract evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp
from fbackprop.verify.checks import axes
from fbackprop.verify.witnesses.rule import rule_of, signature_of


@pytest.fixture(autouse=True)
def _as_users_write():
  with jax.numpy_rank_promotion("allow"):
    yield


def rule_and_leaves(f, *shapes):
  args = tuple(jnp.zeros(shape) for shape in shapes)
  signature, leaves = signature_of(f, args)
  return rule_of(f, None, signature, leaves), leaves


def attend(q, k, v):
  return jax.nn.softmax(q @ k.T) @ v


def pairs(x):
  return x.reshape(x.shape[0], -1, 2).sum(-1)


@pytest.mark.parametrize(
  ("f", "shapes", "expected"),
  [
    pytest.param(lambda x: x.mean(1), [(2, 4)], [{(0, 0)}, {(0, 1)}], id="each by itself"),
    pytest.param(
      jnp.matmul, [(5, 4), (4, 3)], [{(0, 0)}, {(0, 1), (1, 0)}, {(1, 1)}], id="contracted"
    ),
    pytest.param(lambda a: jnp.trace(a @ a), [(3, 3)], [{(0, 0), (0, 1)}], id="square"),
    pytest.param(
      attend, [(5, 3), (4, 3), (4, 2)],
      [{(0, 0)}, {(0, 1), (1, 1)}, {(1, 0), (2, 0)}, {(2, 1)}], id="attention",
    ),
    pytest.param(lambda a, b, c: a * b * c, [(4,)] * 3, [{(0, 0), (1, 0), (2, 0)}], id="all"),
    pytest.param(pairs, [(3, 6)], [{(0, 0)}], id="even lengths alone"),
    pytest.param(lambda x: x @ jnp.ones((4, 2)), [(3, 4)], [{(0, 0)}], id="a constant"),
    pytest.param(lambda x, b: x + b, [(3, 4), (1, 4)], [{(0, 0)}, {(0, 1), (1, 1)}], id="of one"),
  ],
)  # fmt: skip
def test_the_axes_that_vary_together(f, shapes, expected):
  assert axes.find_axes(*rule_and_leaves(f, *shapes), frozenset()) == expected


def test_known_axes_are_left_out():
  rule, leaves = rule_and_leaves(jnp.matmul, (5, 4), (4, 3))
  assert axes.find_axes(rule, leaves, frozenset({(0, 0)})) == [{(0, 1), (1, 0)}, {(1, 1)}]


def test_the_search_has_an_end(monkeypatch):
  monkeypatch.setattr(axes, "MOST_TRIALS", 1)
  rule, leaves = rule_and_leaves(jnp.matmul, (5, 4), (4, 3))
  assert axes.find_axes(rule, leaves, frozenset()) == [{(0, 0)}]


def test_rows_repeat_or_are_left_out():
  own = [np.arange(6.0).reshape(2, 3), np.arange(3)]
  both = frozenset({(0, 1), (1, 0)})
  longer = axes.resized(own, both, 5)
  np.testing.assert_array_equal(longer[0], [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]])
  np.testing.assert_array_equal(longer[1], [0, 1, 2, 0, 1])
  assert [x.shape for x in longer] == axes.lengthened(own, both, 5)
  assert [x.shape for x in axes.resized(own, both, 1)] == [(2, 1), (1,)]


def test_a_point_is_named_by_its_axes():
  rule, _ = rule_and_leaves(attend, (5, 3), (4, 3), (4, 2))
  assert axes.name_of(rule, frozenset({(1, 0), (2, 0)}), 3) == "axis 0 of k, v: length 3"
  mixed = axes.name_of(rule, frozenset({(0, 0), (1, 1)}), 8)
  assert mixed == "axis 0 of q and axis 1 of k: length 8"


def test_all_axes_are_tried_at_every_length_but_their_own():
  leaves = [np.ones((3, 5)), np.ones((3, 4))]
  rows, columns = frozenset({(0, 0), (1, 0)}), frozenset({(0, 1)})
  rounds = axes.changed_lengths("standard", leaves, [rows, columns])
  assert all(len({axis for axis, _ in changes}) == len(changes) for changes in rounds)
  tried = {group: {n for changes in rounds for axis, n in changes if axis == group}
           for group in (rows, columns)}  # fmt: skip
  assert tried == {rows: {1, 4, 13}, columns: {1, 3, 6, 13}}
  assert len(rounds) == 4
  # In most rounds the two lengths differ: a rule that takes one for the other is seen.
  assert sum(len({n for _, n in changes}) == 2 for changes in rounds) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "pass"), (1.0, "fail")])
@pytest.mark.parametrize("level", ["quick", "standard"])
def test_an_output_that_keeps_its_length_has_no_axis_of_examples(factor, verdict, level):
  """The function takes signals of any length and resamples them; its rule is for one."""
  resample = jax.custom_vjp(lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * 2.0, 8))
  resample.defvjp(lambda x: (resample(x), None), lambda _, y_bar: (factor * y_bar,))
  x = np.random.default_rng(0).normal(size=8).astype(np.float32)
  assert vjp(resample, x, level=level).verdict == verdict
