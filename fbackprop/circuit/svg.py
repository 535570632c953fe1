"""A circuit's picture as SVG: texts of stated width, and a description for screen readers."""

import zlib
from itertools import groupby
from xml.sax.saxutils import escape

from fbackprop.circuit.drawing import Labels, compose
from fbackprop.circuit.notation import printable
from fbackprop.circuit.shapes import PAPER, STROKE, Piece, Text
from fbackprop.circuit.solver import Solution

FONTS = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"


def to_svg(solution: Solution, *, digits: int | str = 4, title: str | None = None) -> str:
  """Draw a solved circuit as an SVG file.

  Args:
    solution: a solved circuit.
    digits: the number of significant digits, from 1 to 17, or a format such as ".2f".
    title: a heading, which is also the picture's accessible name; by default that is a summary.

  Returns:
    The file's text, deterministic for a circuit; the background is white, for pages of any color.

  Raises:
    TypeError: `digits` or `title` is of another type.
    ValueError: `digits` is out of range or isn't a format, or a wire is too long to be drawn.
  """
  return draw_svg(Labels(solution.circuit, solution, digits), title)


def draw_svg(labels: Labels, title: str | None = None) -> str:
  """Draw a circuit, solved or not, with its labels."""
  name, description = printable(title or labels.title()), labels.description()
  picture = compose(labels, title)
  # Several pictures on one page must not share an id.
  label = f"circuit-{zlib.crc32((name + description).encode()):08x}"
  width, height = shorten(picture.width), shorten(picture.height)
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="{label}-title {label}-desc">',
    f'<title id="{label}-title">{escape(name)}</title>',
    f'<desc id="{label}-desc">{escape(description)}</desc>',
    f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
    *(
      f'<path d="{"".join(map(path_of, pieces))}" fill="{fill}" stroke="{stroke}" '
      f'stroke-width="{STROKE}"/>'
      for fill, stroke, pieces in picture.outlines
    ),
    f'<g font-family="{FONTS}" xml:space="preserve">',
  ]
  for attributes, texts in groupby(sorted(picture.texts, key=attributes_of), attributes_of):
    lines += [f"<g {attributes}>", *map(element_of, texts), "</g>"]
  return "\n".join([*lines, "</g>", "</svg>", ""])


def shorten(x: float) -> str:
  """Format a coordinate to a hundredth of a pixel."""
  return f"{x:.2f}".rstrip("0").rstrip(".")


def path_of(piece: Piece) -> str:
  """Return the path commands of a piece of an outline."""
  points = (f"{shorten(x)} {shorten(y)}" for x, y in piece.points)
  return "".join(f"{code}{point}" for code, point in zip(piece.codes, points, strict=True))


def attributes_of(text: Text) -> str:
  """Return the attributes of a text's style."""
  size, color, bold, italic = text.style
  weight, slope = ' font-weight="bold"' * bold, ' font-style="italic"' * italic
  return f'font-size="{shorten(size)}" fill="{color}"{weight}{slope}'


def element_of(text: Text) -> str:
  """Return the element of a line of text, fitted to its stated width in whatever font it has."""
  where = f'x="{shorten(text.x)}" y="{shorten(text.y)}" textLength="{shorten(text.width)}"'
  return f'<text {where} lengthAdjust="spacingAndGlyphs">{escape(text.text)}</text>'
