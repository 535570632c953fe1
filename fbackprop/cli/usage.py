"""The user asked for something that can't be: exit code 2."""

import difflib
from collections.abc import Collection


class UsageError(Exception):
  """A flag, a key or a file that doesn't fit; the message names it."""


def hint(word: str, words: Collection[str]) -> str:
  """The word that was probably meant, else all there are."""
  close = difflib.get_close_matches(word, words, n=1)
  return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(words)}"
