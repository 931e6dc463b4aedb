"""The variance of the return against enumeration and against samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import MDP, SoftmaxPolicy, evaluate, problems, return_variance, rollout
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdps, softmax_policies


@given(st.data())
@settings(max_examples=100)
def test_finite_horizons_are_those_of_all_trajectories(data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None))
    policy = data.draw(softmax_policies(mdp))
    ev = evaluate(mdp, policy, horizon=3)
    v = return_variance(ev)
    paths = list(enumerate_trajectories(mdp, policy, 3))
    mean = sum(path.probability * path.discounted_return(mdp.discount) for path in paths)
    variance = sum(path.probability * (path.discounted_return(mdp.discount) - mean) ** 2 for path in paths)
    total = mdp.start @ v[3] + mdp.start @ (ev.value[3] - ev.expected_return) ** 2
    assert total == pytest.approx(variance, rel=1e-11, abs=1e-11)


@given(st.data())
@settings(max_examples=100)
def test_the_infinite_horizon_is_the_limit_of_long_ones(data):
    mdp = data.draw(mdps(max_states=4, max_actions=2, sparse=None, discount=st.sampled_from([0.0, 0.5, 0.8])))
    policy = data.draw(softmax_policies(mdp))
    long = return_variance(evaluate(mdp, policy, horizon=200))[-1]
    np.testing.assert_allclose(return_variance(evaluate(mdp, policy)), long, rtol=1e-10, atol=1e-13)


def test_a_walk_to_its_end_varies_like_its_sampled_return():
    mdp = problems.find("short-corridor").make()
    policy = SoftmaxPolicy.uniform(mdp)
    ev = evaluate(mdp, policy)
    returns = rollout(mdp, policy, n=200_000, horizon="geometric", rng=0).rewards.sum(axis=1)
    exact = mdp.start @ return_variance(ev) + mdp.start @ (ev.value - ev.expected_return) ** 2
    kurtosis = np.mean((returns - returns.mean()) ** 4) / returns.var() ** 2
    assert abs(returns.var() / exact - 1) < 5 * np.sqrt((kurtosis - 1) / 200_000)


def test_states_without_a_value_have_no_variance_either():
    P = np.zeros((3, 1, 3))
    P[0, 0, 2] = P[1, 0, 1] = P[2, 0, 2] = 1.0
    mdp = MDP(P, [1.0, 1.0, 0.0], 1.0, start=0, terminal=[False, False, True])
    v = return_variance(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    assert np.isnan(v[1])
    assert v[0] == v[2] == 0


@pytest.mark.parametrize("complement", [0.5, 1e-3, 1e-9, 1e-100])
def test_coin_flips_for_ever_have_the_variance_of_a_geometric_series(complement):
    mdp = MDP(np.ones((1, 2, 1)), [[1.0, -1.0]], 1.0 - complement, discount_complement=complement)
    v = return_variance(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    # LU forms 1 - discount^2 in floats down to 1e-4, and so with a relative error of eps / (2 complement).
    rounding = 2e-16 / complement if complement > 1e-4 else 1e-15
    np.testing.assert_allclose(v, 1 / (complement * (2 - complement)), rtol=rounding)
