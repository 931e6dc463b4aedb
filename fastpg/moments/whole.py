"""Moments of the whole return times the whole score, X = W sum_t (G - b(s_t)) z_t with W the product of the ratios.

With G = past + discount^t (what is still to come) each pair of steps needs the powers of the past up to a step and,
from there on, E W G^i and E W G^i Z for i = 0, 1, 2, Z the sum of the scores to come.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.moments.law import (
    Measure,
    Products,
    StepLaw,
    along_scores,
    centred,
    multiplied,
    own_block,
    score_blocks,
    score_sizes,
    solved,
    without,
)
from fastpg.moments.stepwise import Raw
from fastpg.sampling.plan import Plan
from fastpg.validation import FloatArray

# (i, j): E [past^i discount^(j t); at state s], summed over t where the process never stops by itself.
POWERS = ((0, 2), (0, 1), (0, 0), (1, 1), (1, 0), (2, 0))

Past = dict[tuple[int, int], FloatArray]


@dataclass(frozen=True, eq=False, repr=False)
class Ahead:
    """`g[i]` = E W G^i (S,) and `z[i]` = E W G^i Z (S, S, A) from each state on, i = 0, 1, 2."""

    g: list[FloatArray]
    z: list[FloatArray] | list[Products]


@dataclass(frozen=True, eq=False, repr=False)
class Whole:
    """The recursions of one estimator."""

    law: StepLaw
    discount: float
    survival: float
    horizon: int | None

    @classmethod
    def of(cls, plan: Plan, law: StepLaw) -> "Whole":
        """The recursions of a plan whose terms are `whole`."""
        return cls(law, plan.discount, plan.survival, None if isinstance(plan.horizon, str) else plan.horizon)

    @cached_property
    def mean_step(self) -> "Step":
        """Means are under this measure."""
        return Step(self.law.measure(1), self.law.credit, self.discount, self.survival)

    @cached_property
    def square_step(self) -> "Step":
        """Second moments are under this one."""
        if self.law.on_policy:
            return self.mean_step
        return Step(self.law.measure(2), self.law.credit, self.discount, self.survival)

    def growth(self, moment: int) -> Transition:
        """The matrix (S, S) whose spectral radius must be below 1 for first or second moments to be finite."""
        return (self.mean_step if moment == 1 else self.square_step).chain[0]

    def mean(self) -> FloatArray:
        """E X (S, A), without second moments."""
        step, b, total = self.mean_step, self.law.baseline, np.zeros(self.law.shape)
        for past, ahead in self._steps(step, scores=False):
            now = step.own(ahead.g)
            total += (past[1, 0] - b * past[0, 0])[:, None] * now[0] + past[0, 1][:, None] * now[1]
        return centred(self.law.pi, total)

    def raw(self, *, full: bool) -> Raw:
        """E X and E X X^T."""
        (S, A), b, step, pi = self.law.shape, self.law.baseline, self.square_step, self.law.pi
        blocks, product = np.zeros((S, A, A)), np.zeros((S, A, S, A)) if full else None
        states = np.arange(S)
        for past, ahead in self._steps(step, scores=True):
            now = step.own(ahead.g)
            even = past[2, 0] - 2 * b * past[1, 0] + b * b * past[0, 0]
            odd = 2 * (past[1, 1] - b * past[0, 1])
            weights = even[:, None] * now[0] + odd[:, None] * now[1] + past[0, 2][:, None] * now[2]
            own = score_blocks(pi, weights)
            blocks += own
            if product is None:
                later = step.own_blocks(ahead.z)
                both = even[:, None, None] * later[0] + odd[:, None, None] * later[1]
                both = centred(pi, both + past[0, 2][:, None, None] * later[2])
                blocks += both + both.swapaxes(1, 2)
                continue
            later = step.pairs(ahead.z)
            pair_sum, pair_product = b[:, None] + b, b[:, None] * b
            even = past[2, 0][:, None] - pair_sum * past[1, 0][:, None] + pair_product * past[0, 0][:, None]
            odd = 2 * past[1, 1][:, None] - pair_sum * past[0, 1][:, None]
            both = even[:, None, :, None] * later[0] + odd[:, None, :, None] * later[1]
            both = centred(pi, both + past[0, 2][:, None, None, None] * later[2])
            blocks += both[states, :, states] + both[states, :, states].swapaxes(1, 2)
            product += both + both.transpose(2, 3, 0, 1)
            product[states, :, states] += own
        return Raw(self.mean(), blocks, product)

    def parabola(self) -> tuple[FloatArray, FloatArray]:
        """(N, n), both (S,): the variances of the entries of s sum to n b^2 - 2 N b + ... with a baseline b(s)."""
        step, pi, size = self.square_step, self.law.pi, score_sizes(self.law.pi)
        N, n = np.zeros((2, pi.shape[0]))
        for past, ahead in self._steps(step, scores=True):
            own, later = step.own(ahead.g), step.own_blocks(ahead.z)
            once, weighted = ((size * own[i]).sum(axis=1) + 2 * along_scores(pi, later[i]) for i in (0, 1))
            N += past[1, 0] * once + past[0, 1] * weighted
            n += past[0, 0] * once
        return N, n

    def _steps(self, step: "Step", *, scores: bool) -> "Iterator[tuple[Past, Ahead]]":
        """The past of a step and what is ahead of it: for each number of steps to go, or once for all."""
        if self.horizon is None:
            yield step.past_of_all(self.law.start), step.fixed_point(self.law.pi, scores=scores)
            return
        S, A = self.law.shape
        zero = np.zeros(S)
        z = [np.zeros((S, S, A))] * 3 if scores else []
        ahead = Ahead([zero + 1.0, zero, zero], z)
        for past in reversed(step.past(self.law.start, self.horizon)):
            yield past, ahead
            ahead = step.earlier(self.law.pi, ahead)


class Step:
    """One step under a measure: powers of its credits, and what may or may not follow."""

    def __init__(self, measure: Measure, credit: FloatArray, discount: float, survival: float) -> None:
        self.measure = measure
        self.discount, self.survival = discount, survival
        powers = [np.ones(credit.size), credit, credit * credit]
        # What ends here by itself or by stopping contributes credits only.
        self.stops = [(1 - survival) * measure.total(x) + survival * measure.ending(x) for x in powers]
        self.onto: list[Transition] = [survival * measure.onto(x) for x in powers]
        self.chain: list[Transition] = [survival * measure.chain(x) for x in powers]

    def own(self, g: list[FloatArray]) -> list[FloatArray]:
        """E W (credit + discount G')^i of the step, its action known, shape (S, A)."""
        return [
            stop + np.asarray(sum(f * (self.onto[i] @ g[j]) for f, i, j in terms)).reshape(stop.shape)
            for stop, terms in zip(self.stops, self._binomial(), strict=True)
        ]

    def pairs(self, z: list[FloatArray] | list[Products]) -> list[FloatArray]:
        """E W (credit + discount G')^i Z' of the step, its action known, shape (S, A, S, A)."""
        tables = [multiplied(x) for x in z]
        S, _, A = tables[0].shape
        flat = [x.reshape(S, S * A) for x in tables]
        return [
            np.asarray(sum(f * (self.onto[i] @ flat[j]) for f, i, j in terms)).reshape(S, A, S, A)
            for terms in self._binomial()
        ]

    def own_blocks(self, z: list[FloatArray] | list[Products]) -> list[FloatArray]:
        """The part of `pairs` in the state of the step itself, shape (S, A, A)."""
        return [np.asarray(sum(f * own_block(self.onto[i], z[j]) for f, i, j in terms)) for terms in self._binomial()]

    def _binomial(self) -> list[list[tuple[float, int, int]]]:
        """(credit + discount G')^i as sums of factor credit^j G'^k."""
        d = self.discount
        return [[(1.0, 0, 0)], [(1.0, 1, 0), (d, 0, 1)], [(1.0, 2, 0), (2 * d, 1, 1), (d * d, 0, 2)]]

    def earlier(self, pi: FloatArray, ahead: Ahead) -> Ahead:
        """What is ahead with one more step to go."""
        now = self.own(ahead.g)
        if not ahead.z:
            return Ahead([x.sum(axis=1) for x in now], [])
        S, A = pi.shape
        flat, states = [np.reshape(x, (S, S * A)) for x in ahead.z], np.arange(S)
        z = []
        for own, terms in zip(now, self._binomial(), strict=True):
            x = np.asarray(sum(f * (self.chain[i] @ flat[j]) for f, i, j in terms)).reshape(S, S, A)
            x[states, states] += centred(pi, own)
            z.append(x)
        return Ahead([x.sum(axis=1) for x in now], z)

    def fixed_point(self, pi: FloatArray, *, scores: bool) -> Ahead:
        """What is ahead when the process never stops by itself: power after power."""
        zero = np.zeros(pi.shape[0])
        g = [zero, zero, zero]
        z: list[Products] = []
        for i, terms in enumerate(self._binomial()):
            factor = self.discount**i
            g[i] = solved(factor, self.chain[0], self.own(g)[i].sum(axis=1))
            if scores:
                D = linalg.inv(without(factor, self.chain[0]))
                through = [
                    (D @ sum(f * (self.chain[m] @ z[k][j][0]) for f, m, k in terms[:-1] if k >= j), z[j][j][1])
                    for j in range(i)
                ]
                z.append([*through, (D, centred(pi, self.own(g)[i]))])
        return Ahead(g, z)

    def past(self, start: FloatArray, steps: int) -> list[Past]:
        """The powers of the past at each step."""
        now = {(i, j): start if i == 0 else np.zeros(start.size) for i, j in POWERS}
        out = [now]
        for _ in range(1, steps):
            now = {key: self._moved(key, now) for key in POWERS}
            out.append(now)
        return out

    def _moved(self, key: tuple[int, int], past: Past) -> FloatArray:
        """E [past^i discount^(j t)] one step on."""
        moved = sum(factor * past[old] @ self.chain[i] for factor, i, old in _before(*key))
        return np.asarray(self.discount ** key[1] * moved)

    def past_of_all(self, start: FloatArray) -> Past:
        """The powers of the past summed over all steps."""
        total: Past = {}
        for key in POWERS:
            right = start if key[0] == 0 else np.zeros(start.size)
            scale = self.discount ** key[1]
            for factor, i, old in _before(*key)[1:]:
                right = right + scale * factor * (total[old] @ self.chain[i])
            total[key] = solved(scale, self.chain[0], right, transposed=True)
        return total


def _before(i: int, j: int) -> list[tuple[float, int, tuple[int, int]]]:
    """(past + discount^t credit)^i discount^(j t) as factors, powers of the credit and powers of the past."""
    terms = {0: [(1.0, 0)], 1: [(1.0, 0), (1.0, 1)], 2: [(1.0, 0), (2.0, 1), (1.0, 2)]}[i]
    return [(factor, m, (i - m, j + m)) for factor, m in terms]
