"""The formats of a circuit's picture: SVG, and PNG by matplotlib.

SVG has texts of stated width, and a description for screen readers. PNG has matplotlib's bundled
typeface; names with letters that it lacks are drawn in an installed font that has them, or raise an
error.

To add an output, write `to_x` here, or in `text` if it is text, make it a method of `Trace` in
`_circuit`, and add x to the formats of `CircuitConfig` in `cli.circuit`.
"""

import io
import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

from fbackprop.checks import check_number
from fbackprop.circuit.drawing import Labels, compose
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.notation import printable
from fbackprop.circuit.shapes import PAPER, STROKE, Picture, Piece, Style, Text
from fbackprop.circuit.solver import Solution
from fbackprop.extras import need
from fbackprop.fonts import any_weight, choose_fonts, list_characters

FONTS = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
WIDEST = 60_000  # Pixels of a PNG file; the renderer's own limit is 65,535.


# --- SVG ------------------------------------------------------------------------------------------


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


# --- PNG ------------------------------------------------------------------------------------------


def to_png(
  solution: Solution, *, digits: int | str = 4, title: str | None = None, dpi: float = 192
) -> bytes:
  """Draw a solved circuit as a PNG file: the picture of `to_svg`, in pixels.

  Args:
    solution: a solved circuit.
    digits: the number of significant digits, from 1 to 17, or a format such as ".2f".
    title: a heading.
    dpi: pixels per inch; at 96 the picture is as large as the SVG.

  Returns:
    The file's bytes, deterministic for a circuit.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
    TypeError: `digits` or `title` is of another type.
    ValueError: as `to_svg`; or the picture has too many pixels for a PNG file.
  """
  return draw_png(Labels(solution.circuit, solution, digits), title, dpi)


def draw_png(labels: Labels, title: str | None = None, dpi: float = 192) -> bytes:
  """Draw a circuit, solved or not, with its labels."""
  picture, name = compose(labels, title), printable(title or labels.title())
  need("matplotlib", extra="plot")
  check_number("to_png", "dpi", dpi, 1)
  wide, high = (round(side * dpi / 96) for side in (picture.width, picture.height))
  if min(wide, high) < 1 or max(wide, high) > WIDEST:
    size = f"at dpi {dpi:g} the picture has {wide} by {high} pixels"
    limits = f"each side must have from 1 to {WIDEST}; give another dpi, or draw it as SVG"
    raise CircuitError(f"to_png: {size}, and {limits}")
  inches = (wide / dpi, high / dpi)
  figure = need("matplotlib.figure", extra="plot").Figure(inches, dpi, facecolor=PAPER)
  axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(picture.height, 0))
  axes.set_axis_off()
  paint(axes, picture)
  file = io.BytesIO()
  # The software's version is omitted, so that a circuit always gives the same bytes.
  with any_weight():
    figure.savefig(file, format="png", metadata={"Software": None, "Title": name})
  return file.getvalue()


def paint(axes: Any, picture: Picture) -> None:
  """Draw on axes in units of the picture's pixels, of 1/96 inch: 3/4 of a point."""
  patches, path = need("matplotlib.patches", extra="plot"), need("matplotlib.path", extra="plot")
  letters = {"M": path.Path.MOVETO, "L": path.Path.LINETO}
  for fill, stroke, pieces in picture.outlines:
    if pieces:
      codes = [letters.get(code, path.Path.CURVE4) for piece in pieces for code in piece.codes]
      look = {"facecolor": fill, "edgecolor": stroke, "linewidth": 0.75 * STROKE}
      outline = path.Path([point for piece in pieces for point in piece.points], codes)
      axes.add_patch(patches.PathPatch(outline, **look, capstyle="butt", snap=False))
  faces = choose_faces(picture.texts)
  for x, y, text, style in picture.texts:
    axes.text(x, y, text, fontproperties=faces[style], color=style.color, parse_math=False)


def choose_faces(texts: Sequence[Text]) -> dict[Style, Any]:
  """Choose the font of each style: DejaVu Sans Mono, and installed ones for letters it lacks.

  Of several fonts of that name matplotlib takes its own, so that the picture doesn't depend on the
  machine's fonts.
  """
  manager = need("matplotlib.font_manager", extra="plot")
  faces, missing = {}, dict[str, None]()
  for style in dict.fromkeys(text.style for text in texts):
    weight, slope = "bold" if style.bold else "normal", "oblique" if style.italic else "normal"
    setting = {"weight": weight, "style": slope}
    lines = [text.text for text in texts if text.style == style]
    families, lost = choose_fonts(lines, ["DejaVu Sans Mono"], **setting)
    missing |= dict.fromkeys(lost)
    faces[style] = manager.FontProperties(family=list(families), size=0.75 * style.size, **setting)
  if missing:
    advice = "install one that has, or draw it as SVG, which is shown in the viewer's fonts"
    raise CircuitError(f"to_png: no installed font has {list_characters(list(missing))}; {advice}")
  return faces
