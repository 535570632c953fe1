"""Each reader is fed broken files: it reads them, or says in an error of ours which file is wrong.

The rows of known damage stand in `test_failures.py`; here nobody knows what is wrong.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fbackprop.cli.console import UsageError
from fbackprop.files import open_plain
from tests.support.hostile import KINDS, MODEL, TOLD, broken, read_run

CLEAR = (ValueError, TypeError, OSError, UsageError)


def feed(folder, kind, content):
  """Reads a file; what isn't read is refused by its name."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  path = folder / kind.name
  path.write_bytes(content)
  for read in kind.reads:
    error = refusal(read, path)
    # An exception of the machinery's has no name in it.
    assert error is None or folder.name in str(error), repr(error)


def refusal(read, path):
  """The error of ours that a reader ends with, if it does."""
  try:
    # As a terminal has it, which takes no half of a letter.
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
      read(path)
  except CLEAR as error:
    return error
  return None


@pytest.mark.parametrize("name", KINDS)
def test_a_valid_file_is_read(tmp_path, name):
  """By the first of its readers, so that the others see more than refusals."""
  kind = KINDS[name]
  path = tmp_path / kind.name
  path.write_bytes(kind.pack(kind.valid[0]))
  assert refusal(kind.reads[-1 if name.startswith("npy") else 0], path) is None


def fuzz(name, folder, count):
  kind = KINDS[name]

  @settings(max_examples=count, suppress_health_check=[HealthCheck.too_slow])
  @given(st.data())
  def fed(data):
    feed(folder / "hostile", kind, data.draw(broken(kind)))

  fed()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_broken_file_is_refused_by_name(tmp_path, name):
  fuzz(name, tmp_path, 40)


def make_pipe(path):
  os.mkfifo(path)


def make_socket(path):
  with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
    made.bind(path.name)  # By its name alone, as a path of a socket must be short.


def make_device(path):
  path.symlink_to("/dev/zero")


def make_circle(path):
  path.symlink_to(path.name)


def make_nothing(path):
  path.symlink_to("nothing")


@pytest.fixture
def patience():
  """Ends a test that waits for a pipe."""

  def end(signum, frame):
    raise AssertionError("it waits")

  before = signal.signal(signal.SIGALRM, end)
  signal.alarm(20)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["csv", "npz", "idx", "idx.gz", "mat", "weights", "model", "toml",
                                  "told", "json", "run", "run's model"])  # fmt: skip
@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device, make_circle, Path.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path, patience, name, make):
  kind, folder = KINDS[name], tmp_path / "hostile"
  folder.mkdir()
  make(folder / kind.name)
  for read in kind.reads:
    error = refusal(read, folder / kind.name)
    assert error is not None
    assert str(folder) in str(error)


def test_a_pipe_in_the_place_of_a_file_that_was_there_is_refused(tmp_path, patience, monkeypatch):
  """Between the look and the opening; the second look is at what was opened."""
  make_pipe(tmp_path / "pipe")
  plain = os.stat(__file__)
  with monkeypatch.context() as patch:
    patch.setattr(os, "stat", lambda path: plain)
    error = refusal(open_plain, tmp_path / "pipe")
  assert str(tmp_path / "pipe") in str(error)
  assert "it is a pipe, and must be a file" in str(error)


def test_a_zero_byte_in_a_name_is_an_os_error():
  with pytest.raises(OSError, match="no file has a zero byte in its name"):
    open_plain("a\0b")


@pytest.mark.parametrize("name", ["model.safetensors", "config.toml", "summary.json", "env.json"])
def test_a_link_out_of_a_run_is_not_followed(tmp_path, name):
  """A link inside of it is, and the folder may be one itself."""
  content = {"model.safetensors": MODEL, "config.toml": TOLD.encode()}.get(name, b"{}")
  run = tmp_path / "run"
  run.mkdir()
  (tmp_path / "secret").write_bytes(content)
  for there in (Path("..", "secret"), tmp_path / "secret"):
    (run / name).symlink_to(there)
    error = refusal(read_run, run / name)
    said = f"fbackprop: {run / name} is a link out of the run's folder, to {tmp_path / 'secret'}\n"
    assert str(error) == said
    (run / name).unlink()
  (run / "mine").write_bytes(content)
  (run / name).symlink_to("mine")
  (tmp_path / "latest").symlink_to(run)
  assert refusal(read_run, run / name) is None
  assert refusal(read_run, tmp_path / "latest" / name) is None


def test_info_lists_whatever_stands_in_a_run(tmp_path):
  make_pipe(tmp_path / "pipe")
  make_nothing(tmp_path / "link")
  with contextlib.suppress(OSError):  # Where the file system knows letters only.
    (tmp_path / os.fsdecode(b"\xff")).touch()
  assert refusal(read_run, tmp_path / "summary.json") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_broken_files_are_refused_by_name(tmp_path, name):
  fuzz(name, tmp_path, 150)
