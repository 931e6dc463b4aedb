"""Estimators of the policy gradient, each one small object.

An estimator says what a step of a trajectory is worth; sampler and statistics are the same for all.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.sampling.tables import OutcomeTable
from fastpg.validation import FloatArray, float_array, frozen, require_finite

Baseline = float | npt.ArrayLike | None


class Terms(NamedTuple):
    """The gradient estimate of one trajectory is X = sum_t w_t grad log pi(a_t|s_t), where

        H_t = credit_t + discount trace H_{t+1}
        w_t = discount^t (signal_t + discount trace H_{t+1} - baseline(s_t)),

    or, for a `whole` return, w_t = sum_j discount^j credit_j - baseline(s_t). `credit` and `signal` have one number
    for each outcome of the table. Geometric stopping has discount 1 in these equations.
    """

    credit: FloatArray
    signal: FloatArray
    baseline: FloatArray
    trace: float
    whole: bool


class Estimator(Protocol):
    """Anything that turns a model and its table of outcomes into `Terms`."""

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """The weights of this estimator on `mdp`."""


@dataclass(frozen=True, eq=False)
class _WithBaseline:
    baseline: Baseline = None

    def __post_init__(self) -> None:
        if self.baseline is not None:
            b = float_array("baseline", self.baseline, InvalidArgument)
            require_finite("baseline", np.atleast_1d(b), InvalidArgument)
            object.__setattr__(self, "baseline", frozen(b) if b.ndim else float(b))


@dataclass(frozen=True, eq=False)
class TotalReturn(_WithBaseline):
    """X = sum_t (G - b(s_t)) grad log pi(a_t|s_t) with the discounted return G of the whole trajectory.

    Unbiased for the gradient of the same horizon for every baseline b: None, a constant or an (S,) array.
    Source: Williams (1992), Theorem 1 (REINFORCE).
    """

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth the whole return."""
        return Terms(table.reward, table.reward, state_baseline(self.baseline, mdp), 1.0, True)


@dataclass(frozen=True, eq=False)
class RewardToGo(_WithBaseline):
    """X = sum_t discount^t (G_t - b(s_t)) grad log pi(a_t|s_t) with G_t the return from step t on.

    Unbiased for the gradient of the same horizon for every baseline b: None, a constant or an (S,) array.
    Source: Sutton et al. (1999); Baxter & Bartlett (2001).
    """

    def terms(self, mdp: MDP, table: OutcomeTable) -> Terms:
        """Each step is worth what follows it."""
        return Terms(table.reward, table.reward, state_baseline(self.baseline, mdp), 1.0, False)


def state_baseline(baseline: Baseline, mdp: MDP) -> FloatArray:
    """`baseline` as one number for each state."""
    S = mdp.n_states
    b = np.asarray(0.0 if baseline is None else baseline, dtype=np.float64)
    if b.shape not in ((), (S,)):
        raise InvalidArgument(f"baseline must be None, a number or an array of shape ({S},) but has shape {b.shape}")
    return frozen(np.broadcast_to(b, (S,)).copy())


def checked(estimator: object) -> Estimator:
    """`estimator`, if it is an object with `terms` and not a class."""
    if isinstance(estimator, type) or not hasattr(estimator, "terms"):
        raise InvalidArgument(f"estimator must be an object such as RewardToGo() but is {estimator!r}")
    return cast("Estimator", estimator)
