"""Static arguments are taken out of a call, and put back wherever it is made."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import UnusableError
from fbackprop.verify.arguments import hold_static, is_number, is_traceable
from fbackprop.verify.witnesses.rule import parameter_names

X = jnp.array([0.5, -1.0])


def scaled(name, x, scale):
  assert name == "sine"
  return scale * jnp.sin(x)


def scaled_vjp(name, x, scale):
  def pull(y_bar):
    return "no cotangent", scale * y_bar * jnp.cos(x), None

  return scaled(name, x, scale), pull


def test_a_call_of_arrays_is_left_alone():
  f = jnp.multiply
  call = hold_static(f, None, (X, 2.0), {}, ())
  assert call[:4] == (f, None, (X, 2.0), ())
  assert call.wrap(f) is call.push(f) is f


def test_a_static_leaf_is_none_and_put_back():
  call = hold_static(scaled, scaled_vjp, ("sine", X, 2.0), {}, ())
  assert call.args == (None, X, 2.0)
  assert call.held == ()
  assert parameter_names(call.f, 3) == ["name", "x", "scale"]
  np.testing.assert_array_equal(call.f(None, X, 3.0), 3 * jnp.sin(X))
  y, pull = call.f_vjp(None, X, 3.0)
  np.testing.assert_array_equal(y, 3 * jnp.sin(X))
  static_bar, x_bar, scale_bar = pull(jnp.ones(2))
  assert (static_bar, scale_bar) == (None, None)
  np.testing.assert_array_equal(x_bar, 3 * jnp.cos(X))


def test_what_isn_t_a_pair_is_returned_as_it_is():
  """The check of the rule's structure says what is wrong with it."""
  call = hold_static(scaled, lambda *args: "wrong", ("sine", X, 2.0), {}, ())
  assert call.f_vjp(None, X, 2.0) == "wrong"


@pytest.mark.parametrize("which", ["scale", 2, -1])
def test_an_argument_is_held_by_name_or_position(which):
  call = hold_static(scaled, None, ("sine", X, 2.0), {}, (which,))
  assert call.args == (None, X, None)
  assert call.held == ("scale",)
  np.testing.assert_array_equal(call.f(None, X, None), 2 * jnp.sin(X))


@pytest.mark.parametrize("which", ["gain", 3, -4])
def test_a_name_of_no_argument_is_refused(which):
  with pytest.raises(UnusableError, match="names of name, x, scale, got"):
    hold_static(scaled, None, ("sine", X, 2.0), {}, (which,))


def test_keywords_become_arguments():
  call = hold_static(scaled, None, ("sine",), {"scale": jnp.float32(2), "x": X}, ())
  assert [jnp.shape(a) for a in call.args[1:]] == [(), (2,)]
  assert parameter_names(call.f, 3) == ["name", "scale", "x"]
  np.testing.assert_array_equal(call.f(None, 3.0, X), 3 * jnp.sin(X))


def test_nondiff_argnums_and_leaves_within_trees_are_held():
  f = jax.custom_vjp(lambda x, options: x * options["gain"], nondiff_argnums=(1,))
  call = hold_static(f, None, (X, {"gain": 2.0}), {}, ())
  assert call.args == (X, {"gain": None})
  assert call.held == ("options/gain",)
  tree = hold_static(lambda p: p["x"], None, ({"kind": "a", "x": X},), {}, ())
  assert tree.args == ({"kind": None, "x": X},)


def test_a_number_that_f_takes_untraced_only_is_held():
  @partial(jax.jit, static_argnames="p")
  def power(x, p, q):
    return x**p + q

  call = hold_static(power, None, (X, 3.0, 1.0), {}, ())
  assert call.args == (X, None, 1.0)
  assert call.held == ("p",)
  np.testing.assert_allclose(call.f(X, None, 2.0), X**3 + 2)


def test_both_numbers_may_be_static():
  f = jax.jit(lambda x, p, q: x**p + q, static_argnums=(1, 2))
  assert hold_static(f, None, (X, 3.0, 1.0), {}, ()).held == ("p", "q")


def test_a_function_that_raises_in_any_case_holds_nothing():
  def broken(x, p):
    raise KeyError("own")

  assert hold_static(broken, None, (X, 2.0), {}, ()).args == (X, 2.0)
  assert not is_traceable(broken, [X], [False], jax.tree.structure([0, 0]), 2, [])


def test_a_rule_in_forward_mode_gets_the_static_leaves_and_no_tangent_of_them():
  def scaled_jvp(primals, tangents):
    assert primals[0] == "sine"
    assert tangents[0] is None
    return scaled(*primals), primals[2] * jnp.cos(primals[1]) * tangents[1]

  call = hold_static(scaled, None, ("sine", X, 2.0), {}, (2,))
  own = (None, X, None), (None, jnp.ones(2), None)
  expected = 2 * jnp.cos(X)
  np.testing.assert_array_equal(call.push(scaled_jvp)(*own)[1], expected)
  np.testing.assert_array_equal(call.push(partial(jax.jvp, scaled))(*own)[1], expected)


def test_arguments_without_names():
  call = hold_static(lambda *args: args[0](args[1]), None, (jnp.sin, X), {}, ())
  assert parameter_names(call.f, 2) == ["args_0", "args_1"]
  np.testing.assert_array_equal(call.f(None, X), jnp.sin(X))


@pytest.mark.parametrize("leaf", [1, 1.5, True, 1j, np.int8(1), np.zeros(2), X])
def test_a_number(leaf):
  assert is_number(leaf)


@pytest.mark.parametrize("leaf", ["a", None, jnp.float32, abs, object()])
def test_no_number(leaf):
  assert not is_number(leaf)
