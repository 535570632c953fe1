"""Strictness for every test; nothing here may need a look-up while reading one.

JAX takes these settings before its backend starts, so they stand at the top of the first file that
pytest imports. x64 stays off, as a user finds it: a test of float64 says `jax.enable_x64(True)`.
"""

import hypothesis
import jax
import pytest

# Two devices on any machine, so that "the same on two devices" is a test and not a hope.
jax.config.update("jax_num_cpu_devices", 2)
# A [N] that meets a [N, 1] would make [N, N], and a wrong mean, without a word.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Where a GPU would round the products of float32 to TF32, the laws would measure the hardware.
jax.config.update("jax_default_matmul_precision", "highest")

# The same examples today and tomorrow, and nothing left in the folder. Compilation takes what it
# takes, hence no deadline.
hypothesis.settings.register_profile(
  "fixed", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True, scope="session")
def compiled_programs(pytestconfig):
  """Keeps what takes its time to compile in pytest's cache: most of the time goes into that."""
  cache = getattr(pytestconfig, "cache", None)  # None with `-p no:cacheprovider`.
  if cache is not None:
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
