"""What a notebook and a terminal show of our objects: pictures, tables, and lines that fit."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import EXAMPLES, Node, build, example, parse
from fbackprop.circuit._circuit import MOST_NODES
from fbackprop.train.ensembles import EnsembleResult
from fbackprop.train.metrics import number
from fbackprop.verify.report import Checked, Finding, Report
from tests.support.circuits import check_boxes, read
from tests.support.pages import Reader
from tests.support.runs import descend

NASTY = "<script>alert('&')</script>"


# --- Circuits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_circuit_with_values_and_its_trace_are_the_same_picture(name):
  circuit = example(name)
  assert circuit._repr_svg_() == circuit.trace()._repr_svg_() == circuit.trace().to_svg()


def test_a_circuit_without_values_shows_names_and_symbols():
  svg = parse("q = x + 2; f = max(q, y)")._repr_svg_()
  check_boxes(svg)
  texts = sorted(text for text, _, _ in read(svg)[1])
  assert texts == sorted(["x", "2", "+", "q", "y", "max", "f"])
  description = ElementTree.fromstring(svg).findtext("{http://www.w3.org/2000/svg}desc")
  assert description == "x, input; c1, constant; q, add of x, c1; y, input; f, max of q, y"
  forked = parse("x*x*y + exp(x)", {"x": 1.0})._repr_svg_()
  check_boxes(forked)


def test_names_are_escaped_in_a_picture():
  circuit = build([Node(NASTY, "input"), Node("f", "tanh", (NASTY,))])
  for svg in (circuit._repr_svg_(), circuit.trace(**{NASTY: 1.0})._repr_svg_()):
    ElementTree.fromstring(svg)
    assert "<script" not in svg


def test_a_large_circuit_is_a_line_of_text():
  """A notebook takes the repr where there is no picture."""
  circuit = parse("+".join(f"exp(x{i})" for i in range(MOST_NODES // 2)))
  traced = circuit.trace(**dict.fromkeys(circuit.inputs, 0.0))
  assert circuit._repr_svg_() is traced._repr_svg_() is None
  assert len(repr(circuit)) < 100
  assert len(repr(traced)) < 200


def test_lines_of_circuits():
  circuit = parse("f = (x+y)*max(y,z)")
  assert repr(circuit) == "Circuit(f of x, y, z: 3 gates)"
  assert repr(circuit.trace(x=1.0, y=2.0, z=0.0)) == (
    "Trace(f = 6; df/dx = 2, df/dy = 5, df/dz = 0)"
  )
  assert repr(parse("2*3")) == "Circuit(g1 of constants: 1 gate)"
  assert repr(parse("2*3").trace()) == "Trace(g1 = 6)"
  assert repr(parse("a = x; b = exp(x)", {"a": 1.0, "b": 2.0})) == "Circuit(x, b of x: 1 gate)"


# --- Units ----------------------------------------------------------------------------------------


LINES = [
  (fb.mlp([2, 8, 1]), "serial(dense(2, 8), relu, dense(8, 1))"),
  (fb.dense(2, 3), "dense(2, 3)"),
  (fb.dense(2, 3, bias=False, dtype=jnp.float16), "dense(2, 3, bias=False, dtype='float16')"),
  (fb.serial(), "serial"),
  (fb.softmax, "softmax"),
  (fb.activation(fb.gates.leaky_relu_with(0.2)), "leaky_relu"),
  (fb.layer_norm(8), "layer_norm(8)"),
  (fb.rms_norm(8, eps=0.1), "rms_norm(8, eps=0.1)"),
  (fb.dropout(0.25), "dropout(0.25)"),
  (fb.remat(fb.skip(fb.dense(3, 3))), "remat(skip(dense(3, 3)))"),
  (fb.repeat(fb.serial(fb.dense(3, 3), fb.tanh), 5), "repeat(serial(dense(3, 3), tanh), n=5)"),
  (fb.gates.max, "Gate('max')"),
  (fb.squared_error, "Loss('squared_error')"),
]


@pytest.mark.parametrize(("unit", "line"), LINES)
def test_lines_of_units(unit, line):
  assert repr(unit) == line


@pytest.mark.slow
def test_the_line_of_a_deep_network_is_short():
  net = fb.mlp([64] * 1001)
  assert repr(net).startswith("serial(dense(64, 64), relu, ")
  assert repr(net).endswith(", ..., dense(64, 64))")
  assert len(repr(net)) < 150


def test_units_are_still_tuples():
  assert fb.relu == fb.relu._replace(name="relu")
  assert isinstance(fb.relu, tuple)
  assert len({fb.gates.relu, fb.gates.relu}) == 1


def test_a_layer_of_ones_own_shows_its_options():
  layer = fb.relu._replace(name="swish", options=(("beta", 2.0), ("act", jnp.tanh)))
  assert repr(layer) == "swish(beta=2.0, act=tanh)"


def test_signals_show_shapes_and_no_numbers():
  net = fb.mlp([2, 8, 1])
  params = net.init(jax.random.key(0))
  seen = fb.inspect(net, fb.squared_error)(params, jnp.ones((5, 2)), jnp.zeros((5, 1)))
  assert repr(seen["0.dense"]) == "Signals(x=float32[5, 2], y=float32[5, 8], y_bar=float32[5, 8])"
  assert not re.search(r"\d\.\d", repr(seen["2.dense"]))


# --- Reports and results --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_that_passed():
  net = fb.dense(2, 3)
  report = fb.verify.layer(net, net.init(jax.random.key(0)), jnp.ones((4, 2)), level="quick")
  assert repr(report) == f"Report(PASS: dense, {len(report.checks)} checks)"
  found = Reader(report._repr_html_())
  assert found.texts[0] == "PASS"
  for check in report.checks:
    assert any(check.check in text for text in found.texts), check


def test_a_report_that_failed_says_what_where_and_why():
  finding = Finding(
    kind="fail", check="maths", leaf="params/<w>", index=(3, 17), got=-1.5, want=2.5, bound=1e-13,
    wrong=4, size=16, shape=(4, 4), cause=NASTY, regime="N = 1",
  )  # fmt: skip
  report = Report(
    NASTY, (finding,) * 40, (Checked("maths", 3, "fail"),), ("vmap: x < y",), again="a < b"
  )
  assert repr(report) == f"Report(FAIL: {NASTY}, 40 findings, 1 checks)"
  found = Reader(report._repr_html_())
  assert "script" not in {tag for tag, _ in found.elements}
  for text in ("FAIL", "params/<w> (4,4)", "4 of 16", "[3,17]", "-1.5000e+00", "2.5000e+00",
               "1e-13", f"{NASTY}; regime: N = 1", "and 10 findings more, all in the JSON", "a < b",
               "Not checked", "vmap: x < y"):  # fmt: skip
    assert text in found.texts
  assert report._repr_html_().count(">FAIL<") == 31


def small_run(**options):
  x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
  options = {"loss": fb.squared_error, "batch_size": 8, "test": (x, x**2), **options}
  return descend(fb.mlp([1, 4, 1], fb.tanh), (x, x**2), **options)


def test_a_result():
  result = small_run(stop=fb.train.StopRules(max_steps=60), eval_every=2, check_every=30)
  assert re.fullmatch(
    r"Result\(stop_reason='max_steps', steps=60, test_loss=0\.\d+, checks_ok=True\)", repr(result)
  )
  found = Reader(result._repr_html_())
  assert found.texts[:2] == ["max_steps", f" at step 60, {result.seconds:.1f} s"]
  assert "20 of 30 evaluations:" in found.texts
  assert "test accuracy" not in found.texts  # A regression has none.
  assert number(result.evaluations[-1].test_loss) in found.texts
  assert any("agrees with jax.grad in 3 checks" in text for text in found.texts)


def test_a_result_that_diverged_is_escaped():
  result = small_run(stop=fb.train.StopRules(max_steps=2))
  result = replace(result, stop_reason="diverged", diverged_at=f"layer 2 ({NASTY}): value")
  found = Reader(result._repr_html_())
  assert found.texts[0] == "diverged"
  assert f"first not finite: layer 2 ({NASTY}): value" in found.texts


def test_the_line_of_an_ensemble():
  reasons = ("tol", "max_steps", "tol")
  result = EnsembleResult((), None, reasons, np.ones(3), np.ones((1, 3)), (), False, 1.0, 1.0)
  assert repr(result) == "EnsembleResult(3 members: 2 tol, 1 max_steps)"
