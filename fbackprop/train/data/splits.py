"""Random splits of rows into two parts, stratified by label, as scikit-learn's `train_test_split`.

They are the same splits, so that a run is the same whether or not scikit-learn is installed, and
without its import, which takes longer than many a training. The classes are divided in proportion,
the remainders rounded up where they are largest, with ties drawn at random.
"""

import math

import numpy as np

# The rows of the training part and those of the other part.
Split = tuple[np.ndarray, np.ndarray]


def stratified(n: int, other: float, labels: np.ndarray | None, seed: int) -> Split:
  """Split n rows, stratified by label, as `sklearn.model_selection.train_test_split` does.

  Args:
    n: number of rows.
    other: fraction, or as an integer the number, of the rows of the other part.
    labels: the labels, `[N]`; None for other targets.
    seed: random seed, 0 to 2³² − 1.

  Raises:
    ValueError: a part has fewer rows than there are classes, or a class has a single row.
  """
  second = other if isinstance(other, int) else math.ceil(other * n)
  first, rng = n - second, np.random.RandomState(seed)  # Of scikit-learn, whose numbers these are.
  codes = np.zeros(n, int) if labels is None else np.unique(labels, return_inverse=True)[1]
  counts = np.bincount(codes)
  if min(first, second) < len(counts) or (labels is not None and counts.min() < 2):
    parts = f"{n} rows of {len(counts)} classes into {first} and {second}"
    raise ValueError(f"cannot split {parts}: each class needs a row in each part")
  if labels is None:
    order = rng.permutation(n)
    return order[second:], order[:second]
  by_class = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
  of_first = shares_of(counts, first, rng)
  of_second = shares_of(counts - of_first, second, rng)
  parts_of_first, parts_of_second = [], []
  for rows, a, b in zip(by_class, of_first, of_second, strict=True):
    shuffled = rows[rng.permutation(len(rows))]
    parts_of_first.append(shuffled[:a])
    parts_of_second.append(shuffled[a : a + b])
  one, two = map(np.concatenate, (parts_of_first, parts_of_second))
  return rng.permutation(one), rng.permutation(two)


def shares_of(counts: np.ndarray, total: int, rng: np.random.RandomState) -> np.ndarray:
  """Divide `total` rows over classes in proportion to their counts, `[classes]`.

  It is the approximate mode of the multivariate hypergeometric distribution, as scikit-learn takes
  it: the largest remainders are rounded up, and ties are drawn.
  """
  exact = counts / counts.sum() * total
  shares = np.floor(exact)
  missing, remainder = int(total - shares.sum()), exact - shares
  for value in np.unique(remainder)[::-1]:
    if missing <= 0:
      break
    tied = np.flatnonzero(remainder == value)
    chosen = rng.choice(tied, size=min(len(tied), missing), replace=False)
    shares[chosen] += 1
    missing -= len(chosen)
  return shares.astype(int)
