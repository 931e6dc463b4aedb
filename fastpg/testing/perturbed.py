"""Oracles of estimators that perturb the logits: all directions, all trajectories, all cells of random words."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from fastpg.model import MDP
from fastpg.policy import SoftmaxPolicy
from fastpg.sampling import EvolutionStrategy, FiniteDifference, directions
from fastpg.testing.models import dense_reward, dense_transition
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.validation import FloatArray

# One of each kind that has exact moments, of the size of its perturbation.
PERTURBATIONS: dict[str, Callable[[float], FiniteDifference | EvolutionStrategy]] = {
    "difference": FiniteDifference,
    "common difference": lambda h: FiniteDifference(h, common=True),
    "signs": lambda h: EvolutionStrategy(h, directions.Rademacher()),
    "common signs": lambda h: EvolutionStrategy(h, directions.Rademacher(), common=True),
    "one-sided signs": lambda h: EvolutionStrategy(h, directions.Rademacher(), antithetic=False),
    "coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate()),
    "common coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate(), common=True),
    "one-sided coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate(), antithetic=False),
}


def free_logits(mdp: MDP, policy: SoftmaxPolicy) -> npt.NDArray[np.intp]:
    """Entries of actions that are taken, in states that a path from the start leads to and with another such action."""
    P, pi = dense_transition(mdp), policy.probabilities
    seen = (mdp.start > 0) & ~mdp.terminal
    for _ in range(mdp.n_states):
        seen = seen | ((seen[:, None, None] & (pi[:, :, None] * P > 0)).any(axis=(0, 1)) & ~mdp.terminal)
    taken = pi > 0
    return np.argwhere(taken & (taken.sum(axis=1) > 1)[:, None] & seen[:, None])


def moved(policy: SoftmaxPolicy, change: FloatArray) -> SoftmaxPolicy:
    """The policy with other logits."""
    return SoftmaxPolicy(policy.logits + change)


def returns_of(mdp: MDP, policy: SoftmaxPolicy, horizon: int) -> tuple[FloatArray, FloatArray]:
    """Probabilities and returns of all trajectories."""
    paths = list(enumerate_trajectories(mdp, policy, horizon))
    return np.array([x.probability for x in paths]), np.array([x.discounted_return(mdp.discount) for x in paths])


def cells(*laws: FloatArray) -> Iterator[tuple[float, float]]:
    """Where each interval of (0, 1) on which all distribution functions are constant has its middle, and its length."""
    ends = np.unique(np.clip(np.concatenate([[0.0, 1.0], *(np.cumsum(law) for law in laws)]), 0.0, 1.0))
    yield from zip((ends[1:] + ends[:-1]) / 2, np.diff(ends), strict=True)


def drawn(law: FloatArray, u: float) -> int:
    """What the number u draws by inverse distribution function."""
    support = np.flatnonzero(law)
    place = int(np.searchsorted(np.cumsum(law[support]), u, side="right"))
    return int(support[min(place, support.size - 1)])


def coupled_returns(
    mdp: MDP, above: SoftmaxPolicy, below: SoftmaxPolicy, horizon: int
) -> Iterator[tuple[float, float]]:
    """Probabilities and differences of returns of two episodes with the same random words, from all cells of words."""
    P, R = dense_transition(mdp), dense_reward(mdp)

    def rest(pair: tuple[int, int], left: int) -> Iterator[tuple[float, float]]:
        """(probability, difference) of what follows from the pair of states."""
        live = [x for x in range(2) if left > 0 and not mdp.terminal[pair[x]]]
        if not live:
            yield 1.0, 0.0
            return
        policies = {x: (above, below)[x].probabilities[pair[x]] for x in live}
        for u, chance in cells(*policies.values()):
            action = {x: drawn(policies[x], u) for x in live}
            rows = {x: P[pair[x], action[x]] for x in live}
            for v, share in cells(*rows.values()):
                ahead = {x: drawn(rows[x], v) for x in live}
                gain = sum((1.0, -1.0)[x] * R[pair[x], action[x], ahead[x]] for x in live)
                following = ahead.get(0, pair[0]), ahead.get(1, pair[1])
                for probability, difference in rest(following, left - 1):
                    yield chance * share * probability, gain + mdp.discount * difference

    for s in np.flatnonzero(mdp.start).tolist():
        for probability, difference in rest((s, s), horizon):
            yield float(mdp.start[s]) * probability, difference


def enumerated_moments(
    x: FiniteDifference | EvolutionStrategy, mdp: MDP, policy: SoftmaxPolicy, horizon: int
) -> tuple[FloatArray, FloatArray]:
    """E X (S, A) and its covariance (S, A, S, A): all directions, all pairs of trajectories, or of common words."""
    entries = free_logits(mdp, policy)
    F, (S, A) = len(entries), policy.probabilities.shape
    scale = x.step if isinstance(x, FiniteDifference) else x.scale
    units = list(np.eye(F))
    law = type(x.directions).__name__ if isinstance(x, EvolutionStrategy) else "each in turn"
    second = 1.0
    if law == "Rademacher":
        laws = [(0.5**F, np.array(signs)) for signs in product((-1.0, 1.0), repeat=F)]
    else:
        laws = [(1.0 if law == "each in turn" else 1.0 / F, unit) for unit in units]
        second = 1.0 / F if law == "Coordinate" and F else 1.0
        if law == "Coordinate":
            laws = [(p / 2, sign * u) for p, u in laws for sign in (1.0, -1.0)]
    mean, raw, covariance = np.zeros(S * A), np.zeros((S * A, S * A)), np.zeros((S * A, S * A))
    for weight, u in laws:
        direction = np.zeros((S, A))
        direction[tuple(entries.T)] = u
        above, below = moved(policy, scale * direction), moved(policy, -scale * direction)
        p, gain = returns_of(mdp, above, horizon)
        if getattr(x, "antithetic", True):
            q, loss = returns_of(mdp, below, horizon)
            p, gain = np.outer(p, q).ravel(), np.subtract.outer(gain, loss).ravel() / 2
            if x.common:
                p, gain = np.array(list(coupled_returns(mdp, above, below, horizon))).T
                gain = gain / 2
        value = direction.ravel() / (scale * second)
        m, square = p @ gain, p @ gain**2
        mean += weight * m * value
        raw += weight * square * np.outer(value, value)
        covariance += weight * (square - m**2) * np.outer(value, value)
    if law != "each in turn":
        covariance = raw - np.outer(mean, mean)
    return mean.reshape(S, A), covariance.reshape(S, A, S, A)
