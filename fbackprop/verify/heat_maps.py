"""Heat maps of one wrong leaf: what was got, what was wanted, and their ratio.

A pattern of errors is easier to see than to describe: a row that is missing, a transposition, a
constant factor. A leaf is a matrix whose columns are its last axis. A large one is thinned out when
it is found, so that a report stays small: it is divided into equal blocks, and a block is shown by
its entry that is furthest beyond its bound, or else by its first undecided one, or else by its
first.

Small leaves are tables with numbers, others squares, whose numbers a pointer brings up. Colors are
laid over any background, light or dark, and never the only sign: numbers have theirs, and each map
has a description.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np

from fbackprop.markup import Markup, element, joined

MOST_CELLS = (16, 24)
"""The most rows and columns of a map."""
MOST_NUMBERS = (12, 8)
"""The most rows and columns of a map that shows its numbers."""
SIDE = 14  # The side of a square, in pixels.
# Blue, vermillion and purple of Okabe and Ito. At no more than this opacity, dark text on white and
# light text on black remain readable.
BLUE, ORANGE, PURPLE, GRAY = "0, 114, 178", "213, 94, 0", "204, 121, 167", "128, 128, 128"
DARKEST = 0.65

# Relative to its bound; beyond it, the rule is wrong unless autodiff is (an oracle fault).
State = Literal["beyond", "within", "undecided", "not compared"]


class Cell(NamedTuple):
  """An entry of a leaf: its index, its two numbers, and how they compare."""

  place: tuple[int, ...]
  got: float
  want: float
  state: State


class LeafMap(NamedTuple):
  """The entries of a leaf, or those that represent its blocks.

  Attributes:
    rows: the cells.
    block: the numbers of rows and of columns that a cell stands for.
  """

  rows: tuple[tuple[Cell, ...], ...]
  block: tuple[int, int]

  def __repr__(self) -> str:
    """Return the size alone."""
    return f"LeafMap({len(self.rows)} × {len(self.rows[0])} cells)"


def map_of(
  got: np.ndarray,
  want: np.ndarray,
  bound: np.ndarray,
  is_beyond: np.ndarray,
  is_undecided: np.ndarray,
) -> LeafMap | None:
  """Return the map of a leaf, given the numbers of its `Difference`; None if it has no entries."""
  if not got.size:
    return None
  columns = got.shape[-1] if got.ndim else 1
  shape = (got.size // columns, columns)
  with np.errstate(all="ignore"):
    excess = np.abs(got - want) / bound
  is_undecided = np.broadcast_to(is_undecided, got.shape)
  rest = np.where(is_undecided, -1.0, -2.0)
  excess = np.where(is_beyond, np.where(np.isnan(excess), np.inf, excess), rest).reshape(shape)
  height, width = (-(-n // most) for n, most in zip(shape, MOST_CELLS, strict=True))
  # Where only some entries are compared, the others have no bound.
  is_compared = (bound != 0) | ~np.any(bound)

  def cell(row: int, column: int) -> Cell:
    block = excess[row : row + height, column : column + width]
    down, right = divmod(int(np.argmax(block)), block.shape[1])
    flat = (row + down) * columns + column + right
    place = tuple(int(i) for i in np.unravel_index(flat, got.shape))
    state: State = (
      "beyond" if is_beyond[place] else
      "undecided" if is_undecided[place] else
      "within" if is_compared[place] else
      "not compared"
    )  # fmt: skip
    return Cell(place, float(got[place]), float(want[place]), state)

  rows = range(0, shape[0], height)
  return LeafMap(tuple(tuple(cell(i, j) for j in range(0, columns, width)) for i in rows),
                 (height, width))  # fmt: skip


# --- Drawing --------------------------------------------------------------------------------------


class Shade(NamedTuple):
  """How a cell is shown: its text, and a color to lay over the background."""

  text: str
  color: str


def draw(leaf_map: LeafMap) -> Markup:
  """Draw the three maps of a leaf side by side, with their legend."""
  cells = [cell for row in leaf_map.rows for cell in row]
  wanted = (cell.want for cell in cells if has_want(cell))
  scale = largest(wanted) or largest(cell.got for cell in cells) or 1.0
  spread = min(largest(ratio_of(c) - 1 for c in cells if c.state == "beyond"), 1.0) or 1.0
  figures = (
    figure(leaf_map, "got", lambda cell: shade(cell.got, scale)),
    figure(leaf_map, "want", lambda cell: shade_of_want(cell, scale)),
    figure(leaf_map, "got / want", lambda cell: shade_of_ratio(cell, spread)),
  )
  side_by_side = "display: flex; flex-wrap: wrap; gap: 1.5em 2.5em; margin: 1em 0"
  return joined((
    element("div", *figures, style=side_by_side),
    element("p", " ".join(legend(leaf_map, scale, spread)), class_="quiet"),
  ))  # fmt: skip


NOT_FINITE = f"rgba({PURPLE}, 0.5)"
OF_STATES = {
  "within": Shade("ok", "transparent"),
  "undecided": Shade("?", f"rgba({GRAY}, 0.3)"),
  "not compared": Shade("–", f"rgba({GRAY}, 0.3)"),
}


def color_of(value: float, full: float, least: float = 0.0) -> str:
  """Return the color of a number: blue above 0, orange below, at its fullest from `full` on."""
  share = min(1.0, max(least, abs(value) / full))
  return f"rgba({BLUE if value > 0 else ORANGE}, {DARKEST * share:.2f})"


def shade(value: float, scale: float) -> Shade:
  """Show a number, in full color from `scale` on."""
  if not math.isfinite(value):
    return Shade(str(value), NOT_FINITE)
  return Shade(f"{value:.3g}", color_of(value, scale))


def has_want(cell: Cell) -> bool:
  """Return whether there is a number to compare with; a stand-in is the rule's own number."""
  return cell.state in ("beyond", "within") or (cell.state == "undecided" and cell.got != cell.want)


def shade_of_want(cell: Cell, scale: float) -> Shade:
  """Show the wanted number, if there is one."""
  return shade(cell.want, scale) if has_want(cell) else OF_STATES[cell.state]


def shade_of_ratio(cell: Cell, spread: float) -> Shade:
  """Show the ratio of an entry beyond its bound, in full color from 1 ± `spread` on."""
  if cell.state != "beyond":
    return OF_STATES[cell.state]
  error = ratio_of(cell) - 1
  if math.isnan(error):
    return Shade("want 0" if cell.want == 0 else "not finite", NOT_FINITE)
  # It is seen however close to 1 its ratio is.
  return Shade(text_of_ratio(error), color_of(error, spread, least=0.25))


def text_of_ratio(error: float) -> str:
  """Format a ratio, given its distance from 1, with as many digits as tell it from 1."""
  if abs(error) < 1e-4:
    return f"1 {'+−'[error < 0]} {abs(error):.1g}"
  digits = 3 if abs(error) >= 0.1 else 2 - math.floor(math.log10(abs(error)))
  return f"{1 + error:.{digits}g}"


def ratio_of(cell: Cell) -> float:
  """Return got over want; NaN where there is none."""
  is_given = math.isfinite(cell.got) and math.isfinite(cell.want) and cell.want != 0
  return cell.got / cell.want if is_given else math.nan


def largest(values: Iterable[float]) -> float:
  """Return the largest magnitude among finite values; 0 without one."""
  return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def figure(leaf_map: LeafMap, title: str, shown: Callable[[Cell], Shade]) -> Markup:
  """Return one map under its title."""
  draw_map = numbers if has_numbers(leaf_map) else squares
  heading = element("figcaption", title, style="margin-bottom: 0.4em")
  style = "margin: 0; max-width: 100%; overflow-x: auto"
  return element("figure", heading, draw_map(leaf_map, title, shown), style=style)


def has_numbers(leaf_map: LeafMap) -> bool:
  """Return whether a map is small enough to show its numbers."""
  return len(leaf_map.rows) <= MOST_NUMBERS[0] and len(leaf_map.rows[0]) <= MOST_NUMBERS[1]


def numbers(leaf_map: LeafMap, title: str, shown: Callable[[Cell], Shade]) -> Markup:
  """Return a map as a table of numbers in colored cells, with the indices at its edges."""
  style = "padding: 0.15em 0.6em; text-align: right; border: 0"
  is_vector = len(leaf_map.rows[0][0].place) < 2
  heads = ["" if is_vector else "…,"] * len(leaf_map.rows[0])
  heads = [head + str(*cell.place[-1:]) for head, cell in zip(heads, leaf_map.rows[0], strict=True)]
  edge = (element("th", head, scope="col", style=style) for head in heads)
  lines = [element("tr", element("td", style=style), *edge)]
  for row in leaf_map.rows:
    head = "".join(f"{i}," for i in row[0].place[:-1]) + "…" * (not is_vector)
    tiles = (
      element("td", s.text, style=f"{style}; background: {s.color}") for s in map(shown, row)
    )
    lines.append(element("tr", element("th", head, scope="row", style=style), *tiles))
  return element("table", *lines, aria_label=title)


def squares(leaf_map: LeafMap, title: str, shown: Callable[[Cell], Shade]) -> Markup:
  """Return a map as a picture of squares, each with its index and number for the pointer."""
  width, height = SIDE * len(leaf_map.rows[0]), SIDE * len(leaf_map.rows)
  tiles = [
    element(
      "rect",
      element("title", f"[{','.join(map(str, cell.place))}]: {shown(cell).text}"),
      x=str(SIDE * j), y=str(SIDE * i), width=str(SIDE), height=str(SIDE), fill=shown(cell).color,
    )
    for i, row in enumerate(leaf_map.rows)
    for j, cell in enumerate(row)
  ]  # fmt: skip
  edge = element(
    "rect", x="0.5", y="0.5", width=str(width - 1), height=str(height - 1), fill="none",
    stroke="currentColor", stroke_opacity="0.4",
  )  # fmt: skip
  return element(
    "svg", *tiles, edge, width=str(width), height=str(height), viewBox=f"0 0 {width} {height}",
    role="img", aria_label=f"{title}: {described(leaf_map)}", style="max-width: 100%; height: auto",
  )  # fmt: skip


def described(leaf_map: LeafMap) -> str:
  """Describe a map to somebody who doesn't see it."""
  states = [cell.state for row in leaf_map.rows for cell in row]
  rows = sum(any(cell.state == "beyond" for cell in row) for row in leaf_map.rows)
  return (
    f"{len(leaf_map.rows)} rows of {len(leaf_map.rows[0])} cells, {states.count('beyond')} of them "
    f"beyond their bounds, in {rows} rows"
  )


def legend(leaf_map: LeafMap, scale: float, spread: float) -> list[str]:
  """Return the sentences below the maps."""
  cells = [cell for row in leaf_map.rows for cell in row]
  states = {cell.state for cell in cells}
  is_text = has_numbers(leaf_map)
  gray = [state for state in ("undecided", "not compared") if state in states]
  sentences = [
    f"got and want: blue is positive, orange negative, fullest from ±{scale:.2g} on.",
    f"got / want: blue is above 1, orange below, fullest from 1 ± {spread:.2g} on.",
    f"{'ok' if is_text else 'Blank'}: within the bound." if "within" in states else "",
    f"Gray: {' or '.join(gray)}." if gray else "",
  ]
  if any(cell.state == "beyond" and math.isnan(ratio_of(cell)) for cell in cells):
    sentences.append("Purple: not finite, or there is no ratio, as want is 0.")
  if len(cells[0].place) > 2:
    sentences.append("Columns are the last axis, rows all others.")
  if leaf_map.block != (1, 1):
    rows, columns = leaf_map.block
    sentences.append(
      f"Each cell stands for up to {rows} × {columns} entries, and shows the one that is furthest "
      "beyond its bound, or else the first undecided one, or else the first."
    )
  return list(filter(None, sentences))
