"""Rigorous bounds on the errors of a finite-horizon evaluation's floats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastpg.certificate.equations import (
    NONE,
    UP,
    Equations,
    Twofold,
    reward_unit,
    rounded_up,
    twofold,
)
from fastpg.certificate.evaluated import Evaluated
from fastpg.certificate.signs import certain_signs
from fastpg.certificate.steps import Correction, StepEquations
from fastpg.chain import add_laws
from fastpg.kernels import twofold as kernels
from fastpg.kernels import twofold_steps as sweeps
from fastpg.kernels.twofold import TINY
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.validation import BoolArray, FloatArray, frozen

# Tables of (steps, S, A) are made in slices of about this many numbers.
SLICE = 500_000


class EvaluatedSteps(Evaluated, Protocol):
    """The floats that are bounded, and how they came about; see `FiniteHorizonEvaluation`."""

    @property
    def horizon(self) -> int: ...
    @property
    def transition(self) -> Transition: ...


@dataclass(frozen=True, eq=False, repr=False)
class FiniteHorizonErrorBounds:
    """Rigorous bounds |float - exact| on the results of a finite-horizon evaluation, computed when first read.

    =================  ===========  ====================================================================
    `value`            (T+1, S)     of each entry of V by steps to go
    `action_value`     (T+1, S, A)  of each entry of Q
    `advantage`        (T+1, S, A)  of each entry of A
    `visitation`       (T+1, S)     of each probability by step
    `occupancy`        float        of d in the sum of absolute values
    `expected_return`  float        of J_T
    `gradient`         (S, A)       of each entry of dJ_T/dlogits
    `certain_signs`    (S, A)       where the sign of a gradient entry is proven
    =================  ===========  ====================================================================

    Exact is what `fastpg.exact.evaluate_exactly` gives. Each step's residual is computed in two floats with a bound on
    its own rounding; residuals of steps follow the recursion of the values and laws themselves (see `StepEquations`).
    """

    evaluation: EvaluatedSteps

    @cached_property
    def _equations(self) -> Equations:
        ev = self.evaluation
        return Equations(ev.mdp, ev.policy, ev.mdp.terminal, reward_unit(ev.mdp, ev.policy, ev.value), 1.0)

    @cached_property
    def _steps(self) -> StepEquations:
        return StepEquations(self._equations, self.evaluation.transition)

    @cached_property
    def _value(self) -> FloatArray:
        """V (T+1, S) in units of reward of the equations."""
        return frozen(self.evaluation.value / self._equations.reward_unit)

    def _slices(self) -> Iterator[slice]:
        """1..T in runs."""
        T = self.evaluation.horizon
        run = max(1, SLICE // self.evaluation.policy.probabilities.size)
        return (slice(k, min(k + run, T + 1)) for k in range(1, T + 1, run))

    @cached_property
    def _lacking(self) -> Correction:
        """What V lacks."""
        rho, bound = np.zeros(self._value.shape), np.zeros(self._value.shape)
        for k in self._slices():
            residual = self._steps.residual(self._float_gains(k))
            rho[k], bound[k] = residual.x[0], residual.bound
        return self._steps.value_correction(rho, bound)

    def _float_gains(self, k: slice) -> Twofold:
        """r + discount P V_{k-1} - V_k (K, S, A) of the floats, kept where one slice holds them all."""
        if k == slice(1, len(self._value)):
            return self._all_float_gains
        return self._steps.gains(self._value[k.start - 1 : k.stop - 1], self._value[k])

    @cached_property
    def _all_float_gains(self) -> Twofold:
        return self._steps.gains(self._value[:-1], self._value[1:])

    def _gains(self, k: slice) -> Twofold:
        """r + discount P V_{k-1} - (the float V_k) (K, S, A), of the exact V_{k-1}."""
        c, c_bound = (x[k.start - 1 : k.stop - 1] for x in self._lacking)
        ahead = self._steps.ahead
        return self._float_gains(k).shifted(ahead(c), ahead(c_bound + self._steps.rounding * np.abs(c)))

    def _advantages(self, k: slice) -> Twofold:
        """A (K, S, A) of the exact values."""
        c, c_bound = (np.repeat(x[k][:, :, None], self.evaluation.mdp.n_actions, axis=2) for x in self._lacking)
        return self._gains(k).shifted(-c, c_bound)

    def _laws(self, law: FloatArray, factor: FloatArray, stays: BoolArray) -> Correction:
        """What laws that begin with `start` lack: law[t+1] = factor P_pi^T law[t], and what stays."""
        mu, goes_on = self._equations.start, ~(self._equations.ended & ~stays)
        rho, bound = np.zeros(law.shape), np.zeros(law.shape)
        off = mu.shifted(-self.evaluation.mdp.start, np.zeros(mu.bound.shape))
        rho[0], bound[0] = off.x[0], off.bound
        for k in (slice(k.start, min(k.stop, len(law))) for k in self._slices() if k.start < len(law)):
            residual = self._steps.law_residual(law[k.start - 1 : k.stop], factor, stays)
            rho[k], bound[k] = residual.x[0], residual.bound
        return self._steps.law_correction(rho * goes_on, bound * goes_on, float(factor[0]), stays)

    @cached_property
    def _weights(self) -> Twofold:
        """discount^t P(s_t = s) for t = 0..T-1 (T, S) where the process goes on."""
        ev = self.evaluation
        w, stays = np.zeros((ev.horizon, ev.mdp.n_states)), frozen(np.zeros(ev.mdp.n_states, bool))
        w[0] = ev.mdp.start
        add_laws(ev.transition, ev.mdp.discount, stays, w)
        w[:, ev.mdp.terminal] = 0.0
        lacking = self._laws(frozen(w), self._equations.discount, stays)
        return Twofold(twofold(w).reshape(2, *w.shape), frozen(np.zeros(w.shape))).shifted(*lacking)

    def _summed(self, tables: Iterable[tuple[slice, Twofold]], columns: int) -> Twofold:
        """sum_t discount^t P(s_t = s) x_{T-t}(s,a) (S, columns) of tables for the steps to go of each slice."""
        w, T, S = self._weights, self.evaluation.horizon, self.evaluation.mdp.n_states
        out, bound = np.zeros((2, S, columns)), np.zeros((S, columns))
        for k, table in tables:
            at = T - np.arange(k.start, k.stop)
            x, x_bound = frozen(np.ascontiguousarray(table.x)), frozen(np.ascontiguousarray(table.bound))
            weight = frozen(np.ascontiguousarray(w.x[:, at])), frozen(np.ascontiguousarray(w.bound[at]))
            sweeps.accumulated_products(*weight, x, x_bound, float(T), out, bound)
        return Twofold(frozen(out), frozen(UP * bound + TINY))

    @cached_property
    def value(self) -> FloatArray:
        """(T+1, S), in units of reward."""
        step, bound = self._lacking
        return frozen(rounded_up(np.abs(step) + bound, self._equations.reward_unit))

    @cached_property
    def action_value(self) -> FloatArray:
        """(T+1, S, A), in units of reward."""
        ev, V = self.evaluation, self._value
        missing = ~ev.mdp.available & ~ev.mdp.terminal[:, None]
        out = np.zeros(ev.action_value.shape)
        for k in self._slices():
            gains = self._gains(k)
            total = gains.bound + self._distances(gains.x, V[k], ev.action_value[k])
            out[k] = np.where(missing, self.value[k][:, :, None], rounded_up(total, self._equations.reward_unit))
        return frozen(out)

    @cached_property
    def advantage(self) -> FloatArray:
        """(T+1, S, A), in units of reward."""
        ev = self.evaluation
        out = np.zeros(ev.advantage.shape)
        for k in self._slices():
            exact = self._advantages(k)
            bound = exact.bound + self._distances(exact.x, np.zeros(self._value[k].shape), ev.advantage[k])
            out[k] = np.where(ev.mdp.available, rounded_up(bound, self._equations.reward_unit), 0.0)
        return frozen(out)

    def _distances(self, x: FloatArray, h: FloatArray, given: FloatArray) -> FloatArray:
        """Of x plus h from `given` (K, S, A), in units of the equations."""
        table = (-1, given.shape[2])
        out = np.empty((h.size, table[1]))
        scaled = frozen((given / self._equations.reward_unit).reshape(table))
        kernels.distances(frozen(x.reshape(2, *out.shape)), twofold(h), NONE, scaled, out)
        return out.reshape(given.shape)

    @cached_property
    def visitation(self) -> FloatArray:
        """(T+1, S)."""
        one = frozen(np.array([1.0, 0.0]))
        step, bound = self._laws(self.evaluation.visitation, one, self.evaluation.mdp.terminal)
        return frozen(rounded_up(np.abs(step) + bound))

    @cached_property
    def occupancy(self) -> float:
        """sum_s |d(s) - exact|, in steps."""
        ones = ((k, self._ones(k)) for k in self._slices())
        exact, given = self._summed(ones, 1), self.evaluation.occupancy[:, None]
        out = np.empty(given.shape)
        kernels.distances(exact.x, frozen(np.zeros((2, given.size))), NONE, given, out)
        return float(rounded_up(out.sum() + exact.bound.sum()))

    def _ones(self, k: slice) -> Twofold:
        x = np.zeros((2, k.stop - k.start, self.evaluation.mdp.n_states, 1))
        x[0] = 1.0
        return Twofold(x, np.zeros(x.shape[1:]))

    @cached_property
    def expected_return(self) -> float:
        """Of J_T, in units of reward."""
        at, (step, bound) = self._equations, self._lacking
        h = np.empty((2, step.shape[1]))
        kernels.corrected(twofold(self._value[-1]), frozen(step[-1].copy()), h)
        total = at.return_distance(frozen(h), NONE, bound[-1], self.evaluation.expected_return)
        return float(rounded_up(total, at.reward_unit))

    @cached_property
    def gradient(self) -> FloatArray:
        """(S, A), of dJ_T/dlogits in units of reward."""
        ev, unit = self.evaluation, self._equations.reward_unit
        pi = ev.policy.probabilities
        exact = self._summed(((k, self._advantages(k)) for k in self._slices()), pi.shape[1])
        one, out, bound = np.zeros((2, len(pi))), np.empty((2, *pi.shape)), np.empty(pi.shape)
        one[0] = 1.0
        given = frozen(ev.logit_gradient / unit)
        kernels.products(frozen(one), frozen(np.zeros(len(pi))), pi, *exact, given, out, bound)
        return frozen(rounded_up(bound, unit))

    @cached_property
    def certain_signs(self) -> BoolArray:
        """(S, A), where the sign of the gradient entry is proven: positive, negative, or 0 for what cannot be other."""
        return certain_signs(self.evaluation, self.gradient)
