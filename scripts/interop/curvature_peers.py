"""BackPACK, curvlinops, laplax, kfac-jax: their curvature of a problem, in their own conventions.

Every number is left as its package gives it, in its own layout and of its own mean loss; what is
to be done with it is said in `curvature_comparisons`. Weights and v are put into its layout.
"""

import json
import os
import subprocess
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scripts.interop.peers import make_batch, make_net
from scripts.interop.problems import CROSS_ENTROPY, Data, Problem, Tree

SAMPLES = 1000
"""Draws of each estimate by random numbers."""
DAMPING = 0.05
KFAC_JAX_PYTHON = "FBACKPROP_KFAC_JAX_PYTHON"
"""The environment variable with the interpreter that has kfac-jax."""


class Given(NamedTuple):
  """A problem, its numbers, and a vector `v[l]` like its weights."""

  problem: Problem
  data: Data
  v: list[tuple[np.ndarray, np.ndarray | None]]


def arrays_of(tensors: Any) -> Tree:
  """Convert tensors to arrays."""
  return [np.array(tensor.detach().numpy()) for tensor in tensors]


def torch_inputs(torch: Any, given: Given) -> tuple[Any, Any, Any, Any, list[Any]]:
  """Return the network, the loss, the batch, and v in torch's layout."""
  torch.set_num_threads(1)
  net = make_net(torch, given.problem, given.data)
  is_entropy = given.problem.loss == CROSS_ENTROPY
  loss = (torch.nn.CrossEntropyLoss if is_entropy else torch.nn.MSELoss)(reduction="mean")
  v = [torch.from_numpy(leaf.T.copy()) for pair in given.v for leaf in pair if leaf is not None]
  return net, loss, *make_batch(torch, given.data), v


def run_backpack(given: Given) -> dict[str, Tree]:
  """Run its second-order extensions, and its products, on torch's mean loss."""
  torch, backpack = import_module("torch"), import_module("backpack")
  made: Any = import_module("backpack.extensions")
  hvp = import_module("backpack.hessianfree.hvp").hessian_vector_product
  ggnvp = import_module("backpack.hessianfree.ggnvp").ggn_vector_product
  torch.manual_seed(0)
  net, loss, x, targets, v = torch_inputs(torch, given)
  backpack.extend(net)
  backpack.extend(loss)
  asked = {
    "DiagGGNExact": (made.DiagGGNExact(), "diag_ggn_exact"),
    "DiagGGNMC": (made.DiagGGNMC(mc_samples=SAMPLES), "diag_ggn_mc"),
    "BatchDiagGGNExact": (made.BatchDiagGGNExact(), "diag_ggn_exact_batch"),
    "DiagHessian": (made.DiagHessian(), "diag_h"),
    "KFLR": (made.KFLR(), "kflr"),
    "KFAC": (made.KFAC(mc_samples=SAMPLES), "kfac"),
  }
  warnings.filterwarnings("ignore", "Full backward hook is firing")  # x has no cotangent.
  with backpack.backpack(*(one for one, _ in asked.values())):
    loss(net(x), targets).backward()
  found = {}
  for name, (_, field) in asked.items():
    values = [getattr(p, field) for p in net.parameters()]
    # A weight has [G, A], a bias [G].
    flat = [m for own in values for m in own] if isinstance(values[0], list) else values
    found[name] = arrays_of(flat)
  outputs = net(x)
  found["hessian_vector_product"] = arrays_of(
    hvp(loss(outputs, targets), list(net.parameters()), v)
  )
  outputs = net(x)
  found["ggn_vector_product"] = arrays_of(ggnvp(loss(outputs, targets), outputs, net, v))
  return found


def run_curvlinops(given: Given) -> dict[str, Tree]:
  """Run its operators on torch's mean loss."""
  torch, made = import_module("torch"), import_module("curvlinops")
  net, loss, x, targets, v = torch_inputs(torch, given)
  arguments = net, loss, list(net.parameters()), [(x, targets)]

  def operator(name: str, **options: Any) -> Any:
    return getattr(made, name)(*arguments, check_deterministic=False, **options)

  def kfac(kind: str, name: str = "KFACLinearOperator", **options: Any) -> Any:
    return operator(name, fisher_type=kind, separate_weight_and_bias=False, **options)

  def factors(one: Any) -> Tree:
    one.compute_kronecker_factors()
    state = one.state_dict()
    names = ("input_covariances", "gradient_covariances")
    sides = [state[name if name in state else f"_{name}"] for name in names]
    return arrays_of([side[layer] for layer in sides[0] for side in sides])

  exact, mc = kfac("type-2"), operator("FisherMCLinearOperator", mc_samples=SAMPLES)
  drawn = sum((a * b).sum() for a, b in zip(v, mc @ v, strict=True))

  def solved(**options: Any) -> Tree:
    return arrays_of(made.KFACInverseLinearOperator(exact, damping=DAMPING, **options) @ v)

  return {
    "HessianLinearOperator": arrays_of(operator("HessianLinearOperator") @ v),
    "GGNLinearOperator": arrays_of(operator("GGNLinearOperator") @ v),
    "EFLinearOperator": arrays_of(operator("EFLinearOperator") @ v),
    "FisherMCLinearOperator, vᵀFv": [np.array(float(drawn))],
    "KFAC, type-2": factors(kfac("type-2")),
    "KFAC, mc": factors(kfac("mc", mc_samples=SAMPLES)),
    "KFAC, empirical": factors(kfac("empirical")),
    "KFAC, type-2, trace": [exact.trace.detach().numpy()],
    "EKFAC, type-2": arrays_of(kfac("type-2", "EKFACLinearOperator") @ v),
    "EKFAC, empirical": arrays_of(kfac("empirical", "EKFACLinearOperator") @ v),
    "inverse": solved(),
    "inverse, heuristic": solved(use_heuristic_damping=True),
    "inverse, exact": solved(use_exact_damping=True),
  }


def run_laplax(given: Given) -> dict[str, Tree]:
  """Run its products and its diagonal, of a function of one example as in its guide."""
  ggn: Any = import_module("laplax.curv.ggn")
  hessian: Any = import_module("laplax.curv.hessian")
  diagonal: Any = import_module("laplax.curv.diagonal")
  flat: Any = import_module("laplax.util.flatten")
  weights, x, targets = given.data
  is_entropy = given.problem.loss == CROSS_ENTROPY
  loss = "cross_entropy" if is_entropy else "mse"
  activation = getattr(jax.nn, given.problem.activation)

  def model(input: Any, params: Any) -> Any:  # noqa: A002  # The name that laplax calls it by.
    for i, (w, b) in enumerate(params):
      input = input @ w if b is None else input @ w + b
      input = activation(input) if i < len(params) - 1 else input
    return input

  def entropy(outputs: Any, labels: Any) -> Any:
    log_p = jax.nn.log_softmax(outputs)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).sum()

  params, v = (jax.tree.map(jnp.asarray, tree) for tree in (weights, given.v))
  data = {"input": jnp.asarray(x), "target": jnp.asarray(targets)}
  ggn_of = ggn.create_ggn_mv(model, params, data, loss)
  # Its own "cross_entropy" is the softmax's for the GGN, and a sigmoid's for the Hessian.
  hessian_of = hessian.create_hessian_mv(model, params, data, entropy if is_entropy else loss)
  flatten, unflatten = flat.create_pytree_flattener(params)
  layout = flatten(params)
  of_diagonal = diagonal.create_diagonal_curvature(
    lambda vector: flatten(ggn_of(unflatten(vector))), layout=layout.size
  )
  return {
    "create_ggn_mv": list(map(np.asarray, jax.tree.leaves(jax.jit(ggn_of)(v)))),
    "create_hessian_mv": list(map(np.asarray, jax.tree.leaves(jax.jit(hessian_of)(v)))),
    "create_diagonal_curvature": [np.asarray(of_diagonal)],
  }


def run_kfac_jax(python: str, everything: list[Given]) -> tuple[str, list[dict[str, Tree]]]:
  """Run kfac-jax on all problems by another interpreter; return its version, and its numbers."""
  described: list[dict[str, Any]] = []
  out: dict[str, Any] = {}
  for i, (problem, data, v) in enumerate(everything):
    names = ("w", "b") if problem.bias else ("w",)
    described.append({
      "activation": problem.activation, "loss": problem.loss, "layers": len(v), "names": names,
    })  # fmt: skip
    for kind, tree in (("weights", data.weights), ("v", v)):
      for k, pair in enumerate(tree):
        out |= {f"{i}/{kind}/{name}{k}": own for name, own in zip(names, pair, strict=False)}
    out |= {f"{i}/x": data.x, f"{i}/targets": data.targets}
  with tempfile.TemporaryDirectory() as folder:
    source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
    np.savez(source, described=json.dumps({"problems": described, "samples": SAMPLES}), **out)
    worker = Path(__file__).with_name("kfac_jax_peer.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}
    subprocess.run([python, worker, source, target], check=True, env=environment)
    found: list[dict[str, Tree]] = [{} for _ in everything]
    with np.load(target) as made:
      version = str(made["version"])
      for key in made.files:  # In the order of writing.
        if key != "version":
          i, name, _ = key.split("/")
          found[int(i)].setdefault(name, []).append(made[key])
  return version, found
