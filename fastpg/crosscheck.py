"""Exact against sampled: the statistics and the verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastpg.errors import Disagreement, InvalidArgument
from fastpg.evaluation import evaluate
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.rng import RNG
from fastpg.sampling.contributions import Contributions, expected_contributions
from fastpg.sampling.estimate import BLOCKS, GradientEstimate, Pooling, estimate_gradient, pooled
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.tables import Horizon
from fastpg.validation import BoolArray, FloatArray, frozen, positive_integer, real_between

# An entry is judged where it rests on this many contributions, by the model and in the sample.
MIN_CONTRIBUTIONS = 100
# An event that so many distinct trajectories should have had is missed by all of them with probability exp(-30).
SURELY_SEEN = 30
# More directions than this allows would make the joint test reject too often.
CONTRIBUTIONS_A_DIRECTION = 20
BLOCKS_A_DIRECTION = 16
# What one contribution is expected to be in the sample, where visits of one trajectory go together.
DEPENDENCE = 5
POWER = 0.9
# Directions with less than this share of the largest variance have none but for rounding.
NO_VARIANCE = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class CrossCheck:
    """What an exact gradient and a sampled one say of each other.

    ====================  ======  ==============================================================================
    `exact`               (S, A)  dJ/dlogits for the same horizon
    `estimate`                    the `GradientEstimate`
    `z`                   (S, A)  (estimate - exact) / standard error; masked where not `judged`
    `judged`              (S, A)  entries that rest on at least 100 contributions, by the model and in the sample,
                                  from 30 or more distinct trajectories
    `settled`             (S, A)  entries that cannot vary, mostly 0 for certain, and had their value
    `contradicted`        (S, A)  entries that cannot vary and had another value, or that must have been seen and were
                                  not
    `rank`                int     degrees of freedom of Hotelling's test
    `p_value`             float   of Hotelling's test of the judged entries together and of the largest |z|, combined;
                                  0 where an entry is contradicted, nan where nothing could be judged
    `false_alarm`         float   the verdict is `disagrees` where the p-value is below this
    `detectable_bias`     float   every bias of at least this Euclidean length makes the verdict `disagrees` with
                                  probability 0.9 or more. The length is taken over the judged entries but the most
                                  variable one of each state, which follows from the others
    `trajectories_needed` int     about how many trajectories let a first entry be judged
    ====================  ======  ==============================================================================

    `left_out` counts the entries that are too rare for a normal approximation; they are not judged.
    """

    exact: FloatArray
    estimate: GradientEstimate
    horizon: Horizon
    z: "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]"
    judged: BoolArray
    settled: BoolArray
    contradicted: BoolArray
    rank: int
    p_value: float
    false_alarm: float
    detectable_bias: float
    trajectories_needed: int

    @property
    def left_out(self) -> int:
        """The number of entries too rare to be judged."""
        return int(np.count_nonzero(~(self.judged | self.settled | self.contradicted)))

    @property
    def verdict(self) -> str:
        """`agrees`, `disagrees`, or `undecided` where n was too small to judge any entry that can differ."""
        if np.isnan(self.p_value):
            return "undecided"
        return "disagrees" if self.p_value < self.false_alarm else "agrees"

    @property
    def agrees(self) -> bool:
        """Whether the sampled gradient was judged and not found to differ from the exact one."""
        return self.verdict == "agrees"

    @property
    def worst_z(self) -> float:
        """The largest |z| of a judged entry; nan without any."""
        return float(np.abs(self.z).max()) if self.judged.any() else float("nan")

    def require_agreement(self) -> "CrossCheck":
        """Itself where the two agree; raises Disagreement with the report elsewhere."""
        if not self.agrees:
            raise Disagreement(str(self))
        return self

    def __str__(self) -> str:
        e = self.estimate
        size = float(np.linalg.norm(self.exact))
        share = f" ({self.detectable_bias / size:.2g} of the gradient's)" if size > 0 else ""
        counts = f"{np.count_nonzero(self.judged)} judged, "
        counts += f"{np.count_nonzero(self.settled)} cannot vary, {self.left_out} left out as too rare"
        lines = [
            f"{self.verdict}: p = {self.p_value:.3g} on {self.rank} degrees of freedom, false-alarm rate "
            f"{self.false_alarm:g}",
            f"  exact gradient of length {size:.6g}, horizon {self.horizon}",
            f"  estimate from {e.n} trajectories of {e.steps} steps",
            f"  {self.exact.size} entries: {counts}",
        ]
        if self.judged.any():
            found = f"every bias of length {self.detectable_bias:.3g}{share} would be found with probability {POWER:g}"
            lines.append(f"  worst |z| {self.worst_z:.3g}; {found}")
        if self.verdict == "undecided":
            lines.append(f"  n is too small: try about {self.trajectories_needed} trajectories")
        if self.contradicted.any():
            s, a = np.argwhere(self.contradicted)[0]
            lines.append(
                f"  {np.count_nonzero(self.contradicted)} entries contradict the model outright, first [{s}, {a}]: "
                f"exact {self.exact[s, a]:.6g}, sampled {e.mean[s, a]:.6g}"
            )
        return "\n".join(lines)


def crosscheck(
    mdp: MDP,
    policy: Policy,
    estimator: Estimator,
    *,
    n: int,
    horizon: Horizon,
    rng: RNG,
    false_alarm: float = 1e-4,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> CrossCheck:
    """Hold the exact gradient of the logits against `estimator` on `n` sampled trajectories.

    The exact side has the same horizon: T steps, or infinite for "geometric". An entry is judged where both the
    model and the sample give it at least 100 effective contributions (see `Contributions`); rarer ones are left out
    and counted. The judged entries are tested together by Hotelling's T^2 on the sample covariance, and one by one by
    the largest |z|; both p-values are raised by exp(z^3 / (3 sqrt(N))), to leading order the most that the skewness of
    a Studentised mean of N contributions can make of the tail, and combined as if independent (Sidak). The false-alarm
    rate is approximate: on a few problems it was measured and was not above what is stated (tests/test_calibration.py).

    >>> from fastpg import RewardToGo, SoftmaxPolicy, crosscheck, problems
    >>> mdp = problems.frozen_lake("4x4")
    >>> crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=200_000, horizon=50, rng=0).agrees
    True

    Source: Hotelling (1931) for the joint test; Sidak (1967) for the combination.
    """
    n = positive_integer("n", n)
    if not 0.0 < real_between("false_alarm", false_alarm, 0.0, 1.0) < 1.0:
        raise InvalidArgument(f"false_alarm must lie between 0 and 1 but is {false_alarm!r}")
    evaluation = evaluate(mdp, policy) if horizon == "geometric" else evaluate(mdp, policy, horizon=horizon)
    expected = expected_contributions(mdp, policy, estimator, n=n, horizon=horizon)
    estimate = estimate_gradient(
        mdp,
        policy,
        estimator,
        n=n,
        horizon=horizon,
        rng=rng,
        threads=threads,
        progress=progress,
        pooling=directions(expected),
    )
    return judge(evaluation.logit_gradient, estimate, expected, horizon=horizon, false_alarm=false_alarm)


def directions(expected: Contributions) -> Pooling:
    """What is tested together: the entries with enough expected contributions, but the most variable of each state.

    Each row of a gradient sums to 0. Where all actions of a state are common the last follows from the others; where
    some are rare the sum of the common ones is theirs, as rare as they are, and does not belong into the test.
    Hotelling's test needs many contributions for each direction, so that many entries share pools, scaled alike.
    """
    total = expected.total
    most = np.arange(total.shape[1]) == expected.second.argmax(axis=1)[:, None]
    tested = _common(expected) & ~most
    affordable = np.median(total[tested]) / CONTRIBUTIONS_A_DIRECTION if tested.any() else 1
    blocks = min(expected.n, BLOCKS)
    return pooled(tested, max(1, int(min(affordable, blocks / BLOCKS_A_DIRECTION))), np.sqrt(expected.second))


def _common(expected: Contributions) -> BoolArray:
    return (expected.total >= MIN_CONTRIBUTIONS) & (expected.distinct >= SURELY_SEEN)


def judge(
    exact: FloatArray, estimate: GradientEstimate, expected: Contributions, *, horizon: Horizon, false_alarm: float
) -> CrossCheck:
    """The verdict on an estimate that was pooled into `directions(expected)`."""
    seen = (estimate.mean != 0) | (estimate.standard_error > 0)
    constant = expected.total == 0
    equal = np.abs(estimate.mean - exact) <= expected.resolution
    contradicted = (constant & ~equal) | (~seen & ~equal & (expected.distinct >= SURELY_SEEN))
    settled = constant & equal
    contributions = np.minimum(expected.total, estimate.contributions)
    judged = _common(expected) & (contributions >= MIN_CONTRIBUTIONS) & (estimate.n > 1)
    z = np.where(judged, (estimate.mean - exact) / np.where(judged, estimate.standard_error, 1.0), 0.0)
    rank, p_value, detectable = 0, float("nan"), float("inf")
    if judged.any():
        # Two tests at equal levels, the second of as many entries as are judged.
        level = _sidak_level(false_alarm, 2)
        tested = judged & (estimate.pooling.pool >= 0)
        joint = _hotelling(estimate, exact, judged, level)
        single = _sidak(float(_raised(np.abs(z[judged]), contributions[judged]).min()), int(judged.sum()))
        critical = _critical(_sidak_level(level, int(judged.sum())), contributions[tested])
        detectable = float(np.linalg.norm((critical + _special().ndtri(POWER)) * estimate.standard_error[tested]))
        rank, p_value, detectable = joint.rank, _sidak(min(joint.p_value, single), 2), min(detectable, joint.detectable)
    elif (settled | contradicted).all():
        p_value, detectable = 1.0, 0.0
    enough = np.minimum(expected.total / MIN_CONTRIBUTIONS, expected.distinct / SURELY_SEEN).max()
    return CrossCheck(
        exact,
        estimate,
        horizon,
        np.ma.masked_array(z, mask=~judged),
        frozen(judged),
        frozen(settled),
        frozen(contradicted),
        rank,
        0.0 if contradicted.any() else p_value,
        false_alarm,
        detectable,
        int(min(DEPENDENCE * expected.n / enough, 2.0**62)) if enough > 0 else 0,
    )


def _sidak(p: float, count: int) -> float:
    """The probability that the least of `count` independent p-values is at most p."""
    return float(-np.expm1(count * np.log1p(-p))) if p < 1 else 1.0


def _sidak_level(level: float, count: int) -> float:
    """The p at which `_sidak` gives `level`."""
    return float(-np.expm1(np.log1p(-level) / count))


def _raised(z: FloatArray, contributions: FloatArray) -> FloatArray:
    """The two-sided tail of |z|, raised by what the skewness of a mean of so many contributions can make of it."""
    z = np.minimum(z, np.sqrt(contributions))
    return np.exp(np.minimum(np.log(2.0) + _special().log_ndtr(-z) + z**3 / (3.0 * np.sqrt(contributions)), 0.0))


def _critical(level: float, contributions: FloatArray) -> FloatArray:
    """The z at which `_raised` falls to `level`, by bisection; inf where it never does."""
    low, high = np.zeros(contributions.shape), np.sqrt(contributions)
    never = _raised(high, contributions) > level
    for _ in range(60):
        middle = (low + high) / 2
        above = _raised(middle, contributions) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(never, np.inf, high)


class _Joint(NamedTuple):
    rank: int
    p_value: float
    detectable: float


def _hotelling(estimate: GradientEstimate, exact: FloatArray, judged: BoolArray, level: float) -> _Joint:
    """Hotelling's T^2 of the pools from the covariance of the block sums."""
    B, columns = estimate.blocks.shape
    pool, weight = estimate.pooling
    kept = pool >= 0
    alone = np.count_nonzero(kept) <= columns
    difference = np.bincount(pool[kept], (weight * (estimate.mean - exact))[kept], minlength=columns)
    root = np.sqrt(estimate.block_sizes)[:, None]
    centred = estimate.blocks - root * ((root * estimate.blocks).sum(axis=0) / estimate.n)
    variance = (centred**2).mean(axis=0)
    excess = np.divide((centred**4).mean(axis=0), variance**2, out=np.full(columns, np.inf), where=variance > 0) - 3.0
    contributions = B / np.maximum(excess, B / estimate.n)
    usable = judged[kept] if alone and kept.any() else contributions >= MIN_CONTRIBUTIONS
    if not usable.any():
        return _Joint(0, 1.0, float("inf"))
    covariance = centred[:, usable].T @ centred[:, usable] / (B - 1) / estimate.n
    scale = np.sqrt(np.diag(covariance))
    size, direction = np.linalg.eigh(covariance / np.outer(scale, scale))
    along = direction.T @ (difference[usable] / scale)
    free = size > NO_VARIANCE * size[-1]
    rank = int(free.sum())
    below = B - rank
    t_squared = float(np.sum(along[free] ** 2 / size[free]))
    p_value = float(_special().fdtrc(rank, below, t_squared * below / ((B - 1) * rank)))
    fewest = np.atleast_1d(contributions[usable].min())
    raised = float(_raised(np.atleast_1d(-_special().ndtri(p_value / 2)), fewest)[0])
    critical = float(_critical(level, fewest)[0])
    # Nothing is guaranteed of a bias that cancels within a pool.
    found = alone and np.isfinite(critical)
    largest = float(np.linalg.eigvalsh(covariance)[-1])
    return _Joint(
        rank, raised, float(np.sqrt(_noncentrality(rank, below, critical) * largest)) if found else float("inf")
    )


def _noncentrality(rank: int, below: float, critical: float) -> float:
    """The noncentrality at which the F test, at the level of a two-sided normal test at z, rejects with POWER."""
    share = _special().betaincinv(below / 2, rank / 2, 2.0 * _special().ndtr(-critical))
    return float(_special().ncfdtrinc(rank, below, 1.0 - POWER, below * (1.0 - share) / (rank * share)))


def _special() -> Any:
    """scipy.special, which takes as long to import as everything else and is needed at the end only."""
    from scipy import special

    return special
