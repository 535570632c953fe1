"""The documents tell the truth: links, lines of code, ids of tests, and no rule left out.

What a page's examples print is checked by the root's conftest.py: `pytest README.md docs`.
"""

import os
import shutil
import subprocess
import sys

import pytest

from scripts import docs_links

ROOT = docs_links.ROOT
# Rules compose what is here; `transforms` wraps whole networks, and has no rule of its own.
FOLDERS = ("fbackprop", "fbackprop/gates", "fbackprop/layers", "fbackprop/losses")
RULES = sorted(file for folder in FOLDERS for file in (ROOT / folder).glob("*.py"))
RULES.remove(ROOT / "fbackprop" / "transforms.py")


def run_pytest(*arguments, folder=ROOT):
  """pytest in a process of its own, without this project's options and those of this run."""
  options = ("-q", "-o", "addopts=", "-p", "no:cacheprovider", "-n", "0")
  command = [sys.executable, "-m", "pytest", *options, *arguments]
  environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
  return subprocess.run(
    command, cwd=folder, env=environment, capture_output=True, text=True, check=False
  )


# --- The documents --------------------------------------------------------------------------------


def test_every_link_leads_where_it_says():
  assert not docs_links.find_problems(ROOT)


@pytest.mark.slow
def test_every_test_that_is_named_is_collected():
  named = docs_links.find_tests(ROOT)
  files = sorted({test.partition("::")[0] for test in named})
  missing_files = [f"{named[t]}: {t}" for t in named if not (ROOT / t.partition("::")[0]).exists()]
  assert not missing_files
  run = run_pytest("--collect-only", *files)
  assert run.returncode == 0, run.stdout + run.stderr
  collected = set(run.stdout.splitlines())
  collected |= {test.partition("[")[0] for test in collected}  # A function stands for its rows.
  missing = [f"{where}: there is no test {test}" for test, where in named.items()
             if test not in collected]  # fmt: skip
  assert not missing, "\n".join(missing)


def backward_rules():
  """Where each `..._backward` of the rules is defined."""
  found = {}
  for file in RULES:
    for name in docs_links.defined_names(file.read_text(encoding="utf-8")):
      if name.endswith("_backward"):
        found[name.rpartition(".")[2]] = str(file.relative_to(ROOT))
  return found


def test_every_backward_rule_is_in_the_lecture():
  rules = backward_rules()
  assert {"dense_backward", "serial_backward", "route_backward"} <= set(rules)
  page = (ROOT / "docs" / "backprop.md").read_text(encoding="utf-8")
  left_out = [f"{file}: {name}" for name, file in rules.items() if f"[`{name}`](" not in page]
  assert not left_out, "\n".join(["docs/backprop.md doesn't link to", *left_out])


# --- The checker ----------------------------------------------------------------------------------

CODE = """\
import functools

TABLE = 1


@functools.cache
def rule_forward(x):
  return x


class Kept:
  def forward(self):
    def inner():
      pass


class Other:
  def forward(self):
    pass


if TABLE:
  alias: int = 2
"""


@pytest.fixture
def repository(tmp_path):
  """A small repository; `write(text)` makes its README."""
  (tmp_path / "package").mkdir()
  (tmp_path / "package" / "code.py").write_text(CODE)
  (tmp_path / "notes.txt").write_text("notes")
  return tmp_path


def write(repository, text):
  page = repository / "README.md"
  page.write_text(text)
  return page


GOOD = """\
# A title with `code`, and a comma

[`rule_forward`](package/code.py), [the rule `rule_forward(x)`](package/code.py),
[`package.code.rule_forward`](package/code.py), [`TABLE`](package/code.py),
[`Kept`](package/code.py), [`package/code.py::Kept::forward`](package/code.py),
[`inner`](package/code.py), [`alias`](package/code.py),
[a file](notes.txt), [a folder](package), [out](https://example.org/#L1),
[up](#a-title-with-code-and-a-comma), [the second of two](README.md#the-same-1)
<img src="notes.txt">, and what is quoted, `a[0](nowhere)`, is no link.

## The same

```text
[`rule_forward`](package/code.py)
# no heading
```

## The same

[reference]: notes.txt
"""


def test_true_links_pass(repository):
  page = write(repository, GOOD)
  assert docs_links.find_problems(repository) == []
  assert len(docs_links.find_links(page)) == 15


BROKEN_LINKS = [
  ("[x](gone.md)", "there is no file gone.md"),
  ("[x](../outside.md)", "there is no file ../outside.md"),
  ("![x](gone.png)", "there is no file gone.png"),
  ('<img src="gone.png">', "there is no file gone.png"),
  ("[![badge](gone.svg)](notes.txt)", "there is no file gone.svg"),
  ("[x]: gone.md", "there is no file gone.md"),
  ("[x](#no-heading)", "there is no heading #no-heading"),
  ("[x](notes.txt#heading)", "there is no heading #heading"),
  ("[`gone`](package/code.py)", "package/code.py doesn't define gone"),
  ("[`Kept.gone`](package/code.py)", "package/code.py doesn't define Kept.gone"),
  ("[`forward`](package/code.py)", "defines Kept.forward and Other.forward: say which"),
  ("[`rule_forward`](package/code.py#L7)", "there is no heading #L7 in code.py"),
]


@pytest.mark.parametrize(("link", "message"), BROKEN_LINKS)
def test_a_link_to_nowhere_is_found(repository, link, message):
  write(repository, f"# Title\n\n{link}\n")
  (problem,) = docs_links.find_problems(repository)
  assert problem.startswith("README.md:3: ")
  assert message in problem


IDS = """\
`tests/test_a.py::test_x[row-float64]`, tests/test_a.py::test_y, and
[`test_z[row-float64]`](tests/test_b.py), [`helper`](tests/test_b.py),
[`TestNet::test_forward`](tests/test_b.py)
"""


def test_ids_are_found_as_text_and_as_links(repository):
  write(repository, IDS)
  assert docs_links.find_tests(repository) == {
    "tests/test_a.py::test_x[row-float64]": "README.md:1",
    "tests/test_a.py::test_y": "README.md:1",
    "tests/test_b.py::test_z[row-float64]": "README.md:2",
    "tests/test_b.py::TestNet::test_forward": "README.md:3",
  }


# --- The examples ---------------------------------------------------------------------------------


BLOCKS = [
  (">>> shared + 1\n2\n", "1 passed"),
  (">>> shared + 1\n3\n", "line 8, column 1 did not evaluate as expected"),
  ("open('made.txt', 'w').close()\nassert shared == 1\n", "1 passed"),
  ("assert shared == 2\n", "README.md:8: AssertionError"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("block", "outcome"), BLOCKS, ids=["prints", "prints another", "runs", "fails"]
)
def test_examples_are_run(repository, block, outcome):
  """Blocks share their names, must print what they show, and leave nothing behind."""
  shutil.copy(ROOT / "conftest.py", repository)
  write(repository, f"```python\n>>> shared = 1\n\n```\n\nMore:\n```python\n{block}```\n")
  run = run_pytest("README.md", folder=repository)
  assert outcome in run.stdout, run.stdout + run.stderr
  assert run.returncode == (0 if outcome == "1 passed" else 1)
  assert not list(repository.glob("made.txt"))
