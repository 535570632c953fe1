"""Models to and from files of other programs: `fbackprop export` and `fbackprop import`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fbackprop.cli import console
from fbackprop.cli.config import ActivationName
from fbackprop.cli.console import parsed, refuse, usage_errors, usually
from fbackprop.cli.model import Run
from fbackprop.cli.run_folder import load_run_model
from fbackprop.train.data.names import Task

FormatName = Literal["torch", "onnx", "stablehlo", "npz"]
# The library's arguments as flags.
FLAGS = {name: f"--{name}" for name in ("activation", "task", "features", "labels", "opset")}


@dataclass(frozen=True)
class ExportConfig:
  """Write a trained model to a file of another program.

  fbackprop export runs/digits-1 --out digits.onnx

  Attributes:
    run: Folder of the run, or a model file.
    out: Output file.
    format: torch (safetensors with the names of an nn.Sequential), onnx (raw rows to labels and
      probabilities), stablehlo (a program for jax.export, differentiable), npz (NumPy arrays).
    opset: Version of ONNX's operators, 17 to 21.
  """

  run: Run
  out: Annotated[str, arg(metavar="FILE")]
  format: Annotated[
    FormatName | None, usually("by the ending .safetensors, .onnx, .stablehlo or .npz")
  ] = None
  opset: Annotated[int | None, usually("17")] = None


def export(arguments: Sequence[str]) -> int:
  """Write a model to a file.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: the run doesn't exist, the format can't hold it, or the file can't be written.
  """
  config = parsed(ExportConfig, "export", arguments)
  console.check_writable("--out", config.out)
  from fbackprop.export import formats
  from fbackprop.export.state_dicts import torch_modules
  from fbackprop.train.fitted import FittedModel

  to = config.format or formats.SUFFIXES.get(Path(config.out).suffix)
  known = ", ".join(formats.SUFFIXES)
  refuse(
    (to is None, f"--out {config.out} ends in none of {known}; give --format"),
    (config.opset is not None and to != "onnx", f"--opset is of onnx, and the format is {to}"),
  )
  assert to is not None
  model = FittedModel(*load_run_model(config.run))
  with usage_errors(f"RUN {config.run}", FLAGS):
    content = formats.content_of(model, to, 17 if config.opset is None else config.opset)
  console.write("--out", config.out, content)
  if to == "torch":
    console.show(f"load_state_dict into {torch_modules(model.net)}\n")
  return 0


@dataclass(frozen=True)
class ImportConfig:
  """Read a network from a file of another program, and write it as a model file.

  fbackprop import mlp.onnx --out model.safetensors

  The model file is used like the folder of a run: by fbackprop predict and export, and by train
  --init.

  Attributes:
    file: safetensors with weights of torch, an ONNX file of a chain of dense layers, or a file of
      fbackprop export. Nothing is unpickled: .pt, .pt2 and the like are refused.
    out: Output model file.
    activation: Activation of the hidden layers, which safetensors of weights don't hold.
    task: Task of the outputs.
    features: Names of the input columns.
    labels: Names of the classes, or of the values.
  """

  file: Annotated[str, Positional, arg(metavar="FILE")]
  out: Annotated[str, arg(metavar="MODEL")]
  activation: Annotated[ActivationName | None, usually("as the file says")] = None
  task: Annotated[Task | None, usually("as the file says, else regression")] = None
  features: Annotated[tuple[str, ...], usually("x0 x1 ...")] = ()
  labels: Annotated[tuple[str, ...], usually("0 1 ... or y0 y1 ...")] = ()


def import_file(arguments: Sequence[str]) -> int:
  """Read a file, and write a model file.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: the file isn't read, or the model file can't be written.
  """
  config = parsed(ImportConfig, "import", arguments)
  console.check_writable("--out", config.out)
  from fbackprop.export import formats
  from fbackprop.train.models import metadata_of
  from fbackprop.train.weights import bytes_of

  with usage_errors(config.file, FLAGS):
    model = formats.read(
      config.file, activation=config.activation, task=config.task,
      features=config.features or None, labels=config.labels or None,
    )  # fmt: skip
  about = model.description
  shown = (f"{len(model.features)} features: {console.first_of(model.features)}",
           f"{len(model.labels)} outputs: {console.first_of(model.labels)}")  # fmt: skip
  console.show(f"{about.as_text()}; {'; '.join((model.task, *shown))}\n")
  console.write("--out", config.out, bytes_of(model.params, metadata_of(about)))
  return 0
