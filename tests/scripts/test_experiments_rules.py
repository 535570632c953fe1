"""The experiments with backward rules: each runs in small, goes on where it stopped, and draws."""

import json

import pytest

from experiments import depth, published_mnist1d, rules_by_depth, wrong_backward

pytestmark = pytest.mark.slow

SCRIPTS = [depth, published_mnist1d, rules_by_depth, wrong_backward]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.rpartition(".")[2])
def test_the_small_run(script, tmp_path, capsys):
  file, figure = tmp_path / "results.json", tmp_path / "figure.png"
  arguments = ["--quick", "--results", str(file), "--figure", str(figure)]
  script.main(arguments)
  first = capsys.readouterr().out
  results = json.loads(file.read_text())
  assert results["settings"] == json.loads(json.dumps(script.QUICK))
  assert first.count(": done") == len(results["seeds"]) > 1
  assert figure.read_bytes().startswith(b"\x89PNG")
  # One cell is measured again, to the same numbers; the others aren't.
  name = next(iter(results["seeds"]))
  cell = results["seeds"].pop(name)
  file.write_text(json.dumps(results))
  script.main(arguments)
  assert capsys.readouterr().out.count(": done") == 1
  assert json.loads(file.read_text())["seeds"][name] == cell


def test_theory_knows_the_slope_of_cotangents():
  """By χ alone, of a network that isn't very wide: to 5 % of the logarithm per layer."""
  settings = {**depth.QUICK, "width": 200, "depth": 20, "seeds": 4}
  for cell in ("tanh/0.7", "relu/1.0", "identity/1.2"):
    found = depth.measure(cell, settings)
    mean = sum(found["slopes"]) / len(found["slopes"])
    assert abs(mean - found["theory"]) < 0.05, cell


def test_a_small_run_does_not_overwrite_the_results(capsys):
  with pytest.raises(SystemExit):
    rules_by_depth.main(["--quick"])
  assert "--quick needs --results" in capsys.readouterr().err
