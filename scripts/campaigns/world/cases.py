"""All cases, by the subject of their packages."""

from scripts.campaigns.world import (
  distributions,
  networks,
  optimization,
  physics,
  solvers,
  special_functions,
  transport,
)
from scripts.campaigns.world.rule import Rule

RULES: tuple[Rule, ...] = (
  *special_functions.RULES,
  *optimization.RULES,
  *transport.RULES,
  *distributions.RULES,
  *physics.RULES,
  *networks.RULES,
  *solvers.RULES,
)
