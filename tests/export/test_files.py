"""A model in files of other programs and back: torch's names, ONNX, StableHLO, npz."""

import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from onnx.reference import ReferenceEvaluator

import fbackprop as fb
from fbackprop.export.onnx_writer import is_wide
from fbackprop.train.models import save_model
from tests.support.exchanged import OPTIONS, assert_near, make_model, rows_for

MODELS = {name: make_model(**options) for name, options in OPTIONS.items()}
each_model = pytest.mark.parametrize("name", MODELS)


def answers_of(model, x):
  """Probabilities `[N, C]`, or values."""
  if model.task != "regression":
    return model.predict_proba(x)
  values = model.predict(x)
  return values.reshape(len(x), -1)


def run_onnx(proto, x):
  """What onnxruntime and onnx's own evaluator answer."""
  names = [output.name for output in proto.graph.output]
  session = onnxruntime.InferenceSession(
    proto.SerializeToString(), providers=["CPUExecutionProvider"]
  )
  yield dict(zip(names, session.run(None, {"x": x}), strict=True))
  with np.errstate(all="ignore"):
    yield dict(zip(names, ReferenceEvaluator(proto).run(None, {"x": x}), strict=True))


@each_model
def test_a_file_gives_the_model_back(name, tmp_path):
  model = MODELS[name]
  for ending in ("safetensors", "onnx", "npz"):
    path = tmp_path / f"model.{ending}"
    if ending == "safetensors" and (model.description.skip or model.description.ensemble):
      with pytest.raises(ValueError, match="Sequential"):
        fb.export.write(model, path)
      continue
    fb.export.write(model, path)
    back = fb.export.read(path)
    assert repr(back.description) == repr(model.description)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (back.params, model.params))))


@each_model
def test_onnx_answers_as_the_model_does(name, tmp_path):
  model = MODELS[name]
  path = tmp_path / "model.onnx"
  fb.export.write(model, path)
  proto = onnx.load(path)
  x = rows_for(model, np.float64 if is_wide(model.description) else np.float32)
  assert is_wide(model.description) == (name == "far")
  wanted = answers_of(model, x)
  for answers in run_onnx(proto, x):
    if model.task == "regression":
      assert_near(answers["values"], wanted)
      continue
    assert_near(answers["probabilities"], wanted)
    # Two classes with the same probability, to rounding, have no order.
    top = np.sort(wanted)[:, -2:] if model.task == "classification" else wanted
    is_clear = np.abs(np.diff(top) if model.task == "classification" else top - 0.5) > 1e-6
    same = answers["label"].reshape(len(x), -1) == model.predict(x).reshape(len(x), -1)
    assert same[is_clear].all()


@pytest.mark.parametrize("opset", range(17, 22))
def test_onnx_in_every_opset(opset):
  model = MODELS["deep"]
  proto = fb.export.to_onnx(model.net, model.params, about=model.description, opset=opset)
  assert [own.version for own in proto.opset_import] == [opset]
  x = rows_for(model, np.float32)
  for answers in run_onnx(proto, x):
    assert_near(answers["probabilities"], model.predict_proba(x))


def test_classes_that_are_integers_are_integers_in_onnx():
  model = MODELS["plain"]
  about = model.description._replace(outputs=("-7", "0", "12"))
  proto = fb.export.to_onnx(model.net, model.params, about=about)
  for answers in run_onnx(proto, rows_for(model, np.float32)):
    assert answers["label"].dtype == np.int64
    assert set(answers["label"]) <= {-7, 0, 12}
  # No integers: a sign, a zero in front, a number beyond int64.
  for outputs in (("+1", "2", "3"), ("01", "2", "3"), (str(2**64), "2", "3")):
    proto = fb.export.to_onnx(model.net, model.params, about=about._replace(outputs=outputs))
    assert proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.STRING


ACTIVATIONS = [
  "relu", "leaky_relu", "relu6", "hard_tanh", "sigmoid", "tanh", "softplus", "elu", "selu", "gelu",
  "gelu_tanh", "silu", "mish", "identity",
]  # fmt: skip
EXTREMES = np.float32(np.concatenate([np.linspace(-30, 30, 601), [-1e30, -1e4, -100, 100, 1e4]]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_in_onnx_also_far_out(activation):
  net = fb.serial(getattr(fb, activation))
  wanted = net.forward(((),), EXTREMES[:, None])[0]
  for answers in run_onnx(fb.export.to_onnx(net, ((),)), EXTREMES[:, None]):
    assert_near(answers["y"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "far", "regression", "ensemble"])
def test_stablehlo_answers_as_the_model_does(name, tmp_path):
  """And its derivative is that of our backward pass."""
  model = MODELS[name]
  wide = is_wide(model.description)
  fb.export.write(model, tmp_path / "model.stablehlo")
  f = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes())).call
  x = rows_for(model, np.float64 if wide else np.float32)
  with jax.enable_x64(wide):
    assert_near(jax.jit(f)(x), answers_of(model, x))
    assert f(x[:2]).shape == (2, len(model.labels))  # Any number of rows.
    slope = jax.grad(lambda x: f(x)[:, 0].sum())(jnp.asarray(x[:4]))
  own = model.preprocessing

  def first(x):
    y = jax.nn.softmax(model.description.forward(model.params, x))
    return y[:, 0].sum()

  if model.task == "classification":
    inside = jax.grad(first)(jnp.asarray(model.description.standardized(x[:4])))
    assert_near(np.asarray(slope, np.float64) * own.scale, inside)


@pytest.mark.slow
def test_a_program_of_parameters_runs_where_fbackprop_is_not_installed(tmp_path):
  """It is differentiated there too, by the parameters and twice the rows of the export."""
  net = fb.mlp([3, 4, 2], fb.tanh)
  params = net.init(jax.random.key(0))
  (tmp_path / "net.stablehlo").write_bytes(fb.export.to_stablehlo(net))
  named = {"0.w": params[0].w, "0.b": params[0].b, "2.w": params[2].w, "2.b": params[2].b}
  np.savez(tmp_path / "net.npz", **named)
  code = """
import sys
sys.modules["fbackprop"] = None
import jax, jax.export, numpy as np
with open("net.stablehlo", "rb") as file:
  f = jax.export.deserialize(bytearray(file.read())).call
params = dict(np.load("net.npz"))
x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
grads = jax.grad(lambda params: (f(params, x) ** 2).sum())(params)
np.savez("grads.npz", y=f(params, x), **grads)
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
  found = np.load(tmp_path / "grads.npz")
  x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
  assert_near(found["y"], net.forward(params, x)[0])
  wanted = jax.grad(lambda params: (net.forward(params, x)[0] ** 2).sum())(params)
  for name, leaf in {"0.w": wanted[0].w, "0.b": wanted[0].b, "2.b": wanted[2].b}.items():
    assert_near(found[name], leaf)


# --- Torch ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torch_names_and_shapes_are_those_of_a_sequential():
  """A Linear is y = x Wᵀ + b: computed here in NumPy from the state dict alone."""
  model = MODELS["normalized"]
  state = fb.export.to_torch(model.net, model.params)
  kinds = ["Linear", "LayerNorm", "GELU", "Dropout", "Linear", "LayerNorm", "GELU", "Dropout"]
  modules = fb.export.torch_modules(model.net)
  assert [part.partition("(")[0] for part in modules.split("nn.")[2:]] == [*kinds, "Linear"]
  assert list(state) == [f"{i}.{end}" for i in (0, 1, 4, 5, 8) for end in ("weight", "bias")]
  x = z = rows_for(model, np.float32)[:5]
  for i, kind in enumerate([*kinds, "Linear"]):
    if kind == "Linear":
      z = z @ state[f"{i}.weight"].T + state[f"{i}.bias"]
    elif kind == "LayerNorm":
      z = (z - z.mean(1)[:, None]) / np.sqrt(z.var(1) + 1e-5)[:, None]
      z = z * state[f"{i}.weight"] + state[f"{i}.bias"]
    elif kind == "GELU":
      z = np.asarray(jax.nn.gelu(z, approximate=False))
  assert_near(model.net.forward(model.params, x)[0], z)


def test_torch_arrays_are_contiguous():
  state = fb.export.to_torch(MODELS["plain"].net, MODELS["plain"].params)
  assert all(array.flags.c_contiguous for array in state.values())


@pytest.mark.slow
@pytest.mark.parametrize(
  "net",
  [
    fb.mlp([3, 4, 4, 4, 2], repeat_hidden=True),
    fb.serial(fb.dense(3, 4, bias=False), fb.remat(fb.rms_norm(4))),
  ],
)
def test_a_state_dict_gives_the_parameters_back(net):
  params = net.init(jax.random.key(0))
  state = fb.export.to_torch(net, params)
  back = fb.export.from_torch(net, state)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  assert all(map(np.array_equal, *map(jax.tree.leaves, (back, params))))


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"0.weight": None}, r"missing \['0.weight'\], not expected \[\]; expected that of nn.Seq"),
    ({"3.weight": np.ones(3)}, r"not expected \['3.weight'\]"),
    ({"0.weight": np.ones((4, 6), np.float32)}, r"state\['0.weight'\] must be float32\[6, 4\]"),
    ({"0.bias": np.ones(6)}, r"must be float32\[6\], got float64\[6\]"),
  ],
)
def test_a_state_dict_of_another_network_is_refused(change, said):
  model = MODELS["regression"]
  state = fb.export.to_torch(model.net, model.params) | change
  state = {name: array for name, array in state.items() if array is not None}
  with pytest.raises((ValueError, TypeError), match=said):
    fb.export.from_torch(model.net, state)


def test_weights_of_somebody_else_are_read_in_the_order_of_their_names(tmp_path):
  """fc10 follows fc2, float64 is rounded, a Linear without bias has zeros; columns are counted."""
  rng = np.random.default_rng(0)
  w = [rng.normal(size=shape) for shape in ((5, 3), (5, 5), (2, 5))]
  state = {"net.fc1.weight": w[0], "net.fc2.weight": w[1], "net.fc10.weight": w[2],
           "net.fc10.bias": np.ones(2)}  # fmt: skip
  path = tmp_path / "theirs.safetensors"
  safetensors.numpy.save_file(state, path)
  model = fb.export.read(path, activation="tanh", task="classification", labels=["a", "b"])
  x = rng.normal(size=(7, 3))
  z = np.tanh(np.tanh(x @ w[0].T) @ w[1].T) @ w[2].T + 1
  assert_near(model.outputs(x), z)
  assert (model.features, model.labels) == (("x0", "x1", "x2"), ("a", "b"))
  with pytest.raises(ValueError, match="read: activation must be given"):
    fb.export.read(path)
  with pytest.raises(ValueError, match="features must be 3 names, got 1"):
    fb.export.read(path, activation="relu", features=["a"])


# --- What isn't exported --------------------------------------------------------------------------


def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path):
  own = fb.activation(fb.gates.relu_with(at_zero=0.5))
  net = fb.serial(fb.dense(2, 2), own)
  params = net.init(jax.random.key(0))
  with pytest.raises(ValueError, match="layer 'relu', which has no counterpart"):
    fb.export.to_onnx(net, params)
  graph = fb.graph({"h": (fb.dense(2, 2), "x"), "y": (fb.add, "h", "x")}, output="y")
  with pytest.raises(ValueError, match="to_torch: net is a graph"):
    fb.export.to_torch(graph, graph.init(jax.random.key(0)))
  net = fb.mlp([2, 2], dtype=jnp.bfloat16)
  with pytest.raises(TypeError, match="must be all float32 or all float64, got bfloat16"):
    fb.export.to_onnx(net, net.init(jax.random.key(0)))
  with pytest.raises(ValueError, match=r"path must end in .safetensors, .onnx"):
    fb.export.write(MODELS["plain"], tmp_path / "model.pt")
  with pytest.raises(ValueError, match="opset must be"):
    fb.export.write(MODELS["plain"], tmp_path / "model.onnx", opset=16)
  with pytest.raises(ValueError, match="to_onnx: params is of another network"):
    fb.export.to_onnx(MODELS["plain"].net, MODELS["regression"].params)
  assert not list(tmp_path.iterdir())


def test_a_loaded_model_can_be_exported(tmp_path):
  model = MODELS["plain"]
  (tmp_path / "run").mkdir()
  save_model(tmp_path / "run" / "model.safetensors", model.params, model.description)
  fb.export.write(fb.load(tmp_path / "run"), tmp_path / "model.npz")
  assert "0.w.npy" in zipfile.ZipFile(tmp_path / "model.npz").namelist()
  assert_near(
    fb.export.read(tmp_path / "run").outputs(rows_for(model)), model.outputs(rows_for(model))
  )
