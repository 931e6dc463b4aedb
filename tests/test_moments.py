"""Exact moments of gradient estimators against full enumeration, a dense recursion and published formulas."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import (
    GAE,
    MDP,
    DirectPolicy,
    InfiniteVariance,
    InvalidArgument,
    InvalidPolicy,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    TemporalDifference,
    TotalReturn,
    estimator_moments,
    evaluate,
    problems,
)
from fastpg.sampling.faults import ActionBaseline, MissingDiscount, RewardBeforeAction, WrongRatio
from fastpg.testing.estimates import realised
from fastpg.testing.models import dense_reward, dense_transition
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdps, softmax_policies

NAMES = ("total", "to-go", "bootstrap", "plug-in", "gae", "difference")
FAULTS = ("no discount", "action baseline", "reward before action", "no ratio", "inverse ratio")


def estimator(name, mdp, rng, behaviour=None):
    """An estimator with random tables."""
    S, A = mdp.n_states, mdp.n_actions
    b, V, q = rng.normal(size=S), rng.normal(size=S), rng.normal(size=(S, A))
    return {
        "total": lambda: TotalReturn(b, behaviour=behaviour),
        "to-go": lambda: RewardToGo(b, behaviour=behaviour),
        "bootstrap": lambda: RewardToGo(b, bootstrap=V, behaviour=behaviour),
        "plug-in": lambda: PlugIn(q, b, behaviour=behaviour),
        "gae": lambda: GAE(0.7, V, behaviour=behaviour),
        "difference": lambda: TemporalDifference(V, behaviour=behaviour),
        "no discount": lambda: MissingDiscount(GAE(0.7, V, behaviour=behaviour)),
        "action baseline": lambda: ActionBaseline(RewardToGo(behaviour=behaviour), q),
        "reward before action": lambda: RewardBeforeAction(RewardToGo(b, behaviour=behaviour)),
        "no ratio": lambda: WrongRatio(RewardToGo(b, behaviour=behaviour)),
        "inverse ratio": lambda: WrongRatio(TotalReturn(b, behaviour=behaviour), power=-1),
    }[name]()


def enumerated(x, mdp, policy, horizon):
    """E X and E X X^T over all trajectories, and the largest |X|^2 as a scale."""
    inner = getattr(x, "estimator", x)
    mean, product, scale = 0.0, 0.0, 0.0
    for path in enumerate_trajectories(mdp, inner.behaviour or policy, horizon):
        value = realised(x, mdp, policy, path, horizon)
        mean = mean + path.probability * value
        product = product + path.probability * np.multiply.outer(value, value)
        scale = max(scale, path.probability * float(np.vdot(value, value)))
    return mean, product, scale


@given(st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("off_policy", [False, True])
def test_moments_are_those_of_all_trajectories(off_policy, data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    behaviour = data.draw(softmax_policies(mdp, extreme=False)) if off_policy else None
    name = data.draw(st.sampled_from(NAMES + (FAULTS if off_policy else FAULTS[:3])))
    horizon = data.draw(st.integers(1, 4))
    x = estimator(name, mdp, np.random.default_rng(data.draw(st.integers(0, 99))), behaviour)
    mean, product, scale = enumerated(x, mdp, policy, horizon)
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    tolerance = 1e-12 * (scale + 1)
    assert np.abs(moments.mean - mean).max() <= 1e-12 * np.sqrt(scale + 1)
    covariance = product - np.multiply.outer(mean, mean)
    assert np.abs(moments.covariance() - covariance).max() <= tolerance
    states = np.arange(mdp.n_states)
    assert np.abs(moments.blocks - covariance[states, :, states]).max() <= tolerance
    assert abs(moments.trace - np.einsum("sasa->", covariance)) <= tolerance * covariance.size
    assert np.abs(moments.bias - (mean - evaluate(mdp, policy, horizon=horizon).logit_gradient)).max() <= tolerance


def dense_recursion(x, mdp, policy, steps, *, geometric=False):
    """Mean and covariance of (H, X) by Cov_s = Cov(alpha + B y') + E[B Cov' B^T], for any (alpha, B) of one step.

    y = (H, X) is one vector of 1 + S A numbers, and H multiplies the score of the step before it.
    """
    S, A = mdp.n_states, mdp.n_actions
    P, R, pi = dense_transition(mdp), dense_reward(mdp), policy.probabilities
    sampled = pi if x.behaviour is None else x.behaviour.probabilities
    discount = 1.0 if geometric else mdp.discount
    survival = mdp.discount if geometric else 1.0
    size = 1 + S * A
    y, C = np.zeros((S, size)), np.zeros((S, size, size))
    for _ in range(steps):
        new_y, new_C = np.zeros_like(y), np.zeros_like(C)
        for s in np.flatnonzero(~mdp.terminal):
            points = []
            for a in np.flatnonzero(sampled[s]):
                ratio = pi[s, a] / sampled[s, a]
                score = np.zeros((S, A))
                score[s] -= pi[s]
                score[s, a] += 1
                for k in np.flatnonzero(P[s, a]):
                    if isinstance(x, RewardToGo):
                        c, e, trace = R[s, a, k], R[s, a, k] - x.baseline[s], 1.0
                    elif isinstance(x, PlugIn):
                        c, e, trace = 0.0, x.action_value[s, a] - x.baseline[s], 0.0
                    else:
                        v = np.where(mdp.terminal, 0.0, x.value)
                        c = e = R[s, a, k] + mdp.discount * v[k] - v[s]
                        trace = x.trace if isinstance(x, GAE) else 0.0
                    alpha = ratio * np.concatenate(([c], e * score.ravel()))
                    B = np.diag(np.full(size, discount))
                    B[0, 0] = discount * trace
                    B[1:, 0] = discount * trace * score.ravel()
                    goes_on = 0.0 if mdp.terminal[k] else survival
                    points.append((sampled[s, a] * P[s, a, k] * goes_on, alpha, ratio * B, k))
                    points.append((sampled[s, a] * P[s, a, k] * (1 - goes_on), alpha, 0 * B, k))
            values = [alpha + B @ y[k] for _, alpha, B, k in points]
            weights = [p for p, *_ in points]
            new_y[s] = np.average(values, axis=0, weights=weights)
            for p, value, (_, _, B, k) in zip(weights, values, points, strict=True):
                new_C[s] += p * (np.outer(value - new_y[s], value - new_y[s]) + B @ C[k] @ B.T)
        y, C = new_y, new_C
    mean = mdp.start @ y
    between = np.einsum("s,si,sj->ij", mdp.start, y - mean, y - mean)
    covariance = np.tensordot(mdp.start, C, axes=1) + between
    return mean[1:].reshape(S, A), covariance[1:, 1:].reshape(S, A, S, A)


@pytest.mark.parametrize("horizon", [None, "geometric"])
@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_infinite_horizons_agree_with_the_dense_recursion(horizon, off_policy, terminal):
    rng = np.random.default_rng(3 + terminal)
    P = rng.dirichlet(np.ones(3), size=(3, 2))
    ended = np.array([False, False, terminal])
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(3, 2, 3)))
    mdp = MDP(P, R, 0.6, [0.5, 0.3, 0.2], terminal=ended)
    policy = SoftmaxPolicy(rng.normal(size=(3, 2)))
    behaviour = SoftmaxPolicy(policy.logits + 0.3 * rng.normal(size=(3, 2))) if off_policy else None
    for name in ("to-go", "plug-in", "gae", "difference"):
        x = estimator(name, mdp, rng, behaviour)
        mean, covariance = dense_recursion(x, mdp, policy, 120, geometric=horizon == "geometric")
        moments = estimator_moments(evaluate(mdp, policy), x, horizon=horizon)
        np.testing.assert_allclose(moments.mean, mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(moments.covariance(), covariance, rtol=0, atol=1e-12)
        states = np.arange(3)
        np.testing.assert_allclose(moments.blocks, covariance[states, :, states], rtol=0, atol=1e-12)


@pytest.mark.parametrize("off_policy", [False, True])
def test_total_return_of_a_process_that_ends_is_the_limit_of_long_horizons(off_policy):
    rng = np.random.default_rng(5)
    mdp = ending_model(rng)
    policy = SoftmaxPolicy(rng.normal(size=(4, 2)))
    behaviour = SoftmaxPolicy(policy.logits + 0.2 * rng.normal(size=(4, 2))) if off_policy else None
    x = TotalReturn(rng.normal(size=4), behaviour=behaviour)
    limit = estimator_moments(evaluate(mdp, policy), x)
    long = estimator_moments(evaluate(mdp, policy), x, horizon=400)
    np.testing.assert_allclose(limit.mean, long.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(limit.covariance(), long.covariance(), rtol=0, atol=1e-12 * limit.trace)
    np.testing.assert_allclose(limit.blocks, long.blocks, rtol=0, atol=1e-12 * limit.trace)


def test_geometric_total_return_is_that_of_a_model_that_ends():
    # Going on with probability 0.8 is a step into a terminal state with probability 0.2.
    rng = np.random.default_rng(6)
    P, r = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2))
    policy = SoftmaxPolicy(rng.normal(size=(3, 2)))
    longer = np.zeros((4, 2, 4))
    longer[:3, :, :3], longer[:3, :, 3] = 0.8 * P, 0.2
    ending = MDP(longer, np.vstack([r, np.zeros(2)]), 1.0, [0.2, 0.3, 0.5, 0.0], terminal=[False, False, False, True])
    endless = MDP(P, r, 0.8, [0.2, 0.3, 0.5])
    same = SoftmaxPolicy(np.vstack([policy.logits, np.zeros(2)]))
    geometric = estimator_moments(evaluate(endless, policy), TotalReturn(0.7), horizon="geometric")
    explicit = estimator_moments(evaluate(ending, same), TotalReturn(0.7))
    np.testing.assert_allclose(geometric.covariance(), explicit.covariance()[:3, :, :3], rtol=0, atol=1e-12)
    states = np.arange(3)
    np.testing.assert_allclose(geometric.blocks, explicit.covariance()[states, :, states], rtol=0, atol=1e-12)
    assert np.abs(geometric.bias).max() <= 1e-14


@pytest.mark.parametrize("horizon", [None, "geometric", 7])
def test_blocks_of_sparse_models_are_those_of_the_covariance(horizon):
    mdp = problems.garnet(60, 2, 2, rng=0, sparse=True, discount=0.8)
    policy, rng = SoftmaxPolicy.random(mdp, rng=1), np.random.default_rng(2)
    behaviour, states = SoftmaxPolicy(policy.logits + 0.2 * rng.normal(size=(60, 2))), np.arange(60)
    estimators = [RewardToGo(rng.normal(size=60), behaviour=behaviour), GAE(0.7, rng.normal(size=60))]
    for x in estimators + [TotalReturn(0.3)] * (horizon == "geometric"):
        moments = estimator_moments(evaluate(mdp, policy), x, horizon=horizon)
        expected = moments.covariance()[states, :, states]
        np.testing.assert_allclose(moments.blocks, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("horizon", [None, "geometric"])
def test_means_of_large_sparse_models_need_no_dense_matrix(horizon):
    mdp = problems.garnet(30_000, 2, 3, rng=0, sparse=True, discount=0.9)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    ev, v = evaluate(mdp, policy), np.random.default_rng(2).normal(size=30_000)
    behaviour = SoftmaxPolicy(0.95 * policy.logits)
    for x in (RewardToGo(v), RewardToGo(behaviour=behaviour), *[TotalReturn(v)] * (horizon == "geometric")):
        bias = estimator_moments(ev, x, horizon=horizon).bias
        assert np.abs(bias).max() <= 1e-11 * np.abs(ev.logit_gradient).max()
    # Sums of (discount trace)^l P_pi^l delta, one after the other.
    P, pi = mdp.transition, policy.probabilities
    delta = mdp.expected_reward + 0.9 * (P @ v).reshape(-1, 2) - v[:, None]
    of_state = (pi * delta).sum(axis=1)
    ahead = np.zeros(30_000)
    for _ in range(80):
        ahead = of_state + 0.9 * 0.5 * (pi * (P @ ahead).reshape(-1, 2)).sum(axis=1)
    worth = delta + 0.9 * 0.5 * (P @ ahead).reshape(-1, 2)
    mean = ev.occupancy[:, None] * pi * (worth - (pi * worth).sum(axis=1, keepdims=True))
    moments = estimator_moments(ev, GAE(0.5, v), horizon=horizon)
    np.testing.assert_allclose(moments.mean, mean, rtol=0, atol=1e-11 * np.abs(mean).max())
    with pytest.raises(InvalidArgument, match=r"second moments of \d+ states and 2 actions over any number of steps"):
        moments.blocks  # noqa: B018


def ending_model(rng):
    """Four states, the last terminal, at discount 1."""
    P = rng.dirichlet(np.ones(4), size=(4, 2))
    ended = np.array([False, False, False, True])
    return MDP(P, np.where(ended[:, None], 0.0, rng.normal(size=(4, 2))), 1.0, [0.4, 0.3, 0.3, 0.0], terminal=ended)


def test_one_step_from_the_visitation():
    rng = np.random.default_rng(8)
    mdp, policy = problems.random_mdp(4, 3, rng=1), None
    policy = SoftmaxPolicy(rng.normal(size=(4, 3)))
    ev, v = evaluate(mdp, policy), rng.normal(size=4)
    moments = estimator_moments(ev, TemporalDifference(v, along="visitation"))
    path = estimator_moments(ev, TemporalDifference(v))
    np.testing.assert_allclose(moments.mean, path.mean, rtol=0, atol=1e-13)
    # Draw state, action and successor one by one.
    P, R, pi, scale = dense_transition(mdp), dense_reward(mdp), policy.probabilities, ev.occupancy.sum()
    product = np.zeros((4, 3, 4, 3))
    for s in range(4):
        for a in range(3):
            score = -pi[s] + (np.arange(3) == a)
            delta = scale * (R[s, a] + mdp.discount * v - v[s])
            product[s, :, s] += ev.occupancy[s] / scale * pi[s, a] * (P[s, a] @ delta**2) * np.outer(score, score)
    covariance = product - np.multiply.outer(path.mean, path.mean)
    np.testing.assert_allclose(moments.covariance(), covariance, rtol=0, atol=1e-12 * scale**2)


def test_the_exact_value_has_no_bias():
    mdp = problems.frozen_lake("4x4", discount=0.95)
    policy = SoftmaxPolicy.random(mdp, rng=0)
    ev = evaluate(mdp, policy)
    for x in (GAE(0.3, ev.value), TemporalDifference(ev.value), PlugIn(ev.action_value), RewardToGo(ev.value)):
        assert np.abs(estimator_moments(ev, x).bias).max() <= 1e-15
    assert np.abs(estimator_moments(ev, GAE(0.3, np.ones(16))).bias).max() > 1e-3


def two_class_model(ratio_squared, *, reward=1.0, reachable=True):
    """A loop with E ratio^2 = `ratio_squared` beside a harmless state; the loop has the rewards."""
    P = np.zeros((2, 2, 2))
    P[0, :, 0] = P[1, :, 1] = 1.0
    mdp = MDP(P, [[reward, 0.0], [1.0, 0.0]], 0.9, start=0 if reachable else 1)
    # With pi = (1/2, 1/2) and behaviour (p, 1 - p): E ratio^2 = 1 / (4 p (1 - p)).
    p = 0.5 * (1 + np.sqrt(1 - 1 / ratio_squared))
    return mdp, SoftmaxPolicy.uniform(mdp), SoftmaxPolicy(np.log([[p, 1 - p]] * 2))


@pytest.mark.parametrize("side", [-1e-9, 1e-9])
def test_infinite_variance_is_told_on_both_sides_of_the_threshold(side):
    mdp, policy, behaviour = two_class_model((1 + side) / 0.9**2)
    ev, x = evaluate(mdp, policy), RewardToGo(behaviour=behaviour)
    if side < 0:
        assert 1e8 < estimator_moments(ev, x).trace < np.inf
        return
    with pytest.raises(
        InfiniteVariance, match=r"RewardToGo has no finite variance over an infinite horizon: .* at least 1"
    ):
        estimator_moments(ev, x)
    anyway = estimator_moments(ev, x, allow_infinite=True)
    assert anyway.trace == np.inf
    assert np.abs(anyway.bias).max() <= 1e-13
    with pytest.raises(InfiniteVariance):
        anyway.covariance()
    # Every finite horizon has its variance, which grows.
    assert estimator_moments(ev, x, horizon=50).trace > estimator_moments(ev, x, horizon=25).trace


@pytest.mark.parametrize("distance", [0.17, 6e-3, 6e-5, 6e-7, 6e-10, 6e-12])
def test_digits_are_lost_in_proportion_to_the_distance_from_the_threshold(distance):
    low = (1 - np.sqrt(1 - 0.9**2 / (1 - distance))) / 2
    behaviour = DirectPolicy([[low, 1 - low]])
    mdp = MDP([[[1.0], [1.0]]], [[1.0, 0.0]], 0.9)
    ev = evaluate(mdp, SoftmaxPolicy([[0.0, 0.0]]))
    # The same in rational arithmetic, from the floats of the model.
    b, g, half = [Fraction(x) for x in behaviour.probabilities[0]], Fraction(0.9), Fraction(1, 2)
    weight = [half**2 / (x / sum(b)) for x in b]
    mean = half * half / (1 - g)
    factor = g**2 * sum(weight)
    # The entry of action 0 has scores 1/2 and -1/2, and signals 1 and 0.
    second = weight[0] * (Fraction(1, 4) + g * mean) / (1 - factor)
    variance = estimator_moments(ev, PlugIn([[1.0, 0.0]], behaviour=behaviour)).variance[0, 0]
    # Some ten roundings of the factor, two of the sums.
    assert abs(Fraction(variance) - (second - mean**2)) / second <= Fraction(10 * 2.0**-53) / (1 - factor) + 2.0**-51


@pytest.mark.parametrize("side", [-1e-13, -1e-15, 0.0, 1e-15])
def test_what_rounding_could_move_over_the_threshold_is_too_close_to_tell(side):
    mdp, policy, behaviour = two_class_model((1 + side) / 0.9**2)
    with pytest.raises(
        InfiniteVariance, match="too close to 1 to tell" if side < 0 else "each step multiplies it by 1"
    ):
        estimator_moments(evaluate(mdp, policy), RewardToGo(behaviour=behaviour))


def test_a_factor_that_is_just_above_1_is_told_with_its_distance():
    mdp, policy, behaviour = two_class_model((1 + 1e-9) / 0.9**2)
    with pytest.raises(InfiniteVariance, match=r"by 1 \+ 1e-09, at least 1"):
        estimator_moments(evaluate(mdp, policy), RewardToGo(behaviour=behaviour))


def test_classes_that_are_not_reached_or_count_nothing_do_no_harm():
    mdp, policy, behaviour = two_class_model(2.0, reachable=False)
    harmless = RewardToGo(behaviour=SoftmaxPolicy(np.vstack([behaviour.logits[0], np.zeros(2)])))
    on_policy = estimator_moments(evaluate(mdp, policy), RewardToGo())
    np.testing.assert_allclose(
        estimator_moments(evaluate(mdp, policy), harmless).covariance(), on_policy.covariance(), rtol=1e-14
    )
    mdp, policy, behaviour = two_class_model(2.0, reward=0.0)
    assert estimator_moments(evaluate(mdp, policy), RewardToGo(behaviour=behaviour)).trace == 0


def test_the_total_return_of_an_endless_process_has_no_variance():
    mdp = problems.two_state()
    with pytest.raises(InfiniteVariance, match="TotalReturn"):
        estimator_moments(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), TotalReturn())


def test_a_baseline_that_overflows_is_told_as_such():
    mdp = problems.two_state()
    moments = estimator_moments(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), RewardToGo(1e200))
    with pytest.raises(SolveError, match=r"with rewards, baselines and tables of values up to [12]\.?\d*e\+200; scale"):
        moments.variance  # noqa: B018


def test_bad_input_is_told():
    mdp = problems.two_state()
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    narrow = SoftmaxPolicy(np.where(np.arange(mdp.n_actions) == 0, 0.0, -np.inf) * np.ones((mdp.n_states, 1)))
    with pytest.raises(InvalidPolicy, match=r"behaviour\[0, 1\] is 0"):
        estimator_moments(ev, RewardToGo(behaviour=narrow))
    with pytest.raises(InvalidArgument, match="weights must be None or among per-decision, trajectory, self-normal"):
        RewardToGo(weights="per-step")
    with pytest.raises(InvalidArgument, match="evaluation must be"):
        estimator_moments(mdp, RewardToGo())
    with pytest.raises(InvalidArgument, match="horizon"):
        estimator_moments(ev, RewardToGo(), horizon=0)
    with pytest.raises(InvalidArgument, match="behaviour policy"):
        estimator_moments(ev, WrongRatio(RewardToGo()))
    with pytest.raises(InvalidArgument, match="whole return"):
        estimator_moments(ev, MissingDiscount(TotalReturn()), horizon=3)


def test_where_all_has_ended_or_there_is_one_action_nothing_varies():
    for mdp in (MDP([[[1.0]]], [0.0], 0.9, start=0, terminal=[True]), problems.bandit([1.0])):
        for x in (RewardToGo(), TotalReturn(), GAE(0.5, np.zeros(mdp.n_states))):
            moments = estimator_moments(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), x)
            assert moments.trace == 0
            assert (moments.signal_to_noise == 0).all()
            assert not moments.covariance().any()
