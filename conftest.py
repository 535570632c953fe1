"""Runs the Python blocks of the README and of docs/, `pytest README.md docs`; caches compilations.

A page is one test, a program that is read from top to bottom: its blocks share their names. As a
test for each block pytest-xdist would hand them to different processes. A block with prompts must
print what it shows; one without must run.
"""

import contextlib
import doctest
import functools
import tempfile
from collections.abc import Iterator

import jax
import pytest
from jax._src.interpreters import mlir
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# The guide runs every law, and one of them needs two devices; jax must know before it starts.
jax.config.update("jax_num_cpu_devices", 2)

# JAX 0.10 makes a context of MLIR for each program that it lowers: a third of the time of a small
# one, and a megabyte. Later lines use one several times, and here it is one for all.
if jax.__version_info__ < (0, 12):
  mlir.make_ir_context = functools.cache(mlir.make_ir_context)

find_blocks = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)


def pytest_configure(config: pytest.Config) -> None:
  """Cache compilations in pytest's cache: they take most of the time, small ones as well.

  Before the tests are collected: two hundred modules draw their arrays as they are imported.
  """
  cache = getattr(config, "cache", None)  # None with `-p no:cacheprovider`.
  if cache is not None:
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  # A program is compiled anew whose file in the cache another process is still writing.
  said = "default:Error reading persistent compilation cache entry"
  config.addinivalue_line("filterwarnings", said)


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
