"""Rigorous bounds on the errors of an evaluation's floats."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastpg.certificate.equations import NONE, UP, Equations, Twofold, power_of_two, reward_unit, rounded_up
from fastpg.certificate.evaluated import Evaluated
from fastpg.certificate.majorant import Majorant, majorant
from fastpg.certificate.refinement import Arrivals, Value, refined_arrivals, refined_value
from fastpg.certificate.signs import certain_signs
from fastpg.chain import Chain, next_value
from fastpg.kernels import twofold as kernels
from fastpg.lazy import cached_property
from fastpg.solvers import Factorisation
from fastpg.validation import BoolArray, FloatArray, frozen


class EvaluatedForever(Evaluated, Protocol):
    """The floats that are bounded, and how they came about; see `Evaluation`."""

    @property
    def chain(self) -> Chain: ...
    @property
    def factors(self) -> Factorisation: ...


@dataclass(frozen=True, eq=False, repr=False)
class ErrorBounds:
    """Rigorous bounds |float - exact| on the results of an evaluation, computed when first read.

    =================  ======  =======================================================================
    `value`            (S,)    of each entry of V; nan where V does not exist
    `action_value`     (S, A)  of each entry of Q
    `advantage`        (S, A)  of each entry of A
    `occupancy`        float   of d in the sum of absolute values: sum_s |d(s) - exact| <= occupancy
    `expected_return`  float   of J
    `gradient`         (S, A)  of each entry of dJ/dlogits
    `certain_signs`    (S, A)  where the sign of an entry of dJ/dlogits is proven, True or False
    =================  ======  =======================================================================

    Exact is what the floats of the model and of `policy.probabilities` define as rational numbers, each row divided
    by its exact sum, as in `fastpg.exact.evaluate_exactly`. The residuals r_pi + discount P_pi V - V and start +
    discount P_pi^T d - d are computed in two floats with a bound on their own rounding, V and d refined with them, and

        |V - V_exact| <= D |rho|,  |d - d_exact| <= D^T |rho|,  D = (I - discount P_pi)^{-1} >= 0

    bounded by elimination without subtraction, entry by entry, for up to 2000 states, or any number where GTH is the
    solver; otherwise by norms, from a vector t with (I - discount P_pi) t > 0 verified. Discount 1 is no exception.
    A bound is wide where the rounding of the residual times the expected time to the end matters, or infinite by norms.
    `gradient` bounds `evaluation.logit_gradient`, whatever the policy is made of.

    Of 10,000 generated models 474 were errors, as they should be, and in the others no bound was exceeded; 15 had an
    infinite bound on V, and with default solvers and 1 - discount >= 1e-9 none was above 3e-14 of the largest V (median
    over all discounts 1.2e-16). V, gradient and bounds took 41, 54, 19 and 23 times as long as V and gradient alone on
    dense random models of 10, 100, 300 and 1000 states with four actions: 1.1, 4, 12 and 260 ms on one thread. Norms
    give infinite bounds on lines of 2500 states at discount 1 that take 1e24 steps to end, elimination 9e-7 on lines of
    300 states and over 1e13 steps, where errors were 1e-15.

    Source: Neumaier (1999) for the method; Ogita, Rump & Oishi (2005) for the residual; Alfa, Xue & Ye (2002) for D.
    """

    evaluation: EvaluatedForever

    @cached_property
    def _ended(self) -> BoolArray:
        return frozen(self.evaluation.mdp.terminal | self.evaluation.chain.undefined)

    @cached_property
    def _equations(self) -> Equations:
        ev = self.evaluation
        steps = max(1.0, float(self._arrivals.max()) * 2.0**-900)
        unit = reward_unit(ev.mdp, ev.policy, self._value)
        return Equations(ev.mdp, ev.policy, self._ended, unit, power_of_two(steps))

    @cached_property
    def _value(self) -> FloatArray:
        """V with 0 where it does not exist."""
        return frozen(np.where(self.evaluation.chain.undefined, 0.0, self.evaluation.value))

    @cached_property
    def _arrivals(self) -> FloatArray:
        """d where the process goes on, the chance to end there elsewhere."""
        ev = self.evaluation
        return frozen(np.where(ev.mdp.terminal, ev.visitation, ev.occupancy))

    @cached_property
    def _majorant(self) -> Majorant:
        return majorant(self._equations, self.evaluation.chain, self.evaluation.factors)

    @cached_property
    def refined_value(self) -> Value:
        """V in twofold numbers."""
        return refined_value(self._equations, self._majorant, self._value / self._equations.reward_unit)

    @cached_property
    def refined_arrivals(self) -> Arrivals:
        """d in twofold numbers."""
        return refined_arrivals(self._equations, self._majorant, self._arrivals / self._equations.start_unit)

    @cached_property
    def _value_bound(self) -> FloatArray:
        """Of the float value, in units of the equations."""
        best = self.refined_value
        given = frozen((self._value / self._equations.reward_unit)[:, None])
        out = np.empty(given.shape)
        kernels.distances(frozen(np.zeros((2, *given.shape))), best.h, best.level, given, out)
        return UP * (out[:, 0] + best.bound.entries)

    @cached_property
    def _advantage(self) -> Twofold:
        """A (S, A) of the exact value, from the gains of the refined one."""
        gains, pi = self.refined_value.gains, self.evaluation.policy.probabilities
        entries, differences, drift = self.refined_value.bound
        by_entries = self._ahead(entries) + entries[:, None]
        by_differences = self._ahead(differences) + differences[:, None] + drift
        bound = frozen(UP * (gains.bound + np.minimum(by_entries, by_differences)))
        x, x_bound = np.empty(gains.x.shape), np.empty(bound.shape)
        kernels.centred(pi, gains.x, bound, x, x_bound)
        return Twofold(frozen(x), frozen(x_bound))

    def _ahead(self, x: FloatArray) -> FloatArray:
        mdp = self.evaluation.mdp
        with np.errstate(invalid="ignore", over="ignore"):  # 0 inf where there is no bound
            ahead = UP * mdp.discount * next_value(mdp, x)
        return np.where(np.isnan(ahead), np.inf, ahead)

    @cached_property
    def value(self) -> FloatArray:
        """(S,), in units of reward; nan where V does not exist."""
        bound = rounded_up(self._value_bound, self._equations.reward_unit)
        return frozen(np.where(self.evaluation.chain.undefined, np.nan, bound))

    @cached_property
    def action_value(self) -> FloatArray:
        """(S, A), in units of reward; nan where Q does not exist."""
        best, mdp = self.refined_value, self.evaluation.mdp
        bound = self._distances(best.gains.x, self.evaluation.action_value, best.h, best.level)
        bound += best.gains.bound + self._ahead(best.bound.entries)
        missing = ~mdp.available & ~mdp.terminal[:, None]
        bound = np.where(missing, self._value_bound[:, None], bound)
        bound = rounded_up(bound, self._equations.reward_unit)
        return frozen(np.where(np.isnan(self.evaluation.action_value), np.nan, bound))

    @cached_property
    def advantage(self) -> FloatArray:
        """(S, A), in units of reward; nan where A does not exist."""
        exact = self._advantage
        bound = self._distances(exact.x, self.evaluation.advantage, np.zeros(self.refined_value.h.shape), NONE)
        bound = np.where(self.evaluation.mdp.available, UP * (bound + exact.bound), 0.0)
        bound = rounded_up(bound, self._equations.reward_unit)
        return frozen(np.where(np.isnan(self.evaluation.advantage), np.nan, bound))

    @cached_property
    def refined_advantage(self) -> FloatArray:
        """A(s,a) (S, A) of the refined value, in units of reward; nan where it does not exist."""
        ev, unit = self.evaluation, self._equations.reward_unit
        out = np.where(ev.mdp.available, self._advantage.x[0] * unit, 0.0)
        return frozen(np.where(np.isnan(ev.action_value) | ev.chain.undefined[:, None], np.nan, out))

    def _distances(self, x: FloatArray, given: FloatArray, h: FloatArray, level: FloatArray) -> FloatArray:
        """Of x plus h plus level from `given`."""
        out = np.empty(given.shape)
        scaled = frozen(np.nan_to_num(given / self._equations.reward_unit))
        kernels.distances(x, frozen(h), level, scaled, out)
        return out

    @cached_property
    @np.errstate(over="ignore")  # a bound may be infinite
    def occupancy(self) -> float:
        """sum_s |d(s) - exact|, in steps."""
        best, goes_on = self.refined_arrivals, ~self.evaluation.mdp.terminal
        given = frozen((self.evaluation.occupancy / self._equations.start_unit)[:, None])
        out = np.empty(given.shape)
        kernels.distances(frozen(np.zeros((2, *given.shape))), best.d, NONE, given, out)
        total = min(best.bound.total, float(best.bound.entries[goes_on].sum()))
        return float(rounded_up(out[goes_on].sum() + total, self._equations.start_unit))

    @cached_property
    def expected_return(self) -> float:
        """Of J, in units of reward."""
        best, at = self.refined_value, self._equations
        total = at.return_distance(best.h, best.level, best.bound.entries, self.evaluation.expected_return)
        return float(rounded_up(total, at.reward_unit))

    @cached_property
    def gradient(self) -> FloatArray:
        """(S, A), of dJ/dlogits in units of reward."""
        ev, d, equations = self.evaluation, self.refined_arrivals, self._equations
        with np.errstate(over="ignore"):  # what is too large for its units has no bound
            given = frozen(ev.logit_gradient / equations.reward_unit / equations.start_unit)
        out, bound = np.empty((2, *given.shape)), np.empty(given.shape)
        pi = ev.policy.probabilities
        kernels.products(d.d, frozen(d.bound.entries), pi, *self._advantage, given, out, bound)
        units = equations.reward_unit, equations.start_unit
        return frozen(rounded_up(bound, *units))

    @cached_property
    def certain_signs(self) -> BoolArray:
        """(S, A), where the sign of the gradient entry is proven: positive, negative, or 0 for what cannot be other."""
        return certain_signs(self.evaluation, self.gradient)
