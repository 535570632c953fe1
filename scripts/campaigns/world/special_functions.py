"""Special functions: what people write a rule for most often."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.campaigns.world.rule import Rule, between

MICROJAX, EXOJAX, JAXBESSEL = "microjaxx==0.1.1", "exojax==2.6.0", "jaxbessel==0.2.0"
GALSIM, TFP, E3X = "jax-galsim==2026.7.0", "tfp-nightly==0.26.0.dev20261027", "e3x==1.0.2"
LENS = "microjax.fastlens.special:"
SPECIAL = "tensorflow_probability.substrates.jax.math.special:"
BESSEL = "tensorflow_probability.substrates.jax.math.bessel:"
GENERIC = "tensorflow_probability.substrates.jax.math.generic:"


def voigt(x: Any, a: Any) -> Any:
  """The function that `hjert` approximates to 1e-8, by JAX's own Faddeeva function."""
  return jnp.real(jax.scipy.special.wofz(jax.lax.complex(*jnp.broadcast_arrays(x, a))))


def owens_t(h: Any, a: Any) -> Any:
  """Owen's T by 64 points of a Gauss rule, which the package approximates to 1e-10."""
  nodes, weights = np.polynomial.legendre.leggauss(64)
  x = jnp.asarray((nodes + 1) / 2, h.dtype) * a[..., None]
  values = jnp.exp(-(h[..., None] ** 2) * (1 + x**2) / 2) / (1 + x**2)
  return a / 2 * jnp.sum(jnp.asarray(weights, h.dtype) * values, -1) / (2 * np.pi)


RULES = (
  Rule(MICROJAX, LENS + "ellipk_", (between(0.05, 0.9),), x64=True),
  Rule(MICROJAX, LENS + "ellipe_", (between(0.05, 0.9),), x64=True),
  Rule(MICROJAX, LENS + "gamma_", (between(0.3, 6, 5),),
       note="For a real argument the rule's tangent is complex: `jax.jvp` alone raises the same."),
  Rule(MICROJAX, LENS + "j0_", (between(0.3, 9, 5),)),
  Rule(MICROJAX, LENS + "j1_", (between(0.3, 9, 5),)),
  Rule(EXOJAX, "exojax.special.faddeeva:rewofzx", (between(-3, 3), between(0.1, 2)),
       note="By y the rule has a term that isn't multiplied by the cotangent.",
       finding="exojax_gradient_that_the_cotangent_does_not_scale"),
  Rule(EXOJAX, "exojax.opacity.lpf.lpf:hjert", (between(-3, 3), between(0.1, 2)),
       options={"slope": voigt},
       note="Held against the Voigt function itself, which hjert approximates to 1e-8."),
  Rule(JAXBESSEL, "jaxbessel.bessel:j0", (between(0.3, 9, 5),)),
  Rule(JAXBESSEL, "jaxbessel.bessel:j1", (between(0.3, 9, 5),)),
  Rule(JAXBESSEL, "jaxbessel.bessel:_bessel_jn", (4, between(0.3, 9, 5))),
  Rule(JAXBESSEL, "jaxbessel.spherical:_spherical_bessel_jn", (3, between(0.3, 9, 5))),
  Rule(JAXBESSEL, "jaxbessel.fractional:_bessel_jv_over_xv", (0.5, between(0.3, 9, 5))),
  Rule(GALSIM, "jax_galsim.bessel:kv", (1.5, between(0.5, 4, 3)), options={"static": (0,)}),
  Rule(TFP, GENERIC + "log_cosh", (between(-4, 4, 5),)),
  Rule(TFP, GENERIC + "log1mexp", (between(0.1, 4, 5),)),
  Rule(TFP, GENERIC + "sqrt1pm1", (between(-0.5, 4, 5),)),
  Rule(TFP, GENERIC + "log_sub_exp", (between(1, 4, 5), between(-2, 0.5, 5))),
  Rule(TFP, SPECIAL + "dawsn", (between(-3, 3, 5),)),
  Rule(TFP, SPECIAL + "erfcx", (between(-1, 4, 5),)),
  Rule(TFP, SPECIAL + "erfcinv", (between(0.1, 1.8, 5),)),
  Rule(TFP, SPECIAL + "lambertw", (between(0.1, 4, 5),)),
  Rule(TFP, SPECIAL + "lambertw", (between(-0.3, 0.3, 5),), name=SPECIAL + "lambertw near 0"),
  Rule(TFP, SPECIAL + "lbeta", (between(0.5, 4, 5), between(0.5, 4, 5))),
  Rule(TFP, SPECIAL + "log_gamma_difference", (between(0.5, 4, 5), between(8, 30, 5))),
  Rule(TFP, SPECIAL + "igammainv", (between(0.5, 4, 3), between(0.1, 0.9, 3))),
  Rule(TFP, SPECIAL + "igammacinv", (between(0.5, 4, 3), between(0.1, 0.9, 3))),
  Rule(TFP, SPECIAL + "betainc",
       (between(0.5, 4, 3), between(0.5, 4, 3), between(0.1, 0.9, 3))),
  Rule(TFP, SPECIAL + "betaincinv",
       (between(0.5, 4, 3), between(0.5, 4, 3), between(0.1, 0.9, 3))),
  Rule(TFP, SPECIAL + "owens_t", (between(0.2, 3, 5), between(0.2, 3, 5)),
       options={"slope": owens_t},
       note="Held against a quadrature: the function itself is off by 1e-10, its slope by 1e-5."),
  Rule(TFP, SPECIAL + "atan_difference", (between(-2, 2, 3), between(-2, 2, 3))),
  Rule(TFP, BESSEL + "bessel_iv_ratio", (1.5, between(0.5, 3, 3)), options={"static": (0,)}),
  Rule(TFP, BESSEL + "bessel_ive", (1.5, between(0.5, 4, 3)), options={"static": (0,)}),
  Rule(TFP, BESSEL + "bessel_kve", (1.5, between(0.5, 4, 3)), options={"static": (0,)}),
  Rule(TFP, BESSEL + "log_bessel_ive", (1.5, between(0.5, 4, 3)), options={"static": (0,)}),
  Rule(TFP, BESSEL + "log_bessel_kve", (1.5, between(0.5, 4, 3)), options={"static": (0,)}),
  Rule(TFP, "tensorflow_probability.substrates.jax.math.hypergeometric:hyp2f1_small_argument",
       (0.5, 1.25, 2.5, between(-0.6, 0.6, 3)), options={"static": (0, 1, 2)},
       note="With scalar parameters and several z `jax.grad` alone raises the same; with parameters"
       " of z's shape the gradient is right.",
       finding="tfp_hyp2f1_gradient_needs_parameters_of_the_shape_of_z"),
  Rule(TFP, "tensorflow_probability.substrates.jax.math.psd_kernels.internal.util"
       ":sqrt_with_finite_grads", (between(0.1, 4, 5),)),
  Rule(E3X, "e3x.nn.functions.switch:smooth_switch", (between(-0.3, 1.3, 5), 0.0, 1.0)),
  Rule(E3X, "e3x.nn.functions.bernstein:_bernstein", (between(0.1, 0.9, 3), 4)),
)  # fmt: skip
