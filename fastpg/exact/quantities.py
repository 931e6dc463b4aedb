"""The formulas, once for rational numbers and for balls."""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from fastpg.exact.problem import Problem
from fastpg.lazy import cached_property
from fastpg.validation import BoolArray


class Numbers(Protocol):
    """An array of exact or enclosed numbers."""

    exact: ClassVar[bool]

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __mul__(self, other: Self) -> Self: ...
    def __matmul__(self, other: Self) -> Self: ...
    def __add__(self, other: Self) -> Self: ...
    def __sub__(self, other: Self) -> Self: ...
    def __getitem__(self, key: Any) -> Self: ...
    def sum(self, axis: int) -> Self: ...
    def only(self, mask: BoolArray) -> Self: ...


N = TypeVar("N", bound=Numbers)
Solved = TypeVar("Solved", bound=Numbers, covariant=True)


@dataclass(frozen=True, eq=False)
class Model(Generic[N]):
    """A problem in one kind of numbers; one-element arrays stand for scalars."""

    problem: Problem
    transition: N  # (S, A, S)
    reward: N  # (S, A)
    discount: N  # (1,)
    stop: N  # (1,), 1 - discount
    scale: N  # (1,), 1 / (1 - discount), and 1 at discount 1
    start: N  # (S,)
    probabilities: N  # (S, A)
    share: N  # (S, 1), 1 / number of actions of positive probability
    features: N | None  # (S, A, k) of a log-linear policy

    @cached_property
    def state_transition(self) -> N:
        """P_pi (S, S), rows zero where the process has ended."""
        return (self.probabilities[:, :, None] * self.transition).sum(1)

    @cached_property
    def state_reward(self) -> N:
        """r_pi (S,)."""
        return (self.probabilities * self.reward).sum(1)

    def action_value(self, value: N) -> N:
        """r + discount P V, and V where an action is unavailable."""
        q = self.reward + self.discount * (self.transition @ value)
        missing = self.problem.missing
        return q.only(~missing) + value[:, None].only(missing) if missing.any() else q

    def advantage(self, q: N, value: N) -> N:
        """A(s,a) = Q(s,a) - V(s), or sum_b pi(b|s) (Q(s,a) - Q(s,b)), where rounding would spoil a small one."""
        gain = q - value[:, None] if q.exact else (self.probabilities[:, None, :] * _differences(q)).sum(2)
        return gain.only(self.problem.available)

    def pulled_back(self, logit_gradient: N, probability_gradient: N) -> N:
        """dJ/dparameters."""
        if self.features is not None:
            return (self.features * logit_gradient[:, :, None]).sum(0).sum(0)
        return probability_gradient if self.problem.direct else logit_gradient


class Solutions(Protocol[Solved]):
    """What a kind of number solves for: V = D r_pi and D^T start."""

    def value(self) -> Solved: ...
    def arrivals(self) -> Solved: ...


@dataclass(frozen=True, eq=False)
class Quantities(Generic[N]):
    """Everything that an evaluation holds, 0 where a value does not exist."""

    model: Model[N]
    solutions: Solutions[N]

    @cached_property
    def value(self) -> N:
        return self.solutions.value()

    @cached_property
    def action_value(self) -> N:
        return self.model.action_value(self.value)

    @cached_property
    def advantage(self) -> N:
        return self.model.advantage(self.action_value, self.value)

    @cached_property
    def arrivals(self) -> N:
        return self.solutions.arrivals()

    @cached_property
    def occupancy(self) -> N:
        return self.arrivals.only(~self.model.problem.terminal)

    @cached_property
    def visitation(self) -> N:
        terminal = self.model.problem.terminal
        passing = (self.model.stop * self.arrivals).only(~terminal)
        return self.arrivals.only(terminal) + passing if terminal.any() else passing

    @cached_property
    def state_action_visitation(self) -> N:
        return self.visitation[:, None] * self.model.probabilities

    @cached_property
    def expected_return(self) -> N:
        """(1,)"""
        return (self.model.start * self.value)[None, :].sum(1)

    @cached_property
    def logit_gradient(self) -> N:
        return self.occupancy[:, None] * self.model.probabilities * self.advantage

    @cached_property
    def probability_gradient(self) -> N:
        return (self.occupancy[:, None] * self.action_value).only(self.model.problem.available)

    @cached_property
    def gradient(self) -> N:
        return self.model.pulled_back(self.logit_gradient, self.probability_gradient)

    @cached_property
    def fisher_weight(self) -> N:
        problem = self.model.problem
        return self.occupancy if problem.discount == 1 else self.visitation.only(~problem.terminal)

    @cached_property
    def fisher_blocks(self) -> N:
        pi = self.model.probabilities
        same = np.eye(pi.shape[1], dtype=bool)[None]
        mixed = (pi[:, :, None] * pi[:, None, :]).only(~same)
        return self.fisher_weight[:, None, None] * (mixed.sum(2)[:, :, None].only(same) - mixed)

    @cached_property
    def fisher_information(self) -> N:
        """Phi^T F Phi (k, k) of a log-linear policy."""
        phi = self.model.features
        assert phi is not None
        image = (self.fisher_blocks[:, :, :, None] * phi[:, None, :, :]).sum(2)
        return (phi[:, :, :, None] * image[:, :, None, :]).sum(0).sum(0)

    @cached_property
    def natural_gradient(self) -> N:
        """In closed form: along the simplex for a direct policy, in the logits otherwise."""
        problem = self.model.problem
        moved = problem.taken & problem.visited[:, None]
        if problem.direct:
            return (self.model.scale * (self.model.probabilities * self.advantage)).only(moved)
        centred = _differences(self.action_value).only(problem.taken[:, None, :]).sum(2)
        return (self.model.scale * (self.model.share * centred)).only(moved)


@dataclass(frozen=True, eq=False)
class FiniteHorizonQuantities(Generic[N]):
    """Everything that a finite-horizon evaluation holds; those by steps are lists."""

    model: Model[N]
    horizon: int

    @cached_property
    def value(self) -> list[N]:
        model = self.model
        V = [model.state_reward.only(np.zeros(model.state_reward.shape, bool))]
        for _ in range(self.horizon):
            V.append(model.state_reward + model.discount * (model.state_transition @ V[-1]))
        return V

    @cached_property
    def action_value(self) -> list[N]:
        nothing = self.model.reward.only(np.zeros(self.model.reward.shape, bool))
        missing = self.model.problem.missing
        q = [self.model.reward + self.model.discount * (self.model.transition @ V) for V in self.value[:-1]]
        ahead = zip(q, self.value[1:], strict=True)
        return [nothing, *(q.only(~missing) + V[:, None].only(missing) for q, V in ahead)]

    @cached_property
    def advantage(self) -> list[N]:
        return [self.model.advantage(q, V) for q, V in zip(self.action_value, self.value, strict=True)]

    @cached_property
    def visitation(self) -> list[N]:
        model = self.model
        law, terminal = [model.start], model.problem.terminal
        for _ in range(self.horizon):
            law.append((law[-1][:, None] * model.state_transition).sum(0) + law[-1].only(terminal))
        return law

    @cached_property
    def state_action_visitation(self) -> list[N]:
        return [law[:, None] * self.model.probabilities for law in self.visitation[:-1]]

    @cached_property
    def weights(self) -> list[N]:
        """discount^t P(s_t = s) for t = 0..T-1 where the process goes on."""
        factor, out = None, []
        for law in self.visitation[:-1]:
            law = law.only(~self.model.problem.terminal)
            out.append(law if factor is None else factor * law)
            factor = self.model.discount if factor is None else factor * self.model.discount
        return out

    @cached_property
    def occupancy(self) -> N:
        return _total(self.weights)

    @cached_property
    def expected_return(self) -> N:
        """(1,)"""
        return (self.model.start * self.value[-1])[None, :].sum(1)

    @cached_property
    def logit_gradient(self) -> N:
        return self.model.probabilities * self._swept(self.advantage)

    @cached_property
    def probability_gradient(self) -> N:
        return self._swept(self.action_value).only(self.model.problem.available)

    @cached_property
    def gradient(self) -> N:
        return self.model.pulled_back(self.logit_gradient, self.probability_gradient)

    def _swept(self, x: list[N]) -> N:
        """sum_t discount^t P(s_t = s) x_{T-t}(s,a)"""
        return _total([w[:, None] * x[self.horizon - t] for t, w in enumerate(self.weights)])


def _differences(q: N) -> N:
    """Q(s,a) - Q(s,b), shape (S, A, A), exactly 0 for a = b."""
    return (q[:, :, None] - q[:, None, :]).only(~np.eye(q.shape[1], dtype=bool))


def _total(terms: list[N]) -> N:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
