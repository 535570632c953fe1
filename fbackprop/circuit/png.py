"""A circuit's picture as PNG, by matplotlib, in its bundled typeface.

Names with letters that the typeface lacks are drawn in an installed font that has them, or raise an
error.
"""

import io
from collections.abc import Sequence
from typing import Any

from fbackprop.checks import check_number
from fbackprop.circuit.drawing import Labels, compose
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.notation import printable
from fbackprop.circuit.shapes import PAPER, STROKE, Picture, Style, Text
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
  labels = Labels(solution.circuit, solution, digits)
  picture, name = compose(labels, title), printable(title or labels.title())
  need("matplotlib", extra="plot")
  check_number("to_png", "dpi", dpi, 1)
  wide, high = (round(side * dpi / 96) for side in (picture.width, picture.height))
  if min(wide, high) < 1 or max(wide, high) > WIDEST:
    raise CircuitError(
      f"to_png: at dpi {dpi:g} the picture has {wide} by {high} pixels, and each side must have "
      f"from 1 to {WIDEST}; give another dpi, or draw it as SVG"
    )
  size = (wide / dpi, high / dpi)
  figure = need("matplotlib.figure", extra="plot").Figure(size, dpi, facecolor=PAPER)
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
      points = [point for piece in pieces for point in piece.points]
      codes = [letters.get(code, path.Path.CURVE4) for piece in pieces for code in piece.codes]
      look = {"facecolor": fill, "edgecolor": stroke, "linewidth": 0.75 * STROKE}
      outline = path.Path(points, codes)
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
    size = 0.75 * style.size
    faces[style] = manager.FontProperties(family=list(families), size=size, **setting)
  if missing:
    raise CircuitError(
      f"to_png: no installed font has {list_characters(list(missing))}; install one that has, or "
      "draw it as SVG, which is shown in the viewer's fonts"
    )
  return faces
