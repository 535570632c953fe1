"""The public names of the library: those that a script uses, and the layers among them."""

import ast
import re

import fbackprop as fb


def assert_short_and_public(file, lines):
  """Raise unless a script has few lines, `import fbackprop as fb` alone, and public names alone."""
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


def layers_of_one_array():
  """The names of the public layers of one array; those that merge are in the rows of graphs."""
  layers = {name for name in fb.__all__ if isinstance(getattr(fb, name), fb.Layer)}
  return layers - {"add", "multiply", "concatenate"}
