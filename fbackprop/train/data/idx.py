"""MNIST and data sets in its format: a folder of four files, gzipped or not.

References:
  LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (1998). The format: two zero
  bytes, 8 for unsigned bytes, the number of dimensions, each dimension in four bytes, the data.
  The same format: Xiao, Rasul, Vollgraf, "Fashion-MNIST", arXiv:1708.07747 (2017); Cohen, Afshar,
  Tapson, van Schaik, "EMNIST", arXiv:1702.05373 (2017), whose images are transposed.
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from fbackprop.files import MOST_OF_A_BYTE, MOST_UNPACKED, open_plain, size_of
from fbackprop.train.data.rows import Dataset, check_width, numbered

# torchvision's folders: root/MNIST/raw has the files of root.
INNER = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST")


def read_idx(folder: str) -> Dataset:
  """Read train-images-idx3-ubyte(.gz) and the other three files; pixels are scaled to [0, 1].

  The files may lie where torchvision puts them: in FOLDER/raw or FOLDER/MNIST/raw. Those of EMNIST
  are named FOLDER/emnist-letters, and so on; their images are transposed, and are turned back.

  Raises:
    ValueError: a file is invalid.
    OSError: a file can't be read, or is missing.
  """
  parts = []
  place, prefix = locate(folder)
  for part in ("train", "test" if prefix else "t10k"):
    images = read_numbers(find(place, f"{prefix}{part}-images-idx3-ubyte"), 3)
    labels = read_numbers(find(place, f"{prefix}{part}-labels-idx1-ubyte"), 1)
    if prefix:
      images = images.transpose(0, 2, 1)
    if len(images) != len(labels) or not images.size:
      raise ValueError(f"{folder}: {len(images)} images of {part} have {len(labels)} labels")
    check_width(folder, "features", images.shape[1] * images.shape[2])
    pixels = images.reshape(len(images), -1) / np.float32(255)  # uint8 / float32 is float32.
    parts.append((pixels, labels.astype(np.int32), images.shape[1:]))
  (x, labels, shape), (x_test, labels_test, test_shape) = parts
  if shape != test_shape:
    raise ValueError(f"{folder}: images to learn from are {shape}, those to test on {test_shape}")
  classes = numbered("", int(max(labels.max(), labels_test.max())) + 1)
  return Dataset(
    x, labels, "classification", classes, numbered("pixel", x.shape[1]), x_test, labels_test,
    image_shape=(int(shape[0]), int(shape[1])),
  )  # fmt: skip


def locate(folder: str) -> tuple[str, str]:
  """Return the folder of the files, and what is before their names: "emnist-letters-", or ""."""
  path = Path(folder)
  if path.name.startswith("emnist-") and not path.is_dir():
    path, prefix = path.parent, f"{path.name}-"
  else:
    prefix = ""
  inner = [path, path / "raw", *(path / name / "raw" for name in INNER)]
  names = [f"{prefix}train-images-idx3-ubyte{ending}" for ending in ("", ".gz")]
  here = (each for each in inner if any(os.path.lexists(each / name) for name in names))
  return str(next(here, path)), prefix


def find(folder: str, name: str) -> Path:
  """Find a file by name, gzipped or not; some copies have a dot for the last but one dash."""
  names = [name, name.replace("-idx", ".idx")]
  for candidate in (Path(folder, n + ending) for n in names for ending in (".gz", "")):
    if os.path.lexists(candidate):  # A pipe or a broken link is refused on opening.
      return candidate
  raise FileNotFoundError(2, f"there is no {name}.gz or {name} in it", folder)


def read_numbers(path: Path, ndim: int) -> np.ndarray:
  """Read the bytes of one file in its shape, and no more than its header states.

  The header is first compared with the size of the file, or for a gzip file with its largest
  possible decompressed size and with `MOST_UNPACKED`.
  """
  is_packed = path.suffix == ".gz"
  with open_plain(path) as plain:
    held = size_of(plain)
    try:
      with gzip.open(plain) if is_packed else plain as file:
        start = 4 + 4 * ndim
        header = file.read(start)
        if header[:4] != bytes((0, 0, 8, ndim)) or len(header) < start:
          raise ValueError(f"{path} is no idx file of bytes in {ndim} dimensions")
        shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
        size = math.prod(shape)
        said = f"{path} says that it holds {size:,} numbers"
        if is_packed and size > MOST_UNPACKED:
          most = f"more than the {MOST_UNPACKED:,} that are unpacked here"
          raise ValueError(f"{said}, {most}; gunzip it, and it may hold any number")
        if size + start > held * (MOST_OF_A_BYTE if is_packed else 1):
          raise ValueError(f"{said}, in {held:,} bytes")
        content = file.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
      raise ValueError(f"{path} is no whole gzip file: {error}") from error
  if len(content) != size:
    raise ValueError(f"{said}, got {'more' if len(content) > size else f'{len(content):,}'}")
  return np.frombuffer(content, np.uint8).reshape(shape)
