"""The lecture: the same chapters in both languages, whole, linked, and with right answers."""

import html
import json
import re
from pathlib import Path

import pytest

import fbackprop as fb
from fbackprop.circuit.graph import CircuitError
from fbackprop.cli import main
from fbackprop.lecture.book import CHAPTERS, glossary, lecture_pages, words_of
from tests.support.browser import SCHEMES, WIDTHS, Opened, check_access, check_width
from tests.support.pages import Reader

BOOKS = {language: lecture_pages(language) for language in ("en", "ko")}
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
def test_the_answers_are_those_found_by_hand(chapter):
  for language in BOOKS:
    answer = question_of(BOOKS[language][f"{chapter.name}.html"])["answer"]
    assert answer == pytest.approx(ANSWERS[chapter.name], rel=1e-12, abs=1e-12)


def test_both_languages_have_the_same_chapters():
  english, korean = words_of("en"), words_of("ko")
  assert set(english) == set(korean)
  names = [chapter.name for chapter in CHAPTERS]
  assert names == [f"L{i}" for i in range(1, 13)] == [*english["chapters"]] == [*korean["chapters"]]
  for name in names:
    ours, theirs = english["chapters"][name], korean["chapters"][name]
    assert set(ours) == set(theirs)
    assert len(ours["text"]) == len(theirs["text"])
    assert len(ours.get("choices", ())) == len(theirs.get("choices", ()))
    assert len(ours.get("pictures", ())) == len(theirs.get("pictures", ()))


@pytest.mark.parametrize("language", BOOKS)
def test_the_pages_are_small_and_link_to_each_other_alone(language):
  book = BOOKS[language]
  for name, text in book.items():
    assert len(text.encode()) < 300_000, name
    links = {a["href"] for _, a in Reader(text).elements if "href" in a}
    assert links <= set(book), name
    assert name == "network.html" or links
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
  reached = {a["href"] for _, a in Reader(book["index.html"]).elements if "href" in a}
  assert reached == set(book) - {"index.html"}


def test_the_glossary_has_its_terms_once():
  english, korean = zip(*glossary(), strict=True)
  assert list(english) == sorted(set(english))
  assert len(set(korean)) == len(korean)
  assert "역전파" in BOOKS["en"]["index.html"]


def test_the_chapter_of_cycles_quotes_the_refusal():
  chapter = CHAPTERS[1]
  assert chapter.quote() == "circuit: the nodes form a cycle: b -> a -> b"
  assert html.escape(chapter.quote()) in BOOKS["ko"]["L2.html"]
  assert issubclass(CircuitError, ValueError)


def test_the_chapter_of_the_update_quotes_the_rule():
  quoted = CHAPTERS[9].quote()
  source = (Path(fb.__file__).parent / "layers" / "dense.py").read_text("utf-8")
  head, *body = quoted.splitlines()
  assert head.startswith("def dense_backward(")
  assert "  w_bar = product(x.T, y_bar, bar_of=params.w)" in body
  assert '"""' not in quoted
  assert all(line in source.splitlines() for line in [head, *body])
  assert html.escape(quoted) in BOOKS["ko"]["L10.html"]


@pytest.mark.parametrize("language", BOOKS)
def test_every_chapter_works_in_a_browser(browser, tmp_path, language):
  for name, text in BOOKS[language].items():
    (tmp_path / name).write_text(text, "utf-8")
  for chapter in CHAPTERS:
    with Opened(browser, tmp_path / f"{chapter.name}.html") as page:
      assert page.get_attribute("html", "data-selftest") == "pass"
      answer = question_of(BOOKS[language][f"{chapter.name}.html"])["answer"]
      question = page.locator(".question")
      if question.locator("input[type=radio]").count():
        question.locator("input[type=radio]").nth(int(answer)).check()
      else:
        question.locator("input").fill(f"{answer + 1:g}")
        question.locator("button").click()
        assert question.get_attribute("data-outcome") == "wrong"
        question.locator("input").fill(f"{answer:g}")
      question.locator("button").click()
      assert question.get_attribute("data-outcome") == "right"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["index", "L2", "L5", "L11"])
def test_it_is_accessible_at_every_width(browser, tmp_path, name, scheme):
  for language, book in BOOKS.items():
    file = tmp_path / f"{name}-{language}.html"
    file.write_text(book[f"{name}.html"], "utf-8")
    with Opened(browser, file, color_scheme=scheme) as page:
      for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        check_width(page)
      check_access(page)


def test_the_command_writes_the_folder(capsys, tmp_path):
  folder = tmp_path / "new" / "lecture"
  assert main(["lecture", "--out", str(folder), "--language", "ko"]) == 0
  assert {file.name: file.read_text("utf-8") for file in folder.iterdir()} == BOOKS["ko"]
  assert capsys.readouterr().out.endswith(f"open {folder / 'index.html'} in a browser\n")
