"""Networks on a DAG: what the laws don't cover, and who else takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from tests.support.refusals import refusals
from tests.support.runs import descend
from tests.support.witness import assert_bitwise, random_like

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def residual_net(dense=fb.dense):
  nodes = {"h": (dense(3, 3), "x"), "a": (fb.tanh, "h"), "y": (fb.add, "x", "a")}
  return fb.graph(nodes, output="y")


def tied_autoencoder(dense=fb.dense):
  nodes = {"h": (dense(4, 2), "x"), "a": (fb.tanh, "h"), "y": (fb.transposed("h"), "a")}
  return fb.graph(nodes, output="y")


def two_towers():
  """Two inputs, one embedding of both, two outputs."""
  nodes = {
    "left": (fb.dense(3, 4), "u"), "right": (fb.shared("left"), "v"),
    "both": (fb.multiply, "left", "right"), "score": (fb.dense(4, 1), "both"),
  }  # fmt: skip
  outputs = {"score": "score", "embedding": "left"}
  return fb.graph(nodes, output=outputs, inputs={"u": "u", "v": "v"})


@pytest.mark.slow
def test_a_chain_as_a_graph_is_serial_to_the_bit():
  chain = fb.mlp([3, 5, 2], fb.tanh)
  nodes = {"a": (chain.parts[0], "x"), "b": (fb.tanh, "a"), "c": (chain.parts[2], "b")}
  net = fb.graph(nodes, output="c")
  params = chain.init(KEY)
  own = dict(zip("abc", params, strict=True))
  x, y_bar = random_like(RNG, (jnp.ones((6, 3)), jnp.ones((6, 2))))
  (y, kept), (want, kept_) = net.forward(own, x), chain.forward(params, x)
  got, x_bar = net.backward(own, kept, y_bar)
  bars, x_bar_ = chain.backward(params, kept_, y_bar)
  assert_bitwise("graph", ("y", "x_bar"), (y, x_bar), (want, x_bar_))
  assert_bitwise("graph", ("bars",), (tuple(got[name] for name in "abc"),), (bars,))


@pytest.mark.slow
def test_a_residual_node_is_skip_to_the_bit():
  net, skipped = residual_net(), fb.skip(fb.serial(fb.dense(3, 3), fb.tanh))
  params = skipped.init(KEY)
  own = {"h": params[0], "a": (), "y": ()}
  x, y_bar = random_like(RNG, (jnp.ones((5, 3)), jnp.ones((5, 3))))
  (y, kept), (want, kept_) = net.forward(own, x), skipped.forward(params, x)
  got, x_bar = net.backward(own, kept, y_bar)
  bars, x_bar_ = skipped.backward(params, kept_, y_bar)
  assert_bitwise("skip", ("y", "h", "x_bar"), (y, got["h"], x_bar), (want, bars[0], x_bar_))


@pytest.mark.slow
def test_masks_depend_on_the_names_of_the_nodes_that_draw_alone():
  """Not on the order of the dict, and not on layers without noise in between."""
  branches = {"d1": (fb.dropout(0.5), "x"), "d2": (fb.dropout(0.5), "x")}
  join = {"y": (fb.concatenate, "d1", "d2")}
  late = {"i": (fb.identity, "x"), "d1": (fb.dropout(0.5), "i"), "d2": (fb.dropout(0.5), "x")}
  x, params = jnp.ones((4, 8)), {"d1": (), "d2": (), "y": ()}
  want = fb.graph(branches | join, output="y").forward(params, x, KEY)[0]
  assert (want[:, :8] != want[:, 8:]).any()
  for nodes in ({**join, **dict(reversed(branches.items()))}, {**late, **join}):
    own = params | dict.fromkeys(nodes, ())
    np.testing.assert_array_equal(fb.graph(nodes, output="y").forward(own, x, KEY)[0], want)


def test_initial_weights_depend_on_the_names_of_the_nodes_alone():
  nodes = {"b": (fb.dense(3, 3), "x"), "a": (fb.dense(3, 3), "x"), "y": (fb.add, "a", "b")}
  params, again = (
    fb.graph(dict(order), output="y").init(KEY) for order in (nodes.items(), [*nodes.items()][::-1])
  )
  assert (params["a"].w != params["b"].w).any()
  jax.tree.map(np.testing.assert_array_equal, params, again)


COMPOSITES = {
  "serial": lambda: fb.serial(fb.dense(3, 3), fb.tanh),
  "nested": lambda: fb.serial(fb.layer_norm(3), fb.serial(fb.tanh, fb.dense(3, 3, bias=False))),
  "skip": lambda: fb.skip(fb.serial(fb.dense(3, 3), fb.tanh)),
  "remat": lambda: fb.remat(fb.serial(fb.dense(3, 3), fb.tanh)),
  "repeat": lambda: fb.repeat(fb.serial(fb.tanh, fb.dense(3, 3)), 2),
  "graph": lambda: residual_net(),
  "tied": lambda: tied_of_width_three(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITES)
def test_factors_of_shared_compositions_are_joined_layer_by_layer(name):
  nodes = {"h": (COMPOSITES[name](), "x"), "y": (fb.shared("h"), "h"), "z": (fb.shared("h"), "y")}
  net = fb.graph(nodes, output="z")
  params = random_like(RNG, net.init(KEY))
  x, y_bar = random_like(RNG, (jnp.ones((5, 3)), jnp.ones((5, 3))))

  @jax.vmap
  def one(x, y_bar):
    return fb.pullback(net)(params, x[None])[1](y_bar[None])[0]

  want, each = fb.pullback(net)(params, x)[1](y_bar)[0], one(x, y_bar)
  flat = np.concatenate([np.asarray(g).reshape(5, -1) for g in jax.tree.leaves(each)], 1)
  # Rounding errors of float32 are relative to the largest term; see `TOLERANCE`.
  near = {"rtol": 0, "atol": 1e-5 * np.abs(flat).max()}
  for captured_net in (q.captured(net), fb.serial(q.captured(net))):
    is_chain = captured_net.name == "serial"
    factors = fb.pullback(captured_net)((params,) if is_chain else params, x)[1](y_bar)[0]
    got = q.gradient(factors[0] if is_chain else factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **near), got, want)
  factors = fb.pullback(q.captured(net))(params, x)[1](y_bar)[0]
  norms = (flat.astype(np.float64) ** 2).sum(1)
  np.testing.assert_allclose(q.example_sqnorms(factors), norms, rtol=1e-5)


@pytest.mark.slow
def test_several_inputs_and_outputs():
  net = two_towers()
  params = net.init(KEY)
  assert list(params) == ["left", "both", "score"]
  x = random_like(RNG, {"u": jnp.ones((5, 3)), "v": jnp.ones((5, 3))})
  y, backward = fb.pullback(net)(params, x)
  y_bar = random_like(RNG, y)
  want = jax.vjp(lambda *p: net.forward(*p)[0], params, x)[1](y_bar)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), backward(y_bar),
               want)  # fmt: skip
  through = jax.vjp(fb.as_custom_vjp(net), params, x)[1](y_bar)
  jax.tree.map(np.testing.assert_array_equal, through, backward(y_bar))
  assert fb.verify.layer(net, params, x, level="quick").verdict == "pass"


@pytest.mark.slow
def test_each_node_is_shown_also_where_parameters_are_shared():
  """Of nodes that share parameters each has its own signals, and the gradient stays a sum."""
  net = fb.repeat(fb.serial(residual_net(), fb.remat(tied_of_width_three())), 2)
  params = net.init(KEY)
  x, targets = random_like(RNG, (jnp.ones((5, 3)), jnp.ones((5, 3))))
  seen = fb.inspect(net, fb.squared_error)(params, x, targets)
  assert list(seen) == ["0.h.dense", "0.a.tanh", "0.y.add", "1.h.dense", "1.y.dense"]
  np.testing.assert_array_equal(seen["1.h.dense"].y, seen["1.y.dense"].x)
  assert seen["0.y.add"].x[0].shape == (2, 5, 3)
  report = fb.verify.layer(net, params, x, level="quick")
  assert report.verdict == "pass"
  assert "input 1 of 0.y.add" in report.leaves


def tied_of_width_three():
  return fb.graph({"h": (fb.dense(3, 3), "x"), "y": (fb.transposed("h"), "h")}, output="y")


@pytest.mark.slow
def test_a_wrong_node_is_named():
  def wrong(params, residuals, y_bar):
    return jax.tree.map(lambda a: 1.01 * a, fb.dense(3, 3).backward(params, residuals, y_bar))

  net = residual_net(lambda *sizes: fb.dense(*sizes)._replace(backward=wrong))
  report = fb.verify.layer(net, net.init(KEY), jax.random.normal(KEY, (4, 3)), level="quick")
  assert report.verdict == "fail"
  assert report.findings[0].message.startswith("in layer h.dense")


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_examples_gradients_of_shared_weights_have_cross_terms():
  nodes = {
    "h": (fb.dense(3, 2, dtype=jnp.float64), "x"), "a": (fb.tanh, "h"),
    "y": (fb.transposed("h"), "a"), "z": (fb.shared("h"), "y"),
  }  # fmt: skip
  net = fb.graph(nodes, output="z")
  params = random_like(RNG, net.init(KEY))
  x, y_bar = random_like(RNG, (jnp.ones((5, 3), float), jnp.ones((5, 2), float)))
  factors = fb.pullback(q.captured(net))(params, x)[1](y_bar)[0]

  def one(x, y_bar):
    return jax.vjp(lambda p: net.forward(p, x[None])[0][0], params)[1](y_bar)[0]

  each = jax.vmap(one)(x, y_bar)
  flat = np.concatenate([np.asarray(g).reshape(5, -1) for g in jax.tree.leaves(each)], 1)
  close = {"rtol": 0, "atol": 1e-12 * (flat**2).sum(1).max()}
  np.testing.assert_allclose(q.example_sqnorms(factors), (flat**2).sum(1), **close)
  np.testing.assert_allclose(q.gram(factors), flat @ flat.T, **close)
  uncrossed = sum(
    (np.asarray(f.x[:, p]) ** 2).sum(1) * (np.asarray(f.y_bar[:, p]) ** 2).sum(1)
    for f in (factors["h"].leaves.w,) for p in range(3)
  )  # fmt: skip
  assert (abs(uncrossed - (np.asarray(each["h"].w) ** 2).sum((1, 2))) > 1e-3).all()
  assert_near = lambda a, b: jax.tree.map(  # noqa: E731
    lambda a, b: np.testing.assert_allclose(a, b, **close), a, b
  )
  assert_near(q.example_gradients(factors), each)
  assert_near(q.gradient(factors), jax.tree.map(lambda g: g.sum(0), each))
  assert_near(q.second_moment(factors), jax.tree.map(lambda g: (g**2).sum(0), each))
  assert q.layer_order(net) == list(q.health(factors, net).layers) == ["h.dense", "y.dense"]


def test_of_shared_nodes_both_are_captured():
  nodes = {"h": (q.captured(fb.dense)(3, 2), "x"), "y": (fb.transposed("h"), "h")}
  net = fb.graph(nodes, output="y")
  params = net.init(KEY)
  y, backward = fb.pullback(net)(params, jnp.ones((2, 3)))
  with pytest.raises(fb.StructureError, match=r"capture the whole network, by .*captured\(net\)"):
    backward(y)


@pytest.mark.slow
def test_fit_trains_a_tied_autoencoder():
  x = jnp.asarray(RNG.normal(size=(64, 2)) @ RNG.normal(size=(2, 4)), jnp.float32)
  result = descend(tied_autoencoder(), (x, x), 400, rate=0.02, check_every=200,
                   loss=fb.squared_error)  # fmt: skip
  assert result.losses[-1] < 0.6 * result.losses[0]
  assert result.checks_ok
  w = result.params["h"].w
  assert w.shape == (4, 2)
  assert result.layer_names == ("['h']", "['y']")


def test_a_repr_is_the_call():
  net = fb.graph(
    {"h": (fb.dense(3, 2), "x"), "y": (fb.transposed("h"), "h"), "z": (fb.shared("h"), "y")},
    output="z",
  )
  assert repr(net) == (
    "graph({'h': (dense(3, 2), 'x'), 'y': (transposed('h'), 'h'), 'z': (shared('h'), 'y')}, "
    "output='z')"
  )


def pulled_back(net, y_bar):
  params = net.init(KEY)
  return net.backward(params, net.forward(params, X)[1], y_bar)


@pytest.mark.slow
def test_parts_may_be_trees_and_needn_t_be_read():
  """The zero cotangent of a part that nobody reads has the part's structure."""
  inside = fb.graph(
    {"s": (fb.split(1, 2), "x"), "r": (fb.relu, "x"), "t": (fb.tanh, "x")}, output=("s", "r", "t")
  )
  net = graph(h=(inside, "x"), y=(fb.sigmoid, "h[1]"))
  params, x = net.init(KEY), jax.random.normal(KEY, (2, 3))
  want = jax.grad(lambda x: fb.sigmoid.forward((), jax.nn.relu(x))[0].sum())(x)
  x_bar = net.backward(params, net.forward(params, x)[1], jnp.ones((2, 3)))[1]
  np.testing.assert_allclose(x_bar, want, rtol=1e-6)


def graph(**nodes):
  return fb.graph(nodes, output="y")


NET = residual_net()
PARAMS = NET.init(KEY)
X = jnp.ones((2, 3))
RUN = (two_towers().init(KEY), two_towers().forward(two_towers().init(KEY), {"u": X, "v": X})[1])
WHOLE = fb.graph({"s": (fb.split(1, 2), "x"), "y": (fb.relu, "x")}, output=("s", "y"))
# A layer with a wrong rule: its x_bar has one row.
LOSSY = fb.tanh._replace(backward=lambda params, residuals, y_bar: ((), y_bar[:1]))
CUT = graph(s=(fb.split(1, 2), "x"), y=(fb.relu, "s[2]"))

REFUSED = [
  (lambda: graph(y=(fb.add, "hh", "x"), h=(fb.relu, "x")), ValueError,
   "node 'y' reads 'hh', which is no node and no input; did you mean 'h'"),
  (lambda: graph(a=(fb.relu, "y"), y=(fb.add, "a", "x")), ValueError, "a cycle: .*y -> a|a -> y"),
  (lambda: graph(a=(fb.relu, "x"), y=(fb.relu, "x")), ValueError, "'a' doesn't lead to the output"),
  (lambda: graph(x=(fb.relu, "y"), y=(fb.relu, "x")), ValueError, "two values with the name 'x'"),
  (lambda: graph(y=fb.relu), TypeError, r"node 'y' must be .*such as \(relu, 'x'\)"),
  (lambda: graph(y=(fb.relu,)), TypeError, "node 'y' must be"),
  (lambda: graph(y=(fb.gates.add, "x")), TypeError, "node 'y' must be"),
  (lambda: fb.graph({}, output="y"), TypeError, "nodes must be a dict of nodes"),
  (lambda: fb.graph({"a.b": (fb.relu, "x")}, output="a.b"), TypeError, "without brackets, dots"),
  (lambda: fb.graph({"y": (fb.relu, "x")}, output=3), TypeError, "output must be a name"),
  (lambda: fb.graph({"y": (fb.relu, "x")}, output="z"), ValueError, "output reads 'z'"),
  (lambda: fb.graph({"y": (fb.relu, "a")}, output="y", inputs=("a", "b")), ValueError,
   "'b' doesn't lead to the output"),
  (lambda: graph(y=(fb.relu, "x[0]")), ValueError, "give the parts of x names, in inputs"),
  (lambda: graph(s=(fb.split(1, 2), "x"), y=(fb.concatenate, "s", "s[0]")), ValueError,
   r"reads 's\[0\]', and node 'y' the whole of 's'"),
  (lambda: graph(y=(fb.relu, "x]")), ValueError, "reads 'x]'"),
  (lambda: CUT.forward(CUT.init(KEY), X), ValueError,
   r"there is no 's\[2\]'; the parts are s\[0\], s\[1\]"),
  (lambda: graph(s=(fb.relu, "x"), y=(fb.relu, "s[0]")).forward({"s": (), "y": ()}, X), TypeError,
   "the value of 's' must be a tuple, as of fbackprop.split"),
  (lambda: graph(y=(fb.shared("h"), "x")), ValueError, "shares the parameters of 'h', which is no"),
  (lambda: graph(a=(fb.shared("y"), "x"), y=(fb.shared("a"), "a")), ValueError, "must have a lay"),
  (lambda: graph(a=(fb.relu, "x"), y=(fb.transposed("a"), "a")), ValueError,
   r"node 'y' is transposed\('a'\), which has the layer relu"),
  (lambda: graph(a=(fb.dense(2, 2), "x"), b=(fb.transposed("a"), "a"), y=(fb.shared("b"), "b")),
   ValueError, "uses those of 'a' transposed: share 'a'"),
  (lambda: NET.forward(PARAMS["h"], X), ValueError, "params must be a dict of the nodes a, h, y"),
  (lambda: NET.forward({"h": PARAMS["h"]}, X), ValueError, "nodes a, h, y, got one of h"),
  (lambda: two_towers().forward(two_towers().init(KEY), (X, X)), ValueError,
   r"x must be like inputs=\{'u': 'u', 'v': 'v'\}, got tuple"),
  (lambda: two_towers().backward(*RUN, (X, X)), ValueError,
   r"y_bar must be like output=\{'score': 'score', 'embedding': 'left'\}, got tuple"),
  (lambda: two_towers().backward(*RUN, {"score": X[:, :1], "embedding": jnp.ones((1, 4))}),
   ValueError, r"y_bar of 'left' must have shape \[2, 4\], got float32\[1, 4\]"),
  (lambda: two_towers().backward(*RUN, {"score": X[:, :1], "embedding": 1.0}), TypeError,
   "y_bar of 'left' must be an array, got float 1.0"),
  (lambda: two_towers().backward(*RUN, {"score": X[:, :1], "embedding": jnp.ones((2, 4), "int32")}),
   TypeError, "y_bar of 'left' must have dtype float32"),
  (lambda: WHOLE.backward({"s": (), "y": ()}, WHOLE.forward({"s": (), "y": ()}, X)[1], [X, X]),
   ValueError, r"y_bar must be like output=\('s', 'y'\), got list"),
  (lambda: pulled_back(WHOLE, (X, X)), ValueError, "y_bar of 's' must have the structure"),
  (lambda: pulled_back(graph(h=(LOSSY, "x"), y=(fb.add, "h", "x")), X), ValueError,
   r"a cotangent of 'x' must have shape \[2, 3\], got float32\[1, 3\]"),
  (lambda: fb.shared(3), TypeError, "shared: node must be the name of a node, got int 3"),
  (lambda: fb.transposed(None), TypeError, "transposed: node must be the name of a node"),
  (lambda: fb.transposed("h", bias="no"), TypeError, "transposed: bias must be True or False"),
  (lambda: fb.graph({"y": (fb.relu, "x[0]")}, output="y", inputs="x[0]"), TypeError,
   "the name of an input must be a nonempty str without brackets"),
  (lambda: fb.layers.merging.merging(fb.gates.relu), TypeError, "merging: gate must be a Gate of"),
  (lambda: fb.layers.merging.merging(fb.relu), TypeError, "merging: gate must be a Gate"),
  (lambda: fb.add.forward((), X), TypeError, "add: x must be a tuple of arrays"),
  (lambda: fb.concatenate.forward((), (X, X[:1])), ValueError, r"x\[1\] must have shape \[2, D\]"),
  (lambda: fb.split(), ValueError, "widths must be the widths of the parts"),
  (lambda: fb.split(2, 0), ValueError, r"widths\[1\] must be at least 1, got 0"),
  (lambda: fb.split(2, 2).forward((), X), ValueError, r"x must have shape \[N, 4\]"),
  (lambda: fb.split(1, 2).backward((), (), X), TypeError, "y_bar must be a tuple of 2 arrays"),
]  # fmt: skip


test_bad_graphs_are_refused = refusals(lambda call: call(), REFUSED)


def test_an_error_inside_names_its_node():
  net = graph(h=(fb.dense(3, 2), "x"), y=(fb.add, "h", "x"))
  with pytest.raises(fb.ShapeError) as caught:
    net.forward(net.init(KEY), X)
  assert caught.value.__notes__ == ["in node 'y' (add of 'h', 'x') of the graph, forward"]
