"""Checks the documents' links: files, headings, and the names in the code that they mention.

A link to code has the form [`name`](file.py): the file must define that name. There are no line
numbers in a link, which the next change of the file would make wrong.
`tests/scripts/test_docs.py` runs the same functions.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]

FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^ *\2 *$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
TARGET = re.compile(
  r"""\]\((?P<inline>[^()\s]+)\)|^\[(?P<label>[^\]]+)\]:\s+(?P<reference>\S+)"""
  r"""|\b(?:src|href)="(?P<html>[^"]+)\"""",
  re.MULTILINE,
)
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
TEST_ID = re.compile(r"tests/[\w/]+\.py(?:::\w+)+(?:\[[^\]\s]*\])?")


class Link(NamedTuple):
  """A link of a page.

  Attributes:
    page: the Markdown file.
    line: the line number, counted from 1.
    text: the displayed text.
    target: the target.
  """

  page: Path
  line: int
  text: str
  target: str


def find_pages(root: Path) -> list[Path]:
  """Return the repository's documents that exist."""
  names = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
  return [page for page in (*names, *sorted(root.glob("docs/**/*.md"))) if page.is_file()]


def find_links(page: Path) -> list[Link]:
  """Return every link of a page, in order, except in quoted code."""
  source = FENCED.sub(blank, page.read_text(encoding="utf-8"))
  source = INLINE_CODE.sub(lambda code: blank(code) if "](" in code[0] else code[0], source)
  links = []
  for match in TARGET.finditer(source):
    text = text_before(source, match.start()) if match["inline"] else match["label"] or ""
    line = source.count("\n", 0, match.start()) + 1
    links.append(Link(page, line, text, match["inline"] or match["reference"] or match["html"]))
  return links


def blank(match: re.Match[str]) -> str:
  """Return spaces in place of a text, so that offsets and line numbers are preserved."""
  return re.sub(r"[^\n]", " ", match[0])


def text_before(source: str, end: int) -> str:
  """Return the text between the bracket that closes at `end` and its opening bracket."""
  depth, start = 1, end
  while depth and start:
    start -= 1
    depth += {"]": 1, "[": -1}.get(source[start], 0)
  return source[start + 1 : end]


def problem_of(link: Link, root: Path) -> str | None:
  """Return what is wrong with a link: no target, or one outside of the repository."""
  if EXTERNAL.match(link.target):
    return None
  path, _, anchor = link.target.partition("#")
  file = (link.page.parent / unquote(path)).resolve() if path else link.page
  if not (file.exists() and file.is_relative_to(root)):
    return f"there is no file {path} in the repository"
  if anchor:
    is_there = file.suffix == ".md" and anchor in heading_anchors(file.read_text(encoding="utf-8"))
    return None if is_there else f"there is no heading #{anchor} in {file.name}"
  name = name_in(link) if file.suffix == ".py" else ""
  return None if name in ("", file.stem) else problem_of_name(name, file, root)


def name_in(link: Link) -> str:
  """Return the name in the code of a link, `f`, `f(x)` or `module.f`; "" for a file or a test.

  Tests may be generated, and have no definition: `find_tests` lists them, to be collected.
  """
  code = re.search(r"`([^`]+)`", link.text)
  if code is None or code[1].endswith(".py"):
    return ""
  name = re.split(r"[\[(]", code[1])[0].rpartition(".py::")[2].replace("::", ".")
  return "" if name.rpartition(".")[2].startswith("test_") else name


def problem_of_name(name: str, file: Path, root: Path) -> str | None:
  """Return what is wrong with a name, unless a Python file defines it at one place.

  Args:
    name: `f` or `outer.f`, optionally prefixed by package and module, as in `loop.judge`.
    file: the Python file.
    root: the repository.
  """
  shown = file.relative_to(root)
  names = defined_names(file.read_text(encoding="utf-8"))
  outer = {"fb", *shown.with_suffix("").parts}
  parts = name.split(".")
  while len(parts) > 1 and parts[0] in outer:
    parts.pop(0)
  name = ".".join(parts)
  found = [name] if name in names else sorted(n for n in names if n.endswith(f".{name}"))
  if not found:
    return f"{shown} doesn't define {name}"
  return f"{shown} defines {' and '.join(found)}: say which" if len(found) > 1 else None


@cache
def defined_names(source: str) -> set[str]:
  """Return the dotted name of each definition in a Python file."""
  return set(definitions(ast.parse(source).body))


def definitions(body: Iterable[ast.AST], outer: str = "") -> Iterator[str]:
  """Yield functions, classes and assigned names, with nested ones."""
  for node in body:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      yield outer + node.name
      yield from definitions(node.body, f"{outer}{node.name}.")
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      parts = (part for target in targets for part in ast.walk(target))
      yield from (outer + part.id for part in parts if isinstance(part, ast.Name))
    elif isinstance(node, ast.stmt | ast.ExceptHandler):
      yield from definitions(ast.iter_child_nodes(node), outer)


def heading_anchors(source: str) -> set[str]:
  """Return the anchors that GitHub generates for a page's headings."""
  anchors: set[str] = set()
  for title in re.findall(r"^#{1,6} +(.+?)[ #]*$", FENCED.sub(blank, source), re.MULTILINE):
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
    count = 0
    while (anchor := f"{slug}-{count}" if count else slug) in anchors:
      count += 1
    anchors.add(anchor)
  return anchors


def find_problems(root: Path) -> list[str]:
  """Return a line for every broken link of every page."""
  return [
    f"{link.page.relative_to(root)}:{link.line}: [{link.text}]({link.target}): {problem}"
    for page in find_pages(root)
    for link in find_links(page)
    if (problem := problem_of(link, root))
  ]


def find_tests(root: Path) -> dict[str, str]:
  """Return the pytest ids that the pages name, each with a place of its use.

  An id is written in full, `tests/test_x.py::test_y[row]`, or is a link to a test by its name,
  [`test_y[row]`](tests/test_x.py).
  """
  named: dict[str, str] = {}
  for page in find_pages(root):
    source = page.read_text(encoding="utf-8")
    shown = page.relative_to(root)
    for match in TEST_ID.finditer(source):
      named.setdefault(match[0], f"{shown}:{source.count(chr(10), 0, match.start()) + 1}")
    for link in find_links(page):
      test = re.fullmatch(r"`((?:\w+::)*test_(?![^`]*\.py`)[^`]+)`", link.text)
      file = (page.parent / link.target.partition("#")[0]).resolve()
      if test and file.is_relative_to(root):
        named.setdefault(f"{file.relative_to(root).as_posix()}::{test[1]}", f"{shown}:{link.line}")
  return named


if __name__ == "__main__":
  sys.exit("\n".join(find_problems(ROOT)) or 0)
