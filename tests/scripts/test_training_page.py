"""docs/training.md: each command runs, in order, and prints what the page shows."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from fbackprop.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
COMMANDS = re.findall(r"```console\n\$ fbackprop (.*)\n((?:.*\n)*?)```", PAGE.read_text("utf-8"))
MAKER = re.search(r"```python\n(import csv\n(?:.*\n)*?)```", PAGE.read_text("utf-8"))[1]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def words_and_numbers(text):
  """A text without its numbers, and those that aren't errors of rounding."""
  numbers = [float(n) for n in NUMBER.findall(text)]
  return NUMBER.sub("#", text).split(), [n for n in numbers if abs(n) > 1e-5 or n == 0]


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_for_users", "undrawn")
def test_the_page_prints_what_it_shows(tmp_path, capsys):
  assert len(COMMANDS) == 10
  with contextlib.chdir(tmp_path):
    exec(compile(MAKER, str(PAGE), "exec"), {})  # noqa: S102  # The page's own block.
    for command, shown in COMMANDS:
      assert main(shlex.split(command)) == 0, command
      got, want = words_and_numbers(capsys.readouterr().out), words_and_numbers(shown)
      assert got[0] == want[0], command
      # Of training for hundreds of steps, another processor's rounding may show in the last digits.
      assert got[1] == pytest.approx(want[1], rel=0.05, abs=0.02), command
