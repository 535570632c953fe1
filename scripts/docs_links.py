"""Keeps the documents' links true: the files, the headings, and the lines of the code they name.

A link to code has the form [`name`](file.py#L12), line 12 being the one that defines `name`. Code
moves: `python scripts/docs_links.py` moves the numbers after it, and with `--check` only says which
are wrong. What can't be mended by a number (a file that is gone, a name that nothing has) is
reported either way. `tests/test_docs.py` asks the same functions.
"""

import argparse
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


class LinkError(Exception):
  """A link that leads nowhere, in a way that no line number mends."""


class Link(NamedTuple):
  """A link as it stands in a page.

  Attributes:
    page: the Markdown file.
    line: where in it, counted from 1.
    text: what is shown.
    target: where it leads.
    start: the offset of `target` in the page.
  """

  page: Path
  line: int
  text: str
  target: str
  start: int


def find_pages(root: Path) -> list[Path]:
  """The documents of the repository that exist."""
  names = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
  return [
    p for p in (*(root / n for n in names), *sorted(root.glob("docs/**/*.md"))) if p.is_file()
  ]


def find_links(page: Path) -> list[Link]:
  """Every link of a page, in order; what is quoted as code is no link."""
  source = page.read_text(encoding="utf-8")
  source = INLINE_CODE.sub(blank_links, FENCED.sub(blank, source))
  links = []
  for match in TARGET.finditer(source):
    kind = next(k for k in ("inline", "reference", "html") if match[k])
    text = text_before(source, match.start()) if kind == "inline" else match["label"] or ""
    line = source.count("\n", 0, match.start()) + 1
    links.append(Link(page, line, text, match[kind], match.start(kind)))
  return links


def blank(match: re.Match[str]) -> str:
  """Spaces in the place of a text, so that offsets and line numbers stay."""
  return re.sub(r"[^\n]", " ", match[0])


def blank_links(match: re.Match[str]) -> str:
  """The same for code within a line, if a link is what it quotes."""
  return blank(match) if "](" in match[0] else match[0]


def text_before(source: str, end: int) -> str:
  """What stands between the bracket that closes at `end` and the one that opens it."""
  depth, start = 1, end
  while depth and start:
    start -= 1
    depth += {"]": 1, "[": -1}.get(source[start], 0)
  return source[start + 1 : end]


def true_target(link: Link, root: Path) -> str:
  """Where a link should lead: its own target, or that with another line number.

  Args:
    link: the link.
    root: the repository, which a link doesn't leave.

  Returns:
    The target; the link is true if it is `link.target`.

  Raises:
    LinkError: nothing is there.
  """
  if EXTERNAL.match(link.target):
    return link.target
  path, _, anchor = link.target.partition("#")
  file = (link.page.parent / unquote(path)).resolve() if path else link.page
  if not (file.exists() and file.is_relative_to(root)):
    raise LinkError(f"there is no file {path} in the repository")
  if not anchor:
    return link.target
  if re.fullmatch(r"L\d+", anchor):
    return f"{path}#L{line_of(name_in(link), file, root)}"
  if file.suffix != ".md" or anchor not in heading_anchors(file.read_text(encoding="utf-8")):
    raise LinkError(f"there is no heading #{anchor} in {file.name}")
  return link.target


def name_in(link: Link) -> str:
  """The name that a link to a line shows: `f`, `f(x)`, `module.f`, `test_f[row]` or a test's id."""
  code = re.search(r"`([^`]+)`", link.text)
  if code is None:
    raise LinkError("the text of a link to a line must name, `in code`, what the line defines")
  return re.split(r"[\[(]", code[1])[0].rpartition(".py::")[2].replace("::", ".")


def line_of(name: str, file: Path, root: Path) -> int:
  """The line that defines a name, of a module or inside of a class or a function.

  Args:
    name: `f`, or `outer.f`; package and module may stand in front, as in `loop.judge`.
    file: the Python file.
    root: the repository.

  Returns:
    The line of its `def`, its `class` or its first assignment; a decorator doesn't count.

  Raises:
    LinkError: it isn't a Python file; the name isn't defined, or at several places.
  """
  shown = file.relative_to(root)
  if file.suffix != ".py":
    raise LinkError(f"{shown} is not a Python file: its lines have no names")
  lines = definition_lines(file.read_text(encoding="utf-8"))
  outer = {"fb", *shown.with_suffix("").parts}
  parts = name.split(".")
  while len(parts) > 1 and parts[0] in outer:
    parts.pop(0)
  name = ".".join(parts)
  found = [name] if name in lines else [n for n in lines if n.endswith(f".{name}")]
  if not found:
    raise LinkError(f"{shown} doesn't define {name}")
  if len(found) > 1:
    raise LinkError(f"{shown} defines {' and '.join(found)}: say which")
  return lines[found[0]]


@cache
def definition_lines(source: str) -> dict[str, int]:
  """The line of each definition, by its dotted name; of several the first."""
  lines: dict[str, int] = {}
  for name, line in definitions(ast.parse(source).body):
    lines.setdefault(name, line)
  return lines


def definitions(body: Iterable[ast.AST], outer: str = "") -> Iterator[tuple[str, int]]:
  """Functions, classes and assigned names, with what they hold inside."""
  for node in body:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      yield outer + node.name, node.lineno
      yield from definitions(node.body, f"{outer}{node.name}.")
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      for name in (part for target in targets for part in ast.walk(target)):
        if isinstance(name, ast.Name):
          yield outer + name.id, node.lineno
    elif isinstance(node, ast.stmt | ast.ExceptHandler):
      yield from definitions(ast.iter_child_nodes(node), outer)


def heading_anchors(source: str) -> set[str]:
  """The anchors that GitHub gives to a page's headings."""
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
  """A line for every link of every page that isn't true; nothing is changed."""
  problems = []
  for link in (link for page in find_pages(root) for link in find_links(page)):
    where = f"{link.page.relative_to(root)}:{link.line}: [{link.text}]({link.target})"
    try:
      target = true_target(link, root)
    except LinkError as error:
      problems.append(f"{where}: {error}")
    else:
      if target != link.target:
        problems.append(f"{where}: it is defined in line {target.rpartition('#L')[2]}")
  return problems


def rewrite(page: Path, root: Path) -> int:
  """Moves the line numbers of a page's links to where the names are; returns how many moved."""
  source, moved = page.read_text(encoding="utf-8"), 0
  for link in reversed(find_links(page)):
    try:
      target = true_target(link, root)
    except LinkError:
      continue  # `find_problems` says so.
    if target != link.target:
      source = source[: link.start] + target + source[link.start + len(link.target) :]
      moved += 1
  if moved:
    page.write_text(source, encoding="utf-8")
  return moved


def find_tests(root: Path) -> dict[str, str]:
  """The pytest ids that the pages name, each with a place where it is named.

  An id is written out, `tests/test_x.py::test_y[row]`, or is a link to a test by its name,
  [`test_y[row]`](tests/test_x.py#L12).
  """
  named: dict[str, str] = {}
  for page in find_pages(root):
    source = page.read_text(encoding="utf-8")
    shown = page.relative_to(root)
    for match in TEST_ID.finditer(source):
      named.setdefault(match[0], f"{shown}:{source.count(chr(10), 0, match.start()) + 1}")
    for link in find_links(page):
      test = re.fullmatch(r"`((?:\w+::)*test_[^`]+)`", link.text)
      file = (page.parent / link.target.partition("#")[0]).resolve()
      if test and file.is_relative_to(root):
        named.setdefault(f"{file.relative_to(root).as_posix()}::{test[1]}", f"{shown}:{link.line}")
  return named


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
  """Runs the script; returns 1 if a link is wrong, or stays so."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--check", action="store_true", help="change nothing, only say what is wrong")
  if not parser.parse_args(arguments).check:
    for page in find_pages(root):
      if moved := rewrite(page, root):
        print(f"{page.relative_to(root)}: {moved} line number{'s' * (moved > 1)} moved")
  problems = find_problems(root)
  print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
