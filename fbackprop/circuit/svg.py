"""A picture written as SVG: text as text, of stated width, and words for screen readers."""

import zlib
from itertools import groupby
from xml.sax.saxutils import escape

from fbackprop.circuit.labels import Text
from fbackprop.circuit.shapes import DOT, GATE, INK, PAPER, RADIUS, STROKE, WIRE, Curve, Picture

FONTS = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"


def write_svg(picture: Picture, name: str, description: str) -> str:
  """The text of the file; `name` and `description` are what a screen reader says."""
  # Several pictures on one page must not share an id.
  label = f"circuit-{zlib.crc32((name + description).encode()):08x}"
  width, height = shorten(picture.width), shorten(picture.height)
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="{label}-title {label}-desc">',
    f'<title id="{label}-title">{escape(name)}</title>',
    f'<desc id="{label}-desc">{escape(description)}</desc>',
    f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
    f'<path d="{"".join(map(path_of, picture.curves))}" fill="none" '
    f'stroke="{WIRE}" stroke-width="{STROKE}"/>',
    f'<g fill="{WIRE}">',
    *(f'<circle cx="{shorten(x)}" cy="{shorten(y)}" r="{DOT}"/>' for x, y in picture.dots),
    *(f'<path d="M{shorten(x)} {shorten(y)}l-9 -4.5v9z"/>' for x, y in picture.arrows),
    "</g>",
    f'<g fill="{GATE}" stroke="{INK}" stroke-width="{STROKE}">',
    *(
      f'<rect x="{shorten(x - width / 2)}" y="{shorten(y - RADIUS)}" width="{shorten(width)}" '
      f'height="{shorten(2 * RADIUS)}" rx="{shorten(RADIUS)}"/>'
      for x, y, width in picture.pills
    ),
    "</g>",
    f'<g font-family="{FONTS}" xml:space="preserve">',
  ]
  for style, texts in groupby(sorted(picture.texts, key=style_of), style_of):
    lines += [f"<g {style}>", *map(element_of, texts), "</g>"]
  return "\n".join([*lines, "</g>", "</svg>", ""])


def shorten(x: float) -> str:
  """A coordinate, to a hundredth of a pixel."""
  return f"{x:.2f}".rstrip("0").rstrip(".")


def path_of(curve: Curve) -> str:
  """The commands that draw a piece of wire."""
  x, y, x_, y_, end = map(shorten, curve)
  if y == y_:
    return f"M{x} {y}H{end}"
  middle = shorten((curve.x + curve.x_) / 2)
  level = f"H{end}" if end != x_ else ""
  return f"M{x} {y}C{middle} {y} {middle} {y_} {x_} {y_}{level}"


def style_of(text: Text) -> str:
  """The attributes that a text shares with others of its kind."""
  weight = ' font-weight="bold"' if text.bold else ""
  slope = ' font-style="italic"' if text.italic else ""
  return f'font-size="{shorten(text.size)}" fill="{text.color}"{weight}{slope}'


def element_of(text: Text) -> str:
  """A line of text; a renderer with another font fits it to the width that was counted on."""
  where = f'x="{shorten(text.x)}" y="{shorten(text.y)}" textLength="{shorten(text.width)}"'
  return f'<text {where} lengthAdjust="spacingAndGlyphs">{escape(text.text)}</text>'
