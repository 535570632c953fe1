"""Panels: a function that draws, what is to be seen there, and how it becomes a part of a page.

To add a panel, write `draw(axes, ...)` under the decorator `panel`, in the module of its subject
(`curves`, `predictions`, `layers`, `members`), and list it in that module's `panels_of`. The page
has all panels of a module, the picture the first two.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import numpy as np

from fbackprop.extras import need

SIZE = (5.6, 3.7)  # Inches.
MOST_MARKS = 400  # More of them than these are smaller as a bitmap than as paths.
INK, MUTED = "#222222", "#888888"
MOST_NAMES = 4  # Of layers, for which there is room in the line of a panel's title.
FEW = 50  # Points that are drawn as dots, too: of one finite number there is no line.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's.
RULES = {  # Of matplotlib.
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.titlelocation": "left",
  "axes.titleweight": "bold",
  "legend.frameon": False,
  "text.color": INK,
}


@dataclass(frozen=True)
class Panel:
  """A panel of the picture or of the page.

  Attributes:
    name: its accessible name, for screen readers.
    caption: what is to be seen there, in a sentence.
    draw: `draw(axes, ...)`; what comes after the axes is given by `of`.
    size: width and height on the page, in inches.
  """

  name: str
  caption: str
  draw: Callable[..., None]
  size: tuple[float, float] = SIZE

  def __call__(self, axes: Any, *arguments: Any, **known: Any) -> None:
    """Draw it."""
    self.draw(axes, *arguments, **known)

  def of(self, *, size: tuple[float, float] = SIZE, note: str = "", **known: Any) -> "Panel":
    """Return the panel with what it draws, and perhaps a further sentence."""
    return replace(
      self, draw=partial(self.draw, **known), size=size, caption=f"{self.caption} {note}".rstrip()
    )


def panel(name: str, caption: str) -> Callable[[Callable[..., None]], Panel]:
  """Make a decorator that turns `draw(axes, ...)` into a `Panel`."""
  return partial(Panel, name, caption)


def drawn(panels: Sequence[Panel]) -> list[tuple[Panel, Any]]:
  """Pair each panel with its SVG element, as markup for the template."""
  markup = need("markupsafe", extra="train").Markup
  with need("matplotlib.style", extra="plot").context(RULES):
    return [(panel, markup(svg_of(panel))) for panel in panels]


def svg_of(panel: Panel) -> str:
  """Draw a panel as an SVG element.

  Returns:
    An `<svg>` without a size of its own, that takes the width of its container. Words are text,
    which matplotlib escapes.
  """
  rules = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    # Ids inside of an SVG must be unique on the page, and the same in each run.
    "svg.hashsalt": panel.name,
  }
  file = io.StringIO()
  with need("matplotlib", extra="plot").rc_context(rules):
    figure_module = need("matplotlib.figure", extra="plot")
    figure = figure_module.Figure(figsize=panel.size, dpi=160, layout="constrained")
    panel(figure.subplots())
    for line in figure.findobj(need("matplotlib.lines", extra="plot").Line2D):
      if line.get_marker() not in ("None", "") and len(line.get_xdata()) > MOST_MARKS:
        line.set_rasterized(True)
    # Without the detour of `savefig`, which draws everything twice.
    canvas = need("matplotlib.backends.backend_svg", extra="plot").FigureCanvasSVG(figure)
    with warnings.catch_warnings():
      # A glyph that the font lacks is the browser's business; here it is only measured.
      warnings.filterwarnings("ignore", "Glyph .* missing from")
      canvas.print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  _, rest = re.split(r"(?<=<svg )[^>]*>", file.getvalue(), maxsplit=1)
  width, height = (72 * inches for inches in panel.size)
  attributes = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(panel.name)}">'
  # Groups are numbered alike in all figures, and nothing refers to them.
  return "<svg " + attributes + re.sub(r'<g id="[^"]*"', "<g", rest.strip())


# --- What panels share ----------------------------------------------------------------------------


def colors_of(count: int) -> list[Any]:
  """Return a color for each of `count` things; of many, a scale from dark to light.

  The lightest tenth of the scale is left out: it would not be seen on white.
  """
  if count <= MOST_NAMES:
    return list(COLORS[:count])
  return list(need("matplotlib", extra="plot").colormaps["viridis"](np.linspace(0, 0.9, count)))


def spread_out(count: int, most: int) -> Any:
  """Choose at most `most` of `count` places, evenly spaced, the first and the last among them."""
  return np.unique(np.linspace(0, max(count - 1, 0), min(most, max(count, 1))).astype(int))


def along_steps(axes: Any) -> None:
  """Label the axis of the steps, with ticks at integers, few enough not to overlap."""
  axes.set_xlabel("step")
  axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)


def legend_in_title_line(axes: Any) -> None:
  """Put the legend to the right of the title, where no curve can cross it."""
  narrow = {"fontsize": "small", "handlelength": 1, "handletextpad": 0.4, "columnspacing": 0.8}
  axes.legend(loc="lower right", bbox_to_anchor=(1, 0.985), ncols=4, borderaxespad=0, **narrow)


def draw_layers(
  axes: Any, names: Sequence[str], steps: Sequence[Any], rows: np.ndarray, line: str, **style: Any
) -> None:
  """Draw a curve `rows[:, i]` for each layer, of which some have a name in the legend."""
  colors, named = colors_of(len(names)), spread_out(len(names), MOST_NAMES)
  for i, name in enumerate(names):
    label = f"layer {name}" if i in named else None
    axes.plot(steps, rows[:, i], line, color=colors[i], label=label, **style)
  if names and len(rows):
    legend_in_title_line(axes)


def shortened(name: str) -> str:
  """Shorten the name of a class or a column to the room beside a panel.

  Dollar signs are escaped, since matplotlib would read a formula between two of them.
  """
  return (name if len(name) <= 14 else f"{name[:13]}…").replace("$", r"\$")
