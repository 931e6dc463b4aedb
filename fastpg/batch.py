"""Many small problems at once: dense models, discounts, starts and policies that broadcast like NumPy's arrays.

Every function takes `transition` (..., S, A, S), `reward` (..., S, A), `discount` (...), `start` (..., S) and `logits`
(..., S, A), in this order, and `terminal` (..., S). The leading axes broadcast by NumPy's rules.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastpg.errors import FastPGError, InvalidArgument, InvalidModel, InvalidPolicy, SolveError
from fastpg.evaluation import evaluate as evaluate_one
from fastpg.kernels import batch as kernels
from fastpg.model import MDP
from fastpg.policy import SoftmaxPolicy
from fastpg.sampling.parallel import run
from fastpg.validation import FloatArray, frozen

ArrayLike = npt.ArrayLike
LANES = 64


def policy_gradient(
    transition: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    start: ArrayLike,
    logits: ArrayLike,
    *,
    terminal: ArrayLike | None = None,
    threads: int | None = None,
) -> FloatArray:
    """dJ/dlogits of every problem, shape (..., S, A): d(s) pi(a|s) A(s, a)."""
    batch = _Batch(transition, reward, discount, start, logits, terminal)
    out = np.empty((batch.n, batch.S, batch.A))
    batch.solve(kernels.policy_gradient, (out,), threads)
    return frozen(out.reshape(*batch.shape, batch.S, batch.A))


class _Argument(NamedTuple):
    """The rows of one argument and the shape of its leading axes."""

    rows: npt.NDArray[Any]
    shape: tuple[int, ...]


class _Batch:
    """The arguments of a call, each with its own rows, and how the problems of the batch pick from them."""

    def __init__(self, transition: Any, reward: Any, discount: Any, start: Any, logits: Any, terminal: Any) -> None:
        theta = _array("logits", logits, InvalidPolicy)
        if theta.ndim < 2 or theta.shape[-1] == 0 or theta.shape[-2] == 0:
            raise InvalidPolicy(f"logits must have shape (..., S, A) with S, A >= 1 but has shape {theta.shape}")
        S, A = self.S, self.A = theta.shape[-2:]
        r = _array("reward", reward, InvalidModel)
        if r.shape[-2:] == (S, 1):
            r = np.broadcast_to(r, (*r.shape[:-1], A))
        ended = np.zeros(S, bool) if terminal is None else _mask(terminal)
        arrays = {
            "transition": (_array("transition", transition, InvalidModel), (S, A, S), "(..., S, A, S)"),
            "reward": (r, (S, A), "(..., S, A) or (..., S, 1)"),
            "discount": (_array("discount", discount, InvalidModel), (), "(...)"),
            "start": (_array("start", start, InvalidModel), (S,), "(..., S)"),
            "logits": (theta, (S, A), "(..., S, A)"),
            "terminal": (ended, (S,), "(..., S)"),
        }
        self.arguments = [_rows(name, *argument, S, A) for name, argument in arrays.items()]
        shapes = dict(zip(arrays, (argument.shape for argument in self.arguments), strict=True))
        try:
            self.shape = np.broadcast_shapes(*shapes.values())
        except ValueError:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
            raise InvalidArgument(f"the leading axes must broadcast but are {given}") from None
        self.n = int(np.prod(self.shape))
        self.strides = np.array([_strides(argument.shape, self.shape) for argument in self.arguments], np.int64)

    def solve(self, kernel: Any, out: tuple[FloatArray, ...], threads: int | None) -> None:
        """Run `kernel` over the batch; the first problem that fails is an error."""
        code = np.zeros(self.n)
        shape = np.array(self.shape, np.int64)
        rows = [argument.rows for argument in self.arguments]

        def piece(limits: tuple[int, int], _: Any) -> None:
            kernel(LANES, *limits, shape, self.strides, *rows, code, *out)

        size = 1024
        pieces = [(first, min(first + size, self.n)) for first in range(0, self.n, size)]
        if len(pieces) == 1 or threads == 1:
            kernel(LANES, 0, self.n, shape, self.strides, *rows, code, *out)
        else:
            run(piece, pieces, threads)
        if code.any():
            self.explain(code)

    def explain(self, code: FloatArray) -> None:
        """Raise what the single call says of the first problem that failed, with its place."""
        i = int(np.flatnonzero(code)[0])
        place = tuple(int(x) for x in np.unravel_index(i, self.shape))
        P, r, gamma, mu, theta, ended = (
            argument.rows[int(np.dot(place, strides))]
            for argument, strides in zip(self.arguments, self.strides, strict=True)
        )
        where = f"problem {list(place)}" if place else "the problem"
        try:
            evaluate_one(MDP(P, r, float(gamma), mu, terminal=ended), SoftmaxPolicy(theta)).advantage
        except FastPGError as error:
            raise type(error)(f"in {where} {error}; {np.count_nonzero(code)} of {self.n} problems fail") from None
        raise SolveError(f"in {where} the process need not end at discount 1, or numbers overflow")


def _array(name: str, value: Any, error: type[FastPGError]) -> FloatArray:
    """`value` as float64, not copied where it is."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise error(f"{name} must be a rectangular array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise error(f"{name} must hold real numbers but has dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def _mask(value: Any) -> npt.NDArray[np.bool_]:
    array = np.asarray(value)
    if array.dtype != np.bool_:
        raise InvalidModel(f"terminal must be a mask of booleans but has dtype {array.dtype}")
    return array


def _rows(name: str, array: npt.NDArray[Any], core: tuple[int, ...], rule: str, S: int, A: int) -> _Argument:
    """The rows of `array`, one for each element that differs: axes that were broadcast are taken once."""
    lead = array.ndim - len(core)
    if lead < 0 or array.shape[lead:] != core:
        error = InvalidArgument
        raise error(f"{name} must have shape {rule} with S = {S}, A = {A} but has shape {array.shape}")
    shape = array.shape[:lead]
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides[:lead])
    own = np.ascontiguousarray(array[once]) if array.ndim else array[None]
    kept = own.shape[:lead] if array.ndim else ()
    rows = own.reshape(-1, *core).view()
    rows.flags.writeable = False
    return _Argument(rows, kept if 0 not in shape else shape)


def _strides(shape: tuple[int, ...], batch: tuple[int, ...]) -> list[int]:
    """How many rows further each axis of the batch leads; 0 along axes that broadcast."""
    steps, step = [0] * len(batch), 1
    for axis in range(1, len(shape) + 1):
        if shape[-axis] != 1:
            steps[-axis] = step
            step *= shape[-axis]
    return steps
