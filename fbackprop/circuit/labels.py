"""The texts of a circuit's picture: symbols, numbers, names, and how wide they are.

One typeface, a monospaced one, of which every character is 0.602 of its size wide: DejaVu Sans
Mono's width, and within a hundredth that of Menlo, Courier and Liberation Mono. So widths are known
without a font, and the SVG states them (`textLength`), so that they hold in whatever font it meets.
"""

import re
import unicodedata
from typing import NamedTuple

from fbackprop.checks import DtypeError, describe

ADVANCE, ASCENT, DESCENT = 0.602, 0.93, 0.24  # In units of the size.
LONGEST_LINE = 18
FORMAT = re.compile(r"[+ ]?,?(\.[0-9]{1,2})?[eEfFgG]")
SYMBOLS = {
  "add": "+",
  "subtract": "−",
  "multiply": "×",
  "divide": "÷",
  "negate": "−x",
  "power": "xʸ",
  "square": "x²",
  "reciprocal": "1/x",
  "sqrt": "√x",
  "abs": "|x|",
  "exp": "eˣ",
  "log": "ln",
  "sigmoid": "σ",
}


class Text(NamedTuple):
  """A line of text: where it starts, on its baseline, and how it is set."""

  x: float
  y: float
  text: str
  size: float
  color: str
  bold: bool = False
  italic: bool = False

  @property
  def width(self) -> float:
    return width_of(self.text, self.size)

  @property
  def box(self) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the room that the line takes."""
    top, bottom = self.y - ASCENT * self.size, self.y + DESCENT * self.size
    return self.x, top, self.x + self.width, bottom


def symbol_of(op: str) -> str:
  """What stands in the gate's circle."""
  return SYMBOLS.get(op, clean(op))


def is_made(name: str) -> bool:
  """Whether a node's name was made for it, as g1 is for a gate that has none."""
  return name[:1] in ("g", "c") and name[1:].isdigit()


def width_of(text: str, size: float) -> float:
  """The width of a line: a cell for each character, two for a wide one, none for an accent."""
  cells = 0
  for character in text:
    wide = unicodedata.east_asian_width(character) in "WF"
    cells += 0 if unicodedata.combining(character) else 1 + wide
  return cells * ADVANCE * size


def clean(text: str) -> str:
  """A text that may stand in XML, on one line."""
  kept = [c if c.isprintable() and c not in "\ufffe\uffff" else "\ufffd" for c in text]
  return "".join(kept)


def show(value: float, digits: int | str) -> str:
  """A number as text, with a true minus sign, and without one before a zero.

  Args:
    value: any float.
    digits: how many significant digits, from 1 to 17, or a format, as ".2f".

  Raises:
    TypeError: `digits` is neither.
    ValueError: it is no such number, or no such format.
  """
  if isinstance(digits, bool) or not isinstance(digits, int | str):
    raise DtypeError(f"digits must be a whole number or a format as '.2f', got {describe(digits)}")
  if isinstance(digits, int) and not 1 <= digits <= 17:
    raise ValueError(f"digits must be from 1 to 17, got {digits}")
  # Of all formats those of a number as it is: a percentage is another one, and a width no number's.
  if isinstance(digits, str) and not FORMAT.fullmatch(digits):
    raise ValueError(
      f"digits must be a number from 1 to 17 or a format of floats such as '.2f', got {digits!r}"
    )
  text = format(float(value), f".{digits}g" if isinstance(digits, int) else digits).strip()
  if not text.strip("-0., "):
    text = text.replace("-", "")
  mantissa, e, exponent = text.partition("e")
  if e and exponent.lstrip("+-").isdigit():
    text = f"{mantissa}e{int(exponent)}"
  return text.replace("-", "−")


def show_sum(total: float, terms: tuple[float, ...], digits: int | str) -> list[str]:
  """A gradient as lines: "5", or where several wires bring it "5 = 2 + 3", broken if it is long."""
  if len(terms) < 2:
    return [show(total, digits)]
  texts = [show(term, digits) for term in terms]
  pieces = [show(total, digits), f"= {texts[0]}"]
  for text in texts[1:]:
    pieces.append(f"− {text[1:]}" if text.startswith("−") else f"+ {text.removeprefix('+')}")
  if len(whole := " ".join(pieces)) <= LONGEST_LINE:
    return [whole]
  lines = pieces[:2]
  for piece in pieces[2:]:
    if len(lines[-1]) + 1 + len(piece) <= LONGEST_LINE:
      lines[-1] += f" {piece}"
    else:
      lines.append(piece)
  return lines
