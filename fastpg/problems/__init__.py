"""Named Markov decision processes, each with its source and its known answers."""

from fastpg.problems.bandits import bandit
from fastpg.problems.catalogue import CATALOGUE, Problem, find
from fastpg.problems.chains import (
    chain,
    river_swim,
    short_corridor,
    short_corridor_policy,
    two_state,
    vanishing_gradient_chain,
    vanishing_gradient_policy,
)
from fastpg.problems.generated import garnet, random_mdp
from fastpg.problems.gridworlds import FROZEN_LAKE_4X4, FROZEN_LAKE_8X8, Grid, cliff_walking, frozen_lake

__all__ = [
    "CATALOGUE",
    "FROZEN_LAKE_4X4",
    "FROZEN_LAKE_8X8",
    "Grid",
    "Problem",
    "bandit",
    "chain",
    "cliff_walking",
    "find",
    "frozen_lake",
    "garnet",
    "random_mdp",
    "river_swim",
    "short_corridor",
    "short_corridor_policy",
    "two_state",
    "vanishing_gradient_chain",
    "vanishing_gradient_policy",
]
