"""The word that was probably meant."""

import difflib
from collections.abc import Collection


def hint(word: str, words: Collection[str]) -> str:
  """The nearest of some words as a question, else, if they aren't many, all there are."""
  close = difflib.get_close_matches(word[:100], words, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"there are: {', '.join(list(words)[:40])}{', ...' if len(words) > 40 else ''}"
