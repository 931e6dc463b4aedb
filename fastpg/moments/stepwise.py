"""Moments of estimators whose steps are worth what follows them: reward-to-go, plug-in tables, GAE, differences.

H = ratio (c + k H'),  X = ratio (z (e + k H') + g X'),  z the score of the step, primes one step later.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from scipy import linalg

from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.moments.law import Measure, StepLaw, centred, own_block, score_blocks, without
from fastpg.sampling.plan import Plan
from fastpg.validation import FloatArray


class Coefficients(NamedTuple):
    """E of the factors of what comes after a step, and of their products: they are 0 where the process stops."""

    k: float
    g: float
    kk: float
    kg: float
    gg: float


class Ahead(NamedTuple):
    """Conditional moments given a state: of H (S,), H^2 (S,), X (S, S, A) and H X (S, S, A)."""

    h: FloatArray
    h2: FloatArray
    x: FloatArray
    hx: FloatArray


class Raw(NamedTuple):
    """E X (S, A) and E X X^T, as its blocks (S, A, A) and, where it was asked for, whole (S, A, S, A)."""

    mean: FloatArray
    blocks: FloatArray
    product: FloatArray | None


@dataclass(frozen=True, eq=False, repr=False)
class Stepwise:
    """The recursions of one estimator."""

    plan: Plan
    law: StepLaw
    coefficients: Coefficients
    horizon: int | None

    # About how many numbers (S, S, A) are held at once.
    tables: ClassVar[int] = 8

    @classmethod
    def of(cls, plan: Plan, law: StepLaw) -> "Stepwise":
        """The recursions of a plan whose terms are not `whole`."""
        k, g, s = plan.discount * plan.terms.trace, plan.step_discount, plan.survival
        coefficients = Coefficients(k * s, g * s, k * k * s, k * g * s, g * g * s)
        return cls(plan, law, coefficients, None if isinstance(plan.horizon, str) else plan.horizon)

    @cached_property
    def e(self) -> FloatArray:
        """signal - baseline of each outcome."""
        return self.law.signal - self.law.baseline[self.law.state]

    @cached_property
    def mean_step(self) -> "Step":
        """Means are under this measure."""
        return Step.of(self.law.measure(1), self.law.credit, self.e)

    @cached_property
    def square_step(self) -> "Step":
        """Second moments are under this one."""
        return Step.of(self.law.measure(2), self.law.credit, self.e)

    def growth(self, moment: int) -> Transition:
        """The matrix (S, S) whose spectral radius must be below 1 for first or second moments to be finite."""
        if moment == 1:
            return self.coefficients.g * self.mean_step.chain
        return max(self.coefficients[2:]) * self.square_step.chain

    def mean(self) -> FloatArray:
        """E X (S, A), without second moments."""
        step, (k, g, *_) = self.mean_step, self.coefficients
        if self.horizon is None:
            d = linalg.solve(without(g, step.chain.T), self.law.start)
            return d[:, None] * self._worth(self._h())
        h, total = self.law.last, np.zeros(self.law.shape)
        for w in _forward(g * step.chain, self.law.start, self.horizon)[::-1]:
            total += w[:, None] * self._worth(h)
            h = step.credit + k * step.chain @ h
        return total

    def raw(self, *, full: bool) -> Raw:
        """E X and E X X^T."""
        S, A = self.law.shape
        K, gg = self.square_step.chain, self.coefficients.gg
        total = _Total(np.zeros((S, A, A)), np.zeros((S, A, S, A)) if full else None)
        if self.horizon is None:
            ahead = self._fixed_point()
            self._gather(linalg.solve(without(gg, K.T), self.law.start), ahead, total)
        else:
            ahead = Ahead(self.law.last, self.law.last**2, np.zeros((S, S, A)), np.zeros((S, S, A)))
            for w in _forward(gg * K, self.law.start, self.horizon)[::-1]:
                self._gather(w, ahead, total)
                ahead = self._earlier(ahead)
        return Raw(np.tensordot(self.law.start, ahead.x, axes=1), total.blocks, total.product)

    def _h(self) -> FloatArray:
        """E H when the process never stops by itself."""
        step = self.mean_step
        return np.asarray(linalg.solve(without(self.coefficients.k, step.chain), step.credit))

    def _worth(self, h: FloatArray) -> FloatArray:
        """E of ratio z (e + k H') at each state, shape (S, A)."""
        step = self.mean_step
        return centred(self.law.pi, step.signal + self.coefficients.k * _flat(step.onto @ h, self.law))

    def _sources(self, h: FloatArray, h2: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What a step adds: to H^2 (S,), to X X^T by psi (S, A) and to H X by y (S, A), given moments of H'."""
        step, (k, _, kk, _, _), c, e = self.square_step, self.coefficients, self.law.credit, self.e
        measure = step.measure
        of_h2 = kk * _flat(step.onto @ h2, self.law)
        c_h, e_h = k * _flat(step.onto_credit @ h, self.law), k * _flat(step.onto_signal @ h, self.law)
        h2_next = measure.total(c * c) + 2 * c_h + of_h2
        psi = measure.total(e * e) + 2 * e_h + of_h2
        return h2_next.sum(axis=1), psi, centred(self.law.pi, measure.total(c * e) + c_h + e_h + of_h2)

    def _fixed_point(self) -> Ahead:
        """The moments when the process never stops by itself."""
        (_, g, kk, kg, _), K = self.coefficients, self.square_step.chain
        h = self._h()
        h2 = linalg.solve(without(kk, K), self._sources(h, np.zeros(h.size))[0])
        p, y = self._worth(h), self._sources(h, h2)[2]
        D, D2 = linalg.inv(without(g, self.mean_step.chain)), linalg.inv(without(kg, K))
        through = g * (D2 @ (self.square_step.chain_credit @ D))
        return Ahead(h, h2, D[:, :, None] * p, D2[:, :, None] * y + through[:, :, None] * p)

    def _earlier(self, ahead: Ahead) -> Ahead:
        """The moments with one more step to go."""
        (k, g, _, kg, _), first, second = self.coefficients, self.mean_step, self.square_step
        (S, A), own = self.law.shape, np.arange(self.law.shape[0])
        h2, _, y = self._sources(ahead.h, ahead.h2)
        flat_x, flat_hx = ahead.x.reshape(S, S * A), ahead.hx.reshape(S, S * A)
        x = (g * (first.chain @ flat_x)).reshape(S, S, A)
        x[own, own] += self._worth(ahead.h)
        hx = (g * (second.chain_credit @ flat_x) + kg * (second.chain @ flat_hx)).reshape(S, S, A)
        hx[own, own] += y
        return Ahead(first.credit + k * (first.chain @ ahead.h), h2, x, hx)

    def _gather(self, w: FloatArray, ahead: Ahead, total: "_Total") -> None:
        """Add what steps from states with weight w (S,) have in E X X^T: with themselves and with what follows."""
        (_, g, _, kg, _), step = self.coefficients, self.square_step
        own = w[:, None, None] * score_blocks(self.law.pi, self._sources(ahead.h, ahead.h2)[1])
        total.add(own, w, self.law.pi, ((g, step.onto_signal, ahead.x), (kg, step.onto, ahead.hx)))


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """The sums over the outcomes of a step that recursions use."""

    measure: Measure
    credit: FloatArray
    signal: FloatArray
    onto: Transition
    onto_credit: Transition
    onto_signal: Transition
    chain: Transition
    chain_credit: Transition

    @classmethod
    def of(cls, measure: Measure, c: FloatArray, e: FloatArray) -> "Step":
        """Sums with credits c and signals e."""
        return cls(
            measure, measure.total(c).sum(axis=1), measure.total(e),
            measure.onto(), measure.onto(c), measure.onto(e), measure.chain(), measure.chain(c),
        )  # fmt: skip


def _flat(x: FloatArray, law: StepLaw) -> FloatArray:
    return np.asarray(x).reshape(law.shape)


class _Total(NamedTuple):
    """E X X^T as it is summed."""

    blocks: FloatArray
    product: FloatArray | None

    def add(
        self, own: FloatArray, w: FloatArray, pi: FloatArray, later: tuple[tuple[float, Transition, FloatArray], ...]
    ) -> None:
        """`own` (S, A, A), and u X'^T + X' u^T for a sum of factor * matrix (S A, S) @ moments (S, S, A)."""
        S, A = pi.shape
        self.blocks[...] += own
        if self.product is None:
            both = (
                centred(pi, np.asarray(sum(factor * own_block(matrix, x) for factor, matrix, x in later)))
                * w[:, None, None]
            )
            self.blocks[...] += both + both.swapaxes(1, 2)
            return
        both = np.asarray(sum(factor * (matrix @ x.reshape(S, S * A)) for factor, matrix, x in later)).reshape(
            S, A, S, A
        )
        both = centred(pi, both) * w[:, None, None, None]
        states = np.arange(S)
        self.blocks[...] += both[states, :, states] + both[states, :, states].swapaxes(1, 2)
        self.product[...] += both + both.transpose(2, 3, 0, 1)
        self.product[states, :, states] += own


def _forward(K: Transition, start: FloatArray, steps: int) -> FloatArray:
    """start K^t for t = 0 .. steps - 1, shape (steps, S)."""
    out = np.empty((steps, start.size))
    out[:1] = start
    for t in range(1, steps):
        out[t] = out[t - 1] @ K
    return out
