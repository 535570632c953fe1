"""The orders of the examples: each example once, anew each epoch, the same however a run is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.cli.train import parse
from fbackprop.train import shuffle as shuffles
from tests.support.runs import descend

KEY = jax.random.key(11)
FAST = shuffles.SHUFFLES["fast"]
SIZES = (1, 2, 3, 7, 8, 97, 1347, 2049)
START = jnp.zeros((), jnp.int32)


@partial(jax.jit, static_argnums=1)
def fast_orders(keys, n):
  """The fast order `[keys, n]` of n examples for each of some keys."""
  return jax.vmap(lambda key: FAST.rows(FAST.draw(key, n), n, START, n))(keys)


@pytest.mark.parametrize("n", SIZES)
def test_the_fast_shuffle_shows_each_example_once(n):
  orders = np.asarray(fast_orders(jax.random.split(KEY, 8), n))
  assert orders.dtype == np.int32
  np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (8, 1)))
  if n > 8:  # Of few examples there are few orders.
    assert len({tuple(order) for order in orders}) == 8


@pytest.mark.parametrize("bits", [0, 1, 2, 11])
def test_a_feistel_network_is_a_bijection_at_any_width(bits):
  numbers = np.arange(2**bits, dtype=np.uint32)
  found = shuffles.feistel(shuffles.fast_keys(KEY, 1), numbers, bits)
  np.testing.assert_array_equal(np.sort(found), numbers)


def test_examples_come_out_evenly_spread_over_places():
  # Over 6,000 epochs each of 24 examples stands at each of 24 places 250 times in the mean. Of a
  # uniform shuffle (Σ (seen - 250)² / 250) · 23 / 24 follows χ² with 23² = 529 degrees of freedom:
  # 529 ± 32.5. The bound is five deviations.
  n, epochs = 24, 6000
  orders = np.asarray(fast_orders(jax.random.split(KEY, epochs), n))
  seen = np.zeros((n, n))
  np.add.at(seen, (np.arange(n)[None, :], orders), 1)
  expected = epochs / n
  assert abs(((seen - expected) ** 2 / expected).sum() * (n - 1) / n - 529) < 5 * 32.5
  # And neighbours don't stay together: of two places in a row one in 24 holds n and n + 1.
  together = (np.diff(orders, axis=1) == 1).sum()
  assert abs(together / (epochs * 23 / 24) - 1) < 5 / np.sqrt(epochs * 23 / 24)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 22, 1625, 1626])  # From 1,626 on jax sorts twice.
def test_the_exact_shuffle_is_that_of_jax(n):
  order = jax.jit(shuffles.exact_order, static_argnums=1)(KEY, n)
  assert order.dtype == jnp.int32
  np.testing.assert_array_equal(order, jax.random.permutation(KEY, n))


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", shuffles.SHUFFLES)
def test_a_batch_follows_from_the_key_and_the_step_alone(shuffle):
  n, batch_size = 22, 5  # Four batches, and two examples that wait.
  data = fb.train.Batch(jnp.arange(22.0)[:, None], jnp.arange(22))
  renew = jax.jit(shuffles.draw_order, static_argnums=(3, 5))
  take = jax.jit(shuffles.take_batch, static_argnums=(3, 4))
  draw, rows_at = shuffles.SHUFFLES[shuffle]
  drawn, epochs = jnp.zeros_like(draw(KEY, n)), []
  for step in range(8):
    drawn = renew(jnp.asarray(step), drawn, data, batch_size, KEY, shuffle)
    batch = take(jnp.asarray(step), drawn, data, batch_size, shuffle)
    epoch_key = jax.random.fold_in(KEY, step // 4)
    want = rows_at(draw(epoch_key, n), n, jnp.asarray(step % 4 * batch_size), batch_size)
    np.testing.assert_array_equal(batch.targets, want)
    epochs.append(np.asarray(want))
  first, second = np.concatenate(epochs[:4]), np.concatenate(epochs[4:])
  assert len(set(first)) == len(set(second)) == 20
  assert not np.array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 15])  # Four steps an epoch, and one.
def test_a_run_takes_its_batches_from_the_shuffle(size):
  x = np.asarray(jax.random.normal(KEY, (22, 4)))
  net, labels, losses = fb.mlp([4, 3]), (x[:, 0] > 0).astype(np.int32), []
  run = descend(net, (x, labels), 8, 1e-9, key=KEY, batch_size=size, shuffle="fast", chunk_steps=3)
  order_key = jax.random.split(KEY)[1]
  for step in range(8):  # At that rate the parameters stay where they were.
    epoch, place = divmod(step, 22 // size)
    drawn = FAST.draw(jax.random.fold_in(order_key, epoch), 22)
    rows = FAST.rows(drawn, 22, jnp.asarray(place * size), size)
    outputs = net.forward(run.params, x[rows])[0]
    losses.append(fb.softmax_cross_entropy.forward(outputs, labels[rows])[0].mean())
  np.testing.assert_allclose(run.losses, losses, rtol=1e-5)


def test_the_fast_shuffle_holds_no_order_and_sorts_nothing():
  assert FAST.draw(KEY, 2048).shape == (shuffles.ROUNDS,)
  rows = jax.jit(FAST.rows, static_argnums=(1, 3)).lower(FAST.draw(KEY, 5), 5, START, 2)
  text = rows.compile().as_text()
  assert "while(" in text  # Which keeps the cipher out of the loops that gather features.
  assert "sort(" not in text


def test_a_name_that_is_none_is_refused_with_the_choices():
  with pytest.raises(ValueError, match="shuffle must be one of exact, fast, got 'slow'"):
    fb.train.fit(
      fb.mlp([4, 3]), fb.squared_error, None, optimizer=fb.train.gradient_descent(0.5),
      stop=fb.train.StopRules(3), key=KEY, step=fb.train.StepRules("slow"),
    )  # fmt: skip


def test_the_command_line_takes_the_name():
  assert (parse([]).shuffle, parse(["--shuffle", "fast"]).shuffle) == ("exact", "fast")
