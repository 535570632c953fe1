"""What the panels of a report have in common: colors, and words beside them."""

from typing import Any

import numpy as np

from fbackprop.extras import need

INK, MUTED = "#222222", "#888888"
MOST_NAMES = 4  # Of layers, for which there is place in the line of a panel's title.
FEW = 50  # Steps that are dots, too: of one finite number there is no line.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's.
RULES = {  # Of matplotlib.
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.titlelocation": "left",
  "axes.titleweight": "bold",
  "legend.frameon": False,
  "text.color": INK,
}


def colors_of(count: int) -> list[Any]:
  """A color for each of `count` layers; of more than can be named, the way from dark to light.

  The lightest tenth is left out: on white nobody would see it.
  """
  if count <= MOST_NAMES:
    return list(COLORS[:count])
  return list(need("matplotlib", extra="plot").colormaps["viridis"](np.linspace(0, 0.9, count)))


def along_steps(axes: Any) -> None:
  """Names the axis of the steps, at whole ones, few enough that long numbers don't meet."""
  axes.set_xlabel("step")
  axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)


def legend_in_title_line(axes: Any) -> None:
  """Puts the legend to the right of the title, where no curve can cross it."""
  narrow = {"fontsize": "small", "handlelength": 1, "handletextpad": 0.4, "columnspacing": 0.8}
  axes.legend(loc="lower right", bbox_to_anchor=(1, 0.985), ncols=4, borderaxespad=0, **narrow)


def shortened(name: str) -> str:
  """The name of a class or a value, as long as there is place for beside a panel.

  A dollar sign stands for itself, as between two of them matplotlib would read a formula.
  """
  return (name if len(name) <= 14 else f"{name[:13]}…").replace("$", r"\$")
