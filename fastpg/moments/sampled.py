"""Moments of what n trajectories say together, where that is no plain mean, and of estimates with weights of their own.

To second order a function of means is the mean of one trajectory's part u, and a product of two means:

    n Cov(X) = Cov(u) + share (Var(R) Cov(Z) + q q^T),  q = Cov(R, Z)

Batch average, X = mean Y - mean R mean Z: exactly so, with mu = E R, zeta = E Z (0 but for wrong ratios) and

    u = Y - a mu Z - (1 - a) R Z - a (R - mu) zeta,   a = 1 - 1/n,  share = (n - 1) / n^2,
    u the same with a = 1,                                         share = 1 / (n - 1)  for leave-one-out.

Self-normalised, X = mean W Y / mean W: in the limit of many trajectories, with omega = E W and g = E W Y / omega,

    u = W (Y - g) / omega,  E X = g - (E W^2 Y - g E W^2) / (omega^2 n) + O(1/n^2),  share = 0.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fastpg.errors import InvalidArgument
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.moments.law import StepLaw
from fastpg.moments.linear import Channels, Combination, Linear, Pair, add, add_outer
from fastpg.moments.stepwise import Raw
from fastpg.sampling.plan import Plan
from fastpg.validation import FloatArray


class Parts(NamedTuple):
    """The channels of one trajectory: Y as a combination of vectors, and the indices of W, R, Z and R Z."""

    channels: Channels
    estimate: Combination
    weight: int
    income: int
    scores: int
    product: int


def parts(plan: Plan, law: StepLaw, *, products: bool, shift: float) -> Parts:
    """The channels of a plan, `shift` added to its baseline; with `products` that of R Z as well."""
    channels, rho, discount = Channels(law), law.ratio, plan.discount
    S = law.states.size
    always, never = np.ones(S), np.zeros(S)
    weight = channels.scalar({}, rho, 1.0, always) if plan.joint else 0
    worth = channels.scalar({weight: rho * law.credit}, rho * plan.decay, 0.0, law.last)
    baseline = law.baseline[law.state]
    estimate, scores, income, both = {}, 0, 0, 0
    fading = 1.0 if plan.terms.whole else plan.step_discount
    if plan.terms.whole or plan.terms.income is not None or shift:
        scores = channels.vector({weight: rho}, {}, rho * fading)
    if plan.terms.whole:
        own = {weight: rho * law.credit, worth: rho * discount}
        estimate[channels.vector(own, {scores: rho * law.credit}, rho * discount)] = 1.0
        if baseline.any():
            estimate[channels.vector({weight: rho * baseline}, {}, rho)] = -1.0
    else:
        own = {weight: rho * (law.signal - baseline), worth: rho * plan.decay}
        estimate[channels.vector(own, {}, rho * fading)] = 1.0
    if shift:
        estimate[scores] = -shift
    if plan.terms.income is not None:
        r, square = law.income, rho * rho
        income = channels.scalar({weight: rho * r}, rho * discount, 0.0, never)
        if products:
            # With W in both R and Z their product has W^2, and so have its parts.
            weights, incomes, alone = 0, income, scores
            if plan.joint:
                weights = channels.scalar({}, square, 1.0, always)
                incomes = channels.scalar({weights: square * r}, square * discount, 0.0, never)
                alone = channels.vector({weights: square}, {}, square * fading)
            own = {weights: square * r, incomes: square * discount}
            both = channels.vector(own, {alone: square * r * fading}, square * discount * fading)
    return Parts(channels, estimate, weight, income, scores, both)


@dataclass(frozen=True, eq=False, repr=False)
class Sampled:
    """The moments of the estimate from `n` trajectories; None stands for the limit of many."""

    plan: Plan
    law: StepLaw
    n: int | None
    shift: float = 0.0

    @classmethod
    def of(cls, plan: Plan, law: StepLaw, n: int | None) -> "Sampled":
        """The moments of a plan; InvalidArgument where one trajectory is to leave itself out."""
        if plan.terms.leave_one_out and n == 1:
            raise InvalidArgument("leave_one_out averages the other trajectories: n must be at least 2 but is 1")
        return cls(plan, law, n)

    @property
    def horizon(self) -> int | None:
        """Steps; None where the process stops by itself or never."""
        return None if isinstance(self.plan.horizon, str) else self.plan.horizon

    def room(self, moment: int, *, full: bool = False) -> int:  # noqa: ARG002
        """About how many numbers a moment holds at once."""
        (S, A), steps = self.law.shape, self.horizon or 0
        if moment == 1:
            return S * steps
        return S * max(6 * len(self._parts.channels.own) * S * A, 6 * steps)

    def at(self, n: int | None) -> "Sampled":
        """The same of n trajectories, None the limit of many."""
        return Sampled.of(self.plan, self.law, n)

    @property
    def depends(self) -> bool:
        """Whether n makes a difference."""
        return self._averages or self.plan.normalised

    @property
    def bent(self) -> bool:
        """Whether the mean has second moments in it."""
        return self.plan.normalised and self.n is not None

    def growth(self, moment: int) -> Transition:
        """The matrix (S, S) whose spectral radius must be below 1 for first or second moments to be finite."""
        alone = [{self._parts.scores: 1.0}] if self._share > 0 else []
        return self._linear.growth([dict.fromkeys(self._vectors, 1.0), *alone], *self._mixed, first=moment == 1)

    def mean(self) -> FloatArray:
        """E X (S, A); of self-normalised weights to order 1/n."""
        if not self.plan.normalised:
            return self._mean_part
        if not self.bent:
            return self._limit
        hh, hx = self._mixed
        found, weight, omega = self._linear.second([], hh, hx, full=False), self._parts.weight, self._mean_weight
        both = sum(x * found.hx[weight, j] for j, x in self._parts.estimate.items())
        return self._limit - (both - self._limit * found.hh[weight, weight]) / (omega**2 * (self.n or 1))

    def raw(self, *, full: bool) -> Raw:
        """E u and E u u^T, with the share that the product of two means has."""
        part, p = self._part(self._mean_income), self._parts
        alone = [{p.scores: 1.0}] if self._share > 0 else []
        found = self._linear.second([part, *alone], *self._mixed, full=full)
        total = found.products[0]
        for i, c in self._constants.items():
            mixed = np.asarray(sum(x * found.hx[i, j] for j, x in part.items()))
            add_outer(total, mixed, c)
            add_outer(total, c, mixed)
            for k, other in self._constants.items():
                add_outer(total, found.hh[min(i, k), max(i, k)] * c, other)
        if alone:
            mu, zeta = self._mean_income, self._mean_scores
            q = found.hx[p.income, p.scores] - mu * zeta
            spread = self._share * (found.hh[p.income, p.income] - mu * mu)
            add(total, spread, found.products[1])
            add_outer(total, -spread * zeta, zeta)
            add_outer(total, self._share * q, q)
        return Raw(np.zeros(self.law.shape) if self.plan.normalised else self._mean_part, *total)

    def parabola(self) -> tuple[FloatArray, FloatArray]:
        """(N, n), both (S,): the variances of the entries of s sum to n b^2 - 2 N b + ... with a baseline b(s).

        From those at -1, 0 and 1, in units of the rewards.
        """

        def spread(b: float) -> FloatArray:
            raw = replace(self, shift=b).raw(full=False)
            return np.asarray(np.trace(raw.blocks, axis1=1, axis2=2))

        below, at, above = spread(-1.0), spread(0.0), spread(1.0)
        return (below - above) / 4, (below - 2 * at + above) / 2

    @cached_property
    def _parts(self) -> Parts:
        return parts(self.plan, self.law, products=self._takes_part, shift=self.shift)

    @cached_property
    def _linear(self) -> Linear:
        return Linear(self.law, self._parts.channels, self.plan.survival, self.horizon)

    @property
    def _averages(self) -> bool:
        return self.plan.terms.income is not None

    @property
    def _takes_part(self) -> bool:
        """Whether a trajectory takes part in its own baseline."""
        return self._averages and self.n is not None and not self.plan.terms.leave_one_out

    @property
    def _share(self) -> float:
        """Of the product of two means in n Cov(X)."""
        if self.n is None or not self._averages:
            return 0.0
        return (self.n - 1) / self.n**2 if self._takes_part else 1.0 / (self.n - 1)

    @property
    def _others(self) -> float:
        """The share that other trajectories have in the baseline of one, a."""
        return 1.0 - 1.0 / self.n if self._takes_part and self.n else 1.0

    def _part(self, mean_income: float) -> Combination:
        """u without what is constant in it but for a scalar."""
        p, a = self._parts, self._others
        if self.plan.normalised:
            return {j: x / self._mean_weight for j, x in p.estimate.items()}
        own = {p.product: a - 1.0} if self._takes_part else {}
        return p.estimate | {p.scores: -a * mean_income} | own if self._averages else p.estimate

    @property
    def _vectors(self) -> Combination:
        """Those that `_part` is made of."""
        p = self._parts
        averaged = {p.scores: 1.0} | ({p.product: 1.0} if self._takes_part else {})
        return p.estimate | averaged if self._averages else p.estimate

    @cached_property
    def _constants(self) -> dict[int, FloatArray]:
        """The vectors (S, A) in u that scalars multiply."""
        p, a = self._parts, self._others
        if self.plan.normalised:
            return {p.weight: -self._limit / self._mean_weight}
        zeta = self._mean_scores
        return {p.income: -a * zeta, 0: a * self._mean_income * zeta} if zeta.any() else {}

    @cached_property
    def _mixed(self) -> tuple[list[Pair], list[Pair]]:
        """The moments of scalars, and of scalars and vectors, that are used from the start."""
        p, hh, hx = self._parts, set(), set()
        if self.plan.normalised:
            hh, hx = {(p.weight, p.weight)}, {(p.weight, j) for j in p.estimate}
        elif self._wrong:
            hh = {(0, 0), (0, p.income), (p.income, p.income)}
            hx = {(i, j) for i in (0, p.income) for j in self._vectors}
        if self._share > 0:
            hh, hx = hh | {(p.income, p.income)}, hx | {(p.income, p.scores)}
        return sorted(hh), sorted(hx)

    @property
    def _wrong(self) -> bool:
        """Whether ratios are so wrong that the mean score of an average is not 0."""
        return self._averages and self.plan.terms.ratio_power != 1

    @cached_property
    def _mean_part(self) -> FloatArray:
        """E u (S, A)."""
        return self._linear.mean(self._part(self._mean_income))

    @cached_property
    def _mean_income(self) -> float:
        """The mean of R, mu."""
        return self._linear.expected(self._parts.income) if self._averages else 0.0

    @cached_property
    def _mean_weight(self) -> float:
        """The mean of W, omega."""
        return self._linear.expected(self._parts.weight)

    @cached_property
    def _mean_scores(self) -> FloatArray:
        """The mean of Z (S, A), zeta."""
        return self._linear.mean({self._parts.scores: 1.0}) if self._wrong else np.zeros(self.law.shape)

    @cached_property
    def _limit(self) -> FloatArray:
        """The mean of W Y over that of W, g."""
        return self._linear.mean(self._parts.estimate) / self._mean_weight
