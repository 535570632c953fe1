"""The user asked for something that can't be: exit code 2."""

from fbackprop.hints import hint

__all__ = ["UsageError", "hint"]


class UsageError(Exception):
  """A flag, a key or a file that doesn't fit; the message names it."""
