"""The picture of a circuit as an SVG or a PNG file."""

from fbackprop.circuit.graph import Circuit, CircuitError, Trace
from fbackprop.circuit.labels import clean, show, show_sum
from fbackprop.circuit.png import write_png
from fbackprop.circuit.shapes import Labels, Names, compose
from fbackprop.circuit.svg import write_svg

MOST_NODES = 300
"""Of a picture in a notebook, where nobody asked for it: a larger one would take seconds."""


def to_svg(trace: Trace, *, digits: int | str = 4, title: str | None = None) -> str:
  """Draws a trace as an SVG file.

  Args:
    trace: a circuit, solved.
    digits: how many significant digits numbers have, from 1 to 17, or a format, as ".2f".
    title: a heading; the picture's name for screen readers is this, or says what it shows.

  Returns:
    The file's text, the same for the same trace; on white paper, which dark pages need.

  Raises:
    TypeError: `digits` or `title` is of another type.
    ValueError: `digits` is no such number or format; or the wires are too long to be drawn.
  """
  name = clean(title or name_of(trace, digits))
  return write_svg(compose(Labels(trace, digits), title), name, describe(trace, digits))


def to_png(
  trace: Trace, *, digits: int | str = 4, title: str | None = None, dpi: float = 192
) -> bytes:
  """Draws a trace as a PNG file: the picture of `to_svg`, in pixels.

  Args:
    trace: a circuit, solved.
    digits: how many significant digits numbers have, from 1 to 17, or a format, as ".2f".
    title: a heading.
    dpi: pixels for an inch; at 96 the picture is as large as the SVG.

  Returns:
    The file, the same for the same trace.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
    TypeError: `digits` or `title` is of another type.
    ValueError: as `to_svg`; or the picture has more pixels than a PNG file should.
  """
  name = clean(title or name_of(trace, digits))
  return write_png(compose(Labels(trace, digits), title), name, dpi)


def picture_of_trace(trace: Trace) -> str | None:
  """The SVG that a notebook shows; None for a circuit that is too large to be looked at."""
  if len(trace.circuit.nodes) > MOST_NODES:
    return None
  try:
    return to_svg(trace)
  except CircuitError:  # Its wires are too long.
    return None


def picture_of_circuit(circuit: Circuit) -> str | None:
  """The same of a circuit: with its numbers if each input has a value, else names and symbols."""
  values = [node.value for node in circuit.nodes if node.op == "input"]
  if len(circuit.nodes) > MOST_NODES:
    return None
  if None not in values:
    return picture_of_trace(circuit.trace())
  try:
    picture = compose(Names(circuit), None)
  except CircuitError:
    return None
  nodes = (f"{n.name}, {n.op}{' of ' * bool(n.inputs)}{', '.join(n.inputs)}" for n in circuit.nodes)
  return write_svg(picture, clean(repr(circuit)), clean("; ".join(nodes)))


def name_of(trace: Trace, digits: int | str) -> str:
  """What a picture without a title is called."""
  count = len(trace.gates)
  return f"A circuit of {count} gate{'s' * (count != 1)}, value {show(trace.value, digits)}"


def describe(trace: Trace, digits: int | str) -> str:
  """The picture in words, node by node."""
  parts = ["Values and global gradients of a circuit, from its inputs to its outputs."]
  for node in trace.circuit.nodes:
    what = f"{node.op} of {', '.join(node.inputs)}" if node.inputs else node.op
    value = show(trace.values[node.name], digits)
    terms = trace.contributions[node.name]
    gradient = " ".join(show_sum(trace.bars[node.name], terms, digits))
    parts.append(f"{node.name}, {what}: value {value}, gradient {gradient}.")
  return clean(" ".join(parts))
