"""Handwriting in Python's spelling: `x²·y^z − √(x)` is `x**(2)*y**z - sqrt(x)`.

Only the spelling changes, and each new character keeps the column of the old one, so that the caret
of an error points at the typed character. `ReLU` and `sum` are names, looked up when they are
called.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Sequence

from fbackprop.hints import hint

SPELLINGS = {
  "^": "**",  # A power, as in handwriting: reals have no exclusive or.
  **dict.fromkeys("−‐‑‒–﹣", "-"),
  **dict.fromkeys("·⋅∙•×✕✖⨯∗", "*"),
  **dict.fromkeys("÷∕⁄➗", "/"),
  "∑": "sum",
  "∏": "product",
}
PIECES = re.compile(r"(?P<comment>#.*)|√\s*(?P<atom>[\w.]*)|.")
# Texts after √x that make the reach of the root ambiguous: √x², √x^2, √f(x).
MORE = re.compile(r"\s*(?:[\^(（＾]|\*\*)")

SYNONYMS = {
  "sum": "add", "Σ": "add", "sub": "subtract", "product": "multiply", "prod": "multiply",
  "Π": "multiply", "mul": "multiply", "div": "divide", "pow": "power", "neg": "negate",
  "maximum": "max", "minimum": "min", "ln": "log", "σ": "sigmoid", "logistic": "sigmoid",
  "swish": "silu",
}  # fmt: skip
"""Other names of gates; those in ASCII are case-insensitive."""


class SpellingError(ValueError):
  """An ambiguous spelling at a column of the line."""

  def __init__(self, message: str, column: int) -> None:
    super().__init__(message)
    self.column = column


def respell(line: str) -> tuple[str, Sequence[int]]:
  """Convert a line to Python's spelling; a comment is kept as it is.

  Args:
    line: the line as typed.

  Returns:
    `(text, columns)`: the respelt line, and the column in the line as typed of each of its
    characters and of its end.

  Raises:
    SpellingError: the reach of a √ is ambiguous.

  Example:
    >>> respell("x² − √y")
    ('x**(2) - sqrt(y)', [0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 5, 6, 6, 7])
  """
  if line.isascii() and "^" not in line:
    return line, range(len(line) + 1)
  text: list[str] = []
  columns: list[int] = []

  def write(new: str, column: int) -> None:
    text.append(new)
    columns.extend([column] * len(new))

  was_raised = False
  for match in PIECES.finditer(line):
    piece, start = match[0], match.start()
    raised = is_raised(piece)
    if was_raised != raised:
      write("**(" if raised else ")", start if raised else start - 1)
    was_raised = raised
    if match["comment"] is not None:
      text.append(piece)
      columns.extend(range(start, match.end()))
    elif piece[0] == "√":
      atom, rest = match["atom"], line[match.end() :]
      is_unclear = any(map(is_raised, [*atom, *rest.lstrip()[:1]])) or bool(atom) == bool(
        MORE.match(rest)
      )
      if is_unclear:
        raise SpellingError("it isn't clear how far √ reaches; write √(...)", start)
      write("sqrt(" if atom else "sqrt", start)
      for i, character in enumerate(atom, match.start("atom")):
        write(plain(character), i)
      write(")" if atom else "", match.end() - 1)
    else:
      write(plain(piece), start)
  if was_raised:
    write(")", len(line) - 1)
  return "".join(text), [*columns, len(line)]


def is_raised(piece: str) -> bool:
  """Return whether a character is a superscript."""
  return len(piece) == 1 and unicodedata.decomposition(piece).startswith("<super>")


def plain(character: str) -> str:
  """Convert a character to its plain form: not superscript, subscript or full-width."""
  if character.isascii():
    return SPELLINGS.get(character, character)
  if character.isspace():
    return " "
  kind = unicodedata.decomposition(character).partition(" ")[0]
  if kind in ("<super>", "<sub>", "<wide>", "<narrow>"):
    character = unicodedata.normalize("NFKC", character)
  return "".join(SPELLINGS.get(c, c) for c in character)


def gate_named(word: str, known: Collection[str]) -> str | None:
  """Look up a gate by its name, by a variant such as LeakyReLU for leaky_relu, or by a synonym.

  Args:
    word: the called name.
    known: the names of the gates.

  Returns:
    One of `known`, or None.
  """
  if word in known:
    return word
  if word in SYNONYMS:
    return SYNONYMS[word]
  if not word.isascii():  # Lowercase Σ, a sum, is σ, a sigmoid.
    return None
  squeezed = {name.replace("_", "").lower(): name for name in known}
  squeezed |= {name: gate for name, gate in SYNONYMS.items() if name not in squeezed}
  return squeezed.get(word.replace("_", "").lower())


def suggest_gate(word: str, known: Collection[str]) -> str:
  """Suggest a gate for an unknown word."""
  words = [*known, *SYNONYMS]
  return hint(
    word.lower(), words if difflib.get_close_matches(word[:100].lower(), words) else known
  )
