"""Fonts for raster images: which installed fonts have the glyphs that a text needs.

matplotlib brings DejaVu, which has no Hangul, Han, kana, Thai, ... What it lacks is looked for in
the fonts of the system, and drawn from there, letter by letter. Nothing here draws boxes: what no
font has is returned, and the caller refuses it or spells it.
"""

import logging
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from fbackprop.extras import need

# It has a box for every character of Unicode; those of TeX have signs at the places of letters.
NO_FACES = re.compile(r"Last Resort.*|cm\w+10|STIX.*")
LETTER = re.compile(
  r"(?:HANGUL SYLLABLE|[A-Z]+ (?:SMALL |CAPITAL )?(?:LETTER|SYLLABLE)(?: SMALL)?) ([A-Z]+)"
)


class FontChoice(NamedTuple):
  """Font families for some texts, and the characters that none of them has.

  Attributes:
    families: of fonts, for matplotlib's `family`: the one asked for, and those that it needs.
    missing: the characters that no installed font has, in order of appearance.
  """

  families: tuple[str, ...]
  missing: tuple[str, ...]

  def spell(self, text: str) -> str:
    """Replace each missing character by its romanisation or code point: 한中 is "hanU+4E2D"."""
    return "".join(spelled(c) if c in self.missing else c for c in text)


def choose_fonts(
  texts: Sequence[str], families: Sequence[str], *, weight: str = "normal", style: str = "normal"
) -> FontChoice:
  """Find installed fonts with glyphs for all characters of some texts.

  Args:
    texts: what will be drawn.
    families: to draw them in, as matplotlib's `font.family`.
    weight: "normal" or "bold".
    style: "normal" or "oblique".

  Returns:
    The `FontChoice`; `families` as given if they have everything. Each other family is there for a
    character that those before it lack.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
  """
  setting = {"weight": weight, "style": style}
  found = list(families)
  characters = list(dict.fromkeys(c for c in "".join(texts) if not c.isspace()))
  with any_weight():
    missing = fill_in(found, without(characters, found, setting), setting)
    if missing:
      look_for_new_fonts()
      missing = fill_in(found, missing, setting)
  return FontChoice(tuple(found), tuple(missing))


@contextmanager
def any_weight() -> Iterator[None]:
  """Silence matplotlib's warning that a family has no bold face, for a `with` block."""
  logger = logging.getLogger("matplotlib.font_manager")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def fill_in(found: list[str], missing: list[str], setting: dict[str, str]) -> list[str]:
  """Add to `found` families for missing characters; return those still missing."""
  while missing:
    left = {family: without(missing, [family], setting) for family in families_with_any_of(missing)}
    # The one that has most; of several such one of fixed width, as DejaVu Sans Mono is.
    best = min(left, key=lambda name: (len(left[name]), "Mono" not in name, name), default=None)
    if best is None or len(left[best]) == len(missing):
      break
    found.append(best)
    missing = left[best]
  return missing


def without(letters: Sequence[str], families: Sequence[str], setting: dict[str, str]) -> list[str]:
  """Return the letters for which none of some families has a glyph."""
  manager = need("matplotlib.font_manager", extra="plot")
  properties = [manager.FontProperties(family=family, **setting) for family in families]
  fonts = [manager.get_font(manager.findfont(wanted)) for wanted in properties]
  return [c for c in letters if not any(font.get_char_index(ord(c)) for font in fonts)]


def families_with_any_of(characters: Sequence[str]) -> set[str]:
  """Return the families of which a font has a glyph for one of the characters."""
  fonts = need("matplotlib.font_manager", extra="plot").fontManager.ttflist
  return {f.name for f in fonts if not NO_FACES.fullmatch(f.name) and has_any(f, characters)}


def has_any(entry: Any, characters: Sequence[str]) -> bool:
  """Return whether a font is scalable and has a glyph for one of the characters."""
  try:
    font = need("matplotlib.font_manager", extra="plot").get_font(entry.fname)
    return font.scalable and any(font.get_char_index(ord(c)) for c in characters)
  except (OSError, RuntimeError):  # Gone since matplotlib made its list, or broken.
    return False


def look_for_new_fonts() -> None:
  """Add fonts installed since matplotlib cached its list to that list."""
  manager = need("matplotlib.font_manager", extra="plot")
  known = {font.fname for font in manager.fontManager.ttflist}
  for path in sorted(set(manager.findSystemFonts()) - known):
    # A broken font is no reason against a picture.
    with suppress(OSError, RuntimeError, ValueError):
      manager.fontManager.addfont(path)


def spelled(character: str) -> str:
  """Romanise a character by its Unicode name, else write its code point."""
  letter = LETTER.fullmatch(unicodedata.name(character, ""))
  return letter[1].lower() if letter else f"U+{ord(character):04X}"


def list_characters(characters: Collection[str]) -> str:
  """List characters as a message names them, a few of many."""
  shown = [f"{c} (U+{ord(c):04X})" for c in characters]
  return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
