"""Files that would fill the memory or the day: each is refused, in a process that has neither.

The child has 200 MB more than what it has imported, and 5 seconds of its processor for a file.
"""

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fbackprop

ROOT = Path(fbackprop.__file__).parents[1]
CHILD = """
import json, os, resource, sys
{imports}
from fbackprop.cli.console import UsageError
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
said = {{}}
for name in sorted(os.listdir(sys.argv[1])):
  path = os.path.join(sys.argv[1], name)
  before = resource.getrusage(resource.RUSAGE_SELF)
  try:
    read(path)
    said[name] = "read"
  except (ValueError, OSError, UsageError) as error:
    said[name] = str(error)
  after = resource.getrusage(resource.RUSAGE_SELF)
  seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  if seconds > 5:
    said[name] = f"took {{seconds}} s"
print(json.dumps(said))
"""
DATA = """
from fbackprop.cli.run_folder import load_json
from fbackprop.cli.train import load_config
from fbackprop.train.data.npz import read_npz
from fbackprop.train.data.idx import read_numbers
from fbackprop.train.data.mat import read_mat
from fbackprop.train.data.csv_tables import read_csv
from pathlib import Path
def read(path):
  ending = path.rpartition(".")[2]
  if ending == "npz":
    read_npz(path, (), None)
  elif ending == "csv":
    read_csv(path, ("y",), None)
  elif ending in ("gz", "idx"):
    read_numbers(Path(path), 3)
  elif ending == "mat":
    read_mat(path)
  elif ending == "toml":
    os.replace(path, os.path.join(sys.argv[1], "config.toml"))
    load_config(sys.argv[1])
  else:
    load_json(sys.argv[1], os.path.basename(path))
"""
WEIGHTS = """
import jax
from fbackprop.train.models import load_model as read
jax.devices()
"""


def child(imports, folder):
  """What is said of each file of a folder."""
  done = subprocess.run(
    [sys.executable, "-c", CHILD.format(imports=imports), str(folder)],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


# --- What is made ---------------------------------------------------------------------------------


def zeros(count):
  """So many MiB of zeros by deflate, a thousandth as long, made of one block."""
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
  return block * count + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def deflated(content):
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)


def zip_of(packed, size=None, count=1, method=8):
  """A zip file whose members x.npy, y.npy, ... have the same bytes, and are said to be `size`."""
  name = b"x.npy"
  crc, size = zlib.crc32(packed), len(packed) if size is None else size  # Right if it is stored.
  about = struct.pack("<HHHHIIIH", 0, method, 0, 0, crc, len(packed), size, len(name))
  local = b"PK\x03\x04" + struct.pack("<H", 20) + about + struct.pack("<H", 0) + name + packed
  one = (
    b"PK\x01\x02" + struct.pack("<HH", 20, 20) + about + struct.pack("<HHHHII", 0, 0, 0, 0, 0, 0)
  )
  listed = b"".join(one + b"%05d" % i for i in range(count)) if count > 1 else one + name
  few = min(count, 2**16 - 1)
  end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, len(listed), len(local), 0)
  return local + listed + end


def npy(shape, dtype="<f4", version=1):
  """The header of an array."""
  text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
  return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H", len(text)) + text


def idx(*shape):
  return bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape)


def gz(count, header):
  """A gzip file of a header and so many MiB of zeros."""
  start = gzip.compress(b"", mtime=0)[:10]
  return start + deflated(header) + zeros(count) + bytes(8)


def mat(count, size, start=b""):
  """A MATLAB file of a compressed variable, said to be of a size, of so many MiB of zeros."""
  packed = b"\x78\x9c" + deflated(struct.pack("<II", 14, size) + start) + zeros(count)
  return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed


NAMED = struct.pack("<IIIIIIiiII8s", 6, 8, 2, 0, 5, 8, 1, 1, 1, 7, b"dataset")


def safetensors(header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + data


def entry(shape, start, end):
  return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


NESTED = b"[" * 2**20
BOMBS = {
  "large.npz": (lambda: zip_of(deflated(npy((1,))) + zeros(1100), 1100 * 2**20 + 71),
                "x.npy would be 1,153,433,671 bytes, more than the 1,073,741,824 that are"),
  "lying.npz": (lambda: zip_of(deflated(npy((1,))) + zeros(500), 500 * 2**20 + 71),
                "x.npy says that it is float32[1], and holds 524,288,0"),
  "header.npz": (lambda: zip_of(deflated(b"\x93NUMPY\x02\x00\xff\xff\xff\x1f") + zeros(500),
                                500 * 2**20 + 12), "EOF: reading array header"),
  "tiny.npz": (lambda: zip_of(npy((2**40, 2**40)), 2**32 - 2),
               "x.npy is said to be 4,294,967,294 bytes, packed in 93 of 201"),
  "shape.npz": (lambda: zip_of(npy((2**62, 2**62)), method=0), "and holds 0 bytes"),
  "wide.npz": (lambda: zip_of(npy((1,), "<U99999999"), method=0), "and holds 0 bytes"),
  "stored.npz": (lambda: zip_of(npy((1,)), 2**31, method=0), "x.npy is said to be 2,147,483,648"),
  "members.npz": (lambda: zip_of(npy((1,)), 70, 2**20), "its list of members is longer than"),
  "some.npz": (lambda: zip_of(npy((1,)), 70, 2000), "has more than 1,000 members"),
  "bomb.gz": (lambda: gz(2000, idx(2000, 2**10, 2**10)), "more than the 1,073,741,824 that are"),
  "lying.gz": (lambda: gz(2000, idx(2, 3, 4)), "says that it holds 24 numbers, got more"),
  "tiny.gz": (lambda: gz(1, idx(1, 2**15, 2**15)), "says that it holds 1,073,741,824 numbers, in "),
  "lying.idx": (lambda: idx(2**32 - 1, 2**32 - 1, 2**32 - 1), "numbers, in 16 bytes"),
  "large.mat": (lambda: mat(2000, 2000 * 2**20, NAMED), "more than the 1,073,741,824 that are"),
  "lying.mat": (lambda: mat(2000, len(NAMED), NAMED), "says that it is 48 bytes, and holds 49"),
  "tiny.mat": (lambda: mat(0, 2**30, NAMED), "a variable would be 1,073,741,824 bytes, more than "),
  "unnamed.mat": (lambda: mat(2000, 2000 * 2**20), "a matrix without class, shape and name"),
  "columns.csv": (lambda: b"a," * 10**6 + b"y\n", "has 1,000,001 columns, and a network at most"),
  "commas.csv": (lambda: b"," * 2**25, "line 1: longer than 16,777,216 letters"),
  "row.csv": (lambda: b"a,y\n" + b"1," * 2**22 + b"\n", "2 cells were expected, got 4194305"),
  "quote.csv": (lambda: b'a,y\n1,"' + b"2,3\n" * 2**22, "not a csv file: field larger than field"),
  "repeated.csv": (lambda: b"a," * 60_000 + b"y\n1,2\n", "must have a name of its own, got 'a'"),
  "dots.toml": (lambda: b"a." * 2**16 + b"a=1", "a key has more than 50 parts"),
  "nested.toml": (lambda: b"a=" + NESTED[: 2**17], "its lists are nested too deeply"),
  "large.toml": (lambda: b"a=1\n" * 2**20, "holds 4,194,304 bytes, more than 262,144"),
  "nested.json": (lambda: NESTED, "it is nested too deeply"),
  "large.json": (lambda: b" " * (2**25 + 1), "it holds 1,099,511,627,776 bytes"),
}  # fmt: skip
BOMBS_OF_WEIGHTS = {
  "length": (lambda: (2**63 - 1).to_bytes(8, "little") + b"{}", "header too large"),
  "longer": (lambda: (2**20).to_bytes(8, "little") + b"{}", "invalid header length"),
  "blank": (lambda: safetensors(b" " * 50_000_000), "is not a safetensors file"),
  "nested": (lambda: safetensors(b'{"a":' + NESTED), "is not a safetensors file"),
  "huge": (lambda: safetensors({"a": entry([2**40], 0, 2**42)}), "is not a safetensors file"),
  "product": (lambda: safetensors({"a": entry([2**33] * 4, 0, 4)}, bytes(4)),
              "is not a safetensors file"),
  "lying": (lambda: safetensors({"a": entry([2], 0, 4)}, bytes(4)), "is not a safetensors file"),
  "overlap": (lambda: safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
              "is not a safetensors file"),
  "backward": (lambda: safetensors({"a": entry([1], 4, 0)}, bytes(4)), "is not a safetensors file"),
  "layers": (lambda: safetensors({"__metadata__": {"fbackprop": json.dumps({
    "sizes": [1] * 2**14, "activation": "relu", "task": "regression", "features": ["a"],
    "outputs": ["b"], "standardization": None, "target_standardization": None})}}),
             "describes no network: 16383 layers, and 0 arrays"),
}  # fmt: skip


EVERY = BOMBS | BOMBS_OF_WEIGHTS


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  """The folder of each file, and what is said of it."""
  found = {}
  for imports, bombs in ((DATA, BOMBS), (WEIGHTS, BOMBS_OF_WEIGHTS)):
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in bombs.items():
      (folder / name).write_bytes(make())
    if "large.json" in bombs:
      os.truncate(folder / "large.json", 2**40)  # Of which nothing stands on the disk.
    found |= {name: (folder, said) for name, said in child(imports, folder).items()}
  return found


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_bomb_is_refused_in_little_room_and_time(answers, name):
  folder, said = answers[name]
  assert str(folder / ("config.toml" if name.endswith(".toml") else name)) in said
  assert EVERY[name][1] in said
