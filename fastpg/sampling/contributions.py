"""On how many trajectories does each entry of a sampled gradient rest? Known from the model, before any is sampled."""

from collections.abc import Callable, Iterator
from math import isqrt

import numpy as np
from scipy import sparse

from fastpg.chain import state_transition
from fastpg.kernels import contributions as kernels
from fastpg.model import MDP
from fastpg.policy import Policy, fitted
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.tables import Horizon, outcome_table, stopping
from fastpg.validation import FloatArray, frozen

# A geometric time is followed until fewer than this share of trajectories goes on.
TAIL = 1e-6


def expected_contributions(
    mdp: MDP, policy: Policy, estimator: Estimator, *, n: int, horizon: Horizon
) -> FloatArray:
    """n M_2^2 / M_4 for each entry (S, A), with M_p = sum_t E [(w_t score(a_t|s)[a])^p; s_t = s].

    M_p is the p-th moment of what visits to s add to the estimate of one trajectory, visits counted as if they were
    independent. For an entry that is c on a share q of the trajectories and 0 on the others it is n q, and a mean of
    that many contributions has skewness and excess kurtosis of at most its -1/2 and -1 powers. 0 where the entry is
    always 0. Exact moments of the returns are used, so that an event too rare to have been sampled still counts.
    """
    policy = fitted(policy, mdp)
    rule, table = stopping(mdp, policy, horizon), outcome_table(mdp, policy)
    terms = estimator.terms(mdp, table)
    geometric = horizon == "geometric"
    survival = mdp.discount if geometric else 1.0
    decay = terms.trace * (1.0 if geometric else mdp.discount)
    # Fourth powers of rewards overflow before rewards do; the ratio does not depend on their scale.
    scale = max(float(np.abs(x).max(initial=0.0)) for x in (terms.credit, terms.signal, terms.baseline)) or 1.0
    credit, signal = frozen(terms.credit / scale), frozen(terms.signal / scale)
    baseline = terms.baseline / scale
    joint = (table.offset, table.successor)
    pi = policy.probabilities
    second, fourth = np.zeros(pi.shape), np.zeros(pi.shape)
    past = np.zeros((5, pi.shape[0]))
    past[0] = mdp.start

    def backward(h: FloatArray) -> FloatArray:
        out = np.empty(h.shape)
        kernels.return_moments(*joint, table.probability, credit, decay, survival, frozen(h), out)
        return frozen(out)

    first = np.zeros(past.shape)
    first[0] = 1.0
    steps = _steps(mdp, policy, rule.horizon, survival)
    for t, h in enumerate(_reversed_orbit(backward, frozen(first), steps)):
        discount = float(rule.discounts[min(t, rule.discounts.size - 1)])
        # What is behind a state matters to a whole return alone; else the discount is taken out of the weight.
        b = frozen(baseline if terms.whole else discount * baseline)
        kernels.visit_moments(
            *joint, table.action, table.probability, pi, signal, b, decay, survival, discount, frozen(past), h,
            second, fourth,
        )  # fmt: skip
        following = np.empty(past.shape)
        kernels.past_moments(*joint, table.probability, credit, discount, survival, terms.whole, past, following)
        past = following
    return frozen(np.divide(n * second**2, fourth, out=np.zeros(pi.shape), where=fourth > 0))


def _steps(mdp: MDP, policy: Policy, horizon: int, survival: float) -> int:
    """The step, at most `horizon`, after which fewer than TAIL of the trajectories go on."""
    P = survival * sparse.csr_array(state_transition(mdp, policy)).T.tocsr()
    law = np.where(mdp.terminal, 0.0, mdp.start)
    t = 0
    while t < horizon and law.sum() > TAIL:
        law = np.where(mdp.terminal, 0.0, P @ law)
        t += 1
    return t


def _reversed_orbit(step: Callable[[FloatArray], FloatArray], x: FloatArray, count: int) -> Iterator[FloatArray]:
    """step^{count-1}(x), ..., step(x), x: each computed twice, about 2 sqrt(count) of them held."""
    run = isqrt(count) + 1
    checkpoints = [x]
    for k in range(1, count):
        x = step(x)
        if k % run == 0:
            checkpoints.append(x)
    for j in reversed(range(len(checkpoints))):
        held = [checkpoints[j]]
        while len(held) < min(run, count - j * run):
            held.append(step(held[-1]))
        yield from reversed(held[: max(count - j * run, 0)])
