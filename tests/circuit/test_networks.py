"""The picture of a network: every layer, and the shape on every wire."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from tests.support.circuits import SVG


def texts(picture):
  root = ElementTree.fromstring(picture.to_svg())
  return [element.text for element in root.iter(f"{SVG}text")]


def test_a_graph_has_its_nodes_and_shapes():
  nodes = {
    "h": (fb.dense(4, 6), "x"), "parts": (fb.split(2, 4), "h"), "a": (fb.sigmoid, "parts[1]"),
    "z": (fb.multiply, "a", "x"), "u": (fb.shared("h"), "z"), "v": (fb.transposed("h"), "u"),
    "y": (fb.concatenate, "v", "h"),
  }  # fmt: skip
  picture = fb.circuit.draw(fb.graph(nodes, output="y"), jnp.ones((5, 4)))
  shown = texts(picture)
  for text in (
    *nodes,
    "x",
    "dense of h",
    "dense, h transposed",
    "[1]",
    "[N, 2], [N, 4]",
    "[N, 10]",
  ):
    assert text in shown, text
  # x and h fork: the shape is on the wire, and not on its branches.
  assert shown.count("[N, 6]") == 2
  assert picture._repr_svg_() == picture.to_svg()
  assert "h.dense, dense of x: [N, 6]" in picture.to_svg()


def test_chains_skips_and_loops():
  net = fb.serial(
    fb.dense(3, 4), fb.skip(fb.serial(fb.tanh, fb.dense(4, 4))), fb.remat(fb.relu),
    fb.repeat(fb.dense(4, 4), 7),
  )  # fmt: skip
  shown = texts(fb.circuit.draw(net, jax.ShapeDtypeStruct((5, 3), jnp.float32)))
  assert [text for text in ("+", "tanh", "relu", "7 × dense") if text not in shown] == []
  assert shown.count("dense") == 2


def test_several_inputs_and_outputs():
  nodes = {"a": (fb.dense(3, 4), "u"), "b": (fb.dense(2, 4), "v"), "c": (fb.add, "a", "b")}
  net = fb.graph(nodes, output=("c", "a"), inputs=("u", "v"))
  picture = fb.circuit.draw(net, (jnp.ones((5, 3)), jnp.ones((5, 2))))
  assert {"u", "v", "[N, 3]", "[N, 2]"} <= set(texts(picture))
  assert picture.graph.outputs == (("c.add", 1.0), ("a.dense", 1.0))


def test_a_graph_inside_may_have_several_outputs():
  inside = fb.graph({"a": (fb.relu, "x"), "b": (fb.tanh, "x")}, output=("a", "b"))
  nodes = {"h": (inside, "x"), "y": (fb.sigmoid, "h[1]"), "z": (fb.add, "y", "h[0]")}
  picture = fb.circuit.draw(fb.graph(nodes, output="z"), jnp.ones((5, 4)))
  inputs = {node.name: node.inputs for node in picture.graph.nodes}
  assert inputs["y.sigmoid"] == ("h.b.tanh",)
  assert inputs["z.add"] == ("y.sigmoid", "h.a.relu")


def test_the_png_is_one():
  pytest.importorskip("matplotlib")
  picture = fb.circuit.draw(fb.mlp([3, 4, 2]), jnp.ones((5, 3)))
  assert picture.to_png(title="a network", dpi=96).startswith(b"\x89PNG")


def test_bad_arguments_are_refused():
  with pytest.raises(TypeError, match="draw: net must be a Layer"):
    fb.circuit.draw(3, jnp.ones((5, 3)))
  with pytest.raises(fb.ShapeError, match=r"x must have shape \[N, 3\]"):
    fb.circuit.draw(fb.mlp([3, 2]), jnp.ones((5, 4)))
