"""A backward pass that plays by itself: one SVG file, moved by CSS alone.

It is the picture of `figure`, whose parts are named, and a rule of CSS for each part that says at
which beat it appears: the values gate by gate, the turn at the output, the gradients back gate by
gate. CSS runs where a script doesn't, in an `<img>` of a page that forbids them, such as a README.
Where animations don't run, or the reader asked for reduced motion, the picture is the solved
circuit.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fbackprop.circuit import notation, text
from fbackprop.circuit.drawing import LONGEST_LINE, MARGIN, Labels
from fbackprop.circuit.formats import FONTS, shorten
from fbackprop.circuit.graph import CircuitError, Wire, fan_out
from fbackprop.circuit.layout.columns import Item
from fbackprop.circuit.layout.placement import place
from fbackprop.circuit.live.figure import LiveLabels, branches, draw_items, draw_locals, draw_wires
from fbackprop.circuit.live.page import DIGITS, KINDS, MOST_NODES, Language, heading_of, words_of
from fbackprop.circuit.notation import MINUS, format_number, printable
from fbackprop.circuit.shapes import Style, width_of
from fbackprop.circuit.solver import Solution
from fbackprop.markup import Markup, element
from fbackprop.ranges import POSITIVE, check_range

HERE = Path(__file__).parent
HOLD = 3  # Beats for which the solved circuit stays.
FADE = 0.25  # Of a beat, in which a part appears.
CAPTION, LEGEND, LINE = Style(13.0), Style(11.0), 19.0
MOST_LINES, MOST_CHARACTERS = 3, 96


class Beat(NamedTuple):
  """A moment of the animation.

  Attributes:
    phase: "start", "forward", "seed", "backward" or "solved".
    gate: the gate at work; "" without one.
    lines: what happens, in words, in symbols and in numbers.
  """

  phase: str
  gate: str
  lines: list[str]


class FixedLabels(LiveLabels):
  """The texts of a picture whose numbers don't change, with room for the widest of them."""

  @property
  def width(self) -> int:
    """The most characters of a number."""
    found = self.solution
    assert found is not None
    numbers = [*found.values.values(), *found.bars.values()]
    numbers += [each for gate in found.gates for each in (*gate.local, *gate.downstream)]
    return max((len(self.show(each)) for each in numbers), default=1)

  @property
  def widest_sum(self) -> int:
    """The most characters in a line of a sum."""
    return LONGEST_LINE

  def lines(self, item: Item) -> int:
    """Return 1: the extent of a sum is that of its own lines, which `Labels` knows."""
    return 1

  show = Labels.show


def to_animation(
  solution: Solution, *, digits: int = 4, title: str | None = None, language: Language = "en",
  seconds: float = 1.4,
) -> str:  # fmt: skip
  """Draw a solved circuit as an SVG file that plays its forward and backward pass, and repeats.

  Args:
    solution: a solved circuit of at most 200 nodes.
    digits: the number of significant digits, from 1 to 17.
    title: the picture's accessible name; by default the circuit's outputs and inputs.
    language: of the lines under the picture, "en" or "ko".
    seconds: the length of a beat, in which one gate works.

  Returns:
    The file's text, deterministic for a circuit. It loads nothing and has no script; its colors
    follow the reader's setting for light and dark, and it stands still for one who asked for
    reduced motion.

  Raises:
    TypeError: an argument is of another type.
    ValueError: an argument is out of range, or the circuit is too large.
  """
  check_range("to_animation", "digits", digits, DIGITS)
  check_range("to_animation", "seconds", seconds, POSITIVE)
  words = words_of(language)
  circuit = solution.circuit
  if len(circuit.nodes) > MOST_NODES:
    problem = f"has {len(circuit.nodes)} nodes; an animation shows at most {MOST_NODES}"
    raise CircuitError(f"to_animation: the circuit {problem}; draw it as SVG")
  labels = FixedLabels(circuit, solution, digits)
  beats = [*beats_of(solution, digits, words)]
  layout = place(circuit, labels.extent, MARGIN, MARGIN)
  parts = (*draw_items(layout, labels), *draw_locals(layout, labels))
  wires = (*draw_wires(layout, labels),)
  flows = (element("g", *wires, class_=f"flow {way}") for way in ("forward", "backward"))
  bottom = layout.bottom + MARGIN
  captions = [caption(beat, k, bottom) for k, beat in enumerate(beats)]
  foot = bottom + LINE * (1 + max(len(beat.lines) for beat in beats))
  root = notation.output_name(solution)
  legend = [words[key].format(f=root) for key in KINDS.values()]
  widest = max(width_of(line, CAPTION) for beat in beats for line in beat.lines)
  widest = max(widest, width_of(" · ".join(legend), LEGEND))
  width = max(layout.spans[-1][1], MARGIN + widest) + MARGIN
  height = foot + LINE + MARGIN
  aside = shorten((width - MARGIN - layout.spans[-1][1]) / 2)  # In the middle of what is wider.
  served = branches(layout, labels)
  style = (HERE / "animation.css").read_text("utf-8") + moving(solution, beats, served, seconds)
  name = printable(title or heading_of(circuit))
  told = printable(" ".join(line for beat in beats for line in beat.lines))
  return element(
    "svg", element("title", name), element("desc", told),
    element("style", Markup(style)),
    element("rect", class_="paper", width=shorten(width), height=shorten(height), rx="10"),
    element("g", *wires, *flows, *parts, transform=f"translate({aside})"), *captions,
    write_legend(foot + LINE / 2, legend),
    element("rect", class_="progress", x=shorten(MARGIN), y=shorten(height - 9), height="3",
            width=shorten(width - 2 * MARGIN), rx="1.5"),
    xmlns="http://www.w3.org/2000/svg", width=shorten(width), height=shorten(height), role="img",
    viewBox=f"0 0 {shorten(width)} {shorten(height)}", font_family=FONTS,
  ) + "\n"  # fmt: skip


# --- What happens ---------------------------------------------------------------------------------


def beats_of(solution: Solution, digits: int, words: Mapping[str, str]) -> Iterator[Beat]:
  """List the beats: every gate forward, the turn, every gate with a gradient backward."""

  def number(value: float) -> str:
    return format_number(value, digits, MINUS)

  root = notation.output_name(solution)
  nodes = {node.name: node for node in solution.circuit.nodes}
  names = {name: number(solution.values[name]) if node.op == "constant" else printable(name)
           for name, node in nodes.items()}  # fmt: skip
  named = [node.name for node in solution.circuit.nodes if node.op != "constant"]
  lines = dict(zip(named, text.forward_lines(solution, number, names), strict=False))
  inputs = [f"{names[each]} = {number(solution.values[each])}" for each in solution.circuit.inputs]
  yield Beat("start", "", clipped(words["start"], [notation.listed(inputs)]))
  for i, gate in enumerate(solution.gates, 1):
    told = words["forward"].format(i=i, n=len(solution.gates), gate=names[gate.name])
    yield Beat("forward", gate.name, clipped(told, [lines[gate.name]]))
  weights = [f"d{root}/d{names[name]} = {number(w)}" for name, w in solution.circuit.outputs]
  yield Beat("seed", "", clipped(words["seed"].format(f=root), weights))
  wires = fan_out(solution.circuit)
  reached = {name for name, _ in solution.circuit.outputs}  # From which an output is reached.
  for node in reversed(solution.circuit.nodes):
    reached.update(node.inputs if node.name in reached else ())
  missing = {name: sum(wire.target in reached for wire in wires[name])
             for name in nodes}  # fmt: skip
  back = [gate for gate in reversed(solution.gates) if gate.name in reached]
  for i, gate in enumerate(back, 1):
    sent = []
    symbols = text.local_symbols(gate)
    for slot, source in enumerate(gate.inputs):
      missing[source] -= 1
      if nodes[source].op == "constant":
        continue
      left = f"d{root}/d{names[source]}" if len(wires[source]) == 1 else ""
      product = f"{number(gate.upstream)} · {notation.factor(number(gate.local[slot]))}"
      steps = (left, f"d{root}/d{names[gate.name]} · {symbols[slot]}", product)
      sent.append(text.equate(*filter(None, steps), number(gate.downstream[slot])))
    for source in dict.fromkeys(gate.inputs):
      terms = [*map(number, solution.contributions[source])]
      if missing[source] == 0 and len(terms) > 1 and nodes[source].op != "constant":
        total = number(solution.bars[source])
        sent.append(f"d{root}/d{names[source]} = {notation.write_sum(terms)} = {total}")
    told = words["backward"].format(i=i, n=len(back), gate=names[gate.name])
    yield Beat("backward", gate.name, clipped(told, sent))
  found = [f"d{root}/d{names[each]} = {number(bar)}" for each, bar in solution.gradients.items()]
  told = words["solved"].format(f=root, value=number(solution.value))
  yield Beat("solved", "", clipped(told, [notation.listed(found)]))


def clipped(told: str, lines: list[str]) -> list[str]:
  """Return the first lines, and of each as many characters as the picture has room for."""
  shown = [told, *(lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], "…"])]
  return [line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"
          for line in shown]  # fmt: skip


# --- The parts that the figure doesn't have -------------------------------------------------------


def caption(beat: Beat, k: int, bottom: float) -> Markup:
  """Write a beat's lines; of all beats they are in one place, and one is seen at a time."""
  lines = (
    element("text", line, x=shorten(MARGIN), y=shorten(bottom + LINE * (i + 0.8)))
    for i, line in enumerate(beat.lines)
  )
  return element("g", *lines, class_=f"caption {beat.phase}", data_beat=str(k))


def write_legend(y: float, legend: list[str]) -> Markup:
  """Write what the numbers at a wire and at a gate are."""
  words = (element("tspan", part, class_=kind) for part, kind in zip(legend, KINDS, strict=True))
  between = [part for word in words for part in (" · ", word)][1:]
  return element("text", *between, class_="legend", x=shorten(MARGIN), y=shorten(y))


# --- When it is seen ------------------------------------------------------------------------------


def moving(solution: Solution, beats: list[Beat], served: Iterable[str], seconds: float) -> str:
  """Write the CSS that shows every part at its beat, to readers who don't mind motion.

  Args:
    solution, beats: the circuit, and what happens.
    served: for each path of a wire the wires that it belongs to, as `data-wires` has them.
    seconds: the length of a beat.
  """
  total, last = len(beats) + HOLD - 1, len(beats) - 1
  at = {(beat.phase, beat.gate): k for k, beat in enumerate(beats)}
  length = f"{seconds * total:g}s linear infinite"
  rules = [f".progress{{animation:progress {length}}}"]
  rules += [".flow{animation:flow .6s linear infinite}.backward{animation-direction:reverse}"]
  since = appearing(solution, at)
  since[last].append(chosen("beat", str(last)))
  for k, parts in sorted(since.items()):
    rules.append(
      timed(f"since{k}", parts, frames("opacity", [(k, total, "1")], "0", total), length)
    )
  during = travelling(solution, at, served)
  for k in range(last):
    during[k,].append(chosen("beat", str(k)))
  for slots, parts in sorted(during.items()):
    steps = frames("opacity", [(k, k + 1, "1") for k in slots], "0", total)
    rules.append(timed("-".join(map(str, ("in", *slots))), parts, steps, length))
  for gate in solution.gates:
    colors = [(at.get((phase, gate.name)), color)
              for phase, color in (("forward", "value"), ("backward", "gradient"))]  # fmt: skip
    spans = [(k, k + 1, f"var(--{color})") for k, color in colors if k is not None]
    steps = frames("stroke", spans, "var(--ink)", total)
    part = f"{chosen('gate', gate.name)} path"
    rules.append(timed(f"gate{spans[0][0]}", [part], steps, length))
  return "@media (prefers-reduced-motion: no-preference) {\n" + "\n".join(rules) + "\n}\n"


def appearing(solution: Solution, at: Mapping[tuple[str, str], int]) -> dict[int, list[str]]:
  """Return the selectors of the numbers by the beat since which they are known."""
  since: dict[int, list[str]] = defaultdict(list)
  for gate in solution.gates:
    since[at["forward", gate.name]] += [
      chosen("value", gate.name),
      *(chosen("local", f"{gate.name}:{i}") for i in range(len(gate.inputs))),
    ]
  for name, ways in fan_out(solution.circuit).items():
    arrived = [arrival(way, at) for way in ways]
    since[max(arrived, default=at["seed", ""])].append(chosen("gradient", name))
    for branch, k in enumerate(arrived):
      since[k].append(chosen("share", f"{name}:{branch}"))
  return since


def travelling(
  solution: Solution, at: Mapping[tuple[str, str], int], served: Iterable[str]
) -> dict[tuple[int, ...], list[str]]:
  """Return the selectors of the paths by the beats in which a number travels along them."""
  forward: dict[str, set[int]] = {}
  backward: dict[str, set[int]] = {}
  for name, ways in fan_out(solution.circuit).items():
    for branch, way in enumerate(ways):
      key = f"{name}:{branch}"
      forward[key] = {at["forward", way.target]} if way.target else set()
      backward[key] = {arrival(way, at)}
  during: dict[tuple[int, ...], list[str]] = defaultdict(list)
  for path in sorted(set(served)):  # A trunk belongs to several wires.
    for kind, beats in (("forward", forward), ("backward", backward)):
      slots = tuple(sorted(set().union(*(beats[name] for name in path.split()))))
      if slots:
        during[slots].append(f".{kind} {chosen('wires', path)}")
  return during


def arrival(wire: Wire, at: Mapping[tuple[str, str], int]) -> int:
  """Return the beat at which a wire's gradient is known: at the turn if no gate sends one."""
  return at.get(("backward", wire.target or ""), at["seed", ""])


def chosen(kind: str, name: str) -> str:
  """Return the CSS selector of a part, whatever its node is named."""
  escaped = re.sub(r"[^\w: .-]", lambda letter: f"\\{ord(letter[0]):x} ", name)
  return f'[data-{kind}="{escaped}"]'


def timed(name: str, parts: list[str], steps: str, length: str) -> str:
  """Return the rule that moves parts, given by their selectors, by keyframes of a name."""
  return f"@keyframes {name}{{{steps}}}\n{','.join(parts)}{{animation:{name} {length}}}"


def frames(key: str, spans: list[tuple[int, int, str]], other: str, total: int) -> str:
  """Return the keyframes of a property that has a value during spans of beats, else another.

  Args:
    key: the property.
    spans: first beat, the beat after the last, and the value.
    other: the value at all other beats.
    total: the number of beats.
  """
  points = [] if spans[0][0] == 0 else [(0.0, other)]
  for first, end, value in spans:
    points += [(float(first), other)] if first else []
    points.append((first + FADE * (first > 0), value))
    points += [(end - FADE / 2, value), (float(end), other)] if end < total else [(end, value)]
  if points[-1][0] < total:
    points.append((float(total), other))
  return "".join(f"{100 * beat / total:.4g}%{{{key}:{value}}}" for beat, value in points)
