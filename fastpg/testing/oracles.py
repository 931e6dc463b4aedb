"""Slow, obviously right computations that share no kernel, solver or formula with the library.

Enumeration of trajectories checks what a quantity means, the complex step differentiates without any theorem, and
rational arithmetic has no rounding at all. All take small models: enumeration visits up to S (A S)^T paths.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastpg.model import MDP
from fastpg.policy import DirectPolicy, LogLinearPolicy, Policy, SoftmaxPolicy
from fastpg.testing.models import dense_reward, dense_transition
from fastpg.validation import FloatArray

Numbers = npt.NDArray[Any]
STEP = 1e-100


class Trajectory(NamedTuple):
    """One path and its probability: k actions and rewards, k + 1 states; k < T only where the process has ended."""

    probability: float
    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]

    def discounted_return(self, discount: float) -> float:
        """sum_t discount^t r_t."""
        return float(sum(discount**t * r for t, r in enumerate(self.rewards)))


def enumerate_trajectories(mdp: MDP, policy: Policy, horizon: int) -> Iterator[Trajectory]:
    """Every trajectory of at most `horizon` steps that has a positive probability; the probabilities sum to 1."""
    P, R, pi = dense_transition(mdp), dense_reward(mdp), policy.probabilities

    def extended(path: Trajectory, left: int) -> Iterator[Trajectory]:
        s = path.states[-1]
        if left == 0 or mdp.terminal[s]:
            yield path
            return
        for a in np.flatnonzero(pi[s]).tolist():
            for k in np.flatnonzero(P[s, a]).tolist():
                longer = Trajectory(
                    path.probability * float(pi[s, a] * P[s, a, k]),
                    (*path.states, k),
                    (*path.actions, a),
                    (*path.rewards, float(R[s, a, k])),
                )
                yield from extended(longer, left - 1)

    for s in np.flatnonzero(mdp.start).tolist():
        yield from extended(Trajectory(float(mdp.start[s]), (s,), (), ()), horizon)


def enumerated_return(mdp: MDP, policy: Policy, horizon: int) -> float:
    """J_T = sum over trajectories of probability times discounted return."""
    paths = enumerate_trajectories(mdp, policy, horizon)
    return float(sum(path.probability * path.discounted_return(mdp.discount) for path in paths))


def enumerated_gradient(mdp: MDP, policy: Policy, horizon: int) -> FloatArray:
    """dJ_T/dlogits (S, A) = sum over trajectories of probability times return times sum_t score(s_t, a_t)."""
    pi = policy.probabilities
    gradient = np.zeros(pi.shape)
    for path in enumerate_trajectories(mdp, policy, horizon):
        weight = path.probability * path.discounted_return(mdp.discount)
        for s, a in zip(path.states, path.actions, strict=False):
            gradient[s] -= weight * pi[s]
            gradient[s, a] += weight
    return gradient


def softmax(logits: Numbers) -> Numbers:
    """Row-wise softmax in real or complex arithmetic; -inf masks."""
    with np.errstate(over="ignore"):
        weight = np.exp(logits - logits.real.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def probabilities_at(policy: Policy, parameters: Numbers) -> Numbers:
    """pi (S, A) of a policy of the same kind with other, perhaps complex, parameters."""
    if isinstance(policy, SoftmaxPolicy):
        return softmax(parameters)
    if isinstance(policy, LogLinearPolicy):
        allowed = policy.available | ~policy.available.any(axis=1, keepdims=True)
        return softmax(np.where(allowed, policy.features @ parameters, -np.inf))
    if isinstance(policy, DirectPolicy):
        return parameters
    raise TypeError(f"no oracle for the parametrisation {type(policy).__name__}")


def expected_return_of(mdp: MDP, probabilities: Numbers, horizon: int | None = None) -> Any:
    """J (of T steps where `horizon` is given) for any real or complex (S, A) table; rows need not sum to 1."""
    P = np.einsum("sa,sak->sk", probabilities, dense_transition(mdp))
    r = np.einsum("sa,sak,sak->s", probabilities, dense_transition(mdp), dense_reward(mdp))
    if horizon is None:
        return mdp.start @ np.linalg.solve(np.eye(mdp.n_states) - mdp.discount * P, r)
    V = np.zeros_like(r)
    for _ in range(horizon):
        V = r + mdp.discount * P @ V
    return mdp.start @ V


def complex_step(f: Callable[[Numbers], Any], x: FloatArray) -> FloatArray:
    """df/dx by f(x + ih).imag / h, of the shape of x followed by that of f(x): no difference, so no cancellation."""
    columns = []
    for j in range(x.size):
        moved = x.astype(np.complex128)
        moved.flat[j] += STEP * 1j
        columns.append(np.imag(f(moved)) / STEP)
    return np.array(columns).reshape(x.shape + np.shape(columns[0]))


def complex_step_gradient(mdp: MDP, policy: Policy, horizon: int | None = None) -> FloatArray:
    """dJ/dparameters through an own softmax and an own solve, without the policy gradient theorem.

    A `DirectPolicy` is differentiated in each probability alone, its row no longer summing to 1.
    """
    return complex_step(
        lambda parameters: expected_return_of(mdp, probabilities_at(policy, parameters), horizon), policy.parameters
    )


class RationalEvaluation(NamedTuple):
    """Exact rationals, as object arrays of `fractions.Fraction`; `.astype(float)` rounds them correctly."""

    value: Numbers
    action_value: Numbers
    advantage: Numbers
    occupancy: Numbers
    logit_gradient: Numbers
    expected_return: Fraction


def rational_evaluation(mdp: MDP, policy: Policy) -> RationalEvaluation:
    """The evaluation without rounding: laws are the stored floats, each row divided by its exact sum.

    Unavailable actions have an action value of 0. The process must end or be discounted from every state.
    """
    P, R = _exact_law(dense_transition(mdp)), exact(dense_reward(mdp))
    pi, mu, gamma = _exact_law(policy.probabilities), _exact_law(mdp.start), exact_discount(mdp)
    r = (P * R).sum(axis=2)
    system = exact(np.eye(mdp.n_states)) - gamma * (pi[:, :, None] * P).sum(axis=1)
    V = rational_solve(system, (pi * r).sum(axis=1))
    d = rational_solve(system.T, mu)
    d[mdp.terminal] = Fraction(0)
    Q = r + gamma * (P * V).sum(axis=2)
    advantage = Q - V[:, None]
    return RationalEvaluation(V, Q, advantage, d, d[:, None] * pi * advantage, (mu * V).sum())


def exact_discount(mdp: MDP) -> Fraction:
    """The discount without rounding: 1 - discount_complement where that was given, else the float."""
    given = mdp.discount_complement != 1 - mdp.discount
    return 1 - Fraction(mdp.discount_complement) if given else Fraction(mdp.discount)


def rational_solve(matrix: Numbers, right: Numbers) -> Numbers:
    """x with matrix x = right, by Gaussian elimination on exact rationals."""
    M, x = matrix.copy(), right.copy()
    n = x.shape[0]
    for k in range(n):
        pivot = next((i for i in range(k, n) if M[i, k] != 0), None)
        if pivot is None:
            raise ZeroDivisionError("the matrix is singular")
        M[[k, pivot]], x[[k, pivot]] = M[[pivot, k]], x[[pivot, k]]
        for i in range(n):
            if i != k and M[i, k] != 0:
                factor = M[i, k] / M[k, k]
                M[i], x[i] = M[i] - factor * M[k], x[i] - factor * x[k]
    return np.asarray(x / np.diagonal(M))


def exact(x: npt.ArrayLike) -> Numbers:
    """The floats of an array as rationals."""
    x = np.asarray(x, dtype=np.float64)
    return np.array([Fraction(value) for value in x.ravel().tolist()], dtype=object).reshape(x.shape)


def _exact_law(x: FloatArray) -> Numbers:
    """Exact rows divided by their sums; rows of zeros stay."""
    law = exact(x)
    total = law.sum(axis=-1, keepdims=True)
    total[total == 0] = Fraction(1)
    return np.asarray(law / total)
