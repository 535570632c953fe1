"""The lecture: the same chapters in both languages, whole, linked, and with right answers."""

import html
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

import fbackprop as fb
from fbackprop.circuit.graph import CircuitError
from fbackprop.cli import main
from fbackprop.lecture.book import CHAPTERS, glossary, words_of
from tests.support.browser import SCHEMES, Opened, check_access, check_widths
from tests.support.pages import Reader

LANGUAGES = ("en", "ko")
# By hand.
ANSWERS = {"L1": 13, "L2": 1, "L3": 1, "L4": 0, "L5": 2, "L7": 0, "L8": 5, "L9": 0.4, "L10": 0.9,
           "L11": 0.25, "L12": 2}  # fmt: skip
# y = 1·0 + (−0.5)·h2 + 0.2 with h2 = relu(1 + 0.5 + 0.5) = 2: y = −0.8, dJ/dy = −1.8, times −0.5.
ANSWERS["L6"] = 0.9


def question_of(text):
  found = re.search(
    r'class="question">.*?<script type="application/json">(.*?)</script>', text, re.S
  )
  return json.loads(found[1])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_the_answers_are_those_found_by_hand(books, chapter):
  for book in books.values():
    answer = question_of(book[f"{chapter.name}.html"])["answer"]
    assert answer == pytest.approx(ANSWERS[chapter.name], rel=1e-12, abs=1e-12)


def test_both_languages_have_the_same_chapters():
  english, korean = words_of("en"), words_of("ko")
  assert set(english) == set(korean)
  names = [chapter.name for chapter in CHAPTERS]
  assert names == [f"L{i}" for i in range(1, 13)] == [*english["chapters"]] == [*korean["chapters"]]
  for name in names:
    ours, theirs = english["chapters"][name], korean["chapters"][name]
    assert set(ours) == set(theirs)
    for key in ("text", "library", "choices", "pictures"):
      assert len(ours.get(key, ())) == len(theirs.get(key, ()))


@pytest.mark.parametrize(("language", "other"), [("en", "ko"), ("ko", "en")])
def test_the_pages_are_small_and_link_to_each_other_alone(books, language, other):
  book = books[language]
  for name, text in book.items():
    assert len(text.encode()) < 300_000, name
    links = {a["href"].removesuffix("#glossary") for _, a in Reader(text).elements if "href" in a}
    assert f"../{other}/{name}" in links
    links.remove(f"../{other}/{name}")
    assert links <= set(book), name
    assert name == "index.html" or "index.html" in links
    assert 'href="index.html#glossary"' in text or name in ("index.html", "network.html")
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
  reached = {a["href"] for _, a in Reader(book["index.html"]).elements if "href" in a}
  assert reached == set(book) - {"index.html"} | {f"../{other}/index.html"}
  assert 'id="glossary"' in book["index.html"]


def test_formulas_are_not_broken_over_lines(books):
  text = "".join(Reader(books["ko"]["L9.html"]).texts)
  assert "η\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.8이면" in text


def test_the_glossary_has_its_terms_once(books):
  english, korean = zip(*glossary(), strict=True)
  assert list(english) == sorted(set(english))
  assert len(set(korean)) == len(korean)
  assert "역전파" in books["en"]["index.html"]


def test_the_chapter_of_cycles_quotes_the_refusal(books):
  chapter = CHAPTERS[1]
  assert chapter.quote() == "circuit: the nodes form a cycle: b -> a -> b"
  assert html.escape(chapter.quote()) in books["ko"]["L2.html"]
  assert issubclass(CircuitError, ValueError)


def test_the_chapter_of_the_update_quotes_the_rule(books):
  quoted = CHAPTERS[9].quote()
  source = (Path(fb.__file__).parent / "layers" / "dense.py").read_text("utf-8")
  head, *body = quoted.splitlines()
  assert head.startswith("def dense_backward(")
  assert "  w_bar = product(x.T, y_bar, bar_of=params.w)" in body
  assert '"""' not in quoted
  assert all(line in source.splitlines() for line in [head, *body])
  for book in books.values():  # Behind the lesson, whose circuit it doesn't push away.
    text = book["L10.html"]
    parts = ['<section class="circuit"', '<section class="question"', html.escape(quoted)]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.slow
def test_options_are_not_broken_over_lines(browser, folders):
  for language in LANGUAGES:
    with Opened(browser, folders[language] / "L9.html") as opened:
      for width in (360, 1440):
        opened.set_viewport_size({"width": width, "height": 800})
        boxes = [code.bounding_box()["height"] for code in opened.locator("main > p code").all()]
        assert len(boxes) == 2
        assert max(boxes) < 30  # One line.


def test_the_sum_of_two_costs_is_drawn():
  [costs] = CHAPTERS[7].traces
  assert costs.circuit.outputs == (("J", 1.0),)
  assert {name: costs.bars[name] for name in ("J1", "J2", "J")} == {"J1": 1, "J2": 0.5, "J": 1}


@pytest.mark.slow
def test_no_field_drops_a_decimal_comma(browser, folders):
  """As a number field of a browser does: 0,5 became 5."""
  for name in ("L1", "L9", "L11"):
    with Opened(browser, folders["en"] / f"{name}.html") as opened:
      assert opened.locator("input[type=number]").count() == 0
      assert opened.locator(".number input").count() > 0


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_chapter_works_in_a_browser(browser, books, folders, language):
  for chapter in CHAPTERS:
    with Opened(browser, folders[language] / f"{chapter.name}.html") as page:
      assert page.get_attribute("html", "data-selftest") == "pass"
      check_widths(page)
      answer = question_of(books[language][f"{chapter.name}.html"])["answer"]
      question = page.locator(".question")
      question.locator("button").click()  # Without an answer.
      assert question.get_attribute("data-outcome") is None
      assert page.evaluate("document.activeElement.matches(':invalid')")
      if question.locator("input[type=radio]").count():
        question.locator("input[type=radio]").nth(int(answer)).check()
      else:
        question.locator("input").fill(f"{answer + 1:g}")
        question.locator("button").click()
        assert question.get_attribute("data-outcome") == "wrong"
        hint = question.locator(".outcome")
        assert words_of(language)["chapters"][chapter.name]["hint"] in hint.text_content().replace(
          "\N{NO-BREAK SPACE}", " "
        )
        box = hint.bounding_box()
        assert box["y"] + box["height"] <= page.viewport_size["height"]
        question.locator("input").fill(f"{answer:g}")
      question.locator("button").click()
      assert question.get_attribute("data-outcome") == "right"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "L2", "L5", "L11"])
def test_it_is_accessible_in_light_and_dark(browser, folders, name):
  for language, folder in folders.items():
    with Opened(browser, folder / f"{name}.html") as page:
      check_widths(page)
      for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        check_access(page)
      if language == "ko":  # Names that are read aloud are Korean too.
        names = page.eval_on_selector_all(
          "[aria-label]", "all => all.map(each => each.getAttribute('aria-label'))"
        )
        assert not [each for each in names if re.search("circuit|value|gradient|Weights", each)]


@pytest.mark.slow
def test_a_printed_chapter_asks_its_question(browser, folders):
  with Opened(browser, folders["en"] / "L2.html") as page:
    page.emulate_media(media="print")
    assert page.get_by_text("a and b in either order, then f").is_visible()
    assert not page.locator(".player").is_visible()
    assert not page.get_by_role("heading", name="Gradient descent").is_visible()
    assert page.locator("nav:visible, .question button:visible").count() == 0
  with Opened(browser, folders["en"] / "L2.html", java_script_enabled=False) as page:
    assert page.locator("noscript li:visible").nth(1).text_content() == (
      "a and b in either order, then f"
    )


@pytest.mark.slow
def test_the_panels_of_several_circuits_are_folded(browser, folders):
  with Opened(browser, folders["en"] / "L11.html") as page:
    assert page.locator(".panels:visible").count() == 0
    page.locator("summary").first.click()
    assert page.locator(".panels:visible").count() == 1
    maximum = "document.querySelectorAll('.circuit')[3].player.state"
    assert set(page.evaluate(f"[...{maximum}.learned]")) == set(
      page.evaluate(f"Object.keys({maximum}.inputs)")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "steps", "most", "right"), [("L1", 4000, 0.01, None), ("L5", 2000, 0.01, "60/60")]
)
def test_a_chapters_network_learns_as_it_opens(browser, folders, name, steps, most, right):
  """And smoothly: the loss never rises, as it does at a rate at the edge of stability."""
  with Opened(browser, folders["en"] / f"{name}.html") as page:
    losses = page.evaluate(f"""(() => {{
      const {{ step, losses }} = document.querySelector('.network').network;
      step({steps});
      return losses();
    }})()""")
    said = page.text_content(".said")
  assert len(losses) == steps + 1
  assert losses[-1] < most
  assert all(b <= a for a, b in pairwise(losses))
  assert right is None or f"{right} right" in said


def test_the_command_writes_one_language_or_both(capsys, tmp_path, books):
  folder = tmp_path / "new" / "lecture"
  assert main(["lecture", "--out", str(folder), "--language", "both"]) == 0
  for language, book in books.items():
    files = {file.name: file.read_text("utf-8") for file in (folder / language).iterdir()}
    assert files == book
  assert capsys.readouterr().out.count("in a browser\n") == 2
  assert main(["lecture", "--out", str(tmp_path / "ko"), "--language", "ko"]) == 0
  files = {file.name: file.read_text("utf-8") for file in (tmp_path / "ko").iterdir()}
  assert set(files) == set(books["ko"])
  assert not any("../" in re.sub("<script.*", "", text, flags=re.S) for text in files.values())
  assert capsys.readouterr().out.endswith(f"open {tmp_path / 'ko' / 'index.html'} in a browser\n")
