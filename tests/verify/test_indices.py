"""The integers that point: what they point into is read in the program, not in their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify.checks.indices import Pointer, permutations, pointers_of, within

X = jnp.zeros((6, 3))
IDS = jnp.array([0, 1, 4], jnp.int32)
ONE = jnp.int32(2)


@pytest.fixture(autouse=True)
def _as_users_write():
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def in_a_scan(x, i):
  return jax.lax.scan(lambda total, k: (total + x[k], None), x[0], i)[0]


def carried(x, i):
  return jax.lax.scan(lambda k, _: (k, x[k]), i, None, length=2)[1]


def in_a_while(x, i):
  return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + x[i]), (0, x[0]))[1]


def by_segments(x, i):
  return jax.ops.segment_sum(x[:3], i, num_segments=4)


@pytest.mark.parametrize(
  ("f", "ids", "end", "is_overwriting"),
  [
    pytest.param(lambda x, i: x[i], IDS, 6, False, id="rows"),
    pytest.param(lambda x, i: x[i], ONE, 6, False, id="a row"),
    pytest.param(lambda x, i: x[:, i], IDS, 3, False, id="columns"),
    pytest.param(lambda x, i: jnp.take(x, i, 0), IDS, 6, False, id="take"),
    pytest.param(
      lambda x, i: jnp.take_along_axis(x[:3], i[:, None], 1), IDS, 3, False, id="labels"
    ),
    pytest.param(lambda x, i: x.at[i].add(1.0), IDS, 6, False, id="scatter-add"),
    pytest.param(lambda x, i: x.at[i].set(1.0), IDS, 6, True, id="scatter"),
    pytest.param(by_segments, IDS, 4, False, id="segments"),
    pytest.param(lambda x, i: jax.nn.one_hot(i, 5) @ x[:5], IDS, 5, False, id="one-hot"),
    pytest.param(lambda x, i: x[:3] * (jnp.arange(3) < i[:, None]), IDS, 4, False, id="lengths"),
    pytest.param(lambda x, i: jax.lax.dynamic_slice(x, (i, 0), (2, 3)), ONE, 5, False, id="slice"),
    pytest.param(
      lambda x, i: jax.lax.dynamic_update_slice(x, x[:2], (i, 0)), ONE, 5, True, id="update"
    ),
    pytest.param(lambda x, i: x[2 * i], IDS, None, False, id="computed"),
    pytest.param(lambda x, i: x[i] + x[:4][i], IDS, 4, False, id="the nearer end"),
    pytest.param(in_a_scan, IDS, 6, False, id="scan"),
    pytest.param(carried, ONE, 6, False, id="carried"),
    pytest.param(in_a_while, ONE, 6, False, id="while"),
    pytest.param(jax.jit(lambda x, i: x[i]), IDS, 6, False, id="jit"),
    pytest.param(
      lambda x, i: jax.lax.switch(i, [jnp.sin, jnp.cos, jnp.tan], x), ONE, 3, False, id="switch"
    ),
  ],
)
def test_what_an_integer_points_into(f, ids, end, is_overwriting):
  program = jax.make_jaxpr(f)(X, ids)
  assert pointers_of(program) == {1: Pointer(end, is_overwriting)}


@pytest.mark.parametrize("f", [lambda x, i: x * i[:, None], lambda x, i: x[:3] ** i[:, None]])
def test_an_integer_that_is_a_number_points_nowhere(f):
  assert pointers_of(jax.make_jaxpr(f)(X[:3], IDS)) == {}


def test_two_integers_point_into_two_axes():
  found = pointers_of(jax.make_jaxpr(lambda x, i, j: x[i, j])(X, IDS, IDS))
  assert found == {1: Pointer(6), 2: Pointer(3)}


def test_a_constant_follows_the_inputs():
  """The labels that a function closes over."""
  program = jax.make_jaxpr(lambda x: x[IDS])(X)
  assert pointers_of(program) == {1: Pointer(6)}


def test_a_permutation_is_one_of_the_whole_axis():
  rows = jax.make_jaxpr(lambda x, i: x[i])
  order = np.array([2, 0, 1])
  for length, expected in ((3, {1}), (4, set())):
    own = [np.zeros((length, 2)), order]
    assert permutations(rows(*own), own) == expected
  repeated = [np.zeros((3, 2)), np.array([2, 0, 0])]
  assert permutations(rows(*repeated), repeated) == set()


# --- Integers of shorter axes ---------------------------------------------------------------------


def gather(x, i):
  return x[i]


def test_indices_that_fit_are_kept():
  own = [np.zeros((6, 3)), np.array([5, -6, 0])]
  found = within(jax.make_jaxpr(gather)(*own), own)
  np.testing.assert_array_equal(found[1], own[1])


def test_indices_beyond_a_shorter_axis_are_brought_back():
  short = [np.zeros((2, 3)), np.array([0, 1, 4, -1, -3], np.int32)]
  found = within(jax.make_jaxpr(gather)(*short), short)
  np.testing.assert_array_equal(found[1], [0, 1, 0, -1, -1])
  assert found[1].dtype == np.int32


def test_constants_beyond_a_shorter_axis_can_t_be():
  program = jax.make_jaxpr(lambda x: x[IDS])(X[:3])
  assert within(program, [X[:3]]) is None
  assert within(jax.make_jaxpr(lambda x: x[IDS])(X), [X]) is not None


def test_several_values_for_one_entry_can_t_be():
  def replaced(x, i):
    return x.at[i].set(1.0)

  for rows, is_possible in ((6, True), (4, False)):
    own = [np.zeros((rows, 3)), np.array([0, 1, 4])]
    found = within(jax.make_jaxpr(replaced)(*own), own)
    assert (found is not None) == is_possible
