"""Slopes at kinks and in saturation: the recorded table, and the price of elu's residual."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from scripts import longdouble as true
from scripts import slopes
from tests.support.public import layers_of_one_array

SELU = {"alpha": 1.6732632423543772, "scale": 1.0507009873554805, "name": "selu"}
VARIANTS = ({}, {"alpha": 0.5}, SELU, {"alpha": 3.0, "scale": 0.25})


# --- The table ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_for_users")
def test_the_recorded_slopes_are_those_measured_here(capsys):
  assert slopes.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_for_users")
def test_ours_are_the_same_on_every_version_recorded():
  heading, ours = slopes.ours()
  recorded = slopes.read()
  versions = [name for name in recorded if name.startswith("fbackprop on jax ")]
  assert len(versions) >= 2
  for version in versions:
    assert slopes.differences({heading: recorded[version]}, {heading: ours}) == []


def test_the_table_has_every_activation_and_both_lines_of_jax_and_torch():
  columns = slopes.read()
  assert {"jax 0.10.2", "jax 0.12.0.1", "torch 2.13.0"} <= set(columns)
  keys = {row.key for row in slopes.rows()}
  for heading, column in columns.items():
    assert set(column) <= keys, heading
    assert heading.startswith("tensorflow") or set(column) == keys, heading
  names = {row.gate for row in slopes.rows()}
  assert layers_of_one_array() - {"identity", "softmax"} <= names
  assert {"abs", "max", "min", "sqrt", "power"} <= names
  page = slopes.PAGE.read_text("utf-8")
  for version in ("0.10.2", "0.12.0.1", "torch 2.13.0"):
    assert version in page


def test_the_slope_at_a_kink_lies_between_those_on_its_sides():
  """Ours, and so does everybody's."""
  for heading, column in slopes.read().items():
    for name, kinks in slopes.KINKS.items():
      for x, sides in kinks.items():
        low, high = (float(side) for side in (*sides.split(" to "), sides)[:2])
        key = slopes.Row(name, (x,), 0, sides).key
        assert low - 1e-3 <= column[key] <= high + 1e-3, (heading, key)


@pytest.mark.slow
def test_another_slope_is_found(monkeypatch, tmp_path, capsys):
  heading, ours = slopes.ours()
  changed = {**slopes.read(), heading: {**ours, "hard_tanh(1)": ours["hard_tanh(1)"] + 0.5}}
  file = tmp_path / "slopes.json"
  monkeypatch.setattr(slopes, "RESULTS", file)
  plain = {h: {k: str(v) for k, v in column.items()} for h, column in changed.items()}
  file.write_text(json.dumps(plain), "utf-8")
  assert slopes.main(["--check"]) == 1
  said = capsys.readouterr().out
  assert f"{heading}: hard_tanh(1): recorded" in said
  assert "slopes.md isn't the page of slopes.json" in said


@pytest.mark.parametrize(
  ("a", "b", "are_same"),
  [(1.0, 1.0, True), (1.0, 1.01, False), (np.nan, np.nan, True), (np.nan, 0.0, False),
   (8e-40, 0.0, True), (2e-9, 0.0, False), (np.inf, np.inf, True), (0.0, 1.0, False)],
)  # fmt: skip
def test_slopes_are_the_same_but_for_rounding(a, b, are_same):
  assert slopes.same(a, b) == are_same


@pytest.mark.slow
def test_recording_keeps_the_other_columns(monkeypatch, tmp_path):
  monkeypatch.setattr(slopes, "RESULTS", tmp_path / "slopes.json")
  monkeypatch.setattr(slopes, "PAGE", tmp_path / "slopes.md")
  slopes.PAGE.write_text("before\n<!-- table -->\n<!-- end of table -->\nafter\n", "utf-8")
  slopes.write({"torch 9.0": slopes.ours()[1]})
  assert slopes.main(["--record"]) == 0
  assert "torch 9.0" in slopes.read()
  assert f"jax {jax.__version__}" in slopes.read()
  assert slopes.main(["--check"]) == 0
  text = slopes.PAGE.read_text("utf-8")
  assert text.startswith("before\n<!-- table -->\n\n| function |")
  assert text.endswith("|\n\n<!-- end of table -->\nafter\n")


# --- elu and selu ---------------------------------------------------------------------------------


def slope_of(gate, z):
  y, residuals = gate.forward(jnp.asarray(z))
  return np.asarray(gate.backward(residuals, jnp.ones_like(y))[0])


def truth_of(options, z):
  _, terms = true.elu(z.astype(np.longdouble), options.get("alpha", 1), options.get("scale", 1))
  return np.sum(terms, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", VARIANTS)
def test_the_slope_of_elu_is_wrong_by_two_epsilons_at_most(options, dtype):
  """Of scale · alpha, as its docstring says; and where that is 1 %, and all of it."""
  with jax.enable_x64(True):
    z = np.linspace(-90, 2, 92_001).astype(dtype)
    slope, truth = slope_of(fb.gates.elu_with(**options), z), truth_of(options, z)
  limit = options.get("alpha", 1) * options.get("scale", 1)
  error = np.abs(slope - truth)
  assert slope.dtype == dtype
  assert error.max() <= 2 * np.finfo(dtype).eps * max(limit, options.get("scale", 1))
  below = z < 0
  hundredth = z[below & (error > 0.01 * truth)].max()
  nothing = z[below & (slope == 0)].max()
  wanted = {np.float32: (-12, -17), np.float64: (-32, -37)}[dtype]
  assert (hundredth, nothing) == pytest.approx(wanted, abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", VARIANTS)
def test_an_accurate_tail_has_its_digits(options, dtype):
  """Within 3 ULP wherever e^z is a normal number; the output is the other gate's, to the bit."""
  with jax.enable_x64(True):
    z = np.linspace(-700, 700, 70_001).astype(dtype)
    gate = fb.gates.elu_with(**options, accurate_tail=True)
    slope, truth = slope_of(gate, z), truth_of(options, z)
    y = np.asarray(gate.forward(jnp.asarray(z))[0])
    assert np.array_equal(y, fb.gates.elu_with(**options).forward(jnp.asarray(z))[0])
  counted = np.exp(z.astype(np.longdouble)) > 4 * np.finfo(dtype).tiny
  error = np.abs(slope - truth) / np.spacing(np.abs(truth).astype(dtype))
  assert slope.dtype == dtype
  assert error[counted].max() <= 3
  ends = slope_of(gate, np.array([-np.inf, 0.0, np.inf, np.nan], dtype))
  limit = options.get("alpha", 1) * options.get("scale", 1)
  assert ends[:3] == pytest.approx([0, limit, options.get("scale", 1)])
  assert np.isnan(ends[3])


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_digits_cost_an_array_for_each_hidden_layer(depth):
  x, sizes = jnp.ones((32, 64)), [64, *[128] * depth, 10]
  accurate = fb.activation(fb.gates.elu_with(accurate_tail=True))
  one = 32 * 128 * 4
  assert fb.residual_bytes(fb.mlp(sizes, fb.elu), x) == depth * one
  assert fb.residual_bytes(fb.mlp(sizes, accurate), x) == 2 * depth * one


@pytest.mark.slow
def test_a_network_learns_in_the_tail_with_it_and_not_without():
  """One unit at z = -20: its gradient is the only way out."""
  params = (fb.DenseParams(jnp.full((1, 1), -20.0), jnp.zeros(1)), ())
  for gate, is_zero in ((fb.gates.elu, True), (fb.gates.elu_with(accurate_tail=True), False)):
    net = fb.serial(fb.dense(1, 1), fb.activation(gate))
    _, grads = fb.value_and_grad(net, fb.squared_error)(params, jnp.ones((1, 1)), jnp.zeros((1, 1)))
    assert (float(grads[0].w[0, 0]) == 0) == is_zero


def test_it_is_a_flag():
  with pytest.raises(TypeError, match="elu_with: accurate_tail must be True or False, got int 1"):
    fb.gates.elu_with(accurate_tail=1)
