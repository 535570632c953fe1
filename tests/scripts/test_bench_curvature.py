"""`bench.py curvature`: what peers are held against, and ratios of ratios; the clock is made up."""

import json
import types

import numpy as np
import pytest

from scripts.benchmarks import curvature, curvature_torch
from scripts.benchmarks.rounds import Rounds
from scripts.benchmarks.subjects import SIZES, Size
from tests.support.witness import jit_quickly

SMALL = SIZES["digits"]._replace(scan=1)


def test_every_peer_is_held_against_one_of_ours():
  ours = {*curvature.functions_of(SMALL), *curvature.with_gradient(SMALL)}
  factors = {f"kronecker_factors, {kind}" for kind in curvature_torch.KFAC_TYPES.values()}
  assert {*curvature_torch.BACKPACK.values(), *curvature_torch.PRODUCTS.values()} | factors <= ours
  # BackPACK's call has the gradient, too.
  assert set(curvature_torch.BACKPACK.values()) == set(curvature.with_gradient(SMALL))


@pytest.mark.slow
def test_a_peers_ratio_is_taken_to_its_own_gradient(monkeypatch, capsys):
  theirs = {
    curvature_torch.PLAIN: curvature_torch.Peer(lambda number: None, "plain gradient"),
    "BackPACK": curvature_torch.Peer(lambda number: None, "ggn_diagonal"),
  }
  monkeypatch.setattr(curvature, "find_spec", lambda module: True)
  monkeypatch.setattr(curvature.metadata, "version", lambda package: "1.0")
  made = types.SimpleNamespace(peers_of=lambda size: theirs)
  monkeypatch.setattr(curvature, "import_module", lambda name: made)
  monkeypatch.setitem(curvature.SIZES, "mnist", Size((6, 5, 4), 3))
  # Ours takes 2 gradients of 1 s and 3 s, theirs 5 of 10 s: 2.5 times as many, in each round.
  seconds = np.array([[1.0, 2.0, 10.0, 50.0], [3.0, 6.0, 10.0, 50.0]])
  monkeypatch.setattr(curvature, "measure", lambda calls, rounds: Rounds(seconds, 2, 0.0))
  rows = {row["candidate"]: row for row in curvature.time_peers(2)}
  assert [row["over"] for row in rows.values()] == [1, 2, 1, 5]
  assert (rows["BackPACK"]["times"], rows["BackPACK"]["quartiles"]) == (2.5, [2.5, 2.5])
  assert [row["times"] for row in rows.values()].count(None) == 3
  assert rows["plain gradient"]["flops"] == 1 < rows["ggn_diagonal"]["flops"]
  assert "2.50" in capsys.readouterr().out


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
  monkeypatch.setattr(curvature, "find_spec", lambda module: None)
  assert curvature.time_peers(2) == []
  assert "pip install torch backpack-for-pytorch curvlinops-for-pytorch" in capsys.readouterr().out


def test_the_page_has_the_table_of_the_committed_results():
  text = curvature.PAGE.read_text(encoding="utf-8")
  rows = json.loads(curvature.RESULT.read_text(encoding="utf-8"))["rows"]
  assert curvature.with_table(text, rows) == text
  made = {"size": "peers", "times": 2.5, "quartiles": [2.4, 2.6], "over": 5.0, "ours": "trace"}
  made = [{**made, "candidate": "BackPACK", "cores": cores} for cores in (1, 2)]
  other = curvature.with_table(text, made)
  assert "| BackPACK | `trace` | 5.00 | 2.50 (2.40–2.60) | 5.00 | 2.50 (2.40–2.60) |" in other
  assert curvature.with_table(other, rows) == text


@pytest.mark.slow
def test_each_function_with_the_gradient_gives_both():
  size = Size((6, 5, 4), 3)
  params, batches = curvature.draw_inputs(size)
  made = curvature.with_gradient(size)
  step = curvature.our_step(size)
  want, found = jit_quickly(
    lambda *data: (step(*data), {name: f(*data) for name, f in made.items()})
  )(params, *batches[0])
  for name, own in found.items():
    loss, grads = own[:2] if len(own) == 3 else own[0]
    np.testing.assert_allclose(loss, want[0], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(grads[0].w, want[1][0].w, rtol=0, atol=1e-6, err_msg=name)
