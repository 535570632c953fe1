"""What a run is told: default < file < flag, and what can't be is refused by name, with code 2."""

import itertools
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import fbackprop
from fbackprop.cli import main
from fbackprop.cli.config import DEFAULTS, GENERAL, TrainConfig, saved
from fbackprop.cli.console import UsageError
from fbackprop.cli.train import parse
from fbackprop.train import run_folder as runs
from fbackprop.train.arguments import StopRules
from tests.support.refusals import refused


def file_of(tmp_path, text):
  path = tmp_path / "told.toml"
  path.write_text(text, encoding="utf-8")
  return str(path)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
  path = file_of(tmp_path, "seed = 3\nrate = 1\nhidden = [5, 6]\n[stop]\ntol = 0.5\nmax_steps = 9")
  config = parse(["--rate", "0.25", "--config", path, "--stop.max-steps", "7"])
  assert config == replace(
    DEFAULTS["digits"],
    seed=3,
    rate=0.25,
    hidden=(5, 6),
    stop=StopRules(max_steps=7, tol=0.5),
    config=path,
  )


def test_defaults_are_those_of_the_data_wherever_it_is_named(tmp_path):
  assert parse([]) == DEFAULTS["digits"]
  assert parse(["--data", "sine"]) == parse(["--data=sine"]) == DEFAULTS["sine"]
  assert parse(["--data", "digits", "--data", "sine"]) == DEFAULTS["sine"]
  path = file_of(tmp_path, 'data = "sine"')
  assert parse([f"--config={path}"]) == replace(DEFAULTS["sine"], config=path)
  assert parse(["--config", path, "--data=digits"]) == replace(DEFAULTS["digits"], config=path)


CONFIGS = [
  *DEFAULTS.values(),
  TrainConfig(hidden=(), rate=1e-7, stop=StopRules(0, loss_below=1e-9, tol=0, patience=1)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=[*DEFAULTS, "made"])
def test_what_was_saved_is_read_as_the_same(tmp_path, config):
  path = tmp_path / "config.toml"
  runs.write_toml(path, saved(replace(config, out="elsewhere", name="mine")), "A comment")
  assert path.read_text().startswith("# A comment\n")
  # Where a run was written is no part of what it was told.
  assert parse(["--config", str(path)]) == replace(config, config=str(path))


def test_a_text_that_looks_like_a_flag_is_a_text(tmp_path):
  assert parse(["--config", file_of(tmp_path, 'name = "-x"')]).name == "-x"


BAD_FILES = [
  ("[stop]\nmax_step = 3", "unknown key 'stop.max_step'; did you mean 'max_steps'?"),
  ("zzz = 3", "unknown key 'zzz'; there are: data, target, features, drop, categorical, s"),
  ('config = "other.toml"', "unknown key 'config'"),
  ("rate = true", "rate must be a number, got True"),
  ("seed = 1.5", "seed must be an integer, got 1.5"),
  ("seed = true", "seed must be an integer, got True"),
  ("hidden = 3", "hidden must be a list of integers, got 3"),
  ("hidden = [3, 0.5]", "hidden must be a list of integers, got [3, 0.5]"),
  ('data = "mnist"', "data must be one of digits, iris,"),
  ("target = [1]", "target must be a list of strings, got [1]"),
  ("test_fraction = 1.0", "test_fraction must be above 0 and below 1, got 1"),
  ("name = 3", "name must be a string, got 3"),
  ("[stop]\ntol = true", "stop.tol must be a number, got True"),
  ("seed = 4294967296", "seed must be from 0 to 4294967295, got 4294967296"),
  ("hidden = [4, 65537]", "hidden must be from 1 to 65536, got 65537"),
  ("rate = -1", "rate must be a finite number above 0, got -1"),
  ('name = "a/b"', "name must be the name of a folder, not a path, got 'a/b'"),
  ("[stop]\nmax_steps = 2147483648", "stop.max_steps must be from 0 to 2147483647"),
  ("[stop]\ntol = -1.0", "stop.tol must be a finite number of at least 0, got -1.0"),
]


@pytest.mark.parametrize(("text", "said"), BAD_FILES)
def test_a_file_that_cannot_be_is_refused(tmp_path, text, said):
  path = file_of(tmp_path, text)
  with pytest.raises(UsageError) as refused:
    parse(["--config", path])
  assert str(refused.value).startswith(f"{path}: ")
  assert said in str(refused.value)
  assert "--" not in str(refused.value).removeprefix(path)  # Nobody gave a flag.


def refused_in_words(capsys, *arguments):
  return " ".join(refused(capsys, *arguments).split())  # A line may break anywhere.


BAD_FLAGS = [
  ("--test-fraction 0", ["--test-fraction must be above 0 and below 1, got 0"]),
  ("--hidden 4 -3", ["--hidden must be from 1 to 65536, got -3"]),
  ("--name ..", ["--name must be the name of a folder, not a path, got '..'"]),
]


@pytest.mark.parametrize(("flags", "said"), BAD_FLAGS)
def test_a_flag_that_cannot_be_is_refused(tmp_path, capsys, flags, said):
  text = refused_in_words(capsys, "train", "--out", str(tmp_path / "runs"), *flags.split())
  for part in said:
    assert part in text
  assert not (tmp_path / "runs").exists()


def test_a_value_that_meets_the_data_or_the_disk_is_named_as_it_was_given(tmp_path, capsys):
  (tmp_path / "file").touch()
  (tmp_path / "mine").mkdir()
  out = str(tmp_path / "file")
  path = file_of(tmp_path, f'data = "sine"\nbatch_size = 257\nout = "{out}"\nname = "mine"')
  assert refused_in_words(capsys, "train", "--config", path) == (
    f"fbackprop: {path}: batch_size must be at most the 256 training examples, got 257"
  )
  with_flag = ("train", "--config", path, "--batch_size=32")
  assert f"{path}: out {out} is not a folder" in refused_in_words(capsys, *with_flag)
  taken = refused_in_words(capsys, *with_flag, "--out", str(tmp_path))
  assert f"{path}: name: {tmp_path / 'mine'} exists already" in taken
  assert "--batch-size must be at most the 256" in refused_in_words(
    capsys, "train", "--config", path, "--batch_size", "300"
  )


def test_the_bounds_themselves_are_taken():
  flags = ["--hidden", "65536", "--seed", "4294967295", "--stop.max-steps", "2147483647"]
  config = parse(flags)
  assert (config.hidden, config.seed, config.stop.max_steps) == ((65536,), 2**32 - 1, 2**31 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "verify", "eval", "predict", "circuit", "lecture"])
def test_each_sentence_of_the_help_breaks_only_where_the_line_is_full(command):
  done = subprocess.run(
    [sys.executable, "-m", "fbackprop", command, "--help"],
    env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "90"},  # Else there are no boxes.
    cwd=Path(fbackprop.__file__).parents[1], capture_output=True, encoding="utf-8", check=True,
  )  # fmt: skip
  assert "│" in done.stdout
  for left, right in itertools.pairwise(done.stdout.splitlines()):
    continued = re.fullmatch(r"│ {5,}([A-Za-z].*?) *│", right)
    if not continued:
      continue
    start = continued.start(1)  # Where the sentences of a group of flags begin, and where they end.
    said, room = left[start:-1].rstrip(), len(right) - 2 - start
    if (
      said not in ("", "...") and left[start - 1] == " "
    ):  # Else the flag and its choices fill the line.
      assert len(said) + 1 + len(continued[1].split()[0]) > room, left


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
  assert refused_in_words(capsys, "trian") == (
    "fbackprop: unknown command 'trian'; did you mean 'train'?"
  )  # fmt: skip
  commands = "circuit, lecture, train, eval, predict, info, compare, export, import, verify"
  said = f"fbackprop: unknown command 'zzz'; there are: {commands}"
  assert refused_in_words(capsys, "zzz") == said


BY_DATA = (
  "hidden", "activation", "rate", "weight-decay", "stop.max-steps", "eval-every", "check-every",
)  # fmt: skip


def helped(capsys, *arguments):
  """The help of a command, in one line."""
  with pytest.raises(SystemExit) as ended:
    main([*arguments, "--help"])
  assert ended.value.code == 0
  return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_a_default_that_depends_on_the_data_is_nobody_elses(capsys):
  """Each that differs between data is by the data, and no other."""
  tables = [flat(config) for config in (*DEFAULTS.values(), GENERAL)]
  differing = {key for key in tables[0] if len({str(table[key]) for table in tables}) > 1}
  assert differing - {"data"} == {flag.replace("-", "_") for flag in BY_DATA}
  text = helped(capsys, "train")
  assert text.count("(default: by the data)") == len(BY_DATA)
  for flag in BY_DATA:
    assert re.search(
      rf"--{re.escape(flag)} [^()]*(\([^()]*\)\. )?\(default: by the data\)", text
    ), flag
  assert "`fbackprop train --data NAME --help` shows those of NAME" in text


@pytest.mark.parametrize("data", ["digits", "iris", "sine", "moons", "csv:t.csv"])
@pytest.mark.parametrize("form", ["--data {}", "--data={}"])
def test_the_help_for_data_shows_its_own_defaults(capsys, data, form):
  text = helped(capsys, "train", *form.format(data).split())
  table = flat(DEFAULTS.get(data, GENERAL))
  for flag in BY_DATA:
    value = table[flag.replace("-", "_")]
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    assert re.search(
      rf"--{re.escape(flag)} [^()]*(\([^()]*\)\. )?\(default for {re.escape(data)}: {shown}\)", text
    ), flag
  assert "by the data)" not in helped(capsys, "train", *form.format(data).split())
  assert "(default: by the data)" in helped(capsys, "train")


def flat(config):
  """The fields of a configuration by their flags."""
  table = asdict(config)
  stop = table.pop("stop")
  return {**table, **{f"stop.{key}": value for key, value in stop.items()}}


def test_the_table_of_defaults_is_that_of_the_code():
  page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
  rows = [re.split(r" *\| *", row)[1:-1] for row in page.splitlines() if row.startswith("|")]
  head = next(i for i, row in enumerate(rows) if row[0] == "`--data`")
  assert rows[head][1:] == [f"`--{flag}`" for flag in BY_DATA]
  shown = {name: row[1:] for row in rows[head + 2 : head + 6] for name in row[0].split(", ")}
  assert set(shown) == {*DEFAULTS, "all other data"}
  for name, cells in shown.items():
    table = flat(DEFAULTS.get(name, GENERAL))
    values = (table[flag.replace("-", "_")] for flag in BY_DATA)
    assert cells == [" ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values]


def test_a_configuration_has_plain_stop_rules():
  assert type(parse(["--data", "iris"]).stop) is StopRules
  assert parse(["--data", "iris"]) == DEFAULTS["iris"]


DEFAULTS_IN_WORDS = [
  ("eval", "(default: the test part of the run's data)"),
  ("predict", "(default: the terminal)"),
  ("circuit", "(default: the last statement)"),
  ("circuit", "(default: the terminal, but for png and html)"),
  ("verify", "(default: reference for a Layer, else any)"),
]


@pytest.mark.parametrize(("command", "said"), DEFAULTS_IN_WORDS)
def test_a_default_that_is_none_is_said_in_words(capsys, command, said):
  assert said in helped(capsys, command)


def test_no_command_is_answered_with_help(capsys):
  assert main([]) == 2
  text = capsys.readouterr().out
  assert text.startswith("usage: fbackprop COMMAND [flags]")
  assert main(["-h"]) == 0
  assert capsys.readouterr().out == text


def test_the_module_is_the_command():
  command = [sys.executable, "-m", "fbackprop", "--version"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout == f"fbackprop {fbackprop.__version__}\n"


def test_a_disk_that_is_full_is_said(tmp_path, capsys, monkeypatch):
  def full(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(runs, "write_toml", full)
  full_disk = refused_in_words(capsys, "train", "--data", "sine", "--out", tmp_path)
  assert f"--out: {tmp_path / 'sine-1'} can't be written: No space left" in full_disk


@pytest.mark.parametrize(
  ("package", "extra"),
  [("matplotlib", "plot"), ("jinja2", "train"), ("rich", "train"), ("tomli_w", "train")],
)
def test_a_missing_extra_is_named_before_anything_is_done(
  tmp_path, capsys, monkeypatch, package, extra
):
  monkeypatch.setitem(sys.modules, package, None)  # So that its import fails.
  assert refused_in_words(capsys, "train", "--out", str(tmp_path / "runs")) == (
    f"fbackprop: {package} is not installed; install it with: pip install 'fbackprop[{extra}]'"
  )
  assert not (tmp_path / "runs").exists()


WITHOUT_JAX = """
import sys
from fbackprop.cli import main
assert main(["--help"]) == main(["--version"]) == 0
assert main(["trian"]) == 2
assert main(["circuit"]) == 2
for flags, code in ("circuit --help", 0), ("train --help", 0), ("train --batch-siz 3", 2):
  try:
    main(flags.split())
  except SystemExit as ended:
    assert ended.code == code
  assert "train" in flags or "numpy" not in sys.modules
assert "tyro" in sys.modules
assert not {"jax", "sklearn", "matplotlib"} & sys.modules.keys(), "a package that takes seconds"
"""


@pytest.mark.slow
def test_questions_are_answered_without_jax():
  root = Path(fbackprop.__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT_JAX], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  for said in ("fbackprop COMMAND", "fbackprop circuit", "fbackprop 0.", "Learning rate; the peak"):
    assert said in done.stdout
