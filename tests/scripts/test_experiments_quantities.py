"""`experiments/noise_scale.py`, `experiments/outliers.py`: their parts, and what the page says."""

import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from experiments import common, noise_scale, noise_scale_report, outliers
from experiments.tour import plain_cost
from tests.support.public import assert_short_and_public


@pytest.fixture(autouse=True)
def as_a_reader_has_it():
  """Scripts are written without a thought of ranks and dtypes, which the tests elsewhere need."""
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def double():
  """Parameters and digits in float64, and a gradient for each digit by `jax.grad`, `[N, P]`."""
  with jax.numpy_rank_promotion("allow"), jax.enable_x64(True):
    params = jax.jit(noise_scale.NET.init)(jax.random.key(3))
    params = jax.tree.map(np.float64, jax.device_get(params))
    x, labels = common.load_digits()
    x, labels = np.float64(x[:40]), labels[:40]

    def gradient(x, label):
      return jax.tree.leaves(jax.grad(plain_cost)(params, x[None], label[None]))

    each = jax.jit(jax.vmap(gradient))(x, labels)
    return params, x, labels, np.concatenate([g.reshape(40, -1) for g in each], 1)


# --- noise_scale.py -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_has_the_noise_of_the_examples_gradients(double):
  params, x, labels, each = double
  with jax.enable_x64(True):
    found = jax.jit(noise_scale.step)(params, (x, labels), 0.25)
  after, (trace, sqnorm) = jax.device_get(found)
  want = each.var(0, ddof=1).sum()
  np.testing.assert_allclose(trace, want, rtol=1e-12)
  np.testing.assert_allclose(sqnorm, (each.mean(0) ** 2).sum() - want / 40, rtol=1e-10)
  moved = [(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (params, after)), strict=True)]
  np.testing.assert_allclose(np.concatenate(moved), 0.25 * each.mean(0), rtol=0, atol=1e-14)


@pytest.mark.slow
def test_the_exact_values_are_those_of_the_gradients(double):
  params, x, labels, each = double
  with jax.enable_x64(True):
    trace, sqnorm = jax.device_get(noise_scale.exact_noise(params, (x, labels)))
  np.testing.assert_allclose(trace, each.var(0).sum(), rtol=1e-12)
  np.testing.assert_allclose(sqnorm, (each.mean(0) ** 2).sum(), rtol=1e-12)


@pytest.mark.slow
def test_over_all_batches_the_estimates_are_right_and_the_batchs_own_norm_is_not(double):
  """Each of the 5³ batches that can be drawn of five digits, with replacement."""
  params, x, labels, each = double
  rows = np.array(list(itertools.product(range(5), repeat=3)))
  with jax.enable_x64(True):
    look = jax.jit(jax.vmap(lambda x, labels: noise_scale.step(params, (x, labels), 0.0)[1]))
    trace, sqnorm = jax.device_get(look(x[rows], labels[rows])).mean(0)
    exact = jax.device_get(noise_scale.exact_noise(params, (x[:5], labels[:5])))
  np.testing.assert_allclose([trace, sqnorm], exact, rtol=1e-10)
  own = np.mean([(each[batch].mean(0) ** 2).sum() for batch in rows])
  np.testing.assert_allclose(own, exact[1] + exact[0] / 3, rtol=1e-10)


@pytest.mark.slow
def test_mean_and_error_of_estimates_are_those_of_their_draws(double):
  params, x, labels, _ = double
  with jax.enable_x64(True):
    key, data = jax.random.key(0), (jnp.asarray(x), jnp.asarray(labels))
    found = jax.device_get(noise_scale.estimate(params, key, data, 8, 50))
    step = jax.jit(noise_scale.step)
    batches = [noise_scale.draw(own, data, 8) for own in jax.random.split(key, 50)]
    each = jax.device_get([step(params, batch, 0.0)[1] for batch in batches])
  np.testing.assert_allclose(found[:2, 0], np.mean(each, 0), rtol=1e-10)
  np.testing.assert_allclose(found[:2, 1], np.std(each, 0, ddof=1) / 50**0.5, rtol=1e-10)
  np.testing.assert_allclose(found[2, 0], found[1, 0] + found[0, 0] / 8, rtol=1e-10)


@pytest.mark.slow
def test_training_is_the_loop_of_its_steps_and_stops():
  x, labels = common.load_digits()
  data, key = (jnp.asarray(x[:60]), jnp.asarray(labels[:60])), jax.random.key(1)
  params, rows = jax.jit(noise_scale.NET.init)(key), []
  for i in range(5):
    batch = noise_scale.draw(jax.random.fold_in(key, i), data, 16)
    params, noise = jax.jit(noise_scale.step)(params, batch, 0.5)
    rows.append([plain_cost(params, *data), *noise])
  ends = jnp.array([1, 3, 5])
  end, curve = noise_scale.train(key, data, 0.5, ends, 0.0, 16)
  want = [
    rows[0],
    [rows[2][0], *np.mean(rows[1:3], 0)[1:]],
    [rows[4][0], *np.mean(rows[3:], 0)[1:]],
  ]
  np.testing.assert_allclose(curve, want, rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), end, params)
  _, curve = noise_scale.train(key, data, 0.5, ends, float(rows[2][0]) + 1e-3, 16)
  assert np.isfinite(curve[:2]).all()
  assert np.isnan(curve[2]).all()


def test_the_looks_are_ever_farther_apart():
  ends = noise_scale.ends_of(8, 16384, 2**0.5)
  np.testing.assert_allclose(ends[2::2], 2 * ends[:-2:2])
  assert (ends[0], ends[-1], len(ends)) == (8, 16384, 23)
  assert list(noise_scale.ends_of(1, 3000, 1.1)[:4]) == [1, 2, 3, 4]


def test_a_target_is_reached_between_two_looks(monkeypatch):
  monkeypatch.setitem(noise_scale.SETTINGS, "targets", [1.0, 0.5, 0.01])
  monkeypatch.setattr(noise_scale, "ends_of", lambda *_: np.array([10, 20, 40]))
  curve = np.array([[2.0, 30.0, 3.0], [0.5, 40.0, 2.0], [0.4, 50.0, 1.0]])
  monkeypatch.setattr(noise_scale, "train", lambda *_: (None, curve))
  found = noise_scale.run_to_targets(None, None, 0.1, 8)
  # Half of the way from 2 to 1/2, in logs; noise scales of 10 and 20 in ten steps each.
  np.testing.assert_allclose(found, [[15, 15], [20, 15], [np.nan, np.nan]])


@pytest.mark.parametrize("critical", [3.0, 47.0, 900.0])
def test_the_fit_finds_the_hyperbola_again(critical):
  sizes = np.array([8, 16, 64, 256, 1024])
  steps = 120 * (1 + critical / sizes)
  np.testing.assert_allclose(
    noise_scale_report.fit_tradeoff(sizes, steps), (120, critical), rtol=1e-3
  )
  examples = steps * sizes
  np.testing.assert_allclose((steps / 120 - 1) * (examples / (120 * critical) - 1), 1)
  steps[1] = np.nan
  np.testing.assert_allclose(
    noise_scale_report.fit_tradeoff(sizes, steps), (120, critical), rtol=1e-3
  )


def test_the_best_rate_is_that_of_the_median_seed():
  """Three seeds, two batch sizes, two rates, one target; one seed never gets there by rate 1."""
  steps = np.array([[[90, 60], [30, 20]], [[90, 50], [30, 20]], [[99, np.nan], [30, 20]]])
  sweep = np.stack([steps, 7 * steps], -1)[:, :, :, None]
  seeds = {str(k): {"sweep": own.tolist()} for k, own in enumerate(sweep)}
  settings = {"sizes": [8, 64], "rates": [0.5, 1.0], "targets": [0.1]}
  table = noise_scale_report.tradeoffs({"settings": settings, "seeds": seeds})
  assert table[0.1]["rates"] == [1.0, 1.0]
  np.testing.assert_array_equal(table[0.1]["steps"], [[60, 20], [50, 20], [np.nan, 20]])
  np.testing.assert_array_equal(table[0.1]["predicted"], [140, 140, 140])


# --- outliers.py ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_label_is_another_one(seed):
  _, labels = common.load_digits()
  flipped, is_wrong = outliers.flip(labels, 0.05, seed)
  assert is_wrong.sum() == 90
  np.testing.assert_array_equal(flipped != labels, is_wrong)
  assert set(flipped[is_wrong]) <= set(range(10))
  shifts = (flipped - labels)[is_wrong] % 10
  assert len(set(shifts)) == 9  # Each other class is drawn.
  np.testing.assert_array_equal(flipped, outliers.flip(labels, 0.05, seed)[0])
  assert (flipped != outliers.flip(labels, 0.05, seed + 1)[0]).any()


def test_precision_counts_the_wrong_ones_in_front():
  score, is_wrong = np.array([0.1, 5.0, 3.0, 4.0]), np.array([False, True, True, False])
  np.testing.assert_allclose(outliers.precisions(score, is_wrong), [1, 1 / 2, 2 / 3, 1 / 2])


def test_an_epoch_weighs_alike_in_the_score_and_late_ones_nothing():
  values = np.ones((outliers.SCORED + 1, 2))
  values[0] = [300, 100]
  values[-1] = [0, 1e9]
  want = [1 + 0.5 / outliers.SCORED, 1 - 0.5 / outliers.SCORED]
  np.testing.assert_allclose(outliers.score_of(values), want)


@pytest.mark.slow
def test_the_scores_are_those_of_the_network_after_each_epoch(double, monkeypatch):
  """With a rate of 0 it stays what it was."""
  _, x, labels, _ = double
  monkeypatch.setattr(outliers, "RATE", 0.0)
  keys = jax.random.split(jax.random.key(0), 3)
  found = jax.jit(outliers.train.__wrapped__)(keys, np.float32(x), labels)
  params = jax.jit(outliers.NET.init)(keys[0])

  def look(x, label):
    cost, grads = jax.value_and_grad(plain_cost)(params, x[None], label[None])
    return sum((g**2).sum() for g in jax.tree.leaves(grads)), cost

  sqnorms, losses = jax.jit(jax.vmap(look))(np.float32(x), labels)
  np.testing.assert_allclose(found["sqnorms"], [sqnorms] * 2, rtol=1e-4)
  np.testing.assert_allclose(found["losses"], [losses] * 2, rtol=1e-4)
  outputs, _ = outliers.NET.forward(params, np.float32(x))
  np.testing.assert_array_equal(found["classes"], [outputs.argmax(1)] * 2)


# --- The scripts ----------------------------------------------------------------------------------


def make_small(monkeypatch):
  """Settings of a few seconds."""
  small = {
    "moments": [1, 4], "drawn": 64, "checked_sizes": [8, 16], "sizes": [16, 64],
    "long": {"size": 16, "rate": 0.1, "steps": 32}, "rates": [0.1, 0.3], "targets": [2.0, 1.8],
    "most_steps": 200,
  }  # fmt: skip
  monkeypatch.setattr(noise_scale, "SETTINGS", small)
  for name, value in {"SEEDS": 2, "EPOCHS": 3, "SCORED": 2}.items():
    monkeypatch.setattr(outliers, name, value)
  monkeypatch.setattr(noise_scale, "SEEDS", 2)


@pytest.mark.slow
@pytest.mark.parametrize("script", [noise_scale, outliers], ids=["noise_scale", "outliers"])
def test_a_run_is_written_drawn_and_gone_on_with(script, tmp_path, monkeypatch, capsys):
  make_small(monkeypatch)
  file, figure = tmp_path / "found.json", tmp_path / "found.png"
  arguments = ["--results", str(file), "--figure", str(figure)]
  script.main(arguments)
  assert "seed 1 is" in capsys.readouterr().out
  height, width, _ = imread(figure).shape
  assert height > 500 < width
  results = json.loads(file.read_text())
  assert list(results["seeds"]) == ["0", "1"]
  assert results["seeds"]["0"] != results["seeds"]["1"]
  # The second seed again, to the same numbers; the first isn't touched.
  kept = results["seeds"].pop("1")
  results["seeds"]["0"]["mark"] = "kept"
  file.write_text(json.dumps(results))
  script.main(arguments)
  printed = capsys.readouterr().out
  assert "seed 0 is" not in printed
  assert "seed 1 is" in printed
  again = json.loads(file.read_text())["seeds"]
  assert (again["0"]["mark"], again["1"]) == ("kept", kept)
  assert [path.name for path in sorted(tmp_path.iterdir())] == ["found.json", "found.png"]


def test_other_settings_are_refused(tmp_path):
  file = tmp_path / "found.json"
  common.write_results(common.read_results(file, {"rate": 1}), file)
  assert common.read_results(file, {"rate": 1}) == {"settings": {"rate": 1}, "seeds": {}}
  with pytest.raises(SystemExit, match="other settings"):
    common.read_results(file, {"rate": 2})


@pytest.mark.parametrize("script", [noise_scale, outliers], ids=["noise_scale", "outliers"])
def test_they_are_short_and_use_public_names_alone(script):
  assert_short_and_public(Path(script.__file__), lines=200)


# --- What the page says ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
  """Its section on both, on one line."""
  text = (common.ROOT / "docs" / "quantities.md").read_text(encoding="utf-8")
  return " ".join(re.search(r"\n## On real data\n(.*?)\n## ", text, re.DOTALL)[1].split())


def results_of(name):
  return json.loads((common.ROOT / "experiments" / "results" / f"{name}.json").read_text())


def test_the_page_tells_the_noise_scale_as_it_was_measured(page):
  results = results_of("noise_scale")
  assert results["settings"] == noise_scale.SETTINGS
  assert len(results["seeds"]) == noise_scale.SEEDS == 5
  z = abs(noise_scale_report.deviations(results))
  assert f"of {z.size} means at fixed parameters {np.mean(z < 2):.0%}".replace("%", " %") in page
  assert f"the farthest is {z.max():.1f} of them away" in page
  exact, found = noise_scale_report.checks_of(results)
  own = np.median(found[..., 2, 0] / exact[:, :, 1, None], 0).max()
  assert f"up to {own:.0f} times too large" in page
  runs = [row["long"] for row in results["seeds"].values()]
  scales, losses = (np.median([run[name] for run in runs], 0) for name in ("scale", "loss"))
  assert f"from {scales[0]:.3g} to {float(f'{scales[-1]:.3g}'):,.0f} examples" in page
  assert f"the loss falls from {losses[0]:.0f} to {losses[-1]:.1g}" in page
  ratios = {}
  for target, of in noise_scale_report.tradeoffs(results).items():
    ratios[target] = np.median(of["predicted"] / of["critical"])
    cells = of["critical"], of["predicted"], of["predicted"] / of["critical"]
    row = f"| {target} | " + " | ".join(map(noise_scale_report.middle, cells)) + " |"
    assert row in page
    # Else a better rate may lie beyond; and a hyperbola needs all of its points.
    assert min(noise_scale.SETTINGS["rates"]) < min(of["rates"])
    assert max(of["rates"]) < max(noise_scale.SETTINGS["rates"])
    assert np.isfinite(of["steps"]).all()
  assert all(1 / 2 < ratios[target] < 2 for target in (0.5, 0.2, 0.1))
  assert 2 < ratios[0.05] < 10


def test_the_page_tells_the_outliers_as_they_were_found(page):
  results = results_of("outliers")
  rows = list(results["seeds"].values())
  assert len(rows) == outliers.SEEDS == 10
  assert results["settings"]["epochs"] == outliers.EPOCHS
  assert results["settings"]["scored"] == outliers.SCORED

  def percent(value):
    return f"{value:.0%}".replace("%", " %")

  def spread(name):
    of = [row[name]["precision"] for row in rows]
    return f"({percent(min(of))} to {percent(max(of))})"

  def middle(name, key):
    return np.median([row[name][key] for row in rows])

  count = len(rows[0]["sqnorms"]["precisions"]) // 2
  assert f"5 % of the digits, {count} of them" in page
  ours = percent(middle("sqnorms", "precision"))
  assert f"The median precision of the first {count} is {ours} {spread('sqnorms')}" in page
  assert f"of a random ranking {percent(middle('random', 'precision'))};" in page
  assert f"the average precision is {middle('sqnorms', 'average_precision'):.3f}." in page
  assert (f"does better, with {percent(middle('losses', 'precision'))} {spread('losses')} and "
          f"{middle('losses', 'average_precision'):.3f}") in page  # fmt: skip
  learned = np.median([row["learned"][-1] for row in rows])
  late = np.median([row["sqnorms"]["epochs"][-1] for row in rows])
  assert f"after 100 epochs {percent(learned)} of the wrong labels are memorised" in page
  assert f"after that epoch is {late:.2f}." in page
  strange = [own for own in results["suspicious"] if own["label"] != own["class"]]
  assert len(results["suspicious"]) == 16
  assert f"in {len(strange)} cases" in page


@pytest.mark.parametrize("name", ["noise_scale", "outliers"])
def test_the_pictures_are_small(name):
  file = common.ROOT / "docs" / f"{name}.png"
  assert file.stat().st_size < 150_000
  assert imread(file).shape[1] >= 800
