"""Estimators that perturb the logits and compare returns: they need no score, and no more of a policy than to act.

The perturbed policies are pi(b|s) exp(delta(s,b)) / sum_c pi(c|s) exp(delta(s,c)), the softmax of moved logits.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, cast

import numpy as np
from scipy import sparse

from fastpg.certificate.equations import power_of_two
from fastpg.chain import reached
from fastpg.errors import InvalidArgument
from fastpg.kernels import perturbation as kernels
from fastpg.model import MDP
from fastpg.parallel import StopFlag
from fastpg.policy import Policy
from fastpg.sampling.directions import Directions, EveryCoordinate, Gaussian
from fastpg.sampling.sampler import Average, Key, Sampler
from fastpg.sampling.tables import Horizon, IntArray, OutcomeTable, discount_powers, outcome_table, stopping
from fastpg.validation import FloatArray, frozen, real_between

# exp(scale u) of any direction u is far from overflow, and so are fourth powers of 1 / scale.
LARGEST, SMALLEST = 50.0, 1e-60


class Perturbation(NamedTuple):
    """A sample of the gradient is the sum, over its directions u, of

        X = (G(theta + scale u) - G(theta - scale u)) u / (2 scale E u_f^2),

    or G(theta + scale u) u / (scale E u_f^2) where it is not `antithetic`, with the returns G of fresh episodes. Where
    `common` both episodes of a pair are driven by the same random words: action by action, then successor by
    successor, by inverse distribution functions.
    """

    scale: float
    directions: Directions
    antithetic: bool
    common: bool

    def factor(self, size: int) -> float:
        """What a difference of returns times u is multiplied by."""
        return 1.0 / ((2.0 if self.antithetic else 1.0) * self.scale * self.directions.second(size))


class Perturbing(Protocol):
    """Anything that says how it perturbs the logits."""

    @property
    def perturbation(self) -> Perturbation:
        """How the logits are perturbed."""


@dataclass(frozen=True, eq=False)
class FiniteDifference:
    """X(s,a) = (G(theta + step e_sa) - G(theta - step e_sa)) / (2 step) from two fresh episodes for each logit.

    A sample is the whole vector: two episodes for each logit of an action that is taken, in a state that is reached and
    has another one. With an infinite horizon its mean is dJ/dtheta(s,a) times
    (f(expm1(step)) - f(expm1(-step))) / (2 step), f(x) = x / (1 + k x), which is

        1 + step^2 (1/6 - k (1 - k)) + O(step^4),
        k = pi(a|s) (1 - discount ((P D)(s,a,s) - (P_pi D)(s,s))),  D = (I - discount P_pi)^-1.

    Covariances are diagonal, (Var G+ + Var G-) / (4 step^2). `common` random numbers make the two episodes of a pair
    alike as long as they can be.

    >>> from fastpg import SoftmaxPolicy, estimator_moments, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> moments = estimator_moments(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), FiniteDifference(0.1))
    >>> moments.gradient[0], moments.mean[0].round(6)
    (array([ 0.25, -0.25]), array([ 0.249792, -0.249792]))

    So is the price of doing without scores: on this lake `RewardToGo()` has a trace of 0.119, from one episode.

    >>> lake = problems.frozen_lake("4x4")
    >>> ev = evaluate(lake, SoftmaxPolicy.uniform(lake))
    >>> for estimator in (FiniteDifference(0.1), FiniteDifference(0.1, common=True)):          # 88 episodes each
    ...     print(round(estimator_moments(ev, estimator, horizon="geometric").trace, 4))
    26.8477
    0.5522

    Source: Glasserman & Yao (1992) for common random numbers.
    """

    step: float = 0.1
    common: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", _scale("step", self.step))

    @property
    def perturbation(self) -> Perturbation:
        """Every free logit in turn."""
        return Perturbation(self.step, EveryCoordinate(), antithetic=True, common=self.common)


@dataclass(frozen=True, eq=False)
class EvolutionStrategy:
    """X = (G(theta + scale u) - G(theta - scale u)) u / (2 scale E u_f^2) for a random direction u

    of the law `directions`: `Gaussian()`, `Rademacher()` (simultaneous perturbation) or `Coordinate()`. Without
    `antithetic` X = G(theta + scale u) u / (scale E u_f^2) from one episode. The mean is the gradient of a smoothed
    return, and differs from that of the return itself by O(scale^2). Every free logit has a component of u, visited or
    not, that a return other than 0 multiplies: a sample takes time proportional to their number, and its steps.
    Moments of `Gaussian()`, and of signs for more than 16 logits, are not enumerated: NoExactMoments.

    >>> from fastpg import SoftmaxPolicy, directions, estimator_moments, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    >>> estimator_moments(ev, EvolutionStrategy(0.1, directions.Rademacher())).mean[0].round(6)
    array([ 0.24917, -0.24917])

    Source: Spall (1992) for signs; Salimans et al. (2017), Algorithm 1.
    """

    scale: float = 0.1
    directions: Directions = field(default_factory=Gaussian)
    antithetic: bool = field(default=True, kw_only=True)
    common: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _scale("scale", self.scale))
        if not isinstance(self.directions, Directions) or self.directions.in_turn:
            raise InvalidArgument(f"directions must be random ones such as Gaussian() but is {self.directions!r}")
        if self.common and not self.antithetic:
            raise InvalidArgument("common random numbers need pairs of episodes but antithetic is False")

    @property
    def perturbation(self) -> Perturbation:
        """One random direction."""
        return Perturbation(self.scale, self.directions, self.antithetic, self.common)


def _scale(name: str, value: float) -> float:
    """A number in [SMALLEST, LARGEST]."""
    return real_between(name, value, SMALLEST, LARGEST)


class Pairs(NamedTuple):
    """The pairs (state, action) that are taken, and where they lead: see `fastpg.kernels.perturbation`.

    `reached` holds the states that the start leads to, `free` the pairs whose logit makes a difference.
    """

    state: IntArray
    action: IntArray
    first: IntArray
    probability: FloatArray
    offset: IntArray
    cumulative: FloatArray
    reached: IntArray
    free: IntArray


@dataclass(frozen=True, eq=False, repr=False)
class PerturbedPlan:
    """A model, a policy, a perturbation and a horizon put together; rewards are in units of `unit`."""

    name: str
    mdp: MDP
    policy: Policy
    perturbation: Perturbation
    horizon: Horizon | None
    table: OutcomeTable
    pairs: Pairs
    unit: float

    rows: ClassVar[int] = 4
    averages: ClassVar[bool] = False
    normalised: ClassVar[bool] = False

    @property
    def free(self) -> tuple[IntArray, IntArray]:
        """The states and the actions of the free logits."""
        return self.pairs.state[self.pairs.free], self.pairs.action[self.pairs.free]

    @property
    def factor(self) -> float:
        """What a difference of returns times a direction is multiplied by."""
        return self.perturbation.factor(self.pairs.free.size)

    @property
    def episodes(self) -> int:
        """How many a sample takes."""
        turns = self.pairs.free.size if self.perturbation.directions.in_turn else 1
        return max(1, turns * (2 if self.perturbation.antithetic else 1))

    def require_sample(self, n: int, *, keep_partial: bool) -> None:
        """Any will do."""

    def sampler(self, key: Key, n: int, pool: IntArray, weight: FloatArray, averaged: Average) -> Sampler:  # noqa: ARG002
        """Of samples that are pooled so."""
        if self.horizon is None:
            raise InvalidArgument("horizon must be a positive number of steps or 'geometric' but is None")
        rule, p = stopping(self.mdp, self.policy, self.horizon), self.pairs
        discount = 1.0 if self.horizon == "geometric" else self.mdp.discount
        discounts = frozen(discount_powers(discount, rule.horizon))
        reward = frozen(self.table.reward / self.unit)
        law = (p.first, p.probability, p.offset, p.cumulative, self.table.successor, reward)
        process = (rule.horizon, rule.powers, discounts, *law)
        how, factor, (state, action) = self.perturbation, self.factor, map(frozen, self.free)
        entries = (p.free, state, action, frozen(np.unique(state)))

        def add(edges: IntArray, stop: StopFlag, sums: FloatArray, blocks: FloatArray, _weights: FloatArray) -> int:
            return int(
                kernels.perturbed_sums(
                    key, edges, process, how.directions.kind, *entries, how.scale, factor, how.antithetic, how.common,
                    pool, weight, stop, sums, blocks,
                )
            )  # fmt: skip

        return add


def perturbed_plan(
    name: str, mdp: MDP, policy: Policy, perturbation: Perturbation, horizon: Horizon | None
) -> PerturbedPlan:
    """The plan of a perturbation of `policy`, which fits `mdp`."""
    table = outcome_table(mdp, policy)
    unit = power_of_two(float(np.abs(table.reward).max(initial=0.0)))
    return PerturbedPlan(name, mdp, policy, perturbation, horizon, table, _pairs(mdp, policy, table), unit)


def _pairs(mdp: MDP, policy: Policy, table: OutcomeTable) -> Pairs:
    """The pairs of a table, and the distribution function of the successors of each."""
    S, A = mdp.n_states, mdp.n_actions
    segment = np.repeat(np.arange(S + 1), np.diff(table.offset))
    key, offset = np.unique(segment * A + table.action, return_index=True)
    offset = frozen(np.append(offset, segment.size))
    state, action = key // A, key % A
    first = np.searchsorted(state, np.arange(S + 2))
    cumulative = np.empty(segment.size)
    kernels.distribution_functions(table.probability, offset, cumulative)
    steps = segment < S
    edges = sparse.csr_array((np.ones(int(steps.sum())), (segment[steps], table.successor[steps])), shape=(S, S))
    seen = np.append(reached(edges, mdp.start > 0) & ~mdp.terminal, False)
    free = np.flatnonzero(seen[state] & (np.diff(first)[state] > 1))
    probability = np.append(policy.probabilities, 1.0)[key]
    arrays = (state, action, first, probability, offset, cumulative, np.flatnonzero(seen), free)
    return Pairs(*map(frozen, arrays))


def perturbing(estimator: object) -> Perturbation | None:
    """How an estimator perturbs the logits; None where it does not."""
    return cast("Perturbation | None", getattr(estimator, "perturbation", None))
