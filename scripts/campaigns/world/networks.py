"""Networks: spiking surrogates, attention, mixed precision, clipped gradients."""

import jax
import jax.numpy as jnp

from scripts.campaigns.world.rule import Draw, Rule, between, normal

FLAX, RLAX, SPYX = "flax==0.12.8", "rlax==0.1.9", "spyx==1.0.0"
FLASH, HAIKU, NETKET, JAX = (
  "flash-attention-jax==0.3.1",
  "dm-haiku==0.0.17",
  "netket==3.23.0",
  "jax==0.10.2",
)
TOKAMAX = "tokamax==0.0.12"
FP8 = "flax.linen.fp8_ops:"
NN = "jax.nn:"
SCIPY = "jax.scipy.special:"

spikes = Draw((4, 9), of=lambda rng, shape: rng.integers(0, 2, shape))


def attention(q, k, v, mask=None, scale=None):
  """Attention without an epsilon."""
  scores = jnp.einsum("bhid,bhjd->bhij", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype))
  causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  seen = causal if mask is None else mask[:, None, None, :]
  return jnp.einsum("bhij,bhjd->bhid", jax.nn.softmax(jnp.where(seen, scores, -1e10), -1), v)


RULES = (
  Rule(
    FLAX, FP8 + "dot_general_with_precision", (normal(3, 4), normal(4, 2), (((1,), (0,)), ((), ())))
  ),
  Rule(
    FLAX,
    FP8 + "out_dq",
    (jnp.float32, between(0.5, 2, 1), between(0.5, 2, 1), normal(3, 4)),
    options={"static": (1, 2), "slope": lambda *args: args[3]},
    note="The scales are meant to be left out: the gradient is that of the caller's own product.",
  ),
  Rule(
    FLAX,
    FP8 + "in_qdq",
    (jnp.float32, jnp.float8_e4m3fn, normal(3, 4), between(0.5, 2, 1), between(1, 2, 16)),
    options={"static": (3, 4), "slope": lambda *a: a[2]},
  ),
  Rule(
    RLAX,
    "rlax._src.clipping:clip_gradient",
    (normal(5), -1.0, 1.0),
    options={"static": (1, 2), "linear": False},
  ),
  Rule(
    SPYX,
    "spyx.axn:superspike",
    (normal(5),),
    make=lambda make: make(),
    options={"slope": lambda x: x / (1 + 25 * jnp.abs(x))},
  ),
  Rule(SPYX, "spyx.axn:tanh", (normal(5),), make=lambda make: make(), options={"slope": jnp.tanh}),
  Rule(
    SPYX,
    "spyx.axn:arctan",
    (normal(5),),
    make=lambda make: make(2.0),
    options={"slope": lambda x: jnp.arctan(2 * jnp.pi * x) / (2 * jnp.pi**2)},
  ),
  Rule(
    SPYX,
    "spyx.axn:triangular",
    (normal(5),),
    make=lambda make: make(2.0),
    options={
      "slope": lambda x: jnp.where(jnp.abs(x) < 0.5, x - x * jnp.abs(x), jnp.sign(x) * 0.25)
    },
  ),
  Rule(SPYX, "spyx.experimental.compress:packed_spike_dense", (spikes, normal(9, 3))),
  Rule(
    FLASH,
    "flash_attention_jax.flash_attention:flash_attention",
    (normal(1, 2, 4, 3), normal(1, 2, 4, 3), normal(1, 2, 4, 3), jnp.ones((1, 4), bool)),
    options={"slope": attention},
    note="Held against attention without the epsilon of 1e-10 that the forward pass adds.",
  ),
  Rule(
    FLASH,
    "flash_attention_jax.causal_flash_attention:causal_flash_attention",
    (normal(1, 2, 4, 3), normal(1, 2, 4, 3), normal(1, 2, 4, 3)),
    options={"slope": attention},
    note="Held against attention without the epsilon of 1e-10 that the forward pass adds.",
  ),
  Rule(
    FLASH,
    "flash_attention_jax.cosine_sim_flash_attention:cosine_sim_flash_attention_after_l2norm",
    (normal(4, 3), normal(4, 3), normal(4, 3), jnp.ones(4, bool)),
  ),
  Rule(JAX, NN + "relu", (normal(5),)),
  Rule(JAX, NN + "relu6", (normal(5),)),
  Rule(JAX, NN + "silu", (normal(5),)),
  Rule(JAX, NN + "gelu", (normal(5),)),
  Rule(JAX, NN + "softplus", (normal(5),)),
  Rule(JAX, NN + "log_softmax", (normal(3, 4),)),
  Rule(JAX, NN + "softmax", (normal(3, 4),)),
  Rule(JAX, NN + "log1mexp", (between(0.1, 3, 5),)),
  Rule(JAX, "jax.numpy:sinc", (normal(5),)),
  Rule(JAX, "jax.numpy:logaddexp", (normal(5), normal(5))),
  Rule(JAX, "jax.numpy:logaddexp2", (normal(5), normal(5))),
  Rule(JAX, "jax.numpy.linalg:det", (normal(3, 3),)),
  Rule(JAX, "jax.numpy.linalg:slogdet", (normal(3, 3),)),
  Rule(JAX, SCIPY + "xlogy", (between(0.1, 2, 5), between(0.1, 2, 5))),
  Rule(JAX, SCIPY + "xlog1py", (between(0.1, 2, 5), between(0.1, 2, 5))),
  Rule(JAX, SCIPY + "ndtri", (between(0.1, 0.9, 5),)),
  Rule(JAX, SCIPY + "log_ndtr", (normal(5),)),
  Rule(
    JAX,
    SCIPY + "spence",
    (between(0.2, 3, 5),),
    note="NaN between 1 and 2, of autodiff too, where the slope is log(x) / (1 - x).",
    finding="jax_spence_gradient_is_nan_between_one_and_two",
  ),
  Rule(JAX, SCIPY + "exp1", (between(0.2, 3, 5),)),
  Rule(JAX, SCIPY + "expi", (between(0.2, 3, 5),)),
  Rule(JAX, SCIPY + "entr", (between(0.2, 3, 5),)),
  Rule(JAX, SCIPY + "kl_div", (between(0.2, 3, 5), between(0.2, 3, 5))),
  Rule(JAX, SCIPY + "hyp1f1", (0.7, 1.9, between(0.2, 2, 3)), options={"static": (0, 1)}),
)
