"""The same model in the other storage."""

import numpy as np
from scipy import sparse

from fastpg.model import MDP, Transition
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
        discount_complement=mdp.discount_complement,
    )
