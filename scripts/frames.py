"""Measures how smoothly the pages move: frames a second while they play, drag, train and descend.

Needs a Chromium on the PATH and playwright (of fbackprop[dev]). Without a screen Chromium draws at
most 60 frames a second; on a busy machine it draws fewer, whatever the page does, so that the time
that the page's own code takes in a frame is printed too. Not a test: the figures are the machine's.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from fbackprop.circuit import example
from fbackprop.lecture.book import lecture_pages

SECONDS = 3.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# For each row: the page, and how it is moved, once a frame; a page's own loop needs nothing.
CIRCUIT = "document.querySelector('.circuit').player"
NETWORK = "document.querySelector('.network').network"
DESCENT = "document.querySelector('.descent').descent"
ROWS = (
  ("a circuit of 3 gates, an input dragged", "small",
   f"() => {CIRCUIT}.change('x', Math.sin(performance.now() / 300))"),
  ("a circuit of 22 gates (mazur), an input dragged", "mazur",
   f"() => {CIRCUIT}.change('w1_1_1', Math.sin(performance.now() / 300))"),
  ("a network 2-4-3-1 on 60 points, 4 steps a frame", "network", f"() => {NETWORK}.step(4)"),
  ("a network 2-8-8-8-1 on 60 points, 4 steps a frame", "wide", f"() => {NETWORK}.step(4)"),
  ("a descent on a surface, a step a frame", "L9", f"() => {DESCENT}.one()"),
)  # fmt: skip

BEFORE = {
  "wide": f"{NETWORK}.resize([8, 8, 8])",
  "L9": f"{DESCENT}.choose('neuron')",
}

MEASURE = """async ({ seconds, move }) => {
  const step = eval(move);
  const own = [];
  const start = performance.now();
  let end = start;
  while (end - start < 1000 * seconds) {
    await new Promise(requestAnimationFrame);
    const before = performance.now();
    step();
    end = performance.now();
    own.push(end - before);
  }
  own.sort((a, b) => a - b);
  const rate = own.length / ((end - start) / 1000);
  return [rate, own[own.length >> 1], own[Math.floor(0.95 * own.length)]];
}"""


def write_pages(folder: Path) -> dict[str, Path]:
  """Write the pages that are measured; return their files by name."""
  texts = {name.removesuffix(".html"): text for name, text in lecture_pages("en").items()}
  texts["small"] = example("cs224n").trace().to_html()
  texts["mazur"] = example("mazur").trace().to_html()
  texts["wide"] = texts["network"]
  files = {}
  for name in {row[1] for row in ROWS}:
    files[name] = folder / f"{name}.html"
    files[name].write_text(texts[name], "utf-8")
  return files


def main() -> int:
  """Run the script; return 2 without a browser."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--seconds", type=float, default=SECONDS, help="how long for each row")
  options = parser.parse_args()
  browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
  try:
    from playwright.sync_api import sync_playwright
  except ModuleNotFoundError:
    browser_path = None
  if browser_path is None:
    print("frames.py: needs playwright and a Chromium on the PATH; next: install them")
    return 2
  print("| page | frames a second | its own time in a frame, ms: median | 95 % |")
  print("|---|---|---|---|")
  with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
    files = write_pages(Path(folder))
    browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
    for title, name, move in ROWS:
      # The pages allow no script but their own; the measurement is one.
      page: Any = browser.new_page(bypass_csp=True, viewport={"width": 1440, "height": 900})
      page.goto(files[name].as_uri())
      if name in BEFORE:
        page.evaluate(BEFORE[name])
      rate, median, slow = page.evaluate(MEASURE, {"seconds": options.seconds, "move": move})
      print(f"| {title} | {rate:.0f} | {median:.1f} | {slow:.1f} |", flush=True)
      page.close()
    browser.close()
  return 0


if __name__ == "__main__":
  sys.exit(main())
