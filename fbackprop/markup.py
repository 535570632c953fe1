"""HTML fragments for notebooks; all text is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

CELL = "text-align: left; padding: 0.1em 0.8em 0.1em 0"
GOOD, BAD, UNSURE = "#1f883d", "#d1242f", "#9a6700"  # On white and on black.


def headline(verdict: str, color: str, rest: str) -> str:
  """Return a line that begins with a verdict."""
  return f'<p><strong style="color: {color}">{escape(verdict)}</strong> {escape(rest)}</p>'


def paragraph(text: str) -> str:
  """Return a text as a paragraph."""
  return f"<p>{escape(text)}</p>"


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Return a table without its empty columns; "" without rows."""
  rows = list(rows)
  full = [i for i in range(len(heads)) if any(row[i] for row in rows)]
  lines = [cells("th", heads, full), *(cells("td", row, full) for row in rows)]
  return f"<table>{''.join(lines)}</table>" if rows else ""


def cells(tag: str, texts: Sequence[str], places: Iterable[int]) -> str:
  """Return a table row."""
  inside = (f'<{tag} style="{CELL}">{escape(texts[i])}</{tag}>' for i in places)
  return f"<tr>{''.join(inside)}</tr>"
