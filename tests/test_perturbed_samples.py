"""Samples of estimators that perturb the logits, against their exact moments; mutants are told from them."""

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fastpg import (
    MDP,
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
    samples_needed,
)
from fastpg.kernels.perturbation import direction
from fastpg.sampling.contributions import expected_contributions
from fastpg.sampling.perturbation import Perturbation
from fastpg.sampling.plan import plan
from fastpg.testing.models import as_sparse
from fastpg.testing.perturbed import (
    PERTURBATIONS,
    free_logits,
    moved,
)

MODULE = sys.modules["fastpg.crosscheck"]
# The probability that the tests below fail by chance, each for a seed that was fixed before it was run.
ALPHA = 1e-6


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
@pytest.mark.parametrize("kind", PERTURBATIONS)
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
    check = crosscheck(
        mdp, policy, PERTURBATIONS[kind](0.5), n=n, horizon=horizon, rng=1, against="mean", false_alarm=ALPHA
    )
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


def test_sampled_errors_detect_about_what_exact_ones_do():
    # Signs have the same law as Gaussian directions to the order of the scale, and exact moments.
    mdp = problems.two_state()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    options = {"n": 20_000, "horizon": 10, "rng": 0, "false_alarm": ALPHA}
    gaussian, signs = (
        crosscheck(mdp, policy, EvolutionStrategy(0.05, law), **options).detectable_bias
        for law in (directions.Gaussian(), directions.Rademacher())
    )
    assert gaussian == pytest.approx(signs, rel=0.3)


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
    n = 100_000
    for kind, least in (("difference", 2000), ("common difference", 20), ("coordinate", 100)):
        x = PERTURBATIONS[kind](0.1)
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
