"""A picture written as PNG, by matplotlib, with the typeface that it brings.

Names with letters that it lacks are drawn in an installed font that has them, or refused.
"""

import io
from collections.abc import Iterable
from typing import Any

from fbackprop.checks import check_number
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.labels import Text
from fbackprop.circuit.shapes import DOT, GATE, INK, PAPER, RADIUS, STROKE, WIRE, Picture
from fbackprop.extras import need
from fbackprop.fonts import any_weight, choose_fonts, list_characters

WIDEST = 60_000  # What the renderer can do is 65,535.


def write_png(picture: Picture, name: str, dpi: float) -> bytes:
  """The bytes of the file; `name` is its title, in the metadata."""
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
  # Without the software's version the same circuit gives the same bytes.
  with any_weight():
    figure.savefig(file, format="png", metadata={"Software": None, "Title": name})
  return file.getvalue()


def paint(axes: Any, picture: Picture) -> None:
  """Draws on axes whose units are the picture's pixels, of 1/96 inch: 3/4 of a point."""
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
    left, right = arc.vertices * RADIUS + (x - off, y), arc.vertices * -RADIUS + (x + off, y)
    codes = [*arc.codes, path.Path.LINETO, *arc.codes[1:], path.Path.CLOSEPOLY]
    outline = path.Path([*left, *right, left[0]], codes)
    axes.add_patch(patches.PathPatch(outline, facecolor=GATE, edgecolor=INK, **line))
  faces = Faces(picture.texts)
  for text in picture.texts:
    axes.text(text.x, text.y, **faces.setting(text))


class Faces:
  """The four faces of DejaVu Sans Mono that lie in matplotlib's folder, on any machine.

  Attributes:
    families: of a line that these lack letters of: fonts that have them, by bold and italic.
  """

  def __init__(self, texts: Iterable[Text]) -> None:
    self.folder = need("matplotlib", extra="plot").get_data_path() + "/fonts/ttf/"
    self.manager = need("matplotlib.font_manager", extra="plot")
    lacking: dict[tuple[bool, bool], list[str]] = {}
    for text in texts:
      if not self.has(text):
        lacking.setdefault((text.bold, text.italic), []).append(text.text)
    self.families: dict[tuple[bool, bool], tuple[str, ...]] = {}
    missing: dict[str, None] = {}
    for (bold, italic), lines in lacking.items():
      choice = choose_fonts(lines, ["DejaVu Sans Mono"], **style_of(bold, italic))
      self.families[bold, italic] = choice.families
      missing |= dict.fromkeys(choice.missing)
    if missing:
      raise CircuitError(
        f"to_png: no installed font has {list_characters(list(missing))}; install one that has, or "
        "draw it as SVG, which is shown in the viewer's fonts"
      )

  def file(self, text: Text) -> str:
    """Where the face of a line lies."""
    face = "Bold" * text.bold + "Oblique" * text.italic
    return f"{self.folder}DejaVuSansMono{'-' * bool(face)}{face}.ttf"

  def has(self, text: Text) -> bool:
    """Whether the line's face has all of its characters."""
    glyphs = self.manager.get_font(self.file(text))
    return all(glyphs.get_char_index(ord(c)) for c in text.text)

  def setting(self, text: Text) -> dict[str, Any]:
    """The arguments of matplotlib for a line of text."""
    size = 0.75 * text.size
    if self.has(text):
      font = self.manager.FontProperties(fname=self.file(text), size=size)
    else:
      families = list(self.families[text.bold, text.italic])
      font = self.manager.FontProperties(
        family=families, size=size, **style_of(text.bold, text.italic)
      )
    return {"s": text.text, "fontproperties": font, "color": text.color, "parse_math": False}


def style_of(bold: bool, italic: bool) -> dict[str, str]:
  """Weight and style as matplotlib calls them."""
  return {"weight": "bold" if bold else "normal", "style": "oblique" if italic else "normal"}
