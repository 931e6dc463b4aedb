"""The false-alarm rate of the verdict on FrozenLake, whose contributions are rare: what MIN_CONTRIBUTIONS is for."""

import os

import numpy as np
import pytest
from scipy import stats

from fastpg import RewardToGo, SoftmaxPolicy, crosscheck, evaluate, problems

FULL = os.environ.get("FASTPG_HEAVY") == "1"
RUNS = 1000 if FULL else 60


@pytest.mark.heavy
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize(("size", "horizon", "n"), [("4x4", "geometric", 60_000), ("4x4", 100, 100_000)])
def test_p_values_of_an_unbiased_sampler_are_not_too_small(size, horizon, n, baseline):
    # Each bound fails by chance with probability below 1e-6 for p-values that are uniform or larger.
    lake = problems.frozen_lake(size)
    policy = SoftmaxPolicy.uniform(lake)
    estimator = RewardToGo(evaluate(lake, policy).value if baseline else None)
    checks = [crosscheck(lake, policy, estimator, n=n, horizon=horizon, rng=seed) for seed in range(RUNS)]
    p = np.array([check.p_value for check in checks])
    assert np.isfinite(p).all()
    for level in (0.001, 0.01, 0.1, 0.5):
        most = stats.binom.isf(1e-6, RUNS, level)
        assert np.count_nonzero(p < level) <= most, f"{np.count_nonzero(p < level)} of {RUNS} below {level}"


def test_entries_left_out_would_have_raised_a_false_alarm():
    # With V as baseline every visit adds a little, and the goal, which hardly any visit of the lower left corner
    # leads to, a lot: there the sample looks normal and its mean is many standard errors off.
    lake = problems.frozen_lake("8x8")
    policy = SoftmaxPolicy.uniform(lake)
    estimator = RewardToGo(evaluate(lake, policy).value)
    check = crosscheck(lake, policy, estimator, n=1_000_000, horizon=100, rng=0)
    e = check.estimate
    z = np.abs(e.mean - check.exact) / np.where(e.standard_error > 0, e.standard_error, np.inf)
    normal_looking = e.contributions > 1000
    assert z[normal_looking & ~check.judged].max() > 10
    assert check.agrees
    assert check.worst_z < 5
