"""The problems that have a name. Adding one is one function elsewhere and one row here."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.problems.bandits import bandit
from fastpg.problems.chains import chain, river_swim, short_corridor, two_state, vanishing_gradient_chain
from fastpg.problems.generated import garnet, random_mdp
from fastpg.problems.gridworlds import CLIFF_WALKING_MOVES, FROZEN_LAKE_MOVES, Grid, cliff_walking, frozen_lake


@dataclass(frozen=True)
class Problem:
    """A named problem: `make()` builds its model, `make(discount=...)` under another discount.

    `grid` says how to draw the states as cells, where they are cells.
    """

    name: str
    summary: str
    make: Callable[..., MDP]
    grid: Grid | None = None


_LAKE_4, _LAKE_8 = Grid(4, 4, FROZEN_LAKE_MOVES), Grid(8, 8, FROZEN_LAKE_MOVES)
_CLIFF = Grid(4, 12, CLIFF_WALKING_MOVES)

_ROWS = (
    Problem("frozen-lake-4x4", "cross a slippery lake with holes (gymnasium)", frozen_lake, _LAKE_4),
    Problem("frozen-lake-8x8", "the same on 64 cells", partial(frozen_lake, "8x8"), _LAKE_8),
    Problem(
        "frozen-lake-4x4-deterministic", "the same without slipping", partial(frozen_lake, slippery=False), _LAKE_4
    ),
    Problem(
        "frozen-lake-8x8-deterministic",
        "64 cells without slipping",
        partial(frozen_lake, "8x8", slippery=False),
        _LAKE_8,
    ),
    Problem("cliff-walking", "walk along a cliff (Sutton & Barto, Example 6.6)", cliff_walking, _CLIFF),
    Problem("cliff-walking-slippery", "the same, slipping", partial(cliff_walking, slippery=True), _CLIFF),
    Problem("chain", "five states, a far large and a near small reward (Strens 2000)", chain),
    Problem("two-state", "stay or switch, values in closed form", two_state),
    Problem("bandit", "three arms with means 1, .9, .1 (Mei et al. 2020)", partial(bandit, (1.0, 0.9, 0.1))),
    Problem(
        "river-swim-strehl-2008", "swim against a current, rewards 5 and 10000", partial(river_swim, "strehl-2008")
    ),
    Problem("river-swim-osband-2013", "swim against a current, rewards .005 and 1", partial(river_swim, "osband-2013")),
    Problem(
        "vanishing-gradient-8",
        "a chain whose gradient vanishes with its length (Agarwal et al. 2021)",
        partial(vanishing_gradient_chain, 8),
    ),
    Problem("short-corridor", "switched actions (Sutton & Barto, Example 13.1)", short_corridor),
    Problem("random", "10 states, 4 actions, dense random laws, seed 0", partial(random_mdp, 10, 4, rng=0)),
    Problem("garnet", "100 states, 4 actions, 5 successors each, seed 0", partial(garnet, 100, 4, 5, rng=0)),
)

CATALOGUE: dict[str, Problem] = {problem.name: problem for problem in _ROWS}


def find(name: str) -> Problem:
    """The problem of that name, else InvalidArgument with the nearest one.

    >>> find("cliff-walking").make(discount=0.9)
    MDP(48 states, 4 actions, discount 0.9, dense, 1 terminal)
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"name must be that of a problem, such as 'chain', but is {name!r}")
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = get_close_matches(name, CATALOGUE, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidArgument(f"no problem is named {name!r}; {guess}'fastpg problems' lists all")
