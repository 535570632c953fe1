"""The experiments with backward rules: each runs in small, goes on where it stopped, and draws."""

import json

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from experiments import depth, published_mnist1d, rules_by_depth, wrong_backward
from experiments.common import ROOT
from experiments.rule_training import LOSS, RULES, spread

pytestmark = pytest.mark.slow


SCRIPTS = [depth, published_mnist1d, rules_by_depth, wrong_backward]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.rpartition(".")[2])
@pytest.mark.usefixtures("as_a_user_has_it")
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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.rpartition(".")[2])
def test_the_page_holds_the_committed_results(script):
  name = script.__name__.rpartition(".")[2]
  results = json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text())
  assert results["settings"] == json.loads(json.dumps(script.FULL))
  page = (ROOT / "docs" / "rules.md").read_text().splitlines()
  assert not [line for line in script.table(results).splitlines() if line not in page]


CELLS = {
  "backpropagation": "rules_by_depth/mnist1d/4/backprop",
  "`feedback_alignment`": "rules_by_depth/mnist1d/4/feedback_alignment",
  "`direct_feedback_alignment`": "rules_by_depth/mnist1d/4/direct_feedback_alignment",
  "`sign_symmetry`": "rules_by_depth/mnist1d/4/sign, uniform",
  "`kolen_pollack`": "rules_by_depth/mnist1d/4/kolen_pollack",
  "`drtp`": "rules_by_depth/mnist1d/4/drtp",
  "`difference_target_propagation`": "rules_by_depth/mnist1d/4/target propagation",
  "`predictive_coding`": "rules_by_depth/mnist1d/4/predictive coding",
  "`noisy`": "wrong_backward/mnist1d/noisy/0.3",
  "`top_k`": "wrong_backward/mnist1d/top_k/8",
  "`quantized`": "wrong_backward/mnist1d/quantized/3",
  "`clipped`": "wrong_backward/mnist1d/clipped/0.1",
}


@pytest.mark.parametrize("rule", CELLS)
def test_the_table_of_rules_has_each_result(rule):
  name, _, cell = CELLS[rule].partition("/")
  results = json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text())
  page = (ROOT / "docs" / "rules.md").read_text().splitlines()
  row = next(line for line in page if line.startswith(f"| {rule} |"))
  assert f"| {spread(results['seeds'][cell]['test'])} |" in row


@pytest.mark.parametrize("hidden", rules_by_depth.FULL["depths"])
def test_predictive_coding_is_near_its_equilibrium(hidden):
  """By the first layer, which the error reaches last, beside many steps without momentum."""
  net = fb.mlp([40, *[64] * hidden, 10], fb.tanh)
  longer = fb.rules.predictive_coding(net, steps=40 * hidden**2, rate=0.2, precision=0.1)
  x, labels = jax.random.normal(jax.random.key(5), (50, 40)), jnp.arange(50) % 10
  params = longer.init(jax.random.key(0))
  own, most = (
    float(jnp.linalg.norm(jax.jit(fb.value_and_grad(rule, LOSS))(params, x, labels)[1].params[0].w))
    for rule in (RULES["predictive coding"](net), longer)
  )
  assert 0.9 < own / most < 1.05


def test_an_angle_that_there_is_none_of_is_not_drawn():
  cell = {"measured": {"first": [None, 30.0]}}
  assert wrong_backward.angles_of(cell) == [30.0]
  assert wrong_backward.angles_of({"measured": {"first": [None]}}) == []
  assert wrong_backward.angles_of({"measured": ()}) == [0.0]


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
