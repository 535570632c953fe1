"""The text of a circuit: its size limits, its statements, and errors with a caret.

Texts that are too deep or too long for Python's own parser raise an error before it is called.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence

from fbackprop.circuit.graph import CircuitError
from fbackprop.circuit.spelling import SpellingError, respell

MAX_LENGTH = 1_000_000
MAX_NESTING = 100
MAX_OPERATORS = 1000  # Per statement; Python's parser gives up at some 2,700.

# Brackets, operators, the ends of statements, and forbidden characters.
MARKS = re.compile(
  r"#[^\n]*|[\n\0\ud800-\udfff;()\[\]{}+*/~@-]|[0-9]{4301,}|\.(?=[^\W\d])|\b(?:not|if|lambda|and|or|in|is)\b"
)


class ParseError(CircuitError):
  """A syntax error in a circuit's text; the message ends with the line and a caret."""


class Source:
  """A text, its lines, and errors that point into it.

  Attributes:
    typed: the lines as typed, without their common indentation.
    lines: the lines in Python's spelling.
    text: these lines joined.
    columns: for each line, and each of its characters, the column in the line as typed.
  """

  def __init__(self, text: str) -> None:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    self.text = textwrap.dedent(text).strip()
    self.typed = self.lines = self.text.split("\n")
    self.columns: list[Sequence[int]] = [range(len(line) + 1) for line in self.lines]

  def read(self) -> list[ast.stmt]:
    """Parse the text into Python's statements, after checking that Python's parser can take it."""
    if len(self.text) > MAX_LENGTH:
      message = f"the text has {len(self.text):,} characters; there may be {MAX_LENGTH:,}"
      raise self.error(message, 1, 0)
    self.respell()
    self.check_size()
    statements = self.parse_python().body
    if not statements:
      raise self.error("there is nothing to read", 1, 0)
    return statements

  def respell(self) -> None:
    """Convert handwriting to Python's spelling, line by line."""
    respelled = []
    for number, line in enumerate(self.typed, 1):
      try:
        respelled.append(respell(line))
      except SpellingError as error:
        raise self.error(str(error), number, error.column) from None
    self.lines = [text for text, _ in respelled]
    self.columns = [columns for _, columns in respelled]
    self.text = "\n".join(self.lines)

  def check_size(self) -> None:
    """Raise for a text that Python's parser can't take, or would be slow to read."""
    line, start, depth, operators = 1, 0, 0, 0
    for match in MARKS.finditer(self.text):
      found, column = match[0], match.start() - start
      if found[0] == "#":
        continue
      if found == "\0" or "\ud800" <= found <= "\udfff":
        raise self.error("this is no character", line, column)
      if found[0].isdigit():
        raise self.error("the number is too large for float64", line, column)
      if found == "\n":
        line, start = line + 1, match.end()
      if found in "\n;":
        operators = 0 if depth == 0 else operators
      elif found in ")]}":
        depth = max(depth - 1, 0)
      else:
        depth += found in "([{"
        operators += found != "("
      if depth > MAX_NESTING:
        raise self.error(f"parentheses may be nested {MAX_NESTING} deep", line, column)
      if operators > MAX_OPERATORS:
        message = f"a statement may have {MAX_OPERATORS:,} operators; name its parts by statements"
        raise self.error(message, line, column)

  def parse_python(self) -> ast.Module:
    """Call Python's parser."""
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As for "1(x)", for which an error follows anyway.
        return ast.parse(self.text)
    except SyntaxError as error:
      line, column = error.lineno or 1, max((error.offset or 1) - 1, 0)
      text = self.lines[min(line, len(self.lines)) - 1]
      raise self.error(explain(error, text[:column], text[column:]), line, column) from None
    except (RecursionError, MemoryError):
      raise self.error("this is nested too deep for Python's parser", 1, 0) from None

  def error_at(self, place: ast.AST, message: str, behind: ast.expr | None = None) -> ParseError:
    """Return an error with a caret under a part of the text, or under the text behind a part."""
    line = getattr(place, "lineno", 1)
    column = self.column(line, getattr(place, "col_offset", 0))
    if behind is not None:
      line = behind.end_lineno or line
      column = self.column(line, behind.end_col_offset or 0)
      rest = self.lines[line - 1][column:]
      column += len(rest) - len(rest.lstrip(" )"))
    return self.error(message, line, column)

  def column(self, line: int, offset: int) -> int:
    """Convert an offset in bytes, in which `ast` counts, to a column."""
    return len(self.lines[line - 1].encode()[:offset].decode(errors="ignore"))

  def error(self, message: str, line: int, column: int) -> ParseError:
    """Return an error that quotes a line, or a part of a long one, with a caret under a column."""
    line = min(line, len(self.lines))
    text, columns = self.typed[line - 1], self.columns[line - 1]
    column = columns[min(column, len(columns) - 1)]
    start = max(column - 40, 0)
    before, after = "..." if start else "", "..." if len(text) > start + 80 else ""
    quoted = "".join(c if c.isprintable() else "?" for c in text[start : start + 80])
    where = f"\nline {line}:" if len(self.lines) > 1 else ""
    caret = f"{' ' * (len(before) + column - start)}^"
    return ParseError(f"{message}{where}\n  {before}{quoted}{after}\n  {caret}")


def explain(error: SyntaxError, before: str, rest: str) -> str:
  """Reword Python's syntax error, given the surrounding text, with advice if there is any."""
  message = error.msg.partition(". Perhaps")[0]
  advice = ""
  if rest.startswith("|"):
    advice = "; |x| is written abs(x)"
  elif "\\" in before[-1:] + rest[:1]:
    advice = "; LaTeX isn't read"
  elif message.startswith("invalid") and message.endswith(" literal"):
    advice = "; a product is written with *"  # As for 2x: to Python, x belongs to the number.
  elif re.search(r"[\w)]\s*$", before) and re.match(r"[\w(]", rest):
    advice = "; a product is written with *, and a gate's input in parentheses"
  return f"this can't be read: {message}{advice}"
