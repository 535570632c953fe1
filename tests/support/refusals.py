"""What is refused: tests from tables, and the commands that are refused."""

import pytest

from fbackprop.cli import main


def refusals(call, rows, *errors):
  """Generate the test that `call(wrong)` raises, for each row `(wrong, error, message)`.

  Rows are `(wrong, message)` where all have the same errors, which are given then.
  """
  rows = [(row[0], errors, row[1]) if errors else row for row in rows]

  @pytest.mark.parametrize(("wrong", "error", "message"), rows)
  def test(wrong, error, message):
    with pytest.raises(error, match=message):
      call(wrong)

  return test


def refused(capsys, *arguments):
  """Return what is on stderr when a command is refused with code 2, by us or by tyro."""
  capsys.readouterr()  # What was said before.
  try:
    code = main([str(argument) for argument in arguments])
  except SystemExit as ended:
    code = ended.code
  assert code == 2
  said = capsys.readouterr()
  assert said.out == ""
  return said.err
