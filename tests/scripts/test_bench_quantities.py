"""`bench.py quantities`: its candidates give the same, what it writes, and the page's tables."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from scripts import bench
from scripts.benchmarks import quantities
from scripts.benchmarks.models import draw_batches, draw_params, plain_step
from scripts.benchmarks.subjects import QUANTITY_SIZES


@pytest.mark.slow
def test_quantities_print_a_table_and_write_json(tmp_path, capfd):
  file = tmp_path / "quantities.json"
  flags = ["--sizes", "digits", "--cores", "1", "--rounds", "2", "--json", str(file)]
  assert bench.main(["quantities", *flags]) == 0
  rows = {row["candidate"]: row for row in json.loads(file.read_text())["rows"]}
  assert rows["plain gradient"]["over"] == 1.0
  assert (
    rows["clipped by vmap(jax.grad)"]["temp_bytes"]
    > 64 * rows["clipped_gradient, flat"]["temp_bytes"]
  )
  assert all(row["seconds"] > 0 for row in rows.values())
  assert rows["a step, clip_examples"]["base"] == "a step of descent"
  assert "clipped by vmap(jax.grad)" in capfd.readouterr().out


@pytest.mark.slow
def test_what_needs_too_much_memory_is_compiled_and_not_run(monkeypatch, capsys):
  monkeypatch.setattr(quantities, "MOST_BYTES", 1e6)
  monkeypatch.setattr(quantities, "WITH_GRADIENT", ())
  monkeypatch.setattr(quantities, "steps_of", lambda size: [])
  monkeypatch.setattr(quantities, "torch_candidates_of", lambda size: [])
  rows = {row["candidate"]: row for row in quantities.run(["digits"], 2)}
  assert rows["clipped by vmap(jax.grad)"]["seconds"] is None
  assert rows["clipped by vmap(jax.grad)"]["temp_bytes"] > 1e6
  assert re.search(r"clipped by vmap\(jax.grad\) +not run", capsys.readouterr().out)


@pytest.mark.slow
def test_the_candidates_give_the_same():
  """Ours and the way of plain JAX: the same gradient, the same clipped sum."""
  size = QUANTITY_SIZES["digits"]
  params, batch = draw_params(size), draw_batches(size, 0)
  ours = quantities.ours_of(size)
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    ours["plain gradient"](params, *batch),
    plain_step(size)(params, *batch),
  )
  _, found = ours["clipped_gradient, flat"](params, *batch)
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    found["clipped_gradient"],
    quantities.clipped_by_vmap(size)(params, *batch),
  )


def test_the_page_of_quantities_has_the_table_that_was_committed():
  root = Path(__file__).parents[2]
  made = json.loads((root / "experiments" / "results" / "quantities.json").read_text())
  page = (root / "docs" / "quantities.md").read_text(encoding="utf-8")
  by_name = {}
  for row in made["rows"]:
    by_name.setdefault((row["size"], row["candidate"]), []).append(row)
    for package, version in row["versions"].items():
      assert f"{package} {version}" in page
    assert row["date"] in page
  assert {size for size, _ in by_name} == set(QUANTITY_SIZES)
  for rows in by_name.values():
    assert [row["cores"] for row in rows] == [1, 2]
    assert quantities.markdown_of(rows).strip() in page
