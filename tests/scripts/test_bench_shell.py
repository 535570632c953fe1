"""The bench of whole commands: what it waits for, counts and reads; the commands are small ones."""

import os
import resource
import sys

import numpy as np
import pytest

from scripts.benchmarks import shell

# Ends at once; a process that it began goes on for a while, and then writes a file.
BEGIN_ANOTHER = """
import subprocess, sys
code = "import time; time.sleep(0.4); open('late', 'w').close()"
subprocess.Popen([sys.executable, "-c", code])
print("test accuracy 0.5; the rest")
"""
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")


@pytest.mark.slow
def test_a_command_lasts_until_all_of_its_processes_have_ended(tmp_path):
  command = [sys.executable, "-c", BEGIN_ANOTHER]
  found = shell.timed(command, dict(os.environ), str(tmp_path))
  assert (tmp_path / "late").exists()
  assert found.seconds >= 0.4
  assert 0 < found.cpu < found.seconds * (os.cpu_count() or 1)
  own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB; it is counted too.
  assert 1 < found.memory < own + 100
  assert shell.score_in(found.output) == "0.5"


def test_a_command_that_fails_ends_the_bench_with_what_it_said(tmp_path):
  with pytest.raises(SystemExit, match=r"(?s)bench\.py shell: .* failed: .*no such thing"):
    shell.timed([sys.executable, "-c", "raise OSError('no such thing')"], {}, str(tmp_path))


@pytest.mark.slow
@needs_proc
def test_memory_is_that_of_all_processes_at_once(tmp_path):
  hold = "import time; held = bytearray(100 * 2**20); time.sleep(1)"
  code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"
  assert 200 < shell.together([sys.executable, "-c", code], {}, str(tmp_path)) < 400


def test_each_round_has_a_seed_and_a_rate_of_its_own_and_no_cache_of_ours(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
  own = shell.Candidate("here", ("-m", "fbackprop", "train"), tmp_path)
  commands = [own.command(number) for number in (1, 2)]
  assert [command[1:4] for command in commands] == [["-m", "fbackprop", "train"]] * 2
  assert commands[0][4:] == ["--seed", "1", "--rate", "0.501"]
  assert commands[1][4:] == ["--seed", "2", "--rate", "0.502"]
  environment = own.environment("/cache")
  assert environment["XDG_CACHE_HOME"] == "/cache"
  assert environment["PYTHONPATH"] == str(tmp_path)
  assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_a_row_is_the_ratio_within_rounds(capsys):
  ours, theirs = np.array([1.0, 4.0, 9.0]), np.array([2.0, 4.0, 3.0])
  row = shell.line_of("warm", "torch", 3, "0.98", theirs, ours, theirs, 10 * theirs)
  assert (row["here_over_it"], row["seconds"], row["memory"]) == (1.0, 3.0, 30.0)
  assert capsys.readouterr().out.split()[:2] == ["torch", "3.00s"]


def test_an_output_without_a_score_has_none():
  assert shell.score_in("nothing") == "-"
  assert shell.score_in("test accuracy  epoch\ntest accuracy 0.9844; more") == "0.9844"
