"""The example of docs/quantities.md that needs jax-privacy, run as a doctest.

Its block is marked `py`, since the tests run the blocks marked `python`, and jax-privacy isn't
installed there.
"""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "quantities.md"
BLOCK = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_blocks(blocks: list[str], names: dict[str, object] | None = None) -> tuple[int, int]:
  """Run the blocks with shared names; print the differences, and return `(examples, failures)`."""
  names = {} if names is None else names
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
  for i, block in enumerate(blocks):
    test = doctest.DocTestParser().get_doctest(block, names, f"block {i}", str(PAGE), 0)
    runner.run(test, clear_globs=False)
    names = test.globs
  return runner.tries, runner.failures
