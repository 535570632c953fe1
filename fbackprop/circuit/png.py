"""A picture written as PNG, by matplotlib, with the typeface that it brings."""

import io
from typing import Any

from fbackprop.checks import check_number
from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.labels import Text
from fbackprop.circuit.shapes import DOT, GATE, INK, PAPER, RADIUS, STROKE, WIRE, Picture
from fbackprop.extras import need

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
  faces = Faces()
  for text in picture.texts:
    axes.text(text.x, text.y, **faces.setting(text))


class Faces:
  """The four faces of DejaVu Sans Mono that lie in matplotlib's folder, on any machine."""

  def __init__(self) -> None:
    self.folder = need("matplotlib", extra="plot").get_data_path() + "/fonts/ttf/"
    self.manager = need("matplotlib.font_manager", extra="plot")

  def setting(self, text: Text) -> dict[str, Any]:
    """The arguments of matplotlib for a line of text."""
    face = "Bold" * text.bold + "Oblique" * text.italic
    file = f"{self.folder}DejaVuSansMono{'-' * bool(face)}{face}.ttf"
    glyphs = self.manager.get_font(file)
    # What the face doesn't have becomes the sign for that, or matplotlib would warn.
    shown = "".join(c if glyphs.get_char_index(ord(c)) else "\ufffd" for c in text.text)
    font = self.manager.FontProperties(fname=file, size=0.75 * text.size)
    return {"s": shown, "fontproperties": font, "color": text.color, "parse_math": False}
