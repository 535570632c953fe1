"""Networks and runs on meshes of devices: the numbers of one device, however arrays are split."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop.meshes import product, take_rows
from fbackprop.quantities import captured, compute
from tests.support.runs import descend

P = PartitionSpec
RNG = np.random.default_rng(0)
N = 24
X = jnp.asarray(RNG.normal(size=(N, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.permutation(np.arange(N) % 4), jnp.int32)
WEIGHTS = jnp.asarray(RNG.uniform(0.5, 1.5, N), jnp.float32)
NET = fb.mlp([3, 8, 4], fb.tanh)
PARAMS = NET.init(jax.random.key(0))
PASS = jax.jit(fb.value_and_grad(NET, fb.softmax_cross_entropy, input_gradient=True))
AXES = (AxisType.Auto, AxisType.Explicit)


def mesh_of_two(axis_type=AxisType.Explicit, name="data"):
  return jax.make_mesh((2,), (name,), axis_types=(axis_type,), devices=jax.devices("cpu")[:2])


def put(mesh, tree, *splits):
  return jax.device_put(tree, NamedSharding(mesh, P(*splits)))


def assert_near(got, want, atol=2e-6):
  got, want = jax.device_get((got, want))
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol * np.abs(b).max(initial=1.0))


# --- Where parameters live ------------------------------------------------------------------------

PLACES = {  # w and b of the first layer, w and b of the last.
  "replicated": (P(), P(), P(), P()),
  "not yet summed": (P(None, None, reduced={"data"}), P(), P(None, None, reduced={"data"}), P()),
  "columns over the batch's axis": (P(None, "data"), P(), P(None, "data"), P()),
  "rows over the batch's axis": (P(), P(), P("data", None), P()),
}


def params_at(mesh, specs):
  """`PARAMS` with its leaves placed by these specs; and those leaves."""
  leaves, structure = jax.tree.flatten(PARAMS)
  pairs = zip(leaves, specs, strict=True)
  placed = [jax.device_put(leaf, NamedSharding(mesh, spec)) for leaf, spec in pairs]
  return jax.tree.unflatten(structure, placed), placed


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_gradient_lives_where_its_parameter_does(place):
  mesh = mesh_of_two()
  params, placed = params_at(mesh, PLACES[place])
  with jax.set_mesh(mesh):
    loss, (grads, x_bar) = PASS(params, *put(mesh, (X, LABELS), "data"))
    for leaf, bar in zip(placed[::2], jax.tree.leaves(grads)[::2], strict=True):
      assert jax.typeof(bar).sharding == jax.typeof(leaf).to_ct_aval().sharding
    everywhere = NamedSharding(mesh, P())
    grads = jax.tree.map(lambda g: jax.sharding.reshard(g, everywhere), grads)
  assert_near((loss, (grads, x_bar)), PASS(PARAMS, X, LABELS))


@pytest.mark.slow
def test_a_layer_of_columns_feeds_one_of_rows():
  """Neurons split over the devices, the batch on both: no device holds a whole w."""
  mesh = mesh_of_two(name="model")
  params, placed = params_at(mesh, (P(None, "model"), P("model"), P("model", None), P()))
  with jax.set_mesh(mesh):
    got = PASS(params, *put(mesh, (X, LABELS)))
  assert [jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(got[1][0])] == [
    jax.typeof(leaf).sharding.spec for leaf in placed
  ]
  assert_near(got, PASS(PARAMS, X, LABELS))


@pytest.mark.slow
@pytest.mark.parametrize("run", [PASS, PASS.__wrapped__], ids=["jit", "eager"])
def test_arrays_of_no_mesh_join_in(run):
  """Parameters made before there was a mesh; NumPy's arrays."""
  want = PASS(PARAMS, X, LABELS)
  mesh = mesh_of_two()
  split = put(mesh, (X, LABELS), "data")
  assert_near(run(PARAMS, *split), want)
  with jax.set_mesh(mesh):
    assert_near(run(PARAMS, *split), want)
    assert_near(run(jax.device_get(PARAMS), *split), want)
    assert_near(run(put(mesh, PARAMS), np.asarray(X), np.asarray(LABELS)), want)


@pytest.mark.slow
def test_examples_that_cannot_be_split_are_not_lost():
  mesh = mesh_of_two()
  with pytest.raises(ValueError, match=r"divide the dimension size 7|divisible"):
    put(mesh, X[:7], "data")
  with jax.set_mesh(mesh):
    taken = take_rows(put(mesh, X, "data"), np.arange(7))
  assert taken.sharding.is_fully_replicated
  assert_near(taken, X[:7], 0)


# --- The same functions ---------------------------------------------------------------------------

DEEP = partial(
  fb.mlp, [3, 8, 8, 8, 4], fb.tanh, normalization=fb.rms_norm, dropout=0.2, repeat_hidden=True
)


@jax.jit
def uses(params, x, labels, weights):
  """inspect, pullback, as_custom_vjp of x [2, 12, 3], and all with dropout and weights."""
  net, key, loss = DEEP(), jax.random.key(1), fb.softmax_cross_entropy

  def by_autodiff(params, x):
    y = fb.as_custom_vjp(net)(params, x.reshape(2, 12, 3), key)
    return loss.forward(y.reshape(N, 4), labels)[0].mean()

  def squared_length(params):
    grads = fb.value_and_grad(net, loss)(params, x, labels)[1]
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(grads))

  y, backward = fb.pullback(net)(params, x, key)
  return (
    fb.value_and_grad(net, loss)(params, x, labels, key=key, weights=weights),
    fb.inspect(net, loss)(params, x, labels, key=key),
    jax.grad(by_autodiff, (0, 1))(params, x),
    backward(jnp.ones_like(y)),
    jax.grad(squared_length)(params),
  )


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", AXES)
def test_every_use_of_a_network(axis_type):
  params = DEEP().init(jax.random.key(2))
  mesh = mesh_of_two(axis_type)
  with jax.set_mesh(mesh):
    got = uses(put(mesh, params), *put(mesh, (X, LABELS, WEIGHTS), "data"))
  assert_near(got, uses(params, X, LABELS, WEIGHTS))


@pytest.mark.slow
def test_a_remat_computes_again_what_is_split():
  """The slice of one number that says that y_bar is known would have no place of its own."""
  net = fb.serial(fb.remat(NET), fb.softmax)
  run = jax.jit(fb.value_and_grad(net, fb.squared_error))
  params, targets = net.init(jax.random.key(0)), jax.nn.one_hot(LABELS, 4)
  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    got = run(put(mesh, params), *put(mesh, (X, targets), "data"))
  assert_near(got, run(params, X, targets))


# --- A run ----------------------------------------------------------------------------------------

RUNS = {
  "exact": {"batch_size": 8, "check_every": 3},
  "odd": {"batch_size": 7, "check_every": 3},
  "all": {},
  "fast": {
    "batch_size": 6, "shuffle": "fast",
    "stop": fb.train.StopRules(max_epochs=2, validation_fraction=0.25),
  },
  "watched": {
    "batch_size": 8, "check_every": 3, "watch": ("noise_scale", "health"), "clip_examples": 1.0
  },
}  # fmt: skip
FAST = ("exact", "odd")


def run_of(data, test, *, stop=None, **options):
  wrapped = captured if "watch" in options else lambda make: make
  net = fb.mlp(
    [3, 8, 4], fb.tanh, dropout=0.1, dense=wrapped(fb.dense),
    normalization=wrapped(fb.layer_norm),
  )  # fmt: skip
  options = {"optimizer": optax.sgd(0.1, momentum=0.9), "eval_every": 2, **options}
  return descend(net, data, stop or fb.train.StopRules(max_epochs=2), test=test, **options)


@functools.cache
def run_on_one_device(name):
  return run_of((X, LABELS, WEIGHTS), (X, LABELS), **RUNS[name])


EACH_RUN = [
  pytest.param(name, axis_type, marks=[pytest.mark.slow] * (name not in FAST))
  for name in RUNS
  for axis_type in (AXES if name in (*FAST, "watched") else AXES[1:])
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axis_type"), EACH_RUN)
def test_fit_trains_as_on_one_device(name, axis_type):
  want = run_on_one_device(name)
  mesh = mesh_of_two(axis_type)
  with jax.set_mesh(mesh):
    data = put(mesh, (X, LABELS, WEIGHTS), "data")
    got = run_of(data, data[:2], **RUNS[name])
  assert_near(got.state.params, want.state.params, 2e-5)
  np.testing.assert_allclose(got.losses, want.losses, atol=1e-5)
  np.testing.assert_allclose(got.grad_norms, want.grad_norms, atol=1e-5)
  assert got.stop_reason == want.stop_reason
  last = got.evaluations[-1], want.evaluations[-1]
  assert last[0].test_accuracy == last[1].test_accuracy
  assert all(check.ok for _, check in got.checks)
  assert len(got.checks) == len(want.checks)
  assert bool(got.checks) == ("check_every" in RUNS[name])
  if name == "watched":
    assert last[0].clipped == last[1].clipped
    assert last[0].noise_scale == pytest.approx(last[1].noise_scale, rel=1e-3)
    assert_near(last[0].health, last[1].health, 1e-5)


@pytest.mark.slow
def test_a_step_keeps_its_state_on_the_mesh():
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, optax.sgd(0.1, momentum=0.9))
  want, _ = step(init(jax.random.key(0)), (X, LABELS))
  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    state, info = step(init(jax.random.key(0)), put(mesh, (X, LABELS), "data"))
    state, _ = step(state, put(mesh, (X, LABELS), "data"))
  assert bool(info.finite)
  assert int(state.step) == 2
  assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 2
  again, _ = step(want, (X, LABELS))
  assert_near(state.params, again.params, 2e-5)


@pytest.mark.slow
def test_a_step_keeps_parameters_split():
  """w in parts over the batch's own axis, and so the optimiser's state."""
  optimizer = optax.sgd(0.1, momentum=0.9)
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, optimizer)
  want, told = step(init(jax.random.key(0)), (X, LABELS))
  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    state = init(jax.random.key(0))
    splits = jax.tree.map(lambda leaf: (None, "data") if leaf.ndim == 2 else (), state.params)
    params = jax.tree.map(lambda leaf, own: put(mesh, leaf, *own), state.params, splits)
    state = state._replace(params=params, opt_state=optimizer.init(params))
    state, info = step(state, put(mesh, (X, LABELS), "data"))
  assert [jax.typeof(leaf) for leaf in jax.tree.leaves(state.params)] == [
    jax.typeof(leaf) for leaf in jax.tree.leaves(params)
  ]
  assert_near((state.params, info.grad_norms), (want.params, told.grad_norms))


# --- Without a mesh -------------------------------------------------------------------------------


def test_the_program_of_one_device_is_that_of_plain_products():
  """Nothing is said of places where there is no mesh: the same operations, one by one."""
  w, rows = PARAMS[0].w, jnp.arange(5)

  def plain(x, w, rows):
    return x @ w, x.T @ (x @ w), x[rows]

  def ours(x, w, rows):
    y = product(x, w)
    return y, product(x.T, product(x, w), bar_of=w), take_rows(x, rows)

  assert str(jax.make_jaxpr(ours)(X, w, rows)) == str(jax.make_jaxpr(plain)(X, w, rows))


# --- Within shard_map -----------------------------------------------------------------------------


def within_shard_map(function, out_specs):
  mesh = mesh_of_two()
  specs = (P(), P("data"), P("data"))
  mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs)
  return jax.jit(mapped)(put(mesh, PARAMS), *put(mesh, (X, LABELS), "data"))


@pytest.mark.slow
def test_autodiff_adds_up_our_gradient_of_shared_parameters():
  """Inside and around it: JAX adds what it adds of its own rules, and nothing is counted twice."""
  f = fb.as_custom_vjp(NET)

  def total(params, x, labels):
    return fb.softmax_cross_entropy.forward(f(params, x), labels)[0].sum() / N

  want = jax.grad(total, (0, 1))(PARAMS, X, LABELS)
  got = within_shard_map(jax.grad(total, (0, 1)), (P(), P("data")))
  assert_near(got, want)

  def around(params, x, labels):
    mapped = jax.shard_map(
      lambda *args: jax.lax.psum(total(*args), "data"),
      in_specs=(P(), P("data"), P("data")),
      out_specs=P(),
    )
    return mapped(params, x, labels)

  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    got = jax.jit(jax.grad(around, (0, 1)))(put(mesh, PARAMS), *put(mesh, (X, LABELS), "data"))
  assert_near(got, want)


@pytest.mark.slow
def test_quantities_are_those_of_a_devices_own_examples():
  names = ("example_gradients", "example_sqnorms", "gram", "noise_scale", "second_moment", "health")
  net = fb.mlp([3, 8, 4], fb.tanh, dense=captured(fb.dense))
  run = compute(net, fb.softmax_cross_entropy, names)

  def own(params, x, labels):
    return jax.tree.map(lambda leaf: leaf[None], run(params, x, labels))

  got = jax.device_get(within_shard_map(own, P("data")))
  for i, rows in enumerate((slice(0, N // 2), slice(N // 2, N))):
    want = jax.jit(run)(PARAMS, X[rows], LABELS[rows])
    assert_near(jax.tree.map(lambda leaf, i=i: leaf[i], got), want, 2e-5)


# --- What fit says and does besides ---------------------------------------------------------------


def test_fit_wants_the_mesh_of_its_data():
  data = put(mesh_of_two(), (X, LABELS), "data")
  with pytest.raises(ValueError, match=r"data.x lives on a mesh .* within `with jax.set_mesh"):
    run_of(data, None)


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint(tmp_path):
  """What is on the disk is of no mesh: saved on one, resumed there, and the same numbers."""
  stop, saved = fb.train.StopRules(max_steps=4), fb.train.Checkpoints(tmp_path / "run", every=2)
  options = {"batch_size": 8, "checkpoints": saved}
  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    data = put(mesh, (X, LABELS), "data")
    run_of(data, None, stop=fb.train.StopRules(max_steps=2), **options)
    got = run_of(data, None, stop=stop, resume=tmp_path / "run", **options)
  assert_near(got.state.params, run_of((X, LABELS), None, stop=stop, batch_size=8).state.params)


@pytest.mark.slow
def test_an_ensemble_trains_as_on_one_device():
  def ensemble(data):
    return fb.train.fit_ensemble(
      NET, fb.softmax_cross_entropy, data, optimizer=fb.train.gradient_descent(0.1),
      stop=fb.train.StopRules(max_epochs=2), keys=jax.random.split(jax.random.key(0), 3),
      batch_size=8, monitor=fb.train.Monitor(test=data),
    )  # fmt: skip

  mesh = mesh_of_two()
  with jax.set_mesh(mesh):
    got = ensemble(put(mesh, (X, LABELS), "data"))
  assert_near(got.params, ensemble((X, LABELS)).params)


@pytest.mark.slow
def test_a_rule_is_judged_as_on_one_device():
  """On an explicit mesh a right rule would fail for JAX's reasons."""
  mesh = mesh_of_two()
  f, split = fb.as_custom_vjp(NET), put(mesh, X, "data")
  assert fb.verify.vjp(f, PARAMS, split, level="quick").verdict == "pass"
  with jax.set_mesh(mesh):
    assert fb.verify.vjp(f, PARAMS, split, level="quick").verdict == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["whole", "of no mesh", "NumPy"])
@pytest.mark.parametrize(
  "loss",
  [fb.softmax_cross_entropy, fb.hinge, fb.sigmoid_cross_entropy, fb.poisson_nll,
   fb.squared_error, fb.huber, fb.log_cosh],
  ids=lambda loss: loss.name,
)  # fmt: skip
def test_targets_may_live_elsewhere_than_the_outputs(loss, place):
  mesh = mesh_of_two()
  is_labelled = loss.name in ("softmax_cross_entropy", "hinge")
  targets = LABELS if is_labelled else jax.nn.one_hot(LABELS, 4)
  f = jax.jit(fb.value_and_grad(NET, loss))
  want = f(PARAMS, X, targets)
  placed = {"whole": put(mesh, targets), "of no mesh": targets, "NumPy": np.asarray(targets)}[place]
  with jax.set_mesh(mesh):
    assert_near(f(put(mesh, PARAMS), put(mesh, X, "data"), placed), want)


@pytest.mark.slow
@pytest.mark.parametrize("net", [NET, fb.mlp([3, 8, 4], normalization=fb.layer_norm)])
def test_a_bias_gradient_is_whole_where_the_bias_is(net):
  """Also where w is split over the axis of the batch, and the batch, of odd size, is not."""
  mesh, params = mesh_of_two(), net.init(jax.random.key(0))
  f = fb.value_and_grad(net, fb.softmax_cross_entropy)
  with jax.set_mesh(mesh):
    placed = put(mesh, params)
    placed = (placed[0]._replace(w=put(mesh, params[0].w, None, "data")), *placed[1:])
    _, grads = jax.jit(f)(placed, X[:7], LABELS[:7])
    for got, primal in zip(jax.tree.leaves(grads), jax.tree.leaves(placed), strict=True):
      assert jax.typeof(got).sharding == jax.typeof(primal).sharding
    if net is NET:
      data = put(mesh, (X, LABELS), "data")
      assert descend(net, data, 4, params=placed, batch_size=7).steps == 4
  assert_near(grads, jax.jit(f)(params, X[:7], LABELS[:7])[1])
