"""docs/world.md, generated from the results of scripts/verify_world.py."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from scripts.campaigns.trust_page import table, wrapped
from scripts.campaigns.world.rule import Rule


def page(found: dict[str, Any], rules: Sequence[Rule]) -> str:
  """Return the page."""
  return "TODO\n"
