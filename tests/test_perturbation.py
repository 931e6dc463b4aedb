"""Estimators that perturb the logits: exact moments against all trajectories and directions, samples against both."""

import os
import sys
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastpg import (
    MDP,
    DirectPolicy,
    EvolutionStrategy,
    FiniteDifference,
    InvalidArgument,
    NoExactMoments,
    SoftmaxPolicy,
    crosscheck,
    detectable_bias,
    directions,
    estimate_gradient,
    estimator_moments,
    evaluate,
    problems,
    return_variance,
    samples_needed,
)
from fastpg.kernels.perturbation import direction
from fastpg.sampling.contributions import expected_contributions
from fastpg.sampling.coupled import coupled_moments
from fastpg.sampling.faults import MissingDiscount
from fastpg.sampling.perturbation import Perturbation
from fastpg.sampling.plan import plan
from fastpg.testing.models import as_sparse, dense_reward, dense_transition
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdps, softmax_policies

MODULE = sys.modules["fastpg.crosscheck"]
# The probability that the tests below fail by chance, each for a seed that was fixed before it was run.
ALPHA = 1e-6
RUNS = 1000 if os.environ.get("FASTPG_HEAVY") == "1" else 50


def free_logits(mdp, policy):
    """Entries of actions that are taken, in states that a path from the start leads to and with another such action."""
    P, pi = dense_transition(mdp), policy.probabilities
    seen = (mdp.start > 0) & ~mdp.terminal
    for _ in range(mdp.n_states):
        seen = seen | ((seen[:, None, None] & (pi[:, :, None] * P > 0)).any(axis=(0, 1)) & ~mdp.terminal)
    taken = pi > 0
    return np.argwhere(taken & (taken.sum(axis=1) > 1)[:, None] & seen[:, None])


def moved(policy, change):
    """The policy with other logits."""
    return SoftmaxPolicy(policy.logits + change)


def returns_of(mdp, policy, horizon):
    """Probabilities and returns of all trajectories."""
    paths = list(enumerate_trajectories(mdp, policy, horizon))
    return np.array([x.probability for x in paths]), np.array([x.discounted_return(mdp.discount) for x in paths])


def cells(*laws):
    """Where each interval of (0, 1) on which all distribution functions are constant has its middle, and its length."""
    ends = np.unique(np.clip(np.concatenate([[0.0, 1.0], *(np.cumsum(law) for law in laws)]), 0.0, 1.0))
    return zip((ends[1:] + ends[:-1]) / 2, np.diff(ends), strict=True)


def drawn(law, u):
    """What the number u draws by inverse distribution function."""
    support = np.flatnonzero(law)
    return int(support[min(np.searchsorted(np.cumsum(law[support]), u, side="right"), support.size - 1)])


def coupled_returns(mdp, above, below, horizon):
    """Probabilities and differences of returns of two episodes with the same random words, from all cells of words."""
    P, R = dense_transition(mdp), dense_reward(mdp)

    def rest(s, r, left):
        """(probability, difference) of what follows from the pair of states."""
        live = [left > 0 and not mdp.terminal[x] for x in (s, r)]
        if not any(live):
            yield 1.0, 0.0
            return
        pis = [policy.probabilities[x] for policy, x, on in zip((above, below), (s, r), live, strict=True) if on]
        for u, chance in cells(*pis):
            a, b = (drawn(p.probabilities[x], u) for p, x in ((above, s), (below, r)))
            rows = [P[x, c] for (x, c), on in zip(((s, a), (r, b)), live, strict=True) if on]
            for v, share in cells(*rows):
                gain, ahead = 0.0, [s, r]
                for place, (x, c, sign) in enumerate(((s, a, 1.0), (r, b, -1.0))):
                    if live[place]:
                        ahead[place] = drawn(P[x, c], v)
                        gain += sign * R[x, c, ahead[place]]
                for probability, difference in rest(*ahead, left - 1):
                    yield chance * share * probability, gain + mdp.discount * difference

    for s in np.flatnonzero(mdp.start):
        for probability, difference in rest(s, s, horizon):
            yield mdp.start[s] * probability, difference


def enumerated(x, mdp, policy, horizon):
    """E X and E X X^T, from all directions and all pairs of trajectories, or of words where these are common."""
    entries = free_logits(mdp, policy)
    F, (S, A) = len(entries), policy.probabilities.shape
    scale = x.step if isinstance(x, FiniteDifference) else x.scale
    units = list(np.eye(F))
    law = type(x.directions).__name__ if isinstance(x, EvolutionStrategy) else "each in turn"
    second = 1.0
    if law == "Rademacher":
        laws = [(0.5**F, np.array(signs)) for signs in product((-1.0, 1.0), repeat=F)]
    else:
        laws = [(1.0 if law == "each in turn" else 1.0 / F, unit) for unit in units]
        second = 1.0 / F if law == "Coordinate" and F else 1.0
        if law == "Coordinate":
            laws = [(p / 2, sign * u) for p, u in laws for sign in (1.0, -1.0)]
    mean, raw, covariance = np.zeros(S * A), np.zeros((S * A, S * A)), np.zeros((S * A, S * A))
    for weight, u in laws:
        direction = np.zeros((S, A))
        direction[tuple(entries.T)] = u
        above, below = moved(policy, scale * direction), moved(policy, -scale * direction)
        p, gain = returns_of(mdp, above, horizon)
        if getattr(x, "antithetic", True):
            q, loss = returns_of(mdp, below, horizon)
            p, gain = np.outer(p, q).ravel(), np.subtract.outer(gain, loss).ravel() / 2
            if x.common:
                p, gain = np.array(list(coupled_returns(mdp, above, below, horizon))).T
                gain = gain / 2
        value = direction.ravel() / (scale * second)
        m, square = p @ gain, p @ gain**2
        mean += weight * m * value
        raw += weight * square * np.outer(value, value)
        covariance += weight * (square - m**2) * np.outer(value, value)
    if law != "each in turn":
        covariance = raw - np.outer(mean, mean)
    return mean.reshape(S, A), covariance.reshape(S, A, S, A)


SCALES = (0.1, 0.5, 2.0)
KINDS = {
    "difference": FiniteDifference,
    "common difference": lambda h: FiniteDifference(h, common=True),
    "signs": lambda h: EvolutionStrategy(h, directions.Rademacher()),
    "common signs": lambda h: EvolutionStrategy(h, directions.Rademacher(), common=True),
    "one-sided signs": lambda h: EvolutionStrategy(h, directions.Rademacher(), antithetic=False),
    "coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate()),
    "common coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate(), common=True),
    "one-sided coordinate": lambda h: EvolutionStrategy(h, directions.Coordinate(), antithetic=False),
}


@given(st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_all_directions_and_trajectories(kind, data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    x = KINDS[kind](data.draw(st.sampled_from(SCALES)))
    horizon = data.draw(st.integers(1, 3 if "common" not in kind else 2))
    mean, covariance = enumerated(x, mdp, policy, horizon)
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    size = np.abs(dense_reward(mdp)).max() * horizon + 1
    tolerance = 1e-12 * (size * moments.plan.factor) ** 2 + 1e-12
    assert np.abs(moments.mean - mean).max(initial=0) <= 1e-12 * size * moments.plan.factor
    assert np.abs(moments.covariance() - covariance).max(initial=0) <= tolerance
    states = np.arange(mdp.n_states)
    assert np.abs(moments.blocks - covariance[states, :, states]).max(initial=0) <= tolerance
    assert abs(moments.trace - np.einsum("sasa->", covariance)) <= tolerance * covariance.size


ENDLESS = {name: kind for name, kind in KINDS.items() if name not in ("coordinate", "common coordinate")}


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_infinite_horizon_is_the_limit_of_long_ones(kind):
    rng = np.random.default_rng(2)
    ended = np.array([False, False, True])
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(3, 2, 3)))
    mdp = MDP(rng.dirichlet(np.ones(3), size=(3, 2)), R, 0.7, [0.5, 0.3, 0.2], terminal=ended)
    policy, x = SoftmaxPolicy(rng.normal(size=(3, 2))), KINDS[kind](0.5)
    limit = estimator_moments(evaluate(mdp, policy), x)
    long = estimator_moments(evaluate(mdp, policy), x, horizon=120)
    np.testing.assert_allclose(limit.mean, long.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(limit.covariance(), long.covariance(), rtol=0, atol=1e-13 * limit.trace)


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_geometric_horizon_is_that_of_a_model_that_ends(kind):
    # Each transition pays and then either goes on or ends.
    rng = np.random.default_rng(3)
    P, R, gamma = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2)), 0.8
    policy, x = SoftmaxPolicy(rng.normal(size=(3, 2))), KINDS[kind](0.5)
    longer = np.zeros((4, 2, 4))
    longer[:3, :, :3], longer[:3, :, 3] = gamma * P, 1 - gamma
    ending = MDP(longer, np.vstack([R, np.zeros(2)]), 1.0, [0.2, 0.3, 0.5, 0.0], terminal=np.arange(4) == 3)
    endless = MDP(P, R, gamma, [0.2, 0.3, 0.5])
    geometric = estimator_moments(evaluate(endless, policy), x, horizon="geometric")
    twin = estimator_moments(evaluate(ending, SoftmaxPolicy(np.vstack([policy.logits, np.zeros(2)]))), x)
    np.testing.assert_allclose(geometric.mean, twin.mean[:3], rtol=0, atol=1e-13)
    if "common" not in kind:
        # With common random numbers the end is drawn apart from successors, and the coupling is another one.
        np.testing.assert_allclose(geometric.covariance(), twin.covariance()[:3, :, :3], atol=1e-13 * twin.trace)
    discounted = estimator_moments(evaluate(endless, policy), x)
    np.testing.assert_allclose(geometric.mean, discounted.mean, rtol=0, atol=1e-13)


def test_the_bias_of_a_central_difference_has_a_closed_form():
    mdp = problems.random_mdp(12, 3, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    ev = evaluate(mdp, policy)
    pi, P, g = policy.probabilities, mdp.transition, ev.logit_gradient
    D = np.linalg.inv(np.eye(12) - mdp.discount * np.einsum("sa,sak->sk", pi, P))
    own = np.einsum("sak,ks->sa", P, D)
    k = pi * (1 - mdp.discount * (own - (pi * own).sum(axis=1, keepdims=True)))
    for h in (1e-8, 1e-3, 0.1, 2.0):
        up, down = np.expm1(h), np.expm1(-h)
        exact = g * (up / (1 + k * up) - down / (1 + k * down)) / (2 * h)
        mean = estimator_moments(ev, FiniteDifference(h)).mean
        # The difference of two numbers near 1 loses digits here, not in the mean.
        np.testing.assert_allclose(mean, exact, rtol=1e-11 + 1e-15 / h)
        # One coordinate at random, and without the other side, is the same on average.
        for antithetic in (True, False):
            other = EvolutionStrategy(h, directions.Coordinate(), antithetic=antithetic)
            tolerance = 1e-11 if antithetic else 1e-13 / h
            np.testing.assert_allclose(estimator_moments(ev, other).mean, mean, rtol=1e-11, atol=tolerance)
    bias = estimator_moments(ev, FiniteDifference(0.01)).bias
    np.testing.assert_allclose(bias, 1e-4 * g * (1 / 6 - k * (1 - k)), rtol=0.01, atol=1e-8 * np.abs(g).max())
    # However small the step, no digit is lost.
    np.testing.assert_allclose(estimator_moments(ev, FiniteDifference(1e-8)).mean, g, rtol=1e-12)


def test_many_states_agree_with_an_evaluation_of_every_perturbed_policy():
    mdp = problems.frozen_lake("4x4", discount=0.95)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    for horizon in (None, 15):
        ev = evaluate(mdp, policy, horizon=horizon)
        moments = estimator_moments(ev, FiniteDifference(0.5))

        def law_of_return(s, a, change, horizon=horizon):
            delta = np.zeros((16, 4))
            delta[s, a] = change
            ev = evaluate(mdp, moved(policy, delta), horizon=horizon)
            V, v = (np.reshape(x, (-1, 16))[-1] for x in (ev.value, return_variance(ev)))
            return ev.expected_return, mdp.start @ v + mdp.start @ (V - ev.expected_return) ** 2

        for s, a in free_logits(mdp, policy):
            (up, v_up), (down, v_down) = (law_of_return(s, a, change) for change in (0.5, -0.5))
            assert moments.mean[s, a] == pytest.approx(up - down, abs=1e-14)
            assert moments.variance[s, a] == pytest.approx(v_up + v_down, abs=1e-14)


def test_any_policy_is_perturbed_in_its_logits():
    mdp = as_sparse(problems.random_mdp(4, 3, rng=0))
    policy = SoftmaxPolicy([[0.0, 1.0, -np.inf], [0.0, 0.5, 1.0], [0.0, -np.inf, -np.inf], [1.0, 2.0, 3.0]])
    direct = DirectPolicy(policy.probabilities)
    same = [estimator_moments(evaluate(mdp, x), FiniteDifference(), horizon=5).variance for x in (policy, direct)]
    np.testing.assert_allclose(*same, rtol=1e-14)
    assert not same[0][2].any()
    assert same[0][0, 2] == 0


def test_estimates_do_not_depend_on_threads_and_may_be_interrupted():
    mdp = problems.frozen_lake("4x4")
    policy = SoftmaxPolicy.uniform(mdp)
    for x in (FiniteDifference(), EvolutionStrategy(), EvolutionStrategy(0.1, directions.Rademacher(), common=True)):
        one, two = (
            estimate_gradient(mdp, policy, x, n=5000, horizon="geometric", rng=3, threads=threads) for threads in (1, 2)
        )
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.blocks, two.blocks)

    def interrupt(done):
        if done > 1000:
            raise KeyboardInterrupt

    options = {"n": 5000, "horizon": 5, "rng": 3, "progress": interrupt, "keep_partial": True}
    some = estimate_gradient(mdp, policy, FiniteDifference(), **options)
    assert 1000 < some.n < 5000
    whole = estimate_gradient(mdp, policy, FiniteDifference(), n=5000, horizon=5, rng=3)
    np.testing.assert_array_equal(some.blocks, whole.blocks[: some.blocks.shape[0]])


GOOD = problems.frozen_lake("4x4", discount=0.9)
BETTER = SoftmaxPolicy(50 * evaluate(GOOD, SoftmaxPolicy.uniform(GOOD)).advantage)


@pytest.mark.parametrize("horizon", [10, "geometric"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_agree_with_the_exact_mean_and_covariance(kind, horizon):
    rng = np.random.default_rng(7)
    ended = np.array([False, False, False, True])
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(4, 3, 4)))
    available = [[1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 1, 1]]
    mdp = as_sparse(
        MDP(rng.dirichlet(np.ones(4), size=(4, 3)), R, 0.8, [0.4, 0.3, 0.2, 0.1], terminal=ended, available=available)
    )
    policy = SoftmaxPolicy.random(mdp, rng=1)
    n = 50_000
    check = crosscheck(mdp, policy, KINDS[kind](0.5), n=n, horizon=horizon, rng=1, against="mean", false_alarm=ALPHA)
    assert check.agrees, str(check)
    assert check.judged.sum() == 5
    assert check.covariance is not None
    # A variance from 4096 sums of n / 4096 has a standard deviation of sqrt(2 / 4095 + excess kurtosis / n) of itself.
    ratio = n * check.estimate.standard_error**2 / np.where(check.judged, check.moments.variance, 1.0)
    deviation = np.sqrt(2 / 4095 + 1 / check.estimate.contributions[check.judged])
    assert (np.abs(ratio[check.judged] - 1) < 5 * deviation).all()


@pytest.mark.parametrize("horizon", [10, "geometric"])
def test_gaussian_directions_are_held_against_the_gradient_with_sampled_errors(horizon):
    for common in (False, True):
        x = EvolutionStrategy(0.05, common=common)
        check = crosscheck(GOOD, BETTER, x, n=400_000, horizon=horizon, rng=2, false_alarm=ALPHA)
        assert check.agrees, str(check)
        assert check.judged.sum() > 30
        assert check.moments is None
        assert check.covariance is None
        assert "no exact moments" in str(check)
    with pytest.raises(NoExactMoments, match="Gaussian directions have no exact moments"):
        crosscheck(GOOD, BETTER, x, n=100, horizon=horizon, rng=2, against="mean")


@dataclass(frozen=True)
class Doubled:
    """A central difference that forgets the 2 of its denominator."""

    step: float

    @property
    def perturbation(self):
        """Half a step that is walked in full."""
        return Forgetful(self.step, directions.EveryCoordinate(), True, False)


class Forgetful(Perturbation):
    """Twice as much."""

    def factor(self, size):
        """1 / h."""
        return 2 * super().factor(size)


def forward_difference(mdp, policy, estimator, **options):
    """(G(theta + 2 h e) - G(theta)) / 2 h: central differences about theta + h e, one entry from each."""
    plain = estimate_gradient(mdp, policy, estimator, **options)
    mean, error, blocks = (np.array(x) for x in (plain.mean, plain.standard_error, plain.blocks))
    for s, a in free_logits(mdp, policy):
        change = np.zeros(policy.logits.shape)
        change[s, a] = estimator.step
        there = estimate_gradient(mdp, moved(policy, change), estimator, **options)
        mean[s, a], error[s, a] = there.mean[s, a], there.standard_error[s, a]
        column = plain.pooling.pool[s, a]
        if column >= 0:
            blocks[:, column] = there.blocks[:, column]
    return replace(plain, mean=mean, standard_error=error, blocks=blocks)


def test_mutants_of_the_sampler_are_found(monkeypatch):
    mdp = problems.two_state()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    options = {"n": 200_000, "horizon": 10, "rng": 4, "false_alarm": ALPHA}
    x = FiniteDifference(0.25)
    ev = evaluate(mdp, policy, horizon=10)
    bias = np.linalg.norm(estimator_moments(ev, x).bias)
    check = crosscheck(mdp, policy, x, **options)
    assert check.agrees
    assert bias < check.detectable_bias / 2

    double = crosscheck(mdp, policy, Doubled(0.25), **options)
    assert np.linalg.norm(double.exact) > 2 * double.detectable_bias
    assert double.verdict == "disagrees"
    assert double.fault == "the exact mean of Doubled, which is biased"

    monkeypatch.setattr(MODULE, "estimate_gradient", forward_difference)
    about = np.zeros(policy.logits.shape)
    for s, a in free_logits(mdp, policy):
        change = np.zeros(about.shape)
        change[s, a] = x.step
        about[s, a] = estimator_moments(evaluate(mdp, moved(policy, change), horizon=10), x).mean[s, a]
    forward = crosscheck(mdp, policy, x, **options)
    assert np.linalg.norm(about - forward.exact) > 2 * forward.detectable_bias
    assert forward.verdict == "disagrees"


def test_the_laws_of_directions():
    # Fifteen statistics of a fixed seed, each within 5 standard deviations: 1e-5 altogether.
    n, F = 20_000, 5
    for law in (directions.Gaussian(), directions.Rademacher(), directions.Coordinate()):
        key, u = np.array([1, 2], np.uint64), np.zeros((n, F))
        for i in range(n):
            begin, end = direction(law.kind, 0, key, i, u[i])
            assert not u[i, :begin].any()
            assert not u[i, end:].any()
        second, fourth = law.second(F), law.fourth(F)
        assert np.abs(u.mean(axis=0)).max() < 5 * np.sqrt(second / n)
        product = u.T @ u / n
        off = product[~np.eye(F, dtype=bool)]
        assert np.abs(off).max() <= 5 * second / np.sqrt(n)
        assert np.abs(np.diag(product) - second).max() <= 5 * np.sqrt((fourth - second**2) / n)
        deviation = 5 * np.sqrt(105 / n)
        assert np.abs((u**4).mean(axis=0) - fourth).max() <= deviation
        if not isinstance(law, directions.Gaussian):
            u = law.enumerate(F)
            np.testing.assert_allclose((u.weight[:, None] * u.direction.toarray() ** 2).sum(axis=0), second)
            np.testing.assert_array_equal(u.direction.toarray()[::-1], -u.direction.toarray())


def test_contributions_are_those_of_the_samples():
    n = 200_000
    for kind, least in (("difference", 2000), ("common difference", 40), ("coordinate", 100)):
        x = KINDS[kind](0.1)
        expected = expected_contributions(GOOD, BETTER, x, n=n, horizon=20)
        sampled = estimate_gradient(GOOD, BETTER, x, n=n, horizon=20, rng=5)
        assert not expected.centred
        assert ((expected.total > 0) == (sampled.standard_error > 0))[expected.distinct > 50].all()
        common = (expected.total > least) & (sampled.contributions > 0)
        assert common.sum() > 20
        # A single kurtosis is known to some tens per cent, the median of these to a tenth; the step has its share.
        assert np.median(sampled.contributions[common] / expected.total[common]) == pytest.approx(1, abs=0.3)
        variance = n * sampled.standard_error**2 / plan(GOOD, BETTER, x, 20).unit ** 2
        assert np.median(variance[common] / expected.second[common]) == pytest.approx(1, abs=0.1)


def test_sample_sizes_count_samples_of_all_logits():
    ev = evaluate(GOOD, BETTER)
    x = FiniteDifference(0.1)
    moments = estimator_moments(ev, x)
    size = np.linalg.norm(ev.logit_gradient)
    n = samples_needed(ev, x, 0.1)
    assert (
        moments.trace / n + np.sum(moments.bias**2)
        <= (0.1 * size) ** 2
        < moments.trace / (n - 1) + np.sum(moments.bias**2)
    )
    with pytest.raises(InvalidArgument, match="the bias of FiniteDifference"):
        samples_needed(ev, FiniteDifference(2.0), 1e-3)
    with pytest.raises(NoExactMoments, match="Gaussian"):
        samples_needed(ev, EvolutionStrategy(), 0.1)
    assert detectable_bias(GOOD, BETTER, x, n=10_000, horizon=20) > 0


def test_what_makes_no_sense_is_told():
    ev = evaluate(GOOD, BETTER)
    for make, message in (
        (lambda: FiniteDifference(0.0), "step must be positive but is 0.0"),
        (lambda: FiniteDifference(51.0), r"step must be a number in \[0, 50\] but is 51.0"),
        (lambda: EvolutionStrategy(-1.0), "scale must be a number"),
        (lambda: EvolutionStrategy(0.1, directions.Gaussian), "directions must be random ones such as Gaussian"),
        (lambda: EvolutionStrategy(antithetic=False, common=True), "common random numbers need pairs"),
        (lambda: MissingDiscount(FiniteDifference()), "MissingDiscount needs an estimator that weighs scores"),
        (lambda: crosscheck(GOOD, BETTER, FiniteDifference, n=9, horizon=2, rng=0), "must be an object such as"),
        (lambda: estimator_moments(ev, FiniteDifference(), horizon=0), "horizon must be a positive integer"),
        (lambda: estimate_gradient(GOOD, BETTER, FiniteDifference(), n=9, horizon="never", rng=0), "'geometric'"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            make()
    with pytest.raises(NoExactMoments, match=r"all 2\^44 sign vectors of 44 free logits"):
        estimator_moments(ev, EvolutionStrategy(0.1, directions.Rademacher()))
    large = problems.garnet(2000, 4, 3, rng=0, sparse=True)
    with pytest.raises(NoExactMoments, match="16000 perturbed policies on 2000 states"):
        estimator_moments(evaluate(large, SoftmaxPolicy.uniform(large)), FiniteDifference(), horizon=10_000)
    wide = problems.garnet(60, 4, 20, rng=0)
    with pytest.raises(NoExactMoments, match="common random numbers has no exact covariance on 60 states"):
        estimator_moments(evaluate(wide, SoftmaxPolicy.uniform(wide)), FiniteDifference(common=True)).trace  # noqa: B018


def test_where_all_has_ended_or_there_is_one_action_nothing_varies():
    for mdp in (MDP([[[1.0]]], [0.0], 0.9, start=0, terminal=[True]), problems.bandit([1.0])):
        policy = SoftmaxPolicy.uniform(mdp)
        for kind in KINDS.values():
            assert estimator_moments(evaluate(mdp, policy), kind(0.1)).trace == 0
            check = crosscheck(mdp, policy, kind(0.1), n=10, horizon=3, rng=0)
            assert check.agrees
            assert check.settled.all()


def test_p_values_are_uniform():
    mdp = problems.two_state()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    for kind in ("difference", "common difference", "signs", "coordinate"):
        options = {"n": 4000, "horizon": 8, "against": "mean"}
        p = [crosscheck(mdp, policy, KINDS[kind](0.3), rng=seed, **options).p_value for seed in range(RUNS)]
        # They are raised a little for what skewness may do.
        assert stats.kstest(p, "uniform").pvalue > ALPHA


def test_rewards_in_other_units_give_the_same_in_these():
    small = MDP(GOOD.transition, 1e-200 * GOOD.reward, GOOD.discount, GOOD.start, terminal=GOOD.terminal)
    for x in (FiniteDifference(0.3), FiniteDifference(0.3, common=True)):
        one, other = (estimator_moments(evaluate(mdp, BETTER), x) for mdp in (GOOD, small))
        np.testing.assert_allclose(other.standard_deviation * 1e200, one.standard_deviation, rtol=1e-12)
        estimates = [estimate_gradient(mdp, BETTER, x, n=100, horizon=9, rng=0).mean for mdp in (GOOD, small)]
        np.testing.assert_allclose(estimates[1] * 1e200, estimates[0], rtol=1e-12)


def test_a_difference_of_coupled_returns_has_the_law_of_its_words():
    mdp = problems.random_mdp(3, 2, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=0)
    made = plan(mdp, policy, FiniteDifference(0.7, common=True), 3)
    u = directions.Coordinate().enumerate(6).direction
    moments = coupled_moments(made, u, 4)
    for n in (0, 5, 7):
        delta = 0.7 * u[[n]].toarray().reshape(3, 2)
        p, gain = np.array(list(coupled_returns(mdp, moved(policy, delta), moved(policy, -delta), 3))).T
        for j in range(5):
            assert moments[j, n] * made.unit**j == pytest.approx(p @ gain**j, abs=1e-13)
