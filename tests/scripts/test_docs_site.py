"""The site of the documentation: it is built strictly, holds the whole API, and loads nothing."""

import dataclasses
import html
import importlib
import json
import posixpath
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import fbackprop as fb
from scripts import docs_site as site

PUBLIC = ("circuit", "curvature", "export", "quantities", "rules", "sklearn", "train", "verify")
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)="(?:https?:)?//""")


def test_every_public_name_is_in_the_api():
  for package in ("", *PUBLIC):
    module = importlib.import_module(f"fbackprop.{package}".rstrip("."))
    names = {
      each.rpartition(".")[2]
      for each in site.public_names(site.ROOT / "fbackprop" / package, "fbackprop")
    }
    assert names >= set(module.__all__) - set(site.PACKAGES)


def test_links_are_turned_to_pages_of_the_site():
  def turn(markdown, source):
    return site.LINK.sub(lambda link: site.turned(link, site.home_of(source)), markdown)

  assert turn("[a](docs/lecture.md#descent)", "index.md") == "[a](lecture.md#descent)"
  assert turn("[a](../README.md)", "rules.md") == "[a](index.md)"
  assert turn("[`f`](../fbackprop/graphs.py)", "rules.md") == "[`f`](source/fbackprop/graphs.py.md)"
  assert turn("[a](../fbackprop/circuit)", "rules.md") == "[a](source/fbackprop/circuit/index.md)"
  assert turn("[a](notebooks/lecture.ipynb)", "lecture.md") == "[a](notebooks/lecture.md)"
  assert turn('<img src="docs/backward.svg">', "index.md") == '<img src="backward.svg">'
  assert turn("[a](https://example.org)", "index.md") == "[a](https://example.org)"
  assert turn("[a](#b)", "index.md") == "[a](#b)"


def test_every_link_leads_to_a_page_of_the_site():
  docs = site.ROOT / "docs"
  texts = {file.name: file.read_text("utf-8") for file in docs.glob("*.md")} | dict(site.pages())
  files = {file.relative_to(docs).as_posix() for file in docs.rglob("*")} | set(texts)
  missing = []
  for source, text in texts.items():
    changed = site.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_path=source)))
    prose = site.CODE.sub("", changed)
    for link in site.LINK.finditer(prose):
      target = link["target"].partition("#")[0]
      path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
      if target and ":" not in target and path not in files:
        missing.append(f"{source}: {link['target']}")
  assert missing == []


def page_in(text):
  """The page in the frame of an HTML text."""
  return html.unescape(re.search(r'<iframe srcdoc="([^"]*)"', text)[1])


def page_in_the_notebook():
  content = json.loads((site.ROOT / "docs/notebooks/lecture.ipynb").read_text("utf-8"))
  data = [out.get("data", {}) for cell in content["cells"] for out in cell.get("outputs", ())]
  [shown] = ["".join(each["text/html"]) for each in data if "text/html" in each]
  return page_in(shown)


def test_the_cell_to_play_is_whole_on_the_site():
  """Its script would not run if a sign of it were changed: the page allows it by its hash."""
  text = dict(site.pages())["notebooks/lecture.md"]
  page = SimpleNamespace(file=SimpleNamespace(src_path="notebooks/lecture.md"))
  assert page_in(site.on_page_markdown(text, page)) == page_in_the_notebook()


def test_the_menu_names_pages_of_the_site():
  names = re.findall(r"^ +- (?:\w+: )?([\w/]+\.md)$", (site.ROOT / "mkdocs.yml").read_text(), re.M)
  docs = {file.name for file in (site.ROOT / "docs").glob("*.md")}
  made = {name for name, _ in site.pages() if not name.startswith("source/")}
  assert set(names) == docs | made
  assert len(names) == len(set(names))


def test_code_is_left_as_it_is():
  text = "[a](x.md) `[b](y.md)`\n```\n[c](z.md)\n```\n"
  changed = site.outside_code(text, lambda part: part.replace(".md", ".html"))
  assert changed == text.replace("x.md", "x.html")


def test_formulas_are_mathml():
  pytest.importorskip("latex2mathml", reason="needs latex2mathml, of fbackprop[docs]")
  shown = site.on_page_content(r'<p><span class="arithmatex">\(\bar w_i &lt; 1\)</span></p>')
  assert "<math" in shown
  assert "arithmatex" not in shown


def test_the_table_of_results_and_states_is_complete():
  page = (site.ROOT / "docs" / "reference.md").read_text("utf-8")
  fields = [("Result", field.name) for field in dataclasses.fields(fb.train.Result)]
  fields += [
    (unit.__name__, name) for unit in (fb.train.State, fb.train.Info) for name in unit._fields
  ]
  for unit, name in fields:
    assert f"| `{unit}` | `{name}` |" in page


@pytest.mark.slow
def test_it_is_built_strictly_and_loads_nothing(tmp_path):
  for package in ("latex2mathml", "material", "mkdocs", "mkdocstrings"):
    pytest.importorskip(package, reason=f"needs {package}, of fbackprop[docs]")
  command = [
    sys.executable,
    "-m",
    "mkdocs",
    "build",
    "--strict",
    "--quiet",
    "--site-dir",
    str(tmp_path),
  ]
  run = subprocess.run(command, cwd=site.ROOT, capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stdout + run.stderr
  pages = {
    page.relative_to(tmp_path).as_posix(): page.read_text("utf-8")
    for page in tmp_path.rglob("*.html")
  }
  assert {"index.html", "api/train.html", "lecture/ko/L9.html", "notebooks/lecture.html"} <= set(
    pages
  )
  loading = [name for name, text in pages.items() if LOADED.search(text)]
  assert loading == []
  styles = "".join(file.read_text("utf-8") for file in tmp_path.rglob("*.css"))
  assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)
  assert "loss_below" in pages["api/train.html"]
  assert page_in(pages["notebooks/lecture.html"]) == page_in_the_notebook()
