"""The variance of the return itself."""

import numpy as np

from fastpg.chain import Chain, finite, state_transition
from fastpg.evaluation import Evaluation, require_evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.sampling.estimators import origin
from fastpg.sampling.tables import outcome_table
from fastpg.solvers import choose
from fastpg.validation import FloatArray, frozen


@np.errstate(over="ignore", invalid="ignore")  # which is looked for
def return_variance(evaluation: Evaluation | FiniteHorizonEvaluation) -> FloatArray:
    """Variance of the discounted return from each state.

        v = (I - discount^2 P_pi)^{-1} u,  u(s) = E[(r + discount V(s') - V(s))^2 | s]

    Shape (S,), nan where V does not exist; for a finite horizon (T+1, S), by steps to go. Every term is a square, so
    that nothing cancels. Of the return from the start, by the law of total variance,
    mu . v + mu . (V - J)^2 is the variance. Raises SolveError where squares of the rewards overflow.

    >>> from fastpg import MDP, SoftmaxPolicy, evaluate
    >>> mdp = MDP([[[1.0]]], [[1.0]], discount=0.5)
    >>> return_variance(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    array([0.])

    Source: Sobel (1982), Theorem 2.
    """
    require_evaluation(evaluation)
    mdp, policy = evaluation.mdp, evaluation.policy
    table = outcome_table(mdp, policy)
    state = origin(table)
    successor, reward = table.successor[: state.size], table.reward[: state.size]
    probability = table.probability[: state.size]

    def spread(now: FloatArray, ahead: FloatArray) -> FloatArray:
        change = reward + mdp.discount * ahead[successor] - now[state]
        return np.asarray(np.bincount(state, probability * change**2, minlength=mdp.n_states))

    if isinstance(evaluation, FiniteHorizonEvaluation):
        P, value = state_transition(mdp, policy), evaluation.value
        out = np.zeros(value.shape)
        for k in range(1, value.shape[0]):
            out[k] = spread(value[k], value[k - 1]) + mdp.discount**2 * (P @ out[k - 1])
        return frozen(finite("return_variance", out, mdp))
    chain = evaluation.chain
    u = np.where(chain.undefined, 0.0, spread(evaluation.value, np.nan_to_num(evaluation.value)))
    finite("return_variance", u, mdp)
    # 1 - discount^2 = (1 - discount) (1 + discount), to full precision.
    complement = chain.discount_complement * (2.0 - chain.discount_complement)
    squared = Chain(chain.transition, frozen(u), chain.discount**2, complement, chain.undefined)
    v = finite("return_variance", np.maximum(choose(squared).factorise(squared).solve(frozen(u)), 0.0), mdp)
    return frozen(np.where(chain.undefined, np.nan, v))
