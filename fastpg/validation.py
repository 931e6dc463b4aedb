"""One way to check input: each broken rule becomes one sentence with place, value, rule and count."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.errors import FastPGError, InvalidArgument

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ArrayT = TypeVar("ArrayT", bound=npt.NDArray[Any])

SUM_TOLERANCE = 1e-9


def frozen(array: ArrayT) -> ArrayT:
    """The same array, made read-only."""
    array.setflags(False)  # type: ignore[call-arg]  # half the time of write=False, a quarter of that of flags.writeable
    return array


def numbers(name: str, value: object, error: type[FastPGError]) -> npt.NDArray[Any]:
    """`value` as an array of real numbers, not copied where it is one."""
    if not isinstance(value, np.ndarray) and sparse.issparse(value):
        kind = type(value).__name__
        raise error(
            f"{name} must be a dense array but is a SciPy {kind}; only transition and reward of MDP may be sparse"
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise error(f"{name} must be a rectangular array of numbers") from None
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        hidden = np.count_nonzero(value.mask)
        raise error(f"{name} must hold a number everywhere but {hidden} of its {array.size} entries are masked")
    if array.dtype.kind not in "biuf":
        raise error(f"{name} must hold real numbers but has dtype {array.dtype}")
    return array


def float_array(name: str, value: object, error: type[FastPGError]) -> FloatArray:
    """A fresh C-contiguous float64 copy of `value`."""
    return np.array(numbers(name, value, error), dtype=np.float64, order="C")


def mask_array(name: str, value: object, shape: tuple[int, ...], error: type[FastPGError]) -> BoolArray:
    """A fresh boolean copy of `value`, which must be a mask of the given shape."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise error(f"{name} must be a rectangular mask of shape {shape}") from None
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise error(f"{name} must hold a boolean everywhere but is a NumPy masked array with masked entries")
    if array.shape != shape:
        raise error(f"{name} must have shape {shape} but has shape {array.shape}")
    if array.dtype != np.bool_ and not (array.dtype.kind in "iuf" and np.isin(array, (0, 1)).all()):
        raise error(f"{name} must be a mask of booleans but has dtype {array.dtype}")
    return np.array(array, dtype=np.bool_)


def require(
    good: BoolArray, name: str, rule: str, value: npt.NDArray[Any], error: type[FastPGError], unit: str = "entries"
) -> None:
    """Raise unless every entry of `good` holds; the message quotes the first `value` that fails."""
    if good.all():
        return
    place = tuple(int(i) for i in np.argwhere(~good)[0])
    where = ", ".join(map(str, place))
    failing = int(good.size - np.count_nonzero(good))
    verb = "sums to" if unit == "rows" else "is"
    found = value[place]
    shown = repr(found.item()) if isinstance(found, np.generic) else str(found)
    raise error(f"{name}[{where}] must {rule} but {verb} {shown}; {failing} of {good.size} {unit} fail")


def require_finite(name: str, array: FloatArray, error: type[FastPGError]) -> None:
    """Raise unless every entry is finite."""
    require(np.isfinite(array), name, "be finite", array, error)


def law(name: str, array: FloatArray, error: type[FastPGError], rows: BoolArray | None = None) -> FloatArray:
    """`array` with each row along the last axis checked to be a probability law, then normalised; -0 becomes 0.

    `rows` marks the rows that have to be laws; the others are set to zero.
    """
    if rows is not None:
        array[~rows] = 0.0
    require_finite(name, array, error)
    require(array >= 0, name, "not be negative", array, error)
    with np.errstate(over="ignore"):
        total = np.asarray(array.sum(axis=-1))
    if array.ndim == 1:
        if not abs(total - 1) <= SUM_TOLERANCE:
            rule = f"must sum to 1 within {SUM_TOLERANCE:g} but sums to {float(total)!r}"
            raise error(f"{name} {rule}{_coarse(array, total)}")
        return array / normaliser(total, array.size) + 0.0
    if rows is not None:
        total = np.where(rows, total, 1.0)
    require_sums(name, total, array.__getitem__, error)
    return array / normaliser(total, array.shape[-1])[..., None] + 0.0


def require_sums(
    name: str, total: FloatArray, row: Callable[[tuple[int, ...]], FloatArray], error: type[FastPGError]
) -> None:
    """Raise unless every row sums to 1; `row` gives the entries of the one at a place."""
    good = np.abs(total - 1) <= SUM_TOLERANCE
    if not good.all():
        first = tuple(np.argwhere(~good)[0].tolist())
        rule = f"sum to 1 within {SUM_TOLERANCE:g}{_coarse(row(first), total[first])}"
        require(good, name, rule, total, error, "rows")


def _coarse(row: FloatArray, total: npt.NDArray[Any]) -> str:
    """What to say of a row that sums to 1 but for the rounding of a shorter float."""
    for dtype in (np.float16, np.float32):
        if abs(total - 1) <= row.size * np.finfo(dtype).eps and (row == row.astype(dtype)).all():
            return f" (the entries are of {np.dtype(dtype)}, divide them by their sum in float64)"
    return ""


def normaliser(total: npt.NDArray[Any], n: int) -> FloatArray:
    """What laws over n outcomes with these sums are divided by: 1 for a sum that is 1 up to the rounding of summing.

    A law that was normalised before is kept bit for bit, so a model read back from its own arrays is the same model.
    """
    return np.where(np.abs(total - 1) <= n * np.finfo(np.float64).eps, 1.0, total)


def bounded_mean(mean: Callable[[Any], Any], x: Any) -> FloatArray:
    """`mean(x)`, linear and no larger than the largest |x|, where the rounding of a sum of finite x might overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(mean(x))
        if np.isfinite(found).all():
            return found
        half = np.finfo(np.float64).max / 2
        return np.where(np.isfinite(found), found, 2 * np.clip(mean(x * 0.5), -half, half))


def require_solver(name: str, value: object) -> None:
    """Raise unless `value` can factorise a chain, or is None."""
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "factorise", None))):
        raise InvalidArgument(f"{name} must be a solver such as LU() but is {value!r}")
    if name != "preconditioner" and getattr(value, "approximate", False):
        raise InvalidArgument(f"{name} must solve the chain, which {value!r} does only nearly; it is a preconditioner")


def positive_integer(name: str, value: object) -> int:
    """`value` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidArgument(f"{name} must be a positive integer but is {value!r}")
    return int(value)


def positive_count(name: str, value: object) -> int:
    """`value` as an int of at least 1 that 64 bits hold."""
    count = positive_integer(name, value)
    if count >= 2**63:
        raise InvalidArgument(f"{name} must be an integer below 2^63 but is {value!r}")
    return count


def real_between(
    name: str, value: object, low: float, high: float, error: type[FastPGError] = InvalidArgument
) -> float:
    """`value` as a float within [low, high]."""
    number = _real(value)
    if not low <= number <= high:
        raise error(f"{name} must be a number in [{low:g}, {high:g}] but is {value!r}")
    return number


def positive_number(name: str, value: object, rule: str = "a positive number") -> float:
    """`value` as a finite float above 0."""
    number = _real(value)
    if not 0 < number < math.inf:
        raise InvalidArgument(f"{name} must be {rule} but is {value!r}")
    return number


def _real(value: object) -> float:
    """`value` as a float, infinite where it is too large for one; nan where it is no real number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def require_progress(value: object) -> None:
    """Raise unless `value` can be told how far a run is, or is None."""
    if value is not None and not callable(value):
        raise InvalidArgument(f"progress must be a function of the number done, such as print, but is {value!r}")
