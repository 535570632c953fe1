"""Tables as people have them: words, dates, missing values, decimal commas, and wrong cells."""

import json
import shutil

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.data import encodings
from fbackprop.train.data.columns import days_of
from fbackprop.train.data.csv_tables import read_csv, read_features
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.models import load_model
from fbackprop.train.scores import rows_of

RNG = np.random.default_rng(5)
N = 60
COLORS = ["red", "green", "", "deep blue"]
SHORT = ["--hidden", "4", "--stop.max-steps", "6", "--eval-every", "6", "--check-every", "0"]


def table(n=N):
  """Rows of a mixed table: a decimal comma, thousands, dates, truth values, holes and words."""
  rng = np.random.default_rng(n)
  for i in range(n):
    color, age = COLORS[i % 4], "" if i % 9 == 4 else str(20 + i % 50)
    price = f"{1 + i % 8}.{rng.integers(100, 999)},{rng.integers(10, 99)}"
    date = f"{1 + i % 28:02d}.{1 + i % 12:02d}.2023"
    yield [str(100 + i), color, age, price, date, str(i % 3 == 0), "yes" if i % 4 < 2 else "no"]


HEAD = ["key", "color", "age", "price", "since", "member", "buys"]


def write(path, rows, separator=";", head=HEAD):
  text = "\n".join(separator.join(row) for row in [head, *rows])
  path.write_text(text + "\n", encoding="utf-8-sig")  # With a byte order mark, as Excel writes it.
  return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where a run of a mixed table is, and what was said."""
  path = tmp_path_factory.mktemp("mixed")
  write(path / "t.csv", table())
  flags = ["--data", f"csv:{path}/t.csv", "--target", "buys", "--drop", "key", "--out", str(path)]
  assert main(["train", *flags, *SHORT, "--name", "run"]) == 0
  return path


@pytest.fixture
def told(capsys):
  def call(*words, code=0):
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    return capsys.readouterr()

  return call


def pairs(data):
  """The raw columns of a data set, and their kinds."""
  return [(column.name, column.kind) for column in data.columns]


def read(path, *rows, head="a,b,y", **options):
  path.write_text("\n".join([head, *rows]) + "\n")
  return read_csv(str(path), ["y"], **options)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "t.csv"


# --- What a column is -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_columns_of_a_mixed_table_are_what_they_look_like(folder):
  data = read_csv(f"{folder}/t.csv", ["buys"])
  kinds = [("key", "number"), ("color", "word"), ("age", "number"), ("price", "number"),
           ("since", "date"), ("member", "number")]  # fmt: skip
  assert (pairs(data), data.decimal) == (kinds, "comma")
  rows = list(table())
  want = [float(row[3].replace(".", "").replace(",", ".")) for row in rows]
  assert data.x[:, 3].tolist() == want
  assert data.x[:2, 4].tolist() == [19358.0, 19390.0]  # 1 January and 2 February 2023.
  assert data.x[:, 1].tolist() == [row[1] for row in rows]
  assert data.x[:3, 5].tolist() == [1.0, 0.0, 0.0]
  assert np.isnan(data.x[4, 2])
  assert data.notes[-1:] == (
    "column 'key' looks like an id: it has another value in each row; --drop leaves it out",
  )


def test_a_table_of_complete_numbers_stays_one(path):
  data = read(path, "1,2.5,u", "3,1e3,v")
  assert (data.x.dtype, data.x.tolist(), data.notes) == (np.float64, [[1, 2.5], [3, 1000]], ())


def test_categories_of_digits_are_words_if_they_are_said_to_be(path):
  data = read(path, "04109,1,u", "70173,2,v", categorical=["a"])
  assert data.x.tolist() == [["04109", 1.0], ["70173", 2.0]]


@pytest.mark.parametrize(
  ("cells", "want"),
  [
    (["2024-01-31", "1970-01-02"], [19753.0, 1.0]),
    (["2024-1-31 06:00", "2024-01-31T12:00:00Z"], [19753.25, 19753.5]),
    (["2024-01-31 06:00:00+06:00", ""], [19753.0, np.nan]),
    (["31.1.2024", "1.2.2024"], [19753.0, 19754.0]),
    (["1/31/2024", "2/1/2024"], [19753.0, 19754.0]),
    (["31/1/2024", "1/2/2024"], [19753.0, 19754.0]),
  ],
)
def test_dates_are_days(path, cells, want):
  data = read(path, *(f"{cell},{i},{'uv'[i]}" for i, cell in enumerate(cells)))
  assert pairs(data)[0] == ("a", "date")
  np.testing.assert_array_equal(data.x[:, 0].astype(float), want)


@given(st.datetimes(allow_imaginary=False).filter(lambda d: d.year >= 1000))
@settings(max_examples=60, deadline=None)
def test_a_date_is_that_of_python(date):
  want = np.datetime64(date.replace(microsecond=0), "s").astype(int) / 86400
  assert days_of(date.replace(microsecond=0).isoformat(), "year-month-day") == want


def test_a_column_without_values_is_left_out(path):
  data = read(path, "1,,u", "2, NA,v")
  assert (pairs(data), data.notes) == (
    [("a", "number")], ("left out, as without a value in any row: b",)
  )  # fmt: skip


def test_an_index_and_an_id_are_named(path):
  rows = [f"{i},n{i},{i % 7},{'uv'[i % 2]}" for i in range(30)]
  data = read(path, *rows, head=",user,a,y")
  index, user = data.notes[-2:]
  assert index.startswith("column 'Unnamed: 0' looks like an index: its values are 0, 1, ..., 29")
  assert user.startswith("column 'user' looks like an id")
  data = read(path, *rows, head=",user,a,y", drop=["Unnamed: 0", "user"])
  assert (data.features, data.notes, data.x.dtype) == (("a",), (), np.float64)
  assert read(path, *rows, head=",user,a,y", features=["a"]).features == ("a",)


# --- How it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_separator_is_found(path, separator):
  rows = [["1", '"a, b; c"', "u"], ["2", '"say ""x"""', "v"]]
  path.write_text("\n".join(separator.join(row) for row in [["n", "w", "y"], *rows]))
  data = read_csv(str(path), ["y"])
  assert data.x.tolist() == [[1.0, "a, b; c"], [2.0, 'say "x"']]


@pytest.mark.parametrize(
  ("cells", "want"),
  [
    (["1,5", "2"], [1.5, 2]),
    (["1.234,5", "2.000"], [1234.5, 2000]),
    (["1.234.567", "2,5"], [1234567, 2.5]),
    (["1 234,5", "-3"], [1234.5, -3]),
    (["1'234.5", "2"], [1234.5, 2]),
    (["1,234.5", "2,000"], [1234.5, 2000]),
    (["1,234,567", "2.5"], [1234567, 2.5]),
    (["1.234", "2.000"], [1.234, 2]),
    (["12,5e3", "1"], [12500, 1]),
    (["+1,5", "-,5"], [1.5, -0.5]),
  ],
)
def test_the_style_of_numbers_is_found(path, cells, want):
  data = read(path, *(f"{cell};{i};{'uv'[i]}" for i, cell in enumerate(cells)), head="a;b;y")
  assert data.x[:, 0].tolist() == want


def test_columns_follow_the_style_of_the_others(path):
  """Even if Python would read them: 1.234 is a thousand where 2,5 is a fraction."""
  data = read(path, "1.234;2,5;u", "2.000;3;v", head="a;b;y")
  assert data.x.tolist() == [[1234, 2.5], [2000, 3]]
  assert read_features(str(path), ["a"], decimal="point").tolist() == [[1.234], [2.0]]


def test_targets_have_the_style_too(path):
  path.write_text("a;y\n" + "".join(f"{i};1.{i:03d},25\n" for i in range(30)))
  data = read_csv(str(path), ["y"])
  assert (data.task, data.targets[3, 0]) == ("regression", 1003.25)


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (
      ["1,5;2.5;u"],
      "column 'b': '2.5' has a decimal point, and '1,5' in .*column 'a' a decimal co",
    ),
    (["1,234;2;u"], "'1,234' may be a fraction or a thousand; give --decimal comma"),
  ],
)
def test_a_style_that_is_not_clear_is_refused(path, rows, said):
  with pytest.raises(ValueError, match=said):
    read(path, *rows, head="a;b;y")


def test_a_given_style_refuses_the_other_one(path):
  for decimal, name, cell in (("point", "a", "1,5"), ("comma", "b", "2.5")):
    said = f"column '{name}': a number with a decimal {decimal} was expected, got '{cell}'"
    with pytest.raises(ValueError, match=said):
      read(path, "1,5;2.5;u", head="a;b;y", decimal=decimal)
  assert read(path, "1,234;2;u", head="a;b;y", decimal="point").x[0, 0] == 1234
  assert read(path, "1,234;2;u", head="a;b;y", decimal="comma").x[0, 0] == 1.234


def test_a_quoted_thousand_between_commas_is_one(path):
  assert read(path, '"1,234",2,u').x[0, 0] == 1234


# --- What is wrong with it ------------------------------------------------------------------------


def test_all_wrong_columns_are_named_at_once(path):
  rows = ["1,2024-01-01,4,u", "2,2024-01-02,5,v", "3,2024-01-03,6x,u", "oops,01.02.2024,7,v"]
  with pytest.raises(ValueError, match="column 'a'") as caught:
    read(path, *rows, head="a,b,c,y")
  assert str(caught.value) == (
    f"{path}, line 5, column 'a': a number was expected, got 'oops' (1 such cells); "
    f"{path}, line 5, column 'b': a date like 2024-12-31 was expected, got '01.02.2024' (1 such "
    f"cells); {path}, line 4, column 'c': a number was expected, got '6x' (1 such cells); "
    "--drop a b c leaves out what can't be mended, --categorical takes words"
  )


@pytest.mark.parametrize(
  ("rows", "head", "said"),
  [
    (
      ["1,2,u", "x3,4,v", "5,6,u"],
      "a,b,y",
      r"line 3, column 'a': a number was expected, got 'x3'$",
    ),
    (["1,inf,u", "3,4,v"], "a,b,y", "line 2, column 'b': a number was expected, got 'inf'"),
    (
      ["3/4/2024,1,u", "5/6/2024,2,v"],
      "a,b,y",
      "a notation that tells day from month was expected",
    ),
    (["1,2,u"], "a,a,y", "each column must have a name of its own, got 'a' 2 times"),
    (["1,2"], "a,b,y", "line 2: 3 cells were expected, got 2"),
    ([",NA,u", "?,,v"], "a,b,y", "no feature has a value in any row"),
    (
      [f"w{i},1,u" for i in range(1001)],
      "a,b,y",
      "at most 1,000 different words were expected, and",
    ),
  ],
)
def test_a_wrong_table_is_refused_by_its_cell(path, rows, head, said):
  with pytest.raises(ValueError, match=said):
    read(path, *rows, head=head)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"drop": ["z"]}, "no column 'z' of drop; its columns are a, b, y"),
    ({"features": ["a", "z"]}, "no column 'z' of features"),
    ({"categorical": ["z"]}, "no column 'z' of categorical"),
    ({"features": ["a"], "drop": ["a"]}, "'a' can't be a feature and be left out"),
    ({"categorical": ["a"], "drop": ["a"]}, "'a' is no feature, and can't be categorical"),
    ({"features": ["y"]}, "'y' can't be a feature and be left out, or be the target"),
    ({"drop": ["a", "b"]}, "there is nothing to learn from"),
  ],
)
def test_wrong_columns_are_refused(path, options, said):
  with pytest.raises(ValueError, match=said):
    read(path, "1,2,u", "3,4,v", **options)


# --- The encoding ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_encoding_is_scikit_learn_s(folder):
  """Rebuilt from what the model file holds, it gives what the fitted one gives."""
  data = load_dataset(f"csv:{folder}/t.csv", 0, target=["buys"], drop=["key"], standardize="off")
  raw = read_csv(f"{folder}/t.csv", ["buys"], drop=["key"])
  own = load_model(folder / "run" / "model.safetensors").description.encoding
  assert own.names == data.features == (
    "age", "price", "since", "member", "age is missing",
    "color is missing", "color=deep blue", "color=green", "color=red",
  )  # fmt: skip
  fitted = encodings.fitted(raw.columns, raw.x)
  fresh = encodings.Encoding(encodings.states_of(raw.columns, fitted))
  np.testing.assert_array_equal(fresh.encode(raw.x), fitted.transform(raw.x))
  # Of the training part alone: its median, in the age of whom none is known.
  whole = {tuple(row): i for i, row in enumerate(data.x.tolist())}
  assert len(whole) > 30
  ages = data.x[data.x[:, 4] == 0, 0]
  assert set(data.x[data.x[:, 4] == 1, 0]) == {np.median(ages)}
  np.testing.assert_allclose(data.x[:, 5:].sum(1), 1)


def test_an_encoding_survives_its_file():
  columns = [fb.train.data.columns.Column("n", "number"), fb.train.data.columns.Column("w", "word")]
  x = np.array([[1e300**0.1, "ß"], [np.nan, ""], [1 / 3, "ß"]], object)
  own = encodings.fit(columns, x)
  again = encodings.read_encoding(json.loads(json.dumps(own.as_json())), len(own.names))
  assert again.states == own.states
  np.testing.assert_array_equal(again.encode(x), own.encode(x))
  assert again.encode(x[:0]).shape == (0, 4)


@pytest.mark.parametrize(
  "change",
  [
    {"kind": "object"}, {"form": "%Y"}, {"fill": "1"}, {"fill": float("inf")}, {"is_marked": 1},
    {"words": ["a"]}, {"kind": "word", "words": []}, {"kind": "word", "words": ["a", "a"]},
    {"kind": "word", "words": [1]}, {"kind": "date"},
  ],
)  # fmt: skip
def test_a_hostile_encoding_is_refused(change):
  own = {"name": "a", "kind": "number", "form": "", "fill": 0.0, "is_marked": False, "words": []}
  assert encodings.read_encoding([own], 1) is not None
  with pytest.raises((ValueError, TypeError, KeyError)):
    encodings.read_encoding([{**own, **change}], 1)


# --- From the command line ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_a_mixed_table_says_what_it_does(folder, told):
  out = told("eval", folder / "run").out
  summary = json.loads((folder / "run" / "summary.json").read_text())
  assert f"accuracy  {summary['test_accuracy']:.4f}" in out
  assert f"ROC AUC   {summary['test_roc_auc']:.4f}" in out
  said = told("info", folder / "run").out
  assert "features                5: color, age, price, since, member" in said
  assert "encoded                 9: age, price" in said


def test_predictions_take_raw_rows(folder, tmp_path, told):
  rows = list(table())
  whole = told("predict", folder / "run", "--data", f"csv:{folder}/t.csv").out.splitlines()
  # Other columns, in another order, without any cell that shows the style of the numbers.
  cells = [[row[4], row[3].split(",")[0], row[2], row[1], row[5]] for row in rows]
  head = ["since", "price", "age", "color", "member"]
  path = write(tmp_path / "new.csv", cells, head=head)
  found = told("predict", folder / "run", "--data", f"csv:{path}").out.splitlines()
  assert len(found) == len(whole) == N + 1
  model = fb.load(folder / "run")
  raw = [[row[1], row[2], float(row[3].split(",")[0].replace(".", "")), row[4], row[5]]
         for row in rows]  # fmt: skip
  np.testing.assert_allclose(
    [float(line.split(",")[1]) for line in found[1:]], model.predict_proba(raw)[:, 0], rtol=1e-6
  )


def test_what_the_training_set_has_not_is_said(folder, tmp_path, told):
  row = ["pink", "33", "", "01.02.2023", "True"]
  path = write(tmp_path / "new.csv", [row], head=HEAD[1:-1])
  said = told("predict", folder / "run", "--data", f"csv:{path}")
  assert "column 'color': 1 of 1 words aren't in the training set ('pink'): encoded as" in said.err
  assert "column 'price': 1 of 1 are missing, and none was in the training set" in said.err
  assert said.out.startswith("label,p(no),p(yes)\n")
  model = fb.load(folder / "run")
  z = model.encoding.encode(np.array([["pink", 33.0, np.nan, 19389.0, 1.0]], object))
  assert z[0, 5:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      {"since": "2023-02-01"},
      "column 'since': a date like 31.12.2024 was expected, got '2023-02-01'",
    ),
    ({"age": "old"}, "column 'age': a number was expected, got 'old'"),
    (
      {"age": None, "since": None},
      "has no column 'age', nor 'since', which the model was trained on",
    ),
  ],
)
def test_rows_that_cannot_be_read_are_refused(folder, tmp_path, told, change, said):
  row = dict(zip(HEAD[1:-1], next(table())[1:-1], strict=True)) | change
  row = {name: cell for name, cell in row.items() if cell is not None}
  path = write(tmp_path / "new.csv", [row.values()], head=list(row))
  assert said in told("predict", folder / "run", "--data", f"csv:{path}", code=2).err
  np.savez(tmp_path / "x.npz", x=np.zeros((2, 5)))
  assert (
    "give a table" in told("predict", folder / "run", "--data", f"npz:{tmp_path}/x.npz", code=2).err
  )


@pytest.mark.slow
def test_other_rows_are_scored(folder, tmp_path, told):
  path = write(tmp_path / "new.csv", table(24))
  said = told("eval", folder / "run", "--data", f"csv:{path}")
  assert "24 examples" in said.out
  data = read_csv(str(path), ["buys"], drop=["key"])
  found = fb.load(folder / "run").predict(data.x)
  right = np.mean(found == np.array(data.output_names)[data.targets])
  assert f"accuracy  {right:.4f}" in said.out


def test_a_file_may_be_written_otherwise_than_that_of_the_run(folder, tmp_path, told):
  """1.234 is a fraction with --decimal point, a thousand as the run's numbers are written."""
  head, row = HEAD[1:-1], ["red", "33", "1.234", "03.02.2023", "True"]
  path = write(tmp_path / "new.csv", [row], separator="|", head=head)
  for flags, price in (((), 1234.0), (("--decimal", "point", "--separator", "bar"), 1.234)):
    out = told("predict", folder / "run", "--data", f"csv:{path}", *flags).out
    raw = [["red", 33.0, price, "03.02.2023", True]]
    want = fb.load(folder / "run").predict_proba(raw)[0, 0]
    assert float(out.splitlines()[1].split(",")[1]) == pytest.approx(want, rel=1e-6)


@pytest.mark.slow
def test_what_a_run_was_told_of_its_file_holds_for_others(tmp_path, told):
  """The commas of its header and rows would be taken for the separators."""
  rows = [f"{i % 7},5;{i % 5},25;{'uv'[i % 2]}" for i in range(40)]
  path = tmp_path / "t.csv"
  path.write_text("\n".join(["a,b;c,d;y", *rows]))
  flags = ["--target", "y", "--out", tmp_path, "--name", "run", *SHORT]
  told("train", "--data", f"csv:{path}", *flags, "--separator", "semicolon", "--decimal", "comma")
  new = tmp_path / "new.csv"
  new.write_text("a,b;c,d;y\n1,5;2,25;u\n2,5;1,5;v\n")
  run = tmp_path / "run"
  out = told("predict", run, "--data", f"csv:{new}").out.splitlines()
  want = fb.load(run).predict_proba(np.array([[1.5, 2.25], [2.5, 1.5]]))[:, 0]
  assert [float(line.split(",")[1]) for line in out[1:]] == pytest.approx(want, rel=1e-6)
  assert "2 examples" in told("eval", run, "--data", f"csv:{new}").out
  said = told("eval", run, "--data", f"csv:{new}", "--separator", "comma", code=2).err
  assert "has no column" in said or "cells were expected" in said


def test_a_table_that_has_changed_is_named(folder, tmp_path, told):
  shutil.copytree(folder / "run", tmp_path / "run")
  own = tmp_path / "run" / "config.toml"
  rows = list(table())
  rows[3][1] = "violet"
  path = write(tmp_path / "t.csv", rows)
  own.write_text(own.read_text().replace(f"{folder}/t.csv", str(path)))
  assert "column 'color' differs, first at row 4" in told("eval", tmp_path / "run", code=2).err


@pytest.mark.slow
def test_a_run_goes_on_from_another_one_with_its_encoding(folder, tmp_path, told):
  path = write(tmp_path / "more.csv", [row for row in table(48) if row[1] != "red"])
  flags = ["--target", "buys", "--drop", "key", "--out", tmp_path, "--name", "again", *SHORT[2:]]
  said = told("train", "--data", f"csv:{path}", "--init", folder / "run", *flags)
  assert "standardised as for the parameters of --init" in said.out
  first, again = (fb.load(run).encoding for run in (folder / "run", tmp_path / "again"))
  assert first.states == again.states


@pytest.mark.parametrize("kind", ["csv", "frame"])
def test_a_model_of_complete_numbers_refuses_a_missing_one(path, kind):
  """It has learnt neither what fills it nor what an indicator would say."""
  about = fb.train.models.Description(
    (2, 1), "relu", "regression", ("y",), ("a", "b"), None, None
  )  # fmt: skip
  path.write_text("a,b,y\n1,2,3\n4,,6\n")
  source = f"csv:{path}" if kind == "csv" else Frame(a=[1, 4], b=[2, np.nan], y=[3, 6])
  with pytest.raises(ValueError, match="column 'b': a number was expected, got"):
    rows_of(source, about, ["y"], 0)


# --- Other programs -------------------------------------------------------------------------------


def inputs_of(path, rows):
  """Raw rows `[color, age, price, days, member]` as the inputs of an ONNX file, by their types."""
  kinds = {x.name: x.type.tensor_type.elem_type for x in onnx.load(path).graph.input}
  dtypes = {1: np.float32, 11: np.float64, 8: object}
  return {name: np.array([[row[j]] for row in rows], dtypes[kinds[name]])
          for j, name in enumerate(kinds)}  # fmt: skip


def test_onnx_has_an_input_for_each_column(folder, tmp_path):
  """Words that are unknown and values that are missing too: within 1e-6 of `predict_proba`."""
  model, path = fb.load(folder / "run"), tmp_path / "m.onnx"
  fb.export.write(model, path)
  raw = read_csv(f"{folder}/t.csv", ["buys"], drop=["key"]).x
  strange = np.array([["pink", np.nan, np.nan, np.nan, np.nan], ["", 1e6, -1e6, 0.0, 5.0]], object)
  rows = np.concatenate([raw, strange])
  feed = inputs_of(path, rows)
  assert list(feed) == ["color", "age", "price", "since", "member"]
  # The days are too far from 0 for float32, the others aren't.
  assert [own.dtype for own in feed.values()] == [object, "f4", "f4", "f8", "f4"]
  session = onnxruntime.InferenceSession(path)
  reference = onnx.reference.ReferenceEvaluator(onnx.load(path))
  numbers = [[row[0], *(float(own[name][i, 0]) for name in list(feed)[1:])]
             for own in [feed] for i, row in enumerate(rows)]  # fmt: skip
  want = model.predict_proba(np.array(numbers, object))
  for run in (session.run, reference.run):
    label, probabilities = run(None, feed)
    np.testing.assert_allclose(probabilities, want, rtol=0, atol=1e-6)
    assert list(label) == list(model.predict(np.array(numbers, object)))


def test_a_mixed_model_comes_back_from_its_onnx_file(folder, tmp_path):
  model, path = fb.load(folder / "run"), tmp_path / "m.onnx"
  fb.export.write(model, path)
  again = fb.export.read(path)
  rows = [["red", None, 12.5, "03.02.2023", True], ["green", 4, None, None, False]]
  np.testing.assert_array_equal(again.predict_proba(rows), model.predict_proba(rows))
  fb.export.write(model, tmp_path / "m.npz")
  assert fb.export.read(tmp_path / "m.npz").encoding.states == model.encoding.states
  with pytest.raises(ValueError, match="words or missing numbers"):
    fb.export.write(model, tmp_path / "m.stablehlo")


def test_a_column_may_be_called_as_an_output_is(folder, tmp_path):
  model = fb.load(folder / "run")
  about = model.description
  names = ("label", "probabilities", "mean", "0.w", "x")
  states = [
    state._replace(column=state.column._replace(name=name))
    for state, name in zip(about.encoding.states, names, strict=True)
  ]
  about = about._replace(
    encoding=encodings.Encoding(states), features=tuple(s.column.name for s in states)
  )
  proto = fb.export.to_onnx(model.net, model.params, about=about)
  assert [x.name for x in proto.graph.input] == ["label'", "probabilities'", "mean'", "0.w'", "x"]


class Frame:
  """What is asked of a DataFrame of pandas or polars."""

  def __init__(self, **columns):
    self.own = {name: np.array(values) for name, values in columns.items()}
    self.columns = list(columns)

  def __getitem__(self, name):
    return self.own[name]


def test_a_frame_is_a_table(folder):
  days = np.array(["2023-02-03", "NaT"], "datetime64[ns]")
  frame = Frame(
    since=days, color=np.array(["red", None], object), price=[12.5, np.nan], age=[33, 40],
    member=np.array([True, None], object), other=[1, 2],
  )  # fmt: skip
  model = fb.load(folder / "run")
  text = [["red", "33", "12.5", "03.02.2023", "True"], ["", 40, None, None, None]]
  # Its dates have a type, and so no notation.
  numbers = [["red", 33.0, 12.5, 19391.0, 1.0], ["", 40.0, np.nan, np.nan, np.nan]]
  np.testing.assert_array_equal(model.predict_proba(text), model.predict_proba(numbers))
  np.testing.assert_array_equal(model.predict_proba(frame), model.predict_proba(numbers))


def test_a_frame_is_learned_from():
  frame = Frame(
    n=np.arange(40) % 7, zip=np.array(["04109", "70173"] * 20, object),
    when=np.arange("2024-01-01", "2024-02-10", dtype="datetime64[D]"),
    y=np.array(["u", "v"] * 20, object),
  )  # fmt: skip
  data = load_dataset(frame, 0, target=["y"])
  assert pairs(data) == [("n", "number"), ("zip", "word"), ("when", "date")]
  assert data.features == ("n", "when", "zip=04109", "zip=70173")
  assert data.x.shape == (30, 4)
  with pytest.raises(ValueError, match="is for csv files, frame has none"):
    load_dataset(frame, 0, target=["y"], decimal="comma")


# --- Arrays as other packages lay them out --------------------------------------------------------

PICTURES = RNG.integers(0, 256, (12, 4, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


@pytest.mark.parametrize(
  "names",
  [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("arr_0", "arr_1", "arr_2", "arr_3"),
  ],
)
def test_arrays_have_the_names_of_other_packages(tmp_path, names):
  labels = LABELS[:, None] if "images" in names[0] else LABELS  # MedMNIST's are [N, 1].
  parts = (PICTURES, labels, PICTURES[:6], labels[:6])
  more = {"val_images": PICTURES, "val_labels": labels} if "images" in names[0] else {}
  np.savez(tmp_path / "t.npz", **dict(zip(names, parts, strict=True)), **more)
  data = load_dataset(f"npz:{tmp_path}/t.npz", 0, standardize="off")
  assert (data.task, data.image_shape, len(data.x), len(data.x_test)) == (
    "classification", (4, 3), 12, 6
  )  # fmt: skip
  np.testing.assert_array_equal(data.x_test, PICTURES[:6].reshape(6, 12))
  np.testing.assert_array_equal(data.targets_test, LABELS[:6])


@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw", "emnist-letters"])
def test_files_of_mnist_lie_where_torchvision_puts_them(tmp_path, place):
  is_emnist = place.startswith("emnist")
  folder = tmp_path / ("" if is_emnist else place)
  folder.mkdir(parents=True, exist_ok=True)
  before, parts = ("emnist-letters-", ("train", "test")) if is_emnist else ("", ("train", "t10k"))
  images = PICTURES.transpose(0, 2, 1) if is_emnist else PICTURES
  for part in parts:
    for name, values in (("images-idx3", images), ("labels-idx1", LABELS)):
      head = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4) for n in values.shape)
      (folder / f"{before}{part}-{name}-ubyte").write_bytes(head + values.tobytes())
  data = load_dataset(f"idx:{tmp_path / place if is_emnist else tmp_path}", 0)
  assert data.image_shape == (4, 3)
  np.testing.assert_array_equal(data.x, np.float32(PICTURES.reshape(12, 12)) / 255)
