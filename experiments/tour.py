"""A tour of backpropagation, from one layer to a spiral that is learned: the file to read first.

  python experiments/tour.py [--out FOLDER]     some seconds; draws runs/tour/spiral.png

Read it from top to bottom, and then beside what it prints. N points are a batch, and `v_bar` is the
cotangent of v: here the gradient of the cost by v. (L6) is row 6 of the lecture, which
docs/backprop.md tells in full. A name such as `fb.dense` is the library's for what is written here.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import fbackprop as fb

LOSS, RATE, TOLERANCE, MAX_STEPS = fb.softmax_cross_entropy, 0.3, 0.05, 5000
RGB = np.array([[0, 114, 178], [213, 94, 0], [0, 158, 115]]) / 255  # Okabe and Ito's colors.


def draw_spiral(seed: int) -> tuple[Any, Any]:
  """Points x `[300, 2]` on three noisy arms, and labels `[300]` that say which arm."""
  labels, radius = np.repeat(np.arange(3), 100), np.tile(np.linspace(0.05, 1, 100), 3)
  turns = 1.25 * radius + labels / 3 + np.random.default_rng(seed).normal(0, 0.03, 300)
  x = radius * np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
  return np.float32(x.T), np.int32(labels)


def dense_forward(params: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
  """1. A layer, y = x w + b: each neuron multiplies, sums, and adds its bias (L3). It keeps x."""
  return x @ params.w + params.b, x


def dense_backward(params: Any, x: Any, y_bar: Any) -> tuple[Any, Any]:
  """A sum hands y_bar on, a product swaps its inputs, and all shares of a value are added (L11)."""
  w_bar, b_bar, x_bar = x.T @ y_bar, y_bar.sum(0), y_bar @ params.w.T
  return fb.DenseParams(w_bar, b_bar), x_bar


def dense(d_in: int, d_out: int, **options: Any) -> fb.Layer:
  """The two rules as a layer; w and b begin as those of `fb.dense`, which checks all shapes too."""
  return fb.dense(d_in, d_out, **options)._replace(forward=dense_forward, backward=dense_backward)


NET = fb.mlp([2, 32, 32, 3], dense=dense)  # f(x; Θ): dense, relu, dense, relu, dense (L1, L2, L7).


def cost_and_gradient(params: Any, x: Any, labels: Any) -> tuple[Any, Any]:
  """The cost J and ∂J/∂w, ∂J/∂b of every layer. `fb.value_and_grad`"""
  # 2. Forward, from the first layer to the last: each output is the next layer's input (L4).
  h, kept = x, []
  for layer, own in zip(NET.parts, params, strict=True):
    h, residuals = layer.forward(own, h)
    kept.append(residuals)
  losses, loss_kept = LOSS.forward(h, labels)
  # 3. Backward, from the last to the first, one layer at a time: backpropagation (L6). The cost is
  # the mean of N losses, so that each of them begins with the cotangent 1/N.
  h_bar, grads = LOSS.backward(loss_kept, jnp.full_like(losses, 1 / len(losses))), []
  for layer, own, residuals in reversed(list(zip(NET.parts, params, kept, strict=True))):
    own_bar, h_bar = layer.backward(own, residuals, h_bar)
    grads.append(own_bar)
  return losses.mean(), tuple(reversed(grads))


def plain_cost(params: Any, x: Any, labels: Any) -> Any:
  """4. The witness: the same cost in plain jax.numpy, for `jax.grad`. Nothing in it is ours."""
  w1, b1, w2, b2, w3, b3 = jax.tree.leaves(params)
  h = jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2)
  return -jax.nn.log_softmax(h @ w3 + b3)[jnp.arange(len(labels)), labels].mean()


def worst_error(params: Any, x: Any, labels: Any) -> float:
  """max |ours − jax.grad| / max |jax.grad| of the worst w or b, in float64."""
  with jax.enable_x64(True):
    params, x = jax.tree.map(np.float64, jax.device_get((params, x)))
    ours = jax.jit(cost_and_gradient)(params, x, labels)[1]
    theirs = jax.jit(jax.grad(plain_cost))(params, x, labels)
  pairs = zip(*map(jax.tree.leaves, jax.device_get((ours, theirs))), strict=True)
  return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)


@jax.jit
def step(params: Any, x: Any, labels: Any) -> tuple[Any, Any]:
  """5. Gradient descent: w ← w − η ∂J/∂w, all at once (L8, L10). `fb.train.make_step`"""
  cost, grads = cost_and_gradient(params, x, labels)
  return jax.tree.map(lambda w, w_bar: w - RATE * w_bar, params, grads), cost


def train(params: Any, x: Any, labels: Any) -> tuple[list[Any], list[float]]:
  """6. Steps until the cost is within the tolerance, or MAX_STEPS are made (L9). `fb.train.fit`"""
  history, costs = [params], []
  while True:
    params, cost = step(history[-1], x, labels)
    costs.append(float(cost))  # At history[-1]: a step says what the cost was before it.
    if costs[-1] <= TOLERANCE or len(costs) > MAX_STEPS:
      return history, costs
    history.append(params)


def draw(history: list[Any], costs: list[float], x: Any, labels: Any, file: Path) -> None:
  """7. The picture: what the network says of the whole plane at three moments, and its cost."""
  figure = Figure((10, 6.2), 130, layout="constrained")
  figure.suptitle("What the network says of the plane: the arms' colors, mixed by probability")
  *maps, curve = figure.subplot_mosaic("abc;ddd", height_ratios=(3, 2)).values()
  moments = [0, len(costs) // 3, len(costs) - 1]
  curve.plot(costs, "-o", markevery=moments, color="#222222")
  curve.axhline(TOLERANCE, color="#888888", linestyle=":")
  curve.set(title="The cost, down to the tolerance; dots: the moments above")
  curve.set(xlabel="step", ylabel="cost $J$", xlim=(-10, len(costs) + 9), ylim=0)
  plane = np.stack(np.meshgrid(*2 * [np.linspace(-1.3, 1.3, 261, dtype=np.float32)]), 2)
  for axes, now in zip(maps, moments, strict=True):
    logits, _ = NET.forward(history[now], plane.reshape(-1, 2))  # The loop of 2. is `fb.serial`.
    colors = 0.6 + 0.4 * np.reshape(jax.nn.softmax(logits) @ RGB, (261, 261, 3))
    axes.imshow(colors, origin="lower", extent=(-1.3, 1.3, -1.3, 1.3))
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title=f"Step {now}: cost {costs[now]:.2f}")
    for arm, marker in enumerate("o^s"):
      axes.plot(*x[labels == arm].T, marker, color=RGB[arm], ms=4.5, mec="white", mew=0.5)
  figure.savefig(file)


def main() -> None:
  """Goes all the way with one spiral and one network."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
  parser.add_argument("--out", type=Path, default="runs/tour", help="default: runs/tour")
  file = parser.parse_args().out / "spiral.png"
  (x, labels), params = draw_spiral(0), jax.jit(NET.init)(jax.random.key(0))

  print("1. Three dense layers, w and b of each:", *map(jnp.shape, jax.tree.leaves(params)))
  print("2. Forward, read downward; 3. backward, read upward: three units, for the first point")
  for name, (_, y, y_bar) in jax.jit(fb.inspect(NET, LOSS))(params, x, labels).items():
    print(f"   {name:7}  y {y.shape!s:9} {y[0, :3].round(4)!s:26}  y_bar {y_bar[0, :3].round(4)}")
  print(f"4. Against jax.grad, in float64: relative error {worst_error(params, x, labels):.1e}")
  history, costs = train(params, x, labels)
  print(f"5. One step: the cost was {costs[0]:.4f}, and is {costs[1]:.4f}")
  print(f"6. After {len(costs) - 1} steps it is {costs[-1]:.4f}, ", end="")
  print(f"and the gradient's relative error {worst_error(history[-1], x, labels):.1e}")
  for name, (points, arms) in (("the 300 points", (x, labels)), ("300 new ones", draw_spiral(1))):
    right = np.mean(NET.forward(history[-1], points)[0].argmax(1) == arms)
    print(f"   {right:.1%} of {name} are right")
  file.parent.mkdir(parents=True, exist_ok=True)
  draw(history, costs, x, labels, file)
  print(f"7. The picture: {file}")


if __name__ == "__main__":
  main()
