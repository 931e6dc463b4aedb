"""One-step operators against the definition, dense and sparse, on any number of threads."""

import os
from threading import Barrier, Event, current_thread, main_thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import MDP, InvalidArgument, InvalidModel, SolveError, expected_next_value, greedy, problems
from fastpg.parallel import _kept, share
from fastpg.testing.models import dense_reward, dense_transition
from fastpg.testing.strategies import mdps


@given(st.data())
def test_they_are_the_definition(data):
    mdp = data.draw(mdps(sparse=None))
    value = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=mdp.n_states)
    P, R = dense_transition(mdp), dense_reward(mdp)
    ahead = np.einsum("sak,k->sa", P, value)
    live = mdp.available & ~mdp.terminal[:, None]
    np.testing.assert_allclose(expected_next_value(mdp, value), ahead, rtol=0, atol=1e-14 * 10)
    q = np.where(live, np.einsum("sak,sak->sa", P, R) + mdp.discount * ahead, -np.inf)
    found = greedy(mdp, value)
    for s in range(mdp.n_states):
        if not live[s].any():
            assert found.value[s] == 0
            assert found.action[s] == -1
        else:
            assert live[s, found.action[s]]
            assert found.value[s] == pytest.approx(q[s].max(), abs=1e-13)
            assert q[s, found.action[s]] == pytest.approx(q[s].max(), abs=1e-13)


@pytest.mark.parametrize("sparse", [False, True])
def test_threads_change_nothing(sparse):
    mdp = problems.garnet(60_000, 3, 4, rng=0, sparse=True) if sparse else problems.random_mdp(1500, 3, rng=0)
    value = np.random.default_rng(0).normal(size=mdp.n_states)
    for f in (lambda k: greedy(mdp, value, threads=k).value, lambda k: expected_next_value(mdp, value, threads=k)):
        np.testing.assert_array_equal(f(1), f(2))
    reference = (mdp.transition.reshape(-1, mdp.n_states) if not sparse else mdp.transition) @ value
    np.testing.assert_allclose(expected_next_value(mdp, value).ravel(), reference, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_work_is_shared_once(n):
    done = []
    share(done.append, range(200), n)
    assert sorted(done) == list(range(200))


def test_what_fails_on_another_thread_is_raised():
    met = Barrier(2, timeout=10)

    def work(piece):
        met.wait()  # each thread has one
        if current_thread() is not main_thread():
            raise ZeroDivisionError(piece)

    with pytest.raises(ZeroDivisionError):
        share(work, [0, 1], 2)


def test_a_thread_that_comes_too_late_is_not_waited_for():
    free, done = Event(), []
    busy = [_kept(2).submit(free.wait, 10) for _ in range(2)]
    share(done.append, [0, 1, 2], 2)
    assert not any(other.done() for other in busy)
    free.set()
    assert done == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_threads_of_its_own():
    share(lambda _: None, range(4), 2)
    child = os.fork()
    if not child:
        try:
            met = Barrier(2, timeout=10)
            share(lambda _: met.wait(), range(2), 2)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_iterating_the_greedy_step_finds_the_optimal_return():
    lake = problems.frozen_lake("4x4", discount=0.9)
    value = np.zeros(16)
    for _ in range(400):
        value = greedy(lake, value).value
    assert lake.start @ value == pytest.approx(0.068890904889, abs=1e-12)


def test_the_first_of_equal_actions_is_taken():
    assert greedy(MDP(np.ones((1, 3, 1)), [[1.0, 2.0, 2.0]], 0.5), [0.0]).action.tolist() == [1]


def test_bad_values_are_told():
    mdp = problems.two_state()
    with pytest.raises(InvalidArgument, match=r"value must have shape \(2,\) but has shape \(3,\)"):
        greedy(mdp, [0.0, 0.0, 0.0])
    with pytest.raises(InvalidArgument, match=r"value\[1\] must be finite but is nan"):
        expected_next_value(mdp, [0.0, np.nan])
    with pytest.raises(SolveError, match="overflows"):
        greedy(MDP(np.ones((1, 1, 1)), [[1.7e308]], 1.0 - 1e-9), [1.7e308])


@pytest.mark.parametrize("operator", [greedy, expected_next_value])
def test_transitions_alone_are_no_model(operator):
    with pytest.raises(InvalidModel, match="mdp must be an MDP but is ndarray"):
        operator(np.ones((1, 1, 1)), [0.0])


def test_a_mean_of_the_largest_values_is_no_larger():
    mdp = problems.random_mdp(33, 2, rng=0)
    largest = np.finfo(float).max
    found = expected_next_value(mdp, np.full(33, largest))
    np.testing.assert_allclose(found, largest, rtol=1e-15)
