"""`experiments/outliers_curvature.py`: its parts, and what is told."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from experiments import laplace, outliers_curvature
from experiments.common import ROOT
from experiments.tour import plain_cost
from tests.support.public import assert_short_and_public

SCRIPTS = [laplace, outliers_curvature]
NAMES = [script.__name__.rpartition(".")[2] for script in SCRIPTS]


@pytest.fixture(autouse=True)
def as_a_reader_has_it():
  """Scripts are written without a thought of ranks and dtypes, which the tests elsewhere need."""
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_the_small_run(script, tmp_path, capsys, monkeypatch):
  small = {"groups": 1, "members": 2, "seeds": 1, "epochs": 1, "examples": 100, "steps": 20,
           "train": 100, "angles": [0]}  # fmt: skip
  monkeypatch.setattr(script, "QUICK", {**script.QUICK, **small})
  file, figure = tmp_path / "results.json", tmp_path / "figure.png"
  script.main(["--quick", "--results", str(file), "--figure", str(figure)])
  assert capsys.readouterr().out.count(": done") == 1
  assert list(json.loads(file.read_text())["seeds"]) == ["0"]
  assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_they_are_short_and_use_public_names_alone(script):
  assert_short_and_public(Path(script.__file__), lines=310)


# --- outliers_curvature.py ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_scores_are_those_of_the_whole_matrices():
  """Of a few digits, beside gradients and the GGN by autodiff of a plain network."""
  x, labels = outliers_curvature.load_digits()
  x, labels = jnp.asarray(x[:6]), jnp.asarray(labels[:6])
  params = jax.jit(outliers_curvature.NET.init)(jax.random.key(0))
  found = jax.jit(lambda: outliers_curvature.look(params, x, labels, 0.1))()

  def gradient(row, label):
    return jax.tree.leaves(jax.grad(plain_cost)(params, row[None], label[None]))

  def root(row):
    p = jax.nn.softmax(outliers_curvature.NET.forward(params, row[None])[0][0])
    return jnp.sqrt(p)[:, None] * (jnp.eye(10) - p[None, :])  # Σ_c p_c (e_c − p)(e_c − p)ᵀ.

  def squares(row):
    jacobian = jax.jacrev(lambda q: outliers_curvature.NET.forward(q, row[None])[0][0])(params)
    return [((root(row) @ leaf.reshape(10, -1)) ** 2).sum(0) for leaf in jax.tree.leaves(jacobian)]

  grads = [g.reshape(6, -1) for g in jax.jit(jax.vmap(gradient))(x, labels)]
  diagonals = jax.jit(jax.vmap(squares))(x)
  sqnorms = sum((g**2).sum(1) for g in grads)
  traces = sum(d.sum(1) for d in diagonals)
  by_diagonal = sum(
    (g**2 / (d.mean(0) + 0.1)).sum(1) for g, d in zip(grads, diagonals, strict=True)
  )
  for name, want in {"sqnorms": sqnorms, "trace": traces, "ratio": sqnorms / traces,
                     "diagonal": by_diagonal}.items():  # fmt: skip
    np.testing.assert_allclose(found[name], want, rtol=1e-4, err_msg=name)
  assert (found["kfac"] < sqnorms / 0.1).all()  # K ≥ 0, and its damping isn't below λ.


# --- What the page says ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
  """Its section on both, on one line."""
  text = (ROOT / "docs" / "curvature.md").read_text(encoding="utf-8")
  return " ".join(re.search(r"\n## On real data\n(.*?)\n## ", text, re.DOTALL)[1].split())


def results_of(name):
  return json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_small(name):
  file = ROOT / "docs" / f"{name}.png"
  assert file.stat().st_size < 150_000
  assert imread(file).shape[1] >= 800


def test_the_page_tells_the_outliers_as_they_were_found(page):
  results = results_of("outliers_curvature")
  assert results["settings"] == outliers_curvature.FULL
  rows = list(results["seeds"].values())
  assert len(rows) == results["settings"]["seeds"] == 10
  assert " ".join(outliers_curvature.table_of(results)) in page
  # The networks are those of `outliers.py`: but for rounding it found the same.
  for seed, own in results_of("outliers")["seeds"].items():
    for name in ("sqnorms", "losses"):
      now = results["seeds"][seed][name]
      assert now["average_precision"] == pytest.approx(own[name]["average_precision"], abs=2e-3)
  middle = {name: np.median([row[name]["average_precision"] for row in rows])
            for name in outliers_curvature.SCORES}  # fmt: skip
  assert middle["trace"] < 0.2 < middle["sqnorms"] < middle["kfac"] < middle["ratio"]
  assert middle["ratio"] < middle["losses"]


def test_the_page_tells_the_gaussians_as_they_were_found(page):
  results = results_of("laplace")
  assert results["settings"] == laplace.FULL
  assert " ".join(laplace.table_of(results)) in page
  worst = {name: max(own["errors"][name] for own in results["seeds"].values())
           for name in ("variance", "log_det")}  # fmt: skip
  assert worst["variance"] < 4e-15
  assert worst["log_det"] < 3e-14
  nll = {name: laplace.middles(results, name, "nll") for name in laplace.NAMES}
  assert nll["kfac"][0] > nll["plain"][0] > nll["ensemble"][0]
  for angle in (2, 3, 4):
    assert nll["kfac"][angle] < 0.6 * nll["plain"][angle]
    assert nll["kfac"][angle] < nll["ensemble"][angle]


# --- laplace.py -----------------------------------------------------------------------------------


def test_a_probability_without_a_variance_is_the_softmax():
  z = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
  np.testing.assert_allclose(laplace.moderated(z, 0.0), jax.nn.softmax(z), rtol=1e-6)
  wide = laplace.moderated(z, np.full(z.shape, 1e6))
  np.testing.assert_allclose(wide, 1 / 3, atol=5e-3)  # Nothing is known.


def test_the_calibration_error_is_that_of_its_definition():
  p = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
  found = laplace.scores_of(p, np.array([0, 1, 1, 1]))
  assert found["accuracy"] == 0.75
  assert found["ece"] == pytest.approx(0.5 * (0.9 - 0.5) + 0.5 * (1.0 - 0.8), abs=1e-4)
  assert found["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.8, 0.8]).mean(), abs=1e-4)
