"""Runs the commands that README.md shows and puts their output in the place of the old one.

A block of README.md that begins with three backquotes and `console` holds commands, each behind a
`$`, and their output. With `--check` nothing is written: the exit code is 1 and the differences are
printed if an output is another one. What differs from run to run is compared with its numbers
masked: the digits of a training run depend on the processor, times on everything. The test suite
is run with `--tests` only; a command that shows no output is not run.
"""

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
FILE = re.compile(r"in `(test_\w+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r" *[\d,.]*\d(e[+-]\d+)?")
ELLIPSIS = "...\n"


class Command(NamedTuple):
  """A command of the page.

  Attributes:
    start: the beginning of its line.
    is_exact: whether every digit of its output is the same for all runs and machines.
    only: the lines of its output that the page shows, or all.
    is_slow: whether it runs with `--tests` only.
  """

  start: str
  is_exact: bool
  only: str = ".*"
  is_slow: bool = False


COMMANDS = (
  Command(".venv/bin/fbackprop circuit ", is_exact=True),
  Command("bash scripts/train.sh", is_exact=False),
  Command("bash scripts/test.sh", False, only=r"\d+ passed.*", is_slow=True),
  Command("pytest -q ", is_exact=False, only=r"E( .*)?"),
)


def output_of(line: str, command: Command, folder: Path) -> str:
  """Run a command line of the page and return the shown part of its output."""
  line = re.sub(r"(?<!\S)\.venv/bin/", "", line).replace("bash scripts/", f"bash {ROOT}/scripts/")
  path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
  environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
  run = subprocess.run(
    line, shell=True, cwd=ROOT if command.is_slow else folder, env={**environment, "PATH": path},
    stdout=subprocess.PIPE, text=True, check=False,
  )  # fmt: skip
  lines = (text.rstrip() for text in run.stdout.splitlines())
  return "".join(f"{text}\n" for text in lines if re.fullmatch(command.only, text))


def refreshed(page: str, folder: Path, *, with_tests: bool, keep_same: bool) -> str:
  """Return the page with the present outputs.

  Args:
    page: the text of README.md.
    folder: an empty folder for the files of the commands.
    with_tests: whether to run the test suite.
    keep_same: whether to keep an output that differs from the page's in its numbers alone.
  """
  for name, text in FILE.findall(page):
    (folder / name).write_text(text, encoding="utf-8")

  def run_command(match: re.Match[str]) -> str:
    line, old = match[1], match[2]
    command = next((c for c in COMMANDS if line.startswith(c.start)), None)
    if command is None or not old.strip() or (command.is_slow and not with_tests):
      return match[0]
    print(f"$ {line}", file=sys.stderr, flush=True)
    head = ELLIPSIS if old.startswith(ELLIPSIS) else ""
    new = head + output_of(line, command, folder) + "\n" * old.endswith("\n\n")
    if keep_same and not command.is_exact and NUMBER.sub(" #", new) == NUMBER.sub(" #", old):
      new = old
    return f"$ {line}\n{new}"

  return BLOCK.sub(lambda block: COMMAND.sub(run_command, block[0]), page)


def main() -> int:
  """Run the script; return 1 if `--check` finds a different output."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--check", action="store_true", help="write nothing, print the differences")
  parser.add_argument("--tests", action="store_true", help="run the test suite too")
  options = parser.parse_args()
  page = README.read_text(encoding="utf-8")
  with tempfile.TemporaryDirectory() as folder:
    new = refreshed(page, Path(folder), with_tests=options.tests, keep_same=options.check)
  if not options.check:
    README.write_text(new, encoding="utf-8")
    return 0
  old, now = page.splitlines(keepends=True), new.splitlines(keepends=True)
  difference = list(difflib.unified_diff(old, now, "README.md", "the output of now"))
  sys.stdout.writelines(difference)
  if difference:
    print("\nnext: python scripts/refresh_readme.py, and look at what it changed")
  return int(bool(difference))


if __name__ == "__main__":
  sys.exit(main())
