"""Whole trajectories, stored or summed to their returns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastpg.chain import finite
from fastpg.errors import InvalidArgument
from fastpg.kernels import sampling as kernels
from fastpg.model import MDP
from fastpg.parallel import StopFlag, run
from fastpg.policy import Policy, fitted
from fastpg.rng import RNG, philox_key
from fastpg.sampling.tables import Horizon, IntArray, OutcomeTable, Stopping, outcome_table, stopping
from fastpg.validation import FloatArray, frozen, positive_count

PIECE = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """n sampled trajectories, one a row, padded after their end.

    =========  ============  ===============================================================
    `states`   (n, T+1)      s_0 .. s_L, then -1
    `actions`  (n, T)        a_0 .. a_{L-1}, then -1
    `rewards`  (n, T)        r_0 .. r_{L-1}, undiscounted, then 0
    `lengths`  (n,)          L, the number of steps taken before the horizon or a terminal state
    =========  ============  ===============================================================
    """

    states: npt.NDArray[np.int32]
    actions: npt.NDArray[np.int32]
    rewards: FloatArray
    lengths: IntArray

    def __len__(self) -> int:
        return self.lengths.size

    def __repr__(self) -> str:
        return f"Trajectories({len(self)} of up to {self.actions.shape[1]} steps, {int(self.lengths.sum())} in all)"


def rollout(
    mdp: MDP, policy: Policy, *, n: int, horizon: Horizon, rng: RNG, threads: int | None = None
) -> Trajectories:
    """Sample `n` trajectories and keep them: 16 bytes a step, the padding included.

    `horizon` is a number of steps T, or "geometric": go on with probability `discount` after each step, when T is the
    longest trajectory that occurred. Trajectory i is the same bit for bit whatever n, and whatever the threads.
    Use `estimate_gradient` for what need not be stored; InvalidArgument where memory does not hold them.

    >>> from fastpg import SoftmaxPolicy, problems, rollout
    >>> mdp = problems.frozen_lake("4x4", slippery=False)
    >>> rollout(mdp, SoftmaxPolicy.uniform(mdp), n=3, horizon=5, rng=0).states[:, 0]
    array([0, 0, 0], dtype=int32)
    """
    n, rule, table = _sampler(mdp, policy, horizon, n, threads)
    key, law = philox_key(rng), rule.law(table)
    by_slot, (reward,) = table.indexed(mdp, table.reward)
    longest = 0 if horizon == "geometric" else rule.horizon
    with _storing(n, horizon, (16 * longest + 12) * n):
        lengths = np.empty(n, np.int64)
    pieces = _pieces(n)
    if horizon == "geometric":

        def measure(piece: slice, stop: StopFlag) -> None:
            kernels.trajectory_lengths(key, piece.start, law, stop, lengths[piece])

        run(measure, pieces, threads)
        longest = int(lengths.max())
    with _storing(n, horizon, (16 * longest + 12) * n):
        states, actions = np.empty((n, longest + 1), np.int32), np.empty((n, longest), np.int32)
        rewards = np.empty((n, longest))

    def fill(piece: slice, stop: StopFlag) -> None:
        out = (states[piece], actions[piece], rewards[piece], lengths[piece])
        kernels.trajectories(key, piece.start, law, mdp.n_actions, by_slot, reward, stop, *out)

    run(fill, pieces, threads)
    return Trajectories(frozen(states), frozen(actions), frozen(rewards), frozen(lengths))


def sample_returns(
    mdp: MDP, policy: Policy, *, n: int, horizon: Horizon, rng: RNG, threads: int | None = None
) -> FloatArray:
    """The returns (n,) of `n` sampled trajectories, those of `rollout` with the same arguments, none of them stored.

    sum_t discount^t r_t over the steps; without the discount where `horizon` is "geometric", when the mean is the
    expected return of the infinite horizon.

    >>> from fastpg import SoftmaxPolicy, problems, sample_returns
    >>> mdp = problems.frozen_lake("4x4", slippery=False)
    >>> sample_returns(mdp, SoftmaxPolicy.uniform(mdp), n=3, horizon=5, rng=0)
    array([0., 0., 0.])
    """
    n, rule, table = _sampler(mdp, policy, horizon, n, threads)
    key, law = philox_key(rng), rule.law(table)
    by_slot, (reward,) = table.indexed(mdp, table.reward)
    with _storing(n, horizon, 8 * n):
        out = np.empty(n)

    def add(piece: slice, stop: StopFlag) -> None:
        kernels.returns(key, piece.start, law, mdp.n_actions, by_slot, reward, rule.discounts, stop, out[piece])

    run(add, _pieces(n), threads)
    return frozen(finite("returns", out, mdp))


def _sampler(
    mdp: MDP, policy: Policy, horizon: Horizon, n: int, threads: int | None
) -> tuple[int, Stopping, OutcomeTable]:
    """Checked arguments: how many trajectories, when one stops and what it is drawn from."""
    policy, n = fitted(policy, mdp), positive_count("n", n)
    return n, stopping(mdp, policy, horizon), outcome_table(mdp, policy, threads=threads)


def _pieces(n: int) -> list[slice]:
    """The pieces of 0..n-1."""
    return [slice(first, min(first + PIECE, n)) for first in range(0, n, PIECE)]


@contextmanager
def _storing(n: int, horizon: Horizon, size: int) -> Iterator[None]:
    """InvalidArgument where there is no memory for what takes so many bytes."""
    try:
        yield
    except (MemoryError, ValueError):  # ValueError where no address would be large enough.
        raise InvalidArgument(
            f"n = {n} trajectories with horizon {horizon} take {size} bytes ({size / 2**30:.3g} GiB), more than memory "
            "holds; use fewer, estimate_gradient, which stores none, or sample_returns, which stores their returns"
        ) from None
