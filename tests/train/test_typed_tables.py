"""Tables that have types: DataFrames of pandas, and parquet files as pandas and pyarrow write."""

import csv
import io
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.data.datasets import load_dataset, read_source

N = 48
ROWS = range(N)
START = pd.Timestamp("2024-01-01")
SHORT = ["--hidden", "4", "--stop.max-steps", "6", "--eval-every", "6", "--check-every", "0"]
# Of each column the cells, and what is read: its kind, and the values of the first six rows.
COLUMNS = {
  "age": (pd.array([None if i % 9 == 4 else i % 30 for i in ROWS], "Int64"), "number",
          [0, 1, 2, 3, np.nan, 5]),
  "size": (pd.array([None if i % 7 == 3 else i / 4 for i in ROWS], "Float64"), "number",
           [0, 0.25, 0.5, np.nan, 1, 1.25]),
  "member": (pd.array([None if i % 8 == 5 else i % 3 == 0 for i in ROWS], "boolean"), "number",
             [1, 0, 0, 1, 0, np.nan]),
  "even": (np.arange(N) % 2 == 0, "number", [1, 0, 1, 0, 1, 0]),
  "x": (np.where(np.arange(N) % 5 == 0, np.nan, np.arange(N) / 2), "number",
        [np.nan, 0.5, 1, 1.5, 2, np.nan]),
  "since": ([pd.NaT if i == 1 else START + pd.Timedelta(i * 12, "h") for i in ROWS], "date",
            [19723, np.nan, 19724, 19724.5, 19725, 19725.5]),
  "zone": ([(START + pd.Timedelta(i, "D")).tz_localize("Europe/Berlin") for i in ROWS], "date",
           [19723 + i - 1 / 24 for i in range(6)]),
  "took": (pd.to_timedelta([6 * i for i in ROWS], unit="h"), "number",
           [0, 0.25, 0.5, 0.75, 1, 1.25]),
  "color": (pd.Categorical([["red", "green", None][i % 3] for i in ROWS]), "word",
            ["red", "green", "", "red", "green", ""]),
  "grade": (pd.Categorical([1 + i % 4 for i in ROWS], ordered=True), "word",
            ["1", "2", "3", "4", "1", "2"]),
  "flag": (pd.Categorical([i % 2 == 0 for i in ROWS]), "word", ["True", "False"] * 3),
  "zip": (pd.array([["04109", "7", None][i % 3] for i in ROWS], "string"), "word",
          ["04109", "7", "", "04109", "7", ""]),
}  # fmt: skip


def frame_of():
  """All columns, with an index that isn't a plain count."""
  columns = {name: cells for name, (cells, _, _) in COLUMNS.items()}
  return pd.DataFrame(columns | {"y": ["u", "v"] * (N // 2)}, index=[f"row {i}" for i in ROWS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where a frame is a parquet file, and a run learnt from it."""
  path = tmp_path_factory.mktemp("typed")
  frame_of().to_parquet(path / "t.parquet")
  flags = ["--data", f"parquet:{path}/t.parquet", "--target", "y", "--out", str(path)]
  assert main(["train", *flags, *SHORT, "--name", "run"]) == 0
  return path


@pytest.mark.slow
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_column_of_pandas_is_what_its_type_says(folder, name, is_file):
  source = f"parquet:{folder}/t.parquet" if is_file else frame_of()
  data = read_source(source, 0, target=["y"], features=[name])
  _, kind, first = COLUMNS[name]
  assert [(column.name, column.kind) for column in data.columns] == [(name, kind)]
  if kind == "word":
    assert data.x[:6, 0].tolist() == first
  else:  # Of dates the sums of hours round.
    np.testing.assert_allclose(data.x[:6, 0].astype(float), first, rtol=1e-12)


def test_the_index_of_a_frame_is_no_feature(folder):
  assert "__index_level_0__" in pq.read_schema(folder / "t.parquet").names
  for source in (frame_of(), f"parquet:{folder}/t.parquet"):
    data = read_source(source, 0, target=["y"])
    assert list(data.features) == list(COLUMNS)


LEVELS = {
  "named": pd.Index([f"row {i}" for i in ROWS], name="id"),
  "numbers": pd.Index([3 * i for i in ROWS], name="number"),
  "dates": pd.date_range("2024-01-01", periods=N, name="day"),
  "levels": pd.MultiIndex.from_product([["a", "b"], range(N // 2)], names=["group", "person"]),
  "half named": pd.MultiIndex.from_product([["a", "b"], range(N // 2)], names=[None, "person"]),
  "count": pd.RangeIndex(5, 5 + N, name="from five"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_a_named_index_in_a_parquet_file_is_no_feature(tmp_path, name):
  frame = frame_of().set_index(LEVELS[name])
  frame.to_parquet(tmp_path / "t.parquet")
  data = read_source(f"parquet:{tmp_path}/t.parquet", 0, target=["y"])
  assert list(data.features) == list(COLUMNS)
  frame.reset_index().to_parquet(tmp_path / "t.parquet")  # As a column it is one.
  data = read_source(f"parquet:{tmp_path}/t.parquet", 0, target=["y"])
  assert len(data.features) == len(COLUMNS) + LEVELS[name].nlevels


def test_a_frame_and_its_file_are_the_same_data(folder):
  of_frame, of_file = (
    load_dataset(source, 3, target=["y"]) for source in (frame_of(), f"parquet:{folder}/t.parquet")
  )
  assert of_frame.features == of_file.features
  np.testing.assert_array_equal(of_frame.x, of_file.x)
  np.testing.assert_array_equal(of_frame.targets, of_file.targets)


@pytest.mark.slow
def test_a_run_predicts_raw_rows_of_a_file_and_of_a_frame(folder, tmp_path, capsys):
  new = frame_of().drop(columns="y").iloc[::-1].reset_index(drop=True)
  new[new.columns[::-1]].to_parquet(tmp_path / "new.parquet")  # The columns in another order.
  capsys.readouterr()
  assert main(["predict", f"{folder}/run", "--data", f"parquet:{tmp_path}/new.parquet"]) == 0
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  found = fb.load(folder / "run").predict_proba(new)
  np.testing.assert_allclose([float(row["p(u)"]) for row in rows], found[:, 0], rtol=1e-6)
  assert len(rows) == N
  assert main(["eval", f"{folder}/run"]) == 0


ARROW = {
  "decimal": (pa.array([Decimal(i).scaleb(-2) for i in ROWS], pa.decimal128(9, 2)), 0.03),
  "moment": (pa.array([datetime(2024, 1, 1, 6 * (i % 4)) for i in ROWS], pa.timestamp("ns")),
             19723.75),
  "day": (pa.array([date(2024, 1, 1) + timedelta(i) for i in ROWS]), 19726.0),
  "took": (pa.array([timedelta(hours=6 * i) for i in ROWS]), 0.75),
  "half": (pa.array(np.float16(np.arange(N) / 2)), 1.5),
  "small": (pa.array([None if i == 1 else i for i in ROWS], pa.uint8()), 3.0),
  "truth": (pa.array([None if i == 1 else i % 3 == 0 for i in ROWS]), 1.0),
  "coded": (pa.array(["r", "g", None, "b"] * (N // 4)).dictionary_encode(), "b"),
  "large": (pa.array(["r", "g", None, "b"] * (N // 4), pa.large_string()), "b"),
  "view": (pa.array(["r", "g", None, "b"] * (N // 4), pa.string_view()), "b"),
  "bytes": (pa.array([b"r", b"g", b"h", b"b"] * (N // 4)), "b"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARROW)
def test_a_column_of_arrow_is_what_its_type_says(tmp_path, name):
  cells, fourth = ARROW[name]
  pq.write_table(pa.table({name: cells, "y": ["u", "v"] * (N // 2)}), tmp_path / "t.parquet")
  data = read_source(f"parquet:{tmp_path}/t.parquet", 0, target=["y"])
  assert data.x[3, 0] == fourth
  missing = [value is None for value in cells.to_pylist()]
  assert [value == "" or value != value for value in data.x[:, 0]] == missing


def test_a_column_of_nulls_is_left_out(tmp_path):
  columns = {"a": np.arange(N) / 2, "none": pa.nulls(N), "y": ["u", "v"] * (N // 2)}
  pq.write_table(pa.table(columns), tmp_path / "t.parquet")
  data = read_source(f"parquet:{tmp_path}/t.parquet", 0, target=["y"])
  assert (data.features, data.notes) == (("a",), ("left out, as without a value in any row: none",))


@pytest.mark.parametrize("cells", [[[1, 2]] * N, [{"a": 1}] * N])
def test_nested_columns_are_refused(tmp_path, cells):
  table = pa.table({"deep": cells, "y": ["u", "v"] * (N // 2)})
  pq.write_table(table, tmp_path / "t.parquet")
  for source in (f"parquet:{tmp_path}/t.parquet", table.to_pandas()):
    with pytest.raises(ValueError, match="column 'deep' must be of single values, got"):
      read_source(source, 0, target=["y"])


def test_times_of_the_day_are_words(tmp_path):
  columns = {"at": pa.array([time(i % 3) for i in ROWS]), "y": ["u", "v"] * (N // 2)}
  pq.write_table(pa.table(columns), tmp_path / "t.parquet")
  data = read_source(f"parquet:{tmp_path}/t.parquet", 0, target=["y"])
  assert data.x[:3, 0].tolist() == ["00:00:00", "01:00:00", "02:00:00"]
