"""`fbackprop lecture`: write the lecture as a folder of pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from fbackprop.cli import console

if TYPE_CHECKING:
  from fbackprop.circuit.live.page import Language


@dataclass(frozen=True)
class LectureConfig:
  """Write the lecture: twelve chapters with pictures to play with, and a network to train.

  fbackprop lecture --out lecture --language ko

  Attributes:
    out: Folder of the pages, created if it isn't there; open its index.html in any browser.
    language: Language of the pages; both are written into the folders en and ko, with links between
      them.
  """

  out: Annotated[str, arg(metavar="DIR")]
  language: Literal["en", "ko", "both"] = "en"


def main(arguments: Sequence[str]) -> int:
  """Write the lecture's pages.

  Args:
    arguments: the arguments after `fbackprop lecture`.

  Returns:
    0.

  Raises:
    UsageError: the folder or a file in it can't be written.
  """
  config = console.parsed(LectureConfig, "lecture", arguments)
  has_both = config.language == "both"
  languages: tuple[Language, ...] = (
    ("en", "ko") if config.language == "both" else (config.language,)
  )
  folders = [Path(config.out, language) if has_both else Path(config.out) for language in languages]
  for folder in folders:
    with console.failing(f"--out {config.out} can't be made"):
      folder.mkdir(parents=True, exist_ok=True)

  from fbackprop.lecture.book import INDEX, lecture_pages

  for language, folder in zip(languages, folders, strict=True):
    for name, text in lecture_pages(language, has_other=has_both).items():
      console.write("--out", str(folder / name), text.encode())
    print(f"open {folder / INDEX} in a browser")
  return 0
