"""Runs the notebooks of docs/notebooks from top to bottom, each in a process of its own.

Their outputs are written into them, and nothing else is. With `--check` nothing is written: the
exit code is 1 if a notebook prints something else than it shows. Needs the extra `docs`.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
ROUNDING = re.compile(r"\b\d(\.\d+)?e-1[5-9]\b")
SECONDS = 600
"""The most seconds for a cell."""


def run(path: Path) -> Any:
  """Run a notebook in an empty folder.

  Args:
    path: the file.

  Returns:
    The notebook with its outputs, without the times at which they came.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell raises; the message shows where.
  """
  import nbclient
  import nbformat

  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    nbclient.NotebookClient(
      notebook, timeout=SECONDS, kernel_name="python3", record_timing=False,
      resources={"metadata": {"path": folder}},
    ).execute()  # fmt: skip
  for cell in notebook.cells:
    cell.metadata.pop("execution", None)
  notebook.metadata["language_info"] = {"name": "python"}  # Without the version of this Python.
  return notebook


def outputs_of(notebook: Any) -> list[tuple[str, list[Any]]]:
  """Return for each cell what it prints, in however many pieces it came, and what it shows.

  Numbers of the size of float64's rounding differ from one JAX to the next, and are left out.
  """
  found = []
  for cell in notebook.cells:
    outputs = cell.get("outputs", ())
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    found.append(
      (ROUNDING.sub("rounding", printed), [output.data for output in outputs if "data" in output])
    )
  return found


def main() -> int:
  """Run the script; return 1 if `--check` finds a different output."""
  import nbformat

  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--check", action="store_true", help="write nothing, compare the outputs")
  options = parser.parse_args()
  differ = []
  for path in sorted(FOLDER.glob("*.ipynb")):
    print(path.name, flush=True)
    notebook = run(path)
    if options.check:
      committed = nbformat.read(path, as_version=4)
      differ += [path.name] if outputs_of(notebook) != outputs_of(committed) else []
    else:
      nbformat.write(notebook, path)
  for name in differ:
    print(f"{name} prints something else; next: python scripts/notebooks.py, and look at it")
  return int(bool(differ))


if __name__ == "__main__":
  sys.exit(main())
