"""Fingerprints of a run's rows: they tell whether a table has changed, and where.

The hash is of the meaning of the rows: columns as float64, −0 as 0, labels by the names of their
classes, where 1 and 1.0 are the same. So a file may be rewritten, compressed or stored in another
dtype that holds the same numbers.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fbackprop.train.data.rows import Dataset, listed
from fbackprop.train.data.splits import Split
from fbackprop.train.data.targets import class_key

# Largest number of blocks, each with a fingerprint; up to as many rows a block is a single row.
MOST_BLOCKS = 1024


def fingerprint_of(dataset: Dataset, rows: Split | None = None) -> dict[str, Any]:
  """Compute SHA-256 fingerprints of raw rows and of their split, in JSON types.

  Args:
    dataset: all rows, before the split.
    rows: the training and the test rows; None for the source's own parts.

  Returns:
    "rows", their number; "columns", the fingerprint of each column by its name; "unordered", that
    of the rows in any order; "block" and "blocks", the size of a block and the fingerprints of all
    blocks in order; "sha256", that of all columns; "split", that of the two lists of rows.
  """
  parts = [(dataset.x, dataset.targets), (dataset.x_test, dataset.targets_test)]
  parts = parts[: 1 + (len(dataset.x_test) > 0)]
  first, n = len(dataset.x), len(dataset.x) + len(dataset.x_test)
  targets = np.concatenate([y for _, y in parts])

  def columns_of() -> Iterator[tuple[str, np.ndarray]]:
    for j, name in enumerate(dataset.features):
      yield name, bits_of(np.concatenate([x[:, j] for x, _ in parts]))
    if dataset.is_classification:
      names = [hashlib.sha256(canonical(c).encode()).digest()[:8] for c in dataset.output_names]
      yield dataset.label, np.frombuffer(b"".join(names), "<u8")[targets]
    else:
      yield from zip(dataset.output_names, map(bits_of, targets.T), strict=True)

  columns: dict[str, str] = {}
  of_rows = np.zeros(n, np.uint64)
  for name, bits in columns_of():
    columns[name], of_rows = digest(bits), mixed(of_rows, bits)
  if dataset.weights is not None:
    columns["sample_weights"] = digest(bits_of(dataset.weights))
  train, test = (np.arange(first), np.arange(first, n)) if rows is None else rows
  block = 1 << max(0, (max(n, 1) - 1).bit_length() - MOST_BLOCKS.bit_length() + 1)
  blocks = [digest(of_rows[start : start + block])[:8] for start in range(0, n, block)]
  whole = [dataset.task, n, *columns.items()]
  split = train.astype("<i8").tobytes() + b"|" + test.astype("<i8").tobytes()
  return {
    "rows": n,
    "columns": columns,
    "unordered": digest(np.sort(of_rows)),
    "block": block,
    "blocks": " ".join(blocks),
    "sha256": hashlib.sha256(repr(whole).encode()).hexdigest(),
    "split": hashlib.sha256(split).hexdigest(),
  }


def canonical(name: str) -> str:
  """Return the canonical name of a class; equal numbers have the same."""
  key = class_key(name)
  return name if isinstance(key, str) else f"{key.normalize():e}"


def bits_of(values: np.ndarray) -> np.ndarray:
  """Return the bits of numbers in float64, and for words those of their hashes."""
  if values.dtype == object and any(isinstance(value, str) for value in values[:1]):
    known = {word: hashlib.sha256(word.encode()).digest()[:8] for word in set(values.tolist())}
    return np.frombuffer(b"".join(known[word] for word in values.tolist()), "<u8")
  return (values.astype("<f8") + 0.0).view("<u8")


def mixed(of_rows: np.ndarray, bits: np.ndarray) -> np.ndarray:
  """Mix a column into the hashes of rows, by the finaliser of SplitMix64 (Steele et al., 2014)."""
  z = of_rows * np.uint64(0x9E3779B97F4A7C15) + bits + np.uint64(1)
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return np.asarray(z ^ (z >> np.uint64(31)))


def digest(bits: np.ndarray) -> str:
  """Compute a short SHA-256 fingerprint of integers: its first 16 digits."""
  return hashlib.sha256(bits.astype("<u8").tobytes()).hexdigest()[:16]


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
  """Describe how rows differ from earlier ones; "" if they are equal.

  Args:
    then: the fingerprint of the run's rows.
    now: the fingerprint of the current rows.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: `then` isn't a fingerprint.
  """
  if (then["sha256"], then["split"]) == (now["sha256"], now["split"]):
    return ""
  old, new = dict(then["columns"]), dict(now["columns"])
  changes = []
  if list(old) != list(new):
    gone, come = ([repr(name) for name in a if name not in b] for a, b in ((old, new), (new, old)))
    sides = (("without column", gone), ("with column", come))
    changes = [f"{word} {listed(names, 5)}" for word, names in sides if names]
    changes = changes or ["the columns in another order"]
  # As far as the fingerprints show it, rows are compared by their blocks.
  block, before, after = now["block"], then["blocks"].split(), now["blocks"].split()
  if then["rows"] != now["rows"]:
    shared = min(int(then["rows"]), now["rows"]) // block
    is_same = shared and then["block"] == block and before[:shared] == after[:shared]
    beginning = f" (the first {shared * block:,} are the same)" if is_same else ""
    changes.append(f"rows {int(then['rows']):,} → {now['rows']:,}{beginning}")
  elif then["unordered"] == now["unordered"] and before != after:
    changes.append("the same rows in another order")
  elif other := [repr(name) for name in old if name in new and old[name] != new[name]]:
    columns, verb = ("column", "differs") if len(other) == 1 else ("columns", "differ")
    change = f"{columns} {listed(other, 5)} {verb}"
    is_other = [a != b for a, b in zip(before, after, strict=True)]
    if any(is_other):
      first = is_other.index(True) * block + 1
      last = min(first + block - 1, now["rows"])
      place = f"at row {first:,}" if first == last else f"in rows {first:,} to {last:,}"
      change += f", first {place}"
    changes.append(change)
  if not changes and then["sha256"] != now["sha256"]:
    changes.append("the targets are taken for another task")
  return "; ".join(changes) or (
    "the same rows, and another split of them, as another version of scikit-learn may make"
  )


def shared_rows(then: dict[str, Any], now: dict[str, Any]) -> int | None:
  """Count the rows that also occur in the earlier data; None if unknown.

  Raises the errors of `difference`.
  """
  if then["unordered"] == now["unordered"]:
    return int(now["rows"])
  if (then["block"], now["block"]) != (1, 1):
    return None
  known = set(then["blocks"].split())
  return sum(row in known for row in now["blocks"].split())
