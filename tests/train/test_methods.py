"""Optimisers by name are optax's; schedules, decay and clipping do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, rates
from tests.support.refusals import refusals

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")


NET = fb.mlp([3, 8, 2], normalization=fb.layer_norm)
PARAMS = NET.init(jax.random.key(0))
GRADS = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), PARAMS)
SAME = {
  "gradient_descent": optax.sgd(0.1),
  "momentum": optax.sgd(0.1, momentum=0.9),
  "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
  "adam": optax.adam(0.1),
  "rmsprop": optax.rmsprop(0.1),
  "adagrad": optax.adagrad(0.1),
  "lion": optax.lion(0.1, weight_decay=0.0),
}


def after(optimizer, steps=3):
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
  return params


def norm_of(tree):
  return float(np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree))))


def assert_same(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_is_an_optimiser_of_optax(name):
  assert_same(after(make_optimizer(name, 0.1, 10)), after(SAME[name]), rtol=1e-6, atol=1e-7)


def test_weights_decay_and_biases_do_not():
  with_decay = make_optimizer("adam", 0.1, 10, weight_decay=0.5)
  mask = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
  assert_same(after(with_decay), after(optax.adamw(0.1, weight_decay=0.5, mask=mask)), rtol=1e-6)
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = with_decay.update(zero, with_decay.init(PARAMS), PARAMS)
  moved = {
    jax.tree_util.keystr(path)[-2:]: bool(jnp.any(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
  }
  assert moved == {".w": True, ".b": False, "le": False, "ft": False}


@pytest.mark.slow
def test_stacked_biases_are_spared_too():
  """In a repeated block a bias has two axes."""
  params = fb.mlp([4, 4, 4, 4], repeat_hidden=True).init(jax.random.key(0))
  params = jax.tree.map(jnp.ones_like, params)
  zero = jax.tree.map(jnp.zeros_like, params)
  optimizer = make_optimizer("gradient_descent", 1.0, 10, weight_decay=0.25)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    want = -0.25 if jax.tree_util.keystr(path).endswith(".w") else 0.0
    np.testing.assert_array_equal(leaf, want)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
  optimizer = make_optimizer("gradient_descent", 1.0, 10, clip_norm=0.5)
  for factor, want in ((1.0, 0.5), (1e-3, None)):
    grads = jax.tree.map(lambda g, f=factor: f * g, GRADS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    norm = norm_of(updates)
    assert norm == pytest.approx(want or norm_of(grads), rel=1e-5)


ENDS = [
  ("constant", 2.0, 2.0),
  ("cosine", 1.0, 0.0),
  ("linear", 1.0, 0.0),
  ("exponential", 2 / 1000**0.5, 2e-3),
]


@pytest.mark.parametrize(("schedule", "middle", "end"), ENDS)
def test_a_schedule_arrives_at_the_end_of_the_run(schedule, middle, end):
  near = {"rel": 1e-5, "abs": 1e-6}
  found = rates(2.0, 100, schedule, 0)
  assert [float(found(s)) for s in (0, 50, 100)] == pytest.approx([2.0, middle, end], **near)
  warm = rates(2.0, 120, schedule, 20)
  want = [0.0, 1.0, 2.0, middle]
  assert [float(warm(s)) for s in (0, 10, 20, 70)] == pytest.approx(want, **near)


BAD = [
  ({"name": "adm"}, "unknown value 'adm' for name; did you mean 'adam'"),
  ({"schedule": "step"}, "unknown value 'step' for schedule; there are: constant, cosine"),
  ({"rate": 0.0}, "rate must be a finite number above 0, got 0.0"),
  ({"rate": float("nan")}, "rate"),
  ({"weight_decay": -1.0}, "weight_decay must be a finite number of at least 0, got -1.0"),
  ({"clip_norm": 0.0}, "clip_norm must be a finite number above 0, got 0.0"),
  ({"warmup": 11}, "warmup must be at most the 10 steps of the run, got 11"),
]


test_what_cannot_be_is_refused = refusals(
  lambda change: make_optimizer(**{"name": "adam", "rate": 0.1, "steps": 10, **change}),
  BAD,
  ValueError,
)


@pytest.mark.slow
def test_a_run_says_how_it_learns(tmp_path, capsys, undrawn):
  assert set(SCHEDULES) >= {"cosine"}
  flags = "--data iris --optimizer adam --rate 0.01 --schedule cosine --warmup 5 --weight-decay 0.1"
  more = f" --clip-norm 1 --stop.max-steps 60 --eval-every 60 --check-every 0 --out {tmp_path}"
  assert main(["train", *(flags + more).split()]) == 0
  said = capsys.readouterr().out
  assert "adam, rate 0.01 cosine, warmup 5, weight decay 0.1, gradient up to 1, batches" in said
  assert main(["train", "--config", f"{tmp_path}/iris-1/config.toml", "--out", str(tmp_path)]) == 0
  first, again = (tmp_path / f"iris-{i}" / "model.safetensors" for i in (1, 2))
  assert first.read_bytes() == again.read_bytes()
