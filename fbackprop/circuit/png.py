"""A circuit's picture as PNG, by matplotlib, in its bundled typeface.

Names with letters that the typeface lacks are drawn in an installed font that has them, or raise an
error.
"""

import io
from collections.abc import Sequence
from typing import Any

from fbackprop.checks import check_number
from fbackprop.circuit.drawing import compose
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.labels import NumberLabels
from fbackprop.circuit.notation import printable
from fbackprop.circuit.shapes import DOT, GATE, INK, PAPER, RADIUS, STROKE, WIRE, Picture, Text
from fbackprop.circuit.solver import Solution
from fbackprop.extras import need
from fbackprop.fonts import any_weight, choose_fonts, list_characters

WIDEST = 60_000  # The renderer's own limit is 65,535 pixels.


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
  labels = NumberLabels(solution, digits)
  return write_png(compose(labels, title), printable(title or labels.title), dpi)


def write_png(picture: Picture, name: str, dpi: float) -> bytes:
  """Write a picture, its name in the metadata."""
  need("matplotlib", extra="plot")
  check_number("to_png", "dpi", dpi, 1)
  wide, high = (round(side * dpi / 96) for side in (picture.width, picture.height))
  if min(wide, high) < 1 or max(wide, high) > WIDEST:
    raise CircuitError(
      f"to_png: at dpi {dpi:g} the picture has {wide} by {high} pixels, and each side must have "
      f"from 1 to {WIDEST}; give another dpi, or draw it as SVG"
    )
  figure = need("matplotlib.figure", extra="plot").Figure(
    figsize=(wide / dpi, high / dpi), dpi=dpi, facecolor=PAPER
  )
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
  line = {"linewidth": 0.75 * STROKE, "capstyle": "butt"}
  points, codes = [], []
  for x, y, x_, y_, end in picture.curves:
    middle = (x + x_) / 2
    points += [(x, y), (middle, y), (middle, y_), (x_, y_), (end, y_)]
    codes += [path.Path.MOVETO, *[path.Path.CURVE4] * 3, path.Path.LINETO]
  if points:
    wires = path.Path(points, codes)
    axes.add_patch(patches.PathPatch(wires, facecolor="none", edgecolor=WIRE, **line))
  for x, y in picture.dots:
    axes.add_patch(patches.Circle((x, y), DOT, facecolor=WIRE, linewidth=0))
  for x, y in picture.arrows:
    tip = [(x, y), (x - 9, y - 4.5), (x - 9, y + 4.5)]
    axes.add_patch(patches.Polygon(tip, facecolor=WIRE, linewidth=0))
  for x, y, width in picture.pills:
    arc = path.Path.arc(90, 270)
    off = width / 2 - RADIUS
    left, right = (
      arc.vertices * RADIUS + (x - off, y),
      arc.vertices * -RADIUS + (x + off, y),
    )
    codes = [*arc.codes, path.Path.LINETO, *arc.codes[1:], path.Path.CLOSEPOLY]
    outline = path.Path([*left, *right, left[0]], codes)
    axes.add_patch(patches.PathPatch(outline, facecolor=GATE, edgecolor=INK, **line))
  for text, font in zip(picture.texts, choose_faces(picture.texts), strict=True):
    axes.text(
      text.x, text.y, text.text, fontproperties=font, color=text.style.color, parse_math=False
    )


def choose_faces(texts: Sequence[Text]) -> list[Any]:
  """Choose the font of each line: DejaVu Sans Mono, or an installed one for letters that it lacks.

  The faces of DejaVu Sans Mono are taken from matplotlib's own files, so that the picture doesn't
  depend on the machine's fonts.
  """
  manager = need("matplotlib.font_manager", extra="plot")
  folder = need("matplotlib", extra="plot").get_data_path() + "/fonts/ttf"
  fonts: list[dict[str, Any]] = []
  lacking: dict[tuple[str, str], list[str]] = {}
  for text in texts:
    _, _, bold, italic = text.style
    face = "Bold" * bold + "Oblique" * italic
    file = f"{folder}/DejaVuSansMono{'-' * bool(face)}{face}.ttf"
    glyphs = manager.get_font(file)
    if all(glyphs.get_char_index(ord(character)) for character in text.text):
      fonts.append({"fname": file})
    else:
      weight, slope = "bold" if bold else "normal", "oblique" if italic else "normal"
      fonts.append({"weight": weight, "style": slope})
      lacking.setdefault((weight, slope), []).append(text.text)
  chosen = {
    style: choose_fonts(lines, ["DejaVu Sans Mono"], weight=style[0], style=style[1])
    for style, lines in lacking.items()
  }
  missing = dict.fromkeys(c for choice in chosen.values() for c in choice.missing)
  if missing:
    raise CircuitError(
      f"to_png: no installed font has {list_characters(list(missing))}; install one that has, or "
      "draw it as SVG, which is shown in the viewer's fonts"
    )
  for font in fonts:
    if "fname" not in font:
      font["family"] = list(chosen[font["weight"], font["style"]].families)
  return [
    manager.FontProperties(size=0.75 * text.style.size, **font)
    for text, font in zip(texts, fonts, strict=True)
  ]
