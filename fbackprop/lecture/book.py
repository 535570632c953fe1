"""The lecture as a folder of pages: a table of contents, twelve chapters, and the network."""

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fbackprop.circuit.live import page
from fbackprop.circuit.live.page import Language, live_element
from fbackprop.lecture import descent, network
from fbackprop.lecture.chapters import CHAPTERS, Chapter
from fbackprop.lecture.network import network_element, network_page
from fbackprop.markup import (
  Markup,
  document,
  element,
  joined,
  script_data,
  scrolling,
  table_of,
)

HERE = Path(__file__).parent
INDEX, NETWORK = "index.html", "network.html"
GLOSSARY = "glossary"


def lecture_pages(language: Language = "en", *, has_other: bool = False) -> dict[str, str]:
  """Write the lecture.

  Args:
    language: "en" or "ko".
    has_other: whether the other language's pages are in the folder beside, of its code's name, so
      that each page links to its translation.

  Returns:
    The texts of the files by their names. They load nothing, and link to each other alone.

  Raises:
    ValueError: the language is neither "en" nor "ko".
  """
  page.words_of(language)  # Which raises.
  pages = {INDEX: contents(language, other(INDEX, language, has_other))}
  for i, chapter in enumerate(CHAPTERS):
    name = file_of(chapter)
    pages[name] = chapter_page(chapter, language, links(i, language, has_other))
  ways = (link(INDEX, words_of(language)["contents"]), *other(NETWORK, language, has_other))
  return pages | {NETWORK: network_page(language, ways)}


def file_of(chapter: Chapter) -> str:
  """Return the name of a chapter's file."""
  return f"{chapter.name}.html"


def other(name: str, language: Language, has_other: bool) -> list[Markup]:
  """Return the link to a page's translation, if there is one."""
  code = {"en": "ko", "ko": "en"}[language]
  attributes = {"href": f"../{code}/{name}", "lang": code, "hreflang": code}
  return [element("a", words_of(language)["other"], **attributes)] if has_other else []


def contents(language: Language, ways: Sequence[Markup] = ()) -> str:
  """Write the page with the table of contents and the glossary; `ways` are links at its top."""
  words = words_of(language)
  chapters = [
    element("li", link(file_of(chapter), words["chapters"][chapter.name]["title"]))
    for chapter in CHAPTERS
  ]
  heads = (words["terms_english"], words["terms_korean"])
  navigation = (element("nav", *ways, class_="bar", aria_label=words["contents"]),) if ways else ()
  lead = element("p", words["lead"], class_="lead")
  body = joined((
    element("header", *navigation, element("h1", words["title"]), lead),
    element(
      "main", element("h2", words["contents"]), element("ol", *chapters, class_="contents"),
      element("p", link(NETWORK, words["network"])),
      element("h2", words["glossary"], id=GLOSSARY),
      scrolling(table_of(heads, glossary()), words["glossary"]),
    ),
  ))  # fmt: skip
  return document(words["title"], body, style(), "", language)


def chapter_page(chapter: Chapter, language: Language, ways: Sequence[Markup]) -> str:
  """Write a chapter: its text, its pictures, its question; `ways` are links to other pages."""
  words = words_of(language)
  own = words["chapters"][chapter.name]
  heading = f"{CHAPTERS.index(chapter) + 1}. {own['title']}"
  texts, library = paragraphs(own["text"]), paragraphs(own.get("library", ()))
  quote = [element("pre", chapter.quote())] if chapter.quote else []
  if library:  # The lesson comes first, with its circuit and its question.
    library, quote = [element("h2", words["library"]), *library, *quote], []
  navigation = element("nav", *ways, class_="bar", aria_label=words["contents"])
  body = joined((
    element("header", navigation, element("h1", heading)),
    element(
      "main", *texts, *quote, *live(chapter, language), question(chapter, language), *library
    ),
    element("footer", *ways, class_="bar"),
  ))  # fmt: skip
  return document(f"{heading} – {words['title']}", body, style(), scripts(chapter), language)


def paragraphs(texts: Sequence[str]) -> list[Markup]:
  """Return texts as paragraphs, in which what is between backticks is code."""
  parts = (re.split("`(.*?)`", unbroken(text)) for text in texts)
  return [
    element("p", *(element("code", part) if i % 2 else part for i, part in enumerate(each)))
    for each in parts
  ]


def live(chapter: Chapter, language: Language) -> list[Markup]:
  """Return a chapter's circuits, the last one blank if it is an exercise, and its network."""
  last = len(chapter.traces) - 1
  titles = words_of(language)["chapters"][chapter.name].get("pictures", [""] * (last + 1))
  circuits = [
    live_element(
      trace, language=language, exercise=chapter.exercise and i == last,
      learned=learned_of(chapter, trace.circuit.inputs), name=f"{chapter.name} {i + 1}",
      folded=last > 0,
    )
    for i, trace in enumerate(chapter.traces)
  ]  # fmt: skip
  headings = [(element("h2", title),) if title else () for title in titles]
  found = [part for pair in zip(headings, circuits, strict=True) for part in (*pair[0], pair[1])]
  found += (
    [descent.descent_element(words_of(language)["descent"], language)] if chapter.descends else []
  )
  return found + ([network_element(language, **chapter.network)] if chapter.network else [])


def learned_of(chapter: Chapter, inputs: tuple[str, ...]) -> tuple[str, ...] | None:
  """Return the inputs of a circuit that learn; None for the usual ones."""
  return chapter.learned and tuple(name for name in inputs if name in chapter.learned)


def question(chapter: Chapter, language: Language) -> Markup:
  """Return a chapter's question, which is checked in place."""
  words, own = words_of(language), words_of(language)["chapters"][chapter.name]
  data = {
    "answer": float(chapter.answer(chapter.traces)),
    "choices": own.get("choices"),
    "why": unbroken(own["why"]),
    "hint": unbroken(own["hint"]),
    "words": page.words_of(language) | {"check": words["check"], "answer": words["answer"]},
  }
  text = element("p", unbroken(own["question"]))
  choices = [element("li", choice) for choice in own.get("choices", ())]
  # With scripts they have buttons.
  without_script = (element("noscript", element("ul", *choices)),) if choices else ()
  return element("section", element("h2", words["question"]), text, *without_script,
                 script_data(data), class_="question")  # fmt: skip


def unbroken(text: str) -> str:
  """Return a text whose formulas are kept on one line, as "η = 0.8"."""
  return re.sub(" ([=+−·×←]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)


def links(number: int, language: Language, has_other: bool) -> list[Markup]:
  """Return the links of a chapter: its neighbours, the contents, the glossary, its translation."""
  words = words_of(language)
  found = [link(INDEX, words["contents"])]
  if number > 0:
    found.insert(0, link(file_of(CHAPTERS[number - 1]), f"← {words['previous']}"))
  after = CHAPTERS[number + 1 : number + 2]
  found += [link(file_of(chapter), f"{words['next']} →") for chapter in after]
  found.append(link(f"{INDEX}#{GLOSSARY}", words["glossary"]))
  return found + other(file_of(CHAPTERS[number]), language, has_other)


def link(target: str, text: str) -> Markup:
  """Return a link to another page of the folder."""
  return element("a", text, href=target)


@cache
def words_of(language: Language) -> dict[str, Any]:
  """Return the lecture's words in a language."""
  return tomllib.loads((HERE / f"lecture.{language}.toml").read_text("utf-8"))


@cache
def glossary() -> list[tuple[str, str]]:
  """Return the terms in English and in Korean."""
  return tomllib.loads((HERE / "glossary.toml").read_text("utf-8"))["terms"]


def style() -> str:
  """Return the CSS of the lecture."""
  return network.style() + descent.style() + (HERE / "book.css").read_text("utf-8")


def scripts(chapter: Chapter) -> str:
  """Return the scripts of a chapter: those of networks and of descents only if it has one."""
  own = network.scripts() if chapter.network else page.scripts()
  own += f"\n{descent.script()}" if chapter.descends else ""
  return "\n".join([own, (HERE / "questions.js").read_text("utf-8")])
