"""Expected contributions against enumeration, and against what a sample shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import (
    MDP,
    BatchAverage,
    RewardToGo,
    SoftmaxPolicy,
    TotalReturn,
    estimate_gradient,
    evaluate,
    parallel,
    problems,
)
from fastpg.sampling import contributions
from fastpg.sampling.contributions import _reversed_orbit, expected_contributions
from fastpg.sampling.plan import plan
from fastpg.testing.estimates import ratios
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdp_and_policy, mdps, softmax_policies


def enumerated(mdp, policy, estimator, n, horizon):
    """n M_2^2 / M_4 of sums over steps and at its largest step, and sum M_2, from every trajectory."""
    pi, gamma = policy.probabilities, mdp.discount
    b = np.broadcast_to(0.0 if estimator.baseline is None else estimator.baseline, mdp.n_states)
    together = (estimator.weights or estimator._weights) != "per-decision"
    probabilities, added = [], []
    for path in enumerate_trajectories(mdp, estimator.behaviour or policy, horizon):
        rho = np.array(ratios(estimator, policy, path))
        y = np.zeros((horizon + 1, *pi.shape))
        for t, (s, a) in enumerate(zip(path.states, path.actions, strict=False)):
            r = [gamma**j * x * (1.0 if together else rho[t + 1 : j + 1].prod()) for j, x in enumerate(path.rewards)]
            whole = isinstance(estimator, TotalReturn)
            weight = (rho if together else rho[: t + 1]).prod()
            weight *= sum(r) - b[s] if whole else sum(r[t:]) - gamma**t * b[s]
            y[t, s] = weight * (np.eye(pi.shape[1])[a] - pi[s])
        probabilities.append(path.probability)
        added.append((rho.prod(), y))
    p, y = np.array(probabilities)[:, None, None, None], np.array([steps for _, steps in added])
    if estimator.weights == "self-normalised":
        W = np.array([weight for weight, _ in added])[:, None, None]
        # The ratio of means moves with W as with one more step.
        y[:, horizon] = -W * ((p * y).sum(axis=(0, 1)) / (p[:, 0] * W).sum())
    deviation = y - (p * y).sum(axis=0)
    moments = np.array([(p * deviation**2).sum(axis=0), (p * deviation**4).sum(axis=0)])
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.nan_to_num(n * moments[0].sum(axis=0) ** 2 / moments[1].sum(axis=0))
        distinct = np.nan_to_num(n * moments[0] ** 2 / moments[1])[:horizon].max(axis=0)
        return total, distinct, moments[0].sum(axis=0)


@settings(max_examples=80)
@given(
    mdp_and_policy(max_states=3, max_actions=3, extreme=False, discount=st.sampled_from([0.0, 0.5, 0.9])),
    st.sampled_from([TotalReturn, RewardToGo]),
    st.sampled_from([None, 0.7]),
    st.integers(1, 3),
)
def test_contributions_are_those_of_all_trajectories(case, kind, baseline, horizon):
    mdp, policy = case
    policy = policy.masked(mdp.available)
    found = expected_contributions(mdp, policy, kind(baseline), n=1000, horizon=horizon)
    total, distinct, second = enumerated(mdp, policy, kind(baseline), 1000, horizon)
    # Smaller ones may be the rounding of 0, on either side.
    clear = second > 1e-10 * second.max()
    assert np.allclose(found.total[clear], total[clear], rtol=1e-6)
    assert np.allclose(found.distinct[clear], distinct[clear], rtol=1e-6)


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("kind", [TotalReturn, RewardToGo])
@pytest.mark.parametrize("weights", ["per-decision", "trajectory", "self-normalised"])
def test_off_policy_contributions_have_the_weights_of_all_trajectories(weights, kind, data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, discount=st.sampled_from([0.5, 0.9])))
    policy, behaviour = (data.draw(softmax_policies(mdp, extreme=False)) for _ in range(2))
    x, horizon = (
        kind(data.draw(st.sampled_from([None, 0.7])), behaviour=behaviour, weights=weights),
        data.draw(st.integers(1, 3)),
    )
    found = expected_contributions(mdp, policy, x, n=1000, horizon=horizon)
    total, distinct, second = enumerated(mdp, policy, x, 1000, horizon)
    clear = second > 1e-10 * second.max()
    assert np.allclose(found.total[clear], total[clear], rtol=1e-6)
    assert np.allclose(found.distinct[clear], distinct[clear], rtol=1e-6)


def test_an_average_of_the_sample_counts_as_its_mean():
    mdp = problems.frozen_lake()
    policy = SoftmaxPolicy.uniform(mdp)
    other = SoftmaxPolicy(0.1 * SoftmaxPolicy.random(mdp, rng=0).logits)
    mean = evaluate(mdp, policy, horizon=20).expected_return
    for off in ({}, {"behaviour": other, "weights": "trajectory"}, {"behaviour": other, "weights": "per-decision"}):
        for kind in (TotalReturn, RewardToGo):
            one, two = (
                expected_contributions(mdp, policy, kind(b, **off), n=100, horizon=20) for b in (BatchAverage(), mean)
            )
            assert np.allclose(one.total, two.total, rtol=1e-9, atol=0)


@pytest.mark.parametrize("horizon", [30, "geometric"])
@pytest.mark.parametrize("estimator", [TotalReturn(), RewardToGo()])
def test_a_rare_reward_counts_its_arrivals(horizon, estimator):
    # One step that pays 1 with probability q: the uniform policy's entries are +-1/2 then, and 0 otherwise.
    q, n = 1e-4, 1_000_000
    P, R = np.zeros((2, 3, 2, 3))
    P[0, :, 1], P[0, :, 2], R[0, :, 1] = q, 1 - q, 1.0
    mdp = MDP(P, R, 0.9, start=0, terminal=[False, True, True])
    found = expected_contributions(mdp, SoftmaxPolicy.uniform(mdp), estimator, n=n, horizon=horizon)
    assert np.allclose(found.total, [[n * q] * 2, [0, 0], [0, 0]], rtol=1e-12)
    assert np.allclose(found.distinct, found.total, rtol=1e-12)


@pytest.mark.parametrize("kind", [RewardToGo, TotalReturn])
def test_a_geometric_horizon_is_the_limit_of_its_truncations(kind):
    # Undiscounted steps that go on with probability gamma are those of a model that ends with probability 1 - gamma.
    rng = np.random.default_rng(0)
    gamma, S, A = 0.8, 3, 2
    P, R = rng.dirichlet(np.ones(S), size=(S, A)), rng.normal(size=(S, A, S))
    policy = SoftmaxPolicy.random(MDP(P, R, gamma), rng=1)
    found = expected_contributions(MDP(P, R, gamma), policy, kind(0.2), n=1000, horizon="geometric")
    # Each transition pays and then either goes on or ends; the end has a state of its own for each successor.
    ended = np.zeros((2 * S, A, 2 * S))
    ended[:S, :, :S], ended[:S, :, S:] = gamma * P, (1 - gamma) * P
    pays = np.zeros((2 * S, A, 2 * S))
    pays[:S, :, :S] = pays[:S, :, S:] = R
    twin = MDP(ended, pays, 1.0, np.r_[np.full(S, 1 / S), np.zeros(S)], terminal=np.arange(2 * S) >= S)
    logits = np.r_[policy.logits, np.zeros((S, A))]
    baseline = np.full(2 * S, 0.2)
    limit = expected_contributions(twin, SoftmaxPolicy(logits), kind(baseline), n=1000, horizon=200)
    assert np.allclose(found.second, limit.second[:S], rtol=1e-11, atol=0)
    assert np.allclose(found.total, limit.total[:S], rtol=1e-11, atol=0)
    assert np.allclose(found.distinct, limit.distinct[:S], rtol=1e-11, atol=0)


@pytest.mark.parametrize("discount", [0.9, 0.999])
@pytest.mark.parametrize("horizon", [5, "geometric"])
@pytest.mark.parametrize("estimator", [RewardToGo(0.2), TotalReturn()])
def test_threads_share_the_states_without_a_trace(estimator, horizon, discount, monkeypatch):
    mdp = problems.garnet(30, 2, 3, rng=0, sparse=True, discount=discount)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    one = expected_contributions(mdp, policy, estimator, n=1000, horizon=horizon)
    monkeypatch.setattr(parallel, "WORTH", 1)
    monkeypatch.setattr(parallel, "PIECE", 500)
    two = expected_contributions(mdp, policy, estimator, n=1000, horizon=horizon)
    for x, y in zip(one[1:5], two[1:5], strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize(
    ("mdp", "steps"), [(problems.garnet(30, 2, 3, rng=0, discount=0.999), 300), (problems.frozen_lake(), 5000)]
)
def test_a_chain_that_mixes_is_at_its_limit_in_a_few_steps(mdp, steps):
    # By repeated steps alone the moments of the first would take 35 / 0.001 of them; the second ends.
    policy = SoftmaxPolicy.random(mdp, rng=1)
    process = contributions._Process.of(plan(mdp, policy, RewardToGo(), "geometric"))
    h = process.limit(steps)
    assert np.allclose(h[0, :, 0], 1.0, rtol=1e-12, atol=0)
    ev = evaluate(mdp, policy)
    assert np.allclose(process.made.unit * process.scale * h[0, :, 1], ev.value, rtol=1e-12, atol=0)
    assert np.allclose(process.backward(h), h, rtol=1e-13, atol=0)


def test_a_sample_shows_what_was_expected():
    # Bandits have one visit a trajectory, so nothing is approximate. Action 0 has probability 0.063: 258 of 4096
    # trajectories, give or take 6 %, and so 1 / N is known to about that.
    mdp = problems.bandit([1.0, 0.0, 0.0])
    policy = SoftmaxPolicy([[-2.0, 0.0, 0.0]] * 2)
    found = expected_contributions(mdp, policy, RewardToGo(), n=4096, horizon=1).total[0, 0]
    sampled = estimate_gradient(mdp, policy, RewardToGo(), n=4096, horizon=1, rng=0).contributions[0, 0]
    # A two-valued variable has kurtosis 1/(p(1-p)) - 3, and that less 3 in excess of the normal one.
    p = policy.probabilities[0, 0]
    assert found == pytest.approx(4096 / (1 / (p * (1 - p)) - 3), rel=1e-9)
    assert sampled == pytest.approx(4096 / (1 / (p * (1 - p)) - 6), rel=0.25)


def test_rounding_of_an_exact_baseline_is_no_contribution():
    P = np.zeros((3, 2, 3))
    P[0, :, 1] = P[1, :, 2] = 1
    mdp = MDP(P, [[0.1, 0.1], [0.7, 0.7], [0, 0]], 0.9, start=0, terminal=[False, False, True])
    policy = SoftmaxPolicy.random(mdp, rng=0)
    baseline = evaluate(mdp, policy).value
    assert not expected_contributions(mdp, policy, RewardToGo(baseline), n=100, horizon=5).total.any()


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_scale_of_rewards_does_not_matter(scale):
    lake = problems.frozen_lake()
    twin = MDP(lake.transition, lake.reward * scale, 0.9, lake.start, terminal=lake.terminal)
    policy = SoftmaxPolicy.uniform(lake)
    one, other = (
        expected_contributions(m, policy, RewardToGo(), n=1000, horizon=20).total for m in (lake.discounted(0.9), twin)
    )
    assert np.allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 16, 17, 100])
def test_an_orbit_comes_back_in_order(count):
    assert list(_reversed_orbit(lambda x: x + 1, 0, count)) == list(range(count))[::-1]
