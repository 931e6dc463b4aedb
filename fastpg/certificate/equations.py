"""The equations of a policy on a model, evaluated in twofold floats with a bound on their rounding.

The model is what its floats say: every row of transition, policy and start is divided by its exact sum.
"""

from dataclasses import dataclass
from math import frexp
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.kernels import twofold as kernels
from fastpg.kernels.evaluation import policy_average
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.validation import BoolArray, FloatArray, frozen

U2 = 2.0**-106
# Bounds are sums of fewer than 1e6 floats, computed with a relative error far below this.
UP = 1.001
NONE = frozen(np.zeros(2))


class Twofold(NamedTuple):
    """Numbers `x[0] + x[1]` that are within `bound` of what they stand for."""

    x: FloatArray
    bound: FloatArray

    @property
    def size(self) -> FloatArray:
        """The largest absolute value that is possible."""
        return UP * (np.abs(self.x[0]) + self.bound)

    def shifted(self, step: FloatArray, bound: FloatArray) -> "Twofold":
        """These numbers plus steps that are within `bound`."""
        x = np.empty((2, step.size))
        steps = frozen(np.ascontiguousarray(step).reshape(-1))
        kernels.corrected(frozen(self.x.reshape(2, -1)), steps, x)
        out = frozen(x.reshape(self.x.shape))
        return Twofold(out, frozen(UP * (self.bound + bound + 8.0 * U2 * np.abs(out[0]))))


@dataclass(frozen=True, eq=False)
class Equations:
    """r_pi + discount P_pi V = V and start + discount P_pi^T d = d, where `ended` (S,) marks rows of zeros.

    Rewards and values are in units of `reward_unit`, the start and d in units of `start_unit`: powers of two that
    keep all numbers far from overflow.
    """

    mdp: MDP
    policy: Policy
    ended: BoolArray
    reward_unit: float
    start_unit: float

    @cached_property
    def rows(self) -> tuple[FloatArray, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Entries, columns (none for a dense model) and row boundaries of P (S*A, S)."""
        P, S = self.mdp.transition, self.mdp.n_states
        if sparse.issparse(P):
            return P.data, frozen(P.indices.astype(np.int32)), frozen(P.indptr.astype(np.int64))
        none = frozen(np.empty(0, np.int32))
        return P.reshape(-1), none, frozen(S * np.arange(S * self.mdp.n_actions + 1, dtype=np.int64))

    @cached_property
    def _column_counts(self) -> npt.NDArray[np.int64]:
        """How many entries each column of P has."""
        data, columns, first = self.rows
        S = self.mdp.n_states
        return np.bincount(columns, minlength=S) if columns.size or not data.size else np.full(S, first.size - 1)

    @cached_property
    def total(self) -> FloatArray:
        """The row sums of P (2, S*A)."""
        data, _, first = self.rows
        total = np.empty((2, first.size - 1))
        kernels.row_sums(data, first, total)
        return frozen(total)

    @cached_property
    def arrival_rounding(self) -> FloatArray:
        """Of the flow into each state (S,), in units of 2^-106 of the sum of absolute values."""
        most = float(np.diff(self.rows[2]).max(initial=0))
        of_flow = 8.0 * self.mdp.n_actions + 80.0 + 4.0 * (most + 2.0) ** 2
        return frozen(4.0 * (self._column_counts.astype(np.float64) + 2.0) ** 2 + of_flow)

    @cached_property
    def discount(self) -> FloatArray:
        """The discount (2,), exact."""
        return self._discount_and_complement[0]

    @cached_property
    def complement(self) -> FloatArray:
        """1 - discount (2,), exact."""
        return self._discount_and_complement[1]

    @cached_property
    def _discount_and_complement(self) -> tuple[FloatArray, FloatArray]:
        gamma, rest = self.mdp.discount, self.mdp.discount_complement
        if rest != 1.0 - gamma:
            return _exact_sum(1.0, -rest), frozen(np.array([rest, 0.0]))
        return frozen(np.array([gamma, 0.0])), _exact_sum(1.0, -gamma)

    @cached_property
    def reward(self) -> Twofold:
        """r(s,a) (S, A)."""
        mdp = self.mdp
        shape = (mdp.n_states, mdp.n_actions)
        mean = np.zeros((2, *shape))
        if mdp.reward.ndim < 3 and not sparse.issparse(mdp.reward):
            mean[0] = mdp.expected_reward / self.reward_unit
            return Twofold(frozen(mean), frozen(np.zeros(shape)))
        data, _, first = self.rows
        R = (mdp.reward.data if sparse.issparse(mdp.reward) else mdp.reward.reshape(-1)) / self.reward_unit
        # Rows of P R are dot products of two rows: R takes the place of a vector that each row reads from its start.
        rows, size = np.zeros((2, first.size - 1)), np.zeros(first.size - 1)
        entries = frozen(np.arange(data.size, dtype=np.int32))
        vector = frozen(np.stack([R, np.zeros(R.size)]))
        kernels.dot_rows(data, entries, first, vector, frozen(np.abs(R)), rows, size)
        bound = np.zeros(shape)
        at, no_value = (first, self.total, frozen(rows), frozen(size)), frozen(np.zeros((2, shape[0])))
        kernels.action_gains(*at, *self.no_reward, no_value, mean, bound)
        return Twofold(frozen(mean), frozen(bound))

    @cached_property
    def start(self) -> Twofold:
        """The law of the first state (S,)."""
        mu, total = self.mdp.start, self.start_total
        law = np.empty((2, mu.size))
        kernels.quotients(mu, total, self.start_unit, law)
        relative = U2 * (4.0 * (mu.size + 2.0) ** 2 + 32.0) * law[0]
        return Twofold(frozen(law), frozen(relative + np.where(mu > 0, kernels.TINY, 0.0)))

    @cached_property
    def start_total(self) -> FloatArray:
        """The sum of `start` (2, 1)."""
        total = np.empty((2, 1))
        kernels.row_sums(self.mdp.start, one_row(self.mdp.n_states), total)
        return frozen(total)

    @cached_property
    def state_reward(self) -> FloatArray:
        """r_pi (S,) as floats, within (2 A + 8) 2^-53 of the size of the rewards."""
        out = np.empty(self.mdp.n_states)
        policy_average(self.policy.probabilities, frozen(self.reward.x[0].copy()), out)
        out[self.ended] = 0.0
        return out

    @cached_property
    def size_of_reward(self) -> FloatArray:
        """At least sum_a pi(a|s) |r(s,a)| (S,)."""
        out = np.empty(self.mdp.n_states)
        policy_average(self.policy.probabilities, frozen(self.reward.size), out)
        return np.where(self.ended, 0.0, UP * out)

    @cached_property
    def underflow(self) -> FloatArray:
        """At least what the products in a mean reward, or in the start, lose where they underflow (S,)."""
        return np.where(self.ended, 0.0, self.mdp.n_actions * kernels.TINY)

    @cached_property
    def no_reward(self) -> Twofold:
        """A reward of 0 (S, A)."""
        shape = (self.mdp.n_states, self.mdp.n_actions)
        return Twofold(frozen(np.zeros((2, *shape))), frozen(np.zeros(shape)))

    def gains(self, reward: Twofold, h: FloatArray, level: FloatArray = NONE) -> Twofold:
        """r(s,a) + discount P V - V(s) (S, A) for V = level + h, level (2,), h (2, S); 0 in rows that P does not have.

        With c = 1 - discount it is r + P (h - c h - c level) - h(s), which has no rounding of the size of `level`.
        """
        S, A = self.mdp.n_states, self.mdp.n_actions
        data, columns, first = self.rows
        x = np.empty((2, S))
        kernels.discounted_change(self.complement, frozen(h), level, x)
        magnitude = frozen(UP * (np.abs(h[0]) + self.complement[0] * abs(level[0])))
        dots, size = np.empty((2, S * A)), np.empty(S * A)
        kernels.dot_rows(data, columns, first, frozen(x), magnitude, dots, size)
        gains, bound = np.empty((2, S, A)), np.empty((S, A))
        at = first, self.total, frozen(dots), frozen(size)
        kernels.action_gains(*at, reward.x, reward.bound, frozen(h), gains, bound)
        return Twofold(frozen(gains), frozen(bound))

    def return_distance(self, h: FloatArray, level: FloatArray, h_bound: FloatArray, given: float) -> float:
        """At least |start . V - given|, V being within `h_bound` (S,) of level + h and `given` in units of reward."""
        mu = self.mdp.start
        none, ends = frozen(np.empty(0, np.int32)), one_row(mu.size)
        dot, size, off, bound = np.empty((2, 1)), np.empty(1), np.empty((2, 1, 1)), np.empty((1, 1))
        kernels.dot_rows(mu, none, ends, h, frozen(np.abs(h[0])), dot, size)
        target = frozen(np.array([[given / self.reward_unit], [0.0]]))
        at = ends, self.start_total, frozen(dot), frozen(size)
        levels, exactly = frozen(level.reshape(2, 1, 1).copy()), frozen(np.zeros((1, 1)))
        kernels.action_gains(*at, levels, exactly, target, off, bound)
        return float(abs(off[0, 0, 0]) + bound[0, 0] + mu[mu > 0] @ h_bound[mu > 0])

    def residual(self, gains: Twofold) -> Twofold:
        """r_pi + discount P_pi V - V (S,); 0 where the process has ended."""
        S = self.mdp.n_states
        rho, bound = np.empty((2, S)), np.empty(S)
        kernels.policy_average(self.policy.probabilities, gains.x, gains.bound, self.ended, rho, bound)
        return Twofold(frozen(rho), frozen(bound))

    def mass_residual(self, d: FloatArray) -> tuple[float, float]:
        """What d (2, S) lacks of ending for certain, and a bound on its rounding.

        1 - (1 - discount) (sum of d where the process goes on) - (sum of d where it has ended)
        """
        sums, size = np.zeros((2, 2)), np.zeros(2)
        for i, part in enumerate((d[:, ~self.ended], d[:, self.ended])):
            total = np.zeros((2, 1))
            kernels.row_sums(frozen(part.reshape(-1)), one_row(part.size), total)
            sums[:, i], size[i] = total[:, 0], np.abs(part).sum()
        c, one = self.complement, 1.0 / self.start_unit
        h, e = kernels.multiply(c[0], c[1], sums[0, 0], sums[1, 0])
        h, e = kernels.add(h, e, sums[0, 1], sums[1, 1])
        h, e = kernels.add(one, 0.0, -h, -e)
        n = 2.0 * d.shape[1] + 2.0
        return h, UP * U2 * (4.0 * n * n + 64.0) * float(one + c[0] * size[0] + size[1])

    def arrival_residual(self, d: FloatArray) -> Twofold:
        """start + discount P_pi^T d - d (S,) for d (2, S)."""
        S, A = self.mdp.n_states, self.mdp.n_actions
        data, columns, first = self.rows
        flow = np.empty((2, S * A))
        kernels.flows(self.discount, frozen(d), self.policy.probabilities, self.total, self.ended, flow)
        sums, size = np.zeros((2, S)), np.zeros(S)
        kernels.transposed_dot_rows(data, columns, first, frozen(flow), sums, size)
        rho, bound = np.empty((2, S)), np.empty(S)
        mu = self.start
        at = frozen(d), frozen(sums), frozen(size), self.arrival_rounding
        kernels.arrival_change(mu.x, mu.bound, *at, rho, bound)
        return Twofold(frozen(rho), frozen(bound))


def twofold(x: FloatArray) -> FloatArray:
    """Floats as twofold numbers (2, n), all in one row."""
    return frozen(np.stack([x.reshape(-1), np.zeros(x.size)]))


def rounded_up(bound: Any, *units: float) -> Any:
    """`bound` times `units`, powers of two, rounded up; infinite where it is nan."""
    exponent = sum(frexp(unit)[1] - 1 for unit in units)
    with np.errstate(over="ignore", under="ignore"):
        out = np.where(np.equal(bound, 0.0), 0.0, np.nextafter(np.ldexp(UP * np.asarray(bound), exponent), np.inf))
    return np.where(np.isnan(out), np.inf, out)


def one_row(n: int) -> npt.NDArray[np.int64]:
    """The boundaries of a single row of n entries."""
    return frozen(np.array([0, n], dtype=np.int64))


def _exact_sum(x: float, y: float) -> FloatArray:
    """x + y in two floats, exactly."""
    return frozen(np.array(kernels.two_sum(x, y)))


def reward_unit(mdp: MDP, policy: Policy, value: FloatArray) -> float:
    """A unit in which mean rewards of actions that are taken are about 1, and no reward or value is too large."""
    R = mdp.reward.data if sparse.issparse(mdp.reward) else mdp.reward
    largest = max(float(np.abs(R).max(initial=0.0)), float(np.abs(value).max()))
    taken = float(np.abs(mdp.expected_reward).max(initial=0.0, where=policy.probabilities > 0))
    return power_of_two(max(taken, largest * 2.0**-900))


def power_of_two(x: float) -> float:
    """A power of two near |x|, at least 2^-960 and at most 2^960; 1 for 0."""
    return 2.0 ** min(max(frexp(x)[1], -960), 960) if x else 1.0
