"""Moments of estimators whose steps are worth what follows them: reward-to-go, plug-in tables, GAE, differences.

H = ratio (c + k H'),  X = ratio (z (e + k H') + g X'),  z the score of the step, primes one step later.
"""

from dataclasses import dataclass
from typing import NamedTuple

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
    own_entry,
    score_blocks,
    score_sizes,
    solved,
    without,
)
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
    x: FloatArray | Products
    hx: FloatArray | Products


# factor * matrix (S A, S) @ moments (S, S, A).
Later = tuple[float, Transition, FloatArray | Products]


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

    @classmethod
    def of(cls, plan: Plan, law: StepLaw) -> "Stepwise":
        """The recursions of a plan whose terms are not `whole`."""
        k, g, s = plan.discount * plan.terms.trace, plan.step_discount, plan.survival
        coefficients = Coefficients(k * s, g * s, k * k * s, k * g * s, g * g * s)
        return cls(plan, law, coefficients, None if isinstance(plan.horizon, str) else plan.horizon)

    def room(self, moment: int, *, full: bool = False) -> int:
        """About how many numbers a moment holds at once."""
        (S, A), steps = self.law.shape, self.horizon or 0
        if moment == 1:
            return S * steps
        # Of an endless process (S, S) matrices are enough, else there is a handful of (S, S, A) tables.
        row = 8 * S * A if full else (8 + 4 * A * self.law.is_dense) * S
        return S * max(row, (5 * A + 6) * steps)

    @cached_property
    def e(self) -> FloatArray:
        """signal - baseline of each outcome."""
        return self.law.signal - self.law.baseline[self.law.state]

    @cached_property
    def mean_step(self) -> "Step":
        """Means are under this measure."""
        return Step(self.law.measure(1), self.law.credit, self.e)

    @cached_property
    def square_step(self) -> "Step":
        """Second moments are under this one."""
        return self.mean_step if self.law.on_policy else Step(self.law.measure(2), self.law.credit, self.e)

    def growth(self, moment: int) -> Transition:
        """The matrix (S, S) whose spectral radius must be below 1 for first or second moments to be finite."""
        if moment == 1:
            return self.coefficients.g * self.mean_step.chain
        return max(self.coefficients[2:]) * self.square_step.chain

    def mean(self) -> FloatArray:
        """E X (S, A), without second moments."""
        step, (k, g, *_) = self.mean_step, self.coefficients
        if self.horizon is None:
            d = solved(g, step.chain, self.law.start, transposed=True)
            return d[:, None] * self._worth(self._h)
        h, total = self.law.last, np.zeros(self.law.shape)
        for w in _forward(g * step.chain, self.law.start, self.horizon)[::-1]:
            total += w[:, None] * self._worth(h)
            h = step.credit + k * step.chain @ h
        return total

    def raw(self, *, full: bool) -> Raw:
        """E X and E X X^T."""
        S, A = self.law.shape
        K, gg = self.square_step.chain, self.coefficients.gg
        total = Total(np.zeros((S, A, A)), np.zeros((S, A, S, A)) if full else None)
        if self.horizon is None:
            self._gather(solved(gg, K, self.law.start, transposed=True), self._fixed_point(), total)
        elif not full:
            self._add_blocks(_forward(gg * K, self.law.start, self.horizon)[::-1], total)
        else:
            ahead = self._at_the_end()
            for w in _forward(gg * K, self.law.start, self.horizon)[::-1]:
                self._gather(w, ahead, total)
                ahead = self._earlier(ahead, self._sources(ahead.h, ahead.h2)[2])
        return Raw(self.mean(), total.blocks, total.product)

    def parabola(self) -> tuple[FloatArray, FloatArray]:
        """(N, n), both (S,): the variances of the entries of s sum to n b^2 - 2 N b + ... with a baseline b(s).

        For e without one. Ahead, H X stands for what is taken from it, in the entries of a state, by a baseline of 1.
        """
        (k, g, _, kg, gg), step, pi = self.coefficients, self.square_step, self.law.pi
        K, size, ones = step.chain, score_sizes(pi), step.measure.total()
        N, n = np.zeros((2, pi.shape[0]))

        def add(w: FloatArray, ahead: Ahead) -> None:
            later = g * own_block(step.onto, ahead.x) + kg * own_block(step.onto, ahead.hx)
            worth = step.signal + k * _flat(step.onto @ ahead.h, self.law)
            N[...] += w * ((size * worth).sum(axis=1) + along_scores(pi, later))
            n[...] += w * (size * ones).sum(axis=1)

        def change(h: FloatArray) -> FloatArray:
            return centred(pi, step.credit_of_action + k * _flat(step.onto @ h, self.law))

        if self.horizon is None:
            h = self._h
            D = linalg.inv(without(g, self.mean_step.chain))
            D2 = D if kg == g and self.law.on_policy else linalg.inv(without(kg, K))
            ahead = Ahead(h, h, [(D, self._worth(h))], [(D2, change(h))])
            add(solved(gg, K, self.law.start, transposed=True), ahead)
            return N, n
        ahead = self._at_the_end()
        for w in _forward(gg * K, self.law.start, self.horizon)[::-1]:
            add(w, ahead)
            ahead = self._earlier(ahead, change(ahead.h), credited=False)
        return N, n

    def _add_blocks(self, w: FloatArray, total: "Total") -> None:
        """Add the blocks of E X X^T, of steps from states with weights w (T, S) that have 0, 1, ... steps to go.

        With t of them E X(s) from a state k is the sum over i < t of (g K)^(t-1-i)(k, s) p_i(s), p_i what is worth a
        step with i after it, and E H X(s) such sums of y_i, and by (k g K)^m g C (g K)^n of p_i. Blocks need the
        (S, A) entries of these matrices by which a state returns to itself, not their products with p and y.
        """
        (_, g, _, kg, _), first, second = self.coefficients, self.mean_step, self.square_step
        T, (S, A) = len(w), self.law.shape
        p, y, psi = np.empty((3, T, S, A))
        h, h2 = self.law.last, self.law.last**2
        for i in range(T):
            p[i] = self._worth(h)
            h2_earlier, psi[i], y[i] = self._sources(h, h2)
            h, h2 = first.credit + self.coefficients.k * (first.chain @ h), h2_earlier
        of_p, of_y = np.zeros((2, T, S, A))
        D, D2, through = np.eye(S), np.eye(S), np.zeros((S, S))
        for j in range(T - 1):
            of_p[j] = g * own_entry(second.onto_signal, D) + kg * own_entry(second.onto, through)
            of_y[j] = kg * own_entry(second.onto, D2)
            through = kg * (second.chain @ through) + g * (second.chain_credit @ D)
            D = g * (first.chain @ D)
            D2 = D if kg == g and self.law.on_policy else kg * (second.chain @ D2)
        later = np.zeros((S, A, A))
        for i in range(T - 1):
            for back, worth in ((of_p, p[i]), (of_y, y[i])):
                after = np.einsum("ts,tsa->sa", w[i + 1 :], back[: T - 1 - i])
                later += after[:, :, None] * worth[:, None, :]
        both = centred(self.law.pi, later)
        total.blocks[...] += score_blocks(self.law.pi, np.einsum("ts,tsa->sa", w, psi)) + both + both.swapaxes(1, 2)

    @cached_property
    def _h(self) -> FloatArray:
        """E H when the process never stops by itself."""
        step = self.mean_step
        return solved(self.coefficients.k, step.chain, step.credit)

    def _worth(self, h: FloatArray) -> FloatArray:
        """E of ratio z (e + k H') at each state, shape (S, A)."""
        step = self.mean_step
        return centred(self.law.pi, step.signal + self.coefficients.k * _flat(step.onto @ h, self.law))

    def _sources(self, h: FloatArray, h2: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What a step adds: to H^2 (S,), to X X^T by psi (S, A) and to H X by y (S, A), given moments of H'."""
        step, (k, _, kk, _, _) = self.square_step, self.coefficients
        of_h2 = kk * _flat(step.onto @ h2, self.law)
        c_h, e_h = k * _flat(step.onto_credit @ h, self.law), k * _flat(step.onto_signal @ h, self.law)
        cc, ce, ee = step.squares
        psi = ee + 2 * e_h + of_h2
        return (cc + 2 * c_h + of_h2).sum(axis=1), psi, centred(self.law.pi, ce + c_h + e_h + of_h2)

    def _fixed_point(self) -> Ahead:
        """The moments when the process never stops by itself."""
        (_, g, kk, kg, _), K = self.coefficients, self.square_step.chain
        h = self._h
        h2 = solved(kk, K, self._sources(h, np.zeros(h.size))[0])
        p, y = self._worth(h), self._sources(h, h2)[2]
        D, D2 = linalg.inv(without(g, self.mean_step.chain)), linalg.inv(without(kg, K))
        through = g * (D2 @ (self.square_step.chain_credit @ D))
        return Ahead(h, h2, [(D, p)], [(D2, y), (through, p)])

    def _at_the_end(self) -> Ahead:
        """The moments with no step to go."""
        (S, A), last = self.law.shape, self.law.last
        return Ahead(last, last**2, np.zeros((S, S, A)), np.zeros((S, S, A)))

    def _earlier(self, ahead: Ahead, y: FloatArray, *, credited: bool = True) -> Ahead:
        """The moments with one more step to go, where a step adds y (S, A) to H X and, if `credited`, credit X'."""
        (k, g, _, kg, _), first, second = self.coefficients, self.mean_step, self.square_step
        (S, A), own = self.law.shape, np.arange(self.law.shape[0])
        flat_x, flat_hx = np.reshape(ahead.x, (S, S * A)), np.reshape(ahead.hx, (S, S * A))
        x = (g * (first.chain @ flat_x)).reshape(S, S, A)
        x[own, own] += self._worth(ahead.h)
        flat_hx = kg * (second.chain @ flat_hx) + (g * (second.chain_credit @ flat_x) if credited else 0.0)
        hx = flat_hx.reshape(S, S, A)
        hx[own, own] += y
        h2 = self._sources(ahead.h, ahead.h2)[0]
        return Ahead(first.credit + k * (first.chain @ ahead.h), h2, x, hx)

    def _gather(self, w: FloatArray, ahead: Ahead, total: "Total") -> None:
        """Add what steps from states with weight w (S,) have in E X X^T: with themselves and with what follows."""
        (_, g, _, kg, _), step = self.coefficients, self.square_step
        own = w[:, None, None] * score_blocks(self.law.pi, self._sources(ahead.h, ahead.h2)[1])
        total.add(own, w, self.law.pi, ((g, step.onto_signal, ahead.x), (kg, step.onto, ahead.hx)))


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """The sums over the outcomes of a step that recursions use, with credits c and signals e."""

    measure: Measure
    c: FloatArray
    e: FloatArray

    @cached_property
    def credit_of_action(self) -> FloatArray:
        """E c (S, A)."""
        return self.measure.total(self.c)

    @cached_property
    def credit(self) -> FloatArray:
        """E c (S,)."""
        return np.asarray(self.credit_of_action.sum(axis=1))

    @cached_property
    def signal(self) -> FloatArray:
        """E e (S, A)."""
        return self.measure.total(self.e)

    @cached_property
    def squares(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """E c c, E c e, E e e (S, A)."""
        c, e, total = self.c, self.e, self.measure.total
        return total(c * c), total(c * e), total(e * e)

    @cached_property
    def onto(self) -> Transition:
        """(S A, S)."""
        return self.measure.onto()

    @cached_property
    def onto_credit(self) -> Transition:
        """With c."""
        return self.measure.onto(self.c)

    @cached_property
    def onto_signal(self) -> Transition:
        """With e."""
        return self.measure.onto(self.e)

    @cached_property
    def chain(self) -> Transition:
        """(S, S)."""
        return self._over_actions(self.onto, 1.0)

    @cached_property
    def chain_credit(self) -> Transition:
        """With c."""
        return self._over_actions(self.onto_credit, self.c)

    def _over_actions(self, onto: Transition, x: FloatArray | float) -> Transition:
        S = onto.shape[1]
        return onto.reshape(S, -1, S).sum(axis=1) if isinstance(onto, np.ndarray) else self.measure.chain(x)


def _flat(x: FloatArray, law: StepLaw) -> FloatArray:
    return np.asarray(x).reshape(law.shape)


class Total(NamedTuple):
    """E X X^T as it is summed."""

    blocks: FloatArray
    product: FloatArray | None

    def add(
        self,
        own: FloatArray,
        w: FloatArray,
        pi: FloatArray,
        later: tuple[tuple[float, Transition, FloatArray | Products], ...],
    ) -> None:
        """`own` (S, A, A), and u X'^T + X' u^T for the sum of `later`."""
        S, A = pi.shape
        self.blocks[...] += own
        if self.product is None:
            both = (
                centred(pi, np.asarray(sum(factor * own_block(matrix, x) for factor, matrix, x in later)))
                * w[:, None, None]
            )
            self.blocks[...] += both + both.swapaxes(1, 2)
            return
        terms = (factor * (matrix @ multiplied(x).reshape(S, S * A)) for factor, matrix, x in later)
        both = np.asarray(sum(terms)).reshape(S, A, S, A)
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
