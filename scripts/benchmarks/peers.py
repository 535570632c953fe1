"""The names of the checkers that are compared; nothing is imported before one of them runs."""

PEERS = {
  "ours-quick": "fbackprop verify, quick",
  "ours-standard": "fbackprop verify, standard",
  "jax-float32": "jax check_grads, float32, order 1",
  "jax-float32-2": "jax check_grads, float32, order 2",
  "jax-float64": "jax check_grads, float64, order 1",
  "jax-float64-2": "jax check_grads, float64, order 2",
  "chex": "chex assert_numerical_grads, order 1",
  "direct": "jax.grad, rtol 1e-5, atol 0",
  "direct-atol": "jax.grad, rtol 1e-5, atol 1e-8",
  "torch-slow": "torch gradcheck",
  "torch-fast": "torch gradcheck, fast_mode",
  "autograd": "autograd check_grads",
  "autograd-all": "autograd check_grads, all arguments",
}
