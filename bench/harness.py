"""How a case is measured: agreement first, then the first call, then the median of warm calls, peers in turn."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

PACKAGES = ("fastpg", "numba", "numpy", "scipy", "jax", "torch", "quantecon")


@dataclass(frozen=True)
class Case:
    """The same work by several contenders; each returns an array, and all must agree within `tolerance`.

    `steps`, where the work is that of taking steps, gives rates: a second, and a second of processor time;
    `bytes_read` is what must be read at least.
    """

    name: str
    contenders: dict[str, Callable[[], Any]]
    tolerance: float = 1e-10
    repeats: int = 30
    steps: int = 0
    bytes_read: int = 0


def measured(case: Case) -> dict[str, Any]:
    """First and median warm seconds of each contender, and those of its threads together.

    Their results must agree before anything is timed.
    """
    first, results = {}, {}
    for name, run in case.contenders.items():
        began = time.perf_counter()
        results[name] = np.asarray(run())
        first[name] = time.perf_counter() - began
    reference = results["fastpg"]
    for name, result in results.items():
        worst = float(np.abs(result - reference).max() / max(np.abs(reference).max(), 1e-300))
        if not worst <= case.tolerance:
            raise AssertionError(f"{case.name}: {name} differs from fastpg by {worst:.3g} of the largest entry")
    # One call of each in turn, so that a drift of the machine's speed meets all of them.
    warm: dict[str, list[float]] = {name: [] for name in case.contenders}
    processor: dict[str, list[float]] = {name: [] for name in case.contenders}
    for _ in range(case.repeats):
        for name, run in case.contenders.items():
            began, used = time.perf_counter(), time.process_time()
            run()
            warm[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    return {
        "case": case.name,
        "first": first,
        "warm": {name: statistics.median(times) for name, times in warm.items()},
        "processor": {name: statistics.median(times) for name, times in processor.items()},
        "repeats": case.repeats,
        "steps": case.steps,
        "bytes_read": case.bytes_read,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
    }
