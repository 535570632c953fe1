"""Backpropagation by loops alone: one example, one neuron, one weight at a time.

This is the plainest explanation of the package's computation, and an independent witness of it:
NumPy float64 and Python's `math`, no jax, no matrix product, no code shared with `fbackprop`. It is
slow, and it is meant to be read from top to bottom.

A network is a list of layers. A layer is `(w, b, name)`: weights `w[i][j]` from input i to neuron
j, a bias `b[j]` (or None for a layer without biases), and the name of its activation function.
"""

import math

import numpy as np

from tests.support.oracle_losses import LOSSES

# --- One neuron: z = Σ_i x_i w_ij + b_j, then h = f(z) --------------------------------------------


def relu(z):
  return z if z > 0 else 0.0


def relu_slope(z):
  return 1.0 if z > 0 else 0.0  # At z = 0 there is no derivative; the choice is 0.


def sigmoid(z):
  # e^-z overflows for very negative z, where e^z is harmless.
  return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def sigmoid_slope(z):
  return sigmoid(z) * sigmoid(-z)


def tanh_slope(z):
  return 1 / math.cosh(z) ** 2 if abs(z) < 300 else 0.0


def gelu(z):
  return z * 0.5 * math.erfc(-z / math.sqrt(2))


def gelu_slope(z):
  below = 0.5 * math.erfc(-z / math.sqrt(2))  # Φ(z): the normal distribution function.
  return below + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def silu(z):
  return z * sigmoid(z)


def silu_slope(z):
  return sigmoid(z) + z * sigmoid_slope(z)


def identity(z):
  return z


def identity_slope(z):
  return 1.0


ACTIVATIONS = {
  "relu": (relu, relu_slope),
  "sigmoid": (sigmoid, sigmoid_slope),
  "tanh": (math.tanh, tanh_slope),
  "gelu": (gelu, gelu_slope),
  "silu": (silu, silu_slope),
  "identity": (identity, identity_slope),
}


# --- One example: forward through the layers, then backward ---------------------------------------


def forward(net, x):
  """Propagate one example forward through the network, and record the inputs of every neuron.

  Returns:
    `(y, seen)`: the outputs, and for each layer `(inputs, zs)`: the inputs, and each neuron's
    pre-activation.
  """
  h = np.asarray(x, np.float64)
  seen = []
  for w, b, name in net:
    function, _ = ACTIVATIONS[name]
    zs = np.zeros(w.shape[1])
    for j in range(w.shape[1]):
      for i in range(w.shape[0]):
        zs[j] += h[i] * w[i, j]
      if b is not None:
        zs[j] += b[j]
    seen.append((h, zs))
    h = np.array([function(z) for z in zs])
  return h, seen


def backward(net, seen, y_bar):
  """Propagate ∂J/∂y of one example backward.

  A neuron's cotangent is `z_bar = h_bar · f'(z)`. Its weight i gets `x_i · z_bar`, since it
  multiplied x_i; its bias gets `z_bar`; and input i gets `w_ij · z_bar` from every neuron j that it
  feeds, whose sum is the `h_bar` of the preceding layer.

  Returns:
    `(grads, x_bar)`: `(w_bar, b_bar)` for each layer, and the gradient by the input.
  """
  h_bar = np.asarray(y_bar, np.float64)
  grads = []
  for (w, b, name), (inputs, zs) in zip(reversed(net), reversed(seen), strict=True):
    _, slope = ACTIVATIONS[name]
    w_bar = np.zeros(w.shape)
    b_bar = None if b is None else np.zeros(w.shape[1])
    inputs_bar = np.zeros(w.shape[0])
    for j in range(w.shape[1]):
      z_bar = h_bar[j] * slope(zs[j])
      for i in range(w.shape[0]):
        w_bar[i, j] = inputs[i] * z_bar
        inputs_bar[i] += w[i, j] * z_bar
      if b is not None:
        b_bar[j] = z_bar
    grads.append((w_bar, b_bar))
    h_bar = inputs_bar
  return list(reversed(grads)), h_bar


# --- A batch: the mean of the examples ------------------------------------------------------------


def value_and_grad(net, loss, xs, targets, weights=None):
  """Compute J = Σ_n r_n loss_n with r_n = 1/N, or weight_n / Σ weights, and its gradient.

  Returns:
    `(J, grads, x_bar)`: grads a list of `(w_bar, b_bar)`, x_bar `[N, D_in]`.
  """
  xs = np.asarray(xs, np.float64)
  weights = np.ones(len(xs)) if weights is None else np.asarray(weights, np.float64)
  total = sum(weights)
  mean = 0.0
  grads = [(np.zeros(w.shape), None if b is None else np.zeros(b.shape)) for w, b, _ in net]
  x_bar = np.zeros(xs.shape)
  for n in range(len(xs)):
    share = weights[n] / total if total > 0 else 0.0
    y, seen = forward(net, xs[n])
    loss_n, y_bar = LOSSES[loss](y, targets[n])
    grads_n, x_bar[n] = backward(net, seen, share * y_bar)
    mean += share * loss_n
    for (w_bar, b_bar), (w_bar_n, b_bar_n) in zip(grads, grads_n, strict=True):
      w_bar += w_bar_n
      if b_bar is not None:
        b_bar += b_bar_n
  return mean, grads, x_bar


def descend(net, grads, rate):
  """Take one step of gradient descent: move every weight against its own gradient."""
  stepped = []
  for (w, b, name), (w_bar, b_bar) in zip(net, grads, strict=True):
    stepped.append((w - rate * w_bar, None if b is None else b - rate * b_bar, name))
  return stepped
