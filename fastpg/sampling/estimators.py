"""Estimators of the policy gradient, each one small object.

An estimator says what a step of a trajectory is worth; sampler, statistics and exact moments are the same for all.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.sampling.baselines import Baseline, BatchAverage, state_baseline
from fastpg.sampling.perturbation import Perturbing
from fastpg.sampling.tables import OutcomeTable
from fastpg.validation import FloatArray, float_array, frozen, real_between, require_finite

# How the importance ratios of a trajectory weigh its steps.
WEIGHTS = ("per-decision", "trajectory", "self-normalised")


class Terms(NamedTuple):
    """The gradient estimate of one trajectory is X = sum_t w_t grad log pi(a_t|s_t), where

        H_t = ratio_t (credit_t + discount trace H_{t+1}),  H_T = last(s_T) where a horizon cuts the process
        w_t = step_discount^t ratio_0 ... ratio_t (signal_t + discount trace H_{t+1} - baseline(s_t)),

    or, for a `whole` return, w_t = ratio_0 ... ratio_t (sum_{j<t} discount^j credit_j + discount^t H_t / ratio_t
    - baseline(s_t)). `credit` and `signal` have one number for each outcome of the table, `baseline` and `last` one for
    each state, and the ratio is pi(a|s) / behaviour(a|s) to the power `ratio_power`. No `step_discount` stands for the
    discount, no `last` for 0. Geometric stopping has discount 1 in these equations, but for a given `step_discount`.

    Those are `weights` "per-decision". With "trajectory" the ratios are 1 in them, and X is multiplied by the product W
    of all ratios of its trajectory; with "self-normalised" the mean of n of these is divided by the mean of W.
    Where there is an `income`, one number for each outcome, the average of its discounted sums over the n trajectories
    is taken from each worth as well; with `leave_one_out` over the others.
    """

    credit: FloatArray
    signal: FloatArray
    baseline: FloatArray
    trace: float
    whole: bool = False
    ratio_power: float = 1.0
    step_discount: float | None = None
    last: FloatArray | None = None
    weights: str = "per-decision"
    income: FloatArray | None = None
    leave_one_out: bool = False


class Scoring(Protocol):
    """Anything that turns a model and its table of outcomes into `Terms`.

    The sampled policy is its attribute `behaviour`, where it has one that is not None. Where its attribute `along` is
    "visitation" a trajectory is one step from a state drawn in proportion to the occupancy d, times sum(d).
    """

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """The weights of this estimator on `mdp`."""


# What weighs the scores of the steps of a trajectory, or perturbs the policy and compares returns.
Estimator = Scoring | Perturbing


@dataclass(frozen=True, eq=False)
class _Estimator(ABC):
    behaviour: Policy | None = field(default=None, kw_only=True)
    weights: str | None = field(default=None, kw_only=True)

    _weights: ClassVar[str] = "per-decision"

    def __post_init__(self) -> None:
        if self.weights not in (None, *WEIGHTS):
            raise InvalidArgument(f"weights must be None or among {', '.join(WEIGHTS)} but is {self.weights!r}")
        if isinstance(self._baseline, BatchAverage):
            if self.weights == "self-normalised":
                raise InvalidArgument("self-normalised weights need a baseline that is not an average of the sample")
        elif self._baseline is not None:
            self._take("baseline")
        if self.behaviour is not None and not hasattr(self.behaviour, "probabilities"):
            raise InvalidArgument(f"behaviour must be a policy but is {self.behaviour!r}")

    @property
    def _baseline(self) -> Baseline:
        return cast("Baseline", getattr(self, "baseline", None))

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """What each step is worth, how it is weighed, and whether an average of the sample is taken from it."""
        terms, b = self._worth(mdp, table), self._baseline
        terms = terms._replace(weights=self.weights or self._weights)
        if not isinstance(b, BatchAverage):
            return terms
        return terms._replace(income=table.reward, leave_one_out=b.leave_one_out)

    @abstractmethod
    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """What each step is worth."""

    def _take(self, name: str) -> None:
        """Replace a field by a frozen array, or a float where it is a single number."""
        object.__setattr__(self, name, finite_numbers(name, getattr(self, name)))


@dataclass(frozen=True, eq=False)
class _WithBaseline(_Estimator):
    baseline: Baseline = None


@dataclass(frozen=True, eq=False)
class TotalReturn(_WithBaseline):
    """X = sum_t (G - b(s_t)) grad log pi(a_t|s_t) with the discounted return G of the whole trajectory.

    Unbiased for the gradient of the same horizon for every baseline b: None, a constant or an (S,) array; a
    `BatchAverage` has the bias that it states. With a `behaviour` policy X is multiplied by the product W of all ratios
    pi(a_t|s_t) / behaviour(a_t|s_t) (weights="trajectory"); "per-decision" gives the reward of step j times the score
    of step t the ratios up to the later of the two; "self-normalised" divides mean W X by mean W, with a bias of order
    1/n.
    Source: Williams (1992), Theorem 1 (REINFORCE); Precup, Sutton & Singh (2000) for the weights.
    """

    _weights: ClassVar[str] = "trajectory"

    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth the whole return."""
        return Terms(table.reward, table.reward, state_baseline(self.baseline, mdp), 1.0, whole=True)


@dataclass(frozen=True, eq=False)
class RewardToGo(_WithBaseline):
    """X = sum_t discount^t (G_t - b(s_t)) grad log pi(a_t|s_t) with G_t the return from step t on.

    Unbiased for the gradient of the same horizon for every baseline b: None, a constant or an (S,) array. `bootstrap`
    (S,) is the value of the state in which a fixed horizon cuts the process: with the exact V, and baseline or not,
    what is cut off changes the mean only by later scores. With a `behaviour` policy each reward is weighted by the
    ratios up to its step (weights="per-decision"), or all of X by those of the trajectory, as in `TotalReturn`.

    Dividing by the mean ratio need not help:

    >>> from fastpg import SoftmaxPolicy, estimator_moments, evaluate, problems
    >>> small = problems.random_mdp(5, 3, rng=0)
    >>> ev, sampled = evaluate(small, SoftmaxPolicy.random(small, rng=0), horizon=10), SoftmaxPolicy.uniform(small)
    >>> for weights in ("trajectory", "self-normalised", "per-decision"):
    ...     print(weights, round(estimator_moments(ev, RewardToGo(behaviour=sampled, weights=weights)).trace))
    trajectory 433
    self-normalised 440
    per-decision 117

    Source: Sutton et al. (1999); Baxter & Bartlett (2001); Precup, Sutton & Singh (2000) for the weights.
    """

    bootstrap: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bootstrap is not None:
            self._take("bootstrap")

    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth what follows it."""
        last = None if self.bootstrap is None else state_value("bootstrap", self.bootstrap, mdp)
        return Terms(table.reward, table.reward, state_baseline(self.baseline, mdp), 1.0, last=last)


@dataclass(frozen=True, eq=False)
class PlugIn(_Estimator):
    """X = sum_t discount^t (q(s_t, a_t) - b(s_t)) grad log pi(a_t|s_t) with a table q (S, A).

    Its mean is d(s) pi(a|s) (q(s,a) - sum_b pi(b|s) q(s,b)): the gradient where q is Q up to a constant in each state.
    Source: Sutton et al. (1999), Theorem 1.
    """

    action_value: npt.ArrayLike
    baseline: Baseline = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._take("action_value")

    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth its entry of the table."""
        signal = action_table("action_value", self.action_value, mdp)[origin(table), table.action[: origin(table).size]]
        return Terms(
            frozen(np.zeros(table.reward.size)), _padded(signal, table), state_baseline(self.baseline, mdp), 0.0
        )


@dataclass(frozen=True, eq=False)
class GAE(_Estimator):
    """X = sum_t discount^t H_t grad log pi(a_t|s_t), H_t = sum_l (discount trace)^l delta_{t+l}

    with delta_t = r_t + discount v(s_{t+1}) - v(s_t), the table v (S,) counting as 0 in terminal states. Unbiased for
    every v at trace 1 and infinite horizon, and for the exact v = V at every trace. A `baseline` b(s_t) is taken from
    H_t; without one v is all there is.
    Source: Schulman et al. (2016), eq. 16.
    """

    trace: float
    value: npt.ArrayLike
    baseline: Baseline = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "trace", real_between("trace", self.trace, 0.0, 1.0))
        self._take("value")

    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth the differences that follow it."""
        delta = temporal_difference(self.value, mdp, table)
        return Terms(delta, delta, state_baseline(self.baseline, mdp), self.trace)


@dataclass(frozen=True, eq=False)
class TemporalDifference(_Estimator):
    """X = sum_t discount^t delta_t grad log pi(a_t|s_t), or one such step from the visitation distribution

    with delta_t = r_t + discount v(s_{t+1}) - v(s_t) for a table v (S,). `along` is "path" for the sum over a
    trajectory, or "visitation" for X = sum(d) delta grad log pi(a|s) with s drawn from d / sum(d), d the occupancy,
    which needs no horizon. Both have the same mean, the gradient where v = V. A `baseline` b(s_t) is taken from each
    delta_t.
    Source: Sutton & Barto (2018), section 13.5.
    """

    value: npt.ArrayLike
    along: str = "path"
    baseline: Baseline = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._take("value")
        if self.along not in ("path", "visitation"):
            raise InvalidArgument(f"along must be 'path' or 'visitation' but is {self.along!r}")
        if self.along == "visitation" and isinstance(self.baseline, BatchAverage):
            raise InvalidArgument("an average of returns needs paths but along is 'visitation', which has single steps")

    def _worth(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth its own difference."""
        delta = temporal_difference(self.value, mdp, table)
        return Terms(frozen(np.zeros(delta.size)), delta, state_baseline(self.baseline, mdp), 0.0)


def finite_numbers(name: str, value: npt.ArrayLike) -> FloatArray | float:
    """`value` as a frozen array, or a float where it is a single number."""
    x = float_array(name, value, InvalidArgument)
    require_finite(name, np.atleast_1d(x), InvalidArgument)
    return frozen(x) if x.ndim else float(x)


def origin(table: OutcomeTable) -> npt.NDArray[np.int64]:
    """The state of each outcome but those of the start."""
    return np.repeat(np.arange(table.offset.size - 2), np.diff(table.offset)[:-1])


def _padded(x: FloatArray, table: OutcomeTable) -> FloatArray:
    """`x` with zeros for the outcomes of the start."""
    return frozen(np.concatenate((x, np.zeros(table.reward.size - x.size))))


def temporal_difference(value: npt.ArrayLike, mdp: MDP, table: OutcomeTable) -> FloatArray:
    """r + discount v(successor) - v(state) of each outcome; 0 for those of the start."""
    v, state = state_value("value", value, mdp), origin(table)
    steps = slice(state.size)
    return _padded(table.reward[steps] + mdp.discount * v[table.successor[steps]] - v[state], table)


def state_value(name: str, value: npt.ArrayLike, mdp: MDP) -> FloatArray:
    """A table (S,) of values, 0 in terminal states."""
    S, v = mdp.n_states, np.asarray(value, dtype=np.float64)
    if v.shape != (S,):
        raise InvalidArgument(f"{name} must have shape ({S},) but has shape {v.shape}")
    return frozen(np.where(mdp.terminal, 0.0, v))


def action_table(name: str, value: npt.ArrayLike, mdp: MDP) -> FloatArray:
    """A table (S, A)."""
    shape, q = (mdp.n_states, mdp.n_actions), np.asarray(value, dtype=np.float64)
    if q.shape != shape:
        raise InvalidArgument(f"{name} must have shape {shape} but has shape {q.shape}")
    return frozen(q)


def checked(estimator: object) -> Estimator:
    """`estimator`, if it is an object with `terms` or a `perturbation`, and not a class."""
    if isinstance(estimator, type) or not (hasattr(estimator, "terms") or hasattr(estimator, "perturbation")):
        raise InvalidArgument(f"estimator must be an object such as RewardToGo() but is {estimator!r}")
    return cast("Estimator", estimator)


def scoring(name: str, estimator: object) -> Scoring:
    """`estimator`, if it weighs scores, as what is called `name` needs."""
    if not hasattr(checked(estimator), "terms"):
        raise InvalidArgument(f"{name} needs an estimator that weighs scores but {type(estimator).__name__} does not")
    return cast("Scoring", estimator)


def behaviour_of(estimator: Estimator) -> Policy | None:
    """The policy that an estimator has trajectories of, where it is not the policy itself."""
    return cast("Policy | None", getattr(estimator, "behaviour", None))


def along_of(estimator: Estimator) -> str:
    """Whether an estimator takes its steps along a "path" or from the "visitation" distribution."""
    return str(getattr(estimator, "along", "path"))
