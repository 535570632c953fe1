"""Trains a wide network on whatever device JAX finds, or on several, and says how well it is used.

  python scripts/train_accelerator.py                          a small one: seconds on a CPU
  python scripts/train_accelerator.py --dtype bfloat16 --widths 4096 8192 8192 512 --batch-size 4096
  JAX_NUM_CPU_DEVICES=4 python scripts/train_accelerator.py    a CPU as four devices

The network and its step know nothing of devices: the parameters are on each of them, each has its
rows of the batch, and the compiler adds up the gradients. That is two placements on a mesh.

The speed is also told as a share of the devices' rate in a square product, alone on each of them
at once, in the same dtype. A step has three products for each dense layer, x w, xᵀ y_bar, y_bar wᵀ,
but for the last one of the first layer: 2 N (3 Σ D_in D_out − D_0 D_1) operations are counted.
"""

import argparse
import itertools
import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb

LOSS = fb.softmax_cross_entropy
BATCHES = 4  # Drawn before the clock starts, and used in turns.
EVERY = 10  # Steps between printed lines; only there the host waits for the device.


def in_bfloat16(net: fb.Layer) -> fb.Layer:
  """Convert a network to bfloat16, except its parameters, whose steps are small, and its logits."""

  def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

  def forward(params: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
    y, residuals = net.forward(cast(params, jnp.bfloat16), x, key)
    return cast(y, jnp.float32), residuals

  def backward(params: Any, residuals: Any, y_bar: Any) -> tuple[Any, Any]:
    params, y_bar = cast((params, y_bar), jnp.bfloat16)
    params_bar, x_bar = net.backward(params, residuals, y_bar)
    return cast(params_bar, jnp.float32), x_bar

  return net._replace(forward=forward, backward=backward)


def draw_batch(widths: list[int], n: int, dtype: Any, key: Any) -> tuple[Any, Any]:
  """Draw x `[N, D_0]`, with the largest output of a linear map shared by all batches as labels."""
  x = jax.random.normal(key, (n, widths[0]))
  w = jax.random.normal(jax.random.key(0), (widths[0], widths[-1]))
  return x.astype(dtype), (x @ w).argmax(1).astype(jnp.int32)


def product_rate(side: int, dtype: str, rows: NamedSharding, whole: NamedSharding) -> float:
  """Return the operations per second of a side³ product on each device: the median of five."""
  draw, devices = partial(jax.random.normal, dtype=dtype), rows.mesh.size
  a = jax.device_put(draw(jax.random.key(0), (devices * side, side)), rows)
  b = jax.device_put(draw(jax.random.key(1), (side, side)), whole)
  medians = []
  for result in {dtype, "float32"}:  # The faster dtype of the result depends on the processor.
    multiply, times = jax.jit(partial(jnp.matmul, preferred_element_type=result)), []
    for _ in range(6):
      start = time.perf_counter()
      jax.block_until_ready([multiply(a, b) for _ in range(4)])
      times.append((time.perf_counter() - start) / 4)
    medians.append(statistics.median(times[1:]))  # The first one includes compilation.
  return 2 * devices * side**3 / min(medians)


def jax_gradient(net: fb.Layer, params: Any, x: Any, labels: Any) -> Any:
  """Compute the gradient by `jax.grad` of the same forward pass."""

  def mean_loss(params: Any, x: Any, labels: Any) -> Any:
    return LOSS.forward(net.forward(params, x)[0], labels)[0].mean()

  return jax.jit(jax.grad(mean_loss))(params, x, labels)


@jax.jit
def worst_error(got: Any, want: Any) -> Any:
  """Return ‖got − want‖ / ‖want‖ of the worst parameter array."""
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  return jnp.stack([jnp.linalg.norm(a - b) / jnp.linalg.norm(b) for a, b in pairs]).max()


def main(arguments: list[str] | None = None) -> None:
  """Run the script."""
  raw, found = argparse.RawDescriptionHelpFormatter, jax.devices()
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
  parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024, 1024, 16])
  parser.add_argument("--batch-size", type=int, default=512, help="of all devices; default: 512")
  parser.add_argument("--steps", type=int, default=50, help="default: 50")
  parser.add_argument("--rate", type=float, default=0.1, help="of gradient descent; default: 0.1")
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  parser.add_argument("--devices", type=int, default=len(found), help="default: all")
  given = parser.parse_args(arguments)
  widths, n, dtype, count = given.widths, given.batch_size, given.dtype, given.devices
  if not 1 <= count <= len(found):
    parser.error(f"--devices must be from 1 to {len(found)}, which JAX finds, got {count}")
  if n < 1 or n % count:
    parser.error(f"--batch-size must be a multiple of the {count} devices, got {n}")
  if len(widths) < 2 or min(given.steps, *widths) < 1:
    parser.error(f"--steps and two or more --widths must be above 0, got {given.steps}, {widths}")

  # Auto: on an Explicit axis, the default, JAX rejects xᵀ y_bar of split rows.
  mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=found[:count])
  rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
  plain = fb.mlp(widths)
  net = in_bfloat16(plain) if dtype == "bfloat16" else plain
  init, step = fb.train.make_step(net, LOSS, fb.train.gradient_descent(given.rate))
  state = jax.jit(init, out_shardings=whole)(jax.random.key(1))
  draw = jax.jit(partial(draw_batch, widths, n, dtype), out_shardings=rows)
  batches = [draw(key) for key in jax.random.split(jax.random.key(2), BATCHES)]
  compiled = jax.jit(step, donate_argnums=0).lower(state, batches[0]).compile()

  side, sizes = max(512, *widths), [d_in * d_out for d_in, d_out in itertools.pairwise(widths)]
  limit, operations = product_rate(side, dtype, rows, whole), 2 * n * (3 * sum(sizes) - sizes[0])
  memory = compiled.memory_analysis()
  donated = memory.alias_size_in_bytes / 1e6 if memory else 0.0
  print(f"{count} × {found[0].device_kind} ({found[0].platform}), {dtype}, jax {jax.__version__}")
  print(f"a product of {side}³ on each of them: {limit / 1e9:,.1f} GFLOP/s together")
  print(f"a step of {n}: {operations / 1e9:.3f} GFLOP, {donated:.3f} MB of state updated in place")
  speeds = []
  for first in range(0, given.steps, EVERY):
    start, last = time.perf_counter(), min(first + EVERY, given.steps)
    for i in range(first, last):
      state, info = compiled(state, batches[i % BATCHES])
    loss = float(info.loss)  # Waits for the steps.
    speeds.append(n * (last - first) / (time.perf_counter() - start))
    print(f"step {last:5}   loss {loss:.6f}   {speeds[-1]:,.0f} examples/s")
  speed = statistics.median(speeds[1:] or speeds)  # The first ones are a warm-up.
  print(f"{speed:,.0f} examples/s, {speed / n * operations / limit:.2f} of the products' rate")

  x, labels = batches[0]
  ours = jax.jit(fb.value_and_grad(net, LOSS))(state.params, x, labels)[1]
  theirs = jax_gradient(net, state.params, x, labels)
  with jax.default_matmul_precision("highest"):
    exact = jax_gradient(plain, state.params, x.astype(jnp.float32), labels)
  print(f"gradient against jax.grad, both in {dtype}: error {worst_error(ours, theirs):.1e}")
  for name, grads in (("ours", ours), ("jax.grad's", theirs)):
    print(f"  {name} against float32: {worst_error(grads, exact):.1e}")


if __name__ == "__main__":
  main()
