"""Suggestions for misspelt words."""

import difflib
from collections.abc import Collection


def hint(word: str, words: Collection[str]) -> str:
  """Suggest the closest of some words; without a close one list them, if they aren't many."""
  close = difflib.get_close_matches(word[:100], words, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"there are: {', '.join(list(words)[:40])}{', ...' if len(words) > 40 else ''}"
