"""Each reader is fed broken files: it reads them, or says in an error of ours which file is wrong.

The rows of known damage stand in `test_failures.py`; here nobody knows what is wrong.
"""

import contextlib
import io
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fbackprop.cli.usage import UsageError
from tests.hostile import KINDS, broken

CLEAR = (ValueError, TypeError, OSError, UsageError)


def feed(folder, kind, content):
  """Reads a file; what isn't read is refused by its name."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  path = folder / kind.name
  path.write_bytes(content)
  for read in kind.reads:
    try:
      with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        read(path)
    except CLEAR as error:
      # An exception of the machinery's has no name in it.
      assert folder.name in str(error), repr(error)


@pytest.mark.parametrize("name", KINDS)
def test_a_valid_file_is_read(tmp_path, name):
  """By the first of its readers, so that the others see more than refusals."""
  kind = KINDS[name]
  path = tmp_path / kind.name
  path.write_bytes(kind.pack(kind.valid[0]))
  with contextlib.redirect_stdout(io.StringIO()):
    kind.reads[-1 if name == "npy" else 0](path)


def fuzz(name, folder, count):
  kind = KINDS[name]

  @settings(max_examples=count, suppress_health_check=[HealthCheck.too_slow])
  @given(st.data())
  def fed(data):
    feed(folder / "hostile", kind, data.draw(broken(kind)))

  fed()


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_file_is_refused_by_name(tmp_path, name):
  fuzz(name, tmp_path, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_broken_files_are_refused_by_name(tmp_path, name):
  fuzz(name, tmp_path, 2000)
