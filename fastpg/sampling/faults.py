"""Known faults of policy-gradient code, as estimators: to show what each does, and to name the one that a sample has.

Each wraps an estimator, has its own exact mean, and is sampled like any other.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.sampling.estimators import (
    Estimator,
    Terms,
    action_table,
    along_of,
    behaviour_of,
    finite_numbers,
    origin,
    scoring,
)
from fastpg.sampling.tables import OutcomeTable
from fastpg.validation import frozen, real_between

# Higher powers of a ratio overflow before long.
LARGEST_POWER = 100.0


@dataclass(frozen=True, eq=False)
class Fault(ABC):
    """An estimator with one thing wrong; `what` says what."""

    estimator: Estimator

    what: ClassVar[str]

    def __post_init__(self) -> None:
        scoring(type(self).__name__, self.estimator)

    @property
    def behaviour(self) -> Policy | None:
        """The behaviour policy of the estimator."""
        return behaviour_of(self.estimator)

    @property
    def along(self) -> str:
        """Where the steps of the estimator are taken."""
        return along_of(self.estimator)

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Those of the estimator, with the fault."""
        terms = scoring(type(self).__name__, self.estimator).terms(mdp, table)
        return self.spoilt(terms, mdp, table)

    @abstractmethod
    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:
        """`terms` with the fault; InvalidArgument where it cannot have it."""


@dataclass(frozen=True, eq=False)
class MissingDiscount(Fault):
    """The steps of a trajectory all count alike: no factor discount^t in front of step t.

    No fault with horizon "geometric", where stopping stands for the discount and no factor is there to be missed.

    Source: Nota & Thomas (2020), Is the policy gradient a gradient?
    """

    what: ClassVar[str] = "the gradient without discount^t"

    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:  # noqa: ARG002
        """Steps are not discounted."""
        if terms.whole:
            raise InvalidArgument(
                "MissingDiscount needs an estimator that discounts its steps; a whole return has none"
            )
        return terms._replace(step_discount=1.0)


@dataclass(frozen=True, eq=False)
class ActionBaseline(Fault):
    """A baseline b(s, a) (S, A) that sees the action is subtracted: what depends on the action goes with it."""

    baseline: npt.ArrayLike

    what: ClassVar[str] = "a baseline that sees the action"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "baseline", finite_numbers("baseline", self.baseline))

    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:
        """The signal loses what the action is worth."""
        state, signal = origin(table), terms.signal.copy()
        action = table.action[: state.size]
        signal[: state.size] -= action_table("baseline", self.baseline, mdp)[state, action]
        return terms._replace(signal=frozen(signal))


@dataclass(frozen=True, eq=False)
class RewardBeforeAction(Fault):
    """The reward of a step counts as received before its action, which gets no credit for it."""

    what: ClassVar[str] = "rewards counted before their action"

    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:  # noqa: ARG002
        """The signal loses the reward of the step."""
        if terms.whole:
            raise InvalidArgument("RewardBeforeAction needs rewards to go; a whole return credits all actions alike")
        return terms._replace(signal=frozen(terms.signal - table.reward))


@dataclass(frozen=True, eq=False)
class TruncatedWithoutBootstrap(Fault):
    """A horizon cuts the process as if it had ended: the state it is cut in is worth nothing."""

    what: ClassVar[str] = "truncation without bootstrapping"

    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:  # noqa: ARG002
        """No value where the process is cut; of differences, the value in the last one is taken out."""
        if terms.last is not None:
            return terms._replace(last=None)
        value = getattr(self.estimator, "value", None)
        if value is None or terms.trace == 0:
            raise InvalidArgument("TruncatedWithoutBootstrap needs an estimator with a bootstrap value and a trace > 0")
        return terms._replace(last=frozen(-np.where(mdp.terminal, 0.0, value) / terms.trace))


@dataclass(frozen=True, eq=False)
class WrongRatio(Fault):
    """The importance ratios are raised to a `power` other than 1: 0 leaves them out, -1 has them upside down."""

    power: float = 0.0

    what: ClassVar[str] = "a wrong importance ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "power", real_between("power", self.power, -LARGEST_POWER, LARGEST_POWER))

    def spoilt(self, terms: Terms, mdp: MDP, table: OutcomeTable) -> Terms:  # noqa: ARG002
        """The ratio is raised to a power."""
        if self.behaviour is None:
            raise InvalidArgument("WrongRatio needs an estimator with a behaviour policy")
        return terms._replace(ratio_power=self.power)
