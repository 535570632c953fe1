"""A run that is cut anywhere goes on to the same bits, and what is broken is refused by name."""

import functools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train.checkpoints import FolderInUseError, checkpoint_paths
from scripts.campaigns.faults import PLANS, STEPS, bits, damage, run, stop_at
from scripts.fault_campaign import BATCH, Campaign, damage_files
from tests.support.refusals import refusals
from tests.support.runs import descend, interrupt_at

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")

PLAN = PLANS[3]  # Adam, with dropout.


@functools.cache
def whole(plan):
  """The bits of the run that is never cut."""
  return bits(run(plan, None))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """Checkpoints of a run that was cut at step 33; only to be read."""
  folder = tmp_path_factory.mktemp("good") / "checkpoints"
  run(PLAN, str(folder), stop=stop_at(PLAN, 33))
  return folder


@pytest.fixture
def folder(good, tmp_path):
  """A copy of them."""
  return shutil.copytree(good, tmp_path / "checkpoints")


def names(folder):
  return sorted((p.name for p in Path(folder).iterdir() if p.name.isdecimal()), key=int)


EACH = [  # Each compiles programs of its own; the last one is enough to see that all is well.
  pytest.param(p, id=f"{p.optimizer}-{p.dropout}", marks=[] if p == PLAN else [pytest.mark.slow])
  for p in PLANS
]


@pytest.mark.slow
@pytest.mark.parametrize("plan", EACH)
def test_a_run_that_is_cut_goes_on_to_the_same_bits(plan, tmp_path):
  """In the middle of an epoch: there are 6 or 7 steps in one."""
  run(plan, str(tmp_path), stop=stop_at(plan, 33))
  assert names(tmp_path)[-1] == "33"
  assert bits(run(plan, str(tmp_path), resumes=True)) == whole(plan)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS[2:], ids=lambda plan: f"{plan.optimizer}-{plan.dropout}")
def test_a_run_goes_on_from_any_step(plan, tmp_path):
  """With and without a validation set; the other optimisers' runs are cut once, above."""
  each = fb.train.Checkpoints(tmp_path, every=1, keep=STEPS)
  run(plan, None, checkpoints=each)
  assert names(tmp_path) == [str(i) for i in range(1, STEPS + 1)]
  for step in range(1, STEPS, 9 if plan == PLAN else 29):  # Epochs have 6 and 7 steps.
    assert bits(run(plan, None, resume=tmp_path / str(step))) == whole(plan), step


@pytest.mark.slow
def test_the_gradient_checks_are_kept_too(tmp_path):
  checked = {"check_every": 20, "eval_every": 30}
  run(PLAN, str(tmp_path), stop=stop_at(PLAN, 45), **checked)
  again = run(PLAN, str(tmp_path), resumes=True, **checked)
  assert bits(again) == bits(run(PLAN, None, **checked))
  assert [step for step, _ in again.checks] == [0, 20, 40, 60]


@pytest.mark.slow
def test_what_was_said_before_is_said_again(folder):
  said = []
  run(PLAN, str(folder), resumes=True, on_evaluation=said.append)
  assert [e.step for e in said] == [*range(4, STEPS + 1, 4)]


@pytest.mark.slow
def test_a_run_that_had_ended_takes_no_step_more(folder):
  again = run(PLAN, str(folder), resumes=True, stop=stop_at(PLAN, 33))
  assert (again.stop_reason, again.steps, len(again.losses)) == ("max_steps", 33, 33)


@pytest.mark.slow
def test_a_run_that_had_found_its_end_goes_on_for_another_one(tmp_path):
  rules = {"max_steps": 500, "loss_below": 1.0}
  stop = fb.train.StopRules(**rules)
  first = run(PLAN, str(tmp_path), stop=stop)
  assert first.stop_reason == "loss_below"
  again = run(PLAN, str(tmp_path), resumes=True, stop=stop)
  assert bits(again) == bits(first)
  longer = run(PLAN, str(tmp_path), resumes=True, stop=fb.train.StopRules(first.steps + 9))
  assert (longer.stop_reason, longer.steps) == ("max_steps", first.steps + 9)


@pytest.mark.slow
def test_the_best_one_is_kept_beside_the_last_ones(tmp_path):
  """Of a loss that falls and then, at a rate that no longer fits, rises."""
  rates = optax.piecewise_constant_schedule(0.5, {20: 20.0})
  keep = fb.train.Checkpoints(tmp_path, every=5, keep=2)
  run(PLANS[0], None, checkpoints=keep, optimizer=optax.sgd(rates))
  kept = names(tmp_path)
  assert (kept[-2:], len(kept)) == (["55", "60"], 3)
  assert int(kept[0]) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_run_goes_on(signum, tmp_path):
  """Also where no checkpoint was due."""
  asked = fb.train.Checkpoints(tmp_path / "checkpoints")

  cut = run(PLAN, None, checkpoints=asked, on_evaluation=interrupt_at(12, signum))
  assert (cut.stop_reason, cut.saved_at) == ("interrupted", cut.steps)
  assert cut.steps < STEPS
  assert bits(run(PLAN, None, resume=asked.folder)) == whole(PLAN)


@pytest.mark.slow
def test_a_run_that_isn_t_interrupted_saves_nothing_unasked(tmp_path):
  asked = fb.train.Checkpoints(tmp_path / "checkpoints")
  assert run(PLAN, None, checkpoints=asked).saved_at is None
  assert not asked.folder.exists()


# --- What is broken -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "empty", "a link"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(how, folder):
  file = folder / "33" / "run" / "state.safetensors"
  content = bytearray(file.read_bytes())
  content[-3] ^= 16
  if how in ("gone", "a link"):
    file.unlink()
    if how == "a link":
      file.symlink_to(folder / "30" / "run" / "state.safetensors")
  else:
    file.write_bytes({"flipped": content, "cut": content[:-99], "empty": b""}[how])
  events = []
  ended = run(PLAN, str(folder), resumes=True, events=events)
  assert (bits(ended), len(events)) == (whole(PLAN), 1)
  assert str(file) in events[0]
  assert events[0].endswith("the checkpoint before it is used")
  assert names(folder)[-2:] == ["55", "60"]


@pytest.mark.slow
def test_what_orbax_writes_beside_it_may_be_damaged(folder):
  """It says nothing that is needed."""
  for path in (folder / "33").rglob("*"):
    if path.is_file() and path.name != "state.safetensors":
      path.write_bytes(b'{"sc')
  assert bits(run(PLAN, str(folder), resumes=True)) == whole(PLAN)
  assert names(folder)[-1] == "60"


@pytest.mark.slow
def test_by_default_that_is_a_warning(folder):
  (folder / "33" / "run" / "state.safetensors").write_bytes(b"")
  with pytest.warns(UserWarning, match=r"33/run/state\.safetensors is not a safetensors file"):
    run(PLAN, str(folder), resumes=True, on_event=None)


@pytest.mark.slow
def test_no_checkpoint_that_is_whole(folder):
  for path in checkpoint_paths(folder):
    (path / "run" / "state.safetensors").write_bytes(b"\0" * 99)
  with pytest.raises(ValueError, match="holds no checkpoint that is whole, of 2"):
    run(PLAN, str(folder), resumes=True)


@pytest.mark.slow
def test_what_a_killed_run_left_is_cleared_away(folder):
  left = folder / "40.orbax-checkpoint-tmp-1"
  (left / "run").mkdir(parents=True)
  (left / "run" / "state.safetensors").write_bytes(b"half")
  assert bits(run(PLAN, str(folder), resumes=True)) == whole(PLAN)
  assert not left.exists()


FULL = """
import resource
from scripts.campaigns.faults import PLANS, bits, run

def fill(evaluation):
  if evaluation.step == 12:  # Of files so large there is room from here on.
    resource.setrlimit(resource.RLIMIT_FSIZE, (99, resource.RLIM_INFINITY))

events = []
result = run(PLANS[3], {folder!r}, events=events, on_evaluation=fill)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(result.unsaved, result.saved_at)
print(events[0])
print(bits(result))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_before_whole(tmp_path):
  code = FULL.format(folder=str(tmp_path))
  ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  steps, event, own = ran.stdout.strip().splitlines()
  assert steps == f"{tuple(range(15, STEPS + 1, 5))} 10"
  assert event == (
    "the checkpoint of step 15 could not be written: File too large; "
    "earlier checkpoints are unaffected"
  )
  assert own == whole(PLAN)  # The run itself went on.
  assert names(tmp_path) == ["5", "10"]
  assert bits(run(PLAN, str(tmp_path), resumes=True)) == whole(PLAN)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bits(tmp_path):
  """Where it touches a file for the n-th time: before its first checkpoint, in later ones."""
  campaign = Campaign(tmp_path)
  for touch in (9, 61, 14, 147):
    assert campaign.process(3, tmp_path / "run", touch, None) == ""
  again, at_once = (campaign.process(3, tmp_path / name, None, None) for name in ("run", "whole"))
  assert again == at_once != ""


@pytest.mark.slow
def test_no_damage_goes_unnoticed(tmp_path):
  found = damage_files(3, 0, tmp_path, 0.5)
  assert (found["bits lost"], found["not refused"], found["damages"]) == ([], [], BATCH)


def test_damage_damages(tmp_path):
  import random

  file = tmp_path / "file"
  for seed in range(9):
    file.write_bytes(b"content")
    damage(file, random.Random(seed))
    assert file.read_bytes() != b"content"


# --- Which run it is of, and whose folder ---------------------------------------------------------


OTHER_RUNS = [
  ({"batch_size": 8}, "batch_size was 7, got 8"),
  ({"key": jax.random.key(9)}, "key was "),
  ({"shuffle": "fast"}, "shuffle was exact, got fast"),
  ({"data": (jnp.ones((50, 4)), jnp.zeros(50, jnp.int32))}, "examples was "),
  ({"stop": fb.train.StopRules(60, validation_fraction=0.2)}, "examples was "),
  ({"optimizer": optax.sgd(0.1)}, "checkpoint of another network or optimiser: .*adam|mu"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "message"), OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(changed, message, good):
  with pytest.raises(ValueError, match=message):
    run(PLAN, None, resume=good, **changed)


def test_of_another_network(good):
  options = {"optimizer": optax.adam(0.01), "key": jax.random.key(PLAN.seed), "resume": good}
  net, stop = fb.mlp([4, 9, 3], dropout=PLAN.dropout), stop_at(PLAN, STEPS)
  with pytest.raises(ValueError, match="of another network or optimiser"):
    descend(net, data_of(), stop, batch_size=7, **options)


def data_of():
  rng = np.random.default_rng(PLAN.seed)
  return jnp.asarray(rng.normal(size=(50, 4)), jnp.float32), jnp.asarray(rng.integers(0, 3, 50))


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path):
  refused = []

  def begin_another(evaluation):
    if not refused:
      with pytest.raises(FolderInUseError, match="is in use by another run") as found:
        run(PLAN, str(tmp_path))
      refused.append(found)

  run(PLAN, str(tmp_path), on_evaluation=begin_another)
  assert refused
  run(PLAN, str(tmp_path), resumes=True)  # Free again.


def test_what_another_run_left_is_not_written_over(folder):
  before = names(folder)
  said = "contains checkpoints of another run, such as 33; continue it with resume="
  with pytest.raises(FileExistsError, match=said):
    run(PLAN, str(folder))
  with pytest.raises(FileExistsError, match="contains checkpoints of another run"):
    run(PLAN, str(folder), resume=shutil.copytree(folder, folder.parent / "copy"))
  assert names(folder) == before


BAD_ARGUMENTS = [
  ({"checkpoints": "folder"}, TypeError, "checkpoints must be a Checkpoints, got"),
  ({"resume": "nowhere"}, FileNotFoundError, "nowhere holds no checkpoint"),
  ({"on_nonfinite": "hope"}, ValueError, "on_nonfinite must be one of raise, skip, rollback"),
  ({"on_nonfinite": "rollback"}, ValueError, "needs checkpoints to go back to"),
  ({"on_event": "print"}, TypeError, "on_event must be a function, got"),
]


test_bad_arguments = refusals(lambda changed: run(PLAN, None, **changed), BAD_ARGUMENTS)


BAD_CHECKPOINTS = [
  ((3,), TypeError, "checkpoints.folder must be a path, got 3"),
  (("f", 0), ValueError, "checkpoints.every must be at least 1, got 0"),
  (("f", 1.5), TypeError, "checkpoints.every must be an integer, got float 1.5"),
  (("f", 1, 0), ValueError, "checkpoints.keep must be at least 1, got 0"),
  (("f", 1, None), TypeError, "checkpoints.keep must be an integer, got NoneType None"),
]


test_bad_checkpoints = refusals(lambda arguments: fb.train.Checkpoints(*arguments), BAD_CHECKPOINTS)


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    run(PLAN, str(tmp_path / "file" / "checkpoints"))


def test_the_checkpoint_says_what_it_is_of(good):
  """In the metadata of a safetensors file, which anybody can read."""
  content = (good / "33" / "run" / "state.safetensors").read_bytes()
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
  said = json.loads(header["__metadata__"]["fbackprop.run"])
  assert (said["identity"]["batch_size"], said["stop"]["max_steps"]) == (7, 33)
  assert header["loop.state.params.0.w"]["shape"] == [4, 8]
