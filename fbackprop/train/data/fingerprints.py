"""Fingerprints of the examples of a run: whether a table is another one, and what has changed.

The canonical form of examples is that of their meaning: each column as float64, -0 as 0, a label by
the name of its class, in which 1 and 1.0 are the same. So a file may be written anew, compressed or
in another dtype that holds the same numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.train.data.rows import Examples
from fbackprop.train.data.targets import class_key

# Fingerprints of rows are kept by blocks, of one row each up to so many rows.
MOST_BLOCKS = 1024


def fingerprint_of(
  examples: Examples, rows: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Any]:
  """What tells examples and their split from others, as JSON can hold it.

  Args:
    examples: all of them.
    rows: those to train on and those to test on; None for the source's own parts.

  Returns:
    "rows", how many; "columns", the fingerprint of each by its name; "unordered", that of the rows
    in any order; "block" and "blocks", those of so many rows each, in order; "sha256", of all
    columns; "split", of the two lists of rows.
  """
  parts = [(examples.x, examples.targets)]
  if examples.test is not None:
    parts.append(examples.test)
  counts = [len(x) for x, _ in parts]
  n = sum(counts)
  columns: dict[str, str] = {}
  of_rows = np.zeros(n, np.uint64)
  for j, name in enumerate(examples.features):
    bits = bits_of(np.concatenate([x[:, j] for x, _ in parts]))
    columns[name], of_rows = digest_of(bits), mixed(of_rows, bits)
  targets = np.concatenate([y for _, y in parts])
  if examples.task == "classification":
    names = [hashlib.sha256(canonical(name).encode()).digest()[:8] for name in examples.outputs]
    each = np.frombuffer(b"".join(names), "<u8")[targets]
    columns[examples.label], of_rows = digest_of(each), mixed(of_rows, each)
  else:
    for name, values in zip(examples.outputs, targets.T, strict=True):
      bits = bits_of(values)
      columns[name], of_rows = digest_of(bits), mixed(of_rows, bits)
  if examples.weights is not None:
    columns["sample_weights"] = digest_of(bits_of(examples.weights))
  if rows is None:
    rows = np.arange(counts[0]), np.arange(counts[0], n)
  block = 1 << max(0, (max(n, 1) - 1).bit_length() - MOST_BLOCKS.bit_length() + 1)
  blocks = [digest_of(of_rows[start : start + block])[:8] for start in range(0, n, block)]
  whole = [examples.task, n, *columns.items()]
  return {
    "rows": n,
    "columns": columns,
    "unordered": digest_of(np.sort(of_rows)),
    "block": block,
    "blocks": " ".join(blocks),
    "sha256": hashlib.sha256(repr(whole).encode()).hexdigest(),
    "split": hashlib.sha256(b"|".join(part.astype("<i8").tobytes() for part in rows)).hexdigest(),
  }


def canonical(name: str) -> str:
  """The name of a class, one for equal numbers."""
  key = class_key(name)
  return name if isinstance(key, str) else f"{key.normalize():e}"


def bits_of(values: np.ndarray) -> np.ndarray:
  """Numbers by the bits that they have as float64."""
  return (values.astype("<f8") + 0.0).view("<u8")


def mixed(of_rows: np.ndarray, bits: np.ndarray) -> np.ndarray:
  """The fingerprints of rows with one more column: the end of SplitMix64 (Steele et al., 2014)."""
  z = of_rows * np.uint64(0x9E3779B97F4A7C15) + bits + np.uint64(1)
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  found: np.ndarray = z ^ (z >> np.uint64(31))
  return found


def digest_of(bits: np.ndarray) -> str:
  """The first 16 digits of the SHA-256 of whole numbers."""
  return hashlib.sha256(bits.astype("<u8").tobytes()).hexdigest()[:16]


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
  """Says how examples differ from those of before; "" if they don't.

  Args:
    then: what `fingerprint_of` said of the run's.
    now: of these.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: `then` is nothing that it could have said.
  """
  if (then["sha256"], then["split"]) == (now["sha256"], now["split"]):
    return ""
  old, new = dict(then["columns"]), dict(now["columns"])
  changes = []
  if list(old) != list(new):
    changes += columns_changed(list(old), list(new))
  if then["rows"] != now["rows"]:
    changes.append(f"rows {int(then['rows']):,} → {now['rows']:,}{same_beginning(then, now)}")
  elif then["unordered"] == now["unordered"] and then["blocks"] != now["blocks"]:
    changes.append("the same rows in another order")
  else:
    other = [name for name in old if name in new and old[name] != new[name]]
    if other:
      verb = "differs" if len(other) == 1 else "differ"
      names = ", ".join(map(repr, other[:5])) + (", ..." if len(other) > 5 else "")
      changes.append(f"column{'s' * (len(other) > 1)} {names} {verb}{first_row(then, now)}")
  if not changes and then["sha256"] != now["sha256"]:
    changes.append("the targets are taken for another task")
  return "; ".join(changes) or (
    "the same rows, and another split of them, as another version of scikit-learn may make"
  )


def columns_changed(old: Sequence[str], new: Sequence[str]) -> list[str]:
  """Says which names are gone and which have come."""
  gone, come = ([name for name in a if name not in set(b)] for a, b in ((old, new), (new, old)))
  if not gone and not come:
    return ["the columns in another order"]
  return [
    f"{word} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
    for word, names in (("without column", gone), ("with column", come))
    if names
  ]


def same_beginning(then: dict[str, Any], now: dict[str, Any]) -> str:
  """Says whether the first rows are those of before, where the fingerprints can tell."""
  old, new = then["blocks"].split(), now["blocks"].split()
  shared = min(int(then["rows"]), now["rows"]) // now["block"]
  is_same = then["block"] == now["block"] and old[:shared] == new[:shared]
  return f" (the first {shared * now['block']:,} are the same)" if is_same and shared else ""


def first_row(then: dict[str, Any], now: dict[str, Any]) -> str:
  """Says where the first row that differs stands, counted from 1."""
  block, pairs = now["block"], zip(then["blocks"].split(), now["blocks"].split(), strict=True)
  where = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
  if where is None:
    return ""
  first, last = where * block + 1, min((where + 1) * block, now["rows"])
  return f", first at row {first:,}" if first == last else f", first in rows {first:,} to {last:,}"


def shared_rows(then: dict[str, Any], now: dict[str, Any]) -> int | None:
  """How many of the rows are among those of before; None where that can't be told.

  Errors are those of `difference`.
  """
  if then["unordered"] == now["unordered"]:
    return int(now["rows"])
  if (then["block"], now["block"]) != (1, 1):
    return None
  known = set(then["blocks"].split())
  return sum(row in known for row in now["blocks"].split())
