"""The picture of a circuit: nothing overlaps, and it says to everyone what it shows."""

import re
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties, findfont, get_font

from fbackprop.circuit import Node, Trace, build, example, parse
from fbackprop.circuit.drawing import sum_lines
from fbackprop.circuit.formats import to_png, to_svg
from fbackprop.circuit.graph import GATES, fan_out
from fbackprop.circuit.notation import MINUS, format_number
from fbackprop.circuit.shapes import ADVANCE, GRADIENT, INK, NAME, PAPER, VALUE, WIRE, width_of
from tests.support.circuits import SVG, check_boxes, circuits, read

LECTURE = parse("f = (x+y)*max(y,z)").trace(x=1.0, y=2.0, z=0.0)
EXAMPLES = {name: example(name).trace() for name in ("cs224n", "neuron", "two-layer", "mazur")}
FORMATS = [2, 4, 9, 17, ".2f", "+.3e", "+,.4f", " .1e", ",.1f", "g"]


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
  [0.0, -0.0, 1.0, -2.5, 1e-308, -1.2345678901234567e-300, 5e-324, 1e300, 123456789.123]
)


@st.composite
def traces(draw):
  """Any circuit with any numbers: they needn't be right to be drawn."""
  circuit = draw(circuits())
  pool = draw(st.lists(NUMBERS, min_size=8, max_size=8))
  numbers = {node.name: pool[i % 8] for i, node in enumerate(circuit.nodes)}
  shares = {
    name: tuple(pool[-i % 8] for i in range(len(wires))) for name, wires in fan_out(circuit).items()
  }
  return Trace(circuit, numbers, dict(reversed(numbers.items())), shares, (), pool[0], {})


@pytest.mark.slow
@given(traces(), st.sampled_from(FORMATS), st.sampled_from([None, "A title", "<x> & \x07"]))
@settings(max_examples=60)
def test_nothing_overlaps(trace, digits, title):
  check_boxes(to_svg(trace, digits=digits, title=title))


@pytest.mark.parametrize("digits", FORMATS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_overlaps_in_the_examples(name, digits):
  check_boxes(to_svg(EXAMPLES[name], digits=digits))


def test_the_check_of_boxes_finds_a_planted_overlap():
  svg = to_svg(LECTURE)
  at = re.search(r'y="([\d.]+)" textLength="[\d.]+" lengthAdjust="spacingAndGlyphs">5 = 2', svg)
  shifted = svg.replace(at[0], at[0].replace(at[1], str(float(at[1]) - 10)))
  check_boxes(svg)
  with pytest.raises(AssertionError, match="5 = 2"):
    check_boxes(shifted)


# What the picture says.


def test_values_stand_above_gradients_and_a_fork_shows_its_sum():
  _, texts, gates, _ = read(to_svg(LECTURE))
  values = [(box, text) for text, box, color in texts if color == VALUE.color]
  gradients = {box[0]: [] for box, _ in values}
  for text, box, color in texts:
    if color == GRADIENT.color:
      gradients[box[0]].append((box[1], text))
  found = []
  for box, value in values:
    found.append((value, min(g for g in gradients[box[0]] if g[0] > box[1])[1]))
  assert sorted(found) == sorted(
    [("1", "2"), ("2", "5 = 2 + 3"), ("0", "0"), ("2", "2"), ("2", "3"), ("3", "2"), ("2", "3"),
     ("6", "1"), ("above a wire: its value", "below it: df/d(wire)")]
  )  # fmt: skip
  shown = [text for text, _, color in texts if color == INK]
  assert sorted(shown) == sorted(["x", "y", "z", "f", "+", "max", "×"])
  assert len(gates) == 3


def test_names_are_shown_and_made_names_are_not():
  texts = [text for text, _, _ in read(to_svg(parse("q = x + 2; q*q*sin(x)").trace(x=1.0)))[1]]
  assert {"q", "x", "2", "+", "×", "sin"} <= set(texts)
  assert not {"g1", "g2", "c1"} & set(texts)


def test_an_output_that_is_used_further_on_has_a_wire_of_its_own():
  trace = parse("q = x + 1; q*3").trace(x=1.0)
  both = build(trace.circuit.nodes, {"q": 5.0, "g1": 1.0}).trace(x=1.0)
  texts = [text for text, _, _ in read(to_svg(both))[1]]
  assert "8 = 3 + 5" in texts
  _, ends, _ = ElementTree.fromstring(to_svg(both)).findall(f"{SVG}path")
  assert sum("C" not in end for end in re.findall("M[^M]*", ends.get("d"))) == 2  # Arrows.


def test_a_screen_reader_has_a_title_and_a_description():
  root = ElementTree.fromstring(to_svg(LECTURE))
  title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
  assert root.get("role") == "img"
  assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
  assert title.text == "A circuit of 3 gates, value 6"
  assert "y, input: value 2, gradient 5 = 2 + 3." in description.text
  assert "g2, max of y, z: value 2, gradient 3." in description.text
  assert ElementTree.fromstring(to_svg(LECTURE, title="a < b")).find(f"{SVG}title").text == "a < b"
  ids = {re.search('id="([^"]*)"', to_svg(trace))[1] for trace in EXAMPLES.values()}
  assert len(ids) == 4


def test_colours_can_be_read_and_are_not_all_there_is():
  def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  for color in (VALUE.color, GRADIENT.color, INK, WIRE):
    assert (luminance(PAPER) + 0.05) / (luminance(color) + 0.05) >= 4.5
  root = ElementTree.fromstring(to_svg(LECTURE))
  assert root.find(f"{SVG}rect").get("fill") == PAPER
  slopes = {g.get("fill"): g.get("font-style") for g in root.iter(f"{SVG}g") if g.get("font-size")}
  assert (slopes[VALUE.color], slopes[GRADIENT.color]) == (None, "italic")


# Texts.


@pytest.mark.parametrize(
  "face", [(s, w) for s in ("normal", "oblique") for w in ("normal", "bold")]
)
def test_widths_are_those_of_the_typeface(face):
  style, weight = face
  font = get_font(findfont(FontProperties(family="DejaVu Sans Mono", style=style, weight=weight)))
  font.set_size(100, 72)
  for character in "0123456789.+−=einfa%, xyzw_" + "".join(
    gate.symbol or "" for gate in GATES.values()
  ):
    assert font.get_char_index(ord(character)), character
    glyph = font.load_char(ord(character))
    assert glyph.linearHoriAdvance / 65536 == pytest.approx(100 * ADVANCE, rel=1e-3)


def test_wide_characters_take_two_cells_and_accents_none():
  assert width_of("한글", NAME) == width_of("abcd", NAME)
  assert width_of("e\u0301", NAME) == width_of("e", NAME)


WRITTEN = [
  (0.39322, 4, "0.3932"),
  (-2.0, 4, "−2"),
  (-0.0, 4, "0"),
  (-0.001, ".2f", "0.00"),
  (1e-5, 4, "1e−5"),
  (1e300, 17, "1.0000000000000001e300"),
  (float("nan"), 4, "nan"),
  (float("-inf"), 4, "−inf"),
  (1234.5, ",.1f", "1,234.5"),
]


@pytest.mark.parametrize(("value", "digits", "text"), WRITTEN)
def test_numbers(value, digits, text):
  assert format_number(value, digits, MINUS) == text


def test_sums():
  assert sum_lines("5", ["2", "3"]) == ["5 = 2 + 3"]
  assert sum_lines("−1", ["2", "−3"]) == ["−1 = 2 − 3"]
  assert sum_lines("2", ["2"]) == sum_lines("2", []) == ["2"]
  assert sum_lines("0.3", ["0.1234", "0.1766"]) == ["0.3", "= 0.1234 + 0.1766"]
  lines = sum_lines("0.03333", [f"{i / 7:.17g}" for i in range(1, 30)])
  assert (len(lines), " ".join(lines).count("+")) == (30, 28)


@pytest.mark.parametrize("digits", [0, 18, -1, "nonsense", ".2d", "d", 2.0, None, True, (3,)])
def test_other_digits_are_refused(digits):
  is_typed = type(digits) in (int, str)
  with pytest.raises(ValueError if is_typed else TypeError, match="digits must be an integer from"):
    to_svg(LECTURE, digits=digits)


# Files.


@pytest.mark.slow
def test_the_same_trace_gives_the_same_bytes():
  code = (
    "import sys; from fbackprop.circuit import parse; "
    "t = parse('f = (x+y)*max(y,z)').trace(x=1.0, y=2.0, z=0.0); sys.stdout.write(t.to_svg())"
  )
  for seed in "12":
    command = [sys.executable, "-c", code]
    result = subprocess.run(
      command, check=True, capture_output=True, text=True, encoding="utf-8",
      env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert result.stdout == to_svg(LECTURE)
  assert to_png(EXAMPLES["neuron"]) == to_png(EXAMPLES["neuron"]) != to_png(LECTURE)


@pytest.mark.parametrize("dpi", [96, 192])
def test_a_png_file_is_as_large_as_the_svg(dpi):
  file = LECTURE.to_png(dpi=dpi, title="An example")
  assert file.startswith(b"\x89PNG\r\n\x1a\n")
  root = ElementTree.fromstring(to_svg(LECTURE, title="An example"))
  sides = [round(float(root.get(name)) * dpi / 96) for name in ("width", "height")]
  assert struct.unpack(">II", file[16:24]) == pytest.approx(tuple(sides), abs=1)
  assert b"An example" in file
  assert b"Software" not in file


def test_a_name_may_hold_anything():
  name = "$x$ _{ \\ \x00"
  t = build([Node(name, "input"), Node("f", "tanh", (name,))]).trace(**{name: 1.0})
  assert to_png(t).startswith(b"\x89PNG")  # Warnings are errors here.


@pytest.mark.parametrize("dpi", [0, -5, float("nan"), 1e6])
def test_a_png_file_of_no_or_too_many_pixels_is_refused(dpi):
  with pytest.raises(ValueError, match=r"to_png: (at dpi .* pixels|dpi must be a finite number)"):
    to_png(LECTURE, dpi=dpi)


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
  with pytest.raises(ModuleNotFoundError, match=r"pip install 'fbackprop\[plot\]'"):
    to_png(LECTURE)


@pytest.mark.parametrize("digits", FORMATS)
def test_several_outputs_say_of_what_sum_the_gradients_are(digits):
  outputs = {"J1": 2.0, "J2": -1.0, "J3": 0.5, "J4": 1.0}
  t = parse("J1 = x*y; J2 = x+y; J3 = x-y; J4 = max(x, y)", outputs).trace(x=3.0, y=4.0)
  svg = to_svg(t, digits=digits)
  check_boxes(svg)
  if digits == 4:
    assert ">2 · J1 − J2 + 0.5 · J3 + J4 = 20.5<" in svg
  assert "J1 =" not in to_svg(parse("J1 = x*y").trace(x=3.0, y=4.0))
  assert ">−f = −6<" in to_svg(parse("f = x*y", {"f": -1.0}).trace(x=2.0, y=3.0))


def test_a_long_sum_is_wrapped():
  names = [f"J{i}" for i in range(30)]
  t = parse("; ".join(f"{name} = x*{i}" for i, name in enumerate(names)), dict.fromkeys(names, 0.5))
  svg = to_svg(t.trace(x=1.0))
  check_boxes(svg)
  assert svg.count("0.5 · J29 = 217.5<") == 1
