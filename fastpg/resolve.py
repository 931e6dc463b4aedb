"""What the arguments of the command line stand for: a model and how to draw it, a policy."""

import re
import warnings
from typing import NamedTuple

from fastpg.errors import InvalidArgument
from fastpg.formats import from_gymnasium
from fastpg.model import MDP
from fastpg.policy import Policy, SoftmaxPolicy
from fastpg.problems import Grid, find
from fastpg.problems.gridworlds import CLIFF_WALKING_MOVES, FROZEN_LAKE_MOVES
from fastpg.rng import RNG

GYMNASIUM = "gymnasium:"

_MOVES = {"FrozenLakeEnv": FROZEN_LAKE_MOVES, "CliffWalkingEnv": CLIFF_WALKING_MOVES}


class Subject(NamedTuple):
    """A model under the name that it was asked for; `grid` says how to draw its states, where they are cells."""

    name: str
    mdp: MDP
    grid: Grid | None


def subject(name: str, discount: float | None = None) -> Subject:
    """The problem of the catalogue, or of gymnasium for ``gymnasium:ID``; under another discount if one is given.

    Raises InvalidArgument with the nearest name where there is none of that name.

    >>> subject("cliff-walking", 0.5).mdp
    MDP(48 states, 4 actions, discount 0.5, dense, 1 terminal)
    """
    if name.startswith(GYMNASIUM):
        env_id = name.removeprefix(GYMNASIUM)
        mdp = from_gymnasium(env_id) if discount is None else from_gymnasium(env_id, discount)
        return Subject(name, mdp, _gymnasium_grid(env_id, mdp))
    try:
        problem = find(name)
    except InvalidArgument as error:
        if re.search(r"-v\d+$", name):
            raise InvalidArgument(f"{error}; an environment of gymnasium is written {GYMNASIUM + name!r}") from None
        raise
    mdp = problem.make() if discount is None else problem.make(discount=discount)
    return Subject(name, mdp, problem.grid)


def policy_named(name: str, mdp: MDP, rng: RNG) -> Policy:
    """The policy "uniform", or the "random" one that `rng` draws."""
    if name == "uniform":
        return SoftmaxPolicy.uniform(mdp)
    if name == "random":
        return SoftmaxPolicy.random(mdp, rng=rng)
    raise InvalidArgument(f"policy must be 'uniform' or 'random' but is {name!r}")


def _gymnasium_grid(env_id: str, mdp: MDP) -> Grid | None:
    """The cells of FrozenLake and CliffWalking; None for any other environment."""
    import gymnasium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What there is to say was said when the model was read.
        env = gymnasium.make(env_id)
    world = env.unwrapped
    env.close()
    moves = _MOVES.get(type(world).__name__)
    rows, columns = getattr(world, "shape", None) or (getattr(world, "nrow", 0), getattr(world, "ncol", 0))
    return Grid(int(rows), int(columns), moves) if moves and rows * columns == mdp.n_states else None
