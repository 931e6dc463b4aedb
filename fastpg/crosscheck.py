"""Exact against sampled: the statistics and the verdict."""

from collections.abc import Callable
from dataclasses import dataclass

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

# A mean of this many contributions is near enough to normal; calibrated on FrozenLake, see tests/test_calibration.py.
MIN_CONTRIBUTIONS = 100
# More directions than this allows would make the joint test reject too often.
CONTRIBUTIONS_A_DIRECTION = 40
BLOCKS_A_DIRECTION = 16
# An entry to which so many distinct trajectories should have contributed is seen, but for a chance of exp(-100).
SURELY_SEEN = 100
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
    `judged`              (S, A)  entries that rest on at least 100 contributions, by the model and in the sample
    `settled`             (S, A)  entries that cannot vary, mostly 0 for certain, and had their value
    `contradicted`        (S, A)  entries that cannot vary and had another value, or that must have been seen and were
                                  not
    `rank`                int     degrees of freedom of the test: independent directions among the judged entries
    `p_value`             float   Hotelling's test of the judged entries together; 0 where an entry is contradicted,
                                  nan where nothing could be judged
    `false_alarm`         float   the probability of `disagrees` for an unbiased sampler
    `detectable_bias`     float   every bias of at least this Euclidean length makes the verdict `disagrees` with
                                  probability 0.9 or more; taken over the judged entries but one for each state,
                                  which follows from the others. Where they outnumber what n can tell apart
                                  (`rank`) they share pools, and it holds for a bias of random direction
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
        share = f" ({self.detectable_bias / size:.2g} of its length)" if size > 0 else ""
        counts = f"{np.count_nonzero(self.judged)} judged, "
        counts += f"{np.count_nonzero(self.settled)} cannot vary, {self.left_out} left out as too rare"
        lines = [
            f"{self.verdict}: p = {self.p_value:.3g} on {self.rank} degrees of freedom, false-alarm rate "
            f"{self.false_alarm:g}",
            f"  exact gradient of length {size:.6g}, horizon {self.horizon}",
            f"  estimate from {e.n} trajectories of {e.steps} steps",
            f"  {self.exact.size} entries: {counts}",
            f"  worst |z| {self.worst_z:.3g}; every bias of length {self.detectable_bias:.3g}{share} would be found "
            f"with probability {POWER:g}",
        ]
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
    and counted. The judged entries are tested together by Hotelling's T^2 on the sample covariance.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, crosscheck, problems
    >>> mdp = problems.frozen_lake("4x4")
    >>> crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=200_000, horizon=50, rng=0).agrees
    True

    Source of the test: Hotelling (1931); Anderson (2003), section 5.2.
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
    """What is tested together: the entries with enough expected contributions, but the most common of each state.

    Each row of a gradient sums to 0. Where all actions of a state are common the last follows from the others; where
    some are rare the sum of the common ones is theirs, as rare as they are, and does not belong into the test.
    Hotelling's test needs many contributions for each direction, so that many entries share pools, scaled alike.
    """
    total = expected.total
    most = np.arange(total.shape[1]) == total.argmax(axis=1)[:, None]
    tested = (total >= MIN_CONTRIBUTIONS) & ~most
    affordable = np.median(total[tested]) / CONTRIBUTIONS_A_DIRECTION if tested.any() else 1
    blocks = min(expected.n, BLOCKS)
    return pooled(tested, max(1, int(min(affordable, blocks / BLOCKS_A_DIRECTION))), np.sqrt(expected.second))


def judge(
    exact: FloatArray, estimate: GradientEstimate, expected: Contributions, *, horizon: Horizon, false_alarm: float
) -> CrossCheck:
    """The verdict on an estimate that was pooled into `directions(expected)`."""
    seen = (estimate.mean != 0) | (estimate.standard_error > 0)
    constant = expected.total == 0
    equal = np.abs(estimate.mean - exact) <= expected.resolution
    contradicted = (constant & ~equal) | (~seen & ~equal & (expected.distinct >= SURELY_SEEN))
    judged = (expected.total >= MIN_CONTRIBUTIONS) & (estimate.contributions >= MIN_CONTRIBUTIONS) & (estimate.n > 1)
    error = np.where(judged, estimate.standard_error, 1.0)
    z = np.ma.masked_array(np.where(judged, (estimate.mean - exact) / error, 0.0), mask=~judged)
    test = _hotelling(estimate, exact, false_alarm) if estimate.n > 1 else None
    settled = constant & equal
    nothing_open = bool((settled | contradicted).all())
    p_value = 0.0 if contradicted.any() else test.p_value if test else 1.0 if nothing_open else float("nan")
    return CrossCheck(
        exact,
        estimate,
        horizon,
        z,
        frozen(judged),
        frozen(settled),
        frozen(contradicted),
        test.rank if test else 0,
        p_value,
        false_alarm,
        test.detectable_bias if test else 0.0 if nothing_open else float("inf"),
    )


@dataclass(frozen=True)
class _Test:
    rank: int
    p_value: float
    detectable_bias: float


def _hotelling(estimate: GradientEstimate, exact: FloatArray, false_alarm: float) -> _Test | None:
    """Hotelling's T^2 of the pools from the covariance of the block sums."""
    from scipy.special import fdtrc

    B, columns = estimate.blocks.shape
    pool, weight = estimate.pooling
    kept = pool >= 0
    difference = np.bincount(pool[kept], (weight * (estimate.mean - exact))[kept], minlength=columns)
    root = np.sqrt(estimate.block_sizes)[:, None]
    centred = estimate.blocks - root * ((root * estimate.blocks).sum(axis=0) / estimate.n)
    variance = (centred**2).mean(axis=0)
    excess = np.divide((centred**4).mean(axis=0), variance**2, out=np.full(columns, np.inf), where=variance > 0) - 3.0
    usable = excess * MIN_CONTRIBUTIONS <= B
    if not usable.any():
        return None
    covariance = centred[:, usable].T @ centred[:, usable] / (B - 1) / estimate.n
    scale = np.sqrt(np.diag(covariance))
    size, direction = np.linalg.eigh(covariance / np.outer(scale, scale))
    along = direction.T @ (difference[usable] / scale)
    free = size > NO_VARIANCE * size[-1]
    rank = int(free.sum())
    below = B - rank
    t_squared = float(np.sum(along[free] ** 2 / size[free]))
    # A bias of length 1 in a random direction has this mean square length in the pools; exactly so if unpooled.
    share = float(np.mean(weight[kept] ** 2))
    largest = float(np.linalg.eigvalsh(covariance)[-1])
    return _Test(
        rank,
        float(fdtrc(rank, below, t_squared * below / ((B - 1) * rank))),
        float(np.sqrt(_noncentrality(rank, below, false_alarm) * largest / share)),
    )


def _noncentrality(rank: int, below: float, false_alarm: float) -> float:
    """The noncentrality at which the F test rejects with probability POWER."""
    from scipy import special

    critical = special.fdtri(rank, below, 1.0 - false_alarm)
    return float(special.ncfdtrinc(rank, below, 1.0 - POWER, critical))
