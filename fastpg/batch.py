"""Many small problems at once: dense models, discounts, starts and policies whose leading axes broadcast.

Every function takes the same arguments, whose leading axes ... broadcast by the rules of NumPy; results have the
broadcast axes. What is broadcast is shared and never copied: one model under a thousand policies is read as one.

    transition   (..., S, A, S)              laws of the next state; rows must sum to 1 within 1e-9, then normalised
    reward       (..., S, A) or (..., S, 1)  mean reward; one of transitions R is (P * R).sum(-1) here
    discount     (...)                       in [0, 1]
    start        (..., S)                    law of the first state
    logits       (..., S, A)                 softmax policies; -inf masks an action, of which each state keeps one
    terminal     (..., S)                    mask of states where the process has ended; their rows of `transition`
                                             are not read and they pay nothing
    threads      int                         at most so many, all cores unless given, and one for batches that take less
                                             than about 10 ms; no result depends on it

An action is masked by its policy and not by its model: it has a law and an action value, and is never taken. At
discount 1 the process must end for certain from every state, also from those that `start` cannot reach.

Raises what the single call raises for the first problem that breaks a rule, with its place in the batch.

**Accuracy.** Problems are solved by elimination without subtraction, as by `solvers.GTH`, at any discount: occupancies,
and values where rewards are >= 0, are right to a few S ulp entry by entry. The advantage comes from the values or from
their differences, whichever has less rounding. That keeps the gradients of random models at 1 - discount = 1e-12, and
vanishing ones, to about 1e-14. What `fastpg.evaluate` has for nearly decomposable models near discount 1, and its error
bounds, are not here: of a model whose halves meet once in 1e9 steps, the gradient at 1 - discount = 1e-9 is right to
5e-8.

**Speed.** A gradient with S = 5, A = 3 takes about a quarter of a microsecond on one core, a 300th of a single call.
The gain shrinks as S grows: it is 5 at S = 50, and 2 at S = 200, the building of models included; without that a loop
over `fastpg.evaluate` is as fast at S = 100, and faster by a third at S = 300.

>>> import numpy as np
>>> from fastpg import batch
>>> P = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
>>> r = np.array([[1.0, 0.0], [0.0, 2.0]])
>>> logits = np.random.default_rng(0).standard_normal((1000, 1, 2, 2))
>>> batch.policy_gradient(P, r, [0.5, 0.9, 0.99], [1.0, 0.0], logits).shape
(1000, 3, 2, 2)
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fastpg.errors import FastPGError, InvalidArgument, InvalidModel, InvalidPolicy, SolveError
from fastpg.evaluation import Evaluation
from fastpg.evaluation import evaluate as evaluate_one
from fastpg.fisher import natural_gradient as natural_gradient_of
from fastpg.gradient import policy_gradient as gradient_of
from fastpg.kernels import batch as kernels
from fastpg.kernels.evaluation import fisher_blocks
from fastpg.kernels.lanes import OVERFLOW, SINGULAR
from fastpg.model import MDP
from fastpg.parallel import run
from fastpg.policy import SoftmaxPolicy
from fastpg.validation import FloatArray, frozen, mask_array, numbers, positive_integer

ArrayLike = npt.ArrayLike

# Problems in a group, and bytes of its scratch: what was fastest for S = 5, 20, 50 and 100.
LANES = 128, 16
SCRATCH = 9 << 17
# Threads take so many pieces of a batch, but none where fewer entries of transitions are read: that takes 10 ms on one,
# and where both cores were busy with other work two threads took up to four times as long as one.
PIECES = 16
WORTH_A_THREAD = 4_000_000
# Problems of so many states are solved one by one, along rows: 32 states took 15 us in lanes and 16 us by rows, 40 took
# 24 us and 21 us.
LONG = 36
# What `kernels.solve` can write, in its order.
OF_ACTIONS = ("policy_gradient", "natural_gradient", "probabilities", "action_value", "advantage")
OF_STATES = ("value", "occupancy", "visitation")
RESULTS = (*OF_ACTIONS, *OF_STATES, "expected_return")


class Evaluations(NamedTuple):
    """What `fastpg.evaluate` gives, of every problem of a batch; read-only, and finite."""

    value: FloatArray  # (..., S)
    action_value: FloatArray  # (..., S, A)
    advantage: FloatArray  # (..., S, A)
    occupancy: FloatArray  # (..., S)
    visitation: FloatArray  # (..., S)
    expected_return: FloatArray  # (...)
    probabilities: FloatArray  # (..., S, A)


def evaluate(
    transition: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    start: ArrayLike,
    logits: ArrayLike,
    *,
    terminal: ArrayLike | None = None,
    threads: int | None = None,
) -> Evaluations:
    """Values, advantages, visitation and return of every problem; arguments as `fastpg.batch` has them.

    >>> import numpy as np
    >>> ev = evaluate(np.ones((1, 2, 1)), [[1.0, 0.0]], [0.0, 0.5, 0.75], [1.0], np.zeros((1, 2)))
    >>> ev.expected_return
    array([0.5, 1. , 2. ])

    Source: Puterman (1994), Theorem 6.1.1; Grassmann, Taksar & Heyman (1985) for the elimination.
    """
    batch = _Batch(transition, reward, discount, start, logits, terminal)
    return Evaluations(*batch.solve(Evaluations._fields, threads))


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
    """dJ/dlogits[s, a] = d(s) pi(a|s) A(s, a) of every problem, shape (..., S, A); see `fastpg.batch`.

    >>> import numpy as np
    >>> policy_gradient(np.ones((1, 2, 1)), [[1.0, 0.0]], [0.0, 0.5], [1.0], np.zeros((1, 2)))
    array([[[ 0.25, -0.25]],
           [[ 0.5 , -0.5 ]]])

    Source: Sutton, McAllester, Singh & Mansour (1999), Theorem 1.
    """
    batch = _Batch(transition, reward, discount, start, logits, terminal)
    return batch.solve(["policy_gradient"], threads)[0]


def natural_gradient(
    transition: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    start: ArrayLike,
    logits: ArrayLike,
    *,
    terminal: ArrayLike | None = None,
    threads: int | None = None,
) -> FloatArray:
    """F^+ dJ of least norm, as `fastpg.natural_gradient`, of every problem, shape (..., S, A); see `fastpg.batch`.

    >>> import numpy as np
    >>> natural_gradient(np.ones((1, 2, 1)), [[1.0, 0.0]], [0.0, 0.5], [1.0], np.zeros((1, 2)))
    array([[[ 0.5, -0.5]],
           [[ 1. , -1. ]]])

    Source: Kakade (2001); Agarwal et al. (2021), Lemma 5.1, whose minimum-norm member this is.
    """
    batch = _Batch(transition, reward, discount, start, logits, terminal)
    return batch.solve(["natural_gradient"], threads)[0]


def fisher(
    transition: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    start: ArrayLike,
    logits: ArrayLike,
    *,
    terminal: ArrayLike | None = None,
    threads: int | None = None,
) -> FloatArray:
    """The diagonal blocks w(s) (diag pi_s - pi_s pi_s^T) of every F, shape (..., S, A, A); see `fastpg.batch`.

    The weight w is the visitation, at discount 1 the occupancy, as in `fastpg.fisher_information`.

    Source: Kakade (2001), A Natural Policy Gradient, section 2.
    """
    batch = _Batch(transition, reward, discount, start, logits, terminal)
    occupancy, pi = batch.solve(["occupancy", "probabilities"], threads)
    complement = 1.0 - np.asarray(discount, np.float64)[..., None]
    weight = occupancy * np.where(complement > 0, complement, 1.0)
    A = pi.shape[-1]
    blocks = np.empty((*pi.shape, A))
    fisher_blocks(frozen(weight.reshape(-1)), pi.reshape(-1, A), blocks.reshape(-1, A, A))
    return frozen(blocks)


class _Argument(NamedTuple):
    """An argument as rows that differ, its leading axes, and those of them along which it does not repeat."""

    rows: npt.NDArray[Any]
    shape: tuple[int, ...]
    kept: tuple[int, ...]


class _Batch:
    """The arguments of a call, each with the rows that differ, and how the problems of the batch pick from them."""

    def __init__(self, transition: Any, reward: Any, discount: Any, start: Any, logits: Any, terminal: Any) -> None:
        theta = numbers("logits", logits, InvalidPolicy)
        if theta.ndim < 2 or 0 in theta.shape[-2:]:
            raise InvalidPolicy(f"logits must have shape (..., S, A) with S, A >= 1 but has shape {theta.shape}")
        S, A = self.core = theta.shape[-2:]
        r = numbers("reward", reward, InvalidModel)
        self.arguments = {
            "transition": _argument("transition", numbers("transition", transition, InvalidModel), (S, A, S)),
            "reward": _argument(
                "reward", np.broadcast_to(r, (*r.shape[:-1], A)) if r.shape[-2:] == (S, 1) else r, (S, A)
            ),
            "discount": _argument("discount", numbers("discount", discount, InvalidModel), ()),
            "start": _argument("start", numbers("start", start, InvalidModel), (S,)),
            "logits": _argument("logits", theta, (S, A)),
            "terminal": _argument("terminal", np.zeros(S, bool) if terminal is None else _mask(terminal), (S,)),
        }
        shapes = {name: argument.shape for name, argument in self.arguments.items()}
        try:
            self.shape = np.broadcast_shapes(*shapes.values())
        except ValueError:
            given = ", ".join(f"{shape} of {name}" for name, shape in shapes.items() if shape)
            raise InvalidArgument(f"the leading axes must broadcast but are {given}") from None
        self.n = prod(self.shape)
        self.strides = np.array([_strides(x.kept, len(self.shape)) for x in self.arguments.values()], np.int64)

    def solve(self, names: Sequence[str], threads: int | None) -> list[FloatArray]:
        """The results of these names, read-only; an error names the first problem that has none."""
        S, A = self.core
        cores: dict[str, tuple[int, ...]] = {"expected_return": ()}
        cores |= dict.fromkeys(OF_ACTIONS, (S, A)) | dict.fromkeys(OF_STATES, (S,))
        out = [np.empty((self.n if name in names else 0, *(*cores[name], 1, 1)[:2])) for name in RESULTS]
        code = np.empty(self.n)
        shape = np.array(self.shape, np.int64)
        rows = [argument.rows for argument in self.arguments.values()]
        lanes = _lanes(S, A, self.n)

        def piece(limits: tuple[int, int], _: object = None) -> None:
            kernels.solve(lanes, S >= LONG, *limits, shape, self.strides, *rows, code, *out)

        if threads is not None:
            positive_integer("threads", threads)
        if threads == 1 or self.n * S * S * A < WORTH_A_THREAD:
            piece((0, self.n))
        else:
            # A piece has whole groups.
            length = lanes * -(-self.n // (PIECES * lanes))
            run(piece, [(first, min(first + length, self.n)) for first in range(0, self.n, length)], threads)
        if code.any():
            self._fail(code)
        results = dict(zip(RESULTS, out, strict=True))
        return [frozen(results[name].reshape(self.shape + cores[name])) for name in names]

    def _fail(self, code: FloatArray) -> NoReturn:
        """Raise what single calls raise for the first problem that failed, with its place."""
        i = int(np.flatnonzero(code)[0])
        place = np.array(np.unravel_index(i, self.shape), np.int64)
        found = (x.rows[steps @ place] for x, steps in zip(self.arguments.values(), self.strides, strict=True))
        P, r, gamma, mu, theta, ended = found
        error: FastPGError
        try:
            ev = evaluate_one(MDP(P, r, float(gamma), mu, terminal=ended), SoftmaxPolicy(theta))
            gradient_of(ev), natural_gradient_of(ev)
        except FastPGError as raised:
            error = raised
        else:
            error = _beyond_the_single_call(code[i], ev)
        if not self.shape:
            raise error from None
        failed = np.count_nonzero(code)
        raise type(error)(f"in problem {place.tolist()}, {error}; {failed} of {self.n} problems fail") from None


def _beyond_the_single_call(code: float, evaluation: Evaluation) -> FastPGError:
    """What is wrong with a problem of which the single call makes something."""
    if code == SINGULAR and evaluation.chain.undefined.any():
        state = int(np.argmax(evaluation.chain.undefined))
        return SolveError(
            f"at discount 1 the process must end for certain from every state, but from state {state}, which start "
            "cannot reach, it need not; use a discount below 1, fastpg.evaluate, or mark terminal states"
        )
    if code == SINGULAR:
        return SolveError("the chance of ending is too small for float64")
    if code == OVERFLOW:
        return SolveError("a result overflows float64; scale the rewards down")
    return InvalidModel("a law sums to 1 within 1e-09 or not, depending on the order of the sum")


def _mask(terminal: Any) -> npt.NDArray[np.bool_]:
    return mask_array("terminal", terminal, np.shape(terminal), InvalidModel)


def _argument(name: str, array: npt.NDArray[Any], core: tuple[int, ...]) -> _Argument:
    """`array` checked to have shape (..., *core); an axis with stride 0, as of np.broadcast_to, repeats one row."""
    axes = array.ndim - len(core)
    if axes < 0 or array.shape[axes:] != core:
        rule = ", ".join(["...", *map(str, core)])
        also = f" or (..., {core[0]}, 1)" if name == "reward" else ""
        raise InvalidModel(f"{name} must have shape ({rule}){also} to fit logits but has shape {array.shape}")
    once = array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides[:axes])]
    rows = np.ascontiguousarray(once, bool if name == "terminal" else np.float64).reshape(-1, *core).view()
    return _Argument(frozen(rows), array.shape[:axes], once.shape[:axes])


def _strides(kept: tuple[int, ...], axes: int) -> list[int]:
    """By how many rows a step along each axis of the batch leads on: 0 where rows repeat."""
    steps = [0] * (axes - len(kept))
    return steps + [0 if n == 1 else prod(kept[i + 1 :]) for i, n in enumerate(kept)]


def _lanes(S: int, A: int, n: int) -> int:
    """How many problems make a group: a power of two, not far more than there are; one where rows are long."""
    if S >= LONG:
        return 1
    lanes, least = LANES
    while lanes > least and 8 * lanes * (S * S + 14 * S + 6 * S * A) > SCRATCH:
        lanes //= 2
    while lanes > 1 and lanes // 2 >= n:
        lanes //= 2
    return lanes
