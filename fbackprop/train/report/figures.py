"""Panels: drawing functions with captions, and their conversion to SVG.

To add a panel, write `draw(axes, ...)` under the decorator `panel`, in the module of its subject
(`curves`, `predictions`, `layers`), and list it in that module's `panels_of`, or for
members of an ensemble in `curves.member_panels`. The page has all panels, the picture the first.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from fbackprop.extras import need

SIZE = (5.6, 3.7)  # Inches.
MOST_MARKS = 400  # From here on a bitmap is smaller than paths.
INK, MUTED = "#222222", "#888888"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_NAMES = 4  # Number of layer names that fit beside a panel's title.
FEW = 50  # Up to here points get markers, since a line through one finite number is invisible.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito.
RULES = {  # For matplotlib.
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.titlelocation": "left",
  "axes.titleweight": "bold",
  "legend.frameon": False,
  "text.color": INK,
}


class Panel(NamedTuple):
  """A panel of the picture or of the page.

  Attributes:
    name: accessible name, for screen readers.
    caption: description, in a sentence.
    draw: `draw(axes, ...)`; the arguments after the axes are bound by `of`.
    size: width and height on the page, in inches.
  """

  name: str
  caption: str
  draw: Callable[..., None]
  size: tuple[float, float] = SIZE

  def __call__(self, axes: Any, *arguments: Any, **known: Any) -> None:
    """Draw the panel."""
    self.draw(axes, *arguments, **known)

  def of(self, *, size: tuple[float, float] = SIZE, note: str = "", **known: Any) -> "Panel":
    """Bind the arguments of `draw`, and optionally append a sentence to the caption."""
    return Panel(
      self.name, f"{self.caption} {note}".rstrip(), functools.partial(self.draw, **known), size
    )


def panel(name: str, caption: str) -> Callable[[Callable[..., None]], Panel]:
  """Return a decorator that turns `draw(axes, ...)` into a `Panel`."""
  return functools.partial(Panel, name, caption)


def drawn(panels: Sequence[Panel]) -> list[tuple[Panel, Any]]:
  """Pair each panel with its SVG element, as safe markup for the template."""
  markup = need("markupsafe", extra="train").Markup
  with need("matplotlib.style", extra="plot").context(RULES):
    return [(panel, markup(svg_of(panel))) for panel in panels]


def svg_of(panel: Panel) -> str:
  """Render a panel as an SVG element.

  Returns:
    An `<svg>` without a size of its own, which takes the width of its container. Text stays text,
    escaped by matplotlib.
  """
  # The salt makes ids unique on the page, and the same in every run.
  rules = {"figure.facecolor": "none", "axes.facecolor": "none", "svg.fonttype": "none"}
  file = io.StringIO()
  with need("matplotlib", extra="plot").rc_context({**rules, "svg.hashsalt": panel.name}):
    module = need("matplotlib.figure", extra="plot")
    figure = module.Figure(figsize=panel.size, dpi=160)
    panel(figure.subplots())
    for line in (line for axes in figure.axes for line in axes.get_lines()):
      if line.get_marker() not in ("None", "") and len(line.get_xdata()) > MOST_MARKS:
        line.set_rasterized(True)
    arrange(figure)
    # Printed directly, since `savefig` draws everything twice.
    canvas = need("matplotlib.backends.backend_svg", extra="plot").FigureCanvasSVG(figure)
    with warnings.catch_warnings():
      # Glyphs missing from the font are measured here only; the browser draws the text.
      warnings.filterwarnings("ignore", "Glyph .* missing from")
      canvas.print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  _, rest = re.split(r"(?<=<svg )[^>]*>", file.getvalue(), maxsplit=1)
  width, height = (72 * inches for inches in panel.size)
  attributes = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(panel.name)}">'
  # Group ids repeat across figures, and nothing refers to them: removed.
  return "<svg " + attributes + re.sub(r'<g id="[^"]*"', "<g", rest.strip())


def arrange(figure: Any, top: float = 1.0) -> None:
  """Write powers as text, and give each panel the room that its labels need.

  Once, as all is drawn: a layout engine of matplotlib's measures every label two to four times,
  which took longer than the drawing; and so does the layout of "$10^{-3}$" as a formula.

  Args:
    figure: the figure.
    top: height of the panels together, as a fraction of the figure's; above them is the title.
  """
  for axes in figure.axes:
    for axis in (axes.xaxis, axes.yaxis):
      if axis.get_scale() == "log":
        axis.set_major_formatter(plain_powers()())
        axis.set_minor_formatter(plain_powers()())
  with warnings.catch_warnings():
    # Where the labels leave no room for a panel, as a hundred long names: they overlap then.
    warnings.filterwarnings("ignore", "Tight layout not applied")
    # Glyphs missing from the font are measured here too; see `svg_of`.
    warnings.filterwarnings("ignore", "Glyph .* missing from")
    figure.tight_layout(pad=0.4, h_pad=1.0, w_pad=1.0, rect=(0, 0, 1, top))


@functools.cache
def plain_powers() -> type:
  """Build matplotlib's formatter of logarithmic axes that writes 10⁻³ as text."""
  base: Any = need("matplotlib.ticker", extra="plot").LogFormatterSciNotation

  class PlainPowers(base):  # type: ignore[misc]
    def __call__(self, x: float, pos: Any = None) -> str:
      text = super().__call__(x, pos)
      found = re.fullmatch(r"\$\\mathdefault\{(?:(.*)\\times)?(.*)\^\{(.*)\}\}\$", text)
      if found is None:
        return str(text)
      power = found[2] + found[3].translate(SUPERSCRIPTS)
      return power if found[1] is None else f"{found[1]}×{power}"

  return PlainPowers


# --- Shared by the panels -------------------------------------------------------------------------


def colors_of(count: int) -> list[Any]:
  """Return `count` distinct colors; beyond the palette, a scale from dark to light.

  The lightest tenth of the scale is left out, as it is invisible on white.
  """
  if count <= MOST_NAMES:
    return list(COLORS[:count])
  return list(need("matplotlib", extra="plot").colormaps["viridis"](np.linspace(0, 0.9, count)))


def spread_out(count: int, most: int) -> Any:
  """Choose up to `most` of `count` indices, evenly spaced, including the first and the last."""
  return np.unique(np.linspace(0, max(count - 1, 0), min(most, max(count, 1))).astype(int))


def along_steps(axes: Any) -> None:
  """Label the axis of the steps, with integer ticks, few enough not to overlap."""
  axes.set_xlabel("step")
  axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)


def legend_in_title_line(axes: Any, *others: Any) -> None:
  """Place the legend to the right of the title, where it can't cover a curve.

  Args:
    axes: the panel.
    others: its further axes, whose curves the legend names too.
  """
  narrow = {"fontsize": "small", "handlelength": 1, "handletextpad": 0.4, "columnspacing": 0.8}
  handles = [h for on in (axes, *others) for h in on.get_legend_handles_labels()[0]]
  place = {"loc": "lower right", "bbox_to_anchor": (1, 0.985), "borderaxespad": 0}
  axes.legend(handles=handles, ncols=4, **place, **narrow)


def draw_layers(
  axes: Any, names: Sequence[str], steps: Sequence[Any], rows: np.ndarray, line: str, **style: Any
) -> None:
  """Draw a curve `rows[:, i]` for each layer, with up to `MOST_NAMES` names in the legend."""
  colors, named = colors_of(len(names)), spread_out(len(names), MOST_NAMES)
  for i, name in enumerate(names):
    label = f"layer {name}" if i in named else None
    axes.plot(steps, rows[:, i], line, color=colors[i], label=label, **style)
  if names and len(rows):
    legend_in_title_line(axes)


def shortened(name: str) -> str:
  """Shorten the name of a class or a column to fit beside a panel.

  Dollar signs are escaped, since matplotlib parses text between two of them as a formula.
  """
  return (name if len(name) <= 14 else f"{name[:13]}…").replace("$", r"\$")


def place_of(path: str) -> str:
  """Return a layer's place in the notation of `fbackprop.inspect`: "4.0" for "[4][0]"."""
  return path.strip("[]").replace("][", ".")
