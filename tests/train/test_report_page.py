"""The page of a run: one file that is whole, harmless, and right in what it says."""

import csv
import re
import shlex
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn import metrics

import fbackprop as fb
from fbackprop.cli.config import GENERAL, settings
from fbackprop.cli.train import parse
from fbackprop.cli.training import told_of
from fbackprop.combinators import name_layers
from fbackprop.live_check import LiveCheck
from fbackprop.train import report
from fbackprop.train.data.datasets import Dataset, load_dataset
from fbackprop.train.data.rows import fit_standardization
from fbackprop.train.metrics import Evaluation
from fbackprop.train.models import Model, describe_model
from fbackprop.train.report import documents, figures, headline, layers, predictions, tables
from fbackprop.train.results import BestEpoch, Result
from fbackprop.train.step import State, layer_names
from tests.support.pages import Reader
from tests.train.test_report import drawn

RNG = np.random.default_rng(0)
SCRIPT = "<script>alert(1)</script>"


class Page(Reader):
  """A page with its words, and its tables by their names."""

  def __init__(self, page):
    self.words, self.tables = [], {}
    super().__init__(page.decode("utf-8"))

  def handle_starttag(self, tag, attributes):
    names = [name for name, _ in attributes]
    assert len(set(names)) == len(names), self.get_starttag_text()
    super().handle_starttag(tag, attributes)
    if tag == "table":
      (kind, box) = self.elements[-2]
      assert (kind, box["class"]) == ("div", "scroll")  # So that a phone can scroll it.
      self.rows = self.tables[box["aria-label"]] = []
    elif tag == "tr":
      self.rows.append([])
    elif tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_data(self, data):
    if self.open and self.open[-1] != "style":
      self.words.append(data)
      if {"td", "th"} & set(self.open):
        self.rows[-1][-1] += data

  @property
  def text(self):
    return " ".join(" ".join(self.words).split())


# --- Runs without a run: a network as it begins, and what could have been measured ----------------


def made(task, outputs, features=3, **more):
  """Standardised examples, 40 and 12, of a task."""
  raw, raw_test = (RNG.normal(size=(n, features)) * 7 + 20 for n in (40, 12))
  own = fit_standardization(raw)
  x, x_test = (np.float32(own.wide(part)) for part in (raw, raw_test))
  of_targets = None
  if task == "classification":
    targets, targets_test = (np.arange(n, dtype=np.int32) % outputs for n in (40, 12))
  elif task == "multilabel":
    targets, targets_test = ((RNG.random((n, outputs)) < 0.4).astype(np.float32) for n in (40, 12))
  else:
    targets, targets_test = (RNG.normal(size=(n, outputs)) * 50 + 100 for n in (40, 12))
    of_targets = fit_standardization(targets)
    targets, targets_test = (np.float32(of_targets.wide(part)) for part in (targets, targets_test))
  names = tuple(f"class {i}" for i in range(outputs))
  columns = tuple(f"column {i}" for i in range(features))
  return Dataset(
    x, targets, task, names, columns, x_test, targets_test, name="made",
    standardization=own, target_standardization=of_targets, **more,
  )  # fmt: skip


def model_of(dataset, hidden=(5,), activation="relu"):
  """A network with parameters that took no compilation."""
  sizes = (dataset.x.shape[1], *hidden, dataset.outputs)
  description = describe_model(sizes, activation, dataset)
  shapes = jax.eval_shape(description.net.init, jax.random.key(0))

  def drawn(leaf):
    return jnp.asarray(RNG.normal(size=leaf.shape).astype(np.float32))

  return Model(description, jax.tree.map(drawn, shapes))


def seen_of(dataset, hidden=(5,), activation="relu"):
  """The network, and what passes through it."""
  model = model_of(dataset, hidden, activation)
  return model, signals_of(model, dataset)


def outputs_of(dataset, *network, **options):
  model, signals = seen_of(dataset, *network, **options)
  return model, np.asarray(list(signals.values())[-1].y)


def signals_of(model, dataset):
  look = jax.jit(fb.inspect(model.description.net, model.description.loss))
  return look(model.params, dataset.x_test, dataset.targets_test)


def result_of(model, steps=3, reason="max_steps", diverged_at=None, checks=()):
  names = tuple(layer_names(model.params))
  rows = steps + (diverged_at is not None)
  losses, norms = np.linspace(2, 1, rows), np.ones((rows, len(names)))
  if diverged_at is not None:
    losses[-1], norms[-1] = np.inf, np.nan
  last = Evaluation(steps, 1.0, 1.5 if steps else None, 1.25, None, (), None, 0.1)
  state = State(jnp.int32(steps), model.params, (), jax.random.key(0))
  return Result(state, reason, losses, norms, names, (last,), checks, diverged_at, False, 1, 0, 2)


def told_in(folder):
  return report.RunInfo(
    folder, "gradient descent", 7, [("rate", "0.1", True)], {"jax": "1"}, "again", "once"
  )


def digits():
  """A few of them, so that the network is small."""
  every = load_dataset("digits", 0)
  return replace(every, x=every.x[:20], targets=every.targets[:20])


PAGES = {
  # Data, arguments of the network, those of the result, panels. The others' panels are drawn, but
  # not written: that takes as long as all the rest.
  "pictures, linear": (digits, {"hidden": ()}, {}, 6),
  "the plane": (lambda: load_dataset("moons", 0), {"activation": "tanh"}, {}, 7),
  "labels": (lambda: made("multilabel", 3), {}, {}, 7),
  "values, diverged": (
    lambda: made("regression", 2), {}, {"reason": "diverged", "diverged_at": "update"}, 6,
  ),
  "a function, no steps": (lambda: load_dataset("sine", 0), {}, {"steps": 0}, 8),
}  # fmt: skip


WRITTEN = ("values, diverged",)


def drawn_only(panel):
  panel.draw(Figure(figsize=panel.size).subplots())
  return f'<svg role="img" aria-label="{panel.name}"></svg>'


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_asks_nobody_for_anything(name, tmp_path, monkeypatch):
  data, network, course, count = PAGES[name]
  if name not in WRITTEN:
    monkeypatch.setattr(figures, "svg_of", drawn_only)
  dataset = data()
  if dataset.task == "regression":  # Which needs no scikit-learn.
    monkeypatch.setitem(sys.modules, "sklearn", None)
  model, signals = seen_of(dataset, **network)
  if "diverged" in name:
    # The last good parameters may be so large that outputs overflow.
    model = model._replace(params=jax.tree.map(lambda leaf: leaf * 1e38, model.params))
    signals = signals_of(model, dataset)
  (tmp_path / "config.toml").write_text("rate = 1\n")
  page = report.draw_page(told_in(tmp_path), result_of(model, **course), dataset, signals, model)
  assert len(page) < 500_000
  read = Page(page)

  ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
  assert len(set(ids)) == len(ids)
  allowed = re.compile(r"data:image/png;base64,|#|config\.toml$")
  for tag, attributes in read.elements:
    assert tag not in ("script", "link", "iframe", "object", "base")
    assert not [key for key in attributes if key.startswith("on")]
    for key in ("src", "href", "xlink:href"):
      assert key not in attributes or allowed.match(attributes[key])
  assert "url(" not in re.sub(r"url\(#", "", page.decode())
  labelled = [a["aria-label"] for tag, a in read.elements if tag == "svg" and a["role"] == "img"]
  assert len(set(labelled)) == count
  assert all(a["alt"] for tag, a in read.elements if tag == "img")

  assert not re.search(r"\b(nan|inf|None)\b", read.text)
  assert ("not finite" in read.text) == ("diverged" in name)
  assert ("Decision boundary" in labelled) == (name == "the plane")
  assert sum(tag == "img" for tag, _ in read.elements) == 12 * ("pictures" in name)
  assert ["config.toml", "9 bytes", "the configuration"] in read.tables["Files"]


# --- What it says ---------------------------------------------------------------------------------


def plain(table):
  """The words of a table, and its numbers as text."""
  return [[cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows]


def test_scores_of_classes_are_those_of_scikit_learn():
  dataset = made("classification", 4)
  outputs = RNG.normal(size=(12, 4)).astype(np.float32)
  outputs[:, 3] = -9  # Never told, so that its precision isn't known.
  rows = plain(tables.scores_of(dataset, outputs))
  want = metrics.precision_recall_fscore_support(
    dataset.targets_test, outputs.argmax(1), zero_division=np.nan
  )
  assert [row[0] for row in rows] == [f"class {i}" for i in range(4)]
  for row, precision, recall, f1, support in zip(rows, *want, strict=True):
    shares = ["–" if np.isnan(share) else f"{share:.4f}" for share in (precision, recall, f1)]
    assert row[1:] == [*shares, str(support)]


def test_scores_of_one_label_are_those_of_its_presence():
  """scikit-learn takes a single column for two classes, and would score the absence."""
  dataset = made("multilabel", 1)
  dataset.targets_test[:3] = 1
  outputs = RNG.normal(size=(12, 1)).astype(np.float32)
  outputs[:2] = 1
  (row,) = plain(tables.scores_of(dataset, outputs))
  precision, recall, f1, _ = metrics.precision_recall_fscore_support(
    dataset.targets_test[:, 0], outputs[:, 0] > 0, average="binary"
  )
  support = str(int(dataset.targets_test.sum()))
  assert row[1:] == [*(f"{share:.4f}" for share in (precision, recall, f1)), support]


def test_scores_of_labels_are_those_of_scikit_learn():
  dataset = made("multilabel", 3)
  outputs = RNG.normal(size=(12, 3)).astype(np.float32)
  rows = plain(tables.scores_of(dataset, outputs))
  want = metrics.precision_recall_fscore_support(dataset.targets_test, outputs > 0)
  assert [row[1:4] for row in rows] == [[f"{share:.4f}" for share in shares]
                                        for shares in zip(*want[:3], strict=True)]  # fmt: skip


def test_scores_of_values_are_in_the_units_of_the_data():
  dataset = made("regression", 2)
  outputs = RNG.normal(size=(12, 2)).astype(np.float32)
  own, own_outputs = documents.in_own_units(dataset, outputs)
  raw = dataset.target_standardization.undo(dataset.targets_test)
  np.testing.assert_array_equal(own.targets_test, raw)
  rows = plain(tables.scores_of(own, own_outputs))
  for row, found, true in zip(rows, own_outputs.T, raw.T, strict=True):
    rmse = metrics.root_mean_squared_error(true, found)
    want = (metrics.r2_score(true, found), rmse, np.abs(found - true).mean())
    np.testing.assert_allclose([float(cell) for cell in row[1:4]], want, rtol=1e-3)


def test_a_value_that_never_changes_has_no_r_squared():
  dataset = made("regression", 1)
  same = replace(dataset, targets_test=np.full((12, 1), 3, np.float32))
  assert plain(tables.scores_of(same, same.targets_test))[0][1:3] == ["–", "0.0000"]


def test_the_worst_examples_come_first_with_their_raw_features():
  dataset = made("classification", 3)
  model, outputs = outputs_of(dataset)
  answers = documents.answers_of(model, outputs, dataset.targets_test)
  losses = answers.losses
  own, _ = documents.in_own_units(dataset, outputs)
  table = tables.worst_rows_of(own, answers, outputs)
  assert table.heads == ("test row", "loss", "true", "predicted", "p(true)", "p(predicted)",
                         "column 0", "column 1", "column 2")  # fmt: skip
  found = plain(table)
  probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
  order = [int(row[0]) for row in found]
  assert sorted(order) == list(range(12))
  assert losses[order].tolist() == sorted(losses, reverse=True)
  for row, cells in zip(order, found, strict=True):
    true, told = dataset.targets_test[row], outputs[row].argmax()
    assert cells[2:4] == [f"class {true}", f"class {told}"]
    # The loss is −log p(true).
    want = [-np.log(probabilities[row, true]), *probabilities[row, [true, told]]]
    np.testing.assert_allclose([float(cells[i]) for i in (1, 4, 5)], want, rtol=1e-3, atol=6e-5)
    raw = dataset.standardization.undo(dataset.x_test)[row]
    np.testing.assert_allclose([float(cell) for cell in cells[6:]], raw, rtol=1e-5)


def test_a_loss_that_is_no_number_is_the_worst():
  dataset = made("regression", 2)
  losses = np.arange(12.0)
  losses[[3, 5]] = np.nan, np.inf
  answers = tables.Answers(losses, None)
  found = plain(tables.worst_rows_of(dataset, answers, dataset.targets_test))
  assert [row[:2] for row in found[:3]] == [["3", "not finite"], ["5", "not finite"],
                                            ["11", "11.0000"]]  # fmt: skip
  true, predicted = found[2][2:4]
  assert true == predicted == f"{dataset.targets_test[11, 0]:.6g}"


def test_features_have_the_digits_that_they_came_with():
  """Standardised and back again in float32, 0.001 among sizes of 30 would be 0.000999..."""
  dataset = made("classification", 3)
  dataset = replace(dataset, x_test=dataset.x_test.astype(np.float32), standardization=None)
  dataset.x_test[0] = [9.99999e-4, 30.250002, 123456.0]
  answers = tables.Answers(-np.arange(12.0), np.full((12, 3), 1 / 3))
  found = plain(tables.worst_rows_of(dataset, answers, np.zeros((12, 3))))
  assert found[0][-3:] == ["0.001", "30.25", "123456"]


def test_two_histograms_have_the_same_bins():
  dataset = made("multilabel", 2)
  outputs = np.where(dataset.targets_test > 0.5, 50.0, -1.0) + RNG.normal(size=(12, 2))
  panel = drawn(predictions.draw_logits, dataset, outputs)
  one, other = ([box.get_x() for box in bars] for bars in panel.containers)
  assert one == other


def test_labels_are_told_by_their_names():
  dataset = made("multilabel", 3)
  dataset.targets_test[0] = 1, 0, 1
  outputs = np.full((12, 3), -1, np.float32)
  answers = tables.Answers(-np.arange(12.0), None)
  (first, *_) = plain(tables.worst_rows_of(dataset, answers, outputs))
  assert first[2:4] == ["class 0, class 2", "none"]


def test_pictures_are_those_of_the_largest_losses():
  dataset = digits()
  model, outputs = outputs_of(dataset, ())
  answers = documents.answers_of(model, outputs, dataset.targets_test)
  losses = answers.losses
  worst = np.argsort(-losses)[:12]
  found = plain(tables.worst_rows_of(dataset, answers, outputs))
  assert [int(row[2]) for row in found] == dataset.targets_test[worst].tolist()
  assert [int(row[3]) for row in found] == outputs[worst].argmax(1).tolist()
  assert len(set(tables.pictures_of(dataset, losses))) == 12


def test_layers_are_measured_at_the_end_of_the_run():
  dataset = made("classification", 3)
  model = model_of(dataset, (4,))
  (w, b), *rest = model.params
  # A unit that is off for every example, and one that is on for all.
  params = ((w.at[:, :2].set(0), b.at[:2].set(jnp.array([-1.0, 2.0]))), *rest)
  params = jax.tree.unflatten(jax.tree.structure(model.params), jax.tree.leaves(params))
  model = model._replace(params=params)
  signals = signals_of(model, dataset)
  table = layers.layers_of(signals, result_of(model))
  rows = dict(zip(signals, plain(table), strict=True))
  assert [row[:2] for row in rows.values()] == [
    ["0.dense", "3×4 + 4"], ["1.relu", "–"], ["2.dense", "4×3 + 3"]
  ]  # fmt: skip
  y, y_bar = np.asarray(signals["1.relu"].y), np.asarray(signals["1.relu"].y_bar)
  assert rows["1.relu"][2:4] == [f"{np.sqrt((y**2).mean()):.4f}",
                                 f"{12 * np.sqrt((y_bar**2).mean()):.4f}"]  # fmt: skip
  norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in params[0]))
  assert rows["0.dense"][4:6] == ["1.0000", f"{norm:.4f}"]
  assert [row[6] for row in rows.values()] == ["50.0 %", "50.0 %", "0.0 %"]
  shares = [row[2].share for row in table.rows]
  assert max(shares) == 1


SATURATED = [
  ("tanh", (0.0, 0.994, 0.996, -0.999), "50.0 %"),
  ("sigmoid", (0.5, 0.004, 0.002, 0.999), "50.0 %"),
  ("relu6", (0.0, 5.9, 6.0, 6.0), "50.0 %"),
  ("hard_tanh", (-1.0, 0.5, 0.0, 1.0), "50.0 %"),
  ("relu", (0.0, 1.0, 2.0, 3.0), "–"),
]


@pytest.mark.parametrize(("activation", "values", "share"), SATURATED)
def test_what_is_flat_counts_as_saturated(activation, values, share):
  y = np.array(values, np.float32)[:, None]
  model = model_of(made("classification", 3))
  table = layers.layers_of({f"1.{activation}": fb.Signals(y, y, y)}, result_of(model))
  assert plain(table)[0][-1] == share


def test_layers_of_nested_chains_and_loops_are_found():
  net = fb.mlp([3, 4, 4, 4, 2], normalization=fb.layer_norm, dropout=0.1, repeat_hidden=True)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  model = Model(None, jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes))
  y = np.ones((5, 4))
  signals = {name: fb.Signals(y, y, y) for name in name_layers(net)}
  rows = {row[0]: row[1] for row in plain(layers.layers_of(signals, result_of(model)))}
  assert list(rows) == list(signals)
  assert rows["1.3.dense"] == "2×4×4 + 2×4"
  assert [name for name, shape in rows.items() if shape == "–"] == [
    name for name in signals if name.endswith(("relu", "dropout"))
  ]


# --- What is drawn there and not in the picture ---------------------------------------------------


def test_the_class_that_is_drawn_at_a_point_is_the_one_that_is_predicted():
  dataset = load_dataset("blobs", 0, standardize="on")
  # A linear one of three classes has three sectors, which without biases meet in the middle.
  model = model_of(dataset, ())
  ((w, b),) = model.params
  model = model._replace(params=(type(model.params[0])(w, jnp.zeros_like(b)),))
  outputs = np.asarray(list(signals_of(model, dataset).values())[-1].y)
  own, outputs = documents.in_own_units(dataset, outputs)
  panel = drawn(predictions.draw_regions, own, outputs, model)
  (image,) = panel.images
  colors = np.asarray(image.get_array())
  left, right, bottom, top = image.get_extent()
  assert ([left, bottom] < own.x.min(0)).all()
  assert ([right, top] > own.x.max(0)).all()
  n = len(colors)
  rows, columns = RNG.integers(0, n, (2, 300))
  points = np.stack([
    left + (columns + 0.5) * (right - left) / n, bottom + (rows + 0.5) * (top - bottom) / n
  ], 1).astype(np.float32)  # fmt: skip
  assert image.origin == "lower"
  # As `fbackprop predict` has it: of raw features.
  predicted = model.outputs(points).argmax(1)
  legend = [line.get_color() for line in panel.get_lines() if line.get_marker() == "o"]
  palette = figures.need("matplotlib.colors", extra="plot").to_rgba_array(legend)
  shown = np.abs(colors[rows, columns, None, :3] - palette[:, :3]).sum(-1).argmin(1)
  # A point on the border may be rounded to either side.
  margin = np.sort(model.outputs(points), 1)
  assert len(set(predicted)) == 3
  sure = margin[:, -1] - margin[:, -2] > 1e-3
  np.testing.assert_array_equal(shown[sure], predicted[sure])
  crosses = next(line for line in panel.get_lines() if line.get_marker() == "x")
  assert len(crosses.get_xdata()) == (outputs.argmax(1) != dataset.targets_test).sum()


def test_a_function_is_drawn_where_the_network_has_it():
  dataset = made("regression", 1, features=1)
  model, outputs = outputs_of(dataset, activation="tanh")
  own, outputs = documents.in_own_units(dataset, outputs)
  fit = predictions.panels_of(own, outputs, model)[0]
  panel = drawn(fit.draw)
  lines = {line.get_label(): line for line in panel.get_lines()}
  assert panel.get_xlabel() == "column 0"
  # Test examples in any order are points and no curve.
  assert lines["test points"].get_linestyle() == "None"
  x, y = lines["f(x; Θ)"].get_xydata().T
  assert (np.diff(x) > 0).all()
  every = np.concatenate([own.x, own.x_test])
  np.testing.assert_allclose([x[0], x[-1]], [every.min(), every.max()], rtol=1e-6)
  want = model.outputs(x[:, None].astype(np.float32))[:, 0]
  np.testing.assert_allclose(y, want, rtol=1e-5)


def test_the_fit_of_the_picture_goes_from_left_to_right():
  dataset = made("regression", 1, features=1)
  draws = predictions.draw_fit, predictions.draw_residuals
  panel, rest = (drawn(draw, dataset, dataset.targets_test) for draw in draws)
  (curve,) = (line for line in panel.get_lines() if line.get_label() == "f(x; Θ)")
  assert (np.diff(curve.get_xdata()) >= 0).all()
  assert (rest.get_title(), rest.get_lines()[1].get_marker()) == ("f(x; Θ) − true", ".")


def test_names_are_no_formulas(tmp_path):
  """Between dollar signs matplotlib would read one, and refuse what isn't."""
  names = (r"$\\no$", "a $b$", "<b>")
  dataset = replace(made("classification", 3), output_names=names)
  panel, _ = predictions.panels_of(
    dataset, np.eye(3, dtype=np.float32)[[0] * 12], model_of(dataset)
  )
  svg = figures.svg_of(panel)
  assert "a $b$" in svg
  assert "&lt;b&gt;" in svg
  assert "<b>" not in svg
  assert svg == figures.svg_of(panel)  # Neither today's date nor a chance name enters.


# --- From the command line ------------------------------------------------------------------------


def test_text_of_the_data_does_no_harm(tmp_path, monkeypatch):
  monkeypatch.setattr(figures, "svg_of", drawn_only)
  folder = tmp_path / "a<b>"
  folder.mkdir()
  (folder / "config.toml").touch()
  data = tmp_path / "a&b.csv"
  image = '"><img src=x onerror=alert(1)>'
  with data.open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow([image, "b", SCRIPT])
    rows.writerows([[i, i % 3, (SCRIPT, "it's")[i % 2]] for i in range(40)])
  arguments = ["--data", f"csv:{data}", "--target", SCRIPT]
  dataset = load_dataset(f"csv:{data}", 0, target=[SCRIPT])
  model, signals = seen_of(dataset)
  told = told_of(parse(arguments), arguments, folder)
  page = report.draw_page(told, result_of(model), dataset, signals, model)
  assert b"<script" not in page
  read = Page(page)
  assert not [tag for tag, _ in read.elements if tag in ("script", "img", "b")]
  assert SCRIPT in [row[0] for row in read.tables["Scores"]]
  assert image in read.tables["Worst test examples"][0]
  assert ["target", SCRIPT] in read.tables["Settings"]
  for command in (["--config", str(folder / "config.toml")], arguments):
    assert shlex.join(["fbackprop", "train", *command]) in read.text


def test_what_was_told_is_marked():
  own = {name for name, _, is_own in settings(parse(["--data", "iris", "--rate", "0.2",
                                                     "--stop.tol", "1e-3"])) if is_own}  # fmt: skip
  assert own == {"rate", "stop.tol"}
  values = {name: value for name, value, _ in settings(GENERAL)}
  assert (values["hidden"], values["clip-norm"], values["stop.max-steps"]) == (
    "64 64", "none", "2000"
  )  # fmt: skip
  assert not {"out", "name", "config"} & values.keys()


def test_a_folder_that_is_gone_holds_nothing(tmp_path):
  assert documents.files_of(tmp_path / "gone") == []


ENDINGS = [
  ("max_steps", None, "Stopped by max_steps: all 3 steps were taken."),
  ("loss_below", None, "Stopped by loss_below at step 3: the mean loss of an epoch reached"),
  ("tol", None, "Stopped by tol at step 3: the loss had stopped falling."),
  ("interrupted", None, "Interrupted at step 3; the parameters are those of that step."),
  ("diverged", "update", "Diverged at step 4; first not finite: update. The parameters are the"),
]


@pytest.mark.parametrize(("reason", "where", "sentence"), ENDINGS)
def test_the_ending_is_a_sentence(reason, where, sentence):
  model = model_of(made("classification", 3))
  assert headline.ending_of(result_of(model, 3, reason, where)).startswith(sentence)


def test_what_is_set_aside_is_not_counted_as_training():
  dataset = made("classification", 3)
  assert headline.about(dataset).startswith("made: 40 training and 12 test examples;")
  assert headline.about(dataset, 8).startswith(
    "made: 32 training, 8 validation and 12 test examples;"
  )


def test_losses_of_two_moments_say_so():
  model = model_of(made("classification", 3))
  result = result_of(model, 3)
  assert headline.training_of(result).startswith("training ")
  kept = replace(result, best=BestEpoch(2, 0.5, None, 0.25, 0.5))
  assert headline.training_of(kept).startswith("of step 2; training ")
  assert headline.training_of(kept).endswith(" at the end")
  assert headline.training_of(replace(kept, best=BestEpoch(3, 0.5, None, 0.25, 0.5))) == (
    headline.training_of(result)
  )


def test_a_gradient_that_is_wrong_is_said_at_the_top():
  model = model_of(made("classification", 3))
  wrong = LiveCheck(0.1, "params[0].w", 1e-7, False)
  ending = headline.ending_of(result_of(model, checks=((2, wrong),)))
  assert ending.endswith("The gradient of params[0].w differed from jax.grad by 1.0e-01 at step 2.")
