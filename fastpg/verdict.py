"""The verdict on an estimate: which entries are judged, by which test, and what it says."""

from dataclasses import dataclass
from textwrap import fill
from typing import NamedTuple

import numpy as np

from fastpg.errors import Disagreement
from fastpg.judgement import (
    MIN_CONTRIBUTIONS,
    POWER,
    SECOND_ORDER,
    Joint,
    beyond_limit,
    chi_square,
    critical_z,
    hotelling,
    largest,
    length,
    sidak,
    sidak_level,
    special,
)
from fastpg.moments import EstimatorMoments
from fastpg.sampling.contributions import Contributions
from fastpg.sampling.estimate import BLOCKS, POOLS, GradientEstimate, Pooling, pooled
from fastpg.sampling.tables import Horizon
from fastpg.validation import BoolArray, FloatArray, frozen

# An event that so many distinct trajectories should have had is missed by all of them with probability exp(-30).
SURELY_SEEN = 30
# Columns of a report.
WIDTH = 120
# More directions than this allows would make the joint test reject too often.
CONTRIBUTIONS_A_DIRECTION = 20
BLOCKS_A_DIRECTION = 16
# With more known directions than this the largest |z| is tested as well, which finds a bias of one entry sooner.
FEW = 256
# What one contribution is expected to be in the sample, where visits of one trajectory go together.
DEPENDENCE = 5


@dataclass(frozen=True, eq=False, repr=False)
class CrossCheck:
    """What an exact gradient and a sampled one say of each other.

    ====================  ======  ==============================================================================
    `exact`               (S, A)  dJ/dlogits for the same horizon, or the exact mean of the estimator
    `estimate`                    the `GradientEstimate`
    `moments`                     the exact `EstimatorMoments`, of one trajectory or as they are for n; None where
                                  there are none
    `covariance`                  (S, A, S, A) of one trajectory, or None where it is too large and was sampled;
                                  `covariance_in_units` is it / `moments.plan.unit`^2
    `z`                   (S, A)  (estimate - exact) / standard error; masked where not `judged`
    `judged`              (S, A)  entries that rest on at least 100 contributions, by the model and in the sample,
                                  from 30 or more distinct trajectories
    `settled`             (S, A)  entries that cannot vary, mostly 0 for certain, and had their value; or that a
                                  `BatchAverage` lets vary by terms of order 1/n only, and had it up to these
    `contradicted`        (S, A)  entries that cannot vary and had another value, or that must have been seen and were
                                  not
    `pooling`                     the `Pooling` of the joint test: entries of one pool are tested as their sum
    `rank`                int     degrees of freedom of the joint test; 0 where the largest |z| alone is tested
    `p_value`             float   of the chi-square test of the judged entries together with their exact covariance;
                                  where they are more than 256, or share pools, or the covariance is sampled, of the
                                  joint test and the largest |z| combined; 0 where an entry is contradicted, nan where
                                  nothing is judged
    `false_alarm`         float   the verdict is `disagrees` where the p-value is below this
    `detectable_bias`     float   every bias of at least this Euclidean length makes the verdict `disagrees` with
                                  probability 0.9 or more. The length is taken over the judged entries but the most
                                  variable one of each state, which follows from the others
    `trajectories_needed` int     about how many trajectories let a first entry be judged
    `fault`               str     what a sample that disagrees agrees with: a known fault of such code, or None
    ====================  ======  ==============================================================================

    `left_out` counts the entries that are too rare for a normal approximation; they are not judged.
    """

    exact: FloatArray
    estimate: GradientEstimate
    moments: EstimatorMoments | None
    covariance_in_units: FloatArray | None
    horizon: Horizon
    z: "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]"
    judged: BoolArray
    settled: BoolArray
    contradicted: BoolArray
    pooling: Pooling
    rank: int
    p_value: float
    false_alarm: float
    detectable_bias: float
    trajectories_needed: int
    fault: str | None

    @property
    def covariance(self) -> FloatArray | None:
        """(S, A, S, A) of one trajectory; SolveError where squares of rewards overflow."""
        return None if self.covariance_in_units is None or self.moments is None else self.moments.covariance()

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
    def _finding(self) -> str:
        if self.verdict != "disagrees":
            return self.verdict
        why = "and no known fault explains it" if self.fault is None else f"but agrees with {self.fault}"
        return f"{self.verdict}, {why}"

    @property
    def _test(self) -> str:
        """By what the p-value was found."""
        if not self.rank and self.judged.any():
            return "by the largest |z| alone"
        pool = self.pooling.pool[self.judged & (self.pooling.pool >= 0)]
        pools = np.unique(pool).size
        return f"on {self.rank} degrees of freedom" + (f" in {pools} pooled directions" if pools < pool.size else "")

    @property
    def agrees(self) -> bool:
        """Whether the sampled gradient was judged and not found to differ from the exact one."""
        return self.verdict == "agrees"

    @property
    def powerless(self) -> bool:
        """Whether it agrees, though a bias longer than the gradient itself might not have been found."""
        return self.agrees and self.detectable_bias > length(self.exact) > 0

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
        size = length(self.exact)
        share = f" ({self.detectable_bias / size:.2g} of the gradient's)" if size > 0 else ""
        counts = f"{np.count_nonzero(self.judged)} judged, "
        counts += f"{np.count_nonzero(self.settled)} cannot vary, {self.left_out} left out as too rare"
        lines = [
            f"{self._finding}: p = {self.p_value:.3g} {self._test}, false-alarm rate {self.false_alarm:g}",
            f"  exact gradient of length {size:.6g}, horizon {self.horizon}",
            f"  estimate from {e.n} trajectories" + (f" of {e.steps} steps" if e.steps else ""),
            f"  {self.exact.size} entries: {counts}",
        ]
        if self.judged.any():
            found = f"every bias of length {self.detectable_bias:.3g}{share} in them would be found with probability"
            lines.append(f"  of the judged: worst |z| {self.worst_z:.3g}; {found} {POWER:g}")
        if self.powerless:
            lines.append("  that is longer than the gradient itself: n is too small for the agreement to say much")
        if self.moments is None:
            lines.append("  no exact moments: the gradient itself is held against the estimate, with sampled errors")
        if self.verdict == "undecided":
            lines.append(f"  n is too small: try about {self.trajectories_needed} trajectories")
        if self.contradicted.any():
            s, a = np.argwhere(self.contradicted)[0]
            lines.append(
                f"  {np.count_nonzero(self.contradicted)} entries contradict the model outright, first [{s}, {a}]: "
                f"exact {self.exact[s, a]:.6g}, sampled {e.mean[s, a]:.6g}"
            )
        return "\n".join(fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def directions(expected: Contributions, *, known: bool) -> Pooling:
    """What is tested together: the entries with enough expected contributions, but the most variable of each state.

    Each row of a gradient sums to 0. Where all actions of a state are common the last follows from the others; where
    some are rare the sum of the common ones is theirs, as rare as they are, and does not belong into the test.
    A joint test needs many contributions for each direction, so that many entries share pools, scaled alike; that of
    Hotelling needs many blocks as well, and a `known` covariance is taken apart for at most POOLS directions.
    """
    total = expected.total
    follows = np.arange(total.shape[1]) == expected.second.argmax(axis=1)[:, None]
    tested = common(expected) & ~(follows & expected.centred)
    affordable = np.median(total[tested]) / CONTRIBUTIONS_A_DIRECTION if tested.any() else 1
    most = POOLS if known else min(expected.n, BLOCKS) / BLOCKS_A_DIRECTION
    return pooled(tested, max(1, int(min(affordable, most))), np.sqrt(expected.second))


def common(expected: Contributions) -> BoolArray:
    """The entries with enough expected contributions."""
    return (expected.total >= MIN_CONTRIBUTIONS) & (expected.distinct >= SURELY_SEEN)


class Varying(NamedTuple):
    """Which entries are `constant` in the limit of many trajectories, by which `margin` those vary all the same, and
    the `share` of each variance that is not in the limit."""

    constant: BoolArray
    margin: FloatArray
    share: FloatArray


def varying(
    expected: Contributions,
    moments: EstimatorMoments,
    covariance: FloatArray,
    limit: FloatArray | None,
    false_alarm: float,
) -> Varying:
    """What varies, by the exact covariance for n trajectories and in the limit.

    What is constant in the limit may vary by terms of order 1/n whose law is not normal: the margin is of Chebyshev.
    """
    deviation = moments.standard_deviation
    constant = (expected.total == 0) | (deviation <= expected.resolution)
    margin = np.where(constant, deviation, 0.0) * np.sqrt(deviation.size / (expected.n * false_alarm))
    return Varying(constant, margin, beyond_limit(covariance, limit))


def found_of_constants(margin: FloatArray, false_alarm: float) -> float:
    """The length of bias that takes some constant entry beyond its margin with POWER, by Chebyshev again."""
    return length((1.0 + np.sqrt(false_alarm / (1.0 - POWER))) * margin)


def by_covariance(
    difference: FloatArray,
    judged: BoolArray,
    pooling: Pooling,
    contributions: FloatArray,
    moments: EstimatorMoments,
    covariance: FloatArray,
    limit: FloatArray | None,
    *,
    n: int,
    false_alarm: float,
) -> Joint:
    """The test of `difference` (S, A) of the `judged` entries by the exact covariance of a mean of n.

    Chi-square, and the largest |z| beside it where directions are many or it guarantees nothing. What it would detect
    does not depend on the difference.
    """
    pooling = pooling._replace(pool=np.where(judged, pooling.pool, -1))
    many = np.unique(pooling.pool[pooling.pool >= 0]).size > FEW
    level = sidak_level(false_alarm, 2) if many else false_alarm
    leading, unit = None if limit is None else limit / n, moments.plan.unit
    joint = chi_square(difference / unit, covariance / n, pooling, contributions, level, leading)
    joint = joint._replace(detectable=unit * joint.detectable)
    if not many and np.isfinite(joint.detectable):
        return joint
    error = moments.standard_deviation / np.sqrt(n)
    return with_largest(joint, difference, error, judged, pooling, contributions, false_alarm)


def with_largest(
    joint: Joint,
    difference: FloatArray,
    error: FloatArray,
    judged: BoolArray,
    pooling: Pooling,
    contributions: FloatArray,
    false_alarm: float,
) -> Joint:
    """`joint` and a test of the largest |z| of the `judged` entries, at equal levels."""
    tested = judged & (pooling.pool >= 0)
    found = float("inf")
    if tested.any():
        critical = critical_z(sidak_level(sidak_level(false_alarm, 2), int(judged.sum())), contributions[tested])
        found = length((critical + special().ndtri(POWER)) * error[tested])
    single = largest(difference[judged] / error[judged], contributions[judged])
    return Joint(joint.rank, sidak(min(joint.p_value, single), 2), min(found, joint.detectable))


def judge(
    exact: FloatArray,
    estimate: GradientEstimate,
    pooling: Pooling,
    expected: Contributions,
    moments: EstimatorMoments | None,
    covariance: FloatArray | None,
    limit: FloatArray | None,
    *,
    horizon: Horizon,
    false_alarm: float,
) -> CrossCheck:
    """The verdict on an estimate, by a joint test of the pools of `directions(expected)`.

    `limit` is the `covariance` of many trajectories where that of n differs, each None where it is too large.
    """
    seen = (estimate.mean != 0) | (estimate.standard_error > 0)
    constant, margin, share = expected.total == 0, np.zeros(exact.shape), np.zeros(exact.shape)
    if moments is not None and covariance is not None:
        constant, margin, share = varying(expected, moments, covariance, limit, false_alarm)
    elif moments is not None and moments.at(None) is not moments:
        constant &= estimate.standard_error == 0
    equal = np.abs(estimate.mean - exact) <= np.maximum(expected.resolution, margin)
    contradicted = (constant & ~equal) | (~seen & ~equal & (expected.distinct >= SURELY_SEEN))
    settled = constant & equal
    contributions = np.minimum(expected.total, estimate.contributions)
    judged = common(expected) & (contributions >= MIN_CONTRIBUTIONS) & (estimate.n > 1)
    judged &= ~constant & (share <= SECOND_ORDER)
    error = estimate.standard_error
    if moments is not None and covariance is not None:
        error = moments.standard_deviation / np.sqrt(estimate.n)
    judged &= error > 0
    z = np.where(judged, (estimate.mean - exact) / np.where(judged, error, 1.0), 0.0)
    joint = Joint(0, float("nan"), float("inf"))
    if judged.any():
        difference, n = estimate.mean - exact, estimate.n
        if moments is not None and covariance is not None:
            joint = by_covariance(
                difference, judged, pooling, contributions, moments, covariance, limit, n=n, false_alarm=false_alarm
            )
        else:
            joint = hotelling(estimate, exact, judged, sidak_level(false_alarm, 2))
            joint = with_largest(joint, difference, error, judged, pooling, contributions, false_alarm)
    elif (settled | contradicted).all():
        joint = Joint(0, 1.0, found_of_constants(margin, false_alarm))
    enough = np.minimum(expected.total / MIN_CONTRIBUTIONS, expected.distinct / SURELY_SEEN)
    enough = np.minimum(enough, SECOND_ORDER / np.maximum(share, SECOND_ORDER**2)).max()
    return CrossCheck(
        exact,
        estimate,
        moments,
        covariance,
        horizon,
        np.ma.masked_array(z, mask=~judged),
        frozen(judged),
        frozen(settled),
        frozen(contradicted),
        pooling,
        joint.rank,
        0.0 if contradicted.any() else joint.p_value,
        false_alarm,
        joint.detectable,
        int(min(DEPENDENCE * expected.n / enough, 2.0**62)) if enough > 0 else 0,
        None,
    )
