"""The same model in the other storage, and the conditioning that tolerances are derived from."""

import numpy as np
from scipy import sparse

from fastpg.model import MDP, Transition
from fastpg.policy import Policy
from fastpg.validation import FloatArray


def dense_transition(mdp: MDP) -> FloatArray:
    """P (S, A, S) as a dense array; rows of terminal states and unavailable actions are zero."""
    P = mdp.transition.toarray() if mdp.is_sparse else mdp.transition
    return np.asarray(P, dtype=np.float64).reshape(mdp.n_states, mdp.n_actions, mdp.n_states)


def dense_reward(mdp: MDP) -> FloatArray:
    """R (S, A, S) as a dense array, whatever form the model holds; 0 where terminal or unavailable."""
    S, A = mdp.n_states, mdp.n_actions
    R = mdp.reward.toarray().reshape(S, A, S) if sparse.issparse(mdp.reward) else mdp.reward
    R = np.broadcast_to(R.reshape(R.shape + (1,) * (3 - R.ndim)), (S, A, S))
    return np.where((mdp.available & ~mdp.terminal[:, None])[:, :, None], R, 0.0)


def as_dense(mdp: MDP) -> MDP:
    """The same model with dense transitions."""
    reward = dense_reward(mdp) if sparse.issparse(mdp.reward) else mdp.reward
    return _rebuilt(mdp, dense_transition(mdp), reward)


def as_sparse(mdp: MDP) -> MDP:
    """The same model with sparse transitions; rewards of transitions become sparse too."""
    S, A = mdp.n_states, mdp.n_actions
    return _rebuilt(mdp, sparse.csr_array(dense_transition(mdp).reshape(S * A, S)), mdp.reward)


def _rebuilt(mdp: MDP, transition: Transition, reward: Transition) -> MDP:
    return MDP(
        transition,
        reward,
        mdp.discount,
        mdp.start,
        terminal=mdp.terminal,
        available=mdp.available,
    )


def conditioning(mdp: MDP, policy: Policy) -> float:
    """max_s sum_k D(s,k), D = (I - discount P_pi)^{-1}: the longest expected discounted number of steps, at least 1.

    The condition number of I - discount P_pi in the maximum norm is at most twice this. At discount 1 the policy
    must end for certain from every state.
    """
    P = np.einsum("sa,sak->sk", policy.probabilities, dense_transition(mdp))
    steps = np.linalg.solve(np.eye(mdp.n_states) - mdp.discount * P, np.ones(mdp.n_states))
    return float(steps.max())


def rounding(mdp: MDP, policy: Policy, *, resolvents: int, scale: float | None = None) -> float:
    """A bound on the rounding error of an exact quantity that is a product of so many resolvents D and a reward.

    A backward-stable solve of (I - discount P_pi) x = b errs by a small multiple of S eps cond(I - discount P_pi)
    |x|, so each factor D of a quantity is known to about (S + A) eps |D| of itself: with m factors the error is at
    most 32 (S + A) eps |D|^(m+1) `scale`. V and d have one factor, gradients two. `scale` is the largest reward
    unless given; 1 suits quantities without a reward.
    """
    size = mdp.n_states + mdp.n_actions
    unit = float(np.abs(dense_reward(mdp)).max()) if scale is None else scale
    return float(32 * size * np.finfo(np.float64).eps * conditioning(mdp, policy) ** (resolvents + 1) * unit)
