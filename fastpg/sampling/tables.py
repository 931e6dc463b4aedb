"""What a model and a policy become for the sampler: one alias table a state, and the rule that ends a trajectory."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import induced_chain
from fastpg.errors import InvalidArgument
from fastpg.kernels.alias import alias_tables
from fastpg.kernels.outcomes import by_pair, count_outcomes, list_outcomes
from fastpg.kernels.sampling import HALF
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.parallel import share
from fastpg.policy import Policy
from fastpg.sampling.duration import require_short
from fastpg.validation import BoolArray, FloatArray, frozen, positive_integer

IntArray = npt.NDArray[np.int64]
Horizon = int | Literal["geometric"]
Law = tuple[int, FloatArray, npt.NDArray[np.uint64], npt.NDArray[np.uint64], int]

# Later than any trajectory ends, and a row of a log can be added to it.
FOREVER = 2**61
# So many outcomes are worth a thread's while.
PIECE = 2**16


class Draws(NamedTuple):
    """What the compiled loops read to draw an outcome; `fastpg.kernels.sampling` says how."""

    segment: npt.NDArray[np.uint64]
    record: npt.NDArray[np.uint64]
    bits: int


@dataclass(frozen=True, eq=False, repr=False)
class OutcomeTable:
    """The outcomes (action, successor) of each state; segment S holds the first states.

    How they are drawn is worked out when it is first asked for, on `threads`: exact moments do without.
    """

    offset: IntArray
    successor: IntArray
    action: IntArray
    reward: FloatArray
    probability: FloatArray
    n_actions: int
    terminal: BoolArray
    threads: int | None = None

    @cached_property
    def _drawn(self) -> tuple[Draws, IntArray]:
        n = self.probability.size
        bits = state_bits(self.terminal.size, self.n_actions, n)
        alias, record = np.empty(n, np.int64), np.empty((n, 2), np.uint64)

        def work(states: slice) -> None:
            offset = self.offset[states.start : states.stop + 1]
            law = (self.probability, offset, self.successor, self.action, self.terminal)
            alias_tables(*law, bits, alias, record)

        _over_states(work, self.offset, self.threads)
        offset = self.offset.astype(np.uint64)
        return Draws(frozen(offset[:-1] << HALF | np.diff(offset)), frozen(record), bits), frozen(alias)

    @property
    def draws(self) -> Draws:
        """What the compiled loops read."""
        return self._drawn[0]

    @property
    def alias(self) -> IntArray:
        """The outcome that shares the cell of each."""
        return self._drawn[1]

    def indexed(self, mdp: MDP, *values: FloatArray) -> tuple[bool, list[FloatArray]]:
        """`values`, each with one number for each outcome of a step or empty, as the sampler looks them up.

        First whether they go by slot; if not, as when none depends on the successor, they go by s A + a.
        """
        short = [np.zeros((mdp.n_states, mdp.n_actions) if value.size else (0, 0)) for value in values]
        if all(by_pair(self.offset, self.action, v, x) for v, x in zip(values, short, strict=True)):
            return False, [frozen(x.ravel()) for x in short]
        kept = self.offset[mdp.n_states]
        slots = np.stack((np.arange(kept), self.alias[:kept]), axis=1).ravel()
        return True, [frozen(value[slots]) if value.size else value for value in values]


def outcome_table(
    mdp: MDP, policy: Policy, start: FloatArray | None = None, *, threads: int | None = None
) -> OutcomeTable:
    """Outcomes with probability pi(a|s) P(k|s,a) > 0 in time proportional to their number: 32 bytes each, drawn 56.

    `start` (S,) is the law of the first state, that of the model where left out; `threads` are by default all cores.
    """
    S, A = mdp.n_states, mdp.n_actions
    start = mdp.start if start is None else start
    begun, count = np.flatnonzero(start), np.empty(S + 1, np.int64)
    (data, indices, first), pi = _rows(mdp), policy.probabilities
    rewards, place = _rewards(mdp)

    def rows(states: slice) -> tuple[IntArray, FloatArray]:
        return first[A * states.start : A * states.stop + 1], pi[states]

    def count_some(states: slice) -> None:
        count_outcomes(data, *rows(states), count[states])

    def list_some(states: slice) -> None:
        own = slice(offset[states.start], offset[states.stop])
        paid = rewards[A * states.start * place[0] :]
        list_outcomes(data, indices, *rows(states), paid, place, action[own], successor[own], reward[own], weight[own])

    _over_states(count_some, first[::A], threads)
    count[S] = begun.size
    offset = frozen(np.concatenate(([0], np.cumsum(count))))
    successor, action = (np.empty(offset[-1], np.int64) for _ in range(2))
    reward, weight = (np.empty(offset[-1]) for _ in range(2))
    _over_states(list_some, first[::A], threads)
    for x, first_states in ((successor, begun), (action, 0), (reward, 0.0), (weight, start[begun])):
        x[offset[S] :] = first_states
    successor, action, reward, weight = map(frozen, (successor, action, reward, weight))
    return OutcomeTable(offset, successor, action, reward, weight, A, mdp.terminal, threads)


def _over_states(work: Callable[[slice], None], offset: IntArray, threads: int | None) -> None:
    """`work` on all states, in runs of about PIECE entries of them; those of state s are offset[s] .. offset[s+1]-1."""
    cuts = np.searchsorted(offset[:-1], np.arange(0, max(offset[-1], 1), PIECE))
    runs = [slice(first, last) for first, last in pairwise(np.unique(np.append(cuts, offset.size - 1)))]
    share(work, runs, threads)


def state_bits(n_states: int, n_actions: int, n_outcomes: int) -> int:
    """How many bits a state takes; with those of an action there may be 31, and 31 for an outcome."""
    bits, action_bits = (n_states - 1).bit_length(), (n_actions - 1).bit_length()
    if bits + action_bits > 31:
        raise InvalidArgument(
            f"the sampler needs {bits} bits for {n_states} states and {action_bits} for {n_actions} actions but has 31"
        )
    if n_outcomes > 2**31:
        raise InvalidArgument(f"the sampler takes at most {2**31} outcomes (s, a, s') but there are {n_outcomes}")
    return bits


def _rows(mdp: MDP) -> tuple[FloatArray, npt.NDArray[np.int32], IntArray]:
    """P(k|s,a) as `fastpg.kernels.outcomes` reads it."""
    P, pairs = mdp.transition, mdp.n_states * mdp.n_actions
    if mdp.is_sparse:
        return P.data, frozen(P.indices.astype(np.int32, copy=False)), frozen(P.indptr.astype(np.int64))
    return frozen(P.reshape(-1)), frozen(np.empty(0, np.int32)), frozen(np.arange(pairs + 1) * mdp.n_states)


def _rewards(mdp: MDP) -> tuple[FloatArray, tuple[int, int, int]]:
    """R(s,a,k), and what row, successor and entry count for in the place of a number."""
    R, S, A = mdp.reward, mdp.n_states, mdp.n_actions
    if sparse.issparse(R):
        return R.data, (0, 0, 1)
    if R.ndim == 1:
        return frozen(np.repeat(R, A)), (1, 0, 0)
    return frozen(R.reshape(-1)), ((S, 1, 0) if R.ndim == 3 else (1, 0, 0))


class Stopping(NamedTuple):
    """When a trajectory stops: after `horizon` steps, or after a geometric time where `powers` is not empty."""

    horizon: int
    powers: FloatArray
    discounts: FloatArray

    def law(self, table: OutcomeTable) -> Law:
        """What the compiled loops call the law of a trajectory."""
        return self.horizon, self.powers, *table.draws


def stopping(mdp: MDP, policy: Policy, horizon: Horizon) -> Stopping:
    """Check `horizon`, a positive number of steps or "geometric".

    "geometric" goes on with probability `discount` after each step and does not discount rewards, which is unbiased
    for the infinite horizon. At discount 1 it runs to the end, and SolveError is raised where there may be none,
    InvalidArgument where it is too far away.
    """
    if isinstance(horizon, str):
        if horizon != "geometric":
            raise InvalidArgument(f"horizon must be a positive number of steps or 'geometric' but is {horizon!r}")
        undiscounted = frozen(np.ones(1))
        if mdp.discount == 1 and mdp.discount_complement > 0:
            raise InvalidArgument(
                f"horizon 'geometric' needs a discount below 1 in float64 but the discount is 1.0 with complement "
                f"{mdp.discount_complement!r}: a trajectory would take too many steps; give a number of steps"
            )
        if mdp.discount == 1:
            induced_chain(mdp, policy)
            require_short(mdp, policy)
            return Stopping(FOREVER, frozen(np.empty(0)), undiscounted)
        require_short(mdp, policy)
        # Products beyond 2^-53, the smallest uniform number drawn, are never reached.
        powers = [mdp.discount]
        while powers[-1] > 2.0**-54:
            powers.append(powers[-1] * powers[-1])
        return Stopping(FOREVER, frozen(np.array(powers)), undiscounted)
    steps = min(positive_integer("horizon", horizon), FOREVER)
    return Stopping(steps, frozen(np.empty(0)), frozen(discount_powers(mdp.discount, steps)))


def discount_powers(discount: float, steps: int) -> FloatArray:
    """discount^t for t < steps; the last entry stands for all later ones (all 1, or underflowed to 0)."""
    if discount in (0, 1):
        return np.array([1.0, discount])
    until_zero = int(np.log(5e-324) / np.log(discount)) + 3
    return np.power(discount, np.arange(min(steps, until_zero), dtype=np.float64))
