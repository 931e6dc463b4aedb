"""Moments of estimators that perturb the logits, from those of the returns of every perturbed policy.

With V and A those of the policy itself, the return of a perturbed policy, less V of the first state, is the return of
the rewards r + discount V(s') - V(s). Its first moment is the performance difference, in which only the change of
the policy counts, so that no digits are lost however small the perturbation is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from fastpg.errors import NoExactMoments
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.moments.law import DENSE
from fastpg.moments.stepwise import Raw
from fastpg.sampling.coupled import coupled_moments
from fastpg.sampling.directions import Enumeration
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.validation import FloatArray

# Policies are perturbed so many at a time that an array over them, the states and the actions has this many numbers.
CHUNK = 4_000_000
# Multiplications that are worth it: about a minute.
MOST_WORK = 1e11


@dataclass(frozen=True, eq=False, repr=False)
class Steps:
    """The outcomes of the states that are reached, numbered anew; `successor` is -1 where the process ends.

    `probability` is P(k|s,a), and `pi` (S, A) the policy that is perturbed.
    """

    states: npt.NDArray[np.int64]
    pair: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    successor: npt.NDArray[np.int64]
    probability: FloatArray
    reward: FloatArray
    pi: FloatArray
    start: FloatArray

    @classmethod
    def of(cls, plan: PerturbedPlan) -> "Steps":
        """Of the states that the start leads to; rewards in units of the plan."""
        mdp, table, pairs = plan.mdp, plan.table, plan.pairs
        S, A = mdp.n_states, mdp.n_actions
        states = pairs.reached
        index = np.full(S + 1, -1)
        index[states] = np.arange(states.size)
        pair = np.repeat(np.arange(pairs.state.size), np.diff(pairs.offset))
        kept = np.flatnonzero(index[pairs.state[pair]] >= 0)
        pair = pair[kept]
        state = index[pairs.state[pair]]
        weight = table.probability[kept]
        mass = np.bincount(pair, weight, minlength=pairs.state.size)[pair]
        return cls(
            states,
            state * A + pairs.action[pair],
            state,
            index[table.successor[kept]],
            weight / mass,
            table.reward[kept] / plan.unit,
            plan.policy.probabilities[states],
            mdp.start[states],
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(S, A)."""
        S, A = self.pi.shape
        return S, A

    def total(self, x: FloatArray) -> FloatArray:
        """sum_k P(k|s,a) x of each outcome, shape (S, A)."""
        S, A = self.shape
        return np.asarray(np.bincount(self.pair, self.probability * x, minlength=S * A).reshape(S, A), np.float64)

    def onto(self, x: FloatArray | float = 1.0) -> Transition:
        """The matrix (S A, S) of P(k|s,a) x."""
        S, A = self.shape
        on = self.successor >= 0
        weight = (self.probability * x)[on]
        matrix = sparse.csr_array((weight, (self.pair[on], self.successor[on])), shape=(S * A, S))
        return matrix.toarray() if weight.size > DENSE * S * A * S else matrix


@dataclass(frozen=True, eq=False, repr=False)
class Change:
    """Some of the perturbed policies: pi + `change` (N, S, A), which is 0 but in `state` (N,) where that is given."""

    change: FloatArray
    state: npt.NDArray[np.int64] | None


@dataclass(frozen=True, eq=False, repr=False)
class Perturbed:
    """E X and E X X^T of one plan, by enumeration of its directions."""

    plan: PerturbedPlan
    law: Steps
    enumeration: Enumeration

    @classmethod
    def of(cls, plan: PerturbedPlan) -> "Perturbed":
        """NoExactMoments where the directions are not enumerated, or are too many for the states there are."""
        enumeration = plan.perturbation.directions.enumerate(plan.pairs.free.size)
        law, N = Steps.of(plan), enumeration.direction.shape[0]
        S = law.states.size
        steps = plan.horizon * law.pair.size if isinstance(plan.horizon, int) else S * S
        work = N * steps if enumeration.direction.nnz == N else N * max(steps, S**3)
        if max(work, S**3) > MOST_WORK:
            raise NoExactMoments(
                f"exact moments of {plan.name} take the returns of {N} perturbed policies on {S} states, about "
                f"{max(work, S**3):.1g} multiplications and so more than {MOST_WORK:.0e}; use a smaller model"
            )
        return cls(plan, law, enumeration)

    def room(self, moment: int, *, full: bool = False) -> int:  # noqa: ARG002
        """About how many numbers are held at once."""
        (S, A), steps = self.law.shape, self.plan.horizon if isinstance(self.plan.horizon, int) else 0
        return max(2 * S * S * A, S * steps, (S * A) ** 2 * full)

    @cached_property
    def entry(self) -> npt.NDArray[np.int64]:
        """s A + a of each component of a direction, in the numbers of the law."""
        state, action = self.plan.free
        return np.searchsorted(self.law.states, state) * self.law.shape[1] + action

    def mean(self) -> FloatArray:
        """E X."""
        return self._mean(self._returns[0])

    def raw(self, *, full: bool) -> Raw:
        """E X and E X X^T."""
        difference, spread = self._returns
        if self.plan.perturbation.common:
            spread = self._coupled_variance
        how, u = self.plan.perturbation, self.enumeration.direction
        mean = self._mean(difference)
        second = spread if how.directions.in_turn else spread + difference**2
        weight = self.enumeration.weight * self.plan.factor**2 * second
        product = sparse.coo_array(u.T @ sparse.diags_array(weight) @ u)
        S, A = self.law.shape
        row, column = self.entry[product.row], self.entry[product.col]
        blocks = np.zeros((S, A, A))
        own = row // A == column // A
        blocks[row[own] // A, row[own] % A, column[own] % A] = product.data[own]
        if how.directions.in_turn:
            blocks += mean[:, :, None] * mean[:, None, :]
        if not full:
            return Raw(mean, blocks, None)
        out = np.zeros((S * A, S * A))
        out[row, column] = product.data
        if how.directions.in_turn:
            out += np.outer(mean, mean)
        return Raw(mean, blocks, out.reshape(S, A, S, A))

    def _mean(self, difference: FloatArray) -> FloatArray:
        """sum over directions of factor E[G(theta + scale u) - G(theta - scale u)] u."""
        out = np.zeros(self.law.pi.size)
        out[self.entry] = self.enumeration.direction.T @ (self.enumeration.weight * self.plan.factor * difference)
        return out.reshape(self.law.shape)

    @cached_property
    def _returns(self) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of what each direction is multiplied by, a difference of returns or a return."""
        found = [self._moments(change) for change in self._changes()]
        mean, second = np.hstack(found) if found else np.zeros((2, 0))
        variance = np.maximum(second - mean**2, 0.0)
        if self.plan.perturbation.antithetic:
            return mean - mean[::-1], variance + variance[::-1]
        return mean + self._expected_return, variance

    @cached_property
    def _coupled_variance(self) -> FloatArray:
        """Of the difference of returns with common random numbers; that of an opposite direction is the opposite."""
        u = self.enumeration.direction
        _, mean, second = coupled_moments(self.plan, u[: u.shape[0] // 2], 2)
        variance = np.maximum(second - mean**2, 0.0)
        return np.concatenate((variance, variance[::-1]))

    def _changes(self) -> Iterator[Change]:
        """pi(b|s) (exp(delta(s,b)) / sum_c pi(c|s) exp(delta(s,c)) - 1), without cancellation."""
        u, (S, A) = self.enumeration.direction, self.law.shape
        touched = sparse.csr_array((abs(u.data), self.entry[u.indices] // A, u.indptr), shape=(u.shape[0], S))
        touched.sum_duplicates()
        alone = touched.nnz == u.shape[0]
        run = max(1, CHUNK // (S * max(S, A)))
        for begin in range(0, u.shape[0], run):
            some = u[begin : begin + run].tocoo()
            gain = np.zeros((some.shape[0], S * A))
            gain[some.row, self.entry[some.col]] = np.expm1(self.plan.perturbation.scale * some.data)
            gain = gain.reshape(-1, S, A)
            average = (self.law.pi * gain).sum(axis=2, keepdims=True)
            change = self.law.pi * (gain - average) / (1.0 + average)
            yield Change(change, touched.indices[begin : begin + run] if alone else None)

    def _moments(self, some: Change) -> FloatArray:
        """E (G - J) and E (G - J)^2 of each policy, shape (2, N)."""
        first, second, value = self._finite(some) if isinstance(self.plan.horizon, int) else self._endless(some)
        above, start = value - self._expected_return, self.law.start
        ended = 1.0 - start.sum()
        raw = second + 2.0 * above * first + above**2
        return np.stack((first @ start, raw @ start + ended * self._expected_return**2))

    def _endless(self, some: Change) -> tuple[FloatArray, FloatArray, FloatArray]:
        """First and second moments (N, S) of G - V from each state, and V, without a horizon or a geometric one."""
        law, value = self.law, self._value
        discount, survival = self.plan.mdp.discount, 1.0
        if self.plan.horizon == "geometric":
            discount, survival = 1.0, self.plan.mdp.discount
        ahead = np.where(law.successor >= 0, value[law.successor], 0.0)
        stops = law.reward - value[law.state]
        goes_on = stops + discount * ahead
        # What is never done may have no value.
        gain = np.where(law.pi > 0, self._evaluation.advantage[law.states] / self.plan.unit, 0.0)
        first = self._solved(survival * discount, np.einsum("nsa,sa->ns", some.change, gain), some)
        square = law.total((1.0 - survival) * stops**2 + survival * goes_on**2)
        cross = (law.onto(2.0 * survival * discount * goes_on) @ first.T).T.reshape(-1, *law.shape)
        right = np.einsum("nsa,nsa->ns", law.pi + some.change, square + cross)
        return first, self._solved(survival * discount**2, right, some), value

    def _solved(self, factor: float, right: FloatArray, some: Change) -> FloatArray:
        """x (N, S) with (I - factor P_n) x = right, P_n that of the perturbed policy.

        A change in one state s is one of rank 1: by Sherman & Morrison (1950) one factorisation serves all of them.
        """
        P, S = self._transition, self.law.shape[0]
        base = np.eye(S) - factor * np.einsum("sa,sak->sk", self.law.pi, P)
        if some.state is None:
            matrices = base - factor * np.einsum("nsa,sak->nsk", some.change, P)
            return np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0])
        n = np.arange(some.state.size)
        factors = linalg.lu_factor(base)
        x, column = linalg.lu_solve(factors, right.T).T, linalg.lu_solve(factors, np.eye(S)).T[some.state]
        row = factor * np.einsum("na,nak->nk", some.change[n, some.state], P[some.state])
        along, own = np.einsum("nk,nk->n", row, x), np.einsum("nk,nk->n", row, column)
        return np.asarray(x + column * (along / (1.0 - own))[:, None])

    def _finite(self, some: Change) -> tuple[FloatArray, FloatArray, FloatArray]:
        """First and second moments (N, S) of G - V with all steps to go, and V."""
        law, discount = self.law, self.plan.mdp.discount
        P, pi = law.onto(), law.pi + some.change
        first = second = np.zeros((pi.shape[0], law.shape[0]))

        def ahead(matrix: Transition, x: FloatArray) -> FloatArray:
            return np.asarray((matrix @ x.T).T.reshape(-1, *law.shape))

        for before, value in zip(self._value[:-1], self._value[1:], strict=True):
            gain = law.reward + discount * np.where(law.successor >= 0, before[law.successor], 0.0) - value[law.state]
            cross = ahead(law.onto(2.0 * discount * gain), first) + discount**2 * ahead(P, second)
            second = np.einsum("nsa,nsa->ns", pi, law.total(gain**2) + cross)
            first = np.einsum("nsa,sa->ns", some.change, law.total(gain)) + discount * np.einsum(
                "nsa,nsa->ns", pi, ahead(P, first)
            )
        return first, second, self._value[-1]

    @cached_property
    def _transition(self) -> FloatArray:
        """P(k|s,a), dense (S, A, S)."""
        P = self.law.onto()
        return (P.toarray() if sparse.issparse(P) else P).reshape(*self.law.shape, -1)

    @cached_property
    def _evaluation(self) -> Evaluation | FiniteHorizonEvaluation:
        """Of the policy itself."""
        plan = self.plan
        if isinstance(plan.horizon, int):
            return evaluate(plan.mdp, plan.policy, horizon=plan.horizon)
        return evaluate(plan.mdp, plan.policy)

    @property
    def _expected_return(self) -> float:
        return self._evaluation.expected_return / self.plan.unit

    @cached_property
    def _value(self) -> FloatArray:
        """V of the policy itself (S,), or by steps to go (T+1, S)."""
        return np.asarray(self._evaluation.value[..., self.law.states] / self.plan.unit)
