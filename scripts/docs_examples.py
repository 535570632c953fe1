"""Shows the examples of docstrings as code on the site: an extension of griffe, which reads them.

Griffe knows the section `Examples:` alone; ours are called `Example:`.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
  """Renames a docstring's section."""

  def on_object(self, *, obj: Any, **_: Any) -> None:
    """Change the docstring of an object that was read."""
    if obj.docstring:
      obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
