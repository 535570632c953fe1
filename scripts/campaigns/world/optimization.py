"""Projections, solvers and losses of optimization."""

from scripts.campaigns.world.rule import Rule, between, normal, positive_definite

OPTAX, JAXOPT, NNLS = "optax==0.2.8", "jaxopt==0.8.5", "jaxnnls==1.0.1"
OPTIMISTIX = "optimistix==0.1.0"

RULES = (
  Rule(OPTAX, "optax.projections._projections:_projection_unit_simplex", (normal(6),)),
  Rule(OPTAX, "optax:projections.projection_simplex", (normal(6), between(0.5, 2))),
  Rule(OPTAX, "optax.projections:projection_l1_ball", (normal(6), between(0.5, 2))),
  Rule(OPTAX, "optax.projections:projection_l2_ball", (normal(6), between(0.5, 2))),
  Rule(
    OPTAX, "optax.losses._classification:weighted_logsoftmax", (normal(3, 4), between(0.1, 1, 3, 4))
  ),
  Rule(OPTAX, "optax.losses:safe_softmax_cross_entropy", (normal(3, 4), between(0.1, 1, 3, 4))),
  Rule(
    OPTAX,
    "optax._src.utils:_scale_gradient",
    (normal(5), 0.5),
    options={"static": (1,), "slope": lambda x, scale: x * scale},
  ),
  Rule(OPTAX, "optax.losses:sparsemax_loss", (normal(5), between(0, 1, 5))),
  Rule(JAXOPT, "jaxopt._src.projection:_projection_unit_simplex", (normal(6),)),
  Rule(JAXOPT, "jaxopt._src.projection:_projection_unit_sparse_simplex", (normal(6), 3, False)),
  Rule(
    NNLS,
    "jaxnnls.diff_qp:solve_nnls_primal",
    (positive_definite(3), between(0.5, 2, 3), 1e-12),
    options={"static": (2,)},
    x64=True,
    note="By Q it is the symmetric part of the slope: right where Q moves as a symmetric matrix.",
  ),
)
