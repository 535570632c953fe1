"""The page of a network that is built, trained and looked into."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fbackprop.circuit.live import page
from fbackprop.circuit.live.page import Language
from fbackprop.lecture.data import ACTIVATIONS, cases, data_sets
from fbackprop.markup import Markup, document, element, joined, script_data

HERE = Path(__file__).parent


def network_page(language: Language = "en", ways: Sequence[Markup] = ()) -> str:
  """Write the page: a file's text, which loads nothing.

  Args:
    language: "en" or "ko".
    ways: links to other pages.

  Raises:
    ValueError: the language is neither "en" nor "ko".
  """
  page.words_of(language)  # Which raises.
  words = words_of(language)
  navigation = (element("nav", *ways, class_="bar", aria_label="fbackprop"),) if ways else ()
  title = element("h1", words["title"])
  header = element("header", *navigation, title, element("p", words["lead"]))
  body = joined((header, element("main", network_element(language))))
  return document(f"{words['title']} – fbackprop", body, style(), scripts(), language)


def network_element(
  language: Language, data: str = "moons", hidden: Sequence[int] = (4, 3), activation: str = "tanh",
  rate: float = 0.5, seed: int = 1,
) -> Markup:  # fmt: skip
  """Return the network as an element of a page that has `style()` and `scripts()`.

  Args:
    language: "en" or "ko".
    data, hidden, activation, rate: what it starts with; the reader may change all.
    seed: of the first weights.
  """
  start = {"data": data, "hidden": list(hidden), "activation": activation, "rate": rate}
  given: dict[str, Any] = {
    "data": data_sets(),
    "activations": [gate.name for gate in ACTIVATIONS],
    "cases": cases(),
    "start": start | {"seed": seed},
    "words": page.notices(language) | words_of(language),
  }
  noscript = element("noscript", element("p", page.words_of(language)["noscript"]))
  return element("section", noscript, script_data(given), class_="network")


@cache
def words_of(language: Language) -> dict[str, str]:
  """Return the words of the network's page in a language."""
  words: dict[str, str] = json.loads((HERE / f"words.{language}.json").read_text("utf-8"))
  return words


def style() -> str:
  """Return the CSS of circuits and networks."""
  return page.style() + (HERE / "network.css").read_text("utf-8")


def scripts() -> str:
  """Return the scripts of circuits and networks."""
  own = [(HERE / name).read_text("utf-8") for name in ("layers.js", "decision.js", "network.js")]
  return "\n".join([page.scripts(), *own])
