"""A gradient by torch, and its extensions BackPACK and Opacus, as in their guides."""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from scripts.benchmarks import machine
from scripts.benchmarks.models import draw_inputs
from scripts.benchmarks.quantities import HEAVY_BYTES, Candidate
from scripts.benchmarks.subjects import Size

PLAIN = "torch, plain gradient"
EXTENSIONS = ("BatchGrad", "BatchL2Grad", "SumGradSquared", "Variance")
"""The names of BackPACK's extensions, with ours for them."""


def candidates_of(size: Size, bound: float) -> list[Candidate]:
  """Build torch's plain gradient, BackPACK's extensions and Opacus's ghost clipping."""
  torch: Any = import_module("torch")
  # torch warns that x has no gradient, which is intended.
  warnings.filterwarnings("ignore", "Full backward hook is firing")
  torch.set_num_threads(machine.core_count())
  batches = [
    (torch.from_numpy(np.array(x)), torch.from_numpy(np.array(targets)).long())
    for x, targets in draw_inputs(size)[1]
  ]
  plain, backpack = made_of(torch, size), import_module("backpack")
  entropy = torch.nn.CrossEntropyLoss()

  def gradient(module: Any, loss_of: Any, number: int) -> None:
    x, targets = batches[number % len(batches)]
    module.zero_grad(set_to_none=False)
    loss_of(module(x), targets).backward()

  extended = backpack.extend(made_of(torch, size))
  extended_loss = backpack.extend(torch.nn.CrossEntropyLoss())
  extensions: Any = import_module("backpack.extensions")

  def with_extension(name: str, number: int) -> None:
    with backpack.backpack(getattr(extensions, name)()):
      gradient(extended, extended_loss, number)

  numbers = sum(a * b for a, b in pairwise(size.widths))
  return [
    Candidate(PLAIN, partial(gradient, plain, entropy), PLAIN),
    *(
      Candidate(f"BackPACK, gradient + {name}", partial(with_extension, name), PLAIN)
      for name in EXTENSIONS
      if name != "BatchGrad" or 4 * numbers * size.batch < HEAVY_BYTES
    ),
    Candidate("Opacus, ghost clipping", ghost_clipping(torch, size, batches, bound), PLAIN),
  ]


def ghost_clipping(torch: Any, size: Size, batches: Any, bound: float) -> Callable[[int], None]:
  """Build Opacus's clipped gradient: a backward pass for the norms, and another for the sum."""
  samples: Any = import_module("opacus.grad_sample")
  module = samples.GradSampleModuleFastGradientClipping(
    made_of(torch, size), max_grad_norm=bound, use_ghost_clipping=True, loss_reduction="sum"
  )
  loss_of = torch.nn.CrossEntropyLoss(reduction="none")

  def call(number: int) -> None:
    x, targets = batches[number % len(batches)]
    module.zero_grad(set_to_none=False)
    losses = loss_of(module(x), targets)
    # As in its DPLossFastGradientClipping, without an optimiser.
    losses.sum().backward(retain_graph=True)
    factors = module.get_clipping_coef()
    module.zero_grad(set_to_none=False)
    module.disable_hooks()
    (factors * losses).sum().backward()
    module.enable_hooks()

  return call


def made_of(torch: Any, size: Size) -> Any:
  """Build the network, in float32."""
  torch.manual_seed(0)
  layers: list[Any] = []
  for pair in pairwise(size.widths):
    layers += [torch.nn.Linear(*pair), torch.nn.ReLU()]
  return torch.nn.Sequential(*layers[:-1])
