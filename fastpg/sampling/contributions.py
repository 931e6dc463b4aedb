"""On how many trajectories does each entry of a sampled gradient rest? Known from the model, before any is sampled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from math import isqrt
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fastpg.chain import state_transition
from fastpg.kernels import contributions as kernels
from fastpg.model import MDP
from fastpg.parallel import ranges, spread
from fastpg.policy import Policy
from fastpg.sampling.coupled import coupled_moments
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.sampling.plan import Plan, plan
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray, frozen

# A geometric time is followed until fewer than this share of trajectories goes on.
TAIL = 1e-20
# Longer ones are followed for so many steps: what comes later adds contributions, so that fewer are claimed.
MOST_STEPS = 20_000
# A moment that a step changes by no more than this share of the largest is at its limit.
STILL = 2 * float(np.finfo(np.float64).eps)
# What is computed of an outcome in a step.
NUMBERS = 20
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
    process = _Process.of(made)
    laws = _laws(mdp, made.sampled, made.start, made.stopping.horizon, made.survival)
    found = process.visited_alike(laws) if process.alike else process.visited_in_turn(sum(1 for _ in laws()))
    first, second, fourth, noise = found.first, found.second, found.fourth, found.noise
    second, fourth = second + found.spread[0] * first**2, fourth + found.spread[1] * first**4
    varies = second > ROUNDING**2 * noise
    second, fourth, distinct = (frozen(np.where(varies, x, 0.0)) for x in (second, fourth, n * found.distinct))
    resolution = made.unit * process.scale * (ROUNDING * np.sqrt(noise) + ROUNDING**2 * found.size)
    return Contributions(n, second, fourth, distinct, frozen(resolution))


class _Visits(NamedTuple):
    """Sums over steps of what visits add, each (S, A): means, central moments 2 and 4, largest second moments; and the
    largest second^2 / fourth of a step, the size of a return, and how products of ratios spread.
    """

    first: FloatArray
    second: FloatArray
    fourth: FloatArray
    noise: FloatArray
    distinct: FloatArray
    size: float
    spread: tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class _Process:
    """The steps of a plan and what they are worth, in units of `scale` times those of the plan."""

    made: Plan
    scale: float
    ratio: FloatArray
    credit: FloatArray
    signal: FloatArray

    @classmethod
    def of(cls, made: Plan) -> "_Process":
        """Fourth powers of rewards overflow before rewards do; the ratio does not depend on their scale."""
        terms, size = made.terms, made.table.reward.size
        scale = max(float(np.abs(x).max(initial=0.0)) for x in (terms.credit, terms.signal, terms.baseline)) or 1.0
        ratio = frozen(np.append(made.ratio, np.ones(size - made.ratio.size)))
        return cls(made, scale, ratio, frozen(terms.credit / scale), frozen(terms.signal / scale))

    @property
    def steady(self) -> bool:
        """Whether what follows a step has the same law at each of them, and moments that are sure to exist."""
        return self.made.geometric and not self.made.ratios.size

    @property
    def alike(self) -> bool:
        """Whether what a visit adds has the same law at each step."""
        return self.steady and not self.made.terms.whole and bool((self.made.stopping.discounts == 1).all())

    @property
    def nothing_to_go(self) -> FloatArray:
        """The moments of what follows the last step."""
        out = np.zeros((5 if self.made.joint else 1, self.made.mdp.n_states, 5))
        out[:] = (self.made.last / self.scale)[:, None] ** np.arange(5)
        return frozen(out)

    def for_states(self, work: Callable[[tuple[int, int]], None]) -> None:
        """`work((begin, end))` for all states, on as many threads as it is worth."""
        size = NUMBERS * self.made.table.probability.size
        spread(work, ranges(self.made.mdp.n_states, size), size)

    def backward(self, h: FloatArray, income: FloatArray | None = None) -> FloatArray:
        """The moments of what follows with one more step to go, or those of an `income`."""
        made, table, out = self.made, self.made.table, np.empty(h.shape)
        c, decay = (self.credit, made.decay) if income is None else (income, made.discount)
        law = (table.offset, table.successor, table.probability, self.ratio, c, decay, made.survival, h, out)
        self.for_states(lambda piece: kernels.return_moments(*piece, *law))
        return frozen(out)

    def visit(self, past: FloatArray, h: FloatArray, baseline: FloatArray, discount: float) -> FloatArray:
        """What a step adds: see `kernels.visit_moments`."""
        made, table = self.made, self.made.table
        out = np.empty((5, *made.policy.probabilities.shape))
        law = (table.offset, table.successor, table.action, table.probability, self.ratio, made.policy.probabilities)
        worth = (self.signal, frozen(baseline), made.decay, made.survival, discount, frozen(past), h, out)
        self.for_states(lambda piece: kernels.visit_moments(*piece, *law, *worth))
        return out

    def baseline(self, steps: int) -> FloatArray:
        """What is taken from the worth of a step; of an average of the sample its mean."""
        made, baseline = self.made, self.made.terms.baseline / self.scale
        if made.terms.income is None:
            return baseline
        income = frozen(made.terms.income / self.scale)
        earned = frozen(np.zeros(self.nothing_to_go.shape) + np.eye(5)[0])
        for _ in range(steps):
            earned = self.backward(earned, income)
        return np.asarray(baseline + made.start @ earned[min(1, len(earned) - 1), :, 1])

    def visited_in_turn(self, steps: int) -> _Visits:
        """Step by step, each with its own past and so many steps to go."""
        made, table, rule = self.made, self.made.table, self.made.stopping
        shape, whole = made.policy.probabilities.shape, made.terms.whole
        past = np.zeros((5 if made.ratios.size else 1, shape[0], 5 if whole else 1))
        past[:, :, 0] = made.start
        baseline = self.baseline(steps)
        first, second, fourth, noise, distinct = np.zeros((5, *shape))
        size, spread = 1.0, (0.0, 0.0)
        orbit = _reversed_orbit(self.backward, self.nothing_to_go, steps)
        if self.steady:
            orbit = repeat(self.limit(steps), steps)
        for t, h in enumerate(orbit):
            discount = float(rule.discounts[min(t, rule.discounts.size - 1)])
            now = self.visit(past, h, baseline if whole else discount * baseline, discount)
            first, second, fourth, noise = first + now[0], second + now[1], fourth + now[3], noise + now[4]
            distinct = np.maximum(distinct, _ratio(1, now[1], now[3]))
            size = max(size, float(np.sqrt(h[-1, :, 2].max())))
            if t == 0 and made.normalised:
                spread = _spread(self.backward(h)[:, :, 0] @ made.start)
            following, law = np.empty(past.shape), (table.offset, table.successor, table.probability)
            kernels.past_moments(*law, self.ratio, self.credit, discount, made.survival, frozen(past), following)
            past = following
        return _Visits(first, second, fourth, noise, distinct, size, spread)

    def visited_alike(self, laws: Callable[[], Iterator[FloatArray]]) -> _Visits:
        """All steps at once, where a visit always adds the same: by how often each state is visited."""
        made, averaged = self.made, self.made.averages
        h = self.limit(MOST_STEPS)
        baseline = self.baseline(sum(1 for _ in laws()) if averaged else 0)
        visit = frozen(self.visit(np.ones((1, made.mdp.n_states, 1)), h, baseline, 1.0))
        second, fourth, distinct = np.zeros((3, *made.policy.probabilities.shape))
        visits = np.zeros(made.mdp.n_states)
        for law in laws():
            kernels.add_visits(frozen(law), visit, second, fourth, distinct)
            visits += law
        first, noise = visits[:, None] * visit[0], visits[:, None] * visit[4]
        return _Visits(first, second, fourth, noise, distinct, max(1.0, float(np.sqrt(h[-1, :, 2].max()))), (0.0, 0.0))

    def limit(self, steps: int) -> FloatArray:
        """The moments of what follows where the process stops by itself, after at most so many steps.

        What a step adds in every state the next one adds again, times a factor, and so on, where no state is terminal
        (MacQueen 1966): a chain that mixes is at its limit as soon as it has.
        """
        made, h = self.made, self.nothing_to_go
        for _ in range(steps):
            following = self.backward(h)
            change = (following - h)[0]
            moving = np.flatnonzero(np.abs(change).max(axis=0) > STILL * np.abs(following[0]).max(axis=0))
            if not moving.size:
                return following
            j = int(moving[0])
            factor = made.survival * made.decay**j
            low, high = float(change[:, j].min()), float(change[:, j].max())
            if factor < 1 and low * high > 0:
                following = following.copy()
                following[0, :, j] += min(low, high, key=abs) * factor / (1.0 - factor)
            h = frozen(following)
        return h


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
    h = np.zeros((1, mdp.n_states, 5))
    h[0, :, 0] = 1.0
    law = (table.offset, table.successor, table.probability, ratio, reward, discount, survival)
    for _ in _laws(mdp, made.policy, mdp.start, horizon, survival)():
        following = np.empty(h.shape)
        kernels.return_moments(0, mdp.n_states, *law, frozen(h), following)
        h = following
    return np.asarray(mdp.start @ h[0])


def _spread(raw: FloatArray) -> tuple[float, float]:
    """Second and fourth central moments of W / E W from raw moments (5,) of W."""
    _, w1, w2, w3, w4 = raw / raw[1] ** np.arange(5)
    return float(w2 - w1), float(w4 - 4 * w3 + 6 * w2 - 3 * w1)


def _ratio(n: int, second: FloatArray, fourth: FloatArray) -> FloatArray:
    return np.divide(n * second**2, fourth, out=np.zeros(second.shape), where=fourth > 0)


def _laws(
    mdp: MDP, policy: Policy, start: FloatArray, horizon: int, survival: float
) -> Callable[[], Iterator[FloatArray]]:
    """Where each step is taken from, (S,), until fewer than TAIL of the trajectories go on: at most `horizon` steps."""
    P = survival * sparse.csr_array(state_transition(mdp, policy)).T.tocsr()

    def laws() -> Iterator[FloatArray]:
        law = np.where(mdp.terminal, 0.0, start)
        for _ in range(min(horizon, MOST_STEPS)):
            if not law.sum() > TAIL:
                return
            yield law
            law = np.where(mdp.terminal, 0.0, P @ law)

    return laws


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
