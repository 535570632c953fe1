"""Curvature by BackPACK and curvlinops, as in their guides, each with what it is held against.

BackPACK computes its quantities during a backward pass, beside the gradient; so do ours that it is
held against. An operator of curvlinops computes its Kronecker factors once, so each call makes one.
"""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from scripts.benchmarks import machine
from scripts.benchmarks.models import draw_inputs
from scripts.benchmarks.quantities_torch import made_of
from scripts.benchmarks.subjects import Size

PLAIN = "torch, plain gradient"
BACKPACK = {
  "DiagGGNExact": "gradient + ggn_diagonal",
  "DiagGGNMC": "gradient + ggn_diagonal, samples=1",
  "KFLR": "gradient + kronecker_factors, exact",
  "KFAC": "gradient + kronecker_factors, monte_carlo",
}
"""BackPACK's extensions, and ours for them."""
KFAC_TYPES = {"type-2": "exact", "mc": "monte_carlo", "empirical": "empirical"}
PRODUCTS = {
  "HessianLinearOperator": "hessian_vector_product",
  "GGNLinearOperator": "ggn_vector_product",
}
"""curvlinops' operators, and ours for them."""


class Peer(NamedTuple):
  """A call of a peer, on the batch of a number, and the name of ours that it is held against."""

  call: Callable[[int], Any]
  ours: str


def peers_of(size: Size) -> dict[str, Peer]:
  """Build torch's plain gradient and everything that is relative to it."""
  torch: Any = import_module("torch")
  # torch warns that x has no gradient, which is intended.
  warnings.filterwarnings("ignore", "Full backward hook is firing")
  torch.set_num_threads(machine.core_count())
  backpack, curvlinops = import_module("backpack"), import_module("curvlinops")
  extensions: Any = import_module("backpack.extensions")
  batches = [
    (torch.from_numpy(np.array(x)), torch.from_numpy(np.array(targets)).long())
    for x, targets in draw_inputs(size)[1]
  ]

  def gradient(module: Any, loss_of: Any, number: int) -> None:
    x, targets = batches[number % len(batches)]
    module.zero_grad(set_to_none=False)
    loss_of(module(x), targets).backward()

  plain, entropy = made_of(torch, size), torch.nn.CrossEntropyLoss()
  extended = backpack.extend(made_of(torch, size))
  extended_loss = backpack.extend(torch.nn.CrossEntropyLoss())

  def with_extension(name: str, number: int) -> None:
    with backpack.backpack(getattr(extensions, name)()):
      gradient(extended, extended_loss, number)

  module = made_of(torch, size)
  params = list(module.parameters())
  v = [p.detach() for p in params]

  def operator(name: str, number: int, **options: Any) -> Any:
    batch = batches[number % len(batches)]
    return getattr(curvlinops, name)(
      module, entropy, params, [batch], check_deterministic=False, num_data=size.batch, **options
    )

  def factors(kind: str, number: int) -> None:
    one = operator("KFACLinearOperator", number, fisher_type=kind, separate_weight_and_bias=False)
    one.compute_kronecker_factors()

  made = {name: [operator(name, i) for i in range(len(batches))] for name in PRODUCTS}

  def product(name: str, number: int) -> Any:
    return made[name][number % len(batches)] @ v

  return {
    PLAIN: Peer(partial(gradient, plain, entropy), "plain gradient"),
    **{f"BackPACK, gradient + {name}": Peer(partial(with_extension, name), ours)
       for name, ours in BACKPACK.items()},
    **{f"curvlinops, {name}": Peer(partial(product, name), ours)
       for name, ours in PRODUCTS.items()},
    **{f"curvlinops, KFAC, {kind}": Peer(partial(factors, kind), f"kronecker_factors, {ours}")
       for kind, ours in KFAC_TYPES.items()},
  }  # fmt: skip
