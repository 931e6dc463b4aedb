"""What is sampled and what each step is worth: a model, a policy, an estimator and a horizon put together."""

from dataclasses import dataclass

import numpy as np

from fastpg.certificate.equations import power_of_two
from fastpg.errors import InvalidArgument, InvalidPolicy
from fastpg.evaluation import evaluate
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import Policy, fitted
from fastpg.sampling.estimators import Estimator, Terms, along_of, behaviour_of, checked, origin
from fastpg.sampling.tables import Horizon, OutcomeTable, Stopping, discount_powers, outcome_table, stopping
from fastpg.validation import FloatArray, frozen, positive_integer


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """One trajectory: states from `start`, outcomes of `table`, worth `terms`, where

    ==================  ====================================================================================
    `policy`            the policy of the scores
    `sampled`           the policy that acts, and of `table`: the behaviour policy where there is one
    `start`             (S,) law of the first state
    `horizon`           steps, "geometric" or None for no end but a terminal state
    `ratio`             of importance, one for each outcome of a step
    `discount`          of the credits and signals; 1 where stopping is geometric
    `step_discount`     of the steps
    `survival`          the probability to go on after a step: the discount where stopping is geometric, else 1
    `last`              (S,) H where the horizon cuts the process
    `scale`             of signals and baselines: the sum of the occupancy for steps from the visitation, else 1
    `unit`              a power of 2 near the largest term, in units of reward, and of which `terms` are multiples
    ==================  ====================================================================================
    """

    name: str
    mdp: MDP
    policy: Policy
    sampled: Policy
    start: FloatArray
    table: OutcomeTable
    terms: Terms
    unit: float
    horizon: Horizon | None
    scale: float = 1.0

    @property
    def geometric(self) -> bool:
        """Whether a trajectory stops after a geometric time."""
        return self.horizon == "geometric"

    @property
    def discount(self) -> float:
        """Of the credits."""
        return 1.0 if self.geometric else self.mdp.discount

    @property
    def step_discount(self) -> float:
        """Of the steps."""
        given = self.terms.step_discount
        return self.discount if given is None else given

    @property
    def survival(self) -> float:
        """The probability to go on after a step."""
        return self.mdp.discount if self.geometric else 1.0

    @cached_property
    def stopping(self) -> Stopping:
        """When a trajectory stops, and the discounts of its steps, or of a `whole` return."""
        if self.horizon is None:
            raise InvalidArgument("horizon must be a positive number of steps or 'geometric' but is None")
        rule = stopping(self.mdp, self.sampled, self.horizon)
        discount = self.discount if self.terms.whole else self.step_discount
        return rule._replace(discounts=frozen(discount_powers(discount, rule.horizon)))

    @property
    def decay(self) -> float:
        """Of what follows a step in its worth."""
        return self.discount * self.terms.trace

    @cached_property
    def ratios(self) -> FloatArray:
        """`ratio`, empty where all are 1."""
        ratio = self.ratio
        return frozen(ratio if (ratio != 1).any() else np.empty(0))

    @property
    def last(self) -> FloatArray:
        """H where the horizon cuts the process."""
        if self.terms.last is None or not isinstance(self.horizon, int):
            return frozen(np.zeros(self.mdp.n_states))
        return self.terms.last

    @property
    def ratio(self) -> FloatArray:
        """One for each outcome of a step."""
        if self.sampled is self.policy:
            return np.ones(int(self.table.offset[-2]))
        state = origin(self.table)
        action = self.table.action[: state.size]
        ratio = self.policy.probabilities[state, action] / self.sampled.probabilities[state, action]
        return np.asarray(ratio**self.terms.ratio_power)


def plan(mdp: MDP, policy: Policy, estimator: Estimator, horizon: Horizon | None) -> Plan:
    """The plan of an estimator; InvalidPolicy where its behaviour never takes an action that the policy takes."""
    policy = fitted(policy, mdp)
    behaviour = behaviour_of(checked(estimator))
    sampled = policy if behaviour is None else _covering(fitted(behaviour, mdp), policy, mdp)
    start, scale = mdp.start, 1.0
    if along_of(estimator) == "visitation":
        if horizon not in (None, "geometric", 1):
            raise InvalidArgument(f"an estimator along the visitation has no horizon but horizon is {horizon!r}")
        d = evaluate(mdp, policy).occupancy
        scale = float(d.sum())
        start, horizon = (frozen(d / scale), 1) if scale > 0 else (mdp.start, 1)
    elif isinstance(horizon, str):
        if horizon != "geometric":
            raise InvalidArgument(f"horizon must be a positive number of steps or 'geometric' but is {horizon!r}")
    elif horizon is not None:
        horizon = positive_integer("horizon", horizon)
    table = outcome_table(mdp, sampled, start)
    terms = checked(estimator).terms(mdp, table)
    if scale != 1:
        terms = terms._replace(signal=frozen(scale * terms.signal), baseline=frozen(scale * terms.baseline))
    unit, terms = _in_units(terms)
    return Plan(type(estimator).__name__, mdp, policy, sampled, start, table, terms, unit, horizon, scale)


def _in_units(terms: Terms) -> tuple[float, Terms]:
    """A power of 2 near the largest number of `terms`, and `terms` divided by it: so powers of them do not overflow."""
    tables = [terms.credit, terms.signal, terms.baseline] + ([] if terms.last is None else [terms.last])
    unit = power_of_two(max(float(np.abs(x).max(initial=0.0)) for x in tables))
    credit, signal, baseline, *last = (frozen(x / unit) for x in tables)
    return unit, terms._replace(credit=credit, signal=signal, baseline=baseline, last=last[0] if last else None)


def _covering(behaviour: Policy, policy: Policy, mdp: MDP) -> Policy:
    missing = (behaviour.probabilities == 0) & (policy.probabilities > 0) & ~mdp.terminal[:, None]
    if missing.any():
        s, a = np.argwhere(missing)[0]
        raise InvalidPolicy(
            f"behaviour must take every action that the policy takes but behaviour[{s}, {a}] is 0 and the policy's "
            f"probability is {policy.probabilities[s, a]:g}"
        )
    return behaviour
