"""The compilation cache: whose command switches it on, what it keeps, and what damages it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import fbackprop
from fbackprop import compilation_cache
from fbackprop.cli import main
from tests.support.runs import metrics_of

ROOT = Path(fbackprop.__file__).parents[1]
# A run with a loop of donated arrays ("skip"); nothing is drawn, which takes longer than the run.
UNDRAWN = """
import sys
from fbackprop.cli import main
import fbackprop.train.report as report
def page(*_, when_drawn):
  when_drawn()
  return b"a page"
report.draw_report, report.draw_page = lambda *_, **tell: b"a picture", page
report.load_packages = lambda: None
sys.exit(main())
"""
TRAIN = ("train", "--data", "sine", "--hidden", "--stop.max-steps", "40", "--eval-every", "20",
         "--check-every", "40", "--on-nonfinite", "skip")  # fmt: skip
LIBRARY = """
import jax, jax.numpy as jnp
import fbackprop as fb
from fbackprop.cli import main
x = jnp.ones((8, 2))
fb.train.fit(
  fb.mlp([2, 1]), fb.squared_error, (x, x[:, :1]), optimizer=fb.train.gradient_descent(0.1),
  stop=fb.train.StopRules(2), key=jax.random.key(0),
)
assert main(["--version"]) == 0
assert jax.config.jax_compilation_cache_dir is None
"""


def run_python(code, home, *arguments, **variables):
  """Run code in a process with its own cache folder; return what it printed on stderr."""
  known = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments], cwd=home, capture_output=True, text=True,
    env={**known, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache"), **variables},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stderr


def programs(folder):
  """The programs in a cache, by name, with their bytes."""
  return {path.name: path.read_bytes() for path in Path(folder).rglob("*-cache")}


def kinds(folder):
  """The names of the functions in a cache."""
  return sorted(name.partition("-")[0] for name in programs(folder))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """The folder of a first run of the command line, with the programs that it left."""
  home = tmp_path_factory.mktemp("home")
  assert run_python(UNDRAWN, home, *TRAIN) == ""
  return home


@pytest.mark.slow
def test_a_second_run_compiles_nothing_and_computes_the_same(home):
  before = programs(home / "cache")
  # All that a run asks for: its key, its start, the loop, evaluation, check, and what is drawn.
  assert kinds(home / "cache") == [
    "jit_chunk", "jit_gradients", "jit_key", "jit_look", "jit_measure", "jit_start"
  ]  # fmt: skip
  assert run_python(UNDRAWN, home, *TRAIN) == ""
  assert programs(home / "cache") == before
  first, second = (metrics_of(home / "runs" / f"sine-{k}") for k in (1, 2))
  assert first == second


@pytest.mark.slow
def test_a_damaged_program_is_replaced_without_a_word(home):
  before = programs(home / "cache")
  folder = next((home / "cache" / "fbackprop").iterdir())
  chunk = next(folder.glob("jit_chunk-*-cache"))
  chunk.write_bytes(chunk.read_bytes()[:100])  # As a full disk leaves it.
  assert run_python(UNDRAWN, home, *TRAIN) == ""
  assert programs(home / "cache").keys() == before.keys()
  assert len(chunk.read_bytes()) > 1000


@pytest.mark.slow
def test_a_folder_that_the_user_chose_for_jax_is_used_in_its_place(home, tmp_path):
  run_python(UNDRAWN, tmp_path, *TRAIN, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"),
             JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")  # fmt: skip
  assert not (tmp_path / "cache").exists()
  # By name: in jax 0.10 the rest of a program's key depends on the folder.
  assert kinds(tmp_path / "own") == kinds(home / "cache")


@pytest.mark.slow
def test_without_a_cache_nothing_is_kept(tmp_path):
  assert run_python(UNDRAWN, tmp_path, *TRAIN, "--no-cache") == ""
  assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_library_keeps_nothing(tmp_path):
  run_python(LIBRARY, tmp_path)
  assert not (tmp_path / "cache").exists()


def test_the_programs_used_longest_ago_are_deleted_beyond_the_largest_size(tmp_path):
  for age, name in enumerate("abcd"):
    program = tmp_path / f"jit_{name}-0-cache"
    program.write_bytes(bytes(100))
    os.utime(program, (1e9 - age, 1e9 - 10 * age))
  os.utime(tmp_path / "jit_d-0-cache", (1e9 + 1, 0))  # Old, and used last.
  compilation_cache.prune(tmp_path, 400)
  assert len(os.listdir(tmp_path)) == 4  # Not by reading them, which is a use.
  compilation_cache.prune(tmp_path, 250)
  assert sorted(os.listdir(tmp_path)) == ["jit_a-0-cache", "jit_d-0-cache"]


@pytest.fixture
def without_jax(monkeypatch, tmp_path):
  """A process whose JAX isn't imported yet, and a home of its own."""
  monkeypatch.delitem(sys.modules, "jax")
  for name in [name for name in os.environ if name.startswith("JAX_")]:
    monkeypatch.delenv(name)
  # What the function sets is taken back as well.
  for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  return tmp_path


def test_the_folder_is_the_users_alone(without_jax):
  path = compilation_cache.switch_on()
  assert path is not None
  assert path.is_relative_to(without_jax / "fbackprop")
  assert path.stat().st_mode & 0o777 == 0o700
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(path)
  # A second one finds the first one's, as a user's.
  assert compilation_cache.switch_on() is None


def test_where_no_folder_can_be_made_nothing_is_changed(without_jax, monkeypatch):
  (without_jax / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(without_jax / "file"))
  assert compilation_cache.switch_on() is None
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_folder_in_the_configuration_of_jax_is_the_users(monkeypatch, tmp_path):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  try:
    assert compilation_cache.switch_on() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_other_warnings_are_shown_as_before(tmp_path):
  shown = []
  compilation_cache.delete_damaged(
    tmp_path, lambda *rest: shown.append(rest), "a word", UserWarning
  )
  assert shown == [("a word", UserWarning)]
  for name in ("jit_a-1-cache", "jit_b-2-cache"):
    (tmp_path / name).write_text("")
  said = "Error reading persistent compilation cache entry for 'jit_a': zlib.error"
  compilation_cache.delete_damaged(tmp_path, lambda *rest: shown.append(rest), said, UserWarning)
  assert len(shown) == 1
  assert sorted(os.listdir(tmp_path)) == ["jit_b-2-cache"]


def test_a_call_of_the_command_line_from_python_changes_no_cache():
  before = jax.config.jax_compilation_cache_dir, warnings.showwarning, dict(os.environ)
  assert main(["circuit", "f = x * y", "--at", "x=2", "y=3"]) == 0
  assert before == (jax.config.jax_compilation_cache_dir, warnings.showwarning, dict(os.environ))
