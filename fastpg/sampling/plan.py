"""What is sampled and what each step is worth: a model, a policy, an estimator and a horizon put together."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fastpg.certificate.equations import power_of_two
from fastpg.chain import reached, state_transition
from fastpg.errors import InvalidArgument, InvalidPolicy
from fastpg.evaluation import evaluate
from fastpg.kernels import estimates as kernels
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.parallel import StopFlag
from fastpg.policy import Policy, fitted
from fastpg.sampling.estimators import Estimator, Terms, along_of, behaviour_of, checked, origin, scoring
from fastpg.sampling.perturbation import PerturbedPlan, perturbed_plan, perturbing
from fastpg.sampling.sampler import Average, Key, Sampler
from fastpg.sampling.tables import (
    Horizon,
    IntArray,
    OutcomeTable,
    Stopping,
    discount_powers,
    outcome_table,
    stopping,
)
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
    def episodes(self) -> int:
        """How many a sample of the gradient takes."""
        return 1

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
    def fading(self) -> FloatArray:
        """The discounts of what is averaged."""
        return frozen(discount_powers(self.discount, self.stopping.horizon))

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
    def joint(self) -> bool:
        """Whether each step is weighed by all ratios of its trajectory."""
        return self.terms.weights != "per-decision" and self.ratios.size > 0

    @property
    def normalised(self) -> bool:
        """Whether the mean of n trajectories is divided by that of the products of their ratios."""
        return self.terms.weights == "self-normalised" and self.ratios.size > 0

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

    @property
    def averages(self) -> bool:
        """Whether the average of the sample is taken from what a step is worth."""
        return self.terms.income is not None

    @property
    def rows(self) -> int:
        """The number of power sums: those of the estimate, and with normalised weights those it has with them."""
        return 8 if self.normalised else 4

    def require_sample(self, n: int, *, keep_partial: bool) -> None:
        """InvalidArgument where an average of the sample leaves nothing to average, or is to be known too early."""
        if self.averages and (keep_partial or (self.terms.leave_one_out and n == 1)):
            what = "cannot keep a partial sample" if keep_partial else "that leaves one out needs n of at least 2"
            raise InvalidArgument(f"a BatchAverage {what}")

    def sampler(self, key: Key, n: int, pool: IntArray, weight: FloatArray, averaged: Average) -> Sampler:
        """Of n trajectories that are pooled so."""
        rule, terms, pi = self.stopping, self.terms, self.policy.probabilities
        law, joint = rule.law(self.table), self.joint
        income = frozen(np.empty(0)) if terms.income is None else terms.income
        by_slot, (credit, signal, income, ratios) = self.table.indexed(
            self.mdp, terms.credit, terms.signal, income, self.ratios
        )
        fading, baseline, own = rule.discounts, terms.baseline, 0.0

        def earn(edges: IntArray, stop: StopFlag, sums: FloatArray) -> None:
            kernels.return_sums(key, edges, law, pi.shape[1], by_slot, income, ratios, fading, joint, stop, sums)

        if self.averages:
            fading = self.fading
            # The baseline of trajectory i is (sum of R - R_i) / (n - 1) where it is left out.
            own = 1.0 / (n - 1) if terms.leave_one_out else 0.0
            baseline = frozen(baseline + averaged(earn) * (1.0 + own))

        def add(edges: IntArray, stop: StopFlag, sums: FloatArray, blocks: FloatArray, weights: FloatArray) -> int:
            return int(
                kernels.gradient_sums(
                    key, edges, law, pi, by_slot, credit, signal, income, ratios, baseline, self.last, rule.discounts,
                    fading, self.decay, terms.whole, joint, own, pool, weight, stop, sums, blocks, weights,
                )
            )  # fmt: skip

        return add


def plan(
    mdp: MDP, policy: Policy, estimator: Estimator, horizon: Horizon | None, *, threads: int | None = None
) -> Plan | PerturbedPlan:
    """The plan of an estimator, of its steps or of its perturbations; `threads` are those of its table.

    Raises InvalidPolicy where its behaviour never takes an action that the policy takes in a state that it reaches.
    """
    policy, name = fitted(policy, mdp), type(estimator).__name__
    perturbation = perturbing(checked(estimator))
    if perturbation is not None:
        return perturbed_plan(name, mdp, policy, perturbation, _checked_horizon(horizon))
    behaviour = behaviour_of(estimator)
    sampled = policy if behaviour is None else _covering(fitted(behaviour, mdp), policy, mdp)
    start, scale = mdp.start, 1.0
    if along_of(estimator) == "visitation":
        if horizon not in (None, "geometric", 1):
            raise InvalidArgument(
                f"an estimator along the visitation takes single steps of an infinite horizon: horizon must be None, "
                f"'geometric' or 1 but is {horizon!r}"
            )
        d = evaluate(mdp, policy).occupancy
        scale = float(d.sum())
        start, horizon = (frozen(d / scale), 1) if scale > 0 else (mdp.start, 1)
    else:
        horizon = _checked_horizon(horizon)
    table = outcome_table(mdp, sampled, start, threads=threads)
    terms = scoring(name, estimator).terms(mdp, table)
    if scale != 1:
        terms = terms._replace(signal=frozen(scale * terms.signal), baseline=frozen(scale * terms.baseline))
    unit, terms = _in_units(terms)
    return Plan(name, mdp, policy, sampled, start, table, terms, unit, horizon, scale)


def _checked_horizon(horizon: Horizon | None) -> Horizon | None:
    """A positive number of steps, "geometric" or None."""
    if isinstance(horizon, str) and horizon != "geometric":
        raise InvalidArgument(f"horizon must be a positive number of steps or 'geometric' but is {horizon!r}")
    return horizon if horizon is None or isinstance(horizon, str) else positive_integer("horizon", horizon)


def _in_units(terms: Terms) -> tuple[float, Terms]:
    """A power of 2 near the largest number of `terms`, and `terms` divided by it: so powers of them do not overflow."""
    named = {name: getattr(terms, name) for name in ("credit", "signal", "baseline", "last", "income")}
    tables = {name: x for name, x in named.items() if x is not None}
    unit = power_of_two(max(float(np.abs(x).max(initial=0.0)) for x in tables.values()))
    return unit, terms._replace(**{name: frozen(x / unit) for name, x in tables.items()})


def _covering(behaviour: Policy, policy: Policy, mdp: MDP) -> Policy:
    missing = (behaviour.probabilities == 0) & (policy.probabilities > 0) & ~mdp.terminal[:, None]
    if missing.any():
        edges = sparse.csr_array(state_transition(mdp, policy), copy=True)
        edges.eliminate_zeros()
        missing &= reached(edges, (mdp.start > 0) & ~mdp.terminal)[:, None]
    if missing.any():
        s, a = np.argwhere(missing)[0]
        raise InvalidPolicy(
            f"behaviour must take every action that the policy takes but behaviour[{s}, {a}] is 0 and the policy's "
            f"probability is {policy.probabilities[s, a]:g}"
        )
    return behaviour
