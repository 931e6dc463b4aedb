"""What goes wrong around the mathematics: caches that cannot be written, interrupts, threads and processes."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastpg import (
    MDP,
    RewardToGo,
    SoftmaxPolicy,
    estimate_gradient,
    evaluate,
    policy_gradient,
    problems,
    rollout,
    solvers,
)
from fastpg.errors import SolveError

SMALL = """
from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient
mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0], 0.5, 0)
print(evaluate(mdp, SoftmaxPolicy.uniform(mdp)).expected_return)
"""


# Writing beyond 4096 bytes of a file fails, as it does on a full disk.
NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


def started(before="", **environment):
    """A fresh interpreter at work on a small model, after the code `before`."""
    known = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-W", "error", "-c", before + SMALL]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=known | environment, stdout=pipe, stderr=pipe, text=True)


def answer(process):
    """What it printed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return float(out)


def test_a_cache_directory_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))) == pytest.approx(4 / 3, rel=1e-15)


def test_a_cache_directory_on_a_full_disk_is_done_without(tmp_path):
    pytest.importorskip("resource", reason="POSIX")
    for _ in range(2):
        assert answer(started(NO_ROOM, NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3
    written = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert max(written, default=0) <= 4096
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3  # once there is room again
    assert max(path.stat().st_size for path in tmp_path.rglob("*.nbc")) > 4096


def test_what_is_cut_off_in_a_cache_is_compiled_anew(tmp_path):
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3
    files = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    whole = {path: path.stat().st_size for path in files}
    assert len(whole) > 5
    for path in files:
        os.truncate(path, whole[path] // 2)
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3


def test_a_process_killed_while_it_compiles_leaves_a_cache_that_works(tmp_path):
    process = started(NUMBA_CACHE_DIR=str(tmp_path))
    while process.poll() is None and not any(tmp_path.rglob("*.nbc")):
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=300)
    assert answer(started(NUMBA_CACHE_DIR=str(tmp_path))) == 4 / 3


def test_processes_that_compile_at_once_into_an_empty_cache_agree(tmp_path):
    processes = [started(NUMBA_CACHE_DIR=str(tmp_path / "cache")) for _ in range(3)]
    assert {answer(process) for process in processes} == {4 / 3}


def results(seed):
    """An exact and a sampled gradient, and trajectories."""
    mdp = problems.random_mdp(6, 3, rng=seed)
    policy = SoftmaxPolicy.random(mdp, rng=seed)
    estimate = estimate_gradient(mdp, policy, RewardToGo(), n=2000, horizon=10, rng=seed, threads=2)
    walked = rollout(mdp, policy, n=50, horizon=10, rng=seed)
    return policy_gradient(evaluate(mdp, policy)), estimate.mean, walked.states


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_worker_processes_give_the_numbers_of_their_parent(method):
    expected = [results(seed) for seed in range(2)]  # threads have run here before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(results, range(2)).get(timeout=300)
    assert_same(found, expected)


def test_threads_give_the_numbers_of_one():
    with ThreadPoolExecutor(8) as pool:
        assert_same(pool.map(results, range(16)), [results(seed) for seed in range(16)])


def test_one_evaluation_may_be_read_by_many_threads():
    mdp = problems.random_mdp(30, 3, rng=0, discount=0.999)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    names = ("value", "advantage", "occupancy", "logit_gradient", "expected_return")
    alone = evaluate(mdp, policy)
    expected = [getattr(alone, name) for name in names] + [alone.error.gradient]
    for _ in range(20):
        shared, gate = evaluate(mdp, policy), threading.Barrier(4)

        def read(_, shared=shared, gate=gate):
            gate.wait()
            return [getattr(shared, name) for name in names] + [shared.error.gradient]

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(read, range(4)):
                for x, y in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(x, y)


class Interrupt:
    """Ctrl-C at the third report of progress."""

    def __init__(self):
        self.reports = 0

    def __call__(self, _):
        self.reports += 1
        if self.reports == 3:
            raise KeyboardInterrupt


def test_an_interrupted_sample_leaves_nothing_behind():
    mdp = problems.random_mdp(6, 3, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    options = {"n": 20_000, "horizon": 20, "rng": 3, "threads": 2}
    expected = estimate_gradient(mdp, policy, RewardToGo(), **options)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        estimate_gradient(mdp, policy, RewardToGo(), progress=Interrupt(), **options)
    assert threading.active_count() == before
    again = estimate_gradient(mdp, policy, RewardToGo(), **options)
    np.testing.assert_array_equal(again.mean, expected.mean)
    np.testing.assert_array_equal(again.blocks, expected.blocks)


class Spoiled:
    """A solver whose solution holds a number that is not finite."""

    def __init__(self, value):
        self.value = value

    def factorise(self, chain):
        honest, value = solvers.LU().factorise(chain), self.value

        class Factors:
            def solve(self, b):
                x = honest.solve(b)
                x[1] = value
                return x

            def solve_transposed(self, b):
                x = honest.solve_transposed(b)
                x[1] = value
                return x

        return Factors()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error_that_names_its_place(value):
    mdp = MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0], 0.5)
    with pytest.raises(SolveError, match=r"value\[1\]"):
        evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=Spoiled(value))


def test_an_interrupted_estimate_is_that_of_the_trajectories_done():
    mdp = problems.two_state()
    policy = SoftmaxPolicy.uniform(mdp)
    calls = []

    def interrupt(done):
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt

    given = {"horizon": 5, "rng": 0}
    part = estimate_gradient(mdp, policy, RewardToGo(), n=64_000, progress=interrupt, keep_partial=True, **given)
    assert part.n == calls[-1] == 3000
    assert part.steps == 15_000
    assert part.block_sizes.sum() == 3000
    whole = estimate_gradient(mdp, policy, RewardToGo(), n=3000, **given)
    np.testing.assert_allclose(part.mean, whole.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(part.standard_error, whole.standard_error, rtol=0.3)


@pytest.mark.parametrize("horizon", [10, "geometric"])
def test_a_long_run_is_interrupted_with_what_is_done_after_a_moment(horizon):
    mdp = problems.two_state()
    policy = SoftmaxPolicy.uniform(mdp)

    def interrupt(_):
        raise KeyboardInterrupt

    part = estimate_gradient(
        mdp, policy, RewardToGo(), n=2**33, horizon=horizon, rng=0, progress=interrupt, keep_partial=True
    )
    # One block, of some tenths of a second.
    assert part.n == 2**33 // 4096
    assert part.block_sizes.tolist() == [part.n]
    assert np.isnan(part.standard_error).all()
