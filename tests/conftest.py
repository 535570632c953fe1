"""Strictness for every test, without look-ups while reading one; runs that draw nothing.

JAX reads these settings before its backend starts, so they are at the top of the first file that
pytest imports. x64 is off, the user's default: a test of float64 uses `jax.enable_x64(True)`.
"""

import hypothesis
import jax
import pytest

from tests.support.browser import launched

# Two devices on any machine, so that tests on two devices always run.
jax.config.update("jax_num_cpu_devices", 2)
# Without it a [N] and a [N, 1] would silently broadcast to [N, N], and give a wrong mean.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# With TF32 products of float32 on a GPU, the laws would measure the hardware.
jax.config.update("jax_default_matmul_precision", "highest")

# Deterministic examples, and no files in the folder. Compilation takes unpredictable time, hence no
# deadline.
hypothesis.settings.register_profile(
  "fixed", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True, scope="module")
def state_of_draws(request):
  """The state of the module's RNG behind its imports."""
  module = getattr(request, "module", None)  # None of a page of documentation.
  return {} if not hasattr(module, "RNG") else dict(module.RNG.bit_generator.state)


@pytest.fixture(autouse=True)
def same_draws(request, state_of_draws):
  """A test draws the same numbers, whichever tests of its module ran in this process before."""
  if state_of_draws:
    request.module.RNG.bit_generator.state = state_of_draws


@pytest.fixture(scope="module")
def as_a_user_has_it():
  """Optax's own counters meet its floats, which the strict promotion above refuses."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def compiled_for_users(monkeypatch):
  """Compile with all optimizations, here and in other processes; CI leaves most of them out.

  For tests of printed digits: XLA rounds, and computes tanh, in another way without them.
  """
  monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
  if not jax.config.read("jax_disable_most_optimizations"):
    yield
    return
  jax.config.update("jax_disable_most_optimizations", False)
  jax.clear_caches()
  yield
  jax.config.update("jax_disable_most_optimizations", True)
  jax.clear_caches()


@pytest.fixture
def in_float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def browser():
  with launched() as found:
    yield found


def undraw(patch):
  """Replace the picture and the page of a run, which take longer than a short run."""
  patch.setattr("fbackprop.train.report.draw_report", lambda *_, **tell: b"a picture")

  def draw_page(*_, when_drawn):
    when_drawn()
    return b"a page"

  patch.setattr("fbackprop.train.report.draw_page", draw_page)
  patch.setattr("fbackprop.train.report.draw_ensemble_page", draw_page)
  patch.setattr("fbackprop.train.report.load_packages", lambda: None)


@pytest.fixture
def undrawn(monkeypatch):
  undraw(monkeypatch)


@pytest.fixture(scope="module")
def all_undrawn():
  """The same for a module, with the runs of its fixtures."""
  with pytest.MonkeyPatch.context() as patch:
    undraw(patch)
    yield
