"""HTML for notebooks and pages, in one style; all text is escaped.

`element` escapes what isn't `Markup`, so that a name from a program or a file stays text. Colors
are readable on white and on black, since a notebook has the one or the other; a page of its own
follows the reader's setting, by `markup.css`.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

CELL = "text-align: left; padding: 0.1em 0.8em 0.1em 0"
# In a notebook, on white and on black; a page has its own for either.
GOOD, BAD, UNSURE = "var(--good, #1f883d)", "var(--wrong, #d1242f)", "var(--unsure, #9a6700)"
STYLE = Path(__file__).with_suffix(".css")
VOID = ("input",)  # Elements that are empty, and have no end.


class Markup(str):
  """HTML; any other text is escaped where it is put into an element."""

  __slots__ = ()


def element(tag: str, *inside: str, **attributes: str) -> Markup:
  """Return an element with text or other elements in it.

  Args:
    tag: its name.
    *inside: its content, in order; text is escaped, `Markup` isn't.
    **attributes: as `class_` or `aria_label`, for `class` and `aria-label`; escaped.
  """
  named = (f' {k.rstrip("_").replace("_", "-")}="{escape(v)}"' for k, v in attributes.items())
  end = "" if tag in VOID else f"</{tag}>"
  return Markup(f"<{tag}{''.join(named)}>{joined(inside)}{end}")


def joined(parts: Iterable[str]) -> Markup:
  """Return texts and elements one after the other."""
  return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def headline(verdict: str, color: str, rest: str) -> Markup:
  """Return a line that begins with a verdict."""
  return element("p", element("strong", verdict, style=f"color: {color}"), f" {rest}")


def paragraph(text: str) -> Markup:
  """Return a text as a paragraph."""
  return element("p", text)


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
  """Return a table without its empty columns; "" without rows."""
  rows = list(rows)
  full = [i for i in range(len(heads)) if any(row[i] for row in rows)]
  lines = [cells("th", heads, full), *(cells("td", row, full) for row in rows)]
  return element("table", *lines) if rows else Markup()


def cells(tag: str, texts: Sequence[str], places: Iterable[int]) -> Markup:
  """Return a table row; "th" is a head of its column."""
  options = {"style": CELL} | ({"scope": "col"} if tag == "th" else {})
  return element("tr", *(element(tag, texts[i], **options) for i in places))


def scrolling(table: Markup, name: str) -> Markup:
  """Return a table that scrolls by itself where it is wider than the page; "" without one."""
  options = {"class_": "scroll", "tabindex": "0", "role": "region", "aria_label": name}
  return element("div", table, **options, style="overflow-x: auto") if table else table


def script_data(data: object) -> Markup:
  """Return data for the scripts of a page, as JSON in an element that isn't run."""
  text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
  # No text in it can end the element.
  text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
  return Markup(f'<script type="application/json">{text}</script>')


def document(
  title: str, body: Markup, style: str = "", script: str = "", language: str = "en"
) -> str:
  """Return a whole page for light and dark: one file that loads nothing.

  Args:
    title: of the window.
    body: its content.
    style: more CSS, after that of all pages.
    script: what the page runs once it is read, and nothing else: its content security policy names
      this text by its hash.
    language: of its text, as "en".
  """
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  allowed = f"; script-src 'sha256-{digest}'" if script else ""
  policy = f"default-src 'none'; style-src 'unsafe-inline'{allowed}"
  return f"""<!doctype html>
<html lang="{escape(language)}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
{element("title", title)}
<style>
{STYLE.read_text(encoding="utf-8")}{style}
</style>
</head>
{element("body", body, Markup(f"<script>{script}</script>" if script else ""))}
</html>"""
