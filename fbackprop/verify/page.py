"""The report of a verification as HTML: a page of its own, or a part of a notebook.

From the top: the verdict; the leaves in the order of the backward pass, each with its mark; the
first finding, with heat maps of its leaf; the others; the checks; what wasn't checked; and what
repeats it all. This module knows how that looks, `report` what it says.
"""

from collections.abc import Sequence
from typing import NamedTuple

from fbackprop.markup import (
  BAD,
  GOOD,
  UNSURE,
  Markup,
  document,
  element,
  headline,
  joined,
  paragraph,
  scrolling,
  table_of,
)
from fbackprop.verify.heat_maps import LeafMap, draw

MOST_LEAVES = 200
"""The most leaves that are listed."""
COLORS = {"PASS": GOOD, "FAIL": BAD}
MARKS = {"verified": ("✓", GOOD), "wrong": ("✗", BAD), "first wrong": ("✗", BAD)}
UNKNOWN = ("?", UNSURE)
STYLE = """
.ending { font-size: 1.1rem; }
.ending strong { font-size: 1.4rem; margin-right: 0.4rem; }
.leaves { max-width: 40rem; }
.finding th { padding-right: 1.5rem; vertical-align: baseline; }
.finding td { white-space: normal; overflow-wrap: anywhere; }
.scroll td:last-child { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
svg { display: block; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


class Content(NamedTuple):
  """What a report says, as texts.

  Attributes:
    name: the function's name.
    verdict: in capitals.
    asked: the options and the duration.
    summary: a sentence behind the verdict.
    leaves: name and state of each leaf, in the order of the backward pass.
    about_leaves: a sentence below them; "" for none.
    first: the first finding, as (head, text).
    leaf_map: its leaf's numbers; None without them.
    heads, findings, more: the columns and rows of all findings, and the number of those left out.
    checks: their name, times, outcome and detail.
    remarks: what else is to be known, as (head, texts).
    again: the command that repeats it; "" for none.
    options: a sentence on the options that repeat it.
  """

  name: str
  verdict: str
  asked: str
  summary: str
  leaves: Sequence[tuple[str, str]]
  about_leaves: str
  first: Sequence[tuple[str, str]]
  leaf_map: LeafMap | None
  heads: Sequence[str]
  findings: Sequence[Sequence[str]]
  more: int
  checks: Sequence[Sequence[str]]
  remarks: Sequence[tuple[str, Sequence[str]]]
  again: str
  options: str


def draw_page(content: Content) -> str:
  """Return the report as an HTML file."""
  verdict = element("strong", content.verdict, style=f"color: {color_of(content)}")
  options = {"class_": "ending", "style": f"border-color: {color_of(content)}"}
  body = joined((
    element("header", element("h1", content.name), element("p", content.asked, class_="quiet")),
    element("main", element("p", verdict, content.summary, **options), sections(content, "h2")),
  ))  # fmt: skip
  return document(f"{content.verdict}: {content.name} – fbackprop verify", body, STYLE)


def draw_fragment(content: Content) -> str:
  """Return the report for a notebook, whose own style applies."""
  first = headline(content.verdict, color_of(content), f"{content.name}: {content.asked}")
  return element("div", first, paragraph(content.summary), sections(content, "h4"))


def color_of(content: Content) -> str:
  """Return the color of the verdict."""
  return COLORS.get(content.verdict, UNSURE)


def sections(content: Content, heading: str) -> Markup:
  """Return all that follows the verdict, under headings of some level."""
  more = f"and {content.more} findings more, all in the JSON"
  table = scrolling(table_of(content.heads, content.findings), "Findings")
  checks = table_of(("check", "times", "outcome", "detail"), content.checks)
  parts = (
    ("Leaves, in the order of the backward pass", leaves_of(content)),
    ("The first finding", first_of(content)),
    ("All findings", joined((table, paragraph(more) if content.more else Markup()))),
    ("Checks", scrolling(checks, "Checks")),
    *((head, listed(texts)) for head, texts in content.remarks),
    ("Repeat it", element("pre", content.again) if content.again else paragraph(content.options)),
  )
  return joined(
    element("section", element(heading, head), inside) for head, inside in parts if inside
  )


def leaves_of(content: Content) -> Markup:
  """Return the list of leaves, each with the mark of its state; "" without leaves."""
  items = []
  for name, state in content.leaves[:MOST_LEAVES]:
    mark, color = MARKS.get(state, UNKNOWN)
    sign = element("span", mark, style=f"color: {color}; font-weight: 700", aria_hidden="true")
    style = f"border-left: 4px solid {color}; padding: 0.1em 0.7em; margin: 0"
    items.append(element("li", sign, " ", element("code", name), f" {state}", style=style))
  if len(content.leaves) > MOST_LEAVES:
    items.append(element("li", f"and {len(content.leaves) - MOST_LEAVES} more"))
  options = {"class_": "leaves", "style": "padding-left: 0; list-style: none"}
  about = element("p", content.about_leaves, class_="quiet") if content.about_leaves else Markup()
  return joined((element("ol", *items, **options), about)) if items else Markup()


def first_of(content: Content) -> Markup:
  """Return the first finding, with the heat maps of its leaf; "" without one."""
  if not content.first:
    return Markup()
  rows = (
    element("tr", element("th", head, scope="row", style="text-align: left"),
            element("td", text, style="text-align: left"))
    for head, text in content.first
  )  # fmt: skip
  maps = Markup() if content.leaf_map is None else draw(content.leaf_map)
  return joined((element("table", *rows, class_="finding"), maps))


def listed(texts: Sequence[str]) -> Markup:
  """Return texts as a list, a single one as a paragraph."""
  if len(texts) == 1:
    return paragraph(texts[0])
  return element("ul", *(element("li", text) for text in texts))
