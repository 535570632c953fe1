"""The notebooks are executed, small, and show what they print."""

import json
import re
from pathlib import Path

import pytest

from fbackprop.circuit import parse
from scripts import notebooks

NOTEBOOKS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def test_there_are_three():
  names = [path.stem for path in NOTEBOOKS]
  assert names == ["lecture", "per_example_gradients", "verify_your_rule"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_with_its_outputs_and_small(path):
  assert path.stat().st_size < 200_000
  content = json.loads(path.read_text("utf-8"))
  code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
  assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
  printing = [cell for cell in code if "print(" in "".join(cell["source"])]
  assert printing
  assert all(cell["outputs"] for cell in printing)
  assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
  text = path.read_text("utf-8")
  assert not re.search(r"/(home|root|tmp|Users)/", text)


def test_the_lecture_has_the_cell_to_play():
  content = json.loads((notebooks.FOLDER / "lecture.ipynb").read_text("utf-8"))
  [cell] = [cell for cell in content["cells"] if "".join(cell["source"]) == "trace.show()"]
  [output] = cell["outputs"]
  trace = parse("a = x+y; b = max(y,z); f = a*b").trace(x=1.0, y=2.0, z=0.0)
  # Otherwise the next command is: python scripts/notebooks.py
  assert "".join(output["data"]["text/html"]) == trace.show().html


def test_pieces_of_a_stream_are_one_output():
  nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of fbackprop[docs]")
  new = nbformat.v4
  one = new.new_code_cell("", outputs=[new.new_output("stream", text="ab")])
  two = new.new_code_cell("", outputs=[new.new_output("stream", text=each) for each in "ab"])
  books = [new.new_notebook(cells=[cell]) for cell in (one, two)]
  assert notebooks.outputs_of(books[0]) == notebooks.outputs_of(books[1]) == [("ab", [])]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_prints_what_it_shows(path):
  for package in ("ipykernel", "nbclient"):
    pytest.importorskip(package, reason=f"needs {package}, of fbackprop[docs]")
  nbformat = pytest.importorskip("nbformat")
  committed = nbformat.read(Path(path), as_version=4)
  assert notebooks.outputs_of(notebooks.run(path)) == notebooks.outputs_of(committed)
