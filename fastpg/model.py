"""The finite Markov decision process: validated once, then frozen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.errors import InvalidModel
from fastpg.lazy import cached_property
from fastpg.successors import Successors, successors
from fastpg.validation import (
    BoolArray,
    FloatArray,
    bounded_mean,
    float_array,
    frozen,
    law,
    mask_array,
    normaliser,
    real_between,
    require,
    require_finite,
    require_sums,
)

# (S, A, S) float64 array or SciPy csr_array (S*A, S); SciPy ships no types.
Transition: TypeAlias = Any
ArrayLike = npt.ArrayLike


@dataclass(frozen=True, eq=False, repr=False, init=False)
class MDP:
    """A finite Markov decision process with S states and A actions.

    Parameters
    ----------
    transition : (S, A, S) array, or SciPy sparse array (S*A, S) whose row ``s*A + a`` is the law of the next state.
        Rows must sum to 1 within 1e-9 and are then normalised. Rows of terminal states and of unavailable
        actions are not read; they are stored as zeros.
    reward : (S,), (S, A) or (S, A, S) array, or sparse (S*A, S): the reward of leaving a state, of an action, or of a
        transition (its mean where it is random). Rewards of transitions are kept, not only their mean.
    discount : in [0, 1]; 1 is legal wherever the policy ends for certain.
    discount_complement : 1 - discount, where the float `discount` is too coarse to say it: a `discount` of 1.0 with a
        complement of 1e-300 is a discounted process. It must agree with `discount` within one ulp of 1.
    start : (S,) law of the first state, or the index of one state; uniform over non-terminal states when left out.
    terminal : (S,) mask of the states where the process has ended. They are absorbing and pay nothing.
    available : (S, A) mask of the actions a state has; all of them when left out.

    Attributes of the same names hold the checked values, read-only; ``expected_reward`` (S, A) is the mean reward
    r(s, a) = sum_k P(k|s,a) R(s,a,k), and ``discount_complement`` is 1 - discount where it was not given. Two models
    are equal when their contents are.

    Raises InvalidModel with the place, the value, the rule and the count of what breaks it.

    >>> mdp = MDP(transition=[[[0.0, 1.0]], [[0.0, 0.0]]], reward=[[1.0], [0.0]], discount=0.9, terminal=[False, True])
    >>> mdp
    MDP(2 states, 1 action, discount 0.9, dense, 1 terminal)
    """

    transition: Transition
    reward: Transition
    discount: float
    discount_complement: float
    start: FloatArray
    terminal: BoolArray
    available: BoolArray

    def __init__(
        self,
        transition: ArrayLike | sparse.sparray | sparse.spmatrix,
        reward: ArrayLike | sparse.sparray | sparse.spmatrix,
        discount: float,
        start: ArrayLike | None = None,
        *,
        terminal: ArrayLike | None = None,
        available: ArrayLike | None = None,
        discount_complement: float | None = None,
    ) -> None:
        P: Any = _csr("transition", transition) if sparse.issparse(transition) else _dense_transition(transition)
        S, A = _shape(P)
        ended = np.zeros(S, bool) if terminal is None else mask_array("terminal", terminal, (S,), InvalidModel)
        legal = np.ones((S, A), bool) if available is None else mask_array("available", available, (S, A), InvalidModel)
        require(
            legal.any(axis=1) | ended,
            "available",
            "leave each non-terminal state an action",
            legal.sum(axis=1),
            InvalidModel,
        )
        rows = legal & ~ended[:, None]
        set_ = object.__setattr__
        set_(self, "discount", real_between("discount", discount, 0, 1, InvalidModel))
        set_(self, "discount_complement", _complement(self.discount, discount_complement))
        set_(self, "start", frozen(_start(start, ended)))
        set_(self, "terminal", frozen(ended))
        set_(self, "available", frozen(legal))
        if sparse.issparse(P):
            kept = _sparse_law(P, rows)
            set_(self, "reward", _sparse_reward(reward, P, kept, rows, ended))
            set_(self, "transition", _frozen_csr(kept))
        else:
            set_(self, "reward", frozen(_dense_reward(reward, P, rows, ended)))
            set_(self, "transition", frozen(law("transition", P, InvalidModel, rows)))

    @cached_property
    def n_states(self) -> int:
        """S, terminal states included."""
        return self.terminal.shape[0]

    @cached_property
    def n_actions(self) -> int:
        """A, the largest number of actions that a state can have."""
        return self.available.shape[1]

    @cached_property
    def is_sparse(self) -> bool:
        """Whether transitions are stored as a sparse (S*A, S) array."""
        return sparse.issparse(self.transition)

    @cached_property
    def never_ends(self) -> bool:
        """Whether no state is terminal."""
        return not self.terminal.any()

    @cached_property
    def all_available(self) -> bool:
        """Whether every non-terminal state has every action."""
        return bool((self.available | self.terminal[:, None]).all())

    @cached_property
    def successors(self) -> Successors:
        """Where the actions of each state lead, for sparse transitions."""
        return successors(self.transition, frozen(np.ones((self.n_states, self.n_actions))))

    @cached_property
    def expected_reward(self) -> FloatArray:
        """r(s, a) = sum_k P(k|s,a) R(s,a,k), shape (S, A); 0 where terminal or unavailable."""
        S, A = self.n_states, self.n_actions
        if sparse.issparse(self.reward) or self.reward.ndim == 3:
            mean = bounded_mean(self._mean_reward, self.reward).reshape(S, A)
        else:
            r = self.reward if self.reward.ndim == 2 else self.reward[:, None]
            mean = np.where(self.available & ~self.terminal[:, None], r, 0.0)
        return frozen(np.ascontiguousarray(mean))

    def _mean_reward(self, reward: Transition) -> FloatArray:
        if sparse.issparse(reward):
            return np.asarray((self.transition * reward).sum(axis=1))
        return np.einsum("sak,sak->sa", self.transition, reward)

    def restart(self, start: ArrayLike) -> "MDP":
        """The same process begun from another law or state."""
        return self._with(start=frozen(_start(start, self.terminal)))

    def discounted(self, discount: float) -> "MDP":
        """The same process under another discount, its complement 1 - discount."""
        gamma = real_between("discount", discount, 0, 1, InvalidModel)
        return self._with(discount=gamma, discount_complement=_complement(gamma, None))

    def _with(self, **changed: Any) -> "MDP":
        twin = object.__new__(MDP)
        twin.__dict__.update(self.__dict__ | changed)
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        for value in state.values():
            if isinstance(value, np.ndarray):
                frozen(value)
            elif sparse.issparse(value):
                _frozen_csr(value)
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MDP):
            return NotImplemented
        names = ("start", "terminal", "available", "transition", "reward")
        return (
            (self.discount, self.discount_complement) == (other.discount, other.discount_complement)
            and self.available.shape == other.available.shape
            and all(_same(getattr(self, name), getattr(other, name)) for name in names)
        )

    def __hash__(self) -> int:
        return hash((self.discount, self.available.shape, self.start.tobytes(), self.terminal.tobytes()))

    def __repr__(self) -> str:
        S, A, ended = self.n_states, self.n_actions, int(self.terminal.sum())
        stored = f"sparse with {self.transition.nnz} transitions" if self.is_sparse else "dense"
        discount = f"discount {self.discount:g}"
        if self.discount_complement != 1 - self.discount:
            discount += f" (complement {self.discount_complement:g})"
        parts = [f"{S} state{'s' * (S != 1)}", f"{A} action{'s' * (A != 1)}", discount, stored]
        if ended:
            parts.append(f"{ended} terminal")
        if not self.all_available:
            parts.append("some actions unavailable")
        return f"MDP({', '.join(parts)})"


def _shape(P: Transition) -> tuple[int, int]:
    return (P.shape[1], P.shape[0] // P.shape[1]) if sparse.issparse(P) else P.shape[:2]


def _dense_transition(value: object) -> FloatArray:
    P = float_array("transition", value, InvalidModel)
    if P.ndim != 3 or P.shape[0] != P.shape[2] or P.size == 0:
        raise InvalidModel(f"transition must have shape (S, A, S) with S, A >= 1 but has shape {P.shape}")
    return P


def _csr(name: str, value: Any) -> sparse.csr_array:
    if value.dtype.kind not in "biuf":
        raise InvalidModel(f"{name} must hold real numbers but has dtype {value.dtype}")
    if value.ndim != 2:
        raise InvalidModel(f"sparse {name} must have shape (S*A, S) but has shape {value.shape}")
    _require_places(name, value)
    P = sparse.csr_array(value, dtype=np.float64, copy=True)
    if P.shape[1] == 0 or P.shape[0] == 0 or P.shape[0] % P.shape[1]:
        raise InvalidModel(f"sparse {name} must have shape (S*A, S) with S, A >= 1 but has shape {P.shape}")
    P.sum_duplicates()
    if P.nnz < np.iinfo(np.int32).max:
        P.indices, P.indptr = P.indices.astype(np.int32, copy=False), P.indptr.astype(np.int32, copy=False)
    return P


def _require_places(name: str, value: Any) -> None:
    """Raise unless each entry of a sparse array lies in it: SciPy reads what it is handed without a look."""
    rows, columns = value.shape
    if value.format == "coo":
        _require_below(f"{name}.row", value.row, rows)
        _require_below(f"{name}.col", value.col, columns)
    elif value.format in ("csr", "csc"):
        lines, across = (rows, columns) if value.format == "csr" else (columns, rows)
        first, stored = value.indptr, min(value.indices.size, value.data.size)
        if first.size != lines + 1:
            raise InvalidModel(f"{name}.indptr must have {lines + 1} entries but has {first.size}")
        if first[0] != 0 or first[-1] > stored or (first[1:] < first[:-1]).any():
            good = (first >= np.append(0, first[:-1])) & (first <= stored)
            good[0] &= first[0] == 0
            require(good, f"{name}.indptr", f"rise from 0 to at most the {stored} stored entries", first, InvalidModel)
        _require_below(f"{name}.indices", value.indices[: first[-1]], across)


def _require_below(name: str, index: npt.NDArray[np.integer], n: int) -> None:
    if index.size and not 0 <= index.min() <= index.max() < n:
        require((index >= 0) & (index < n), name, f"be in 0..{n - 1}", index, InvalidModel)


def _frozen_csr(P: sparse.csr_array) -> sparse.csr_array:
    for part in (P.data, P.indices, P.indptr):
        part.flags.writeable = False
    return P


def _require_stored(good: BoolArray, name: str, rule: str, at: sparse.csr_array, value: FloatArray, A: int) -> None:
    """`require` for numbers that belong to the stored entries of `at`; the place is state, action, next state."""
    bad = np.flatnonzero(~good)
    if bad.size:
        k = bad[0]
        s, a = divmod(int(_row_of(at)[k]), A)
        place = f"{name}[{s}, {a}, {at.indices[k]}]"
        raise InvalidModel(f"{place} must {rule} but is {float(value[k])!r}; {bad.size} of {value.size} entries fail")


def _row_of(P: sparse.csr_array) -> npt.NDArray[np.intp]:
    return np.repeat(np.arange(P.shape[0]), np.diff(P.indptr))


def _sparse_law(P: sparse.csr_array, rows: BoolArray) -> sparse.csr_array:
    """`P` without unread rows and stored zeros, checked and normalised in place where it has none of either."""
    S, A = rows.shape
    if not (rows.all() and (P.data > 0).all() and np.isfinite(P.data).all()):
        P = _checked_entries(P, rows)
    with np.errstate(over="ignore"):
        total = (P @ np.ones(S)).reshape(S, A)
    require_sums("transition", np.where(rows, total, 1.0), lambda at: P[[at[0] * A + at[1]]].data, InvalidModel)
    scale = normaliser(total, S).ravel()
    if (scale != 1).any():
        P.data /= np.repeat(scale, np.diff(P.indptr))
    return P


def _checked_entries(P: sparse.csr_array, rows: BoolArray) -> sparse.csr_array:
    """The entries of `P` that are read and not zero, all finite and positive."""
    S, A = rows.shape
    row = _row_of(P)
    read = rows.ravel()[row]
    _require_stored(np.isfinite(P.data) | ~read, "transition", "be finite", P, P.data, A)
    _require_stored(~(P.data < 0) | ~read, "transition", "not be negative", P, P.data, A)
    kept = read & (P.data > 0)
    lengths = np.bincount(row[kept], minlength=S * A)
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(P.indptr.dtype)
    return sparse.csr_array((P.data[kept], P.indices[kept], indptr), shape=P.shape)


def _complement(discount: float, given: float | None) -> float:
    """1 - discount, as given or as floats have it."""
    if given is None:
        return 1.0 - discount
    complement = real_between("discount_complement", given, 0, 1, InvalidModel)
    if abs(discount - 1.0 + complement) > np.finfo(np.float64).eps:
        raise InvalidModel(
            f"discount_complement must be 1 - discount within one ulp of 1 but is {given!r} at discount {discount!r}"
        )
    if complement == 0 and discount < 1:
        raise InvalidModel(f"discount_complement must be positive below discount 1 but is 0 at discount {discount!r}")
    return complement


def _start(value: object, terminal: BoolArray) -> FloatArray:
    S = terminal.shape[0]
    if value is None:
        if terminal.all():
            raise InvalidModel(f"start must be given where all {S} states are terminal")
        return np.where(terminal, 0.0, 1.0) / np.count_nonzero(~terminal)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if not 0 <= value < S:
            raise InvalidModel(f"start must be a state in 0..{S - 1} or a law of shape ({S},) but is {value}")
        return np.eye(1, S, int(value))[0]
    mu = float_array("start", value, InvalidModel)
    if mu.shape != (S,):
        raise InvalidModel(f"start must be a state in 0..{S - 1} or a law of shape ({S},) but has shape {mu.shape}")
    return law("start", mu, InvalidModel)


UNPAID = "be 0 in a terminal state (a reward for ending belongs to the transition that ends)"


def _check_reward_of_terminal(R: FloatArray, counts: BoolArray) -> None:
    require(~(counts & (R != 0)), "reward", UNPAID, R, InvalidModel)


def _dense_reward(value: Any, P: FloatArray, rows: BoolArray, ended: BoolArray) -> FloatArray:
    S, A, _ = P.shape
    if sparse.issparse(value):
        value = _csr("reward", value).toarray()
        value = value.reshape(S, A, S) if value.shape == (S * A, S) else value
    R = float_array("reward", value, InvalidModel)
    if R.shape not in ((S,), (S, A), (S, A, S)):
        raise InvalidModel(f"reward must have shape ({S},), ({S}, {A}) or ({S}, {A}, {S}) but has shape {R.shape}")
    require_finite("reward", R, InvalidModel)
    happens = P != 0 if R.ndim == 3 else np.ones(R.shape, bool)
    _check_reward_of_terminal(R, happens & ended.reshape((S,) + (1,) * (R.ndim - 1)))
    if R.ndim == 3:
        R[~rows] = 0.0
    return R


def _sparse_reward(
    value: Any, given: sparse.csr_array, P: sparse.csr_array, rows: BoolArray, ended: BoolArray
) -> Transition:
    """The reward of a sparse model: (S,), (S, A), or one number for each stored transition."""
    S, A = rows.shape
    if not sparse.issparse(value):
        R = float_array("reward", value, InvalidModel)
        if R.shape != (S, A, S):
            if R.shape not in ((S,), (S, A)):
                raise InvalidModel(
                    f"reward must have shape ({S},), ({S}, {A}), ({S}, {A}, {S}) or be sparse ({S * A}, {S}) "
                    f"but has shape {R.shape}"
                )
            require_finite("reward", R, InvalidModel)
            _check_reward_of_terminal(R, np.broadcast_to(ended.reshape((S,) + (1,) * (R.ndim - 1)), R.shape))
            return frozen(R)
        pick: Callable[[sparse.csr_array], FloatArray] = lambda at: R.reshape(S * A, S)[_row_of(at), at.indices]  # noqa: E731
    else:
        stored = _csr("reward", value)
        if stored.shape != P.shape:
            raise InvalidModel(
                f"sparse reward must have the shape {P.shape} of transition but has shape {stored.shape}"
            )

        def pick(at: sparse.csr_array) -> FloatArray:
            key = _row_of(stored) * S + stored.indices
            wanted = _row_of(at) * S + at.indices
            found = np.minimum(np.searchsorted(key, wanted), max(key.size - 1, 0))
            return np.where(key[found] == wanted, stored.data[found], 0.0) if key.size else np.zeros(wanted.size)

    outside = pick(given)
    _require_stored(np.isfinite(outside), "reward", "be finite", given, outside, A)
    happens = ended[_row_of(given) // A] & (given.data != 0)
    _require_stored(~(happens & (outside != 0)), "reward", UNPAID, given, outside, A)
    return _frozen_csr(sparse.csr_array((pick(P), P.indices, P.indptr), shape=P.shape))


def _same(x: Transition, y: Transition) -> bool:
    if sparse.issparse(x) and sparse.issparse(y):
        return all(np.array_equal(getattr(x, part), getattr(y, part)) for part in ("indptr", "indices", "data"))
    return not sparse.issparse(x) and not sparse.issparse(y) and np.array_equal(x, y)
