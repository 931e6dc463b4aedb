"""How long a trajectory takes that stops by itself, and which are too long to be sampled."""

from fastpg.errors import InvalidArgument
from fastpg.evaluation import evaluate
from fastpg.model import MDP
from fastpg.policy import Policy

# Steps of a trajectory: so many take a second, and 3 GiB.
MOST = 1e8
# Larger models are not solved for the number of steps.
SOLVED = 1000


def require_short(mdp: MDP, policy: Policy) -> None:
    """InvalidArgument where a trajectory of `policy` is expected to take more than MOST steps before it stops.

    The number is the sum of the occupancy; of models above SOLVED states that may end, it is known to be small only
    where the discount makes it so, and left to whoever runs them elsewhere.
    """
    complement = mdp.discount_complement
    if complement * MOST >= 1:
        return
    if mdp.n_states > SOLVED:
        steps = 0.0 if mdp.terminal.any() else 1.0 / complement
    else:
        steps = float(evaluate(mdp, policy).occupancy.sum())
    if steps > MOST:
        raise InvalidArgument(
            f"a trajectory with horizon 'geometric' must take at most {MOST:.0e} steps on average but the sampled "
            f"policy takes {steps:.3g}; give a number of steps"
        )
