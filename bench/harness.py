"""How a case is measured: agreement first, then the first call, then the median of warm calls, peers in turn."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.apart import Apart, Found

PACKAGES = ("fastpg", "numba", "numpy", "scipy", "jax", "torch", "quantecon", "mdpsolver")
# Where they are not set, libraries take all cores.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# A case is repeated for so many seconds at most, and so many times at least.
BUDGET, LEAST = 6.0, 3
# Short calls take turns of so many seconds: PyTorch's threads go on for a while after each of its calls, and made a
# single gradient of 10 states that came next three times as slow.
TURN = 0.005


@dataclass(frozen=True)
class Case:
    """The same work by several contenders; each returns an array, and all must agree within `tolerance`.

    `steps`, where the work is that of taking steps, gives rates: a second, and a second of processor time;
    `bytes_read` and `flops` are what must be read and computed at least.
    """

    name: str
    contenders: dict[str, Callable[[], Any] | Apart]
    tolerance: float = 1e-10
    repeats: int = 30
    steps: int = 0
    bytes_read: int = 0
    flops: float = 0.0


def later(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """A contender that is made at its first call, so that what it lacks fails it alone."""
    made = cache(make)
    return lambda: made()()


def measured(case: Case, budget: float = BUDGET) -> dict[str, Any]:
    """First and median warm seconds of each contender, and those of its threads together.

    A contender that is not installed, raises, is stopped at its limit, or differs is left out, and `failed` says why.
    """
    found, failed = _agreeing(case)
    warm = {name: found[name].warm for name in case.contenders if name in found}
    processor: dict[str, list[float]] = {name: [] for name in warm}
    here = [(name, run) for name, run in case.contenders.items() if name in warm and not isinstance(run, Apart)]
    # In turn, so that a drift of the machine's speed meets all of them.
    started, rounds = time.perf_counter(), 0
    while here and rounds < case.repeats and (rounds < LEAST or time.perf_counter() - started < budget):
        rounds += 1
        for name, run in here:
            turn = time.perf_counter()
            while True:
                began, used = time.perf_counter(), time.process_time()
                run()
                warm[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - used)
                if time.perf_counter() - turn > TURN:
                    break
    return {
        "case": case.name,
        "first": {name: found[name].seconds for name in warm},
        "warm": {name: statistics.median(times) for name, times in warm.items()},
        "processor": {name: statistics.median(times) for name, times in processor.items() if times},
        "peak_bytes": {name: found[name].peak_bytes for name in warm if found[name].peak_bytes},
        "failed": failed,
        "calls": {name: len(times) for name, times in warm.items()},
        "steps": case.steps,
        "bytes_read": case.bytes_read,
        "flops": case.flops,
    }


def _agreeing(case: Case) -> tuple[dict[str, Found], dict[str, str]]:
    """The first calls of the contenders that agree with fastpg, and what is wrong with the others."""
    found: dict[str, Found] = {}
    failed: dict[str, str] = {}
    # Peers first: where a kernel of Numba ran before JAX's first, JAX 0.10.2 did not return.
    for name in reversed(case.contenders):
        try:
            found[name] = _first(case.contenders[name])
        # Packages end the process on bad input or fail in ways of their own: none may end the run.
        except (Exception, SystemExit) as problem:
            failed[name] = _reason(problem)
    if "fastpg" not in found:
        return {}, failed
    reference = found["fastpg"].result
    for name in case.contenders:
        if name in found:
            worst = float(np.abs(found[name].result - reference).max() / max(np.abs(reference).max(), 1e-300))
            if not worst <= case.tolerance:
                failed[name] = f"differs from fastpg by {worst:.3g} of the largest entry"
                del found[name]
    return found, failed


def _first(contender: Callable[[], Any] | Apart) -> Found:
    if isinstance(contender, Apart):
        return contender.found()
    began = time.perf_counter()
    result = np.asarray(contender())
    return Found(result, time.perf_counter() - began)


def _reason(problem: BaseException) -> str:
    if isinstance(problem, ModuleNotFoundError):
        return "not installed"
    if isinstance(problem, TimeoutError | RuntimeError):
        return str(problem)
    return f"{type(problem).__name__}: {problem}"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    return {
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
    }
