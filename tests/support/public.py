"""Which names of the library a script uses: the public ones, as its readers should."""

import ast
import re

import fbackprop as fb


def assert_short_and_public(file, lines):
  """At most so many lines, the one import `import fbackprop as fb`, and public names alone."""
  text = file.read_text(encoding="utf-8")
  assert len(text.splitlines()) <= lines
  imports = [ast.unparse(node) for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
  assert [line for line in imports if "fbackprop" in line] == ["import fbackprop as fb"]
  names = set(re.findall(r"\bfb((?:\.\w+)+)", text))  # In docstrings too.
  assert len(names) > 4
  for name in names:
    value = fb
    for part in name[1:].split("."):
      assert part in getattr(value, "__all__", dir(value)), f"fb{name}"
      value = getattr(value, part)
