"""The exact policy gradient."""

from fastpg.evaluation import Evaluation, require_evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.validation import FloatArray, frozen


def policy_gradient(evaluation: Evaluation | FiniteHorizonEvaluation) -> FloatArray:
    """Exact gradient of the expected return in the parameters of the policy.

        tabular softmax   dJ/dtheta[s, a] = d(s) pi(a|s) A(s, a)                        (S, A), each row sums to 0
        log-linear        dJ/dw = sum_{s,a} phi(s, a) d(s) pi(a|s) A(s, a)              (k,)
        direct            dJ/dpi[s, a] = d(s) Q(s, a)                                   (S, A)
        horizon T         d(s) A(s, a) becomes sum_t discount^t P(s_t = s) A_{T-t}(s, a), with T - t steps to go

    `d` is the unnormalised occupancy. Float64, read-only, in units of reward.

    >>> from fastpg import SoftmaxPolicy, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> policy_gradient(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))[0]
    array([ 0.25, -0.25])

    Source: Sutton, McAllester, Singh & Mansour (1999), Theorem 1; Agarwal et al. (2021), eq. 8 for the direct form.
    """
    require_evaluation(evaluation)
    return frozen(evaluation.policy.gradient(evaluation))
