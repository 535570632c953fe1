"""The README's outputs are those of its commands: `scripts/refresh_readme.py`."""

import pytest

from scripts import refresh_readme
from scripts.refresh_readme import Command, refreshed

PAGE = """\
Made of `x`, in `test_f.py`:

```python
value = 3
```

```console
$ cat test_f.py
value = 2

$ echo loss 0.25 in 3.1 s
loss 0.26 in 2.9 s

$ echo slow
never run

$ unknown command
kept
$ echo no output is shown
```
"""


@pytest.fixture(autouse=True)
def commands(monkeypatch):
  found = (
    Command("cat ", is_exact=True), Command("echo loss", is_exact=False),
    Command("echo slow", is_exact=True, is_slow=True),
  )  # fmt: skip
  monkeypatch.setattr(refresh_readme, "COMMANDS", found)


def test_outputs_are_refreshed(tmp_path):
  new = refreshed(PAGE, tmp_path, with_tests=False, keep_same=False)
  assert new == PAGE.replace("value = 2", "value = 3").replace("0.26 in 2.9", "0.25 in 3.1")


def test_numbers_that_vary_are_no_difference(tmp_path):
  new = refreshed(PAGE, tmp_path, with_tests=False, keep_same=True)
  assert new == PAGE.replace("value = 2", "value = 3")
  other = PAGE.replace("loss 0.26", "other 0.26")
  assert "loss 0.25" in refreshed(other, tmp_path, with_tests=False, keep_same=True)


def test_slow_commands_are_run_when_asked_for(tmp_path):
  assert "$ echo slow\nslow\n" in refreshed(PAGE, tmp_path, with_tests=True, keep_same=False)


@pytest.mark.parametrize(("old", "code"), [("value = 3", 0), ("value = 2", 1)])
def test_check_writes_nothing(tmp_path, monkeypatch, capsys, old, code):
  page = tmp_path / "README.md"
  page.write_text(PAGE.replace("value = 2", old))
  monkeypatch.setattr(refresh_readme, "README", page)
  monkeypatch.setattr("sys.argv", ["refresh_readme.py", "--check"])
  assert refresh_readme.main() == code
  assert page.read_text() == PAGE.replace("value = 2", old)
  assert ("+value = 3" in capsys.readouterr().out) == bool(code)
