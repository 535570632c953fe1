"""The layout of circuits: few crossings, straight wires, inputs in order, the same each time."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbackprop.circuit import CircuitError, Node, build, parse
from fbackprop.circuit.graph import fan_out
from fbackprop.circuit.layout import columns as columns_
from fbackprop.circuit.layout.columns import Columns, Extent, Item, Link, assign_columns
from fbackprop.circuit.layout.crossings import count_crossings, minimise_crossings
from fbackprop.circuit.layout.placement import Lines, place, relax, spread
from tests.support.circuits import circuits

FORK = "(x+y)*max(y,z)"
NEURON = "1/(1+exp(-(w0*x0+w1*x1+w2)))"


def extent(item):
  """Boxes of three sizes, one of them lopsided."""
  if item.kind == "bend":
    return Extent(0, 0, 3, 3)
  return Extent(0, 50, 17, 33) if item.kind == "label" else Extent(34, 60, 20, 18, 10)


def chain(length):
  nodes = [Node("x", "input")]
  for i in range(length):
    nodes.append(Node(f"g{i}", "tanh", (nodes[-1].name,)))
  return build(nodes)


def crossings_by_pairs(columns):
  """Counted as they are defined: two links of one gap whose ends lie in opposite orders."""
  rank = {item: i for column in columns.columns for i, item in enumerate(column)}
  count = 0
  for a, b in combinations(columns.links, 2):
    if columns.items[a.left].column == columns.items[b.left].column:
      right = rank[a.right] - rank[b.right]
      if a.right == b.right and a.fixed:
        right = a.port - b.port
      count += (rank[a.left] - rank[b.left]) * right < 0
  return count


@pytest.mark.slow
@given(circuits(), st.booleans())
def test_crossings_are_counted_right_and_never_become_more(circuit, margin):
  columns = assign_columns(circuit, margin=margin)
  fewer = minimise_crossings(columns)
  assert count_crossings(columns) == crossings_by_pairs(columns)
  assert count_crossings(fewer) == crossings_by_pairs(fewer) <= count_crossings(columns)
  assert [sorted(column) for column in fewer.columns] == [
    sorted(column) for column in columns.columns
  ]


@pytest.mark.slow
@given(circuits(), st.booleans())
def test_every_wire_is_a_path_from_column_to_column(circuit, margin):
  columns = assign_columns(circuit, margin=margin)
  assert sorted(i for column in columns.columns for i in column) == list(range(len(columns.items)))
  assert all(columns.columns)
  behind = {}
  for link in columns.links:
    left, right = columns.items[link.left], columns.items[link.right]
    assert left.column + 1 == right.column
    assert right.kind == "node" or left.name == right.name
    behind.setdefault(link.right, []).append(left.name)
  for i, item in enumerate(columns.items):
    if item.kind == "node":
      node = next(node for node in circuit.nodes if node.name == item.name)
      assert sorted(behind.get(i, [])) == sorted(node.inputs)
    else:
      assert behind[i] == [item.name]
  leaving = fan_out(circuit)
  labels = [leaving[i.name][i.branch] for i in columns.items if i.kind == "label"]
  forks = [wires for wires in leaving.values() if len(wires) > 1]
  assert sorted(labels, key=str) == sorted((w for wires in forks for w in wires), key=str)


@pytest.mark.slow
@given(circuits())
def test_boxes_are_apart_and_inputs_arrive_in_order(circuit):
  layout = place(circuit, extent)
  for (_, right), (left, _) in pairwise(layout.spans):
    assert left - right >= 20
  for column in layout.columns.columns:
    for a, b in pairwise(column):
      box_a, box_b = extent(layout.columns.items[a]), extent(layout.columns.items[b])
      assert layout.y[a] + box_a.down + 9 <= layout.y[b] - box_b.up
  into = {}
  assert set(layout.arrivals) == set(layout.columns.links)
  for link, arrival in layout.arrivals.items():
    assert abs(arrival - layout.y[link.right]) <= extent(layout.columns.items[link.right]).port
    into.setdefault(link.right, []).append((link.port, arrival, link.fixed))
  for links in into.values():
    arrivals = [arrival for _, arrival, _ in sorted(links)]
    assert not links[0][2] or arrivals == sorted(arrivals)
    assert all(b - a > 1 for a, b in pairwise(sorted(arrivals)))


@pytest.mark.parametrize("text", [FORK, NEURON, "a*b+c*d+e*f", "(a-b)/(c-d)", "x*x", "-(x/y)**z"])
def test_what_can_be_drawn_without_a_crossing_is(text):
  assert count_crossings(place(parse(text), extent).columns) == 0


def test_an_order_that_matters_is_kept_at_the_cost_of_a_crossing():
  circuit = parse("p = a + b; q = c + d; (p - q) * (q - p)")
  assert count_crossings(place(circuit, extent).columns) == 2
  commuting = parse("p = a + b; q = c + d; (p + q) * (q + p)")
  assert count_crossings(place(commuting, extent).columns) == 1


def test_a_chain_is_level_and_so_is_a_trunk():
  assert len(set(place(chain(30), extent).y)) == 1
  layout = place(parse("y = sin(x); exp(exp(exp(exp(y)))) + y"), extent)
  items = zip(layout.columns.items, layout.y, strict=True)
  trunk = [y for item, y in items if (item.kind, item.name) == ("bend", "y")]
  assert len(trunk) > 1
  assert len(set(trunk)) == 1


def test_the_gates_of_a_chain_stay_level_where_constants_join():
  circuit = parse("y = sin(x) * 2; z = exp(y) + 1; 3 / (z - 4)")
  layout = place(circuit, extent)
  gates = {node.name for node in circuit.nodes if node.inputs}
  items = zip(layout.columns.items, layout.y, strict=True)
  assert len({y for item, y in items if item.kind == "node" and item.name in gates}) == 1


def test_a_gate_stands_between_its_two_inputs():
  layout = place(parse("a * b"), extent)
  y = {item.name: y for item, y in zip(layout.columns.items, layout.y, strict=True)}
  assert abs(y["g1"] - (y["a"] + y["b"]) / 2) <= 0.5


def test_two_lines_in_each_others_way_move_together():
  # Of a + b = s and s * c = f: c wants down to f and stands on s, which wants up, between a and b.
  a, b, s, c = range(4)
  y = {a: 0.0, b: 200.0, c: 135.0, s: 180.0}
  near = {a: {b: -200.0}, b: {a: 200.0}, c: {s: -45.0}, s: {c: 45.0}}
  relax(Lines(y, near, {a: [s], b: [s], c: [s], s: [a, b, c]}))
  assert abs(y[s] - (y[a] + y[b]) / 2) <= 25
  assert y[s] - y[c] == 45


def test_inputs_stand_at_the_left_and_constants_near_their_gate():
  def column(text, name):
    return next(i.column for i in place(parse(text), extent).columns.items if i.name == name)

  assert {column(NEURON, name) for name in ("w0", "x0", "w1", "x1", "w2")} == {0}
  late = "sin(cos(exp(sin(cos(x))))) * y + 2"
  assert column(late, "y") == column(late, "g6") - 1
  assert column(late, "c1") == column(late, "g7") - 1


def test_where_a_fork_would_be_crossed_a_weight_stands_beside_the_branch():
  text = "a = x*w1 + y*w2; b = x*w3 + y*w4; a*b"
  columns = place(parse(text), extent).columns
  assert count_crossings(columns) == 1
  kinds = {item.kind for item in columns.items if item.column == 1}
  assert kinds == {"label", "node"}


def test_far_wires_share_their_bends():
  nodes = [Node("x", "input"), Node("g0", "tanh", ("x",))]
  for i in range(500):
    nodes.append(Node(f"g{i + 1}", "multiply", (f"g{i}", "x")))
  assert len(assign_columns(build(nodes), margin=False).items) < 6 * 500


@pytest.mark.slow
def test_ten_thousand_gates_are_placed_without_recursion():
  layout = place(chain(10_000), extent)
  assert (len(layout.spans), len(set(layout.y))) == (10_001, 1)


def test_wires_that_are_too_long_are_refused(monkeypatch):
  monkeypatch.setattr(columns_, "MOST_BENDS", 100)
  nodes = [*chain(60).nodes, *(Node(f"a{i}", "add", (f"g{i}", f"g{59 - i}")) for i in range(10))]
  with pytest.raises(CircuitError, match="too long to be drawn: over 100 bends"):
    place(build(nodes), extent)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12))
def test_spread_keeps_order_distance_and_reach(wanted):
  apart = min(7.0, 20 / max(len(wanted) - 1, 1))
  heights = spread(wanted, apart, 10)
  assert all(b - a >= apart - 1e-9 for a, b in pairwise(heights))
  assert heights[0] >= -10 - 1e-9
  assert heights[-1] <= 10 + 1e-9


def test_spread_is_the_least_squares_answer():
  assert spread([0.0, 0.0, 0.0], 4, 100) == [-4, 0, 4]
  assert spread([-30.0, 1.0, 1.0], 4, 100) == [-30, -1, 3]
  assert spread([5.0, -5.0], 0, 100) == [0, 0]


def test_sweeps_mend_a_planted_tangle():
  items = [Item("node", i // 6, f"{i}") for i in range(12)]
  links = [Link(i, 11 - i) for i in range(6)]
  tangled = Columns(items, [list(range(6)), list(range(6, 12))], links)
  assert count_crossings(tangled) == 15
  assert count_crossings(minimise_crossings(tangled)) == 0
