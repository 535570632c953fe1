"""Pages in headless Chromium, where playwright and a Chromium are installed.

CI installs both; elsewhere the tests that need them are skipped, and say what is missing.
"""

import contextlib
import shutil
from functools import cache
from pathlib import Path

import pytest

WIDTHS = (360, 768, 1440)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@cache
def chromium() -> str | None:
  """The path of the machine's Chromium."""
  return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def launched():
  """A browser, in which nothing may be loaded but files of this machine."""
  sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright, of fbackprop[dev]"
  )
  if chromium() is None:
    pytest.skip(f"needs a Chromium on the PATH, as one of {', '.join(NAMES)}")
  with sync_api.sync_playwright() as p:
    browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
    try:
      yield browser
    finally:
      browser.close()


class Opened:
  """A page with what went wrong in it: errors, messages of the console, requests to load more."""

  def __init__(self, browser, file: Path, **options):
    options = {"viewport": {"width": 1440, "height": 900}, "locale": "en-US"} | options
    self.page = browser.new_page(**options)
    self.faults: list[str] = []
    self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
    self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
    self.page.on("request", lambda r: r.url == file.as_uri() or self.faults.append(r.url))
    self.page.goto(file.as_uri())

  def __enter__(self):
    return self.page

  def __exit__(self, kind, *_):
    self.page.close()
    if kind is None:
      assert self.faults == []


def check_access(page) -> None:
  """Raise with axe's report if a page has a fault of accessibility."""
  module = pytest.importorskip("axe_playwright_python.sync_playwright")
  found = module.Axe().run(page)
  assert found.violations_count == 0, found.generate_report()


OUTSIDE = """() => {
  const style = getComputedStyle(document.body);
  const box = document.body.getBoundingClientRect();
  const left = box.left + parseFloat(style.paddingLeft);
  const right = box.right - parseFloat(style.paddingRight);
  const scrolls = (each) => each && each !== document.body &&
    (["auto", "scroll"].includes(getComputedStyle(each).overflowX) || scrolls(each.parentElement));
  return [...document.querySelectorAll("body *")].filter((each) => {
    const { left: x, right: x_, width } = each.getBoundingClientRect();
    return width && (x < left - 1 || x_ > right + 1) && !scrolls(each.parentElement);
  }).map((each) => each.outerHTML.slice(0, 120));
}"""
"""JavaScript: the elements that leave the page's column, but for those that scroll in a frame."""


def check_widths(page) -> None:
  """Raise if at some width of the window the page or a part of it leaves its column."""
  for width in WIDTHS:
    page.set_viewport_size({"width": width, "height": 800})
    wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room
    assert page.evaluate(OUTSIDE) == [], width


OVERLAPS = """(svg) => {
  const texts = [...svg.querySelectorAll("text")].filter((text) =>
    text.textContent.trim() && getComputedStyle(text).visibility !== "hidden");
  const boxes = texts.map((text) => text.getBBox());
  const found = [];
  for (let i = 0; i < boxes.length; i++)
    for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      // A line's box is higher than its letters.
      const wide = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
      const high = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
      if (wide > 1 && high > 4) found.push([texts[i].textContent, texts[j].textContent]);
    }
  return found;
}"""
"""JavaScript: the pairs of texts of an SVG that overlap."""
