"""Helpers of the circuit tests: circuits of one gate, random circuits, SVG files read back."""

import re
from xml.etree import ElementTree

import numpy as np
from hypothesis import strategies as st

from fbackprop.circuit import Node, build
from fbackprop.circuit.shapes import ASCENT, DESCENT, GATE

SVG = "{http://www.w3.org/2000/svg}"


def solve_gate(op, xs, gates=None):
  """Return the trace of one gate y of inputs x0, x1, ..."""
  names = tuple(f"x{i}" for i in range(len(xs)))
  circuit = build([*(Node(name, "input") for name in names), Node("y", op, names)], gates=gates)
  return circuit.trace(**dict(zip(names, xs, strict=True)))


OPS = [("add", 1, 9), ("multiply", 2, 3), ("subtract", 2, 2), ("power", 2, 2), ("max", 1, 4),
       ("leaky_relu", 1, 1), ("softplus", 1, 1), ("sigmoid", 1, 1), ("exp", 1, 1)]  # fmt: skip
"""Ops with the least and the largest number of inputs of a random gate."""
NAMES = ["x", "y", "w_12", "loss", "<&>\"'", "ㅎ한글", "\x00\ud800"]
NAMES += ["a long name of an input", "g7"]


@st.composite
def circuits(draw):
  """Draw a circuit of up to 60 gates: forks, double wires to a gate, dead ends, several outputs."""
  name = st.sampled_from(NAMES) | st.text(min_size=1)
  names = draw(st.lists(name, min_size=1, max_size=8, unique=True))
  nodes = [
    Node(name, "input") if draw(st.booleans()) else Node(name, "constant", (), 0.1)
    for name in names
  ]
  reach = draw(st.sampled_from([12, 100]))  # The distance in nodes that wires span.
  for i in range(draw(st.integers(1, 60))):
    op, least, most = draw(st.sampled_from(OPS))
    some = st.lists(st.sampled_from(names[-reach:]), min_size=least, max_size=most)
    name = draw(st.sampled_from([f"g{i}", f"g{i}", f"h_{i}", f"hidden unit {i}"]))
    if name not in names:
      nodes.append(Node(name, op, tuple(draw(some))))
      names.append(name)
  outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
  return build(nodes, dict.fromkeys(outputs, 1.0))


# --- SVG files ------------------------------------------------------------------------------------


def read(svg):
  """Return the root, the texts, the gates' boxes, and points along the wires of an SVG file."""
  root = ElementTree.fromstring(svg)
  texts = []
  for group in root.iter(f"{SVG}g"):
    for text in group.findall(f"{SVG}text"):
      x, y, width = (float(text.get(name)) for name in ("x", "y", "textLength"))
      size = float(group.get("font-size"))
      box = (x, y - ASCENT * size, x + width, y + DESCENT * size)
      texts.append((text.text, box, group.get("fill")))
  wires, *outlines = root.findall(f"{SVG}path")
  gates = [
    np.concatenate([points.min(0), points.max(0)])
    for path in outlines
    if path.get("fill") == GATE
    for points in map(points_of, re.findall("M[^M]*", path.get("d")))
  ]
  return root, texts, np.array(gates), points_of(wires.get("d"))


def points_of(path):
  """Return points along the wires, less than two pixels from each other, `[points, 2]`."""
  points, here = [], None
  for letter, numbers in re.findall(r"([MCL])([^MCL]*)", path):
    values = np.array([float(value) for value in numbers.split()])
    if letter == "M":
      here = values
      continue
    if letter == "L":
      ends = np.stack([here, here, values, values])
    else:
      ends = np.stack([here, *values.reshape(3, 2)])
    t = np.linspace(0, 1, 2 + int(np.abs(np.diff(ends, axis=0)).sum()))[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3])
    points.append(weights @ ends)
    here = ends[-1]
  return np.concatenate(points)


def overlaps(a, b):
  """Return which boxes overlap by more than the hundredths of written coordinates: `[A, B]`."""
  a, b = a[:, None], b[None]
  shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
  return (shared > 0.02).all(-1)


def check_boxes(svg):
  """Raise for a text on another text, on a gate of another symbol, on a wire, or off the paper."""
  root, texts, gates, points = read(svg)
  boxes = np.array([box for _, box, _ in texts])
  assert (boxes[:, :2] >= 0).all()
  assert (boxes[:, 2] <= float(root.get("width"))).all()
  assert (boxes[:, 3] <= float(root.get("height"))).all()
  for a, b in np.argwhere(overlaps(boxes, boxes)):
    assert a == b, (texts[a], texts[b])

  # A gate has one text in it, its symbol, at its middle.
  owned = np.abs(boxes[:, None, ::2].sum(-1) - gates[None, :, ::2].sum(-1)) < 0.1
  owned &= (boxes[:, None, 1] > gates[None, :, 1]) & (boxes[:, None, 3] < gates[None, :, 3])
  assert (owned.sum(0) == 1).all()
  for text, gate in np.argwhere(overlaps(boxes, gates) & ~owned):
    raise AssertionError((texts[text], gates[gate]))

  x, y = points[:, 0], points[:, 1]
  for text, (left, top, right, bottom) in zip(texts, boxes, strict=True):
    assert not ((left < x) & (x < right) & (top < y) & (y < bottom)).any(), text
  for left, top, right, bottom in gates:
    radius = (bottom - top) / 2
    # The distance to the line between the centres of a gate's two round ends.
    beside = np.maximum(np.maximum(left + radius - x, x - right + radius), 0)
    assert (np.hypot(beside, y - (top + bottom) / 2) > radius - 0.1).all()
