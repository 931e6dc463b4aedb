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
from fastpg.sampling.estimators import Estimator
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

    With self-normalised weights W - E W times the estimate counts as what one more step adds to every entry. The
    average of the sample as a baseline counts as its mean.
    """

    n: int
    second: FloatArray
    fourth: FloatArray
    distinct: FloatArray
    resolution: FloatArray

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
