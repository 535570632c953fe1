"""Runs the Python blocks of the README and of docs/: `pytest README.md docs`.

A page is one test, a program that is read from top to bottom: its blocks share their names. As a
test for each block pytest-xdist would hand them to different processes. A block with prompts must
print what it shows; one without must run.
"""

import contextlib
import doctest
import tempfile
from collections.abc import Iterator

import jax
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# The guide runs every law, and one of them needs two devices; jax must know before it starts.
jax.config.update("jax_num_cpu_devices", 2)

find_blocks = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)


def find_page(document: Document) -> Iterator[Region]:
  """The page as one example, if it has a Python block."""
  page = Document.parse(document.path, find_blocks)
  if page.regions:
    yield Region(page.regions[0][1].start, page.regions[-1][1].end, page, run_page)


def run_page(example: Example) -> None:
  """Runs the blocks in order, in a folder of their own for what they write."""
  with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    for block in example.parsed:
      block.evaluate()


pytest_collect_file = Sybil([find_page], patterns=["README.md", "docs/*.md"]).pytest()
