"""Contenders that may take too much time or memory: in a process of their own, with limits, its peak recorded."""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# To import packages and to build a model, which is not timed.
TO_MAKE = 120.0
# What further calls may take together.
TO_REPEAT = 5.0


@dataclass(frozen=True)
class Found:
    """The first call of a contender: its result and seconds; warm seconds and memory where it ran apart."""

    result: Any
    seconds: float
    warm: list[float] = field(default_factory=list)
    peak_bytes: int = 0


@dataclass(frozen=True)
class Apart:
    """The contender `make(*arguments)`, made and run by a new process; `make` is a function of a module.

    The first call must end within `seconds`, and the process may ask for so many `gigabytes` of memory.
    """

    make: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...] = ()
    seconds: float = 60.0
    gigabytes: float = 12.0

    def found(self) -> Found:
        """The figures of a run; raises TimeoutError at the limit, RuntimeError where the process fails."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self), daemon=True)
        process.start()
        theirs.close()
        try:
            _answer(ours, TO_MAKE, "was not ready")
            seconds, result = _answer(ours, self.seconds, "did not finish")
            warm, peak = _answer(ours, self.seconds + TO_REPEAT, "did not finish again")
        except EOFError:
            process.join()
            raise RuntimeError(f"its process ended with code {process.exitcode}") from None
        finally:
            process.kill()
            process.join()
        return Found(result, seconds, warm, peak)


def _answer(connection: Any, seconds: float, otherwise: str) -> Any:
    if not connection.poll(seconds):
        raise TimeoutError(f"{otherwise} in {seconds:g} s")
    answer = connection.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _work(connection: Any, contender: Apart) -> None:
    # Ctrl-C is for the parent, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    most = int(contender.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        run = contender.make(*contender.arguments)
        connection.send(())
        began = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - began
        connection.send((seconds, np.asarray(result)))
        del result
        warm: list[float] = []
        while len(warm) < 5 and sum(warm) + seconds < TO_REPEAT:
            began = time.perf_counter()
            run()
            warm.append(time.perf_counter() - began)
        connection.send((warm or [seconds], peak_bytes()))
    except ModuleNotFoundError:
        connection.send("not installed")
    except MemoryError:
        connection.send(f"out of memory at {contender.gigabytes:.0f} GiB")
    except (Exception, SystemExit) as problem:
        connection.send(f"{type(problem).__name__}: {problem}")


def peak_bytes() -> int:
    """The most memory that this process has held, by Linux: `ru_maxrss` counts what the parent held at its start."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
