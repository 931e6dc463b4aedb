"""Runs compiled work in pieces on all cores; nothing it returns depends on how many there are."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

from fastpg.validation import positive_integer

Piece = TypeVar("Piece")
Result = TypeVar("Result")
StopFlag = npt.NDArray[np.bool_]


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


def _number(threads: int | None) -> int:
    return numba.config.NUMBA_NUM_THREADS if threads is None else positive_integer("threads", threads)


@cache
def _kept(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fastpg")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.cache_clear)  # a fork has none of its parent's threads
