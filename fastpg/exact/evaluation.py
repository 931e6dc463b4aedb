"""Evaluation in rational numbers."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import overload

import numpy as np

from fastpg.exact.model import ExactMDP
from fastpg.exact.problem import Problem, Table, problem
from fastpg.exact.quantities import FiniteHorizonQuantities, Model, Quantities
from fastpg.exact.rationals import Objects, Rationals, exact, exact_law
from fastpg.exact.solve import ExactSolutions, least_norm
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import LogLinearPolicy, Policy
from fastpg.validation import BoolArray, frozen, positive_integer


@dataclass(frozen=True, eq=False, repr=False)
class ExactEvaluation:
    """What `Evaluation` holds, as `fractions.Fraction` in lowest terms in read-only object arrays, without rounding.

    Quantities are computed when first read and kept. Entries that do not exist, which `Evaluation` gives as nan, are
    None; they occur only at discount 1. `.astype(float)` rounds each number once.
    """

    mdp: MDP | ExactMDP
    policy: Policy | Objects
    _problem: Problem
    _exact: Quantities[Rationals]

    @cached_property
    def value(self) -> Objects:
        """V(s), shape (S,), in units of reward; 0 in terminal states, None where it does not exist."""
        return _except(self._exact.value, self._problem.undefined)

    @cached_property
    def action_value(self) -> Objects:
        """Q(s,a) = r(s,a) + discount sum_k P(k|s,a) V(k), shape (S, A); V where an action is unavailable."""
        return _except(self._exact.action_value, self._problem.undefined_action)

    @cached_property
    def advantage(self) -> Objects:
        """A(s,a) = Q(s,a) - V(s), shape (S, A); 0 where unavailable."""
        return _except(self._exact.advantage, self._problem.undefined_advantage)

    @cached_property
    def occupancy(self) -> Objects:
        """d(s) = sum_t discount^t P(s_t = s), shape (S,), not normalised; 0 in terminal states."""
        return self._exact.occupancy.fractions()

    @cached_property
    def visitation(self) -> Objects:
        """(1 - discount) sum_t discount^t P(s_t = s), or its limit at 1, terminal states included; sums to 1."""
        return self._exact.visitation.fractions()

    @cached_property
    def state_action_visitation(self) -> Objects:
        """visitation(s) pi(a|s), shape (S, A); sums to 1."""
        return self._exact.state_action_visitation.fractions()

    @cached_property
    def expected_return(self) -> Fraction:
        """J = start . V, in units of reward."""
        return self._exact.expected_return.fractions()[0]

    @cached_property
    def logit_gradient(self) -> Objects:
        """dJ/dlogits (S, A) = d(s) pi(a|s) A(s,a), the probabilities being the softmax of some logits."""
        return self._exact.logit_gradient.fractions()

    @cached_property
    def probability_gradient(self) -> Objects:
        """dJ/dpi (S, A) = d(s) Q(s,a); 0 where unavailable."""
        return _except(self._exact.probability_gradient, self._problem.undefined_derivative)

    @cached_property
    def gradient(self) -> Objects:
        """dJ/dparameters, as `policy_gradient`: of the logits, the weights, or the probabilities.

        Probabilities given as a table are their own parameters, as those of a `DirectPolicy` are.
        """
        if self._problem.direct:
            return self.probability_gradient
        return self._exact.gradient.fractions()

    @cached_property
    def fisher_blocks(self) -> Objects:
        """weight(s) (pi(a|s) [a = b] - pi(a|s) pi(b|s)), shape (S, A, A), as `FisherInformation.blocks`.

        The weight is the visitation, and the occupancy at discount 1; 0 in terminal states.
        """
        return self._exact.fisher_blocks.fractions()

    @cached_property
    def natural_gradient(self) -> Objects:
        """F^+ dJ of least norm, of the shape of the parameters, as `natural_gradient`; 0 in states never visited."""
        if isinstance(self.policy, LogLinearPolicy):
            return least_norm(self._exact.fisher_information.fractions(), self.gradient)
        return self._exact.natural_gradient.fractions()

    def __repr__(self) -> str:
        return f"ExactEvaluation(expected return {_shown(self.expected_return)}, {self.mdp!r})"


@dataclass(frozen=True, eq=False, repr=False)
class ExactFiniteHorizonEvaluation:
    """What `FiniteHorizonEvaluation` holds, as `fractions.Fraction` in read-only object arrays, without rounding.

    Denominators grow with each step, so long horizons are slow.
    """

    mdp: MDP | ExactMDP
    policy: Policy | Objects
    horizon: int
    _exact: FiniteHorizonQuantities[Rationals]

    @cached_property
    def value(self) -> Objects:
        """Expected discounted reward with k = 0..T steps to go, shape (T+1, S)."""
        return _stacked(self._exact.value)

    @cached_property
    def action_value(self) -> Objects:
        """Q[k] = r + discount P value[k-1] for k = 1..T steps to go, and Q[0] = 0, shape (T+1, S, A)."""
        return _stacked(self._exact.action_value)

    @cached_property
    def advantage(self) -> Objects:
        """action_value - value by steps to go, shape (T+1, S, A)."""
        return _stacked(self._exact.advantage)

    @cached_property
    def visitation(self) -> Objects:
        """P(s_t = s) for t = 0..T over all states, shape (T+1, S); each row sums to 1."""
        return _stacked(self._exact.visitation)

    @cached_property
    def state_action_visitation(self) -> Objects:
        """P(s_t = s, a_t = a) for t = 0..T-1, shape (T, S, A)."""
        return _stacked(self._exact.state_action_visitation)

    @cached_property
    def occupancy(self) -> Objects:
        """sum_{t<T} discount^t P(s_t = s), shape (S,); 0 in terminal states."""
        return self._exact.occupancy.fractions()

    @cached_property
    def expected_return(self) -> Fraction:
        """J_T = start . value[T], in units of reward."""
        return self._exact.expected_return.fractions()[0]

    @cached_property
    def logit_gradient(self) -> Objects:
        """dJ_T/dlogits (S, A) = sum_t discount^t P(s_t = s) pi(a|s) A_{T-t}(s,a)."""
        return self._exact.logit_gradient.fractions()

    @cached_property
    def probability_gradient(self) -> Objects:
        """dJ_T/dpi (S, A) = sum_t discount^t P(s_t = s) Q_{T-t}(s,a); 0 where unavailable."""
        return self._exact.probability_gradient.fractions()

    @cached_property
    def gradient(self) -> Objects:
        """dJ_T/dparameters: of the logits, the weights, or the probabilities."""
        return self._exact.gradient.fractions()

    def __repr__(self) -> str:
        head = f"horizon {self.horizon}, expected return {_shown(self.expected_return)}"
        return f"ExactFiniteHorizonEvaluation({head}, {self.mdp!r})"


@overload
def evaluate_exactly(mdp: MDP | ExactMDP, policy: Policy | Table, *, horizon: None = None) -> ExactEvaluation: ...
@overload
def evaluate_exactly(mdp: MDP | ExactMDP, policy: Policy | Table, *, horizon: int) -> ExactFiniteHorizonEvaluation: ...
def evaluate_exactly(
    mdp: MDP | ExactMDP, policy: Policy | Table, *, horizon: int | None = None
) -> ExactEvaluation | ExactFiniteHorizonEvaluation:
    """Values, visitation, return and gradient of `policy` on `mdp` as exact rational numbers.

        V = (I - discount P_pi)^{-1} r_pi,  d = (I - discount P_pi)^{-T} start,  dJ/dlogits = d(s) pi(a|s) A(s,a)

    Floats are the rational numbers that they are, and each row of transition, start and policy is divided by its
    exact sum. `policy` is a policy, whose floats `probabilities` are taken as given (`enclose` has the softmax of its
    logits instead), or a table (S, A) of numbers as `ExactMDP` takes them. With `horizon=T` the process stops after T
    steps and an `ExactFiniteHorizonEvaluation` is returned.

    Shapes and corners are those of `evaluate`. Raises InvalidPolicy where the policy does not fit, SolveError where
    at discount 1 the process need not end, and ImportError without python-flint.

    >>> from fractions import Fraction
    >>> mdp = ExactMDP([[["1/3", "2/3"], [0, 1]], [[0, 1], [0, 1]]], [[0, 0], [1, 1]], "0.9", start=0)
    >>> ev = evaluate_exactly(mdp, [["1/2", "1/2"], [1, 0]])
    >>> ev.value
    array([Fraction(150, 17), Fraction(10, 1)], dtype=object)
    >>> ev.gradient[0, 1] - ev.gradient[0, 0]
    Fraction(120, 289)
    """
    at = problem(mdp, policy)
    model = rational_model(at)
    if horizon is not None:
        T = positive_integer("horizon", horizon)
        return ExactFiniteHorizonEvaluation(mdp, at.given, T, FiniteHorizonQuantities(model, T))
    at.undefined  # noqa: B018  a process that need not end should fail here
    return ExactEvaluation(mdp, at.given, at, Quantities(model, ExactSolutions(model)))


def rational_model(at: Problem) -> Model[Rationals]:
    """The problem in rational numbers."""
    P = exact_law(at.transition)
    R = exact(at.reward)
    goes_on = at.available & ~at.terminal[:, None]
    r = R[:, :, 0] if R.shape[2] == 1 else (P * R).sum(2)
    r = (r + exact(np.zeros(at.available.shape))).only(goes_on)
    rest = 1 - at.discount
    phi = exact(at.policy.features) if isinstance(at.policy, LogLinearPolicy) else None
    return Model(
        problem=at,
        transition=P,
        reward=r,
        discount=_scalar(at.discount),
        stop=_scalar(rest),
        scale=_scalar(1 / rest if rest else Fraction(1)),
        start=exact_law(at.mdp.start),
        probabilities=exact_law(at.probabilities),
        share=exact(np.array([[Fraction(1, int(n))] for n in at.taken.sum(axis=1)], dtype=object)),
        features=phi,
    )


def _shown(x: Fraction) -> str:
    """Twelve digits of a number that floats may be too small or too large for."""
    return f"{Decimal(x.numerator) / Decimal(x.denominator):.12g}"


def _scalar(x: Fraction) -> Rationals:
    return exact(np.array([x], dtype=object))


def _except(x: Rationals, undefined: BoolArray) -> Objects:
    if not undefined.any():
        return x.fractions()
    out = x.fractions().copy()
    out[undefined] = None
    return frozen(out)


def _stacked(steps: list[Rationals]) -> Objects:
    return frozen(np.stack([x.fractions() for x in steps]))
