"""Mixed columns as numbers: missing ones filled and marked, words one-hot, by scikit-learn.

Method: a `ColumnTransformer` is fitted on the training set. Missing numbers get the median of their
column (`SimpleImputer`), and a column that has any gets an indicator beside it; a word gets a
column of 0 and 1 (`OneHotEncoder`), and so does a missing one. A word that the training set hasn't
is 0 in all of them (`handle_unknown="ignore"`).

What it has learnt is a few numbers and words, which are kept as JSON beside the parameters: nothing
is pickled. From them it is built again, by fitting it to two rows that teach it just these, and it
must then say the same of itself.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.columns import FORMS, MOST_WORDS, Column
from fbackprop.train.data.rows import LARGEST, WIDEST

KINDS = ("number", "date", "word")


class State(NamedTuple):
  """What a transformer has learnt of a column.

  Attributes:
    column: the column.
    fill: the number for missing ones; 0 for words.
    is_marked: whether an indicator says which numbers are missing.
    words: the words, in the order of their columns; "" is the missing one.
  """

  column: Column
  fill: float = 0.0
  is_marked: bool = False
  words: tuple[str, ...] = ()


class Encoding:
  """A fitted transformer from raw columns to the numbers that a network takes.

  Attributes:
    states: what it has learnt of each raw column.
  """

  def __init__(self, states: Sequence[State]) -> None:
    self.states = tuple(states)

  @property
  def columns(self) -> tuple[Column, ...]:
    """The raw columns."""
    return tuple(state.column for state in self.states)

  @property
  def raw_names(self) -> tuple[str, ...]:
    """The names of the raw columns."""
    return tuple(column.name for column in self.columns)

  @cached_property
  def names(self) -> tuple[str, ...]:
    """The names of the encoded columns: "age", "age is missing", "color=red"."""
    numbers = [state for state in self.states if state.column.kind != "word"]
    marks = [f"{state.column.name} is missing" for state in numbers if state.is_marked]
    words = [
      f"{state.column.name}={word}" if word else f"{state.column.name} is missing"
      for state in self.states
      for word in state.words
    ]
    return (*(state.column.name for state in numbers), *marks, *words)

  @property
  def is_number(self) -> np.ndarray:
    """Which encoded columns are numbers of the data, and not 0 and 1."""
    return np.arange(len(self.names)) < len([s for s in self.states if s.column.kind != "word"])

  @cached_property
  def transformer(self) -> Any:
    """The transformer; the first use imports scikit-learn.

    Raises:
      ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
      ValueError: this version of scikit-learn learns something else.
    """
    # Each number twice, so that the median is that number; one row of them missing where marked.
    rows = np.empty((3, len(self.states)), object)
    for j, state in enumerate(self.states):
      is_word = state.column.kind == "word"
      own = state.words[0] if is_word else state.fill
      rows[:, j] = [own, own, np.nan if state.is_marked else own]
    own = fitted(self.columns, rows, [s.words for s in self.states if s.column.kind == "word"])
    if (found := states_of(self.columns, own)) != self.states:
      wrong = next(a for a, b in zip(self.states, found, strict=True) if a != b)
      raise ValueError(f"scikit-learn doesn't encode the column {wrong.column.name!r} as then")
    return own

  def encode(self, x: np.ndarray) -> np.ndarray:
    """Encode raw rows `[N, D]`, see `fbackprop.train.data.columns`; return float64 `[N, W]`."""
    if not len(x):
      return np.empty((0, len(self.names)))
    return np.asarray(self.transformer.transform(np.asarray(x, object)), np.float64)

  def surprises(self, x: np.ndarray) -> list[str]:
    """Describe what raw rows have and the training set hadn't: missing numbers, and words."""
    notes = []
    for state, values in zip(self.states, np.asarray(x, object).T, strict=True):
      name = state.column.name
      if state.column.kind == "word":
        new = [value for value in values.tolist() if value not in state.words]
        if new:
          some = ", ".join(repr(word) if word else "missing" for word in sorted(set(new))[:5])
          more = ", ..." if len(set(new)) > 5 else ""
          which = f"{len(new):,} of {len(values):,} words aren't in the training set ({some}{more})"
          notes.append(f"column {name!r}: {which}: encoded as none of its words")
      elif not state.is_marked and (count := int(np.isnan(values.astype(np.float64)).sum())):
        none = f"and none was in the training set: filled with the median, {state.fill:g}"
        notes.append(f"column {name!r}: {count:,} of {len(values):,} are missing, {none}")
    return notes

  def as_json(self) -> list[dict[str, Any]]:
    """Return the states in JSON types."""
    return [
      {**state.column._asdict(), "fill": state.fill, "is_marked": state.is_marked,
       "words": list(state.words)}
      for state in self.states
    ]  # fmt: skip


def fit(columns: Sequence[Column], x: np.ndarray) -> Encoding:
  """Fit an encoding to raw rows of the training set, `[N, D]`."""
  return Encoding(states_of(columns, fitted(columns, np.asarray(x, object))))


def fitted(
  columns: Sequence[Column], x: np.ndarray, words: Sequence[Sequence[str]] | None = None
) -> Any:
  """Fit scikit-learn's transformer; `words` are those of each column of words, if known."""
  compose = need("sklearn.compose", extra="data")
  imputers, encoders = (
    need(f"sklearn.{part}", extra="data") for part in ("impute", "preprocessing")
  )
  is_word = [column.kind == "word" for column in columns]
  categories = "auto" if words is None else [np.array(own, object) for own in words]
  numbers = imputers.SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
  one_hot = encoders.OneHotEncoder(
    categories=categories, handle_unknown="ignore", sparse_output=False, dtype=np.float64
  )
  parts = (("numbers", numbers, False), ("words", one_hot, True))
  return compose.ColumnTransformer(
    [(name, own, [j for j, is_one in enumerate(is_word) if is_one == wanted])
     for name, own, wanted in parts if wanted in is_word],
    sparse_threshold=0.0,
  ).fit(x)  # fmt: skip


def states_of(columns: Sequence[Column], transformer: Any) -> tuple[State, ...]:
  """Read what a fitted transformer has learnt."""
  own = transformer.named_transformers_
  numbers = [j for j, column in enumerate(columns) if column.kind != "word"]
  states = [State(column) for column in columns]
  if numbers:
    imputer = own["numbers"]
    marked = imputer.indicator_.features_.tolist()
    for place, j in enumerate(numbers):
      fill = float(imputer.statistics_[place])
      states[j] = states[j]._replace(fill=fill, is_marked=place in marked)
  words = [j for j, column in enumerate(columns) if column.kind == "word"]
  for j, found in zip(words, own["words"].categories_ if words else (), strict=True):
    states[j] = states[j]._replace(words=tuple(map(str, found)))
  return tuple(states)


def read_encoding(content: Any, width: int) -> Encoding | None:
  """Read and validate an encoding of so many columns in JSON; the file is untrusted input.

  Raises:
    ValueError, TypeError, KeyError: it is invalid.
  """
  if content is None:
    return None
  if not isinstance(content, list) or not 1 <= len(content) <= WIDEST:
    raise ValueError(f"encoding must be a list of columns, got {content!r:.100}")
  encoding = Encoding(list(map(read_state, content)))
  if len(set(encoding.raw_names)) < len(encoding.states):
    raise ValueError("two columns of the encoding have one name")
  if len(encoding.names) != width:
    raise ValueError(f"encoding gives {len(encoding.names)} columns, and the network takes {width}")
  return encoding


def read_state(own: Any) -> State:
  """Read and validate what is kept of a column."""
  column = Column(*(str(own[key]) for key in ("name", "kind", "form")))  # type: ignore[arg-type]
  fill, words, is_marked = own["fill"], own["words"], own["is_marked"]
  is_word = column.kind == "word"
  is_form = column.form in (FORMS if column.kind == "date" else ("",))
  is_fill = type(fill) in (int, float) and abs(fill) <= LARGEST and type(is_marked) is bool
  is_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
  is_words = is_words and len(set(words)) == len(words) <= MOST_WORDS and bool(words) == is_word
  if column.kind not in KINDS or not (is_form and is_fill and is_words) or (is_word and is_marked):
    raise ValueError(f"no column is encoded as {own!r:.100}")
  return State(column, float(fill), is_marked, tuple(words))
