"""`fbackprop lecture`: write the lecture as a folder of pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from fbackprop.cli import console


@dataclass(frozen=True)
class LectureConfig:
  """Write the lecture: twelve chapters with pictures to play with, and a network to train.

  fbackprop lecture --out lecture --language ko

  Attributes:
    out: Folder of the pages, created if it isn't there; open its index.html in any browser.
    language: Language of the pages.
  """

  out: Annotated[str, arg(metavar="DIR")]
  language: Literal["en", "ko"] = "en"


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
  folder = Path(config.out)
  with console.failing(f"--out {config.out} can't be made"):
    folder.mkdir(parents=True, exist_ok=True)

  from fbackprop.lecture.book import INDEX, lecture_pages

  pages = lecture_pages(config.language)
  for name, text in pages.items():
    console.write("--out", str(folder / name), text.encode())
  print(f"open {folder / INDEX} in a browser")
  return 0
