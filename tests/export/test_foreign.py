"""Files of somebody else: ONNX as torch and skl2onnx write it; what isn't read; damaged files."""

import io
import pickle
import zipfile

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fbackprop as fb
from tests.support.exchanged import OPTIONS, assert_near, make_model, rows_for

RNG = np.random.default_rng(0)
W = [np.float32(RNG.normal(size=shape)) for shape in ((4, 5), (5, 5), (5, 3))]
B = [np.float32(RNG.normal(size=shape)) for shape in (5, 5, 3)]
X = np.float32(RNG.normal(size=(6, 4)))


def save(path, nodes, arrays, outputs=("y",), opset=17, **change):
  """Write an ONNX file of nodes `(operator, inputs, output, attributes)`."""
  made = [helper.make_node(op, ins, [out], **(attributes or {}))
          for op, ins, out, attributes in nodes]  # fmt: skip
  kind = TensorProto.FLOAT
  graph = helper.make_graph(
    made, "theirs", [helper.make_tensor_value_info("x", kind, [None, None])],
    [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    [numpy_helper.from_array(array, name) for name, array in arrays.items()],
  )  # fmt: skip
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **change)
  path.write_bytes(model.SerializeToString())
  return path


def arrays_of(*names):
  known = {f"{kind}{i}": own[i] for kind, own in (("w", W), ("b", B)) for i in range(3)}
  return {name: known[name] for name in names}


def outputs_of(activation, x=X):
  z = x.astype(np.float64)
  for i in range(3):
    z = z @ W[i] + B[i]
    z = activation(z) if i < 2 else z
  return z


def gelu(x, base="g"):
  """The nodes of gelu as torch writes them before opset 20."""
  return [
    ("Div", [x, "root"], f"{base}1", None), ("Erf", [f"{base}1"], f"{base}2", None),
    ("Add", [f"{base}2", "one"], f"{base}3", None), ("Mul", [x, f"{base}3"], f"{base}4", None),
    ("Mul", [f"{base}4", "half"], base, None),
  ]  # fmt: skip


def test_a_file_of_torch(tmp_path):
  """Gemm with transposed weights; one array where two are equal; gelu in five operators."""
  arrays = arrays_of("b0", "b2") | {f"t{i}": W[i].T.copy() for i in range(3)}
  arrays |= {"root": np.float32(np.sqrt(2))}
  nodes = [
    ("Constant", [], "one", {"value": numpy_helper.from_array(np.float32(1))}),
    ("Constant", [], "half", {"value_float": 0.5}),
    ("Identity", ["b0"], "b1", None),
    ("Gemm", ["x", "t0", "b0"], "h0", {"transB": 1, "alpha": 1.0, "beta": 1.0}), *gelu("h0", "g0"),
    ("Gemm", ["g0", "t1", "b1"], "h1", {"transB": 1}), *gelu("h1", "g1"),
    ("Gemm", ["g1", "t2", "b2"], "y", {"transB": 1}),
  ]  # fmt: skip
  model = fb.export.read(save(tmp_path / "a.onnx", nodes, arrays))
  assert model.description.as_text() == "mlp 4-5-5-3, gelu, squared_error"
  b1 = B[1].copy()
  try:
    B[1] = B[0]
    wanted = outputs_of(lambda z: np.asarray(jax.nn.gelu(np.float32(z), approximate=False)))
  finally:
    B[1] = b1
  assert_near(model.predict(X), wanted)


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid", ""])
def test_a_file_of_skl2onnx(tmp_path, last):
  """A Scaler, casts, MatMul and Add, and behind the probabilities the choice of a label."""
  offset, scale = np.float32([1, 2, 3, 4]), np.float32([1, 0.5, 2, 0.1])
  nodes = [
    ("Cast", ["x"], "c", {"to": TensorProto.FLOAT}),
    ("Scaler", ["c"], "s",
     {"domain": "ai.onnx.ml", "offset": offset.tolist(), "scale": scale.tolist()}),
    ("MatMul", ["s", "w0"], "m0", None), ("Cast", ["m0"], "c0", {"to": TensorProto.FLOAT}),
    ("Add", ["c0", "b0"], "h0", None), ("Tanh", ["h0"], "g0", None),
    ("MatMul", ["g0", "w1"], "m1", None), ("Add", ["m1", "b1"], "h1", None),
    ("Tanh", ["h1"], "g1", None),
    ("MatMul", ["g1", "w2"], "m2", None), ("Add", ["m2", "b2"], "h2", None),
    *([(last, ["h2"], "p", None), ("ArgMax", ["p"], "label", {"axis": 1})] if last else []),
  ]  # fmt: skip
  arrays = arrays_of("w0", "w1", "w2", "b0", "b1", "b2")
  model = fb.export.read(save(tmp_path / "a.onnx", nodes, arrays, ("p" if last else "h2",)))
  tasks = {"Softmax": "classification", "Sigmoid": "multilabel", "": "regression"}
  assert model.task == tasks[last]
  assert_near(model.outputs(X), outputs_of(np.tanh, (X.astype(np.float64) - offset) * scale))
  np.testing.assert_allclose(model.preprocessing.mean, offset)


def test_a_number_that_divides_every_column_is_a_standardisation(tmp_path):
  nodes = [("Sub", ["x", "one"], "s", None), ("Div", ["s", "all"], "d", None),
           ("Gemm", ["d", "w0", "b0"], "y", None)]  # fmt: skip
  arrays = arrays_of("w0", "b0") | {"all": np.float32(16), "one": np.float32([1])}
  model = fb.export.read(save(tmp_path / "a.onnx", nodes, arrays))
  assert_near(model.predict(X), (X.astype(np.float64) - 1) / 16 @ W[0] + B[0])
  arrays["all"] = np.float32([1, 2, 3])
  with pytest.raises(ValueError, match="its standardisation is of 3 columns, not 4"):
    fb.export.read(save(tmp_path / "a.onnx", nodes, arrays))
  arrays["all"] = np.float32(-1)
  with pytest.raises(ValueError, match="multiplies a column of x by a number that isn't above 0"):
    fb.export.read(save(tmp_path / "a.onnx", nodes, arrays))


def test_one_probability_is_that_of_the_second_class(tmp_path):
  """Two classes in one output, as skl2onnx writes them: p = σ(z), and 1 - p beside it."""
  nodes = [
    ("MatMul", ["x", "w"], "m", None), ("Add", ["m", "b"], "h", None),
    ("Sigmoid", ["h"], "p", None), ("Sub", ["one", "p"], "q", None),
    ("Concat", ["q", "p"], "y", {"axis": 1}),
  ]  # fmt: skip
  arrays = {"w": W[0][:, :1], "b": B[0][:1], "one": np.float32([1])}
  model = fb.export.read(save(tmp_path / "a.onnx", nodes, arrays), labels=["no", "yes"])
  p = 1 / (1 + np.exp(-(X.astype(np.float64) @ W[0][:, :1] + B[0][:1])))
  assert_near(model.predict_proba(X), np.hstack([1 - p, p]))
  assert list(model.predict(X)) == list(np.where(p[:, 0] > 0.5, "yes", "no"))


GEMM = ("Gemm", ["x", "w0", "b0"], "h", None)
TWO = arrays_of("w0", "b0", "w1", "b1")


@pytest.mark.parametrize(
  ("nodes", "said"),
  [
    ([GEMM, ("Sin", ["h"], "g", None), ("Gemm", ["g", "w1", "b1"], "y", None)], "it is no chain"),
    ([GEMM, ("Softsign", ["h"], "g", None), ("Gemm", ["g", "w1", "b1"], "y", None)],
     "between two layers, Softsign is none of relu"),
    ([GEMM, ("Relu", ["h"], "g", None), ("Gemm", ["g", "w1", "b1"], "k", None),
      ("Add", ["k", "h"], "y", None)], "the operator Add takes k, h: it is no chain"),
    ([("Relu", ["x"], "h", None), ("Gemm", ["h", "w0", "b0"], "y", None)],
     "it begins with Relu, and not with a dense layer"),
    ([("Conv", ["x", "w0"], "y", None)], "it has no dense layer"),
    ([("Gemm", ["w0", "x"], "y", None)], "must take x on its left"),
    ([("Gemm", ["x", "w0"], "y", {"transA": 1})], "must take x on its left"),
    ([("Identity", [], "b0", None), ("Relu", ["x", "x"], "y", None)], "it has no dense layer"),
    ([("Gemm", ["x"], "y", None)], "the second input of Gemm must be a constant array"),
    ([("Gemm", ["x", "w0"], "y", {"domain": "evil"})], "is of the domain 'evil'"),
    ([GEMM, ("Relu", ["h"], "y", None)], "its last layer is followed by Relu"),
    ([("Gemm", ["x", "w0", "b0"], "h", None), ("Gemm", ["h", "w0", "b0"], "y", None)],
     "its layer 1 takes 4 inputs, and the one before gives 5"),
    ([GEMM, ("Relu", ["h"], "g", None), ("Gemm", ["g", "w1", "b1"], "k", None),
      ("Tanh", ["k"], "l", None), ("Gemm", ["l", "w1", "b1"], "y", None)],
     "has several activations, and a model one: relu, tanh"),
  ],
)  # fmt: skip
def test_a_graph_that_is_no_chain_is_refused(tmp_path, nodes, said):
  path = save(tmp_path / "a.onnx", nodes, TWO)
  with pytest.raises(ValueError, match=said) as found:
    fb.export.read(path)
  assert str(path) in str(found.value)


def test_an_own_graph_that_was_changed_is_read_as_it_is_now(tmp_path):
  """relu replaced by tanh: the description would be a lie, and the graph counts."""
  model = make_model((4, 6, 6, 3))
  fb.export.write(model, tmp_path / "a.onnx")
  proto = onnx.load(tmp_path / "a.onnx")
  for node in proto.graph.node:
    node.op_type = "Tanh" if node.op_type == "Relu" else node.op_type
  onnx.save(proto, tmp_path / "b.onnx")
  read = fb.export.read(tmp_path / "b.onnx")
  assert read.description.activation == "tanh"
  about = model.description._replace(activation="tanh")
  x = rows_for(model, np.float32)
  assert_near(read.predict_proba(x), fb.FittedModel(about, model.params).predict_proba(x))


# --- What isn't read ------------------------------------------------------------------------------


def zipped(*names):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name in names:
      archive.writestr(name, b"content")
  return file.getvalue()


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (zipped("model/data.pkl", "model/version"), r"is a file of torch.save \(.pt"),
    (zipped("m/archive_format", "m/data/weights/a.pkl"), r"is a program of torch.export \(.pt2\)"),
    (zipped("config.json", "model.weights.h5"), "is a Keras file; in Keras"),
    (zipped("x.npy"), "has no text 'fbackprop', which fbackprop export writes"),
    (zipped("x.txt"), "is a zip file, and no npz file"),
    (b"PK\x03\x04 and nothing", "is a zip file that can't be read"),
    (pickle.dumps([1.0] * 99), "is a pickle"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    (b"\x93NUMPY" + bytes(99), "is one array of NumPy"),
    (b"\x08\x08", "is no ONNX file, or a damaged one: it has no graph"),
    (b"\x08" + b"\xff" * 99, "is no ONNX file, or a damaged one"),
    (b"a picture", "is no safetensors, ONNX or npz file"),
    (b"", "is no safetensors, ONNX or npz file"),
  ],
)  # fmt: skip
def test_other_kinds_of_files_are_refused_by_name(tmp_path, content, said):
  (tmp_path / "model.pt").write_bytes(content)
  with pytest.raises(ValueError, match=said):
    fb.export.read(tmp_path / "model.pt")


def test_a_stablehlo_program_is_refused(tmp_path):
  net = fb.dense(2, 2)
  program = fb.export.to_stablehlo(net, net.init(jax.random.key(0)), vjp_order=0)
  (tmp_path / "a.stablehlo").write_bytes(program)
  with pytest.raises(ValueError, match="is no safetensors, ONNX or npz file"):
    fb.export.read(tmp_path / "a.stablehlo")


def test_arrays_in_another_file_are_not_read(tmp_path):
  path = save(tmp_path / "a.onnx", [GEMM], TWO, ("h",))
  proto = onnx.load(path)
  tensor = proto.graph.initializer[0]
  tensor.data_location = TensorProto.EXTERNAL
  tensor.external_data.add(key="location", value="/etc/passwd")
  path.write_bytes(proto.SerializeToString())
  with pytest.raises(ValueError, match="keeps the array 'w0' in another file"):
    fb.export.read(path)


def test_an_array_larger_than_its_bytes_is_not_made(tmp_path):
  path = save(tmp_path / "a.onnx", [GEMM], TWO, ("h",))
  proto = onnx.load(path)
  proto.graph.initializer[0].dims[:] = [2**40, 2**20]
  path.write_bytes(proto.SerializeToString())
  with pytest.raises(ValueError, match="'w0' says that it is"):
    fb.export.read(path)


@pytest.mark.parametrize("ending", ["onnx", "safetensors", "npz"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, ending):
  """Cut off anywhere, and with one byte changed: a ValueError or TypeError that names the file."""
  path = tmp_path / f"a.{ending}"
  fb.export.write(make_model(**OPTIONS["linear"]), path)
  content = path.read_bytes()
  rng = np.random.default_rng(0)
  cuts = [content[:n] for n in rng.integers(0, len(content), 15)]
  flips = [content[:n] + bytes([content[n] ^ (1 << n % 8)]) + content[n + 1 :]
           for n in rng.integers(0, len(content), 45)]  # fmt: skip
  said = []
  for damaged in cuts + flips:
    path.write_bytes(damaged)
    try:
      fb.export.read(path)
    except (ValueError, TypeError) as error:
      said.append(str(error))
  assert len(said) > 15
  assert all(str(path) in message for message in said), said
