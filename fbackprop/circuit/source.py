"""The text of a circuit: handwriting in Python's spelling, size limits, and errors with a caret.

Handwriting such as `x²·y^z − √(x)` is read as `x**(2)*y**z - sqrt(x)`. Only the spelling changes,
and each new character keeps the place of the old one, so that the caret of an error points at the
typed character. Texts that are too deep or too long for Python's own parser raise an error before
it is called.
"""

import ast
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence
from itertools import count
from typing import NoReturn

from fbackprop.circuit.graph import CircuitError

MAX_LENGTH = 1_000_000
MAX_NESTING = 100
MAX_OPERATORS = 1000  # Per statement; Python's parser gives up at some 2,700.

# Brackets, operators, the ends of statements, and forbidden characters.
MARKS = re.compile(
  r"#[^\n]*|[\n\0\ud800-\udfff;()\[\]{}+*/~@-]|[0-9]{4301,}|\.(?=[^\W\d])|\b(?:not|if|lambda|and|or|in|is)\b"
)

SPELLINGS = {
  "^": "**",  # A power, as in handwriting: reals have no exclusive or.
  **dict.fromkeys("−‐‑‒–﹣", "-"),
  **dict.fromkeys("·⋅∙•×✕✖⨯∗", "*"),
  **dict.fromkeys("÷∕⁄➗", "/"),
  "∑": "sum",
  "∏": "product",
}
# Comments and ASCII stay; a root has a name or a number behind it, or something in parentheses.
PIECES = re.compile(
  r"(?P<kept>#[^\n]*|[\x00-\x22\x24-\x5d\x5f-\x7f]+)|√[^\S\n]*(?P<atom>[\w.]*)(?=[^\S\n]*(?P<next>\*\*|.?))|."
)

Part = ast.expr | ast.stmt | ast.keyword


class ParseError(CircuitError):
  """A syntax error in a circuit's text; the message ends with the line and a caret."""


class Source:
  """A text, and errors that point into it.

  Attributes:
    typed: the text as typed, without common indentation.
    text: the text in Python's spelling.
    origins: the place in `typed` of each character of `text`, and of its end.
  """

  def __init__(self, text: str) -> None:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    self.typed = self.text = textwrap.dedent(text).strip()
    self.origins: Sequence[int] = range(len(self.text) + 1)

  def read(self) -> list[ast.stmt]:
    """Parse the text into Python's statements, after checking that Python's parser can take it."""
    if len(self.text) > MAX_LENGTH:
      count = f"{len(self.text):,} characters; there may be {MAX_LENGTH:,}"
      raise self.error(f"the text has {count}", 0)
    self.respell()
    self.check_size()
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As for "1(x)", for which an error follows anyway.
        statements = ast.parse(self.text).body
    except SyntaxError as error:
      place = self.place_of(error.lineno or 1, max((error.offset or 1) - 1, 0))
      raise self.error(self.explain(error, place), place) from None
    except (RecursionError, MemoryError):
      raise self.error("this is nested too deep for Python's parser", 0) from None
    if not statements:
      raise self.error("there is nothing to read", 0)
    return statements

  def respell(self) -> None:
    """Convert handwriting to Python's spelling.

    Raises:
      ParseError: the reach of a √ is ambiguous.

    Example:
      >>> source = Source("x² − √y")
      >>> source.respell()
      >>> source.text, source.origins
      ('x**(2) - sqrt(y)', [0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 5, 6, 6, 7])
    """
    if self.typed.isascii() and "^" not in self.typed:
      return
    pieces: list[tuple[str, int]] = []  # With their origins.
    was_raised = False
    for match in PIECES.finditer(f"{self.typed}\n"):
      piece, start = match[0], match.start()
      raised = is_raised(piece)
      if was_raised != raised:
        pieces.append(("**(", start) if raised else (")", start - 1))
      was_raised = raised
      if match["kept"]:
        pieces += zip(piece, count(start))
      elif piece[0] == "√":
        atom, more = match["atom"], match["next"]
        if bool(atom) == (more in ("**", *"^＾(（")) or any(map(is_raised, [*atom, more])):
          raise self.error("it isn't clear how far √ reaches; write √(...)", start)
        pieces.append(("sqrt(" if atom else "sqrt", start))
        pieces += zip(map(plain, atom), count(match.start("atom")))
        pieces.append((")" if atom else "", match.end() - 1))
      else:
        pieces.append((plain(piece), start))
    self.text = "".join(piece for piece, _ in pieces)[:-1]
    self.origins = [origin for piece, origin in pieces for _ in piece]

  def check_size(self) -> None:
    """Raise for a text that Python's parser can't take, or would be slow to read."""
    depth = operators = 0
    for match in MARKS.finditer(self.text):
      found, problem = match[0], ""
      if found in "\n;":
        operators = 0 if depth == 0 else operators
      elif found in ")]}":
        depth = max(depth - 1, 0)
      elif found[0] != "#":
        depth += found in "([{"
        operators += found != "("
      if found == "\0" or "\ud800" <= found <= "\udfff":
        problem = "this is no character"
      elif found[0].isdigit():
        problem = "the number is too large for float64"
      elif depth > MAX_NESTING:
        problem = f"parentheses may be nested {MAX_NESTING} deep"
      elif operators > MAX_OPERATORS:
        problem = f"a statement may have {MAX_OPERATORS:,} operators; name its parts by statements"
      if problem:
        raise self.error(problem, match.start())

  def explain(self, error: SyntaxError, place: int) -> str:
    """Reword Python's syntax error, with advice if there is any."""
    message = error.msg.partition(". Perhaps")[0]
    before, rest = self.text[:place].rpartition("\n")[2], self.text[place:]
    cases = (
      (rest.startswith("|"), "; |x| is written abs(x)"),
      ("\\" in before[-1:] + rest[:1], "; LaTeX isn't read"),
      # As for 2x: to Python, x belongs to the number.
      (re.fullmatch("invalid.* literal", message), "; a product is written with *"),
      (
        re.search(r"[\w)]\s*$", before) and re.match(r"[\w(]", rest),
        "; a product is written with *, and a gate's input in parentheses",
      ),
    )
    advice = next((advice for fits, advice in cases if fits), "")
    return f"this can't be read: {message}{advice}"

  def place_of(self, line: int, column: int, *, is_bytes: bool = False) -> int:
    """Return the place in the text of a column, in bytes or characters, of a line from 1 up."""
    lines = self.text.split("\n")[:line]
    last = lines.pop()
    before = last.encode()[:column].decode(errors="ignore") if is_bytes else last[:column]
    return sum(len(text) + 1 for text in lines) + len(before)

  def refuse(self, part: Part, message: str, *, behind: bool = False) -> NoReturn:
    """Raise an error with a caret under a part of the text, or under the text behind it."""
    place = self.place_of(part.lineno, part.col_offset, is_bytes=True)
    if behind:
      place = self.place_of(part.end_lineno or 1, part.end_col_offset or 0, is_bytes=True)
      place += len(self.text[place:]) - len(self.text[place:].lstrip(" )"))
    raise self.error(message, place) from None

  def error(self, message: str, place: int) -> ParseError:
    """Return an error that quotes a line, or a part of a long one, with a caret under a place."""
    place = self.origins[place]
    before = self.typed[:place].split("\n")
    line, column = self.typed.split("\n")[len(before) - 1], len(before[-1])
    start = max(column - 40, 0)
    quoted = "".join(c if c.isprintable() else "?" for c in line[start : start + 80])
    left, right = "..." if start else "", "..." if len(line) > start + 80 else ""
    where = f"\nline {len(before)}:" if "\n" in self.typed else ""
    caret = f"{' ' * (len(left) + column - start)}^"
    return ParseError(f"{message}{where}\n  {left}{quoted}{right}\n  {caret}")


def is_raised(piece: str) -> bool:
  """Return whether a character is a superscript."""
  return len(piece) == 1 and unicodedata.decomposition(piece).startswith("<super>")


def plain(character: str) -> str:
  """Convert a character to its plain form: not superscript, subscript or full-width."""
  if character.isspace() and not character.isascii():
    return " "
  kind = unicodedata.decomposition(character).partition(" ")[0]
  if kind in ("<super>", "<sub>", "<wide>", "<narrow>"):
    character = unicodedata.normalize("NFKC", character)
  return "".join(SPELLINGS.get(c, c) for c in character)
