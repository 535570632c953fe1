"""Parameters go to a file and come back as they were, and a file that is another's is refused."""

import os
import re
import stat
import tempfile
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.files import write_whole
from fbackprop.train import load_params, save_params
from fbackprop.train.weights import DTYPES, HOW

SIZES = [3, 4, 2]


def shapes_of(sizes=SIZES, **options):
  return jax.eval_shape(fb.mlp(sizes, **options).init, jax.random.key(0))


def filled(like):
  """Arrays of these shapes and dtypes; a number stands in one place only."""
  count = iter(range(1000))
  return jax.tree.map(
    lambda leaf: jnp.asarray([next(count) / 8 for _ in range(leaf.size)], leaf.dtype).reshape(
      leaf.shape
    ),
    like,
  )


def assert_same(loaded, params):
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
    assert isinstance(got, jax.Array)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want), strict=True)


def plain_metadata(path):
  """The metadata without the checksum, which must be there."""
  with safetensors.safe_open(path, framework="numpy") as file:
    metadata = dict(file.metadata())
  assert metadata.pop("fbackprop.checksum").startswith("SHA-256 of the whole file")
  assert re.fullmatch("[0-9a-f]{64}", metadata.pop("fbackprop.sha256"))
  return metadata


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_network_comes_back_bit_for_bit(tmp_path, dtype, bias):
  with jax.enable_x64(dtype == "float64"):
    like = shapes_of(dtype=dtype, bias=bias)
    params = filled(like)
    save_params(tmp_path / "m", params)
    assert_same(load_params(tmp_path / "m", like=like), params)
    assert_same(load_params(str(tmp_path / "m"), like=params), params)


def test_views_and_scalars_come_back_as_they_look(tmp_path):
  square = np.arange(9, dtype=np.float32).reshape(3, 3)
  params = {"view": square.T, "every_other": square[:, ::2], "scalar": np.float32(3.5)}
  save_params(tmp_path / "m", params)
  assert_same(load_params(tmp_path / "m", like=params), params)


def test_others_can_read_the_file(tmp_path):
  params = filled(shapes_of())
  save_params(tmp_path / "m", params, {"network": "mlp 3-4-2"})
  assert plain_metadata(tmp_path / "m") == {"network": "mlp 3-4-2"}
  with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
    assert sorted(file.keys()) == ["0.b", "0.w", "2.b", "2.w"]
    np.testing.assert_array_equal(file.get_tensor("2.w"), np.asarray(params[2].w), strict=True)


def test_the_same_parameters_and_metadata_give_the_same_bytes(tmp_path):
  params, metadata = filled(shapes_of()), {word: "Θ\n" * i for i, word in enumerate("bdaec")}
  for name in ("first", "second"):
    save_params(tmp_path / name, params, metadata)
  assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
  assert plain_metadata(tmp_path / "first") == metadata


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_of_the_table_is_that_of_safetensors(dtype):
  ((_, entry),) = safetensors.deserialize(safetensors.numpy.save({"a": np.ones(2, dtype)}))
  assert DTYPES[entry["dtype"]] == dtype


OTHER_NETWORKS = [
  ({"sizes": [3, 4, 4, 2]}, fb.StructureError, r"missing \['4.b', '4.w'\], not expected \[\]"),
  ({"bias": False}, fb.StructureError, r"missing \[\], not expected \['0.b', '2.b'\]"),
  ({"sizes": [3, 5, 2]}, fb.ShapeError, r"0\.w must be float32\[3, 5\], got float32\[3, 4\]"),
  ({"dtype": "bfloat16"}, fb.DtypeError, r"0\.w must be bfloat16\[3, 4\], got float32\[3, 4\]"),
]


@pytest.mark.parametrize(
  ("like", "error", "said"), OTHER_NETWORKS, ids=["deeper", "no_bias", "wider", "dtype"]
)
def test_the_file_of_another_network_is_refused(tmp_path, like, error, said):
  save_params(tmp_path / "model", filled(shapes_of()))
  with pytest.raises(error, match=f"model.*{said}"):
    load_params(tmp_path / "model", like=shapes_of(**like))


def test_a_dtype_that_no_parameter_has_is_refused(tmp_path):
  save_params(tmp_path / "model", {"a": np.ones(2, np.complex64)})
  with pytest.raises(fb.DtypeError, match=r"model: a must be float32\[2\], got C64\[2\]"):
    load_params(tmp_path / "model", like={"a": np.ones(2, np.float32)})


@pytest.mark.parametrize("kept", [0, 4, 60, -1], ids=lambda kept: f"first_{kept}_bytes")
def test_a_part_of_a_file_is_refused(tmp_path, kept):
  like = shapes_of()
  save_params(tmp_path / "whole", filled(like))
  (tmp_path / "part").write_bytes((tmp_path / "whole").read_bytes()[:kept])
  with pytest.raises(ValueError, match="part is not a safetensors file"):
    load_params(tmp_path / "part", like=like)


@pytest.fixture(scope="module")
def whole():
  """A file of parameters, and where its arrays begin."""
  with tempfile.TemporaryDirectory() as folder:
    save_params(f"{folder}/m", filled(shapes_of()), {"network": "mlp 3-4-2", "note": "Θ"})
    content = Path(folder, "m").read_bytes()
  return content, 8 + int.from_bytes(content[:8], "little")


def refusal_of_flipped(folder, content, byte, bit):
  path = folder / "flipped"
  path.write_bytes(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :])
  with pytest.raises(ValueError, match=r"flipped is (damaged|not a safetensors file)") as refused:
    load_params(path, like=())  # It doesn't come to that.
  return str(refused.value)


@pytest.mark.parametrize(
  "bit", [0, *(pytest.param(b, marks=pytest.mark.slow) for b in range(1, 8))]
)
def test_a_flipped_bit_of_any_byte_is_refused(tmp_path, whole, bit):
  content, start = whole
  for byte in range(len(content)):
    said = refusal_of_flipped(tmp_path, content, byte, bit)
    assert byte < start or "flipped is damaged: its checksum is " in said


@hypothesis.given(st.data())
def test_a_flipped_bit_in_any_part_is_refused(tmp_path_factory, whole, data):
  content, start = whole
  where = content.find(b"fbackprop.sha256")
  parts = [(0, 8), (8, where), (where, where + 85), (where + 85, start), (start, len(content))]
  first, end = data.draw(st.sampled_from(parts))
  byte, bit = data.draw(st.integers(first, end - 1)), data.draw(st.integers(0, 7))
  refusal_of_flipped(tmp_path_factory.getbasetemp(), content, byte, bit)


@pytest.mark.parametrize("kept", ["fbackprop.checksum", "fbackprop.sha256"])
def test_a_part_of_a_checksum_is_refused(tmp_path, whole, kept):
  arrays = safetensors.numpy.load(whole[0])
  safetensors.numpy.save_file(arrays, tmp_path / "model", {kept: HOW})
  with pytest.raises(ValueError, match="model is damaged: its checksum is not whole"):
    load_params(tmp_path / "model", like=shapes_of())


def test_a_file_without_a_checksum_is_read(tmp_path, whole):
  """As an older version wrote it, or another program."""
  safetensors.numpy.save_file(safetensors.numpy.load(whole[0]), tmp_path / "model", {"a": "b"})
  assert_same(load_params(tmp_path / "model", like=shapes_of()), filled(shapes_of()))


def test_metadata_that_came_from_a_file_can_be_written_again(tmp_path, whole):
  (tmp_path / "first").write_bytes(whole[0])
  with safetensors.safe_open(tmp_path / "first", framework="numpy") as file:
    metadata = file.metadata()
  params = filled(shapes_of())
  save_params(tmp_path / "same", params, metadata)
  assert (tmp_path / "same").read_bytes() == whole[0]
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  save_params(tmp_path / "other", other, metadata)
  assert_same(load_params(tmp_path / "other", like=params), other)
  assert plain_metadata(tmp_path / "other") == {"network": "mlp 3-4-2", "note": "Θ"}


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    load_params(tmp_path / "missing", like=shapes_of())


def test_two_arrays_of_one_name_are_refused(tmp_path):
  params = {"a.b": np.ones(2, np.float32), "a": {"b": np.zeros(2, np.float32)}}
  said = r"\['a'\]\['b'\] and \['a.b'\] would both be called 'a.b'"
  with pytest.raises(fb.StructureError, match=said):
    save_params(tmp_path / "model", params)
  assert os.listdir(tmp_path) == []
  save_params(tmp_path / "model", {"a.b": params["a.b"]})
  with pytest.raises(fb.StructureError, match=said):
    load_params(tmp_path / "model", like=params)


def test_a_file_is_replaced_and_others_may_read_it(tmp_path):
  path = tmp_path / "file"
  write_whole(path, b"old")
  write_whole(str(path), b"new")
  assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o644)
  assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["os", "ctrl_c"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_midway_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
  def fail(*arguments):
    raise error

  path = tmp_path / "file"
  write_whole(path, b"old")
  monkeypatch.setattr(os, call, fail)
  with pytest.raises(type(error)):
    write_whole(path, b"new")
  assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])
