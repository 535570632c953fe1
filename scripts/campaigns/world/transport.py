"""ott-jax."""

from scripts.campaigns.world.rule import Rule, between, normal, positive_definite

OTT = "ott-jax==0.6.0"

RULES = (
  Rule(OTT, "ott.math.utils:norm", (normal(5), 2, None, False)),
  Rule(
    OTT, "ott.math.utils:norm", (normal(3, 4), 2, -1, False), name="ott.math.utils:norm of rows"
  ),
  Rule(OTT, "ott.math.utils:logsumexp", (normal(3, 4), 1, False, None, False)),
  Rule(
    OTT,
    "ott.math.utils:logsumexp",
    (normal(3, 4), 1, False, between(0.5, 1, 3, 4), True),
    name="ott.math.utils:logsumexp with b and sign",
  ),
  Rule(OTT, "ott.math.utils:softmin", (normal(3, 4), 0.5, 1), options={"static": (1,)}),
  Rule(
    OTT,
    "ott.math.utils:softmin",
    (normal(3, 4), between(0.5, 1), 1),
    name="ott.math.utils:softmin by gamma",
    note="The cotangent of gamma is None, which counts as zero, though softmin depends on it.",
    finding="ott_softmin_has_no_gradient_by_its_temperature",
  ),
  Rule(OTT, "ott.math.utils:lambertw", (between(0.1, 4, 5),)),
  Rule(OTT, "ott.math.matrix_square_root:sqrtm", (positive_definite(3),)),
  Rule(OTT, "ott.math.matrix_square_root:sqrtm_only", (positive_definite(3),)),
  Rule(OTT, "ott.math.matrix_square_root:inv_sqrtm_only", (positive_definite(3),)),
)
