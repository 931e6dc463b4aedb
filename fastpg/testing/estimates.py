"""What an estimator says of one trajectory, written out from its definition: products and sums over the steps."""

from typing import Any

import numpy as np

from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.sampling import GAE, RewardToGo, TotalReturn, rollout
from fastpg.sampling.faults import ActionBaseline, MissingDiscount, RewardBeforeAction, WrongRatio
from fastpg.testing.oracles import Trajectory
from fastpg.validation import FloatArray


def sampled_paths(mdp: MDP, policy: Policy, *, n: int, horizon: int, rng: int) -> list[Trajectory]:
    """The trajectories that samplers draw from `rng`, each with probability 1 / n."""
    found = rollout(mdp, policy, n=n, horizon=horizon, rng=rng)
    rows = zip(
        found.lengths.tolist(), found.states.tolist(), found.actions.tolist(), found.rewards.tolist(), strict=True
    )
    return [Trajectory(1 / n, tuple(s[: k + 1]), tuple(a[:k]), tuple(r[:k])) for k, s, a, r in rows]


def ratios(estimator: Any, policy: Policy, path: Trajectory) -> list[float]:
    """The importance ratio of each step, to the power that a fault gives it."""
    inner = getattr(estimator, "estimator", estimator)
    if inner.behaviour is None:
        return [1.0] * len(path.actions)
    power = estimator.power if isinstance(estimator, WrongRatio) else 1
    pairs = list(zip(path.states, path.actions, strict=False))
    return [float(policy.probabilities[pair] / inner.behaviour.probabilities[pair]) ** power for pair in pairs]


def weighted_return(estimator: Any, mdp: MDP, policy: Policy, path: Trajectory) -> float:
    """The discounted return with the weights of an estimator."""
    rho, inner = ratios(estimator, policy, path), getattr(estimator, "estimator", estimator)
    last = len(rho) if joint(inner) else 0
    return float(sum(mdp.discount**j * np.prod(rho[: max(j + 1, last)]) * r for j, r in enumerate(path.rewards)))


def joint(inner: Any) -> bool:
    """Whether an estimator, which is no fault, weighs whole trajectories."""
    return bool((inner.weights or inner._weights) != "per-decision")


def realised(estimator: Any, mdp: MDP, policy: Policy, path: Trajectory, horizon: int, more: float = 0.0) -> FloatArray:
    """The estimate (S, A) of one trajectory; of self-normalised weights what is divided by the mean weight.

    A baseline that is an average of the sample counts as 0, and `more` is added to any.
    """
    states, actions, r = path.states, path.actions, path.rewards
    x: Any = estimator
    fault: Any
    inner: Any
    n, discount, pi = len(actions), mdp.discount, policy.probabilities
    fault, inner = (x, x.estimator) if hasattr(x, "estimator") else (None, x)
    rho, together = ratios(x, policy, path), joint(inner)
    given = getattr(inner, "baseline", None)
    b = np.broadcast_to(0.0 if given is None or hasattr(given, "leave_one_out") else given, mdp.n_states) + more
    ended = mdp.terminal[states[-1]]

    def weight_of(first: int, last: int) -> float:
        """Of what happens up to step `last`, apart from that of the steps before `first`."""
        return 1.0 if together else float(np.prod(rho[first : last + 1]))

    def reward_to_go(t: int) -> float:
        total = sum(discount ** (j - t) * weight_of(t + 1, j) * r[j] for j in range(t, n))
        if inner.bootstrap is not None and n == horizon and not ended:
            total += discount ** (n - t) * weight_of(t + 1, n) * inner.bootstrap[states[-1]]
        return float(total)

    def differences_to_go(t: int) -> float:
        v = np.where(mdp.terminal, 0.0, inner.value)
        trace = inner.trace if isinstance(inner, GAE) else 0.0
        delta = [r[j] + discount * v[states[j + 1]] - v[states[j]] for j in range(n)]
        return float(sum((discount * trace) ** (j - t) * weight_of(t + 1, j) * delta[j] for j in range(t, n)))

    out = np.zeros(pi.shape)
    for t, (s, a) in enumerate(zip(states, actions, strict=False)):
        own = float(np.prod(rho if together else rho[: t + 1]))
        step = own * (1.0 if isinstance(fault, MissingDiscount) else discount**t)
        if isinstance(inner, TotalReturn):
            worth = sum(discount**j * weight_of(t + 1, j) * r[j] for j in range(n))
            weight = own * (worth - b[s])
        elif isinstance(inner, RewardToGo):
            weight = step * (reward_to_go(t) - b[s] - (r[t] if isinstance(fault, RewardBeforeAction) else 0.0))
        elif hasattr(inner, "action_value"):
            weight = step * (inner.action_value[s, a] - b[s])
        else:
            weight = step * (differences_to_go(t) - b[s])
        if isinstance(fault, ActionBaseline):
            weight -= step * np.asarray(fault.baseline)[s, a]
        out[s] -= weight * pi[s]
        out[s, a] += weight
    return out
