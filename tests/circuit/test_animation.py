"""The SVG that plays by itself: the README's is the command's; a beat shows what is known."""

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fbackprop.circuit import Node, build, example, parse
from fbackprop.circuit.live import animation
from fbackprop.cli import main
from tests.support.browser import OVERLAPS, SCHEMES, Opened

ROOT = Path(__file__).parents[2]
LECTURE = parse("a = x+y; b = max(y,z); f = a*b").trace(x=1.0, y=2.0, z=0.0)
EXAMPLES = ("cs224n", "neuron", "two-layer", "mazur", "max")

# By hand: the gates in order, and after which beat each number is known.
VALUES = {"x": 0, "y": 0, "z": 0, "a": 1, "b": 2, "f": 3}
GRADIENTS = {"f": 4, "a": 5, "b": 5, "z": 6, "x": 7, "y": 7}
SHARES = {"y:0": 7, "y:1": 6}
BEATS = 9

SHOWN = """(beat) => {
  const time = 1000 * 1.4 * (beat + 0.6);
  document.getAnimations().forEach((each) => { each.pause(); each.currentTime = time; });
  const named = {};
  for (const kind of ["value", "gradient", "share", "beat"])
    named[kind] = [...document.querySelectorAll(`[data-${kind}]`)]
      .filter((part) => getComputedStyle(part).opacity === "1").map((part) => part.dataset[kind]);
  return named;
}"""
# A part of an SVG document is made a text that can be measured by the check of overlaps.
UNSEEN = """() => [...document.querySelectorAll("text")]
  .filter((text) => getComputedStyle(text.closest("g.caption") ?? text).opacity === "0")
  .forEach((text) => text.remove())"""


@pytest.fixture
def opened(browser, tmp_path):
  def open_svg(text, **window):
    file = tmp_path / "circuit.svg"
    file.write_text(text, "utf-8")
    return Opened(browser, file, **window)

  return open_svg


def test_the_readme_shows_what_its_command_writes(tmp_path, monkeypatch):
  readme = (ROOT / "README.md").read_text("utf-8")
  assert 'src="docs/backward.svg"' in readme
  [line] = re.findall(r"^\$ \.venv/bin/fbackprop (.*--format animation.*)$", readme, re.M)
  monkeypatch.chdir(tmp_path)
  assert main(shlex.split(line)) == 0
  committed = (ROOT / "docs" / "backward.svg").read_bytes()
  assert (tmp_path / "backward.svg").read_bytes() == committed
  assert len(committed) < 200_000


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_one_small_harmless_file(name):
  text = example(name).trace().to_animation()
  assert len(text.encode()) < 200_000
  assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
  tags = {part.tag.rpartition("}")[2] for part in ElementTree.fromstring(text).iter()}
  assert tags == {"svg", "title", "desc", "style", "rect", "g", "path", "text", "tspan"}
  assert "url(" not in text
  assert "@import" not in text


def test_names_stay_text():
  nodes = [Node('<a>"]\\}', "input", value=2.0), Node("</style>&", "square", ('<a>"]\\}',))]
  text = build(nodes).trace().to_animation()
  root = ElementTree.fromstring(text)
  named = {part.get("data-value") for part in root.iter()} - {None}
  assert named == {'<a>"]\\}', "</style>&"}
  assert "<a>" not in text.split("</style>")[0]


@pytest.mark.slow
@pytest.mark.parametrize("beat", range(BEATS))
def test_every_beat_shows_what_is_known(opened, beat):
  with opened(LECTURE.to_animation()) as page:
    shown = page.evaluate(SHOWN, beat)
  assert shown["beat"] == [str(beat)]
  assert set(shown["value"]) == {name for name, since in VALUES.items() if since <= beat}
  assert set(shown["gradient"]) == {name for name, since in GRADIENTS.items() if since <= beat}
  assert set(shown["share"]) == {name for name, since in SHARES.items() if since <= beat}


def test_its_lines_are_those_of_the_worked_solution():
  beats = [*animation.beats_of(LECTURE, 4, animation.words_of("en"))]
  assert len(beats) == BEATS
  solution = {line.strip() for line in LECTURE.to_steps().splitlines()}
  lines = [line for beat in beats for line in beat.lines[1:]]
  assert "df/db = df/df · ∂f/∂b = 1 · 3 = 3" in lines
  assert "df/dy = 2 + 3 = 5" in lines
  for beat in beats:
    assert beat.phase != "forward" or set(beat.lines[1:]) <= solution


def test_a_gate_that_leads_to_no_output_sends_nothing():
  trace = parse("g = exp(x); h = g*x; f = x*x").trace(x=2.0)
  beats = [*animation.beats_of(trace, 4, animation.words_of("en"))]
  assert [beat.gate for beat in beats if beat.phase == "backward"] == ["f"]
  assert beats[-2].lines[-1] == "df/dx = 0 + 0 + 2 + 2 = 4"  # g and h are never visited.


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_motion_it_is_the_solved_circuit(opened, scheme):
  window = {"reduced_motion": "reduce", "color_scheme": scheme}
  with opened(LECTURE.to_animation(), **window) as page:
    assert page.evaluate("document.getAnimations().length") == 0
    shown = page.evaluate(SHOWN, 0)
  assert set(shown["value"]) == set(VALUES)
  assert set(shown["gradient"]) == set(GRADIENTS)
  assert shown["beat"] == [str(BEATS - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_overlaps(opened, name):
  with opened(example(name).trace().to_animation(), reduced_motion="reduce") as page:
    page.evaluate(UNSEEN)
    assert page.evaluate(f"({OVERLAPS})(document.documentElement)") == []


@pytest.mark.slow
def test_it_moves_as_an_image(browser, tmp_path):
  """As GitHub shows it: an `<img>`, in which nothing but CSS runs."""
  (tmp_path / "a.svg").write_text(LECTURE.to_animation(), "utf-8")
  page = browser.new_page(viewport={"width": 800, "height": 400})
  (tmp_path / "a.html").write_text('<img src="a.svg" alt="">', "utf-8")
  page.goto((tmp_path / "a.html").as_uri())
  first = page.screenshot()
  assert any(page.screenshot() != first for _ in range(100))
  page.close()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"digits": 0}, "to_animation: digits must be from 1 to 17, got 0"),
    ({"seconds": 0}, "to_animation: seconds must be a finite number above 0, got 0"),
    ({"language": "fr"}, "unknown value 'fr' for language; there are: en, ko"),
  ],
)
def test_arguments_are_refused(options, message):
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    LECTURE.to_animation(**options)


def test_a_large_circuit_is_refused():
  nodes = [Node("s0", "input", value=0.1)]
  nodes += [Node(f"s{i}", "sigmoid", (f"s{i - 1}",)) for i in range(1, 201)]
  with pytest.raises(ValueError, match="201 nodes; an animation shows at most 200; draw it as SVG"):
    build(nodes).trace().to_animation()
