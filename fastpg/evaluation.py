"""Everything the theory defines about one MDP and one policy, from one factorisation."""

import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from math import isfinite
from typing import overload

import numpy as np
from scipy import sparse

from fastpg.certificate import CANCELS, LARGEST, Equations, ErrorBounds, corrected_value, reward_unit
from fastpg.chain import Chain, finite, in_units, induced_chain, next_value, with_state_value
from fastpg.errors import InvalidArgument, InvalidModel, SolveError
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.kernels import evaluation as kernels
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.parallel import all_rows
from fastpg.policy import Policy, fitted
from fastpg.solvers import NEAR_ONE, Estimate, Factorisation, GainBias, Solver, choose, knows_differences
from fastpg.solvers.gain_bias import GainBiasFactorisation
from fastpg.solvers.gth import GTHFactorisation
from fastpg.solvers.krylov import KrylovFactorisation
from fastpg.structure import Structure, chain_structure, condition
from fastpg.validation import FloatArray, bounded_mean, frozen, positive_integer, require_solver

# The gradient keeps this relative accuracy: rounding beyond it is mended.
LOST_DIGITS = 1e-10
# The relative error of a value, but for what a solver adds to it.
ROUNDING = 64 * float(np.finfo(np.float64).eps)
# An estimated error may be so much larger, and comes from a change of the value that an iteration finds to so much.
SAFETY = 16.0
ENOUGH = 1e-3
# The visitation of a solve that is kept sums to 1 within this.
LOST = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Values and visitation of a policy over an infinite horizon; quantities are computed when first read and kept.

    With D = (I - discount P_pi)^{-1} on the states where the process goes on:

    ==========================  ======  =========================================================================
    `value`                     (S,)    V = D r_pi; 0 in terminal states
    `action_value`              (S, A)  Q = r + discount P V; V where an action is unavailable
    `advantage`                 (S, A)  Q - V; sum_a pi(a|s) advantage(s,a) = 0
    `occupancy`                 (S,)    d = D^T start, the discounted number of steps taken from each state
    `visitation`                (S,)    (1 - discount) d, and the mass that each terminal state holds; sums to 1
    `state_action_visitation`   (S, A)  visitation(s) pi(a|s)
    `expected_return`           float   start . V
    ==========================  ======  =========================================================================

    At discount 1 `visitation` is its limit: 0 on transient states and the law of the state where the process ends;
    values of states that `start` cannot reach and from which it may never end do not exist and are nan.
    """

    mdp: MDP
    policy: Policy
    solver: Solver
    chain: Chain
    factors: Factorisation

    @property
    def solved_by(self) -> str:
        """The name of the solver, and after it of another that has taken over: 'Krylov, then SparseLU'."""
        names, factors = [type(self.solver).__name__], self.factors
        if isinstance(self.solver, GainBias) and not isinstance(factors, GainBiasFactorisation):
            names.append(_name(factors))
        while isinstance(factors, KrylovFactorisation) and factors.fell_back:
            factors = factors.direct
            names.append(_name(factors))
        return ", then ".join(names)

    @cached_property
    def _estimates(self) -> tuple[Estimate, ...]:
        """V and V up to constants, where a solver knows them, each with what its rounding is proportional to."""
        return self.factors.solve_up_to_a_constant(self.chain.reward) if knows_differences(self.factors) else ()

    def _spread(self, b: FloatArray) -> float:
        """The largest entry of (I - discount P_pi)^{-1} b for b >= 0, or what it is at most."""
        if isinstance(self.factors, GTHFactorisation):
            return float(self.factors.solve(b).max())
        slack = self.chain.discount_complement
        return float(b.max()) / slack if slack > 0 else np.inf

    @cached_property
    def _value(self) -> FloatArray:
        """V with 0 where the process has ended, whatever an iteration leaves there, and where V does not exist.

        Near discount 1 it is corrected where it may have lost digits: where more cancels in GTH than 13 digits allow,
        and from what other solvers lose there.
        """
        mdp, chain = self.mdp, self.chain
        near = chain.discount_complement < NEAR_ONE
        solution = self._estimates[0].value if near and self._estimates else self.factors.solve(chain.reward)
        value = finite("value", solution, mdp)
        if not (mdp.never_ends and chain.all_defined):
            value = np.where(mdp.terminal | chain.undefined, 0.0, value)
        if near and self._loses_digits(value):
            unit = reward_unit(mdp, self.policy, value)
            equations = Equations(mdp, self.policy, frozen(mdp.terminal | chain.undefined), unit, 1.0)
            better = corrected_value(equations, self.factors.solve, self._spread, value / unit)
            value = in_units("value", better, unit, mdp)
        return frozen(value)

    def _loses_digits(self, value: FloatArray) -> bool:
        slack, reward = self.chain.discount_complement, self.mdp.reward
        if not isinstance(self.factors, GTHFactorisation):
            return slack > 0
        size = float(self._estimates[0].size.max())
        if slack > 0 and (sparse.issparse(reward) or reward.ndim == 3):
            # What cancels in means over successors is no longer seen in r_pi.
            size = max(size, float(abs(reward).max()) / slack)
        return size / CANCELS > float(np.abs(value).max())

    @cached_property
    def _arrivals(self) -> FloatArray:
        """D^T start over all states: occupancy where the process goes on, the chance to end there elsewhere."""
        # Exact occupancies are non-negative; elimination may leave -1e-18 where the truth is 0.
        return frozen(np.maximum(finite("occupancy", self.factors.solve_transposed(self.mdp.start), self.mdp), 0.0))

    def _check_digits(self) -> None:
        """SolveError where a solve near discount 1 has lost its digits: all mass must be somewhere."""
        chain, arrivals = self.chain, self._arrivals
        mass = float(np.where(self.mdp.terminal, 1.0, chain.discount_complement) @ arrivals)
        if abs(mass - 1) > LOST:
            raise SolveError(
                f"{self.solver} loses too many digits at 1 - discount = {chain.discount_complement:g}: the visitation "
                f"sums to {mass:.9g} and not to 1; use solvers.GTH() where the chain is small enough, or a "
                "smaller discount"
            )

    @cached_property
    def value(self) -> FloatArray:
        """V(s), shape (S,), in units of reward."""
        return self._value if self.chain.all_defined else frozen(np.where(self.chain.undefined, np.nan, self._value))

    @cached_property
    def action_value(self) -> FloatArray:
        """Q(s,a) = r(s,a) + discount sum_k P(k|s,a) V(k), shape (S, A)."""
        mdp = self.mdp
        q = next_value(mdp, self._value)
        if not all_rows(kernels.action_value, mdp.expected_reward, mdp.discount, q):
            finite("action_value", q, mdp)
        if not self.chain.all_defined:
            q[next_value(mdp, self.chain.undefined.astype(float)) > 0] = np.nan
        return frozen(q if mdp.all_available else with_state_value(mdp, q, self.value))

    @cached_property
    def advantage(self) -> FloatArray:
        """A(s,a) = Q(s,a) - V(s), shape (S, A); 0 where unavailable.

        It is made of differences of values, and may hold digits that Q and V are too large to hold: where rounding may
        have left the gradient less than ten digits, it comes from values refined in two floats (see `error`), which
        takes a few times as long as the evaluation and is done for up to 2000 states.
        """
        pi, q = self.policy.probabilities, self._comparable_value
        out = np.empty(pi.shape)
        undefined = lambda: np.isnan(self.action_value) | self.chain.undefined[:, None]  # noqa: E731
        if not all_rows(kernels.advantage, pi, q, self.mdp.available, out):
            finite("advantage", out, self.mdp, undefined)
        frozen(out)
        if self.mdp.n_states <= LARGEST:
            sums = np.empty(2)
            kernels.cancellation(self.occupancy, pi, q, out, sums)
            noise, size = sums.tolist()
            kept = 1.0 if knows_differences(self.factors) else self.chain.discount_complement
            most = LOST_DIGITS * size
            could_be = size > 0 and not (isfinite(noise) and ROUNDING * noise <= most * kept)
            if could_be and not self._is_accurate(ROUNDING * noise, most):
                return finite("advantage", self.error.refined_advantage, self.mdp, undefined)
        return out

    @np.errstate(over="ignore", invalid="ignore")
    def _is_accurate(self, rounding: float, most: float) -> bool:
        """Whether `rounding` and sum_sa d(s) pi(a|s) |error of A(s,a)| that comes from V are at most so much together.

        The error is what one step of refinement would change. A solver may add far less than it could: where the chain
        mixes, a constant, which cancels. What does not is at most the span of the change of V, and only where that is
        too much is the change of each A(s,a) computed.
        """
        if knows_differences(self.factors) or not rounding <= most:
            return False
        chain, V, pi, factors = self.chain, self._value, self.policy.probabilities, self.factors
        if isinstance(factors, KrylovFactorisation) and not factors.fell_back:
            factors = replace(factors, solver=replace(factors.solver, tolerance=ENOUGH))
        change = factors.solve(chain.reward - (V - chain.discount * (chain.transition @ V)))
        if rounding + SAFETY * chain.discount * np.ptp(change) * self.occupancy.sum() <= most:
            return True
        q, out, sums = frozen(chain.discount * next_value(self.mdp, change)), np.empty(pi.shape), np.empty(2)
        kernels.advantage(pi, q, self.mdp.available, out)
        kernels.cancellation(self.occupancy, pi, q, frozen(out), sums)
        return bool(rounding + SAFETY * sums[1] <= most)

    @property
    def _comparable_value(self) -> FloatArray:
        """Q up to a constant in each state, where that has less rounding: all that the advantage needs.

        The rounding of sum_k P(k|s,a) V(k) is as large as sum_k P(k|s,a) size(k), here for the actions that are taken.
        """
        q = self.action_value
        return self._least_rounded(q) if knows_differences(self.factors) else q

    @np.errstate(over="ignore", invalid="ignore")  # the advantage is checked
    def _least_rounded(self, q: FloatArray) -> FloatArray:
        mdp = self.mdp

        def rounding_of(size: FloatArray) -> FloatArray:
            return np.where(self.policy.probabilities > 0, next_value(mdp, size), 0.0).max(axis=1)

        (_, size), *others = self._estimates
        least = rounding_of(size)
        for value, size in others:
            rounding = rounding_of(size)
            better = (rounding < least)[:, None] & mdp.available & ~np.isnan(q)
            q = np.where(better, mdp.expected_reward + mdp.discount * next_value(mdp, value), q)
            least = np.minimum(least, rounding)
        return frozen(q)

    @cached_property
    def occupancy(self) -> FloatArray:
        """d(s) = sum_t discount^t P(s_t = s), shape (S,), not normalised; 0 in terminal states."""
        return self._arrivals if self.mdp.never_ends else frozen(np.where(self.mdp.terminal, 0.0, self._arrivals))

    @cached_property
    def visitation(self) -> FloatArray:
        """(1 - discount) sum_t discount^t P(s_t = s) over all states, terminal ones included; sums to 1."""
        return frozen(np.where(self.mdp.terminal, self._arrivals, self.mdp.discount_complement * self._arrivals))

    @cached_property
    def state_action_visitation(self) -> FloatArray:
        """visitation(s) pi(a|s), shape (S, A); sums to 1."""
        return frozen(self.visitation[:, None] * self.policy.probabilities)

    @cached_property
    def expected_return(self) -> float:
        """J = start . V, in units of reward."""
        return float(bounded_mean(self.mdp.start.dot, self._value))

    @cached_property
    def logit_gradient(self) -> FloatArray:
        """dJ/dlogits (S, A) = d(s) pi(a|s) A(s,a)."""
        pi = self.policy.probabilities
        out = np.empty(pi.shape)
        if not all_rows(kernels.logit_gradient, self.occupancy, pi, self.advantage, out):
            finite("logit_gradient", out, self.mdp)
        return frozen(out)

    @cached_property
    def probability_gradient(self) -> FloatArray:
        """dJ/dpi (S, A) = d(s) Q(s,a); 0 where unavailable."""
        visited = (self.occupancy[:, None] > 0) & self.mdp.available
        with np.errstate(over="ignore"):
            gradient = np.where(visited, self.occupancy[:, None] * self.action_value, 0.0)
        return frozen(finite("probability_gradient", gradient, self.mdp, lambda: np.isnan(self.action_value)))

    @cached_property
    def structure(self) -> Structure:
        """Recurrent classes, transient and unreachable states, and weakly linked blocks of the chain."""
        return chain_structure(self.mdp, self.policy)

    @cached_property
    def condition(self) -> float:
        """tau_1((I - discount P_pi)^{-1}), in steps: how long the chain remembers where it began, estimated from below.

        Relative changes of the occupancy, and the spread of the values, are at most about this times those of P_pi, and
        of the rewards; it takes a few solves (see `fastpg.structure.condition`).
        """
        return condition(self.chain, self.factors)

    @cached_property
    def error(self) -> ErrorBounds:
        """Rigorous bounds on the errors of all these numbers."""
        return ErrorBounds(self)

    def __repr__(self) -> str:
        return f"Evaluation(expected return {self.expected_return:.12g}, {self.mdp!r}, {self.policy!r})"


def _name(factors: Factorisation) -> str:
    """Of the solver that has made them."""
    name = type(factors).__name__.removesuffix("Factorisation")
    led = factors.solver.preconditioner if isinstance(factors, KrylovFactorisation) else None
    return name if led is None else f"{name} with {type(led).__name__}"


def require_evaluation(value: object) -> None:
    """InvalidArgument unless `value` is what `evaluate` returns."""
    if not isinstance(value, Evaluation | FiniteHorizonEvaluation):
        raise InvalidArgument(f"evaluation must be an evaluation, as evaluate returns, but is {type(value).__name__}")


@overload
def evaluate(mdp: MDP, policy: Policy, *, horizon: None = None, solver: Solver | None = None) -> Evaluation: ...
@overload
def evaluate(mdp: MDP, policy: Policy, *, horizon: int, solver: Solver | None = None) -> FiniteHorizonEvaluation: ...
def evaluate(
    mdp: MDP, policy: Policy, *, horizon: int | None = None, solver: Solver | None = None
) -> Evaluation | FiniteHorizonEvaluation:
    """Exact values, visitation and return of `policy` on `mdp`.

    One factorisation of I - discount P_pi serves V and its transpose d. With `horizon=T` the process stops after
    T steps and a `FiniteHorizonEvaluation` with values by steps to go and laws by step is returned instead.

    Raises InvalidPolicy where the policy does not fit the model, and SolveError where at discount 1 the process
    need not end, naming a state of the recurrent class.

    >>> from fastpg import MDP, SoftmaxPolicy
    >>> mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0], discount=0.5, start=0)
    >>> evaluate(mdp, SoftmaxPolicy.uniform(mdp)).value.round(12)
    array([1.33333333, 0.        ])

    Source: Puterman (1994), Theorem 6.1.1; Sutton et al. (1999).
    """
    if not isinstance(mdp, MDP):
        raise InvalidModel(f"mdp must be an MDP but is {type(mdp).__name__}")
    require_solver("solver", solver)
    policy = fitted(policy, mdp)
    if horizon is not None:
        if solver is not None:
            raise InvalidArgument(f"a finite horizon needs no solver but {solver} was given with horizon={horizon}")
        return FiniteHorizonEvaluation(mdp, policy, _storable(positive_integer("horizon", horizon), mdp))
    chain = induced_chain(mdp, policy)
    solver = choose(chain) if solver is None else solver
    evaluation = Evaluation(mdp, policy, solver, chain, solver.factorise(chain))
    evaluation._value  # noqa: B018  a solve that fails should fail here
    if chain.discount_complement < NEAR_ONE:
        evaluation._check_digits()
    return evaluation


def _storable(horizon: int, mdp: MDP) -> int:
    size = 8 * (horizon + 1) * mdp.n_states
    if size > sys.maxsize:
        raise InvalidArgument(
            f"horizon must leave room for its values but {Decimal(horizon):.3g} steps of {mdp.n_states} states take "
            f"{Decimal(size):.3g} bytes"
        )
    return horizon
