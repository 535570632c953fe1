"""EMNIST's files for MATLAB: what SciPy reads of them, upright images, and damaged files."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train.data import mat
from fbackprop.train.data.datasets import load_dataset
from tests.support.hostile import emnist

SIDE = 5
# The letter L, which is another one when it is transposed.
LETTER = np.zeros((SIDE, SIDE), np.uint8)
LETTER[:, 0] = LETTER[-1] = 255


def letters(n, seed):
  """Random images, the first an L, each stored column by column, and labels of 26 letters."""
  pick = np.random.default_rng(seed)
  images = pick.integers(0, 256, (n, SIDE, SIDE), np.uint8)
  images[0] = LETTER
  rows = np.stack([image.ravel(order="F") for image in images])
  return images, rows, np.arange(n, dtype=np.float64)[:, None] % 26 + 1


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def file(tmp_path, request):
  """A file in the layout of emnist-letters.mat."""
  dataset = {
    part: dict(zip(("images", "labels"), letters(n, n)[1:], strict=True))
    | {"writers": np.arange(n)[:, None]}
    for part, n in (("train", 60), ("test", 30))
  } | {"mapping": np.array([[i + 1, 65 + i, 97 + i] for i in range(26)], np.float64)}
  path = tmp_path / "emnist-letters.mat"
  content = {"before": np.arange(3), "dataset": dataset, "words": np.array(["a"], object)}
  scipy.io.savemat(path, content, do_compression=request.param)
  return path


def test_images_are_upright_and_classes_characters(file):
  data = load_dataset(f"mat:{file}", 0)
  images, _, labels = letters(60, 60)
  np.testing.assert_array_equal(data.x.reshape(-1, SIDE, SIDE), images / np.float32(255))
  np.testing.assert_array_equal(data.x[0].reshape(SIDE, SIDE), LETTER / np.float32(255))
  np.testing.assert_array_equal(data.targets, labels[:, 0] - 1)
  np.testing.assert_array_equal(
    data.x_test.reshape(-1, SIDE, SIDE), letters(30, 30)[0] / np.float32(255)
  )
  assert (data.output_names[0], data.output_names[25]) == ("A/a", "Z/z")
  assert (data.image_shape, len(data.x), len(data.x_test)) == ((SIDE, SIDE), 60, 30)
  assert data.x.dtype == np.float32


def test_the_arrays_are_those_that_scipy_reads(file):
  own = scipy.io.loadmat(file)["dataset"]
  found = mat.fields_of(mat.find_variable(memoryview(file.read_bytes()), "dataset"), "dataset")
  np.testing.assert_array_equal(mat.numbers_in(found, "mapping", ""), own["mapping"][0, 0])
  for part in ("train", "test"):
    fields = mat.fields_of(found[part], part)
    assert list(fields) == ["images", "labels", "writers"]
    for name in list(fields):
      theirs = own[part][0, 0][name][0, 0]
      np.testing.assert_array_equal(mat.numbers_in(fields, name, part), theirs)


@pytest.mark.slow
def test_a_run_learns_from_it_and_has_its_names(file, tmp_path):
  flags = ["--hidden", "4", "--stop.max-steps", "6", "--eval-every", "6", "--check-every", "0"]
  out = ["--out", str(tmp_path), "--name", "run"]
  assert main(["train", "--data", f"mat:{file}", *flags, *out]) == 0
  assert main(["eval", str(tmp_path / "run")]) == 0
  assert fb.load(tmp_path / "run").labels[:2] == ("A/a", "B/b")


def test_a_file_of_the_other_byte_order_is_read(tmp_path):
  """As old workstations wrote them: each number turned, by the places that SciPy's file has."""

  def element(kind, data):
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

  def matrix(kind, shape, *parts, name=b""):
    head = element(6, struct.pack(">II", kind, 0)) + element(5, np.array(shape, ">i4").tobytes())
    return element(14, head + element(1, name) + b"".join(parts))

  def numbers(kind, array, code):
    return matrix(9, array.shape, element(code, array.astype(kind).tobytes(order="F")))

  def record(name=b"", **fields):
    names = b"".join(key.encode().ljust(8, b"\0") for key in fields)
    width = struct.pack(">HHI", 4, 5, 8)  # A small element: its length before its type.
    return matrix(2, (1, 1), width, element(1, names), *fields.values(), name=name)

  pixels, labels = np.arange(8).reshape(2, 4), np.array([[48], [49]])
  part = record(images=numbers("u1", pixels, 2), labels=numbers(">u2", labels - 48, 4))
  mapping = numbers(">f8", np.array([[0, 48], [1, 49]]), 9)
  content = record(b"dataset", train=part, test=part, mapping=mapping)
  start = b"MATLAB 5.0".ljust(124) + b"\1\0MI"
  packed = zlib.compress(content)
  for name, own in (("a", content), ("b", struct.pack(">II", 15, len(packed)) + packed)):
    (tmp_path / name).write_bytes(start + own)
    data = load_dataset(f"mat:{tmp_path / name}", 0)
    np.testing.assert_array_equal(data.x * 255, [[0, 2, 1, 3], [4, 6, 5, 7]])
    assert (data.targets.tolist(), data.output_names) == ([0, 1], ("0", "1"))
  theirs = scipy.io.loadmat(io.BytesIO(start + content))["dataset"]["train"][0, 0]["images"]
  np.testing.assert_array_equal(theirs[0, 0], pixels)


@pytest.mark.parametrize(("rows", "said"), [
  ([[1, 65], [1, 66]], "has two rows of 1, B"),
  ([[1, 65], [2, 65]], "has two rows of 2, A"),
  ([[1, 65], [2, 0xD800]], r"must have codes of characters, got \[55296\]"),
  ([[1, 65], [2, -1]], "must have codes of characters"),
  ([[1.5, 65], [2, 66]], "must be integers"),
  ([[np.nan, 65], [2, 66]], "must be integers"),
  ([[1e300, 65], [2, 66]], "must be integers"),
  ([[1], [2]], r"must be \[C, 2 or more\], got \[2, 1\]"),
])  # fmt: skip
def test_a_mapping_that_names_no_classes_is_refused(tmp_path, rows, said):
  (tmp_path / "t.mat").write_bytes(emnist(mapping=np.array(rows)))
  with pytest.raises(ValueError, match=f"t.mat .*dataset.mapping {said}"):
    load_dataset(f"mat:{tmp_path}/t.mat", 0)


def test_nesting_and_unpacking_are_bounded(tmp_path):
  """A struct as deep as a file can say, of which nothing is descended into."""
  deep = b""
  for _ in range(20_000):
    head = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1)
    deep = head + struct.pack("<II", 1, 0) + deep
    deep = struct.pack("<II", 14, len(deep)) + deep
    if len(deep) > 2**20:
      break
  (tmp_path / "t.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + deep)
  with pytest.raises(ValueError, match="must have a variable 'dataset', got"):
    load_dataset(f"mat:{tmp_path}/t.mat", 0)
