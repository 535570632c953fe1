"""Numbers that others have published, to every digit that they print."""

import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb

pytestmark = pytest.mark.usefixtures("in_float64")
g = fb.gates


def run(gate, *inputs):
  """A gate's value, and its backward rule with the residuals in place."""
  y, residuals = gate.forward(*(jnp.asarray(x, jnp.float64) for x in inputs))
  return y, lambda upstream: gate.backward(residuals, jnp.asarray(upstream, jnp.float64))


def test_sum_times_z():
  """(x + y) z at −2, 5, −4: CS231n, optimization-2."""
  q, q_back = run(g.add, -2, 5)
  f, f_back = run(g.multiply, q, -4)
  q_bar, z_bar = f_back(1)
  assert (f, *q_back(q_bar), z_bar) == (-12, -4, -4, 3)


def test_sigmoid_neuron_gate_by_gate():
  """w = (2, −3, −3), x = (−1, −2): CS231n, optimization-2."""
  p0, p0_back = run(g.multiply, 2, -1)
  p1, p1_back = run(g.multiply, -3, -2)
  s, s_back = run(g.add, p0, p1, -3)
  n, n_back = run(g.negate, s)
  e, e_back = run(g.exp, n)
  d, d_back = run(g.add, e, 1)
  f, f_back = run(g.reciprocal, d)
  (d_bar,) = f_back(1)
  e_bar, _ = d_back(d_bar)
  (n_bar,) = e_back(e_bar)
  (s_bar,) = n_back(n_bar)
  p0_bar, p1_bar, w2_bar = s_back(s_bar)
  (w0_bar, x0_bar), (w1_bar, x1_bar) = p0_back(p0_bar), p1_back(p1_bar)

  wires = (e, e_bar, d, d_bar, n, n_bar)
  assert [f"{v:.2f}" for v in wires] == ["0.37", "-0.53", "1.37", "-0.53", "-1.00", "-0.20"]
  np.testing.assert_allclose(f, 0.7310585786, atol=5e-11, rtol=0)
  np.testing.assert_allclose(
    (w0_bar, x0_bar, w1_bar, x1_bar, w2_bar),
    (-0.1966119332, 0.3932238665, -0.3932238665, -0.5898357997, 0.1966119332),
    atol=5.1e-11,
    rtol=0,
  )
  # The sigmoid as one gate is the same.
  y, back = run(g.sigmoid, s)
  np.testing.assert_allclose((y, *back(1)), (f, s_bar), rtol=1e-15)


def test_max_routes_the_gradient():
  """2 (x y + max(z, w)) at 3, −4, 2, −1: CS231n, optimization-2."""
  p, p_back = run(g.multiply, 3, -4)
  m, m_back = run(g.max, 2, -1)
  s, s_back = run(g.add, p, m)
  f, f_back = run(g.multiply, s, 2)
  p_bar, m_bar = s_back(f_back(1)[0])
  assert (f, *p_back(p_bar), *m_back(m_bar)) == (-20, -8, 6, 2, 0)


def test_contributions_add_at_a_fork():
  """(x + y) max(y, z) at 1, 2, 0, y used twice: CS224n."""
  s, s_back = run(g.add, 1, 2)
  m, m_back = run(g.max, 2, 0)
  f, f_back = run(g.multiply, s, m)
  s_bar, m_bar = f_back(1)
  (x_bar, y_first), (y_second, z_bar) = s_back(s_bar), m_back(m_bar)
  assert (f, x_bar, y_first, y_second, y_first + y_second, z_bar) == (6, 2, 2, 3, 5, 0)


def test_softmax_cross_entropy_gradient():
  """p = (.2, .3, .5), label 1: CS231n, case study."""
  logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
  _, residuals = fb.softmax_cross_entropy.forward(logits, jnp.array([1]))
  outputs_bar = fb.softmax_cross_entropy.backward(residuals, jnp.ones(1))
  np.testing.assert_allclose(outputs_bar, [[0.2, -0.7, 0.5]], rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "loss"), [(10, 2.302585), (3, 1.098612)])
def test_chance_loss(classes, loss):
  losses, _ = fb.softmax_cross_entropy.forward(jnp.zeros((1, classes)), jnp.array([0]))
  np.testing.assert_allclose(losses, loss, atol=5e-7, rtol=0)


class TestMazur:
  """A 2-2-2 sigmoid net, worked by hand, rate 0.5, biases fixed: mattmazur.com, 2015.

  His well-known "error after one round", 0.291027924, uses hidden gradients that were computed
  with output weights already updated. Gradient descent takes all gradients at the old weights.
  """

  net = fb.mlp([2, 2, 2], fb.sigmoid, output_activation=fb.sigmoid, dtype=jnp.float64)
  x, targets = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])

  def params(self):
    w1 = jnp.array([[0.15, 0.25], [0.20, 0.30]])  # He numbers weights neuron by neuron.
    w2 = jnp.array([[0.40, 0.50], [0.45, 0.55]])
    b1, b2 = jnp.full(2, 0.35), jnp.full(2, 0.60)
    return (fb.DenseParams(w1, b1), (), fb.DenseParams(w2, b2), ())

  def gradient(self, params):
    f = fb.value_and_grad(self.net, fb.squared_error, has_outputs=True)
    return f(params, jnp.asarray(self.x), jnp.asarray(self.targets))

  def stepped(self):
    params = self.params()
    _, grads = self.gradient(params)
    return tuple(
      fb.DenseParams(p.w - 0.5 * b.w, p.b) if p else () for p, b in zip(params, grads, strict=True)
    )

  def test_forward_and_output_gradient(self):
    (error, outputs), grads = self.gradient(self.params())
    np.testing.assert_allclose(outputs, [[0.75136507, 0.772928465]], atol=5e-9, rtol=0)
    np.testing.assert_allclose(error, 0.2983711087600027, rtol=1e-15)
    published = [0.0821670406, 0.0826676278, -0.0226025405, -0.0227402422]
    np.testing.assert_allclose(grads[2].w.T.ravel(), published, atol=5.1e-11, rtol=0)

  def test_weights_after_a_step(self):
    params = self.stepped()
    w1 = [0.1497807161, 0.1995614323, 0.2497511436, 0.2995022873]
    w2 = [0.3589164797, 0.4086661861, 0.5113012702, 0.5613701211]
    np.testing.assert_allclose(params[0].w.T.ravel(), w1, atol=5.1e-11, rtol=0)
    np.testing.assert_allclose(params[2].w.T.ravel(), w2, atol=5.1e-11, rtol=0)
    (error, _), _ = self.gradient(params)
    np.testing.assert_allclose(error, 0.29102777369360, atol=5.1e-15, rtol=0)

  def test_the_well_known_error_is_another_rule(self):
    """Hidden gradients through the updated output weights, which `backward` may be given, too."""
    params, stepped = self.params(), self.stepped()
    outputs, residuals = self.net.forward(params, jnp.asarray(self.x))
    grads, _ = self.net.backward((params[0], (), stepped[2], ()), residuals, outputs - self.targets)
    sequential = params[0]._replace(w=params[0].w - 0.5 * grads[0].w)
    (error, _), _ = self.gradient((sequential, (), stepped[2], ()))
    np.testing.assert_allclose(error, 0.291027924, atol=5.1e-10, rtol=0)
