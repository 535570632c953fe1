"""Physics, geometry, harmonics."""

import jax
import jax.numpy as jnp

from scripts.campaigns.world.rule import Rule, between, normal, positive_definite

EXOJAX, MICROJAX, JAXMD, E3X, E3NN, BRAX = (
  "exojax==2.6.0",
  "microjaxx==0.1.1",
  "jax-md==0.2.29",
  "e3x==1.0.2",
  "e3nn-jax==0.21.0",
  "brax==0.14.2",
)


def of_any_length(rotate):
  return lambda q, v: rotate(q / jnp.linalg.norm(q), v)


RULES = (
  Rule(EXOJAX, "exojax.rt.chord:safe_sqrt", (between(0.1, 2, 5),)),
  Rule(
    EXOJAX,
    "exojax.postproc.spin_rotation:rotkernel_Gimenez",
    (between(-0.9, 0.9, 5), between(0, 1), between(0, 1)),
  ),
  Rule(
    EXOJAX,
    "exojax.postproc.spin_rotation:integrated_rotkernel_trans",
    (between(-0.9, 0, 5), between(0, 0.9, 5)),
  ),
  Rule(
    MICROJAX,
    "microjax.inverse_ray.limb_darkening:Is_limb_1st",
    (between(0.1, 0.7, 5), between(0.1, 0.9)),
    note="By u1 the slope of 3 / (π (3 - u1)) has the wrong sign.",
    finding="microjaxx_limb_darkening_slope_by_the_coefficient",
  ),
  Rule(
    MICROJAX,
    "microjax.inverse_ray.boundary:calc_facB",
    (between(0.1, 2, 5), 0.5),
    note="As a comment in the rule says, it is the slope of one of the two branches everywhere.",
  ),
  Rule(
    JAXMD,
    "jax_md.rigid_body:_quaternion_rotate",
    (normal(4), normal(3)),
    make=of_any_length,
    note="Of a quaternion divided by its length: the rule is for unit quaternions.",
  ),
  Rule(
    JAXMD,
    "jax_md.space:transform",
    (positive_definite(3), normal(5, 3)),
    options={"static": (0,), "slope": lambda box, r: r},
    note="Declared: gradients by positions are those of real space.",
  ),
  Rule(
    MICROJAX,
    "microjax.inverse_ray.boundary:step_smooth",
    (normal(5), 100.0),
    options={"static": (1,), "slope": lambda x, fac: jax.nn.sigmoid(fac * x)},
  ),
  Rule(
    MICROJAX,
    "microjax.inverse_ray.boundary:in_source",
    (between(0.5, 1.5, 5), between(0.9, 1.1)),
    options={"slope": lambda distances, rho: jax.nn.sigmoid(100 * (rho - distances) / rho)},
    note="Under differentiation it returns the sigmoid, and otherwise the step.",
    finding="microjaxx_other_values_under_differentiation",
  ),
  Rule(JAXMD, "jax_md.mm_forcefields.reaxff.reaxff_helper:safe_sqrt", (between(0.1, 2, 5),)),
  Rule(
    JAXMD,
    "jax_md._nn.uma.kernels:_segment_mm_2d",
    (normal(6, 3), normal(2, 4, 3), jnp.array([2, 4])),
  ),
  Rule(JAXMD, "jax_md._nn.uma.common.rotation:safe_acos", (between(-0.9, 0.9, 5),)),
  Rule(JAXMD, "jax_md._nn.uma.common.rotation:safe_atan2", (normal(5), normal(5))),
  Rule(E3X, "e3x.ops.safe:norm", (normal(4, 3), -1, False)),
  Rule(
    E3NN,
    "e3nn_jax._src.spherical_harmonics:_custom_jvp_spherical_harmonics",
    ((0, 1, 2), normal(3), "component", ("recursive", "dense", "custom_jvp")),
  ),
  Rule(E3NN, "e3nn_jax._src.utils.einsum:einsum", ("ij,jk->ik", normal(3, 4), normal(4, 2))),
  Rule(BRAX, "brax.math:safe_arccos", (between(-0.9, 0.9, 5),)),
  Rule(BRAX, "brax.math:safe_arcsin", (between(-0.9, 0.9, 5),)),
)
