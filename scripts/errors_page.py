"""Writes docs/errors.md: runs each case of tests/support/cases_of_failures.toml.

`python scripts/errors_page.py` writes the page, and with `--check` says whether it is up to date.
`tests/cli/test_failures.py` runs the cases one by one.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fbackprop.cli import main as fbackprop  # noqa: E402
from tests.support.files_of_failures import make_files  # noqa: E402

PAGE = ROOT / "docs" / "errors.md"
CASES = ROOT / "tests" / "support" / "cases_of_failures.toml"


class Case(NamedTuple):
  """A rejected command.

  Attributes:
    command: the subcommand of fbackprop, such as "train".
    flag: the flag that is wrong; "" for a file.
    wrong: the fault.
    typed: the cell of the page with the command line.
    until: the words after which the page cuts off the message; "" for all of it.
  """

  command: str
  flag: str
  wrong: str
  typed: str
  until: str = ""

  @property
  def words(self) -> list[str]:
    """The arguments of fbackprop."""
    words = shlex.split(self.typed)
    return [self.command, *words] if self.flag else words

  def as_row(self, message: str) -> str:
    """Format the case as a row of the page."""
    cells = [f"`{self.flag}`"] * bool(self.flag)
    cells += [self.wrong, *(f"`{text}`" if text else "" for text in (self.typed, message))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def read_cases() -> dict[str, Any]:
  """Read the cases; those of a section as "cases"."""
  content = tomllib.loads(CASES.read_text(encoding="utf-8"))
  for section in content["sections"]:
    command = section.get("command", "")
    section["cases"] = [Case(command or row[2].split()[0], *row) for row in section["rows"]]
  return content


def message_of(case: Case) -> str:
  """Run a case in the current folder, and return its message as on the page.

  Raises:
    ValueError: the exit code isn't 2, or something was printed on stdout.
  """
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      code = fbackprop(case.words)
    except SystemExit as ended:  # Raised by the parser of the flags.
      code = ended.code if isinstance(ended.code, int) else 1
  text = err.getvalue()
  if code != 2 or out.getvalue():
    said = f"{out.getvalue()}{text}"
    raise ValueError(f"fbackprop {shlex.join(case.words)}: exit code {code}\n{said}")
  is_box = not text.startswith("fbackprop: ")
  if is_box:  # A title, the message and remarks, with lines between them.
    part = re.split("[─-]{8,}", re.sub("[╭╮╰╯│]", " ", text))[1]
    text = " ".join(part.partition("Got errors:")[0].split())
  text = text.removeprefix("fbackprop: ").removesuffix("\n")
  if case.until:
    text = text[: text.index(case.until) + len(case.until)]
  return f"{text} …" if is_box or case.until else text


def render(content: dict[str, Any], message: Callable[[Case], str]) -> str:
  """Format the page, with a message for each case."""
  parts = ["# Errors", content["intro"].strip()]
  for section in content["sections"]:
    is_of_files = "command" not in section
    heads = ["what is wrong", "command"] if is_of_files else ["flag", "what is wrong", "with"]
    table = [f"| {' | '.join(heads)} | message |", "|---" * (len(heads) + 1) + "|"]
    table += [case.as_row(message(case)) for case in section["cases"]]
    about = section.get("about", "").strip()
    parts += [f"## {section['title']}", *([about] if about else []), "\n".join(table)]
  return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
  """Run the script; return 1 if the page isn't up to date."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--check", action="store_true", help="write nothing")
  is_check = parser.parse_args(arguments).check
  with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    make_files(Path(folder))
    page = render(read_cases(), message_of)
  if page != PAGE.read_text(encoding="utf-8"):
    shown = os.path.relpath(PAGE)
    if is_check:
      print(f"{shown} is not up to date: run scripts/errors_page.py", file=sys.stderr)
      return 1
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: {shown}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
