"""(I - discount P_pi) x = b by the elimination of Grassmann, Taksar and Heyman, which never subtracts.

Balls then keep their relative precision, also those of occupancies of 1e-1000000. Source: Grassmann, Taksar & Heyman
(1985), Regenerative analysis and steady state distributions for Markov chains.
"""

from typing import NamedTuple

import numpy as np

from fastpg.exact.backend import flint
from fastpg.exact.balls import Balls
from fastpg.exact.quantities import Model
from fastpg.exact.rationals import Objects
from fastpg.lazy import cached_property


class Factors(NamedTuple):
    """Elimination of the last state first: `moves` above the diagonal, `passes` below it, `pivots` on it."""

    moves: Objects
    passes: Objects
    pivots: Objects


class BallSolutions:
    """V and the arrivals of one model, in balls of the present precision."""

    def __init__(self, model: Model[Balls]) -> None:
        self.model = model

    def value(self) -> Balls:
        """V (S,), 0 where it does not exist."""
        p, pivots = self._factors.passes, self._factors.pivots
        x = self.model.state_reward.only(~self.model.problem.undefined).balls.copy()
        for k in range(x.size - 1, 0, -1):
            x[:k] += self._factors.moves[:k, k] * x[k]
        x[0] /= pivots[0]
        for k in range(1, x.size):
            x[k] = (x[k] + (p[k, :k] * x[:k]).sum()) / pivots[k]
        return Balls(x)

    def arrivals(self) -> Balls:
        """D^T start (S,): occupancy where the process goes on, the chance to end there elsewhere."""
        p, pivots = self._factors.passes, self._factors.pivots
        x = self.model.start.balls.copy()
        for k in range(x.size - 1, -1, -1):
            x[k] /= pivots[k]
            x[:k] += p[k, :k] * x[k]
        for k in range(1, x.size):
            x[k] += (self._factors.moves[:k, k] * x[:k]).sum()
        return Balls(x)

    @cached_property
    def _factors(self) -> Factors:
        """States are eliminated from the last; `slack` is what a row of I - discount P_pi sums to."""
        model, arb = self.model, flint().arb
        ends = model.problem.terminal | model.problem.undefined
        P = (model.discount * model.state_transition).only(~ends[:, None]).balls.copy()
        slack = np.where(ends, arb(1), model.stop.balls[0])
        moves, pivots = P.copy(), slack.copy()
        for k in range(slack.size - 1, 0, -1):
            pivots[k] = slack[k] + P[k, :k].sum()
            moves[:k, k] = P[:k, k] / pivots[k]
            P[:k, :k] += moves[:k, k, None] * P[k, None, :k]
            slack[:k] += moves[:k, k] * slack[k]
        pivots[0] = slack[0]
        return Factors(moves, P, pivots)
