"""Models from the tabular environments of gymnasium."""

import warnings
from operator import index
from reprlib import repr as shortened
from typing import Any

import numpy as np

from fastpg.errors import InvalidArgument, InvalidModel
from fastpg.formats.outcomes import Outcomes, tabulated
from fastpg.model import MDP
from fastpg.validation import BoolArray, float_array, mask_array

DENSE_LIMIT = 10_000_000
"""The largest S*A*S that `from_gymnasium` stores densely (80 MB each for transitions and rewards)."""

_FORM = "a list of (probability, next state, reward, terminated)"


def from_gymnasium(env_or_id: Any, discount: float = 0.99, *, masked: bool = True) -> MDP:
    """The MDP that a tabular gymnasium environment samples from.

    `env_or_id` is an environment or the id of one, such as ``"FrozenLake-v1"``, whose unwrapped form has the table
    ``P[state][action] = [(probability, next state, reward, terminated), ...]`` and the law of the first state
    ``initial_state_distrib``. FrozenLake, CliffWalking and Taxi have both. Only an id needs gymnasium installed.

    **Terminal states.** gymnasium marks transitions as terminating, an MDP marks states as terminal. A state that is
    entered by terminating transitions alone becomes terminal, and what the table lists for leaving it is dropped.
    Only what the start can lead to counts: the table of Taxi also lists impossible situations, and a transition
    from one of those into a terminal state ends the process. If a state that terminating transitions enter is also
    a first state or entered without termination, then one absorbing terminal state, numbered S, is added and
    those terminating transitions lead there.

    **Rewards.** Outcomes of one action with the same next state are merged; their mean reward is kept, their variance
    is not.

    **Masks.** Where the environment has ``action_mask(state)``, as Taxi does, it becomes `available`; `masked=False`
    keeps every action, as ``step`` takes them all: what Taxi masks are the actions that change nothing.

    **Wrappers** are not part of the model; in particular the time limit that ``gymnasium.make`` adds is left out.

    Transitions are sparse where S*A*S exceeds `DENSE_LIMIT`.

    Raises InvalidArgument where gymnasium knows no such id or the environment is not of this form, and InvalidModel
    where its table breaks a rule.

    >>> from types import SimpleNamespace
    >>> env = SimpleNamespace(P={0: {0: [(1.0, 1, 5.0, True)]}, 1: {0: []}}, initial_state_distrib=[1.0, 0.0])
    >>> from_gymnasium(env)
    MDP(2 states, 1 action, discount 0.99, dense, 1 terminal)
    """
    if not isinstance(env_or_id, str):
        return _read(getattr(env_or_id, "unwrapped", env_or_id), discount, masked)
    env = _make(env_or_id)
    try:
        return _read(env.unwrapped, discount, masked)
    finally:
        env.close()


def _make(env_id: str) -> Any:
    try:
        import gymnasium
    except ImportError:
        raise InvalidArgument(
            f"making {env_id!r} needs the package gymnasium, which pip install 'fastpg[cli]' brings"
        ) from None
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            env = gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        # What it warned of before it failed, such as an id out of date, is what the error says.
        raise InvalidArgument(f"gymnasium cannot make {env_id!r}: {' '.join(str(error).split())}") from None
    for w in heard:
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return env


def _read(env: Any, discount: float, masked: bool) -> MDP:
    name = type(env).__name__
    for attribute, meaning in (("P", "a table of transitions"), ("initial_state_distrib", "a law of the first state")):
        if getattr(env, attribute, None) is None:
            raise InvalidArgument(
                f"env must have {meaning}, env.unwrapped.{attribute}, as FrozenLake, CliffWalking and Taxi do, "
                f"but {name} has none"
            )
    if getattr(env, "fickle_passenger", False):
        raise InvalidArgument(f"env must do what its table P says, but with fickle_passenger {name} does not")
    outcomes, terminated, S, A = _listed(env.P)
    start = float_array("initial_state_distrib", env.initial_state_distrib, InvalidModel)
    if start.shape != (S,):
        raise InvalidModel(f"initial_state_distrib must have shape ({S},) to fit P but has shape {start.shape}")
    has_mask = callable(getattr(env, "action_mask", None))
    available = _mask(env, S, A) if masked and has_mask else np.ones((S, A), bool)

    happens = (outcomes.probability > 0) & available[outcomes.state, outcomes.action]
    reached = _reached(outcomes, happens & ~terminated, start > 0)
    terminal = np.zeros(S, bool)
    terminal[outcomes.next_state[happens & terminated]] = True
    terminal &= ~reached
    diverted = terminated & reached[outcomes.next_state]
    if (diverted & happens & ~terminal[outcomes.state]).any():
        outcomes = outcomes._replace(next_state=np.where(diverted, S, outcomes.next_state))
        S += 1
        start, terminal = np.append(start, 0.0), np.append(terminal, True)
        available = np.vstack([available, np.ones((1, A), bool)])

    lasting = outcomes.where(~terminal[outcomes.state])
    transition, reward = tabulated(lasting, S, A, as_sparse=S * A * S > DENSE_LIMIT)
    return MDP(transition, reward, discount, start, terminal=terminal, available=available)


def _listed(P: Any) -> tuple[Outcomes, BoolArray, int, int]:
    """The outcomes that the table lists, which of them terminate, S and A."""
    try:
        S, A = len(P), len(P[0])
    except (TypeError, KeyError, IndexError):
        S, A = 0, 0
    rows: list[tuple[int, int, int, float, float, bool]] = []
    for s in range(S):
        for a in range(A):
            try:
                rows += [(s, a, index(k), float(p), float(r), bool(done)) for p, k, r, done in P[s][a]]
            except (TypeError, ValueError, KeyError, IndexError):
                raise InvalidModel(f"P[{s}][{a}] must be {_FORM} but is {_shown(P, s, a)}") from None
        if len(P[s]) != A:
            raise InvalidModel(f"P[{s}] must have as many actions as P[0], {A}, but has {len(P[s])}")
    if not rows:
        raise InvalidModel(f"P must map states 0..S-1 and actions 0..A-1 to {_FORM} but is {type(P).__name__}")
    for s, a, k, p, r, _ in rows:
        if not 0 <= k < S:
            raise InvalidModel(f"P[{s}][{a}] must lead to states in 0..{S - 1} but leads to {k}")
        if not (0 <= p < np.inf and np.isfinite(r)):
            raise InvalidModel(f"P[{s}][{a}] must hold probabilities and finite rewards but holds {p!r} and {r!r}")
    state, action, next_state, probability, reward, terminated = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Outcomes(state, action, next_state, probability, reward), terminated, S, A


def _shown(P: Any, s: int, a: int) -> str:
    try:
        return shortened(P[s][a])
    except (TypeError, KeyError, IndexError):
        return "missing"


def _mask(env: Any, S: int, A: int) -> BoolArray:
    return mask_array("action_mask", [env.action_mask(s) for s in range(S)], (S, A), InvalidModel)


def _reached(outcomes: Outcomes, edges: BoolArray, seeds: BoolArray) -> BoolArray:
    """The states that a path of the outcomes marked in `edges` leads to from a seed, seeds included."""
    source, target = outcomes.state[edges], outcomes.next_state[edges]
    found, size = seeds.copy(), -1
    while size != found.sum():
        size = found.sum()
        found[target[found[source]]] = True
    return found
