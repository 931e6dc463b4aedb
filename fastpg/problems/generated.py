"""Random models: the same seed gives the same model."""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.rng import RNG, generator
from fastpg.validation import positive_integer


def random_mdp(n_states: int, n_actions: int, *, rng: RNG, discount: float = 0.9) -> MDP:
    """A model that can go anywhere in one step, with rewards r(s,a) uniform in [0, 1].

    Each law of the next state is uniform on the simplex, Dirichlet(1, ..., 1). The laws are drawn first, then the
    rewards. The start is uniform.

    >>> random_mdp(3, 2, rng=0)
    MDP(3 states, 2 actions, discount 0.9, dense)
    """
    S, A = positive_integer("n_states", n_states), positive_integer("n_actions", n_actions)
    random = generator(rng)
    return MDP(random.dirichlet(np.ones(S), size=(S, A)), random.random((S, A)), discount)


def garnet(
    n_states: int, n_actions: int, n_successors: int, *, rng: RNG, sparse: bool = False, discount: float = 0.9
) -> MDP:
    """A GARNET problem (generic average reward non-stationary environment test-bed), the stationary kind.

    Each action of each state has `n_successors` distinct next states, uniform among all sets of that size; their
    probabilities are the lengths into which n_successors - 1 uniform points cut [0, 1]; rewards r(s,a) are standard
    normal. The start is uniform. Drawn in that order; `sparse` says only how the model is stored, and with it no
    (S, A, S) array is ever made.

    Source: Archibald, McKinnon & Thomas (1995), "On the generation of Markov decision processes"; in this form, but
    with the mean of the reward alone, Bhatnagar et al. (2009), "Natural actor-critic algorithms".

    >>> garnet(1000, 4, 5, rng=0, sparse=True)
    MDP(1000 states, 4 actions, discount 0.9, sparse with 20000 transitions)
    """
    S, A = positive_integer("n_states", n_states), positive_integer("n_actions", n_actions)
    b = positive_integer("n_successors", n_successors)
    if b > S:
        raise InvalidArgument(f"n_successors must be at most n_states = {S} but is {b}")
    random = generator(rng)
    successors = _subsets(S, b, S * A, random)
    probabilities = random.dirichlet(np.ones(b), size=S * A)
    reward = random.standard_normal((S, A))
    if sparse:
        starts = np.arange(0, S * A * b + 1, b)
        return MDP(csr_array((probabilities.ravel(), successors.ravel(), starts), shape=(S * A, S)), reward, discount)
    transition = np.zeros((S * A, S))
    np.put_along_axis(transition, successors, probabilities, axis=1)
    return MDP(transition.reshape(S, A, S), reward, discount)


def _subsets(n: int, size: int, count: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """`count` rows of `size` distinct numbers below `n`, each set equally likely (Floyd's algorithm)."""
    chosen = np.empty((count, size), np.intp)
    for column, last in enumerate(range(n - size, n)):
        drawn = random.integers(0, last, size=count, endpoint=True)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    return chosen
