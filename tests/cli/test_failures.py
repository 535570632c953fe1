"""Each case of cases_of_failures.toml is run, and docs/errors.md must have what is printed.

Every flag of every command has a case, and is given no value, a wrong type and an unknown choice.
"""

import re
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro

from fbackprop.cli import COMMANDS
from scripts.errors_page import PAGE, message_of, read_cases, render
from tests.support.files_of_failures import make_files
from tests.support.refusals import refused

CONTENT = read_cases()
CASES = [case for section in CONTENT["sections"] for case in section["cases"]]
LINES = PAGE.read_text(encoding="utf-8").splitlines()


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.words))
def test_a_row_of_the_page_is_what_is_printed(folder, case):
  assert case.as_row(message_of(case)) in LINES, "next: python scripts/errors_page.py"


def test_the_page_has_these_rows_and_texts():
  expected = render(CONTENT, lambda case: "").splitlines()
  for line, own in zip(LINES, expected, strict=True):
    assert line == own or line.startswith(own.removesuffix(" |")), "next: scripts/errors_page.py"


def refused_in_words(capsys, *words):
  """What stands on stderr when a command is refused; a box without its frame."""
  return " ".join(re.sub("[╭╮╰╯│─]", " ", refused(capsys, *words)).split())


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
    getattr(import_module(f"fbackprop.cli.{COMMANDS[command][0]}"), f"{command.capitalize()}Config")
  )
}
VALUED = {key: kind for key, kind in FLAGS.items() if kind not in (None, bool)}


def test_every_flag_has_a_case():
  assert {("train", "--stop.tol"), ("eval", "RUN"), ("circuit", "--at")} < FLAGS.keys()
  missing = FLAGS.keys() - {(case.command, case.flag) for case in CASES}
  assert not missing, f"there is no case of {sorted(missing)}"


def is_list(kind):
  return any(get_origin(part) is tuple for part in (kind, *get_args(kind)))


def is_text(kind):
  return str in (kind, *get_args(kind)) or (is_list(kind) and str in get_args(kind))


def needed(command):
  """What a command must have besides the flag that is tried."""
  weights = ["weights.safetensors", "--out", "m.safetensors"]
  return {
    "eval": ["run"], "predict": ["run", "--data", "csv:t.csv"], "info": ["run"], "compare": ["run"],
    "export": ["run", "--out", "a.onnx"], "import": weights,
  }.get(command, [])  # fmt: skip


@pytest.mark.parametrize(("command", "flag"), [key for key in VALUED if not is_list(VALUED[key])])
def test_a_flag_without_its_value_is_refused(folder, capsys, command, flag):
  said = refused_in_words(capsys, command, *needed(command), flag)
  assert f"Missing value for argument '{flag}'" in said


@pytest.mark.parametrize(("command", "flag"), [key for key in VALUED if not is_text(VALUED[key])])
def test_a_value_of_a_wrong_type_is_refused(folder, capsys, command, flag):
  said = refused_in_words(capsys, command, *needed(command), flag, "no such thing")
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
