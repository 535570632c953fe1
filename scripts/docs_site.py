"""What the site of the documentation has beyond docs/: a hook of `mkdocs build`.

README.md is its front page; the API comes from the packages' lists of public names, the code that
the documents link to from the repository, the notebooks from docs/notebooks, and the lecture from
`fbackprop lecture`. Formulas become MathML, so that no page loads a script for them.
"""

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FRONT = {
  "README.md": "index.md",
  "CHANGELOG.md": "changelog.md",
  "CONTRIBUTING.md": "contributing.md",
}
PACKAGES = (
  "", "gates", "layers", "circuit", "curvature", "export", "quantities", "rules", "sklearn",
  "train", "verify",
)  # fmt: skip
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".js": "javascript", ".css": "css"}
NOT_MARKDOWN = {ord(sign): f"&#{ord(sign)};" for sign in "\n`[]()*_$\\"}
"""The signs of HTML that would be read as Markdown, with their references."""
LINK = re.compile(r"""(?P<head>\]\(|\b(?:src|href)=")(?P<target>[^()\s"]+)(?P<tail>\)|")""")
CODE = re.compile(r"^( *)(`{3,}|~{3,}).*?^ *\2 *$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
  """Add the pages that aren't in docs/, and take out the notebooks, whose pages are added."""
  from mkdocs.structure.files import File

  for file in [file for file in files if file.src_path.endswith(".ipynb")]:
    files.remove(file)
  for name, content in (*pages(), *lecture_files()):
    files.append(File.generated(config, name, content=content))
  return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Turn the links of a page, which are those of the repository, to pages of the site."""
  home = home_of(page.file.src_path)
  return outside_code(markdown, lambda text: LINK.sub(lambda link: turned(link, home), text))


def on_page_content(html: str, **_: Any) -> str:
  """Write formulas as MathML."""
  from html import unescape

  from latex2mathml.converter import convert

  def write(formula: re.Match[str]) -> str:
    display = "block" if formula[1] == "div" else "inline"
    return str(convert(unescape(formula[2]), display=display))

  return FORMULA.sub(write, html)


# --- Links ----------------------------------------------------------------------------------------


def home_of(source: str) -> str:
  """Return where in the repository a page of the site is written."""
  front = {page: name for name, page in FRONT.items()}
  if source in front:
    return front[source]
  return source.removeprefix("source/") if source.startswith("source/") else f"docs/{source}"


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
  """Change a text except in its quoted code; a link's own text may be code."""
  parts, end = [], 0
  for code in CODE.finditer(markdown):
    parts += [change(markdown[end : code.start()]), code[0]]
    end = code.end()
  return "".join([*parts, change(markdown[end:])])


def turned(link: re.Match[str], home: str) -> str:
  """Return a link of a page, which is written at a place of the repository, for the site."""
  target, hash_, anchor = link["target"].partition("#")
  if not target or re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
    return link[0]
  path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
  if path.startswith(("docs/api/", "docs/lecture/")):  # Pages that the site alone has.
    return link[0]
  found = posixpath.relpath(site_path(path), posixpath.dirname(site_path(home)) or ".")
  return f"{link['head']}{found}{hash_}{anchor}{link['tail']}"


def site_path(path: str) -> str:
  """Return the page of the site for a path of the repository."""
  if path in FRONT:
    return FRONT[path]
  if path.startswith("docs/"):
    return path.removeprefix("docs/").replace(".ipynb", ".md")
  return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


# --- Pages ----------------------------------------------------------------------------------------


def pages() -> Iterator[tuple[str, str]]:
  """Yield the names and texts of the pages that aren't in docs/, but for the lecture's."""
  for name, page in FRONT.items():
    yield page, (ROOT / name).read_text("utf-8")
  for package in PACKAGES:
    yield f"api/{package or 'fbackprop'}.md", api_page(package)
  for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
    yield f"notebooks/{path.stem}.md", notebook_page(path)
  for source in sorted(linked_sources()):
    yield site_path(source), source_page(source)


def lecture_files() -> Iterator[tuple[str, str]]:
  """Yield the lecture's own pages, in both languages."""
  from fbackprop.lecture.book import lecture_pages

  for language in ("en", "ko"):
    for name, text in lecture_pages(language, has_other=True).items():
      yield f"lecture/{language}/{name}", text


def linked_sources() -> set[str]:
  """Return the files and folders of the repository outside docs/ to which documents link."""
  found = set()
  for page in [*(ROOT / name for name in FRONT), *(ROOT / "docs").glob("*.md")]:
    home = page.relative_to(ROOT).as_posix()
    text = re.sub(CODE, lambda code: code[0] if "](" in code[0] else "", page.read_text("utf-8"))
    for link in LINK.finditer(text):
      target = link["target"].partition("#")[0]
      path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
      is_own = path in FRONT or path.startswith("docs/")
      if target and not is_own and (ROOT / path).exists():
        found.add(path)
  return found


def source_page(path: str) -> str:
  """Return a file of the repository as a page, or a folder's files as a list."""
  file = ROOT / path
  if file.is_dir():
    names = sorted(each.name for each in file.iterdir() if not each.name.startswith((".", "__")))
    return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names), ""])
  fence = "`" * 6
  text = file.read_text("utf-8")
  return f"# {path}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"


def api_page(package: str) -> str:
  """Return the page of a package: every public name with its signature and docstring."""
  folder = ROOT / "fbackprop" / package
  name = f"fbackprop.{package}" if package else "fbackprop"
  modules = f"::: {name}\n    options: {{members: false, show_root_heading: false}}\n"
  names = "\n".join(f"::: {each}\n" for each in public_names(folder, name))
  return f"# {name}\n\n{modules}\n{names}"


def public_names(folder: Path, name: str) -> list[str]:
  """Return the full names of what a package offers, in its own order, without its sub-packages."""
  stub = folder / "__init__.pyi"
  source = stub if stub.exists() else folder / "__init__.py"
  found = []
  for node in ast.parse(source.read_text("utf-8")).body:
    if isinstance(node, ast.ImportFrom) and node.module:
      base = f"{name}.{node.module}" if node.level else node.module
      names = [each.name for each in node.names]
      names = listed_names(base) if names == ["*"] else names
      found += [f"{base}.{each}" for each in names if node.module != name]
  return found


def listed_names(module: str) -> list[str]:
  """Return the `__all__` of a module, in its own order."""
  source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
  [names] = re.findall(r"^__all__ = (\[.*?\])", source, re.MULTILINE | re.DOTALL)
  return [str(name) for name in ast.literal_eval(names)]


def notebook_page(path: Path) -> str:
  """Return an executed notebook as a page: its texts, its code, and what the code shows."""
  cells = json.loads(path.read_text("utf-8"))["cells"]
  parts = []
  for cell in cells:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
      parts.append(source)
      continue
    parts.append(f"```python\n{source}\n```")
    for output in cell["outputs"]:
      data = output.get("data", {})
      text = "".join(output.get("text", data.get("text/plain", "")))
      frame = "".join(data.get("text/html", "")).translate(NOT_MARKDOWN)
      picture = frame or "".join(data.get("image/svg+xml", ""))
      parts.append(f"<div>{picture}</div>" if picture else f"```text\n{text.rstrip()}\n```")
  return "\n\n".join([*parts, f"The notebook itself is `{path.relative_to(ROOT)}`.", ""])
