"""docs/errors.md is a table of what can be wrong: each of its rows is run, and must be true.

Every flag of every command has a row, and is given no value, a wrong type and an unknown choice.
"""

import re
import shlex
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import tyro

from fbackprop.cli import COMMANDS, main
from tests.files_of_failures import make_files

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
MORE = "…"


class Row(NamedTuple):
  """What is run, and what is said; `flag` is "" for a kind of file."""

  command: str
  flag: str
  words: tuple[str, ...]
  said: str


def rows_of(page):
  """The rows of the tables; those of a command stand under its name."""
  command, rows = "", []
  for line in page.splitlines():
    if line.startswith("## "):
      command = next((name for name in COMMANDS if f"`fbackprop {name}`" in line), "")
    cells = [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
    if not line.startswith("|") or cells[1] in ("flag", "what is wrong", "---"):
      continue
    *about, words, said = cells[1:-1]
    words = shlex.split(words)
    own, words = (command, words) if command else (words[0], words[1:])
    rows.append(Row(own, about[0] if command else "", tuple(words), said))
  return rows


ROWS = rows_of(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("failures")
  make_files(folder)
  return folder


@pytest.fixture
def folder(files, monkeypatch):
  """The current folder, whose modules can be imported; nothing is written into it."""
  monkeypatch.chdir(files)
  monkeypatch.setattr(sys, "path", list(sys.path))
  before = sorted(files.iterdir())
  yield files
  assert [path for path in sorted(files.iterdir()) if path.name != "__pycache__"] == [
    path for path in before if path.name != "__pycache__"
  ]
  for name in ("rules", "broken"):
    sys.modules.pop(name, None)


def refused(capsys, command, words):
  """What stands on stderr when a command is refused with code 2; a box without its frame."""
  try:
    code = main([command, *words])
  except SystemExit as ended:
    code = ended.code
  assert code == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  if printed.err.startswith("fbackprop: "):
    return printed.err
  return " ".join(re.sub("[╭╮╰╯│─]", " ", printed.err).split())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join((row.command, *row.words)))
def test_a_row_of_the_page_is_what_is_said(folder, capsys, row):
  text = refused(capsys, row.command, row.words)
  known = row.said.removesuffix(MORE).rstrip()
  if not text.startswith("fbackprop: "):
    assert known in text
  elif row.said.endswith(MORE):
    assert text.startswith(f"fbackprop: {known}")
  else:
    assert text == f"fbackprop: {known}\n"


# --- Every flag -----------------------------------------------------------------------------------


def flags_of(config, prefix=""):
  """The flags of a dataclass with their types; of a positional argument, what stands for it."""
  hints = get_type_hints(config, include_extras=True)
  for field in fields(config):
    kind = hints[field.name]
    if is_dataclass(kind):
      yield from flags_of(kind, f"{prefix}{field.name}.")
    elif tyro.conf.Positional is kind or "Positional" in str(kind):
      yield re.search(r"metavar='([^']+)'", str(kind))[1], None
    else:
      plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
      yield f"--{prefix}{field.name}".replace("_", "-"), plain


FLAGS = {
  (command, flag): kind
  for command in COMMANDS
  for flag, kind in flags_of(
    getattr(import_module(f"fbackprop.cli.{command}"), f"{command.capitalize()}Config")
  )
}
VALUED = {key: kind for key, kind in FLAGS.items() if kind not in (None, bool)}


def test_every_flag_has_a_row():
  assert {("train", "--stop.tol"), ("eval", "RUN"), ("circuit", "--at")} < FLAGS.keys()
  missing = FLAGS.keys() - {(row.command, row.flag) for row in ROWS}
  assert not missing, f"docs/errors.md has no row of {sorted(missing)}"


def is_list(kind):
  return any(get_origin(part) is tuple for part in (kind, *get_args(kind)))


def is_text(kind):
  return str in (kind, *get_args(kind)) or (is_list(kind) and str in get_args(kind))


def needed(command):
  """What a command must have besides the flag that is tried."""
  return {"eval": ["run"], "predict": ["run", "--data", "csv:t.csv"], "info": ["run"]}.get(
    command, []
  )


@pytest.mark.parametrize(("command", "flag"), [key for key in VALUED if not is_list(VALUED[key])])
def test_a_flag_without_its_value_is_refused(folder, capsys, command, flag):
  said = refused(capsys, command, [*needed(command), flag])
  assert f"Missing value for argument '{flag}'" in said


@pytest.mark.parametrize(("command", "flag"), [key for key in VALUED if not is_text(VALUED[key])])
def test_a_value_of_a_wrong_type_is_refused(folder, capsys, command, flag):
  said = refused(capsys, command, [*needed(command), flag, "no such thing"])
  assert flag in said
  assert "no such thing" in said


def test_the_types_are_told_apart():
  assert VALUED["train", "--rate"] is float
  assert not is_text(VALUED["train", "--rates"])
  assert is_list(VALUED["train", "--target"])
  assert is_text(VALUED["train", "--name"])
  assert Literal in map(
    get_origin, (VALUED["train", "--task"], *get_args(VALUED["verify", "--ties"]))
  )
