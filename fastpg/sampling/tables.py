"""What a model and a policy become for the sampler: one alias table a state, and the rule that ends a trajectory."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import induced_chain
from fastpg.errors import InvalidArgument
from fastpg.kernels.alias import alias_table, records
from fastpg.kernels.random import HALF
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.sampling.duration import require_short
from fastpg.validation import BoolArray, FloatArray, frozen, positive_integer

IntArray = npt.NDArray[np.int64]
Horizon = int | Literal["geometric"]
Law = tuple[int, FloatArray, npt.NDArray[np.uint64], npt.NDArray[np.uint64], int]

# Later than any trajectory ends, and a row of a log can be added to it.
FOREVER = 2**61


class Draws(NamedTuple):
    """What the compiled loops read to draw an outcome; `fastpg.kernels.sampling` says how."""

    segment: npt.NDArray[np.uint64]
    record: npt.NDArray[np.uint64]
    bits: int


@dataclass(frozen=True, eq=False, repr=False)
class OutcomeTable:
    """The outcomes (action, successor) of each state; segment S holds the first states.

    How they are drawn is worked out when it is first asked for: exact moments do without.
    """

    offset: IntArray
    successor: IntArray
    action: IntArray
    reward: FloatArray
    probability: FloatArray
    n_actions: int
    terminal: BoolArray

    @cached_property
    def _alias_table(self) -> tuple[npt.NDArray[np.uint64], IntArray]:
        threshold, alias = np.empty(self.probability.size, np.uint64), np.empty(self.probability.size, np.int64)
        alias_table(self.probability, self.offset, threshold, alias)
        return frozen(threshold), frozen(alias)

    @property
    def alias(self) -> IntArray:
        """The outcome that shares the cell of each."""
        return self._alias_table[1]

    @cached_property
    def draws(self) -> Draws:
        """What the compiled loops read."""
        offset, record = self.offset.astype(np.uint64), np.empty((self.probability.size, 2), np.uint64)
        bits = state_bits(self.terminal.size, self.n_actions, self.probability.size)
        records(*self._alias_table, self.action, self.successor, self.terminal, bits, record)
        return Draws(frozen(offset[:-1] << HALF | np.diff(offset)), frozen(record), bits)

    def indexed(self, mdp: MDP, *values: FloatArray) -> tuple[bool, list[FloatArray]]:
        """`values`, each with one number for each outcome of a step or empty, as the sampler looks them up.

        First whether they go by slot; if not, as when none depends on the successor, they go by s A + a.
        """
        S, A = mdp.n_states, mdp.n_actions
        kept = self.offset[S]
        pair = np.repeat(np.arange(S) * A, np.diff(self.offset[:-1])) + self.action[:kept]
        short = [np.zeros(S * A if value.size else 0) for value in values]
        for table, value in zip(short, values, strict=True):
            if value.size:
                table[pair] = value[:kept]
        if all(np.array_equal(t[pair], v[:kept]) for t, v in zip(short, values, strict=True) if v.size):
            return False, [frozen(table) for table in short]
        slots = np.stack((np.arange(kept), self.alias[:kept]), axis=1).ravel()
        return True, [frozen(value[slots]) if value.size else value for value in values]


def outcome_table(mdp: MDP, policy: Policy, start: FloatArray | None = None) -> OutcomeTable:
    """Outcomes with probability pi(a|s) P(k|s,a) > 0 in time proportional to their number: 32 bytes each, drawn 64.

    `start` (S,) is the law of the first state, that of the model where left out.
    """
    S, A = mdp.n_states, mdp.n_actions
    P = mdp.transition if mdp.is_sparse else sparse.csr_array(mdp.transition.reshape(S * A, S))
    row = np.repeat(np.arange(S * A), np.diff(P.indptr))
    weight = policy.probabilities.ravel()[row] * P.data
    kept = np.flatnonzero(weight > 0)
    row, kept_successor = row[kept], P.indices[kept]
    start = mdp.start if start is None else start
    first = np.flatnonzero(start)
    counts = np.append(np.bincount(row // A, minlength=S), first.size)
    offset = frozen(np.concatenate(([0], np.cumsum(counts))))
    weight = frozen(np.concatenate((weight[kept], start[first])))
    successor = frozen(np.concatenate((kept_successor, first)).astype(np.int64))
    action = frozen(np.concatenate((row % A, np.zeros_like(first))))
    reward = frozen(np.concatenate((_rewards(mdp, row, kept_successor, kept), np.zeros(first.size))))
    return OutcomeTable(offset, successor, action, reward, weight, A, mdp.terminal)


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


def _rewards(mdp: MDP, row: IntArray, successor: IntArray, kept: IntArray) -> FloatArray:
    """R(s,a,k) of the kept transitions."""
    R, A = mdp.reward, mdp.n_actions
    if sparse.issparse(R):
        return R.data[kept]
    if R.ndim == 1:
        return R[row // A]
    return R.reshape(mdp.n_states * A, -1)[row, successor if R.ndim == 3 else 0]


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
