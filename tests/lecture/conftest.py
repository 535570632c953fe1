"""The lecture's pages, built once for each process: they take seconds."""

import pytest

from fbackprop.lecture.book import lecture_pages


@pytest.fixture(scope="session")
def books():
  """For each language the texts of the pages by their names, with links between the languages."""
  return {language: lecture_pages(language, has_other=True) for language in ("en", "ko")}


@pytest.fixture(scope="session")
def folders(books, tmp_path_factory):
  """The folders of both languages."""
  root = tmp_path_factory.mktemp("lecture")
  for language, book in books.items():
    (root / language).mkdir()
    for name, text in book.items():
      (root / language / name).write_text(text, "utf-8")
  return {language: root / language for language in books}
