"""The equations of a finite horizon in twofold floats, and how residuals of its steps add up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastpg.certificate.equations import NONE, UP, Equations, Twofold, twofold
from fastpg.chain import add_laws, add_values_to_go, next_value
from fastpg.kernels import twofold as kernels
from fastpg.kernels import twofold_steps as sweeps
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.validation import BoolArray, FloatArray, frozen

UNIT = 2.0**-53


class Correction(NamedTuple):
    """What floats x (T+1, S) lack: the exact numbers are within `bound` of x + step."""

    step: FloatArray
    bound: FloatArray


@dataclass(frozen=True, eq=False)
class StepEquations:
    """Residuals of V_k = r_pi + discount P_pi V_{k-1} and of w_{t+1} = factor P_pi^T w_t, for many steps at once.

    The residual rho_k of given floats is what step k adds to what they lack, which follows the same recursion:

        exact - V_k = c_k = rho_k + discount P_pi c_{k-1},    exact - w_t = c_t = rho_t + factor P_pi^T c_{t-1}

    c is computed in floats; the rounding of its own steps and of rho is bounded by the recursion of absolute values.

    Source: Higham (2002), section 3.3, for running error bounds.
    """

    equations: Equations
    transition: Transition

    @cached_property
    def rounding(self) -> float:
        """Of sum_a pi P and its product with a vector, relative to the sum of absolute values, twice over."""
        at = self.equations
        pi = at.policy.probabilities
        off = np.abs(at.total[0][at.total[0] > 0] - 1.0).max(initial=0.0) + np.abs(pi.sum(axis=1) - 1.0).max()
        S, A = pi.shape
        return float(2.0 * (off + 2.0 * (S + A + 16.0) * UNIT))

    def gains(self, ahead: FloatArray, value: FloatArray) -> Twofold:
        """r(s,a) + discount P ahead[k] - value[k](s), shape (K, S, A), for ahead and value (K, S)."""
        at, (K, S) = self.equations, value.shape
        A = at.mdp.n_actions
        x = np.empty((2, K * S))
        kernels.discounted_change(at.complement, twofold(ahead), NONE, x)
        dots, size = np.empty((K, 2, S * A)), np.empty((K, S * A))
        by_step = frozen(np.ascontiguousarray(np.moveaxis(x.reshape(2, K, S), 1, 0)))
        sweeps.dot_rows_of_steps(*at.rows, by_step, frozen(UP * np.abs(ahead)), dots, size)
        gains, bound = np.empty((2, K * S, A)), np.empty((K * S, A))
        r, r_bound = at.reward
        kernels.action_gains(
            frozen(np.append(0, np.cumsum(np.tile(np.diff(at.rows[2]), K)))),
            _repeated(at.total, K),
            frozen(np.ascontiguousarray(np.moveaxis(dots, 1, 0)).reshape(2, -1)),
            frozen(size.reshape(-1)),
            frozen(np.tile(r, (1, K, 1))),
            frozen(np.tile(r_bound, (K, 1))),
            twofold(value),
            gains,
            bound,
        )
        return Twofold(frozen(gains.reshape(2, K, S, A)), frozen(bound.reshape(K, S, A)))

    def residual(self, gains: Twofold) -> Twofold:
        """r_pi + discount P_pi ahead[k] - value[k], shape (K, S), from the gains of all actions."""
        at, (K, S, A) = self.equations, gains.bound.shape
        rho, bound = np.empty((2, K * S)), np.empty(K * S)
        x, x_bound = frozen(gains.x.reshape(2, K * S, A)), frozen(gains.bound.reshape(K * S, A))
        pi, ended = at.policy.probabilities, frozen(np.tile(at.ended, K))
        kernels.policy_average(frozen(np.tile(pi, (K, 1))), x, x_bound, ended, rho, bound)
        return Twofold(frozen(rho.reshape(2, K, S)), frozen(bound.reshape(K, S)))

    def law_residual(self, law: FloatArray, factor: FloatArray, stays: BoolArray) -> Twofold:
        """factor P_pi^T law[t] + law[t] [it stays] - law[t+1], shape (K, S), for law (K+1, S)."""
        at, (K, S) = self.equations, law[1:].shape
        pi, A = at.policy.probabilities, at.mdp.n_actions
        flow = np.empty((2, K * S * A))
        ended = frozen(np.tile(at.ended, K))
        kernels.flows(factor, twofold(law[:-1]), frozen(np.tile(pi, (K, 1))), _repeated(at.total, K), ended, flow)
        sums, size = np.zeros((K, 2, S)), np.zeros((K, S))
        by_step = frozen(np.ascontiguousarray(np.moveaxis(flow.reshape(2, K, S * A), 1, 0)))
        sweeps.transposed_dot_rows_of_steps(*at.rows, by_step, sums, size)
        rho, bound = np.empty((2, K * S)), np.empty(K * S)
        kernels.arrival_change(
            twofold(np.where(stays, law[:-1], 0.0)),
            frozen(np.zeros(K * S)),
            twofold(law[1:]),
            frozen(np.ascontiguousarray(np.moveaxis(sums, 1, 0)).reshape(2, -1)),
            frozen(size.reshape(-1)),
            frozen(np.tile(at.arrival_rounding, K)),
            rho,
            bound,
        )
        return Twofold(frozen(rho.reshape(2, K, S)), frozen(bound.reshape(K, S)))

    def ahead(self, x: FloatArray) -> FloatArray:
        """discount sum_k P(k|s,a) x[t,k], shape (K, S, A)."""
        return np.moveaxis(self.equations.mdp.discount * next_value(self.equations.mdp, x.T), 2, 0)

    def value_correction(self, rho: FloatArray, rho_bound: FloatArray) -> Correction:
        """What values (T+1, S) with residuals `rho` lack."""
        discount, P = self.equations.mdp.discount, self.transition

        def add(x: FloatArray) -> None:
            add_values_to_go(P, discount, x)

        return self._summed(rho, rho_bound, add, lambda x: discount * (P @ x.T).T)

    def law_correction(self, rho: FloatArray, rho_bound: FloatArray, factor: float, stays: BoolArray) -> Correction:
        """What laws (T+1, S) with residuals `rho` lack."""
        P = self.transition

        def add(x: FloatArray) -> None:
            add_laws(P, factor, stays, x)

        return self._summed(rho, rho_bound, add, lambda x: factor * (P.T @ x.T).T + np.where(stays, x, 0.0))

    def _summed(
        self,
        rho: FloatArray,
        rho_bound: FloatArray,
        add: Callable[[FloatArray], None],
        step: Callable[[FloatArray], FloatArray],
    ) -> Correction:
        c = rho.copy()
        add(c)
        bound = UP * rho_bound + self.rounding * np.abs(rho)
        bound[1:] += self.rounding * step(np.abs(c[:-1]))
        add(bound)
        # The last factor is what rounding may have taken from the sweep of the bound itself.
        return Correction(frozen(c), frozen(UP * float(np.exp(2.0 * len(rho) * self.rounding)) * bound))


def _repeated(x: FloatArray, times: int) -> FloatArray:
    return frozen(np.tile(x, (1, times)))
