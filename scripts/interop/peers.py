"""BackPACK, Opacus, jax-privacy: their quantities in their own conventions, in our layout.

A torch Linear has W `[D_out, D_in]`, with y = x Wᵀ + b: weights are transposed on input, and their
gradients on output. Type checks work without torch.
"""

import warnings
from importlib import import_module
from typing import Any

import jax
import numpy as np

from scripts.interop.problems import CROSS_ENTROPY, Data, Problem, Tree
from scripts.interop.witness import loss_of

REDUCTIONS = ("sum", "mean")


def make_net(torch: Any, problem: Problem, data: Data) -> Any:
  """Build the network with our weights, in float64."""
  layers = []
  for w, b in data.weights:
    linear = torch.nn.Linear(*w.shape, bias=b is not None, dtype=torch.float64)
    with torch.no_grad():
      linear.weight.copy_(torch.from_numpy(w.T.copy()))
      if b is not None:
        linear.bias.copy_(torch.from_numpy(b))
    layers += [linear, torch.nn.Tanh() if problem.activation == "tanh" else torch.nn.ReLU()]
  return torch.nn.Sequential(*layers[:-1])


def make_batch(torch: Any, data: Data) -> tuple[Any, Any]:
  """Convert x and the targets; classes are int64 in torch."""
  targets = torch.from_numpy(data.targets)
  return torch.from_numpy(data.x), targets if targets.is_floating_point() else targets.long()


def to_ours(tensor: Any, of_weight: bool) -> np.ndarray:
  """Convert a tensor to an array, with the last two axes of a weight's swapped."""
  array = np.array(tensor.detach().numpy())
  return array.swapaxes(-1, -2) if of_weight else array


def run_backpack(problem: Problem, data: Data, bound: float) -> dict[str, Tree]:
  """Run the four extensions, for torch's own loss, summed and averaged."""
  torch, backpack = import_module("torch"), import_module("backpack")
  extensions = import_module("backpack.extensions")
  fields = {
    "BatchGrad": "grad_batch",
    "BatchL2Grad": "batch_l2",
    "SumGradSquared": "sum_grad_squared",
    "Variance": "variance",
  }
  x, targets = make_batch(torch, data)
  make_loss = torch.nn.CrossEntropyLoss if problem.loss == CROSS_ENTROPY else torch.nn.MSELoss
  found = {}
  for reduction in REDUCTIONS:
    net = backpack.extend(make_net(torch, problem, data))
    loss = backpack.extend(make_loss(reduction=reduction))(net(x), targets)
    asked = [getattr(extensions, name)() for name in fields]
    with warnings.catch_warnings(), backpack.backpack(*asked):
      warnings.filterwarnings("ignore", "Full backward hook is firing")  # x has no cotangent.
      loss.backward()
    for name, field in fields.items():
      found[f"{name}, {reduction}"] = [
        to_ours(getattr(p, field), p.ndim == 2 and name != "BatchL2Grad") for p in net.parameters()
      ]
  return found


def run_opacus(problem: Problem, data: Data, bound: float) -> dict[str, Tree]:
  """Run ghost clipping as configured by `make_private`, without noise, on a full batch."""
  torch, opacus = import_module("torch"), import_module("opacus")
  x, targets = make_batch(torch, data)
  found = {}
  for reduction in REDUCTIONS:
    net = make_net(torch, problem, data)
    dataset = torch.utils.data.TensorDataset(x, targets)
    with warnings.catch_warnings():
      # Warnings that its noise isn't cryptographic, and that its hooks see no cotangent of x.
      warnings.simplefilter("ignore")
      net, optimizer, criterion, _ = opacus.PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
        criterion=make_criterion(torch, problem, reduction),
        data_loader=torch.utils.data.DataLoader(dataset, batch_size=problem.n),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        loss_reduction=reduction,
        poisson_sampling=False,
        grad_sample_mode="ghost",
      )
      criterion(net(x), targets).backward()
      optimizer.pre_step()  # Scales, and adds the noise; the plain step follows.
    found[f"p.grad, {reduction}"] = [to_ours(p.grad, p.ndim == 2) for p in net.parameters()]
    found[f"norms, {reduction}"] = [to_ours(net.per_sample_gradient_norms, False)]
  return found


def make_criterion(torch: Any, problem: Problem, reduction: str) -> Any:
  """Build a loss that is `[N]` unreduced, as Opacus requires; torch's MSELoss would be `[N, C]`."""
  if problem.loss == CROSS_ENTROPY:
    return torch.nn.CrossEntropyLoss(reduction=reduction)

  def half_squared_error(outputs: Any, targets: Any) -> Any:
    return 0.5 * ((outputs - targets) ** 2).sum(1)

  half_squared_error.reduction = reduction  # type: ignore[attr-defined]
  return half_squared_error


def run_jax_privacy(problem: Problem, data: Data, bound: float) -> dict[str, Tree]:
  """Return the sum of clipped gradients, and the norms used for clipping."""
  jax_privacy = import_module("jax_privacy")

  def loss(weights: Any, x: Any, target: Any) -> Any:
    return loss_of(problem, weights, x, target)

  def clip(x: Any = data.x, **options: Any) -> Any:
    clipped = jax_privacy.clipped_grad(
      loss, l2_clip_norm=bound, batch_argnums=(1, 2), keep_batch_dim=False, **options
    )
    return jax.jit(clipped)(data.weights, x, data.targets)

  poisoned = data.x.copy()
  poisoned[0] = np.nan
  found = {
    "clipped_grad": clip(),
    "normalize_by=N": clip(normalize_by=problem.n),
    "rescale_to_unit_norm": clip(rescale_to_unit_norm=True),
    "first example NaN": clip(poisoned),
    "grad_norms": clip(return_grad_norms=True)[1].grad_norms,
  }
  return {name: [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
          for name, tree in found.items()}  # fmt: skip
