"""One step ahead: the expected value of the next state, and the greedy action."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpg.chain import add_up, finite, law_of
from fastpg.errors import InvalidArgument, InvalidModel
from fastpg.kernels import bellman as kernels
from fastpg.model import MDP
from fastpg.parallel import ranges, spread
from fastpg.validation import FloatArray, bounded_mean, float_array, frozen


class Greedy(NamedTuple):
    """The Bellman optimality operator at a value: (S,), and an action that attains it, -1 in terminal states."""

    value: FloatArray
    action: npt.NDArray[np.int64]


def expected_next_value(mdp: MDP, value: npt.ArrayLike, *, threads: int | None = None) -> FloatArray:
    """sum_k P(k|s,a) value(k), shape (S, A), on all cores; 0 in terminal states and for unavailable actions.

    >>> from fastpg import MDP
    >>> expected_next_value(MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0], 0.9), [2.0, 4.0])
    array([[3.],
           [4.]])
    """

    def mean(v: FloatArray) -> FloatArray:
        out = np.empty((mdp.n_states, mdp.n_actions))
        add_up(mdp, frozen(v), out, threads)
        return out

    return frozen(bounded_mean(mean, _value(mdp, value)))


def greedy(mdp: MDP, value: npt.ArrayLike, *, threads: int | None = None) -> Greedy:
    """max_a r(s,a) + discount sum_k P(k|s,a) value(k) and the first action that attains it, on all cores.

    Both are of shape (S,); in terminal states the value is 0 and the action -1.

    >>> from fastpg import MDP
    >>> greedy(MDP([[[1.0], [1.0]]], [[1.0, 2.0]], 0.5), [10.0])
    Greedy(value=array([7.]), action=array([1]))

    Source: Puterman (1994), equation 6.2.1.
    """
    v = _value(mdp, value)
    out, best = np.zeros(mdp.n_states), np.full(mdp.n_states, -1)
    kernel = kernels.sparse_greedy if mdp.is_sparse else kernels.greedy
    available = frozen(mdp.available & ~mdp.terminal[:, None])
    given = (*law_of(mdp), mdp.expected_reward, mdp.discount, available, v)
    size = mdp.transition.size
    spread(lambda piece: kernel(*given, *piece, out, best), ranges(mdp.n_states, size), size, threads)
    return Greedy(frozen(finite("value", out, mdp)), frozen(best))


def _value(mdp: MDP, value: npt.ArrayLike) -> FloatArray:
    if not isinstance(mdp, MDP):
        raise InvalidModel(f"mdp must be an MDP but is {type(mdp).__name__}")
    v = float_array("value", value, InvalidArgument)
    if v.shape != (mdp.n_states,):
        raise InvalidArgument(f"value must have shape ({mdp.n_states},) but has shape {v.shape}")
    bad = np.flatnonzero(~np.isfinite(v))
    if bad.size:
        raise InvalidArgument(f"value[{bad[0]}] must be finite but is {v[bad[0]]}")
    return frozen(v)
