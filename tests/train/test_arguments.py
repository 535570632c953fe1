"""The grouped arguments of a run: former keywords give the same bits, with a warning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.train import Checkpoints, Monitor, StepRules, StopRules
from fbackprop.train.problem import SHORT
from tests.support.refusals import refusals

X = jax.random.normal(jax.random.key(1), (12, 3))
LABELS = jnp.arange(12) % 3
NET = fb.mlp([3, 3], dense=fb.quantities.captured(fb.dense))
OF_MONITOR = {
  "eval_every": 2, "check_every": 3, "test": (X, LABELS), "on_evaluation": lambda e: None,
  "on_event": lambda e: None, "watch": ("noise_scale",), "chunk_steps": 2,
}  # fmt: skip
OF_STEP = {"shuffle": "fast", "clip_examples": 0.5, "on_nonfinite": "skip"}


def run(**options):
  return fb.train.fit(
    NET, fb.softmax_cross_entropy, (X, LABELS), optimizer=fb.train.gradient_descent(0.1),
    stop=StopRules(5), key=jax.random.key(0), batch_size=4, **options,
  )  # fmt: skip


def run_all(**options):
  return fb.train.fit_ensemble(
    fb.mlp([3, 3]), fb.softmax_cross_entropy, (X, LABELS), stop=StopRules(5), batch_size=4,
    optimizer=fb.train.gradient_descent(0.1), keys=jax.random.split(jax.random.key(0), 2),
    **options,
  )  # fmt: skip


def said(result):
  """What two runs have in common, but for the clock."""
  evaluations = [(e.step, e.test_loss, e.noise_scale, e.clipped) for e in result.evaluations]
  return (
    np.asarray(result.losses).tobytes(), evaluations, result.checks, result.skipped,
    [leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(result.params))],
  )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*OF_MONITOR, *OF_STEP) if name not in SHORT])
def test_a_former_keyword_gives_the_same_run_with_a_warning(name):
  group, kind = ("monitor", Monitor) if name in OF_MONITOR else ("step", StepRules)
  value = {**OF_MONITOR, **OF_STEP}[name]
  want = run(**{group: kind(**{name: value})})
  with pytest.warns(DeprecationWarning, match=rf"use {group}={kind.__name__}\({name}=\.\.\.\)"):
    assert said(run(**{name: value})) == said(want)


@pytest.mark.slow
def test_resume_is_that_of_the_checkpoints(tmp_path):
  kept = Checkpoints(tmp_path, every=2)
  run(checkpoints=kept)
  want = run(checkpoints=Checkpoints(resume=tmp_path))
  with pytest.warns(DeprecationWarning, match=r"use checkpoints=Checkpoints\(resume=\.\.\.\)"):
    assert said(run(resume=tmp_path)) == said(want)
  with pytest.warns(DeprecationWarning, match="resume"):
    assert said(run(resume=tmp_path, checkpoints=kept)) == said(want)
  with pytest.warns(DeprecationWarning, match="resume"):
    run(resume=None)


def test_of_an_ensemble():
  names = ("eval_every", "check_every", "test", "on_evaluation", "chunk_steps")
  options = {**{name: OF_MONITOR[name] for name in names}, "check_members": [1]}
  want = run_all(monitor=Monitor(**options), step=StepRules("fast"))
  with pytest.warns(DeprecationWarning, match="is deprecated") as warned:
    got = run_all(**options, shuffle="fast")
  assert len(warned) == len(options)  # shuffle's too, and none of check_every.
  np.testing.assert_array_equal(got.losses, want.losses)
  assert got.checks == want.checks
  assert [e.test_loss for e in got.evaluations] == [e.test_loss for e in want.evaluations]


@pytest.mark.slow
def test_check_every_is_short_for_its_attribute():
  assert said(run(check_every=3)) == said(run(monitor=Monitor(check_every=3)))


@pytest.mark.slow
def test_a_group_and_a_former_keyword_of_it():
  with pytest.warns(DeprecationWarning, match="eval_every"):
    result = run(eval_every=2, monitor=Monitor(check_every=3))
  assert [e.step for e in result.evaluations] == [2, 4, 5]
  assert [step for step, _ in result.checks] == [0, 3, 5]


BAD_RUNS = [
  ({"eval_every": 2, "monitor": Monitor(eval_every=2)}, "got both eval_every and monitor=Mon"),
  ({"test": (X, LABELS), "monitor": Monitor(test=(X, LABELS))}, "got both test and monitor="),
  ({"evalevery": 2}, "unexpected keyword argument 'evalevery'; did you mean 'eval_every'"),
  ({"check_members": [0]}, "unexpected keyword argument 'check_members'"),
  ({"monitor": 3}, "monitor must be a Monitor, got int 3"),
  ({"step": 3}, "step must be a StepRules, got int 3"),
]


test_refused = refusals(lambda options: run(**options), BAD_RUNS, TypeError)


BAD_ENSEMBLES = [
  ({"watch": ("health",)}, TypeError, "unexpected keyword argument 'watch'"),
  ({"checkpoints": None}, TypeError, "unexpected keyword argument 'checkpoints'"),
  ({"monitor": Monitor(watch=("health",))}, ValueError, r"Monitor\(watch=...\) is for a single"),
  ({"step": StepRules(clip_examples=1.0)}, ValueError, "clip_examples=...\\) is for a single r"),
]


test_refused_of_an_ensemble = refusals(lambda options: run_all(**options), BAD_ENSEMBLES)


BAD_MONITORS = [
  ({"eval_every": 0}, "monitor.eval_every must be at least 1"),
  ({"check_every": 1.5}, "monitor.check_every must be an integer"),
  ({"chunk_steps": None}, "monitor.chunk_steps must be an integer"),
  ({"on_evaluation": 3}, "monitor.on_evaluation must be a function"),
]


test_bad_monitors = refusals(
  lambda options: Monitor(**options), BAD_MONITORS, TypeError, ValueError
)
