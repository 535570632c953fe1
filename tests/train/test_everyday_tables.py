"""Numbers as people's tables have them: none is changed, merged or left out without a word."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.data.csv_tables import read_csv, read_features
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.data.npz import read_npz
from fbackprop.train.data.rows import fit_standardization
from fbackprop.train.data.targets import infer_task
from fbackprop.train.models import Description, Model, load_model
from fbackprop.train.scores import score
from tests.support.runs import descend

pytestmark = pytest.mark.usefixtures("all_undrawn")
RNG = np.random.default_rng(7)
N = 64
SHORT = ["--stop.max-steps", "20", "--hidden", "8", "--eval-every", "20", "--check-every", "0"]


def write(path, columns, separator=","):
  """A table of columns by their names; a float has all of its digits."""
  lines = [separator.join(columns)]
  for row in zip(*columns.values(), strict=True):
    lines.append(separator.join(v if isinstance(v, str) else repr(v) for v in row))
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def loaded(path, target="y", **options):
  return load_dataset(f"csv:{path}", 0, target=[target], **options)


# --- Numbers --------------------------------------------------------------------------------------

COLUMNS = {
  "unix times": [1.7e9 + 0.5 * i for i in range(N)],
  "ids": [2**24 + i for i in range(N)],
  "dates": [20240101 + i for i in range(N)],
  "metres": [4_500_000.01 + 0.01 * i for i in range(N)],
  "cents": [10**10 + i for i in range(N)],
  "nanoseconds": [1_700_000_000_000_000_000 + 1024 * i for i in range(N)],
  "small": [1e-30 * i for i in range(N)],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_column_far_from_zero_keeps_every_value(tmp_path, name, kind):
  column, labels = COLUMNS[name], [i % 2 for i in range(N)]
  if kind == "csv":
    data = loaded(write(tmp_path / "t.csv", {"a": column, "y": labels}))
  else:
    np.savez(tmp_path / "t.npz", x=np.array(column)[:, None], y=labels)
    data = load_dataset(f"npz:{tmp_path}/t.npz", 0)
  assert data.notes == ()
  own = np.concatenate([data.x, data.x_test])[:, 0]
  assert len(np.unique(own)) == N
  raw = np.sort(np.float64(column))
  want = (raw - raw.mean()) / raw.std()
  # The training part's own mean and deviation are near those of all.
  np.testing.assert_allclose(np.corrcoef(np.sort(own), want)[0, 1], 1, rtol=0, atol=1e-6)


def test_the_numbers_are_those_of_the_text(tmp_path):
  """Each the float64 nearest to it, as Python reads it."""
  words = ["0.1", "1e-320", "9007199254740993", "3.4e38", "-0.0", " +.5 ", "1E3", "8.41",
           "2.2250738585072011e-308", "123456789.123456789"]  # fmt: skip
  words += [f"{v:.20f}" for v in RNG.uniform(0, 1e9, 50)]
  (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{word},1\n" for word in words))
  found = read_features(str(tmp_path / "t.csv"), ["a"])[:, 0]
  np.testing.assert_array_equal(found, [float(word) for word in words])


@pytest.mark.slow
def test_tables_need_no_scikit_learn(tmp_path, monkeypatch):
  """Neither for their split nor for the scores of their report."""
  x = RNG.normal(size=(N, 2))
  np.savez(tmp_path / "t.npz", x=x, y=np.arange(N) % 2, values=x[:, 0])
  monkeypatch.setitem(sys.modules, "sklearn", None)
  flags = ["--data", f"npz:{tmp_path}/t.npz", "--out", str(tmp_path / "runs"), *SHORT]
  for target in ("y", "values"):
    assert main(["train", *flags, "--target", target, "--stop.max-steps", "2"]) == 0


def test_a_model_takes_raw_rows_of_any_kind(tmp_path):
  """Standardised in float64, whoever holds the rows."""
  raw = np.array([[2**24 + 1.0], [2**24 + 2.0], [2**24 + 3.0]])
  own = fit_standardization(raw)
  about = Description((1, 1), "identity", "regression", ("y",), ("a",), own, own)
  model = Model(about, ((fb.dense(1, 1).init(jax.random.key(0))._replace(
    w=jnp.ones((1, 1)), b=jnp.zeros(1))),))  # fmt: skip
  for x in (raw, raw.astype(np.int64), raw.astype(">i4")):
    np.testing.assert_allclose(model.outputs(x), raw, rtol=1e-15, atol=1e-6)
  with pytest.raises(ValueError, match=r"column 'a', row 1: 3.67.*\+300, which .* is too large f"):
    model.outputs(np.array([[0.0], [3e300]]))


def test_a_column_of_true_and_false_is_one_and_zero(tmp_path):
  (tmp_path / "t.csv").write_text("a,b,y\nTrue,1,u\nFALSE,0,v\ntrue,1,u\n")
  assert read_csv(str(tmp_path / "t.csv"), ["y"], None).x.tolist() == [[1, 1], [0, 0], [1, 1]]
  (tmp_path / "t.csv").write_text("a,y\nTrue,u\n0,v\n")
  with pytest.raises(ValueError, match="line 2, column 'a': a number was expected, got 'True'"):
    read_csv(str(tmp_path / "t.csv"), ["y"], None)


def test_tabs_divide_a_tsv_file(tmp_path):
  path = write(tmp_path / "t.tsv", {"a, b": [1, 2], "y": ["u", "v"]}, "\t")
  found = read_csv(path, ["y"], None)
  assert (found.features, found.output_names) == (("a, b",), ("u", "v"))


LAYOUTS = [
  (lambda x: x.astype(np.float16), np.float32),
  (lambda x: x.astype(">f4"), np.float32),
  (lambda x: x.astype(">f8"), np.float64),
  (np.asfortranarray, np.float64),
  (lambda x: x.astype(np.int64), np.float64),
  (lambda x: x.astype(np.uint8), np.float32),
  (lambda x: x > 4, np.float32),
  (lambda x: x.astype(np.longdouble), np.float64),
]


@pytest.mark.parametrize(
  ("make", "kind"),
  LAYOUTS,
  ids=["float16", "big-endian f4", "big-endian f8", "Fortran", "int64", "uint8", "bool", "long"],
)
def test_arrays_of_any_layout_hold_the_same_numbers(tmp_path, make, kind):
  x = make(np.arange(24.0).reshape(8, 3) / 2)
  np.savez(tmp_path / "t.npz", x=x, y=np.array([b"a", b"b"] * 4))
  found = read_npz(str(tmp_path / "t.npz"), (), None)
  assert (found.x.dtype, found.output_names) == (kind, ("a", "b"))
  np.testing.assert_array_equal(found.x, x.astype(np.float64))


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_integers_that_float64_cannot_tell_apart_are_said(tmp_path, kind):
  ids = [2**53 + i for i in range(31)]
  if kind == "csv":
    data = loaded(write(tmp_path / "t.csv", {"id": ids, "y": [i % 2 for i in range(31)]}))
  else:
    np.savez(tmp_path / "t.npz", x=np.array(ids)[:, None], y=np.arange(31) % 2)
    data = load_dataset(f"npz:{tmp_path}/t.npz", 0)
  name = "id" if kind == "csv" else "x0"
  kept = len({float(i) for i in ids})
  assert data.notes[0] == f"column {name!r} as float64: kept {kept} of 31 distinct values"


@pytest.mark.slow
def test_a_column_that_loses_values_or_has_only_one_is_said(tmp_path, capsys):
  wide = [*(i * 1e12 for i in range(9)), *(i * 1e-3 for i in range(1, 23))]
  columns = {"wide": wide, "one": [0.1] * 31, "y": [i % 2 for i in range(31)]}
  path = write(tmp_path / "t.csv", columns)
  data = loaded(path)
  constant, lost = data.notes
  assert constant == "constant in the training part: one"
  kept = len(np.unique(np.concatenate([data.x, data.x_test])[:, 0]))
  assert kept < 31
  assert lost == f"column 'wide' as float32: kept {kept} of 31 distinct values"
  np.testing.assert_array_equal(data.x[:, 1], 0)
  flags = ["--data", f"csv:{path}", "--target", "y", "--out", str(tmp_path), *SHORT]
  assert main(["train", *flags]) == 0
  said = capsys.readouterr().out
  assert all(note in said.splitlines() for note in data.notes)


def test_without_standardisation_an_offset_is_said(tmp_path):
  path = write(tmp_path / "t.csv", {"t": COLUMNS["unix times"], "y": [i % 2 for i in range(N)]})
  kept = len(np.unique(np.float32(COLUMNS["unix times"])))
  notes = loaded(path, standardize="off").notes
  assert notes == (f"column 't' as float32: kept {kept} of 64 distinct values",)


def test_random_numbers_lose_nothing_that_is_said(tmp_path):
  np.savez(tmp_path / "t.npz", x=RNG.normal(size=(20_000, 3)), y=RNG.normal(size=20_000))
  assert load_dataset(f"npz:{tmp_path}/t.npz", 0).notes == ()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_standardisation_is_right_at_any_size_and_offset(scale):
  x = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]]) * scale
  found = fit_standardization(x)
  np.testing.assert_allclose(found.wide(x)[:, 0].std(), 1)
  np.testing.assert_array_equal(found.wide(x)[:, 1], 0)
  far = fit_standardization(2.0**52 + x) if scale == 1 else found
  np.testing.assert_allclose(far.scale, found.scale)


# --- Training and scores --------------------------------------------------------------------------


NET = fb.mlp([2, 8, 2], fb.tanh)
INIT, STEP = fb.train.make_step(NET, fb.softmax_cross_entropy, fb.train.gradient_descent(0.5))
STEP = jax.jit(STEP)


def accuracy_of(data):
  """Of the test part, after a few steps."""
  state, batch = INIT(jax.random.key(0)), fb.train.Batch(data.x, data.targets)
  for _ in range(60):
    state, _ = STEP(state, batch)
  return (NET.forward(state.params, data.x_test)[0].argmax(1) == data.targets_test).mean()


BASE = np.round(RNG.normal(size=(200, 2)), 3)
BASE = BASE[np.abs(BASE[:, 0] - BASE[:, 1]) > 0.3][:N]  # So that no rounding makes another label.
KINDS = (BASE[:, 0] > BASE[:, 1]).astype(int)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
  offsets=st.tuples(*[st.floats(-1e9, 1e9)] * 2),
  scales=st.tuples(*[st.floats(1e-3, 1e6)] * 2),
  signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 2),
)
def test_an_affine_change_of_each_column_changes_no_accuracy(
  tmp_path_factory, offsets, scales, signs
):
  folder = tmp_path_factory.mktemp("affine")
  changed = np.array(offsets) + np.array(scales) * BASE * signs
  plain = write(folder / "a.csv", {"a": BASE[:, 0].tolist(), "b": BASE[:, 1].tolist(),
                                   "y": KINDS.tolist()})  # fmt: skip
  other = write(folder / "b.csv", {"a": changed[:, 0].tolist(), "b": changed[:, 1].tolist(),
                                   "y": KINDS.tolist()})  # fmt: skip
  first, second = loaded(plain), loaded(other)
  np.testing.assert_allclose(second.x * np.float32(signs), first.x, rtol=0, atol=1e-3)
  for part in (second.x, second.x_test):  # The same network, but for signs of its first weights.
    part *= np.float32(signs)
  assert accuracy_of(second) == accuracy_of(first) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_a_regression_is_scored_against_the_numbers_of_the_file(tmp_path, capsys, offset):
  """The rmse doesn't know of the offset, and no constant answer is a good one."""
  y = [offset + v for v in (BASE[:, 0] ** 2).tolist()]
  path = write(tmp_path / "t.csv", {"a": BASE[:, 0].tolist(), "y": y})
  flags = ["--data", f"csv:{path}", "--target", "y", "--out", str(tmp_path), *SHORT]
  assert main(["train", *flags, "--stop.max-steps", "1", "--rate", "1e-30"]) == 0
  capsys.readouterr()
  assert main(["eval", str(tmp_path / "t-1")]) == 0
  said = capsys.readouterr().out
  own = loaded(path)
  model = load_model(tmp_path / "t-1" / "model.safetensors")
  x = read_features(path, ["a"])
  outputs = model.outputs(x)
  assert outputs.dtype == np.float64
  want = np.sqrt(np.mean((outputs[:, 0] - np.array(y)) ** 2))
  assert score(model, x, np.array(y)[:, None])["rmse"] == pytest.approx(want, rel=1e-12)
  assert float(said.split("rmse")[1].split()[0]) > 0.3
  np.testing.assert_array_equal(np.sort(own.raw_targets_test[:, 0])[0] in y, True)
  assert main(["predict", str(tmp_path / "t-1"), "--data", f"csv:{path}"]) == 0
  printed = capsys.readouterr().out.split()[1:]
  assert [float(word) for word in printed] == outputs[:, 0].tolist()


def test_numbers_that_fit_would_change_are_refused_or_said():
  """`fit` takes arrays as they are, and JAX makes float32 and int32 of them."""
  x, labels = RNG.normal(size=(N, 2)), KINDS

  def fit(x, targets, loss=fb.softmax_cross_entropy, outputs=2):
    return descend(fb.mlp([2, outputs]), (x, targets), 2, loss=loss)

  want = fit(x, labels).losses
  for same in (x.astype(">f8"), np.asfortranarray(x)):
    np.testing.assert_array_equal(fit(same, labels.astype(">i8")).losses, want)
  with pytest.warns(UserWarning, match=r"fit: column 'data.x\[:, 1\]' as float32: kept 1 of 64 d"):
    fit(np.stack([x[:, 0], COLUMNS["unix times"]], 1), labels)
  with pytest.warns(UserWarning, match=r"'data.targets\[:, 0\]' as float32: kept 1 of 64 distinct"):
    fit(x, np.array(COLUMNS["unix times"])[:, None], fb.squared_error, 1)
  with pytest.raises(ValueError, match=r"data.targets must fit into int32, got 429496729\d at"):
    fit(x, labels + 2**32)
  with pytest.raises(ValueError, match=r"data.x must be finite, got -?inf at"):
    fit(x * 1e39, labels)
  with pytest.raises(TypeError, match=r"data.x must have a dtype that JAX has too, got float128"):
    fit(x.astype(np.longdouble), labels)
  with pytest.raises((TypeError, ValueError), match="targets"):
    fit(x, np.array(1.0))


# --- One inference of the task --------------------------------------------------------------------

TARGETS = {
  "0.0 and 1.0": ([0.0, 1.0] * 8, "classification"),
  "whole numbers": ([3, 5, 7, 9] * 4, "classification"),
  "words": (["u", "v"] * 8, "classification"),
  "words that are numbers": (["1", "2"] * 8, "classification"),
  "one number": ([2.0] * 16, "classification"),
  "halves": ([0.5, 1.0] * 8, "regression"),
  "many whole numbers": (list(range(10, 42)), "regression"),
  "many labels": (list(range(40)) * 5, "classification"),
  "many labels from 1": (list(range(1, 41)) * 5, "classification"),
  "many labels, one missing": ([i for i in range(40) if i != 7] * 5, "regression"),
  "negative labels": ([-1, 1] * 8, "classification"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_csv_npz_and_arrays_are_of_one_task(tmp_path, name):
  values, task = TARGETS[name]
  n = len(values)
  path = write(tmp_path / "t.csv", {"a": list(range(n)), "y": values})
  found = [read_csv(path, ["y"], None)]
  for i, y in enumerate((np.array(values), np.array(values)[:, None])):
    np.savez(tmp_path / f"{i}.npz", x=np.arange(n), y=y)
    found.append(read_npz(str(tmp_path / f"{i}.npz"), (), None))
    if y.dtype.kind != "U":
      assert infer_task(y)[0] == task
  assert [own.task for own in found] == [task] * 3
  for own in found:
    assert own.inferred == found[0].inferred
    np.testing.assert_array_equal(own.targets, found[0].targets)


def test_labels_of_a_column_of_one_may_be_called_a_classification(tmp_path):
  y = np.arange(12, dtype=np.uint8).reshape(-1, 1) % 3
  np.savez(tmp_path / "t.npz", x=np.ones((12, 2)), y=y, x_test=np.ones((3, 2)), y_test=y[:3, 0])
  for task in (None, "classification"):
    found = read_npz(str(tmp_path / "t.npz"), (), task)
    assert (found.targets.tolist(), found.targets_test.tolist()) == ([0, 1, 2] * 4, [0, 1, 2])
  assert read_npz(str(tmp_path / "t.npz"), (), "regression").targets.shape == (12, 1)


def test_equal_numbers_are_one_class(tmp_path):
  path = write(
    tmp_path / "t.csv", {"a": list(range(6)), "y": ["1", "1.0", "0", "0.0", "1e0", "-0"]}
  )
  found = read_csv(path, ["y"], None)
  assert (found.output_names, found.targets.tolist()) == (("0", "1"), [1, 1, 0, 0, 1, 0])


@pytest.mark.parametrize("hole", ["", "NA", "?", "nan", "None", "n/a", "-", "unknown", " "])
def test_a_hole_among_numbers_is_named_and_left_out(tmp_path, hole):
  values = [repr(float(i) / 4) for i in range(40)]
  values[3] = values[30] = hole
  path = write(tmp_path / "t.csv", {"a": list(range(40)), "y": values, "w": [1] * 40})
  got = "an empty cell" if not hole.strip() else repr(hole)
  said = "line 5, column 'y': the target is missing (2 in all; --missing-targets drop drops such r"
  for task in (None, "regression"):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
      read_csv(path, ["y"], task)
    assert str(caught.value).endswith(f", got {got}")
    found = read_csv(path, ["y"], task, "w", "drop")
    assert (found.task, len(found.x), len(found.weights)) == ("regression", 38, 38)
    assert 3 not in found.x[:, 0]
    assert found.notes == (f"{path}: 2 of 40 rows left out, as they have no target",)


def test_a_word_among_numbers_is_no_class(tmp_path):
  values = [f"{i / 4}" for i in range(40)]
  values[3] = "less than 1"
  path = write(tmp_path / "t.csv", {"a": list(range(40)), "y": values})
  with pytest.raises(ValueError, match="line 5, column 'y': a number was expected, got 'less than"):
    read_csv(path, ["y"], None)
  assert len(read_csv(path, ["y"], "classification").output_names) == 40


def test_a_hole_among_words_is_named_left_out_or_a_class(tmp_path):
  values = ["mild", "None", "severe", "mild", "", "severe"]
  path = write(tmp_path / "t.csv", {"a": list(range(6)), "y": values})
  with pytest.raises(ValueError, match=r"line 3, column 'y': the target is missing .*, class tak"):
    read_csv(path, ["y"], None)
  with pytest.raises(ValueError, match=r"line 6, column 'y': the target is missing .* empty cell"):
    read_csv(path, ["y"], None, None, "class")
  assert read_csv(path, ["y"], None, None, "drop").output_names == ("mild", "severe")
  np.savez(tmp_path / "t.npz", x=np.arange(6), y=values)
  with pytest.raises(ValueError, match=r"y, row 1: the target is missing \(2 in all"):
    read_npz(str(tmp_path / "t.npz"), (), None)
  assert read_npz(str(tmp_path / "t.npz"), (), None, None, "drop").targets.tolist() == [0, 1, 0, 1]
  every = write(tmp_path / "u.csv", {"a": [1, 2], "y": ["NA", ""]})
  with pytest.raises(ValueError, match="no row has a target"):
    read_csv(every, ["y"], None, None, "drop")


def test_holes_of_an_array_are_left_out_of_both_parts(tmp_path):
  y = np.array([0.5, np.nan, 1.5, 2.5])
  x, w = np.arange(4), np.ones(4)
  np.savez(tmp_path / "t.npz", x=x, y=y, x_test=x, y_test=y[::-1], w=w)
  found = read_npz(str(tmp_path / "t.npz"), (), None, "w", "drop")
  assert (found.x[:, 0].tolist(), found.x_test[:, 0].tolist()) == ([0, 2, 3], [0, 1, 3])
  assert (len(found.weights), len(found.notes)) == (3, 2)


def test_labels_that_are_no_labels_are_refused_with_the_reason(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rows = [f"{i},${i}.5" for i in range(20)]
  Path("money.csv").write_text("a,price\n" + "\n".join(rows))
  with pytest.raises(ValueError, match=r"'price' was taken for labels of 20 classes \('\$0.5', "):
    load_dataset("csv:money.csv", 0, target=("price",))
  Path("one.csv").write_text("a,y\n" + "\n".join(f"{i},yes" for i in range(20)))
  with pytest.raises(ValueError, match="there is nothing to learn, as each label is 'yes'"):
    load_dataset("csv:one.csv", 0, target=("y",))


@pytest.mark.parametrize("step", [1, 2**40])
def test_whole_numbers_beyond_float64_are_one_task_in_either_format(step, tmp_path):
  values = [2**60 + step * (i % 2 if step == 1 else i) for i in range(60)]
  x = np.arange(60.0)[:, None]
  np.savez(tmp_path / "t.npz", x=x, y=np.array(values))
  rows = "\n".join(f"{a},{y}" for a, y in zip(x[:, 0], values, strict=True))
  (tmp_path / "t.csv").write_text("a,y\n" + rows)
  data = [load_dataset(f"npz:{tmp_path}/t.npz", 0),
          load_dataset(f"csv:{tmp_path}/t.csv", 0, target=("y",))]  # fmt: skip
  assert data[0].task == data[1].task == ("classification" if step == 1 else "regression")
  assert data[0].outputs == data[1].outputs
  np.testing.assert_array_equal(data[0].targets, data[1].targets)


def test_targets_in_float16_raise_no_warning(tmp_path):
  np.savez(tmp_path / "t.npz", x=np.arange(40.0)[:, None], y=np.arange(40).astype(np.float16) / 8)
  assert load_dataset(f"npz:{tmp_path}/t.npz", 0).task == "regression"
