"""Invalid and damaged files: each reader's valid files, and their mutations."""

import contextlib
import gzip
import io
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors.numpy
import scipy.io
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.cli.console import UsageError
from fbackprop.cli.run_folder import load_json
from fbackprop.cli.train import load_config, parse, sources_of
from fbackprop.train import load_params, save_params
from fbackprop.train.data.csv_tables import read_csv, read_features
from fbackprop.train.data.idx import read_idx
from fbackprop.train.data.mat import read_mat
from fbackprop.train.data.npz import read_npz, read_npz_features
from fbackprop.train.data.rows import Standardization
from fbackprop.train.models import KEY, Description, load_model, save_model
from fbackprop.train.weights import CHECKSUM, METHOD, checksum_of, entry_of

SIZES = (2, 3, 2)
LIKE = jax.eval_shape(fb.mlp(SIZES).init, jax.random.key(0))
PARAMS = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), LIKE)
DESCRIPTION = Description(
  SIZES, "relu", "classification", ("no", "yes"), ("a", "b"),
  Standardization(np.zeros(2), np.ones(2)), None,
)  # fmt: skip
TOLD = """data = "csv:t.csv"
target = ["y"]
hidden = [3]
rate = 0.5
seed = 3
class_weights = "balanced"
rates = [0.5, 1.0]
[stop]
max_steps = 7
tol = 0.25
"""


class Kind(NamedTuple):
  """A kind of file.

  Attributes:
    valid: valid files.
    reads: readers; each `read(path)` reads the file at that path.
    name: the file's name in its folder.
    pack: a function of the content before it is written, so that damage passes a checksum.
  """

  valid: tuple[bytes, ...]
  reads: tuple[Callable[[Path], object], ...]
  name: str
  pack: Callable[[bytes], bytes] = bytes


def saved(save, *content):
  """Return the bytes that a function writes to a path."""
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "file")
    save(path, *content)
    return path.read_bytes()


def npz(save=np.savez, **arrays):
  file = io.BytesIO()
  save(file, **arrays)
  return file.getvalue()


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def zipped_as(*names, **others):
  """Build a zip file in which some members have the same content, beside others."""

  def pack(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
      for name in names:
        archive.writestr(name, content)
      for name, other in others.items():
        archive.writestr(f"{name}.npy", other)
    return file.getvalue()

  return pack


def idx(array):
  return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)


PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4)


def emnist(do_compression=False, **changed):
  """Return a file in EMNIST's layout, four images of 2×2 pixels and two, some fields changed."""
  labels = np.array([[1], [2], [1], [2]], np.uint8)
  fields = {
    f"{part}.{name}": array[:n]
    for part, n in (("train", 4), ("test", 2))
    for name, array in (("images", PIXELS), ("labels", labels), ("writers", labels))
  }
  fields |= {"mapping": np.array([[1, 65, 97], [2, 66, 98]]), **changed}
  own = {key: value for key, value in fields.items() if value is not None}
  parts = {part: {key.partition(".")[2]: value for key, value in own.items() if part in key}
           for part in ("train", "test")}  # fmt: skip
  rest = {key: value for key, value in own.items() if "." not in key}
  file = io.BytesIO()
  scipy.io.savemat(file, {"dataset": {**parts, **rest}}, do_compression=do_compression)
  return file.getvalue()


def packed_mat(content):
  """Return a MATLAB file with a compressed variable."""
  packed = zlib.compress(content)
  start = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
  return start + struct.pack("<II", 15, len(packed)) + packed


def gzipped(content):
  return gzip.compress(content, mtime=0)


def without_checksum(content):
  """Return a model's file in the format of an older version, without a checksum."""
  arrays = safetensors.numpy.load(content)
  return safetensors.numpy.save(arrays, {"network": "mlp", KEY: described()})


def described(**change):
  own = DESCRIPTION._asdict()
  own["standardization"] = {"mean": [0.0, 0.0], "scale": [1.0, 1.0]}
  return json.dumps({**own, **change})


def with_own_checksum(content):
  """Return the file with a correct checksum, if it still has a field for one."""
  at = content.find(f'"{CHECKSUM}":"'.encode())
  if at < 0:
    return content
  at += len(CHECKSUM) + 4
  old = content[at : at + 64].decode("latin-1")
  try:
    return content.replace(entry_of(old), entry_of(checksum_of(content, old)), 1)
  except UnicodeEncodeError:
    return content


def with_description(text):
  """Return a model's file with this description of its network."""
  arrays = {f"{i}.{name}": np.asarray(getattr(layer, name)) for i, layer in enumerate(PARAMS)
            if hasattr(layer, "w") for name in ("w", "b")}  # fmt: skip
  return safetensors.numpy.save(arrays, {KEY: text.decode("utf-8", "replace")})


def in_run(read, *arguments):
  """Convert a reader of a run's folder to a reader of a path."""
  return lambda path: read(str(path.parent), *arguments)


TABLES = (
  lambda path: read_csv(str(path), ("y",), None),
  lambda path: read_csv(str(path), ("y",), "classification", "a"),
  lambda path: read_csv(str(path), ("a", "b"), None),
  lambda path: read_features(str(path), ("a", "b")),
)
ARCHIVES = (
  lambda path: read_npz(str(path), (), None, "w"),
  lambda path: read_npz(str(path), (), "classification"),
  lambda path: read_npz(str(path), (), "regression"),
  lambda path: read_npz_features(str(path), ("a", "b")),
)


def read_images(path):
  for part, count in (("train", 2), ("t10k", 1)):
    for name, array in (("images-idx3", np.zeros((count, 1, 2))), ("labels-idx1", np.zeros(count))):
      other = path.parent / f"{part}-{name}-ubyte"
      if not path.name.startswith(other.name):
        other.write_bytes(idx(array.astype(np.uint8)))
  read_idx(str(path.parent))


CONFIGS = (
  lambda path: sources_of(["--config", str(path)]),
  lambda path: parse(["--config", str(path)]),
)


def read_run(path):
  """Run `fbackprop info`, which reads every file of a run, and rejects one as a usage error."""
  for name, content in RUN.items():
    if name != path.name:
      (path.parent / name).write_bytes(content)
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    code = main(["info", str(path.parent)])
  assert code in (0, 2)
  if code:
    raise UsageError(said.getvalue())


MODEL = saved(save_model, PARAMS, DESCRIPTION)
RUN = {
  "model.safetensors": MODEL,
  "config.toml": TOLD.encode(),
  "summary.json": b"""{"steps": 7, "test_loss": 0.5, "diverged_at": null, "rates": [
    {"rate": 0.5, "mean": 1, "deviation": 0.5, "least": 0, "most": 2, "together": null}]}""",
  "env.json": b'{"jax": "1", "platform": "cpu", "cores": 2}',
}
X = np.float32([[1, 2], [3, 4], [5, 6]])
TABLE = "a,b,y\n1,2,no\n-3e-1,4.5,yes\n7,8,no\n"
PICTURES = idx(np.zeros((2, 1, 2), np.uint8))
IMAGES = "train-images-idx3-ubyte"

KINDS = {
  "csv": Kind((TABLE.encode(), b'\xef\xbb\xbfa,b,y\r\n1,"2\n",0.5\r\n"3",4,"1"\r\n',
               TABLE.encode("utf-16"), TABLE.encode("utf-16-le"),
               "a,b,y\n1,2,ä\n".encode("latin-1")),
              TABLES, "t.csv"),
  "npz": Kind((npz(x=X, y=np.arange(3), w=np.ones(3)),
               npz(np.savez_compressed, X=X, labels=np.array(["ä", "b", "b"]), w=np.ones(3)),
               npz(x=X, y=X, w=X[:, 0], x_test=X, y_test=X), npz(x=X, y=np.array([None, 1, 2]))),
              ARCHIVES, "t.npz"),
  # Arrays whose zip file is intact.
  "npy": Kind((npy(X), npy(X * np.float64(1e300)), npy(np.arange(3)), npy(X[:, 0]),
               npy(np.array(["a", "b", "c"]))),
              ARCHIVES, "t.npz", zipped_as("x.npy", "y.npy", "w.npy")),
  "npy of targets": Kind((npy(np.arange(3)), npy(np.float32(1)), npy(np.array(["a", "b", "c"])),
                          npy(np.float64([1e300, 1e-300, 0])), npy(X)),
                         ARCHIVES, "t.npz", zipped_as("y.npy", x=npy(X), w=npy(np.ones(3)))),
  "idx": Kind((PICTURES, idx(np.zeros(2, np.uint8))), (read_images,), IMAGES),
  "idx.gz": Kind((gzipped(PICTURES),), (read_images,), f"{IMAGES}.gz"),
  "idx in gz": Kind((PICTURES,), (read_images,), f"{IMAGES}.gz", gzipped),
  "mat": Kind((emnist(), emnist(do_compression=True)), (read_mat,), "t.mat"),
  "mat, packed": Kind((emnist()[128:],), (read_mat,), "t.mat", packed_mat),
  "weights": Kind((saved(save_params, PARAMS), safetensors.numpy.save({"0.w": X}, {"a": "b"})),
                  (lambda path: load_params(path, LIKE),), "w.safetensors"),
  "model": Kind((without_checksum(MODEL), MODEL), (load_model,), "model.safetensors"),
  "model with its checksum": Kind((MODEL,), (load_model,), "model.safetensors", with_own_checksum),
  "description": Kind((described().encode(), described(sizes=[2] * 9, repeat_hidden=True).encode()),
                      (load_model,), "model.safetensors", with_description),
  "toml": Kind((TOLD.encode(), b'data = "sine"\nname = "a"\n'), CONFIGS, "config.toml"),
  "told": Kind((TOLD.encode(),), (in_run(load_config),), "config.toml"),
  "json": Kind((RUN["summary.json"], RUN["env.json"]),
               (in_run(load_json, "summary.json"),), "summary.json"),
  "run": Kind((RUN["summary.json"], RUN["env.json"]), (read_run,), "summary.json"),
  "run's model": Kind((MODEL, without_checksum(MODEL)), (read_run,), "model.safetensors"),
}  # fmt: skip
assert METHOD.encode() in MODEL

# Texts that break readers: ends, signs, sizes, quotes, brackets, escapes, names.
TOKENS = (
  b"\0", b"\xff", b"\xff\xff\xff\xff", b"\n", b"\r", b",", b'"', b"'", b"\\ud800", b"{", b"}",
  b"-1", b"[" * 300, b"1e999", b"NaN", b"9" * 30, b"0x" + b"f" * 5000, b"null", b"true", b"[1]",
  b"..", b"/", b"=", b".", b"#", b"PK\x05\x06", b"PK\x01\x02", b"\x93NUMPY", b"<U9", b"|O", b"<f8",
  b"(3, )", b"-" * 999, b"\xed\xa0\x80", b'"""', b"--seed",
)  # fmt: skip

# Replacements of a value, which leave the syntax of the file intact but not its meaning.
VALUE = re.compile(rb"""'[^']*'|"[^"]*"|\[[^][]*\]|\([^()]*\)|[\w.-]+""")
VALUES = (
  b"-1", b"0", b"1e999", b"1e-320", b"nan", b"NaN", b"inf", b"9" * 30, b"9" * 400, b"9" * 5000,
  b"0x" + b"f" * 5000, b"true", b"null", b"{}", b"[]", b"[1]", b"[0.0, 0.0]", b"[0, 1e-320]",
  b'["a", "b"]', b'""', b'"a"', b'"\\ud800"', b'"\\u0000"', b"[" * 3000, b"{a=" * 990,
  b'{"a":' * 3000, b"()", b"(3,)", b"(-1, 3)", b"(3, 0)", b"(9999999999999, 9999999999999)",
  b"'<f8'", b"'>i8'", b"'<U1'", b"'<U0'", b"'|O'", b"'|V3'", b"'<c8'", b"'<M8[s]'", b"'<f2'",
  b"'?'", b"2**9", b"1is 2", b"[" + b"9" * 400 + b", 1]", b'["\\ud800", "b"]',
)  # fmt: skip

shares = st.integers(0, 9999).map(lambda n: n / 9999)  # Not st.floats, which prefers the bounds.
edits = st.tuples(
  st.sampled_from(("flip", "flip", "cut", "drop", "insert", "copy", "set", "byte", *["value"] * 6)),
  shares,  # The position, and the extent, relative to the size.
  shares,
  st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
  st.sampled_from(VALUES),
)


def edited(content: bytes, changes) -> bytes:
  """Apply changes to a file's content."""
  for what, where, far, token, value in changes:
    at = int(where * max(0, len(content) - 1))
    end = at + 1 + int(far * min(40, len(content) - at))
    if what == "flip" and content:
      content = content[:at] + bytes([content[at] ^ 1 << int(far * 7)]) + content[at + 1 :]
    elif what == "cut":
      content = content[:at]
    elif what == "drop":
      content = content[:at] + content[end:]
    elif what == "insert":
      content = content[:at] + token + content[at:]
    elif what == "copy":
      there = int(far * len(content))
      content = content[:there] + content[at : at + 40] + content[there:]
    elif what == "set":
      content = content[:at] + token + content[at + len(token) :]
    elif what == "value":
      spans = [match.span() for match in VALUE.finditer(content)]
      start, end = spans[int(where * (len(spans) - 1))] if spans else (0, 0)
      content = content[:start] + value + content[end:]
    elif what == "byte":
      content = content[:at] + token[:1] + content[at + 1 :]
  return content


@st.composite
def broken(draw, kind: Kind) -> bytes:
  """Draw a valid file with changes, or arbitrary bytes."""
  if draw(st.integers(0, 15)) == 0:
    return draw(st.binary(max_size=200))
  content = draw(st.sampled_from(kind.valid))
  return kind.pack(edited(content, draw(st.lists(edits, min_size=1, max_size=4))))
