"""The files that the rows of `cases_of_failures` refer to, in the current folder."""

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy
import scipy.io

from tests.support.hostile import (
  MODEL,
  PICTURES,
  RUN,
  X,
  described,
  emnist,
  idx,
  npy,
  npz,
  without_checksum,
)
from tests.support.hostile import with_description as model_of

TABLE = "a,b,y\n1,2,no\n3,4,yes\n5,6,no\n7,8,yes\n9,10,no\n11,12,yes\n13,14,no\n15,16,yes\n"
TEXTS = {
  "t.csv": TABLE,
  "numbers.csv": "a,b,y\n" + "".join(f"{i},{i * i},{i / 7}\n" for i in range(30)),
  "empty.csv": "",
  "header.csv": "a,b,y\n",
  "cells.csv": "a,b,y\n1,2,no\n3,yes\n",
  "word.csv": "a,b,y\n1,2,no\n3,n/a,yes\n",
  "hole.csv": "a,b,y\n1,2,no\n3,,yes\n",
  "inf.csv": "a,b,y\n1,2,no\n3,inf,yes\n",
  "words.csv": "a,b,y\n1,2,no\n3,4x,yes\n5,6,no\nfive,8,yes\n",
  "dates.csv": "a,b,y\n2024-12-31,2,no\n2024-12-30,3,yes\n29.12.2024,4,no\n",
  "holes.csv": "a,b,y\n,NA,no\n?,,yes\n",
  "comma.csv": "a;b;y\n1,5;2;no\n2,5;3;yes\n",
  "styles.csv": "a;b;y\n1,5;2.5;no\n2,5;3.5;yes\n",
  "answer.csv": "a,b,y\n1,2,no\n3,4, \n",
  "unknown.csv": "a,b,y\n" + "".join(f"{i},1,{i / 4 if i != 2 else '?'}\n" for i in range(30)),
  "many.csv": "a,b,y\n" + "".join(f"{i},1,{i / 4 if i != 2 else 'much'}\n" for i in range(30)),
  "grade.csv": "a,b,y\n1,2,no\n3,4,None\n5,6,no\n",
  "twice.csv": "a,a,y\n1,2,no\n",
  "quote.csv": 'a,b,y\n1,"2,no\n',
  "alone.csv": "y\nno\nyes\n",
  "two.csv": "a,b,y\n1,2,no\n3,4,yes\n",
  "rare.csv": TABLE + TABLE[6:] + "1,1,maybe\n",
  "negative.csv": TABLE.replace("3,4", "3,-4"),
  "short.csv": "a,y\n1,no\n",
  "other.csv": "a,b,y\n1,2,perhaps\n",
  "wide.csv": ",".join(f"c{i}" for i in range(70_000)) + "\n1\n",
  "picture.toml": "a picture",
  "key.toml": "batchsize = 3\n",
  "type.toml": 'rate = "0.5"\n',
  "table.toml": "stop = 3\n",
  "range.toml": "batch_size = 0\n",
  "flag.toml": 'target = ["--seed", "3"]\n',
  "nested.toml": "a = " + "[" * 5000,
  "long.toml": "seed = " + "9" * 5000,
  "hex.toml": "seed = 0x" + "f" * 5000,
  "dots.toml": "a." * 60 + "a = 1\n",
  "large.toml": "#" * 300_000,
  "zero.toml": 'name = "a\\u0000b"\n',
}
ENCODED = {
  "utf-16.csv": TABLE.encode("utf-16"),
  "bare-utf-16.csv": TABLE.encode("utf-16-le"),
  "latin-1.csv": "a,b,y\n1,2,ä\n".encode("latin-1"),
  "utf-16.toml": "seed = 3\n".encode("utf-16"),
}


def archives():
  """Return archives by their names; a member may be any bytes."""
  y = np.array(["no", "yes", "no"])
  members = {
    "no-x.npz": {"a": npy(X), "y": npy(y)},
    "no-y.npz": {"x": npy(X)},
    "objects.npz": {"x": npy(X), "y": npy(np.array([None, 1, 2]))},
    "rows.npz": {"x": npy(X), "y": npy(y[:2])},
    "words.npz": {"x": npy(y), "y": npy(y)},
    "infinite.npz": {"x": npy(X.astype(float) * 1e39), "y": npy(y)},
    "unknown.npz": {"x": npy(X), "y": npy(np.array([0.5, np.nan, 1.5]))},
    "scalar.npz": {"x": npy(X), "y": npy(np.float32(1))},
    "complex.npz": {"x": npy(X), "y": npy(np.ones(3, complex))},
    "test.npz": {"x": npy(X), "y": npy(y), "x_test": npy(X)},
    "test-shape.npz": {"x": npy(X), "y": npy(y), "x_test": npy(X[:2]), "y_test": npy(y)},
    "letters.npz": {"x": npy(X), "y": npy(np.array([0xD800] * 3, np.uint32).view("<U1"))},
    "path.npz": {"../x": npy(X), "y": npy(y)},
    "lying.npz": {"x": npy(X)[:-4], "y": npy(y)},
    "not-npy.npz": {"x": b"nothing", "y": npy(y)},
    "other-version.npz": {"x": b"\x93NUMPY\x09" + npy(X)[7:], "y": npy(y)},
    "narrow.npz": {"x": npy(X[:, :1]), "y": npy(y)},
    "weights.npz": {"x": npy(X), "y": npy(y), "w": npy(-X[:, 0])},
  }
  for name, content in members.items():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
      for member, text in content.items():
        archive.writestr(f"{member}.npy", text)
    yield name, file.getvalue()
  good = npz(x=X, y=y)
  at = good.find(b"PK\x01\x02") + 8
  yield "encrypted.npz", good[:at] + b"\1" + good[at + 1 :]
  yield "flipped.npz", good.replace(npy(X)[-4:], b"\0\0\0\0")
  yield "cut.npz", good[:-30]
  yield "pickle.npz", b"\x80\x04N."
  yield "one.npz", npy(X)
  for name, compression in (("bzip2.npz", zipfile.ZIP_BZIP2), ("lzma.npz", zipfile.ZIP_LZMA)):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
      archive.writestr("x.npy", npy(X))
    yield name, file.getvalue()
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("x.npy", npy(X))
    archive.writestr("x", npy(X))
  yield "twice.npz", file.getvalue()


def matlab_files():
  """Return files of MATLAB by their names."""
  good, packed = emnist(), emnist(do_compression=True)
  oblong = np.zeros((4, 6), np.uint8)
  yield "hdf5.mat", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"
  yield "variable.mat", good.replace(b"dataset", b"ataset\0")
  yield "field.mat", good.replace(b"images", b"photos")
  file = io.BytesIO()
  scipy.io.savemat(file, {"dataset": np.ones((2, 2))})
  yield "array.mat", file.getvalue()
  yield "oblong.mat", emnist(**{"train.images": oblong})
  yield "doubles.mat", emnist(**{"train.images": oblong[:, :4] / 2})
  yield "labels.mat", emnist(**{"train.labels": np.ones((3, 1))})
  yield "unknown.mat", emnist(**{"test.labels": np.array([[1], [3]])})
  yield "cut.mat", good[:-40]
  yield "flipped.mat", packed[:-1] + bytes([packed[-1] ^ 1])
  head = struct.pack("<IIIIIIiiII8s", 6, 8, 2, 0, 5, 8, 1, 1, 1, 7, b"dataset")
  bomb = zlib.compress(struct.pack("<II", 14, 2**31) + head + bytes(2**22))
  yield "huge.mat", good[:128] + struct.pack("<II", 15, len(bomb)) + bomb


def images(folder, **changed):
  """Write the four files of MNIST, two images and one, with some of them changed."""
  labels = {"train": idx(np.arange(2, dtype=np.uint8)), "t10k": idx(np.zeros(1, np.uint8))}
  pictures = {"train": PICTURES, "t10k": idx(np.zeros((1, 1, 2), np.uint8))}
  folder.mkdir()
  for part in ("train", "t10k"):
    for kind, content in (("images-idx3", pictures[part]), ("labels-idx1", labels[part])):
      content = changed.get(f"{part}_{kind[:6]}", gzip.compress(content, mtime=0))
      if content is not None:
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)


def run(folder, **changed):
  """Write the folder of a run, with files changed or omitted by the first part of their names."""
  folder.mkdir()
  for name, content in RUN.items():
    own = changed.get(name.partition(".")[0], content)
    if own is not None:
      (folder / name).write_bytes(own)


def make_files(folder: Path) -> None:
  """Write all of the files."""
  for name, text in TEXTS.items():
    (folder / name).write_text(text, encoding="utf-8", newline="")
  for name, content in (*ENCODED.items(), *archives(), *matlab_files()):
    (folder / name).write_bytes(content)
  os.mkfifo(folder / "pipe")
  (folder / "zero").symlink_to("/dev/zero")
  (folder / "folder").mkdir()
  (folder / "file").touch()
  gz = gzip.compress
  images(folder / "mnist")
  images(folder / "missing", train_labels=None)
  images(folder / "no-gz", train_images=b"no gzip at all")
  images(folder / "cut-gz", train_images=gz(PICTURES, mtime=0)[:-9])
  images(folder / "no-idx", train_images=gz(b"\0\0\x09\x03" + bytes(12), mtime=0))
  images(folder / "fewer", train_images=gz(PICTURES[:-1], mtime=0))
  images(folder / "more", train_images=gz(PICTURES + b"x", mtime=0))
  images(folder / "lying", train_images=gz(PICTURES[:8] + b"\0\0\x10\0" * 2, mtime=0))
  images(folder / "huge", train_images=gz(PICTURES[:4] + b"\xff" * 12, mtime=0))
  images(folder / "labels", train_labels=gz(idx(np.zeros(3, np.uint8)), mtime=0))
  images(folder / "shapes", t10k_images=gz(idx(np.zeros((1, 2, 1), np.uint8)), mtime=0))
  run(folder / "run")
  at = len(MODEL) - 2
  flipped = MODEL[:at] + bytes([MODEL[at] ^ 1]) + MODEL[at + 1 :]
  old = without_checksum(MODEL)
  arrays = safetensors.numpy.load(old)
  run(folder / "running", summary=None, env=None)
  run(folder / "unfinished", model=None)
  same = {"columns": dict.fromkeys("aby", ""), "unordered": "", "block": 1, "blocks": "0 1 2 3 4"}
  fingerprint = {"sha256": "", "split": "", "rows": 5, **same}
  run(folder / "changed", env=json.dumps({"data": fingerprint}).encode())
  run(folder / "no-print", env=b'{"data": "t.csv"}')
  run(folder / "flipped", model=flipped)
  run(folder / "cut", model=MODEL[:-7])
  run(folder / "half-checksum", model=MODEL.replace(b"fbackprop.sha256", b"fbackprop.sha257"))
  run(folder / "no-model", model=b"nothing at all, but as long as a header")
  run(folder / "not-ours", model=safetensors.numpy.save(arrays))
  run(folder / "no-network", model=model_of(b"[]"))
  run(folder / "other-sizes", model=model_of(described(sizes=[2, 4, 2]).encode()))
  run(folder / "deeper", model=model_of(described(sizes=[2, 3, 3, 2]).encode()))
  run(folder / "untold", config=None)
  run(folder / "no-toml", config=b"a picture")
  run(folder / "no-json", summary=b"{")
  run(folder / "list", summary=b"[1]")
  run(folder / "half-letter", summary=b'{"a": "\\ud800"}')
  run(folder / "linked", model=None)
  (folder / "linked" / "model.safetensors").symlink_to("../run/model.safetensors")
  run(folder / "piped", model=None)
  os.mkfifo(folder / "piped" / "model.safetensors")
  shutil.copytree(folder / "run", folder / "moved")
  config = (folder / "moved" / "config.toml").read_text().replace("t.csv", "gone.csv")
  (folder / "moved" / "config.toml").write_text(config)
  zipped = {"torch.pt": "model/data.pkl", "torch.pt2": "model/archive_format"}
  for name, member in zipped.items():
    with zipfile.ZipFile(folder / name, "w") as archive:
      archive.writestr(member, b"\x80\x04N.")
  theirs = {f"{i}.{kind}": np.ones(shape, np.float32) for i, kind, shape in (
    (0, "weight", (3, 2)), (0, "bias", 3), (2, "weight", (2, 3)), (2, "bias", 2))}  # fmt: skip
  (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(theirs))
  (folder / "rules.py").write_text(RULES)
  (folder / "broken.py").write_text("x = 1 / 0\n")


RULES = """import jax.numpy as jnp
import fbackprop as fb

net = fb.dense(2, 3)
number = 3
made = (jnp.ones(3),)

def square(x):
  return x * x

def make_nothing():
  raise ValueError("no such file")
"""
