"""Distributions."""

from scripts.campaigns.world.rule import Rule, between, normal

NUMPYRO, DISTRAX = "numpyro==0.22.0", "distrax==0.1.9"


def method(name):
  def make(cls):
    return lambda x, alpha, low, high: getattr(cls(alpha, low, high), name)(x)

  return make


POWER = (between(1.2, 3.8, 3), between(-2.5, -1.5), between(0.5, 1), between(4, 6))
RULES = (
  Rule(NUMPYRO, "numpyro.distributions.util:log1mexp", (between(-4, -0.1, 5),)),
  Rule(
    NUMPYRO,
    "numpyro.distributions:DoublyTruncatedPowerLaw",
    POWER,
    make=method("log_prob"),
    name="DoublyTruncatedPowerLaw.log_prob",
    note="By low and high it is the derivative of the density, not of its logarithm, and by high"
    " with the wrong sign.",
    finding="numpyro_power_law_log_prob_has_the_slope_of_the_density",
  ),
  Rule(
    NUMPYRO,
    "numpyro.distributions:DoublyTruncatedPowerLaw",
    POWER,
    make=method("cdf"),
    name="DoublyTruncatedPowerLaw.cdf",
  ),
  Rule(
    NUMPYRO,
    "numpyro.distributions:DoublyTruncatedPowerLaw",
    (between(0.1, 0.9, 3), *POWER[1:]),
    make=method("icdf"),
    name="DoublyTruncatedPowerLaw.icdf",
  ),
  Rule(DISTRAX, "distrax._src.utils.math:multiply_no_nan", (normal(5), normal(5))),
  Rule(DISTRAX, "distrax._src.utils.math:power_no_nan", (between(0.5, 2, 5), normal(5))),
  Rule(
    DISTRAX,
    "distrax._src.distributions.von_mises:_von_mises_cdf",
    (between(-3, 3, 3), between(0.5, 4, 3), "float32"),
  ),
)
