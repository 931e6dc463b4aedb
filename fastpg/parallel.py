"""Runs compiled work in pieces on all cores; nothing it returns depends on how many there are."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from fastpg.validation import positive_integer

Piece = TypeVar("Piece")
Result = TypeVar("Result")
StopFlag = npt.NDArray[np.bool_]

# Work on so many numbers takes half a millisecond or more.
WORTH = 400_000
# Numbers in a piece of work, which takes 0.1 ms or more.
PIECE = 2**18


def in_order(
    work: Callable[[Piece, StopFlag], Result], pieces: Sequence[Piece], threads: int | None = None
) -> Iterator[Result]:
    """`work(piece, stop)` for each piece, yielded in the order of the pieces, a few at a time in flight.

    `work` releases the GIL and returns early once `stop[0]` is set, as it is when the consumer stops or is
    interrupted. `threads` defaults to NUMBA_NUM_THREADS, which defaults to the number of cores.
    """
    stop = np.zeros(1, bool)
    threads = _number(threads)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fastpg") as pool:
        try:
            for piece in pieces:
                pending.append(pool.submit(work, piece, stop))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            stop[0] = True
            for future in pending:
                future.cancel()


def run(work: Callable[[Piece, StopFlag], None], pieces: Sequence[Piece], threads: int | None = None) -> None:
    """`in_order` for work that leaves its results in place."""
    for _ in in_order(work, pieces, threads):
        pass


def share(work: Callable[[Piece], None], pieces: Sequence[Piece], threads: int | None = None) -> None:
    """`work(piece)` for each of some pieces of a millisecond or less, on the calling thread and others that are kept.

    Each takes the next piece that is left; one that comes too late is not waited for. To start a thread took 0.1 ms,
    20 ms where another library was giving memory back.
    """
    threads, left = min(_number(threads), len(pieces)), iter(pieces)

    def take() -> None:
        for piece in left:
            work(piece)

    others = [_kept(threads).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()


def spread(work: Callable[[Piece], None], pieces: Sequence[Piece], size: int, threads: int | None = None) -> None:
    """`share` where so many numbers are worth it, else one piece after the other."""
    threads = _number(threads)
    share(work, pieces, threads if size >= WORTH else 1)


def ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """Pieces of work on so many rows, which hold `size` numbers together."""
    step = max(1, rows * PIECE // max(size, PIECE))
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def all_rows(kernel: Callable[..., bool | None], *arguments: Any) -> bool:
    """Whether `kernel` returns true on all rows of arrays, of which it fills the last, in pieces where worth it."""
    out = arguments[-1]
    if out.size < WORTH:
        return bool(kernel(*arguments))
    found = []

    def work(piece: tuple[int, int]) -> None:
        rows = slice(*piece)
        found.append(kernel(*(x[rows] if isinstance(x, np.ndarray) else x for x in arguments)))

    share(work, ranges(len(out), out.size))
    return all(found)


def _number(threads: int | None) -> int:
    return numba.config.NUMBA_NUM_THREADS if threads is None else positive_integer("threads", threads)


@cache
def _kept(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fastpg")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.cache_clear)  # a fork has none of its parent's threads
