"""docs/world.md, generated from the results of scripts/verify_world.py."""

from collections.abc import Sequence
from typing import Any

from scripts.campaigns.world.rule import Rule


def page(found: dict[str, Any], rules: Sequence[Rule]) -> str:
  """Return the page."""
  return "TODO\n"
