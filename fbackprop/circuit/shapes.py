"""The shapes of a circuit's picture, and its style, shared by all formats.

The conventions are those of Stanford's CS231n: the computation runs from left to right, gates are
circles with their symbols, the value of a wire is above it in green, and the global gradient below
it in red. Values are upright and gradients oblique, so that the picture can be read in black and
white too.

Texts have one monospaced typeface, whose characters are 0.602 of the font size wide: the width of
DejaVu Sans Mono, and within a hundredth that of Menlo, Courier and Liberation Mono. So widths are
known without a font; the SVG states them (`textLength`), and they hold in any font.
"""

import unicodedata
from typing import NamedTuple

PAPER, INK, WIRE, GATE = "#ffffff", "#1b1f24", "#57606a", "#eef2f8"
RADIUS, STROKE, DOT, TIP = 17.0, 1.4, 3.0, 10.0  # Pixels, as all lengths here.
ADVANCE, ASCENT, DESCENT = 0.602, 0.93, 0.24  # The typeface's metrics, in units of its size.

BULGE = 0.5523  # Of Bézier curves that are quarters of a circle, to 0.03 percent.
ARC = ((0, -1), (BULGE, -1), (1, -BULGE), (1, 0), (1, BULGE), (BULGE, 1), (0, 1))


class Style(NamedTuple):
  """The style of a text; the size is in pixels."""

  size: float
  color: str = INK
  bold: bool = False
  italic: bool = False


VALUE = Style(13.0, "#116329")
GRADIENT = Style(13.0, "#b3001b", italic=True)
NOTE = Style(13.0)
NAME, PLAIN_NAME = Style(14.0, bold=True), Style(14.0)
SYMBOL, WORD = Style(18.0), Style(12.0)  # For one character, and for more.
HEADING = Style(15.0, bold=True)


class Piece(NamedTuple):
  """A piece of an outline.

  Attributes:
    codes: for each point how it is reached: M by a move, L by a line, C and twice a space by a
      cubic Bézier curve.
    points: the points.
  """

  codes: str
  points: list[tuple[float, float]]


class Text(NamedTuple):
  """A line of text that starts at (x, y) on its baseline."""

  x: float
  y: float
  text: str
  style: Style

  @property
  def width(self) -> float:
    return width_of(self.text, self.style)


class Picture(NamedTuple):
  """The size of the paper, and the shapes: outlines in drawing order, and the texts on them.

  Attributes:
    width, height: the size.
    outlines: colors of filling and of lines, and the pieces.
    texts: the texts.
  """

  width: float
  height: float
  outlines: list[tuple[str, str, list[Piece]]]
  texts: list[Text]


def pill(x: float, y: float, half: float, r: float) -> Piece:
  """Return a circle, or a rectangle with round ends: the outline of a gate or a fork."""
  end = [(half - r + a * r, b * r) for a, b in ARC]
  around = [(0, -r), *end, *((-a, -b) for a, b in end), (0, -r)]
  return Piece(f"M{'LC  C  ' * 2}L", [(x + a, y + b) for a, b in around])


def width_of(text: str, style: Style) -> float:
  """Compute the width of a line: one cell per character, two per wide one, none per accent."""
  letters = [character for character in text if not unicodedata.combining(character)]
  cells = len(letters) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in letters)
  return cells * ADVANCE * style.size
