"""Every source gives what it says; a file that isn't what it must be is refused by its place."""

import inspect
import random

import numpy as np
import pytest
import sklearn.datasets
from sklearn.model_selection import train_test_split

from fbackprop.cli.config import TrainConfig
from fbackprop.extras import need
from fbackprop.train.data import built_in, formats, names
from fbackprop.train.data import csv_tables as tables
from fbackprop.train.data.built_in import load_digits
from fbackprop.train.data.csv_tables import read_csv, read_features
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.data.npz import read_npz, read_npz_features
from fbackprop.train.data.splits import stratified
from tests.support.hostile import gzipped, idx

# Examples to learn from and to test on, features, outputs, whether the features are standardised.
SIZES = {
  "digits": (1347, 450, 64, 10, False),
  "iris": (112, 38, 4, 3, True),
  "wine": (133, 45, 13, 3, True),
  "breast_cancer": (426, 143, 30, 2, True),
  "diabetes": (331, 111, 10, 1, True),
  "moons": (750, 250, 2, 2, False),
  "circles": (750, 250, 2, 2, False),
  "blobs": (750, 250, 2, 3, False),
  "spiral": (750, 250, 2, 2, False),
  "xor": (750, 250, 2, 2, False),
  "sine": (256, 256, 1, 1, False),
  "mnist1d": (4000, 1000, 40, 10, False),
}


def test_the_names_are_those_of_the_command_line():
  assert set(SIZES) == set(names.NAMES)
  listed = inspect.getdoc(TrainConfig).partition("  data: ")[2].partition("  target: ")[0]
  for name in (*names.NAMES, *(f"{kind}:{known.path}" for kind, known in formats.FORMATS.items())):
    assert name in listed, name


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_named_set(name):
  n, tested, features, outputs, standardized = SIZES[name]
  data = load_dataset(name, 3)
  assert (data.x.shape, data.x_test.shape) == ((n, features), (tested, features))
  assert (data.x.dtype, data.x_test.dtype) == (np.float32, np.float32)
  assert (data.outputs, len(data.output_names), len(data.features)) == (outputs, outputs, features)
  assert (data.standardization is not None) == standardized
  assert np.isfinite(data.x).all()
  assert data.inferred == ""
  again, other = load_dataset(name, 3), load_dataset(name, 4)
  np.testing.assert_array_equal(data.x, again.x)
  np.testing.assert_array_equal(data.targets, again.targets)
  assert (data.x != other.x).any()
  if data.is_classification:
    assert sorted(set(data.targets)) == sorted(set(data.targets_test)) == list(range(outputs))


@pytest.mark.parametrize("name", ["moons", "circles", "spiral", "xor"])
def test_no_line_tells_the_points_apart(name):
  data = load_dataset(name, 0)
  rows = np.column_stack([data.x, np.ones(len(data.x))])
  line = np.linalg.lstsq(rows, 2.0 * data.targets - 1, rcond=None)[0]
  assert ((rows @ line > 0) == data.targets).mean() < 0.9


@pytest.mark.slow
def test_mnist1d_leaves_the_global_generators_alone():
  random.seed(5)
  np.random.seed(5)
  want = random.random(), np.random.rand()
  random.seed(5)
  np.random.seed(5)
  load_dataset("mnist1d", 0)
  assert (random.random(), np.random.rand()) == want


DIGITS, SINE = load_dataset("digits", 0), load_dataset("sine", 0)


def arrays(dataset):
  return dataset.x, dataset.targets, dataset.x_test, dataset.targets_test


def test_digits_are_all_there_once_with_pixels_from_0_to_1():
  pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
  ours = np.column_stack(
    [np.r_[DIGITS.x, DIGITS.x_test], np.r_[DIGITS.targets, DIGITS.targets_test]]
  )
  theirs = np.column_stack([pixels / 16, labels])
  np.testing.assert_array_equal(sorted(map(tuple, ours)), sorted(map(tuple, theirs)))
  assert (DIGITS.x.min(), DIGITS.x.max(), DIGITS.image_shape) == (0, 1, (8, 8))


def test_digits_are_read_as_scikit_learn_reads_them():
  found, theirs = load_digits(), sklearn.datasets.load_digits()
  np.testing.assert_array_equal(found.x, (theirs.data / 16).astype(np.float32))
  np.testing.assert_array_equal(found.targets, theirs.target)
  assert found.features == tuple(theirs.feature_names)
  assert found.output_names == tuple(map(str, theirs.target_names))


def test_digits_are_read_through_scikit_learn_where_its_file_is_another_one(monkeypatch):
  monkeypatch.setattr(built_in, "find_spec", lambda name: None)
  np.testing.assert_array_equal(
    load_digits().x, (sklearn.datasets.load_digits().data / 16).astype(np.float32)
  )


SPLITS = [
  (7, 0.3, None, 0),
  (7, 3, None, 2**32 - 1),
  (40, 0.25, 3, 1),
  (41, 10, 5, 2),
  (9, 4, 4, 3),
]


@pytest.mark.parametrize(("n", "other", "classes", "seed"), SPLITS)
def test_splits_are_those_of_scikit_learn(n, other, classes, seed):
  labels = None if classes is None else np.random.default_rng(seed).integers(0, classes, n)
  labels = labels if labels is None else np.r_[np.arange(classes), np.arange(classes), labels][:n]
  want = train_test_split(np.arange(n), test_size=other, stratify=labels, random_state=seed)
  for ours, theirs in zip(stratified(n, other, labels, seed), want, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_split_without_a_row_of_each_class_in_each_part_is_refused():
  with pytest.raises(ValueError, match="6 rows of 3 classes into 4 and 2: each class needs a row"):
    stratified(6, 2, np.arange(6) % 3, 0)
  with pytest.raises(ValueError, match="each class needs a row in each part"):
    stratified(6, 3, np.array([0, 0, 0, 1, 1, 2]), 0)


def test_each_digit_is_in_both_parts():
  in_training, in_test = np.bincount(DIGITS.targets), np.bincount(DIGITS.targets_test)
  # A quarter of each class, up to the rounding that makes the sum 450.
  assert np.abs(in_test - 0.25 * (in_training + in_test)).max() <= 1


def test_sine_is_the_sine_on_a_period():
  assert [a.shape for a in arrays(SINE)] == [(256, 1)] * 4
  assert [a.dtype for a in arrays(SINE)] == [np.float32] * 4
  assert (SINE.name, SINE.outputs, SINE.image_shape) == ("sine", 1, None)
  assert not SINE.is_classification
  for x, y in ((SINE.x, SINE.targets), (SINE.x_test, SINE.targets_test)):
    # float32's sine, at most a few units in the last place of 1 from the float64 one.
    np.testing.assert_allclose(y, np.sin(x.astype(np.float64)), rtol=0, atol=3e-7)
    assert np.abs(x).max() <= np.float32(np.pi)


def test_sine_is_learned_at_random_and_tested_at_even_points():
  other = load_dataset("sine", 1)
  np.testing.assert_array_equal(load_dataset("sine", 1).x, other.x)
  assert (other.x != SINE.x).all()
  np.testing.assert_array_equal(other.x_test, SINE.x_test)
  # Ends are the period's; the steps differ by the rounding of numbers up to π in float32.
  np.testing.assert_allclose(np.diff(SINE.x_test[:, 0]), 2 * np.pi / 255, rtol=0, atol=5e-7)


def test_need_gives_the_module():
  assert need("sklearn.datasets", extra="data") is sklearn.datasets


def test_an_installed_package_that_lacks_a_module_is_not_asked_for_again():
  with pytest.raises(ModuleNotFoundError, match=r"sklearn\.no_such_part") as caught:
    need("sklearn.no_such_part", extra="data")
  assert "pip install" not in str(caught.value)


# --- Standardisation and the split ----------------------------------------------------------------


def test_standardisation_is_that_of_the_training_part():
  raw, own = load_dataset("wine", 0, standardize="off"), load_dataset("wine", 0)
  mean, scale = raw.x.mean(0, dtype=np.float64), raw.x.std(0, dtype=np.float64)
  np.testing.assert_allclose(own.x, (raw.x - mean) / scale, rtol=0, atol=1e-5)
  np.testing.assert_allclose(own.x_test, (raw.x_test - mean) / scale, rtol=0, atol=1e-5)
  np.testing.assert_allclose(own.x.mean(0), 0, atol=1e-6)
  assert np.abs(own.x_test.mean(0)).max() > 0.01  # The test part has had no say.


def test_a_regression_is_standardised_on_both_sides_and_back():
  raw, own = load_dataset("diabetes", 0, standardize="off"), load_dataset("diabetes", 0)
  np.testing.assert_allclose(own.target_standardization.undo(own.targets), raw.targets, rtol=1e-6)
  assert abs(own.targets.std() - 1) < 1e-5


TOO_FEW = [
  (["1,a", "2,b"], "2 examples: with a test_fraction of 0.25 one of the parts would have less"),
  (["1,a"] * 9 + ["2,b"], "class 'b' has 1 example, and needs one in each part; give it more, or"),
]


@pytest.mark.parametrize(("rows", "said"), TOO_FEW)
def test_too_few_to_split(tmp_path, rows, said):
  path = tmp_path / "t.csv"
  path.write_text("\n".join(["x,y", *rows]))
  with pytest.raises(ValueError, match=said):
    load_dataset(f"csv:{path}", 0, target=["y"])


# --- csv ------------------------------------------------------------------------------------------


def table(tmp_path, text, target=("y",), task=None):
  path = tmp_path / "t.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return read_csv(str(path), target, task)


def test_a_table_of_words(tmp_path):
  found = table(tmp_path, '\ufeffa,y,b\n1,"yes, it is",2\n-3e-1,no, 4\n\n5,no,6\n')
  np.testing.assert_array_equal(found.x, [[1, 2], [-0.3, 4], [5, 6]])
  assert found.features == ("a", "b")
  assert (found.task, found.output_names) == ("classification", ("no", "yes, it is"))
  assert (found.targets.tolist(), found.inferred) == ([1, 0, 0], "its values are words")


def test_quotes_and_blank_lines_are_read_as_most_programs_read_them(tmp_path):
  found = table(tmp_path, 'x,y\n\n"1" ,"a ""b""\n"\n  \n2,"b"c\n3,b"c\n')
  assert (found.x.tolist(), found.output_names) == ([[1], [2], [3]], ('a "b"', 'b"c', "bc"))


TOLD = [
  (["10", "9", "10", "2"], "classification", ("2", "9", "10")),
  (["1.0", "2.0"], "classification", ("1.0", "2.0")),
  (["True", "False"], "classification", ("False", "True")),
  (["20240131", "20240201"], "classification", ("20240131", "20240201")),
]


@pytest.mark.parametrize(("values", "task", "outputs"), TOLD)
def test_the_task_is_told_from_the_values(tmp_path, values, task, outputs):
  found = table(tmp_path, "x,y\n" + "".join(f"0,{v}\n" for v in values))
  assert (found.task, found.output_names) == (task, outputs)
  assert found.inferred


def test_the_task_can_be_given(tmp_path):
  text = "x,y,z\n0,1,0\n1,0,1\n"
  assert table(tmp_path, "x,y\n0,1\n1,0\n", task="regression").targets.dtype == np.float64
  assert table(tmp_path, text, ("y", "z")).targets.tolist() == [[1, 0], [0, 1]]
  assert table(tmp_path, text, ("y", "z"), "multilabel").task == "multilabel"


BAD_TABLES = [
  ("x,y\n1,a\n1e39,b\n", r"line 3, column 'x': a number was expected, got '1e39'"),
  ("x,y\n1,a\n1_0,b\n", r"line 3, column 'x': a number was expected, got '1_0'"),
  ('x,y\n"1\n",a\n2,b,c\n', r"line 4: 2 cells were expected, got 3"),
  ("x,\n1,a\n", r"each column must have a name of its own"),
  ("x,z\n1,a\n", r"has no column 'y'; its columns are x, z"),
  (b"x,y\n1,\xff\n", r"is not valid UTF-8: invalid start byte at byte 6"),
  ('x,y\n1,"a\n', r"is not a csv file: unexpected end of data, in line 2"),
  ('x,"y\n1,a\n', r"is not a csv file: unexpected end of data"),
  ('x,y\n1,a\n""\n2,b\n', r"line 3: 2 cells were expected, got 1"),
]


@pytest.mark.parametrize(("text", "said"), BAD_TABLES)
def test_a_bad_table_is_refused_by_line_and_column(tmp_path, text, said):
  with pytest.raises(ValueError, match=said):
    table(tmp_path, text)


def test_a_table_has_a_bound(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "MOST_CELLS", 9)  # Three rows of two cells: a row counts for one.
  assert len(table(tmp_path, "x,y\n1,2\n3,4\n5,6\n").x) == 3
  with pytest.raises(ValueError, match=r"t\.csv has more than 9 cells; write them by numpy\.savez"):
    table(tmp_path, "x,y\n1,2\n3,4\n5,6\n7,8\n")


def test_the_place_of_a_byte_is_that_in_the_file(tmp_path):
  text = "x,y\n" + "1,2\n" * 50_000
  with pytest.raises(ValueError, match=f"invalid start byte at byte {len(text)}$"):
    table(tmp_path, text.encode() + b"\xff,1\n")


def test_targets_that_do_not_fit_their_task(tmp_path):
  with pytest.raises(ValueError, match="the targets of several labels must be 0 or 1"):
    table(tmp_path, "x,y\n1,2\n", task="multilabel")
  with pytest.raises(ValueError, match="a classification has one target column, got y, z"):
    table(tmp_path, "x,y,z\n1,2,3\n", ("y", "z"), "classification")
  with pytest.raises(ValueError, match="needs the name of a target column; its columns are x, y"):
    table(tmp_path, "x,y\n1,2\n", ())


def test_features_go_by_name(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("b,note,a\n1,hello,2\n3,,4\n")
  np.testing.assert_array_equal(read_features(str(path), ["a", "b"]), [[2, 1], [4, 3]])
  with pytest.raises(ValueError, match="has no column 'c', which the model was trained on"):
    read_features(str(path), ["a", "c"])


# --- npz ------------------------------------------------------------------------------------------


def archive(tmp_path, **arrays):
  path = tmp_path / "t.npz"
  np.savez(path, **arrays)
  return str(path)


def test_an_archive_of_pictures(tmp_path):
  pictures = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
  labels = np.array(["b", "a", "b", "c"])
  path = archive(tmp_path, X=pictures, labels=labels, X_test=pictures[:2], labels_test=labels[:2])
  found = read_npz(path, (), None)
  assert (found.x.shape, found.image_shape, found.output_names) == ((4, 6), (2, 3), ("a", "b", "c"))
  assert (found.targets.tolist(), found.targets_test.tolist()) == ([1, 0, 1, 2], [1, 0])
  assert found.inferred == "its values are words"
  np.testing.assert_array_equal(read_npz_features(path, [""] * 6), found.x)


def test_an_archive_of_numbers(tmp_path):
  path = archive(tmp_path, x=np.ones((3, 2)), depth=np.array([0.5, 1.0, 2.0]))
  found = read_npz(path, ("depth",), None)
  assert (found.task, found.targets.shape, found.inferred) == (
    "regression", (3, 1), "its values are numbers",
  )  # fmt: skip


X = np.ones((3, 2))


BAD_ARCHIVES = [
  ({"x": X, "y": np.ones((3, 1, 1))}, r"y must be \[3\] or \[3, C\]"),
  ({"x": X, "y": np.array([1.0, np.inf, 2])}, "y must be finite"),
  ({"x": np.ones((0, 2)), "y": np.ones(0)}, r"x must be numbers \[N, ...\]"),
  ({"x": X, "y": np.arange(3), "x_test": X, "y_test": np.arange(3) + 1},
   "y_test must be one of the training labels"),
  ({"x": X, "y": np.ones(3), "x_test": X[:, :1], "y_test": np.ones(3)},
   r"x_test must be \[3, 2\], got \[3, 1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "said"), BAD_ARCHIVES)
def test_a_bad_archive_is_refused(tmp_path, arrays, said):
  with pytest.raises(ValueError, match=said):
    read_npz(archive(tmp_path, **arrays), (), None)


def test_what_is_no_archive_is_refused(tmp_path):
  (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 broken")
  with pytest.raises(ValueError, match=r"t\.npz is no npz file that can be read"):
    read_npz(str(tmp_path / "t.npz"), (), None)


# --- idx ------------------------------------------------------------------------------------------


def mnist(folder, is_gzipped):
  rng = np.random.default_rng(0)
  for part, count in (("train", 6), ("t10k", 2)):
    pictures = rng.integers(0, 256, (count, 3, 4), np.uint8)
    for name, array in (
      (f"{part}-images-idx3-ubyte", pictures),
      (f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8)),
    ):
      content = gzipped(idx(array)) if is_gzipped else idx(array)
      (folder / f"{name}{'.gz' * is_gzipped}").write_bytes(content)
  return str(folder)


@pytest.mark.parametrize("is_gzipped", [True, False])
def test_the_files_of_mnist(tmp_path, is_gzipped):
  data = load_dataset(f"idx:{mnist(tmp_path, is_gzipped)}", 0)
  assert (data.x.shape, data.x_test.shape, data.image_shape) == ((6, 12), (2, 12), (3, 4))
  assert (data.targets.tolist(), data.outputs) == (list(range(6)), 6)
  assert data.x.max() <= 1
  want = np.random.default_rng(0).integers(0, 256, (6, 3, 4), np.uint8).reshape(6, -1) / 255
  np.testing.assert_allclose(data.x, want, rtol=1e-6)
