"""The verdict on an estimate: which entries are judged, by which test, and what it says."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastpg.errors import Disagreement
from fastpg.judgement import (
    MIN_CONTRIBUTIONS,
    POWER,
    SECOND_ORDER,
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
from fastpg.sampling.estimate import BLOCKS, GradientEstimate, Pooling, pooled
from fastpg.sampling.tables import Horizon
from fastpg.validation import BoolArray, FloatArray, frozen

# An event that so many distinct trajectories should have had is missed by all of them with probability exp(-30).
SURELY_SEEN = 30
# More directions than this allows would make the joint test reject too often.
CONTRIBUTIONS_A_DIRECTION = 20
BLOCKS_A_DIRECTION = 16
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
    `rank`                int     degrees of freedom of the joint test
    `p_value`             float   of the chi-square test of the judged entries together with their exact covariance;
                                  where entries share pools, or the covariance is sampled, of the joint test and the
                                  largest |z| combined; 0 where an entry is contradicted, nan where nothing is judged
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
            f"{self._finding}: p = {self.p_value:.3g} on {self.rank} degrees of freedom, false-alarm rate "
            f"{self.false_alarm:g}",
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
        return "\n".join(lines)


def directions(expected: Contributions) -> Pooling:
    """What is tested together: the entries with enough expected contributions, but the most variable of each state.

    Each row of a gradient sums to 0. Where all actions of a state are common the last follows from the others; where
    some are rare the sum of the common ones is theirs, as rare as they are, and does not belong into the test.
    Hotelling's test needs many contributions for each direction, so that many entries share pools, scaled alike.
    """
    total = expected.total
    most = np.arange(total.shape[1]) == expected.second.argmax(axis=1)[:, None]
    tested = _common(expected) & ~(most & expected.centred)
    affordable = np.median(total[tested]) / CONTRIBUTIONS_A_DIRECTION if tested.any() else 1
    blocks = min(expected.n, BLOCKS)
    return pooled(tested, max(1, int(min(affordable, blocks / BLOCKS_A_DIRECTION))), np.sqrt(expected.second))


def _common(expected: Contributions) -> BoolArray:
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


def judge(
    exact: FloatArray,
    estimate: GradientEstimate,
    expected: Contributions,
    moments: EstimatorMoments | None,
    covariance: FloatArray | None,
    limit: FloatArray | None,
    *,
    horizon: Horizon,
    false_alarm: float,
) -> CrossCheck:
    """The verdict on an estimate that was pooled into `directions(expected)`.

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
    judged = _common(expected) & (contributions >= MIN_CONTRIBUTIONS) & (estimate.n > 1)
    judged &= ~constant & (share <= SECOND_ORDER)
    error = estimate.standard_error
    if moments is not None and covariance is not None:
        error = moments.standard_deviation / np.sqrt(estimate.n)
    judged &= error > 0
    z = np.where(judged, (estimate.mean - exact) / np.where(judged, error, 1.0), 0.0)
    rank, p_value, detectable = 0, float("nan"), float("inf")
    if judged.any():
        tested = judged & (estimate.pooling.pool >= 0)
        if moments is not None and covariance is not None:
            pooling = estimate.pooling._replace(pool=np.where(judged, estimate.pooling.pool, -1))
            difference = (estimate.mean - exact) / moments.plan.unit
            leading = None if limit is None else limit / estimate.n
            joint = chi_square(difference, covariance / estimate.n, pooling, contributions, false_alarm, leading)
            rank, p_value, detectable = joint.rank, joint.p_value, moments.plan.unit * joint.detectable
        if not np.isfinite(detectable):
            # Two tests at equal levels, the second of as many entries as are judged.
            level = sidak_level(false_alarm, 2)
            if covariance is None:
                joint = hotelling(estimate, exact, judged, level)
            single = largest(z[judged], contributions[judged])
            critical = critical_z(sidak_level(level, int(judged.sum())), contributions[tested])
            found = length((critical + special().ndtri(POWER)) * error[tested])
            rank, p_value, detectable = joint.rank, sidak(min(joint.p_value, single), 2), min(found, joint.detectable)
    elif (settled | contradicted).all():
        p_value, detectable = 1.0, found_of_constants(margin, false_alarm)
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
        rank,
        0.0 if contradicted.any() else p_value,
        false_alarm,
        detectable,
        int(min(DEPENDENCE * expected.n / enough, 2.0**62)) if enough > 0 else 0,
        None,
    )
