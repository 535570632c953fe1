#!/usr/bin/env bash
# tyro 1.0.17.
#
# The help of tyro has boxes only if the encoding of stdout is spelled "utf-8". A stream whose encoding is
# "UTF-8", the same encoding, as that of pytest's capture, gets another layout without boxes, whose lines
# break at other places. A test that captures the help so never sees what a terminal shows.
#
# Seen:
#   utf-8 box
#   UTF-8 no box
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install tyro==1.0.17
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import dataclasses
import io

import tyro


@dataclasses.dataclass
class Options:
  steps: int = 1


has_box = {}
for name in ("utf-8", "UTF-8"):
  stream = io.TextIOWrapper(io.BytesIO(), encoding=name)
  with contextlib.redirect_stdout(stream), contextlib.suppress(SystemExit):
    tyro.cli(Options, args=["--help"])
  stream.flush()
  has_box[name] = "\u2502" in stream.buffer.getvalue().decode()
  print(name, "box" if has_box[name] else "no box")
assert has_box == {"utf-8": True, "UTF-8": False}, f"boxes by the encoding's name: {has_box} now"
PYTHON
