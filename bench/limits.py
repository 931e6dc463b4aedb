"""What the machine can do at all, and how time and memory grow with the number of states."""

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

ONE = """
import json, sys, time
import numpy as np
from fastpg import SoftmaxPolicy, evaluate, policy_gradient, problems
kind, S = sys.argv[1], int(sys.argv[2])
make = (lambda S: problems.garnet(S, 4, 5, rng=0, sparse=True)) if kind == "sparse" else (
    lambda S: problems.random_mdp(S, 4, rng=0))
small = make(20 if kind == "dense" else min(S, 2000))
policy_gradient(evaluate(small, SoftmaxPolicy.uniform(small)))
mdp = make(S)
policy = SoftmaxPolicy.random(mdp, rng=1)
times = []
for _ in range(max(3, min(200, int(20_000 / S) if kind == "dense" else int(1e6 / S)))):
    began = time.perf_counter()
    policy_gradient(evaluate(mdp, policy))
    times.append(time.perf_counter() - began)
peak = 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps({"seconds": float(np.median(times)), "peak_bytes": peak}))
"""

SIZES = {"dense": (10, 30, 100, 300, 1000, 2000, 4000), "sparse": (10, 100, 1000, 10_000, 100_000, 1_000_000)}


def machine_limits() -> dict[str, float]:
    """Bytes a second of reading one large array, and operations a second of a matrix product, on all cores."""
    x = np.ones(40_000_000)
    # BLAS reads it by all cores: 58 GB/s were seen, and 17 by NumPy's sum, on one.
    read = min(_timed(lambda: x @ x) for _ in range(9))
    a = np.random.default_rng(0).random((2000, 2000))
    product = min(_timed(lambda: a @ a) for _ in range(5))
    copy = min(_timed(lambda: x.copy()) for _ in range(7))
    return {
        "read_bytes_a_second": x.nbytes / read,
        "copy_bytes_a_second": 2 * x.nbytes / copy,
        "dgemm_flops": 2 * 2000**3 / product,
    }


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def sizes(quick: bool = False) -> list[tuple[str, int]]:
    """The points of the curves."""
    return [(kind, S) for kind, each in SIZES.items() for S in each[: 3 if quick else None]]


def point(kind: str, S: int) -> dict[str, Any]:
    """Seconds of `evaluate` and gradient and peak memory (Linux), in a process of its own."""
    run = subprocess.run([sys.executable, "-c", ONE, kind, str(S)], capture_output=True, text=True, check=True)
    return {"kind": kind, "states": S, **json.loads(run.stdout)}


def exponent(points: list[dict[str, Any]], of: str) -> float | None:
    """The slope of log(of) against log(states) between the two largest sizes, of memory above the least of a process.

    None where there are no two sizes, or nothing is above it.
    """
    least = min((p[of] for p in points), default=0) if of == "peak_bytes" else 0
    rise = [(np.log(p["states"]), np.log(p[of] - least)) for p in points[-2:] if p[of] > least]
    return float(np.polyfit(*zip(*rise, strict=True), 1)[0]) if len(rise) == 2 else None
