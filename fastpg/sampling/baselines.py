"""What is taken from the worth of a step: numbers that are given, or an average of the sample itself."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.validation import FloatArray, frozen


@dataclass(frozen=True)
class BatchAverage:
    """The average return of the n sampled trajectories as the constant baseline of each of them.

        X = mean_i Y_i - mean_j R_j mean_i Z_i,     E X = dJ - Cov(R, Z) / n

    with Y_i the estimate without a baseline, R_i the discounted return and Z_i what a baseline of 1 takes from Y_i, all
    with the weights of the estimator. A trajectory takes part in its own baseline, so that X is biased: for a
    `TotalReturn` E X = (1 - 1/n) dJ. With `leave_one_out` the baseline of trajectory i is the average of the others:
    then X is unbiased, and needs n >= 2. Each trajectory is walked twice.

    Source: Kool, van Hoof & Welling (2019), Buy 4 REINFORCE samples, get a baseline for free.
    """

    leave_one_out: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.leave_one_out, bool | np.bool_):
            raise InvalidArgument(f"leave_one_out must be True or False but is {self.leave_one_out!r}")


Baseline = float | npt.ArrayLike | BatchAverage | None


def state_baseline(baseline: Baseline, mdp: MDP) -> FloatArray:
    """`baseline` as one number for each state; 0 for an average of the sample, which is not known yet."""
    S = mdp.n_states
    given = 0.0 if baseline is None or isinstance(baseline, BatchAverage) else baseline
    b = np.asarray(given, dtype=np.float64)
    if b.shape not in ((), (S,)):
        raise InvalidArgument(f"baseline must be None, a number or an array of shape ({S},) but has shape {b.shape}")
    return frozen(np.broadcast_to(b, (S,)).copy())
