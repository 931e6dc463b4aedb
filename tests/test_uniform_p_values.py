"""An unbiased sampler has uniform p-values, for every estimator and option: words, tables, kernels, exact moments and
test are right together or the Kolmogorov-Smirnov distance shows it.

Every pair of options occurs. Each case has seeds of its own, and the p-values of all cases of a kind are tested
together as well; with FASTPG_HEAVY=1 each case has 1000 seeds. Uniform p-values of 1000 seeds are farther than 0.1 from
uniform with probability ALPHA, those of a kind together 0.02. Distances may be longer by what is known: what is left of
skewness and kurtosis in the mean of n, and for p-values of the cross-check what it raises them by for skewness.
"""

import os
import sys
from functools import partial
from itertools import chain, product
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from fastpg import (
    GAE,
    MDP,
    BatchAverage,
    EvolutionStrategy,
    GradientEstimate,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    crosscheck,
    estimate_gradient,
    evaluate,
    optimal_baseline,
    rollout,
)
from fastpg.judgement import hotelling, raised
from fastpg.sampling import faults
from fastpg.testing.perturbed import PERTURBATIONS

MODULE = sys.modules["fastpg.crosscheck"]
FULL = os.environ.get("FASTPG_HEAVY") == "1"
RUNS = 1000 if FULL else 4
# 1e-6 for all of some 200 distances.
ALPHA = 5e-9
# What must be found in the p-values of a kind: a covariance too large by a factor, degrees of freedom too many, a mean
# that is off by so many standard errors in one direction.
FACTOR, MORE, SHIFT = (1.1, 1, 1.0) if FULL else (3.0, 5, 4.0)
# What skewness and kurtosis may leave, and raising at 100 contributions.
MOST_REST, MOST_RAISING = 0.003, 0.016


class Case(NamedTuple):
    """A model, two policies and an estimator; `own` are its options."""

    name: str
    mdp: MDP
    policy: SoftmaxPolicy
    estimator: object
    horizon: int | str
    n: int


def model(live, discount, seed=9):
    """States `live` and an end that each step leads to with probability 0.5; one action is missing."""
    rng = np.random.default_rng(seed)
    S, ended = live + 1, np.arange(live + 1) == live
    P, R = np.full((S, 3, S), 0.5), np.where(ended[:, None, None], 0.0, rng.normal(size=(S, 3, S)))
    P[:, :, :live] = 0.5 * rng.dirichlet(np.ones(live), size=(S, 3))
    available = np.ones((S, 3), bool)
    available[1, 1] = False
    return MDP(P, R, discount, np.append(np.full(live, 0.95 / live), 0.05), terminal=ended, available=available)


def policies(mdp, seed=109):
    """A policy, and one that acts in its place."""
    rng = np.random.default_rng(seed)
    logits, other = rng.normal(size=(2, *mdp.available.shape))
    return (SoftmaxPolicy(x).masked(mdp.available) for x in (0.4 * logits, 0.4 * logits + 0.1 * other))


# A number of steps, a geometric time, and until the end at discount 1.
HORIZONS = ((4, 0.8), ("geometric", 0.8), ("geometric", 1.0))
BASELINES = ("none", "constant", "state", "optimal", "average", "average of others")
WEIGHTS = ("on policy", "per-decision", "trajectory", "self-normalised")
# Enough for skewness and kurtosis, whose part falls like 1/n, to leave less than MOST_REST, and for entries to rest on
# some hundred contributions and be judged. The bias of self-normalised weights and what their covariance lacks fall
# like 1/n as well: they are below a tenth of a covariance at n = 40 (test_weights.py).
TRAJECTORIES = {"total return": 100_000, "reward to go": 60_000, "bootstrap": 50_000, "plug-in": 25_000}
FEWER = 40_000

KINDS = {
    "total return": lambda _: TotalReturn,
    "reward to go": lambda _: RewardToGo,
    "bootstrap": lambda ev: partial(RewardToGo, bootstrap=0.5 * ev.value),
    "plug-in": lambda ev: partial(PlugIn, ev.action_value + 1.0),
    "GAE": lambda ev: partial(GAE, 0.8, 0.5 * ev.value),
    "difference": lambda ev: partial(TemporalDifference, 0.5 * ev.value),
    "visitation": lambda ev: partial(TemporalDifference, 0.5 * ev.value, along="visitation"),
}


def scoring_cases(kind):
    """Each pair of a baseline and weights, with horizons in turn so that each pair with a horizon occurs as well."""
    for i, j in product(range(len(BASELINES)), range(len(WEIGHTS))):
        baseline, weights = BASELINES[i], WEIGHTS[j]
        averages = baseline.startswith("average")
        if averages and (weights == "self-normalised" or kind == "visitation"):
            continue
        horizon, discount = HORIZONS[0] if kind == "bootstrap" else HORIZONS[(i + j) % 3]
        mdp = model(3, discount)
        policy, other = policies(mdp)
        ev, horizon = evaluate(mdp, policy), 1 if kind == "visitation" else horizon
        made = KINDS[kind](ev)
        if weights != "on policy":
            made = partial(made, behaviour=other, weights=weights)
        b = {
            "none": lambda: None,
            "constant": lambda: 0.3,
            "state": lambda ev=ev: ev.value,
            "optimal": lambda ev=ev, made=made, horizon=horizon: optimal_baseline(ev, made(), horizon=horizon),
            "average": BatchAverage,
            "average of others": lambda: BatchAverage(leave_one_out=True),
        }[baseline]()
        name = f"{kind}, {baseline}, {weights}, {horizon} at {discount}"
        yield Case(name, mdp, policy, made(baseline=b), horizon, TRAJECTORIES.get(kind, FEWER))


def faulty_cases():
    """Every known fault, against its own mean."""
    for horizon, discount in HORIZONS:
        mdp = model(3, discount)
        policy, other = policies(mdp)
        ev = evaluate(mdp, policy)
        off = {"behaviour": other}
        wrong = [
            faults.RewardBeforeAction(RewardToGo(ev.value)),
            faults.ActionBaseline(RewardToGo(**off), 0.5 * ev.action_value),
            faults.WrongRatio(RewardToGo(**off)),
            faults.WrongRatio(TotalReturn(**off), power=-1),
        ]
        if discount < 1 and horizon != "geometric":
            wrong += [
                faults.MissingDiscount(RewardToGo()),
                faults.TruncatedWithoutBootstrap(RewardToGo(bootstrap=ev.value)),
                faults.TruncatedWithoutBootstrap(GAE(0.8, ev.value, **off)),
            ]
        for x in wrong:
            name = f"{type(x).__name__} of {type(x.estimator).__name__}, {horizon} at {discount}"
            yield Case(name, mdp, policy, x, horizon, 100_000)


def perturbed_cases():
    """Every kind that has exact moments; a sample takes up to ten episodes."""
    for i, (kind, make) in enumerate(PERTURBATIONS.items()):
        for j in (i, i + 1):
            horizon, discount = HORIZONS[j % 3]
            mdp = model(2, discount)
            policy, _ = policies(mdp)
            yield Case(
                f"{kind}, {horizon} at {discount}",
                mdp,
                policy,
                make(1.0),
                horizon,
                30_000 if "common" in kind else 8_000,
            )


def own_code(case, rng):
    """What REINFORCE with rewards to go and a baseline of 0.3 says of each of n trajectories, in plain numpy."""
    mdp, policy, n = case.mdp, case.policy, case.n
    paths, out = rollout(mdp, policy, n=n, horizon=case.horizon, rng=rng), np.zeros((n, mdp.n_states, mdp.n_actions))
    to_go = np.zeros(n)
    for t in reversed(range(case.horizon)):
        to_go = paths.rewards[:, t] + mdp.discount * to_go
        i = np.flatnonzero(paths.actions[:, t] >= 0)
        s, a = paths.states[i, t], paths.actions[i, t]
        worth = mdp.discount**t * (to_go[i] - 0.3)
        out[i, s] -= worth[:, None] * policy.probabilities[s]
        out[i, s, a] += worth
    return out


def own_cases():
    """A sample of other code, by trajectories and by their statistics."""
    mdp = model(3, 0.8)
    policy, _ = policies(mdp)
    for name in ("array", "statistics"):
        yield Case(f"a sample of other code as {name}", mdp, policy, RewardToGo(0.3), 4, 50_000)


CASES = {kind: partial(scoring_cases, kind) for kind in KINDS} | {"faults": faulty_cases, "perturbed": perturbed_cases}
CASES["reward to go"] = lambda: chain(scoring_cases("reward to go"), own_cases())


class Checks(NamedTuple):
    """What the cross-checks of a case found, one of each for a seed; |z|^2 has `rank` degrees of freedom.

    `moved` is |z|^2 with another mean. Raising moves p by up to `raising`, and p itself is off by up to `rest`.
    """

    p: np.ndarray
    square: np.ndarray
    moved: np.ndarray
    rank: np.ndarray
    raising: float
    rest: float


def once(function):
    """`function`, which gives each time what it gave at first: the law of a case does not depend on the seed."""
    memory = []

    def remembered(*args, **options):
        if not memory:
            memory.append(function(*args, **options))
        return memory[0]

    return remembered


def checks_of(case, number, monkeypatch):
    """RUNS cross-checks, each of which is also made by hand from the exact covariance."""
    found, whitening, fewest = [], {}, np.inf
    with monkeypatch.context() as patch:
        for name in ("evaluate", "estimator_moments", "expected_contributions"):
            patch.setattr(MODULE, name, once(getattr(MODULE, name)))
        for i in range(RUNS):
            rng, options = np.random.default_rng([number, i]), {"horizon": case.horizon, "against": "mean"}
            if "other code" in case.name:
                each = own_code(case, rng)
                options["sample"] = GradientEstimate.from_samples(each) if "statistics" in case.name else each
            else:
                options |= {"n": case.n, "rng": rng}
            check = crosscheck(case.mdp, case.policy, case.estimator, **options)
            tested = (check.judged & (check.estimate.pooling.pool >= 0)).ravel()
            if tested.tobytes() not in whitening:
                C = check.covariance.reshape(tested.size, -1)[np.ix_(tested, tested)]
                whitening[tested.tobytes()] = normal_directions(C)
            white = whitening[tested.tobytes()]
            z = (check.estimate.mean - check.exact).ravel()[tested] @ white * np.sqrt(check.estimate.n)
            N = np.minimum(check.estimate.contributions, MODULE.expected_contributions().total)[check.judged].min()
            assert check.rank == z.size, case.name
            assert -1e-9 <= check.p_value - stats.chi2.sf(z @ z, z.size) <= raise_of(N) + 1e-6, case.name
            found.append((check.p_value, z @ z, z[1:] @ z[1:] + (z[0] + SHIFT) ** 2, z.size))
            fewest = min(fewest, N)
    # An entry that once in a while has too few contributions is left out then.
    assert np.median([rank for *_, rank in found]) == max(rank for *_, rank in found), case.name
    return Checks(*np.array(found).T, raise_of(fewest), skewness_and_kurtosis(case))


def normal_directions(covariance):
    """A matrix that turns entries of this covariance into as many independent ones of variance 1 as there are."""
    size, direction = np.linalg.eigh(covariance)
    return (direction / np.sqrt(np.maximum(size, 1e-300)))[:, size > 1e-9 * size[-1]]


def raise_of(contributions):
    """The most that `raised` adds to the p-value of a normal."""
    z = np.linspace(0.0, 6.0, 601)
    return (raised(z, np.full(z.shape, contributions)) - 2 * stats.norm.sf(z)).max()


def skewness_and_kurtosis(case):
    """The distance of |z|^2 from its chi-square, z the mean of n, to its leading order 1/n.

    For moments of one trajectory in directions of variance 1, k4 = E |x|^4 - d (d + 2), a = |E x |x|^2|^2 and
    b = |E x x x|^2, it is k4 / 8n (G_4 - 2 G_2 + G_0) + (9 a + 6 b) / 72n (G_6 - 3 G_4 + 3 G_2 - G_0), G_j the law of
    chi-square with d + j degrees of freedom: the Edgeworth expansion, in which terms of odd order cancel.
    """
    options, n = {"n": 4096, "horizon": case.horizon}, case.n
    # Up to n = 4096 a block is one trajectory.
    samples = [estimate_gradient(case.mdp, case.policy, case.estimator, rng=i, **options).blocks for i in range(2)]
    x = np.concatenate(samples)
    x = x - x.mean(axis=0)
    x = x @ normal_directions(np.cov(x.T))
    d, square = x.shape[1], (x**2).sum(axis=1)
    k4 = (square**2).mean() - d * (d + 2)
    a = ((x * square[:, None]).mean(axis=0) ** 2).sum()
    b = (np.einsum("ni,nj,nk->ijk", x, x, x, optimize=True) ** 2).sum() / len(x) ** 2
    T = stats.chi2.isf(np.linspace(0.001, 0.999, 999), d)
    g0, g2, g4, g6 = (stats.chi2.cdf(T, d + j) for j in (0, 2, 4, 6))
    return np.abs(k4 / (8 * n) * (g4 - 2 * g2 + g0) + (9 * a + 6 * b) / (72 * n) * (g6 - 3 * g4 + 3 * g2 - g0)).max()


def distance(p):
    """Kolmogorov-Smirnov, from uniform."""
    return stats.kstest(p, "uniform").statistic


def farther(p, distortion):
    """Whether p-values that are known to be off by up to `distortion` are too far from uniform."""
    return distance(p) > stats.kstwo.isf(ALPHA, len(p)) + distortion


def mutants(square, moved, rank):
    """What p-values would be with another covariance, another rank and another mean."""
    yield "covariance", stats.chi2.sf(square / FACTOR, rank)
    yield "rank", stats.chi2.sf(square, rank + MORE)
    yield "mean", stats.chi2.sf(moved, rank)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", CASES)
def test_p_values_are_uniform(kind, monkeypatch):
    found = []
    for i, case in enumerate(CASES[kind]()):
        checks = checks_of(case, 1000 * list(CASES).index(kind) + i, monkeypatch)
        by_hand = stats.chi2.sf(checks.square, checks.rank)
        print(f"{case.name}: distance {distance(by_hand):.4f}, p {stats.kstest(by_hand, 'uniform').pvalue:.3g}, "
              f"raised {distance(checks.p):.4f}; raising {checks.raising:.4f}, rest {checks.rest:.4f}")  # fmt: skip
        assert checks.rest <= MOST_REST, case.name
        assert not farther(by_hand, checks.rest), case.name
        assert not farther(checks.p, checks.raising + checks.rest), case.name
        found.append(checks)
    p, square, moved, rank = (np.concatenate([c[i] for c in found]) for i in range(4))
    raising, rest = (max(c[i] for c in found) for i in (4, 5))
    by_hand = stats.chi2.sf(square, rank)
    print(f"{kind} together: distance {distance(by_hand):.4f}, raised {distance(p):.4f}, of {len(p)}")
    assert not farther(by_hand, rest)
    assert not farther(p, raising + rest)
    for what, wrong in mutants(square, moved, rank):
        assert farther(wrong, rest), what


SAMPLED = [
    (EvolutionStrategy(0.05), 10_000),
    (EvolutionStrategy(0.05, antithetic=False), 10_000),
    (EvolutionStrategy(0.05, common=True), 200_000),
    (RewardToGo(), 50_000),
]


@pytest.mark.heavy
def test_p_values_from_sampled_errors_are_uniform_or_larger(monkeypatch):
    # Hotelling's are uniform. Those of the verdict also look at the largest |z|, as if it were independent: it is not,
    # and they are larger. The bias of Gaussian directions is a hundredth of a standard error.
    monkeypatch.setattr(MODULE, "AFFORDABLE", 0)
    joint, verdict = [], []
    for i, (x, n) in enumerate(SAMPLED):
        for k in range(RUNS if FULL else 15):
            horizon, discount = HORIZONS[k % 3]
            mdp = model(2, discount)
            policy, _ = policies(mdp)
            rng = np.random.default_rng([90_000 + i, k])
            check = crosscheck(mdp, policy, x, n=n, horizon=horizon, rng=rng)
            assert check.covariance_in_units is None
            assert check.rank == (3 if isinstance(x, RewardToGo) else 5)
            joint.append((check.rank, hotelling(check.estimate, check.exact, check.judged, 0.5).p_value))
            verdict.append(check.p_value)
    ranks, p = np.array(joint).T
    print(f"Hotelling: distance {distance(p):.4f} of {len(p)}")
    assert not farther(p, MOST_RAISING)
    above = stats.kstest(verdict, "uniform", alternative="greater").statistic
    print(f"verdict: {above:.4f} above uniform")
    assert above < stats.ksone.isf(ALPHA, len(p))
    square = stats.chi2.isf(p, ranks)
    # They are fewer.
    for wrong in (stats.chi2.sf(square / FACTOR**2, ranks), stats.chi2.sf(square, ranks + MORE)):
        assert farther(wrong, MOST_RAISING)
