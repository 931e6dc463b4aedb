"""Sampled values and visitation against exact ones, and against stored trajectories."""

import numpy as np
import pytest
from scipy import stats

from fastpg import (
    MDP,
    SoftmaxPolicy,
    evaluate,
    fisher_information,
    natural_gradient,
    problems,
    rollout,
    sample_evaluation,
)

# Each comparison of a z-score raises a false alarm with probability below this, all in this file together below 1e-3.
ALPHA = 1e-6

MODELS = {
    "lake": lambda: problems.frozen_lake("4x4", discount=0.9),
    "random": lambda: problems.random_mdp(6, 3, rng=0),
    "corridor": lambda: problems.find("short-corridor").make(),
    "starts ended": lambda: problems.frozen_lake("4x4", discount=0.9).restart(np.full(16, 1 / 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_sampled_number_is_the_exact_one(name):
    mdp = MODELS[name]()
    policy = SoftmaxPolicy(0.3 * SoftmaxPolicy.random(mdp, rng=1).logits)
    ev, sampled = evaluate(mdp, policy), sample_evaluation(mdp, policy, n=400_000, rng=0)
    critical = stats.norm.isf(ALPHA / 2)
    for exact, estimate, error in (
        (ev.value, sampled.value, sampled.value_error),
        (ev.action_value, sampled.action_value, sampled.action_value_error),
        (ev.occupancy, sampled.occupancy, sampled.occupancy_error),
    ):
        # Means of 10,000 and more visits are close to normal at this level but for rare rewards, which the lake has.
        judged = (error > 0) & (error < 0.03 * np.nanmax(np.abs(exact)))
        assert judged.any()
        assert np.abs((estimate - exact)[judged] / error[judged]).max() < critical
        still = (error == 0) & ~np.isnan(estimate)
        np.testing.assert_allclose(estimate[still], exact[still], rtol=0, atol=1e-12)
    assert np.abs(sampled.visitation - ev.visitation).max() < 0.005
    assert sampled.visitation.sum() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(sampled.fisher_blocks, fisher_information(ev).blocks, rtol=0, atol=0.005)


def test_the_natural_gradient_is_that_of_the_sampled_values():
    mdp = problems.random_mdp(6, 3, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    exact = natural_gradient(evaluate(mdp, policy))
    sampled = sample_evaluation(mdp, policy, n=400_000, rng=0)
    # Three numbers with standard errors of Q make an entry.
    bound = 6 * np.sqrt(3) * sampled.action_value_error.max() / mdp.discount_complement
    assert np.abs(sampled.natural_gradient - exact).max() < bound < np.abs(exact).max()


def test_it_is_what_the_stored_trajectories_say():
    mdp = MODELS["starts ended"]()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    sampled, stored = (
        sample_evaluation(mdp, policy, n=300, rng=3),
        rollout(mdp, policy, n=300, horizon="geometric", rng=3),
    )
    returns = {}
    visits = np.zeros((300, 16))
    for i in range(300):
        taken = stored.lengths[i]
        seen = set()
        for t in range(taken):
            s, a = int(stored.states[i, t]), int(stored.actions[i, t])
            visits[i, s] += 1
            for key in (s, (s, a)):
                if key not in seen:
                    seen.add(key)
                    returns.setdefault(key, []).append(stored.rewards[i, t:taken].sum())
    for s in range(16):
        np.testing.assert_allclose(sampled.value[s], np.mean(returns[s]) if s in returns else np.nan)
        for a in range(4):
            kept = returns.get((s, a), [np.nan])
            np.testing.assert_allclose(sampled.action_value[s, a], np.mean(kept))
            if len(kept) > 1:
                np.testing.assert_allclose(sampled.action_value_error[s, a], np.std(kept, ddof=1) / len(kept) ** 0.5)
    np.testing.assert_allclose(sampled.occupancy, visits.mean(axis=0))
    np.testing.assert_allclose(sampled.occupancy_error, visits.std(axis=0, ddof=1) / 300**0.5)
    assert sampled.steps == stored.lengths.sum()


def test_threads_change_nothing():
    mdp = problems.random_mdp(6, 3, rng=0)
    one, two = (sample_evaluation(mdp, SoftmaxPolicy.uniform(mdp), n=1000, rng=3, threads=k) for k in (1, 2))
    np.testing.assert_array_equal(one.value, two.value)
    np.testing.assert_array_equal(one.occupancy_error, two.occupancy_error)


def test_units_change_nothing():
    mdp = problems.two_state()
    policy = SoftmaxPolicy.uniform(mdp)
    large = MDP(mdp.transition, mdp.reward * 2.0**1000, mdp.discount, mdp.start)
    one, other = (sample_evaluation(m, policy, n=1000, rng=3) for m in (mdp, large))
    np.testing.assert_array_equal(other.value_error, 2.0**1000 * one.value_error)
