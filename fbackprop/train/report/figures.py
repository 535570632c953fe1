"""Panels as SVG elements that stand in the page's own text."""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from fbackprop.extras import need

SIZE = (5.6, 3.7)  # Inches.
MOST_MARKS = 400  # More of them than these take less room as a picture.


class Panel(NamedTuple):
  """A panel of the page.

  Attributes:
    name: what a screen reader calls it.
    caption: what is to be seen there, in a sentence.
    draw: `draw(axes)`.
    size: width and height in inches.
  """

  name: str
  caption: str
  draw: Callable[[Any], None]
  size: tuple[float, float] = SIZE


def svg_of(panel: Panel) -> str:
  """Draws a panel.

  Returns:
    An `<svg>` without a size of its own, that takes the width of where it stands. Words are text,
    which matplotlib escapes.
  """
  rules = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    # What is referred to inside of an SVG has a name that is no other's on the page, nor changes.
    "svg.hashsalt": panel.name,
  }
  file = io.StringIO()
  with need("matplotlib", extra="plot").rc_context(rules):
    figure_module = need("matplotlib.figure", extra="plot")
    figure = figure_module.Figure(figsize=panel.size, dpi=160, layout="constrained")
    panel.draw(figure.subplots())
    for line in figure.findobj(need("matplotlib.lines", extra="plot").Line2D):
      if line.get_marker() not in ("None", "") and len(line.get_xdata()) > MOST_MARKS:
        line.set_rasterized(True)
    # Without the detour of `savefig`, which draws everything twice.
    canvas = need("matplotlib.backends.backend_svg", extra="plot").FigureCanvasSVG(figure)
    with warnings.catch_warnings():
      # Letters that the font lacks are the browser's business; here they are only measured.
      warnings.filterwarnings("ignore", "Glyph .* missing from")
      canvas.print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  _, rest = re.split(r"(?<=<svg )[^>]*>", file.getvalue(), maxsplit=1)
  width, height = (72 * inches for inches in panel.size)
  attributes = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(panel.name)}">'
  # Groups are numbered alike in all figures, and nothing refers to them.
  return "<svg " + attributes + re.sub(r'<g id="[^"]*"', "<g", rest.strip())
