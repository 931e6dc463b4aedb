"""Certified enclosures of an evaluation whose probabilities are the true softmax of the logits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastpg.errors import InvalidArgument, SolveError
from fastpg.exact.backend import flint
from fastpg.exact.balls import Balls, enclosed, exponential
from fastpg.exact.evaluation import rational_model
from fastpg.exact.gth import BallSolutions
from fastpg.exact.model import ExactMDP
from fastpg.exact.problem import Problem, Table, problem
from fastpg.exact.quantities import FiniteHorizonQuantities, Model, Quantities
from fastpg.exact.rationals import Objects, Rationals, exact
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import LogLinearPolicy, Policy, SoftmaxPolicy
from fastpg.validation import frozen, positive_integer, real_between

FIRST_BITS, MOST_BITS = 128, 1 << 15


@dataclass(frozen=True, eq=False, repr=False)
class Enclosure:
    """What `Evaluation` holds, or `FiniteHorizonEvaluation` with a horizon, as `Balls` of the asked width.

    Names and shapes are theirs; `expected_return` has the shape (1,). Each quantity is computed when first read, with
    128 bits and twice as many until every ball is narrow enough, and kept; SolveError where 32768 bits are too few.
    Numbers that do not exist are balls that are not finite.
    """

    mdp: MDP | ExactMDP
    policy: Policy | Objects
    horizon: int | None
    width: float
    absolute: float
    _problem: Problem
    _rational: Model[Rationals]
    _tried: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def probabilities(self) -> Balls:
        """pi(a|s) = exp(theta(s,a)) / sum_b exp(theta(s,b)), shape (S, A)."""
        return self._certified("probabilities", lambda at: at.model.probabilities)

    @cached_property
    def value(self) -> Balls:
        """V (S,), or (T+1, S) by steps to go."""
        return self._certified("value", lambda at: at.value, "undefined")

    @cached_property
    def action_value(self) -> Balls:
        """Q (S, A), or (T+1, S, A) by steps to go."""
        return self._certified("action_value", lambda at: at.action_value, "undefined_action")

    @cached_property
    def advantage(self) -> Balls:
        """Q - V (S, A), or (T+1, S, A) by steps to go; 0 where unavailable."""
        return self._certified("advantage", lambda at: at.advantage, "undefined_advantage")

    @cached_property
    def occupancy(self) -> Balls:
        """d (S,), not normalised; 0 in terminal states."""
        return self._certified("occupancy", lambda at: at.occupancy)

    @cached_property
    def visitation(self) -> Balls:
        """(1 - discount) d (S,), or (T+1, S) by step, terminal states included."""
        return self._certified("visitation", lambda at: at.visitation)

    @cached_property
    def state_action_visitation(self) -> Balls:
        """visitation(s) pi(a|s), (S, A), or (T, S, A) by step."""
        return self._certified("state_action_visitation", lambda at: at.state_action_visitation)

    @cached_property
    def expected_return(self) -> Balls:
        """J, shape (1,), in units of reward."""
        return self._certified("expected_return", lambda at: at.expected_return)

    @cached_property
    def logit_gradient(self) -> Balls:
        """dJ/dlogits (S, A)."""
        return self._certified("logit_gradient", lambda at: at.logit_gradient)

    @cached_property
    def probability_gradient(self) -> Balls:
        """dJ/dpi (S, A)."""
        return self._certified("probability_gradient", lambda at: at.probability_gradient, "undefined_derivative")

    @cached_property
    def gradient(self) -> Balls:
        """dJ/dparameters: of the logits, the weights, or the probabilities."""
        return (
            self.probability_gradient if self._problem.direct else self._certified("gradient", lambda at: at.gradient)
        )

    @cached_property
    def fisher_blocks(self) -> Balls:
        """The Fisher information in the logits, (S, A, A), as `FisherInformation.blocks`."""
        self._infinite()
        return self._certified("fisher_blocks", lambda at: at.fisher_blocks)

    @cached_property
    def natural_gradient(self) -> Balls:
        """F^+ dJ of least norm (S, A); InvalidArgument for features, whose rank no enclosure can decide."""
        self._infinite()
        if isinstance(self.policy, LogLinearPolicy):
            raise InvalidArgument(
                "the natural gradient of a log-linear policy depends on the rank of a matrix, which an enclosure "
                "cannot decide; evaluate_exactly gives it for the probabilities as floats"
            )
        return self._certified("natural_gradient", lambda at: at.natural_gradient)

    def _infinite(self) -> None:
        if self.horizon is not None:
            raise InvalidArgument(
                "the Fisher information is that of the visitation of an infinite horizon; enclose without horizon"
            )

    def _certified(self, name: str, quantity: Callable[[Any], Any], undefined: str | None = None) -> Balls:
        """The quantity with as many bits as its width needs; `undefined` names the mask of what does not exist."""
        bits = FIRST_BITS
        while bits <= MOST_BITS:
            with flint().ctx.workprec(bits):
                found = quantity(self._at(bits))
                balls = np.stack([x.balls for x in found]) if isinstance(found, list) else found.balls
                exists = np.ones(balls.shape, bool)
                if undefined is not None and self.horizon is None:
                    exists = ~getattr(self._problem, undefined)
                narrow = [self._narrow(x) for x in balls[exists]]
                if all(narrow):
                    return Balls(frozen(np.where(exists, balls, flint().arb.nan())))
            bits *= 2
        raise SolveError(
            f"{name} is not known to a relative width of {self.width:g} with {MOST_BITS} bits; "
            f"{len(narrow) - sum(narrow)} of {len(narrow)} entries fail"
        )

    def _narrow(self, x: Any) -> bool:
        """Whether a ball is narrow for its number; one that holds 0 is measured by `absolute`."""
        if not x.is_finite():
            return False
        arb = flint().arb
        return bool(x.rad() <= arb(self.absolute) if x.contains(0) else x.rad() <= arb(self.width) * x.abs_lower())

    def _at(self, bits: int) -> Any:
        """All quantities with so many bits."""
        if bits not in self._tried:
            model = ball_model(self._rational)
            if self.horizon is None:
                self._tried[bits] = Quantities(model, BallSolutions(model))
            else:
                self._tried[bits] = FiniteHorizonQuantities(model, self.horizon)
        return self._tried[bits]

    def __repr__(self) -> str:
        horizon = "" if self.horizon is None else f"horizon {self.horizon}, "
        return f"Enclosure({horizon}relative width {self.width:g}, {self.mdp!r})"


def enclose(
    mdp: MDP | ExactMDP,
    policy: Policy | Table,
    *,
    horizon: int | None = None,
    width: float = 1e-15,
    absolute: float = 1e-300,
) -> Enclosure:
    """Certified enclosures of everything that `evaluate_exactly` holds, for the true softmax of the logits.

    The logits of a softmax policy, and the features and weights of a log-linear one, are the rational numbers that
    their floats are; -inf masks exactly. Probabilities are then exp(theta(s,a)) / sum_b exp(theta(s,b)) without
    rounding, however small. Other policies have the rational probabilities of `evaluate_exactly`.

    Every ball has a radius of at most `width` times the number, or of at most `absolute` where it holds 0.

    Raises as `evaluate_exactly` does; InvalidArgument where `width` or `absolute` is not in (0, 1].

    >>> from fastpg import SoftmaxPolicy, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> balls = enclose(mdp, SoftmaxPolicy([[-1000.0, 0.0], [0.0, 0.0]]))
    >>> balls.probabilities.balls[0, 0]
    [5.07595889754946e-435 +/- 3.24e-450]
    """
    for name, number in (("width", width), ("absolute", absolute)):
        if real_between(name, number, 0, 1) == 0:
            raise InvalidArgument(f"{name} must be positive but is {number!r}")
    at = problem(mdp, policy, true_softmax=True)
    if horizon is None:
        at.undefined  # noqa: B018  a process that need not end should fail here
    else:
        horizon = positive_integer("horizon", horizon)
    return Enclosure(mdp, at.given, horizon, width, absolute, at, rational_model(at))


def ball_model(rational: Model[Rationals]) -> Model[Balls]:
    """The same model in balls of the present precision."""
    at = rational.problem
    return Model(
        problem=at,
        transition=enclosed(rational.transition),
        reward=enclosed(rational.reward),
        discount=enclosed(rational.discount),
        stop=enclosed(rational.stop),
        scale=enclosed(rational.scale),
        start=enclosed(rational.start),
        probabilities=_probabilities(rational),
        share=enclosed(rational.share),
        features=None if rational.features is None else enclosed(rational.features),
    )


def _probabilities(rational: Model[Rationals]) -> Balls:
    """The softmax of the logits, or the probabilities themselves where there are none."""
    at, policy = rational.problem, rational.problem.policy
    if isinstance(policy, SoftmaxPolicy):
        logits = exact(np.where(at.taken, policy.logits, 0.0))
    elif isinstance(policy, LogLinearPolicy):
        assert rational.features is not None
        logits = (rational.features * exact(policy.weights)).sum(2)
    else:
        return enclosed(rational.probabilities)
    fmpq, arb = flint().fmpq, flint().arb
    out = np.empty(logits.shape, dtype=object)
    for s, row in enumerate(logits.fractions()):
        top = max(x for x, taken in zip(row, at.taken[s], strict=True) if taken)
        gaps = [fmpq(*(x - top).as_integer_ratio()) for x in row]
        weight = [exponential(gap) if taken else arb(0) for gap, taken in zip(gaps, at.taken[s], strict=True)]
        total = sum(weight, arb(0))
        out[s] = [w / total for w in weight]
    return Balls(out)
