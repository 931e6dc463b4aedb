"""On how many trajectories does each entry of a sampled gradient rest? Known from the model, before any is sampled."""

from collections.abc import Callable, Iterator
from math import isqrt
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fastpg.chain import state_transition
from fastpg.kernels import contributions as kernels
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.sampling.coupled import coupled_moments
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.sampling.plan import plan
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray, frozen

# A geometric time is followed until fewer than this share of trajectories goes on.
TAIL = 1e-20
# Longer ones are followed for so many steps: what comes later adds contributions, so that fewer are claimed.
MOST_STEPS = 20_000
# A second moment is known to about 1e-15 of a squared return, so smaller changes cannot be told from none.
ROUNDING = 1e-7


class Contributions(NamedTuple):
    """On how many of n trajectories an entry of the estimate rests, each (S, A); 0 where it cannot vary.

    With M_p(t) the p-th central moment of y_t = [s_t = s] w_t score(a_t|s)[a], what step t adds to entry (s, a):
    `second` and `fourth` are sum_t M_2 and sum_t M_4, in units of a power of the largest reward;
    `total` = n second^2 / fourth counts repeated visits of one trajectory as if they were several;
    `distinct` = max_t n M_2(t)^2 / M_4(t) counts each trajectory at most once, and not all of them.
    An entry that is c on a share q of the trajectories and 0 on the others has n q of both. `resolution` (S, A) is
    the size of change, in units of reward, below which an entry counts as constant, as with an exact baseline.
    `centred` says whether the entries of a state sum to 0 in each estimate, as scores do.

    With self-normalised weights W - E W times the estimate counts as what one more step adds to every entry. The
    average of the sample as a baseline counts as its mean.
    """

    n: int
    second: FloatArray
    fourth: FloatArray
    distinct: FloatArray
    resolution: FloatArray
    centred: bool = True

    @property
    def total(self) -> FloatArray:
        """n second^2 / fourth."""
        return _ratio(self.n, self.second, self.fourth)


def expected_contributions(
    mdp: MDP, policy: Policy, estimator: Estimator, *, n: int, horizon: Horizon
) -> Contributions:
    """The contributions that `estimate_gradient` with these arguments is expected to have.

    A mean of N contributions has skewness of at most N^(-1/2) and excess kurtosis of at most 1/N. They come from
    exact moments of the returns, so that an event too rare to have been sampled still counts.
    """
    made = plan(mdp, policy, estimator, horizon)
    if isinstance(made, PerturbedPlan):
        return _of_returns(made, n)
    rule, table, terms, survival, decay = made.stopping, made.table, made.terms, made.survival, made.decay
    # Fourth powers of rewards overflow before rewards do; the ratio does not depend on their scale.
    scale = max(float(np.abs(x).max(initial=0.0)) for x in (terms.credit, terms.signal, terms.baseline)) or 1.0
    credit, signal = frozen(terms.credit / scale), frozen(terms.signal / scale)
    joint = (table.offset, table.successor)
    ratio = frozen(np.append(made.ratio, np.ones(table.reward.size - made.ratio.size)))
    pi = made.policy.probabilities
    past = np.zeros((5 if made.ratios.size else 1, 5 if terms.whole else 1, pi.shape[0]))
    past[:, 0] = made.start

    def backward(h: FloatArray, c: FloatArray = credit, factor: float = decay) -> FloatArray:
        out = np.empty(h.shape)
        kernels.return_moments(*joint, table.probability, ratio, c, factor, survival, h, out)
        return frozen(out)

    nothing_to_go = np.zeros((5 if made.joint else 1, 5, pi.shape[0]))
    nothing_to_go[:] = (made.last / scale) ** np.arange(5)[:, None]
    steps = _steps(mdp, made.sampled, made.start, rule.horizon, survival)
    baseline = terms.baseline / scale
    if terms.income is not None:
        earned = frozen(np.zeros(nothing_to_go.shape) + np.eye(5)[0][:, None])
        for _ in range(steps):
            earned = backward(earned, frozen(terms.income / scale), made.discount)
        baseline = baseline + made.start @ earned[min(1, len(earned) - 1), 1]
    first, second, fourth, noise, distinct = np.zeros((5, *pi.shape))
    size, spread = 1.0, (0.0, 0.0)
    for t, h in enumerate(_reversed_orbit(backward, frozen(nothing_to_go), steps)):
        discount = float(rule.discounts[min(t, rule.discounts.size - 1)])
        b = frozen(baseline if terms.whole else discount * baseline)
        now = np.zeros((4, *pi.shape))
        kernels.visit_moments(
            *joint,
            table.action,
            table.probability,
            ratio,
            pi,
            signal,
            b,
            decay,
            survival,
            discount,
            frozen(past),
            h,
            *now,
        )
        first, second, fourth, noise = first + now[0], second + now[1], fourth + now[2], noise + now[3]
        distinct = np.maximum(distinct, _ratio(n, now[1], now[2]))
        size = max(size, float(np.sqrt(h[-1, 2].max())))
        if t == 0 and made.normalised:
            spread = _spread(backward(h)[:, 0] @ made.start)
        following = np.empty(past.shape)
        kernels.past_moments(*joint, table.probability, ratio, credit, discount, survival, past, following)
        past = following
    second, fourth = second + spread[0] * first**2, fourth + spread[1] * first**4
    varies = second > ROUNDING**2 * noise
    second, fourth, distinct = (frozen(np.where(varies, moment, 0.0)) for moment in (second, fourth, distinct))
    return Contributions(
        n, second, fourth, distinct, frozen(made.unit * scale * (ROUNDING * np.sqrt(noise) + ROUNDING**2 * size))
    )


def _of_returns(made: PerturbedPlan, n: int) -> Contributions:
    """Those of an estimator that perturbs the policy.

    Independent returns are taken to be those of the policy itself, which vary where those of perturbed policies do.
    With common random numbers random directions are taken to be as a fixed one of signs, but for coordinates.
    """
    how, size, entries = made.perturbation, made.pairs.free.size, made.free
    raw = coupled_moments(made, how.directions.typical(size), 4) if how.common else _raw_return_moments(made)[:, None]
    mean, known = raw[1], raw[2]
    second, fourth = known, raw[4]
    if how.antithetic:
        second = np.where(known - mean**2 > ROUNDING**2 * known, known - mean**2, 0.0)
        fourth = np.maximum(raw[4] - 4.0 * mean * raw[3] + 6.0 * mean**2 * known - 3.0 * mean**4, second**2)
        if not how.common:
            second, fourth = 2.0 * second, 2.0 * fourth + 6.0 * second**2
    out = np.zeros((2, *made.policy.probabilities.shape))
    out[0][entries] = made.factor**2 * how.directions.second(size) * second
    out[1][entries] = np.where(second > 0, made.factor**4 * how.directions.fourth(size) * fourth, 0.0)
    total = frozen(_ratio(n, out[0], out[1]))
    resolution = np.full(total.shape, made.unit * made.factor * ROUNDING * float(np.sqrt(known.max(initial=0.0))))
    return Contributions(n, frozen(out[0]), frozen(out[1]), total, frozen(resolution), centred=False)


def _raw_return_moments(made: PerturbedPlan) -> FloatArray:
    """E G^j of the policy itself, j = 0..4, in units of the plan."""
    mdp, table = made.mdp, made.table
    discount, survival, horizon = mdp.discount, 1.0, made.horizon
    if not isinstance(horizon, int):
        discount, survival, horizon = 1.0, mdp.discount, MOST_STEPS
    ratio, reward = frozen(np.ones(table.reward.size)), frozen(table.reward / made.unit)
    h = np.zeros((1, 5, mdp.n_states))
    h[0, 0] = 1.0
    for _ in range(_steps(mdp, made.policy, mdp.start, horizon, survival)):
        following = np.empty(h.shape)
        kernels.return_moments(
            table.offset, table.successor, table.probability, ratio, reward, discount, survival, frozen(h), following
        )
        h = following
    return np.asarray(h[0] @ mdp.start)


def _spread(raw: FloatArray) -> tuple[float, float]:
    """Second and fourth central moments of W / E W from raw moments (5,) of W."""
    _, w1, w2, w3, w4 = raw / raw[1] ** np.arange(5)
    return float(w2 - w1), float(w4 - 4 * w3 + 6 * w2 - 3 * w1)


def _ratio(n: int, second: FloatArray, fourth: FloatArray) -> FloatArray:
    return np.divide(n * second**2, fourth, out=np.zeros(second.shape), where=fourth > 0)


def _steps(mdp: MDP, policy: Policy, start: FloatArray, horizon: int, survival: float) -> int:
    """The step, at most `horizon`, after which fewer than TAIL of the trajectories go on."""
    P = survival * sparse.csr_array(state_transition(mdp, policy)).T.tocsr()
    law = np.where(mdp.terminal, 0.0, start)
    t = 0
    while t < min(horizon, MOST_STEPS) and law.sum() > TAIL:
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
