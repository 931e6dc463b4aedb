"""A Markov decision process in exact numbers, validated as `MDP` is."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpg.errors import FastPGError, InvalidModel, InvalidPolicy
from fastpg.exact.rationals import Objects
from fastpg.model import UNPAID
from fastpg.validation import SUM_TOLERANCE, BoolArray, frozen, mask_array, require

_FINITE: Callable[[Any], bool] = lambda x: not isinstance(x, float | Decimal) or np.isfinite(float(x))  # noqa: E731


@dataclass(frozen=True, eq=False, repr=False, init=False)
class ExactMDP:
    """A finite Markov decision process in rational numbers, none of them rounded.

    Parameters are those of `MDP`, as nested sequences or arrays of numbers of any kind: int, float (the rational
    number that it is), `fractions.Fraction`, `decimal.Decimal`, and strings such as "1/3", "0.1" or "1e-3".

    transition : (S, A, S); reward : (S,), (S, A) or (S, A, S); discount : in [0, 1]; start : a law (S,) or one state;
    terminal : mask (S,); available : mask (S, A).

    A law must sum to exactly 1. One with a float in it must do so within 1e-9 and is then divided by its exact sum.
    Attributes of the same names hold `Fraction` in read-only object arrays. Rows of terminal states and of
    unavailable actions are not read; they are zeros.

    Raises InvalidModel with the place, the value, the rule and the count of what breaks it.

    >>> mdp = ExactMDP([[["1/3", "2/3"]], [[0, 0]]], [["0.1"], [0]], "0.9", terminal=[False, True])
    >>> mdp
    ExactMDP(2 states, 1 action, discount 9/10, 1 terminal)
    >>> mdp.transition[0, 0, 0] + mdp.reward[0, 0]
    Fraction(13, 30)
    """

    transition: Objects
    reward: Objects
    discount: Fraction
    start: Objects
    terminal: BoolArray
    available: BoolArray

    def __init__(
        self,
        transition: object,
        reward: object,
        discount: object,
        start: object = None,
        *,
        terminal: npt.ArrayLike | None = None,
        available: npt.ArrayLike | None = None,
    ) -> None:
        P = _table("transition", transition, InvalidModel)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or P.size == 0:
            raise InvalidModel(f"transition must have shape (S, A, S) with S, A >= 1 but has shape {P.shape}")
        S, A, _ = P.shape
        ended = np.zeros(S, bool) if terminal is None else mask_array("terminal", terminal, (S,), InvalidModel)
        legal = np.ones((S, A), bool) if available is None else mask_array("available", available, (S, A), InvalidModel)
        choices = legal.sum(axis=1)
        require((choices > 0) | ended, "available", "leave each non-terminal state an action", choices, InvalidModel)
        rows = legal & ~ended[:, None]
        set_ = object.__setattr__
        set_(self, "transition", frozen(_law("transition", P, InvalidModel, rows)))
        set_(self, "reward", frozen(_reward(reward, P, rows, ended)))
        set_(self, "discount", _discount(discount))
        set_(self, "start", frozen(_start(start, ended)))
        set_(self, "terminal", frozen(ended))
        set_(self, "available", frozen(legal))

    @property
    def n_states(self) -> int:
        """S, terminal states included."""
        return self.terminal.shape[0]

    @property
    def n_actions(self) -> int:
        """A, the largest number of actions that a state can have."""
        return self.available.shape[1]

    @property
    def all_available(self) -> bool:
        """Whether every non-terminal state has every action."""
        return bool((self.available | self.terminal[:, None]).all())

    def __repr__(self) -> str:
        S, A, ended = self.n_states, self.n_actions, int(self.terminal.sum())
        parts = [f"{S} state{'s' * (S != 1)}", f"{A} action{'s' * (A != 1)}", f"discount {self.discount}"]
        if ended:
            parts.append(f"{ended} terminal")
        if not self.all_available:
            parts.append("some actions unavailable")
        return f"ExactMDP({', '.join(parts)})"


def exact_probabilities(table: object, available: BoolArray, terminal: BoolArray) -> Objects:
    """A table of action probabilities (S, A) in exact numbers, checked as a policy is; InvalidPolicy otherwise."""
    given = _table("probabilities", table, InvalidPolicy)
    if given.shape != available.shape:
        raise InvalidPolicy(f"policy must have shape {available.shape} to fit the MDP but has shape {given.shape}")
    pi = _law("probabilities", given, InvalidPolicy)
    allowed = available | terminal[:, None] | (pi == 0)
    require(allowed, "probabilities", "be 0 where the action is unavailable", pi, InvalidPolicy)
    return frozen(pi)


def _table(name: str, value: object, error: type[FastPGError]) -> Objects:
    """`value` as an array of numbers as they were given: a float remains a float."""
    try:
        array = np.array(value, dtype=object)
    except ValueError:
        raise error(f"{name} must be a rectangular array of numbers") from None
    if any(isinstance(x, list | tuple | np.ndarray) for x in array.ravel()):
        raise error(f"{name} must be a rectangular array of numbers")
    numbers = np.empty(array.shape, dtype=object)
    numbers.ravel()[:] = [_number(x) for x in array.ravel()]
    known = _mask(numbers, lambda x: x is not None)
    rule = "be an int, a float, a Fraction, a Decimal or a string such as '1/3' or '0.1'"
    require(known, name, rule, _mapped(array, repr), error)
    return numbers


def _number(x: object) -> Rational | float | Decimal | None:
    """`x` as a number that has an exact value, or None."""
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, bool):
        return int(x)
    if isinstance(x, str):
        try:
            return Fraction(x)
        except (ValueError, ZeroDivisionError):
            return None
    return x if isinstance(x, Rational | float | Decimal) else None


def _mapped(array: Objects, function: Callable[[Any], Any]) -> Objects:
    out = np.empty(array.shape, dtype=object)
    out.ravel()[:] = [function(x) for x in array.ravel()]
    return out


def _mask(array: Objects, test: Callable[[Any], bool]) -> BoolArray:
    return np.array([test(x) for x in array.ravel()], dtype=bool).reshape(array.shape)


def _law(name: str, given: Objects, error: type[FastPGError], rows: BoolArray | None = None) -> Objects:
    """Laws along the last axis in Fractions; `rows` marks those that have to be laws, the others become zeros."""
    if rows is not None:
        given = np.where(rows[..., None], given, 0)
    require(_mask(given, _FINITE), name, "be finite", given, error)
    require(given >= 0, name, "not be negative", given, error)
    law = _mapped(given, Fraction)
    total = law.sum(axis=-1, keepdims=True)
    rounded = _mask(given, lambda x: isinstance(x, float)).any(axis=-1, keepdims=True)
    good = np.where(rounded, abs(total - 1) <= Fraction(SUM_TOLERANCE), total == 1).astype(bool)
    if rows is not None:
        good |= ~rows[..., None]
        total = np.where(rows[..., None], total, 1)
    shown = np.where(rounded, _mapped(total, float), total)[..., 0]
    if law.ndim == 1 and not good.all():
        rule = f"sum to 1 within {SUM_TOLERANCE:g}" if rounded.any() else "sum to exactly 1"
        raise error(f"{name} must {rule} but sums to {shown}")
    require((good | ~rounded)[..., 0], name, f"sum to 1 within {SUM_TOLERANCE:g}", shown, error, "rows")
    require(good[..., 0], name, "sum to exactly 1", shown, error, "rows")
    return law / total


def _reward(value: object, P: Objects, rows: BoolArray, ended: BoolArray) -> Objects:
    S, A, _ = P.shape
    given = _table("reward", value, InvalidModel)
    if given.shape not in ((S,), (S, A), (S, A, S)):
        raise InvalidModel(f"reward must have shape ({S},), ({S}, {A}) or ({S}, {A}, {S}) but has shape {given.shape}")
    require(_mask(given, _FINITE), "reward", "be finite", given, InvalidModel)
    happens = P != 0 if given.ndim == 3 else np.ones(given.shape, bool)
    counts = happens & ended.reshape((S,) + (1,) * (given.ndim - 1))
    require(~(counts & (given != 0)), "reward", UNPAID, given, InvalidModel)
    R = _mapped(given, Fraction)
    if R.ndim == 3:
        R[~rows] = Fraction(0)
    return R


def _discount(value: object) -> Fraction:
    number = None if isinstance(value, bool) else _number(value)
    if number is None or not _FINITE(number) or not 0 <= Fraction(number) <= 1:
        raise InvalidModel(f"discount must be a number in [0, 1] but is {value!r}")
    return Fraction(number)


def _start(value: object, terminal: BoolArray) -> Objects:
    S = terminal.shape[0]
    if value is None:
        if terminal.all():
            raise InvalidModel(f"start must be given where all {S} states are terminal")
        share = Fraction(1, int(np.count_nonzero(~terminal)))
        return _mapped(terminal.astype(object), lambda ended: Fraction(0) if ended else share)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if not 0 <= value < S:
            raise InvalidModel(f"start must be a state in 0..{S - 1} or a law of shape ({S},) but is {value}")
        return _mapped(np.arange(S).astype(object), lambda s: Fraction(int(s == value)))
    given = _table("start", value, InvalidModel)
    if given.shape != (S,):
        raise InvalidModel(f"start must be a state in 0..{S - 1} or a law of shape ({S},) but has shape {given.shape}")
    return _law("start", given, InvalidModel)
