"""The cross-check agrees where sampler and theory do, and rejects each mutant of the sampler.

Every check that must agree runs at a false-alarm rate of ALPHA, so that all of them together raise a false alarm
with probability below 1e-4 for the seeds that were fixed before they were run.
"""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import (
    MDP,
    Disagreement,
    GradientEstimate,
    InvalidArgument,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    TotalReturn,
    crosscheck,
    detectable_bias,
    evaluate,
    problems,
    rollout,
    uniform,
)
from fastpg.sampling import estimate_gradient
from fastpg.sampling.faults import MissingDiscount
from fastpg.testing.strategies import mdp_and_policy

# The package exports the function under the name of its module.
MODULE = sys.modules["fastpg.crosscheck"]
ALPHA = 1e-6
LAKE = problems.frozen_lake()
UNIFORM = SoftmaxPolicy.uniform(LAKE)

NAMES = [
    "frozen-lake-4x4",
    "cliff-walking-slippery",
    "chain",
    "two-state",
    "bandit",
    "river-swim-osband-2013",
    "river-swim-strehl-2008",
    "short-corridor",
    "random",
    "garnet",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("horizon", [20, "geometric"])
@pytest.mark.parametrize("kind", [TotalReturn, RewardToGo])
def test_sampler_and_theory_agree(name, horizon, kind):
    mdp = problems.find(name).make()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    baseline = evaluate(mdp, policy).value if kind is RewardToGo else None
    n = 1_000_000 if name.startswith("river") else 200_000
    check = crosscheck(mdp, policy, kind(baseline), n=n, horizon=horizon, rng=2, false_alarm=ALPHA)
    assert check.verdict == "agrees", str(check)
    assert check.judged.any()


@settings(max_examples=150)
@given(mdp_and_policy(sparse=None, discount=st.sampled_from([0.0, 0.5, 0.9, 1.0])), st.sampled_from([3, "geometric"]))
def test_no_generated_model_is_contradicted(case, horizon):
    mdp, policy = case
    check = crosscheck(mdp, policy, RewardToGo(), n=3_000, horizon=horizon, rng=0, false_alarm=1e-9)
    assert check.verdict != "disagrees", str(check)
    assert (check.judged | check.settled | check.contradicted).sum() + check.left_out == check.exact.size


def sampled_from(monkeypatch, **change):
    """Make the cross-check sample another model or policy than the one it evaluates."""

    def altered(mdp, policy, *args, **options):
        return estimate_gradient(change.get("mdp", mdp), change.get("policy", policy), *args, **options)

    monkeypatch.setattr(MODULE, "estimate_gradient", altered)


def check_lake(n=2_000_000, horizon=100, mdp=LAKE, policy=UNIFORM, estimator=None):
    return crosscheck(mdp, policy, estimator or RewardToGo(), n=n, horizon=horizon, rng=3, false_alarm=ALPHA)


# The logits of this policy reach the goal often, so that small faults show at a small n.
GOOD = SoftmaxPolicy(evaluate(LAKE, UNIFORM).advantage * 50)


def test_the_unaltered_sampler_agrees():
    assert check_lake(policy=GOOD, n=400_000).agrees


def test_a_wrong_discount_power_is_found(monkeypatch):
    # Discounting by gamma^(2t) moves the mean along the gradient by more than the detectable bias.
    squared = LAKE.discounted(LAKE.discount**2)
    bias = evaluate(squared, GOOD, horizon=100).logit_gradient - evaluate(LAKE, GOOD, horizon=100).logit_gradient
    sampled_from(monkeypatch, mdp=squared)
    check = check_lake(policy=GOOD, n=4_000_000)
    assert np.linalg.norm(bias[check.judged]) > 2 * check.detectable_bias
    assert check.verdict == "disagrees"


def test_a_missing_discount_of_later_steps_is_found():
    # The popular estimator without the factor gamma^t in front of each step's term.
    assert check_lake(policy=GOOD, estimator=MissingDiscount(RewardToGo()), n=4_000_000).verdict == "disagrees"


def test_logits_off_by_five_per_cent_are_found(monkeypatch):
    mdp = problems.two_state()
    policy = SoftmaxPolicy.random(mdp, rng=1)
    off = SoftmaxPolicy(policy.logits * 1.05)
    bias = evaluate(mdp, off, horizon=20).logit_gradient - evaluate(mdp, policy, horizon=20).logit_gradient
    sampled_from(monkeypatch, policy=off)
    check = check_lake(mdp=mdp, policy=policy, horizon=20, estimator=RewardToGo(evaluate(mdp, policy).value), n=500_000)
    assert np.linalg.norm(bias[check.judged]) > 2 * check.detectable_bias
    assert check.verdict == "disagrees"


def test_a_missing_terminal_state_is_found(monkeypatch):
    # A hole that one can walk out of again, by the moves of the cell above it.
    P, R, ended = LAKE.transition.copy(), LAKE.reward.copy(), LAKE.terminal.copy()
    P[5], ended[5] = P[1], False
    sampled_from(monkeypatch, mdp=MDP(P, R, LAKE.discount, LAKE.start, terminal=ended))
    check = check_lake(n=400_000)
    assert check.verdict == "disagrees"
    # Steps from a terminal state cannot happen at all.
    assert check.contradicted[5].any()
    assert check.p_value == 0


def test_a_state_that_is_never_reached_is_found(monkeypatch):
    start = MDP(np.eye(2)[:, None, :].repeat(2, axis=1), [[1.0, 0.0]] * 2, 0.5, start=[0.5, 0.5])
    sampled_from(monkeypatch, mdp=start.restart(0))
    check = crosscheck(start, SoftmaxPolicy.uniform(start), RewardToGo(), n=10_000, horizon=1, rng=0)
    assert check.verdict == "disagrees"
    assert check.contradicted[1].all()


def test_a_bias_of_the_detectable_size_is_found_nine_times_in_ten(monkeypatch):
    # The guarantee is for the worst direction; along it 0.9 of 200 runs are at least 161 but for a chance of 1e-5.
    mdp = problems.bandit([1.0, 0.5, 0.0])
    policy = SoftmaxPolicy.uniform(mdp)
    options = {"n": 4096, "horizon": 1, "false_alarm": 0.01}
    plain = crosscheck(mdp, policy, RewardToGo(), rng=0, **options)
    pool = plain.estimate.pooling.pool
    assert plain.rank == 2
    worst = np.linalg.eigh(np.cov(plain.estimate.blocks.T))[1][:, -1]
    bias = np.zeros((2, 3))
    bias[pool >= 0] = plain.detectable_bias * worst / np.linalg.norm(worst)
    bias[0, pool[0] < 0] = -bias.sum()

    def biased(*args, **kwargs):
        estimate = estimate_gradient(*args, **kwargs)
        object.__setattr__(estimate, "mean", estimate.mean + bias)
        object.__setattr__(
            estimate, "blocks", estimate.blocks + bias[pool >= 0] * np.sqrt(estimate.block_sizes)[:, None]
        )
        return estimate

    monkeypatch.setattr(MODULE, "estimate_gradient", biased)
    found = sum(
        crosscheck(mdp, policy, RewardToGo(), rng=seed, **options).verdict == "disagrees" for seed in range(200)
    )
    assert 161 <= found <= 198


def test_rare_entries_are_left_out_and_counted():
    # An exact baseline makes the common weights tiny; the goal, seen in a thousandth of the paths, is all that counts.
    lake = problems.frozen_lake("8x8")
    policy = SoftmaxPolicy.uniform(lake)
    baseline = evaluate(lake, policy).value
    check = crosscheck(lake, policy, RewardToGo(baseline), n=10_000, horizon=100, rng=0, false_alarm=ALPHA)
    assert not check.judged.any()
    assert check.verdict == "undecided"
    assert not check.agrees
    assert check.left_out == (~lake.terminal).sum() * 4
    assert check.settled.sum() == lake.terminal.sum() * 4
    assert np.isnan(check.p_value)
    assert check.detectable_bias == np.inf
    assert check.z.mask.all()
    with pytest.raises(Disagreement, match="undecided"):
        check.require_agreement()


def test_a_reward_too_rare_to_be_seen_is_no_disagreement():
    # Common small rewards make every entry look normal; a huge one with probability 1e-7 is half of the gradient.
    q = 1e-7
    P = np.array([[[0.5 - q, 0.5, q], [0.5, 0.5, 0.0]], [[0, 0, 0]] * 2, [[0, 0, 0]] * 2], dtype=float)
    R = np.zeros((3, 2, 3))
    R[0, :, 1], R[0, :, 2] = 0.1, 1 / q
    mdp = MDP(P, R, 0.9, start=0, terminal=np.array([False, True, True]) == [True, True, True])
    for seed in range(5):
        check = crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=50_000, horizon=1, rng=seed)
        assert check.verdict == "undecided"


def test_an_action_too_rare_to_be_taken_is_no_disagreement():
    mdp = problems.bandit([1.0, 5000.0])
    policy = SoftmaxPolicy([[16.0, 0.0]] * 2)
    for seed in range(5):
        assert crosscheck(mdp, policy, RewardToGo(), n=50_000, horizon=1, rng=seed).verdict == "undecided"


@pytest.mark.parametrize("seed", [19, 20, 21])
def test_a_jackpot_that_moves_every_step_is_no_disagreement(seed):
    # Six trajectories in n see the jackpot, at each of their steps: the steps are many, the trajectories are not.
    n, T = 100_000, 100
    chance = 6 / (n * T)
    P, R = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    P[0, 0, 0], P[0, 1] = 1, [1 - chance, chance]
    R[0, 0, 0], R[0, 1, 0], R[0, 1, 1] = 1, -1, 1e6
    mdp = MDP(P, R, 1.0, 0, terminal=[False, True])
    assert crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=n, horizon=T, rng=seed).verdict == "undecided"


def test_one_wrong_reward_among_many_states_is_found(monkeypatch):
    # Entries share pools here, where one of them alone hardly shows: the largest |z| finds it.
    mdp = problems.garnet(300, 6, 4, rng=0)
    reward = mdp.reward.copy()
    reward[136, 2] += 1
    sampled_from(monkeypatch, mdp=MDP(mdp.transition, reward, mdp.discount, mdp.start))
    check = crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=100_000, horizon=20, rng=0)
    assert check.verdict == "disagrees"
    assert check.worst_z > 10


@pytest.mark.parametrize("entry", range(5))
def test_a_bias_of_one_entry_of_the_detectable_size_is_found(monkeypatch, entry):
    # 40 runs in which a fault is found with probability .9 or more show it 28 times but for a chance of 1e-3.
    mdp = problems.random_mdp(20, 4, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)
    options = {"n": 4_000, "horizon": 20, "false_alarm": 1e-4}
    plain = crosscheck(mdp, policy, RewardToGo(), rng=1000, **options)
    s, a = np.argwhere(plain.estimate.pooling.pool >= 0)[7 * entry]
    bias = np.zeros(plain.exact.shape)
    bias[s, a] = plain.detectable_bias

    def biased(*args, **kwargs):
        estimate = estimate_gradient(*args, **kwargs)
        pool, weight = estimate.pooling
        moved = np.bincount(pool[pool >= 0], (weight * bias)[pool >= 0])
        object.__setattr__(estimate, "mean", estimate.mean + bias)
        object.__setattr__(estimate, "blocks", estimate.blocks + moved * np.sqrt(estimate.block_sizes)[:, None])
        return estimate

    monkeypatch.setattr(MODULE, "estimate_gradient", biased)
    found = [crosscheck(mdp, policy, RewardToGo(), rng=seed, **options).verdict == "disagrees" for seed in range(40)]
    assert sum(found) >= 28


def test_small_rewards_beside_large_ones_are_not_taken_for_constants(monkeypatch):
    # State 0 pays 1e9, state 1 pays 1: the sign of what state 1 pays must still matter.
    P = np.zeros((3, 2, 3))
    P[0, :, 1] = P[1, :, 2] = 1
    mdp = MDP(P, [[1e9, -1e9], [1.0, -1.0], [0, 0]], 0.9, 0, terminal=[False, False, True])
    policy = SoftmaxPolicy([[0.5, 0.0]] * 3)
    good = crosscheck(mdp, policy, RewardToGo(), n=10_000, horizon=2, rng=0)
    assert good.agrees
    assert not good.settled[1].any()
    flipped = MDP(P, [[1e9, -1e9], [-1.0, 1.0], [0, 0]], 0.9, 0, terminal=[False, False, True])
    sampled_from(monkeypatch, mdp=flipped)
    assert crosscheck(mdp, policy, RewardToGo(), n=10_000, horizon=2, rng=0).verdict == "disagrees"


def test_a_verdict_that_needs_more_trajectories_says_how_many():
    lake = problems.frozen_lake("8x8")
    check = crosscheck(lake, SoftmaxPolicy.uniform(lake), RewardToGo(), n=10_000, horizon=100, rng=0)
    assert check.verdict == "undecided"
    assert f"try about {check.trajectories_needed} trajectories" in str(check)
    options = {"n": check.trajectories_needed, "horizon": 100, "rng": 0}
    assert crosscheck(lake, SoftmaxPolicy.uniform(lake), RewardToGo(), **options).agrees


def test_what_cannot_vary_is_settled():
    one_action = MDP(np.ones((1, 1, 1)), [3.0], 0.5)
    check = crosscheck(one_action, SoftmaxPolicy.uniform(one_action), RewardToGo(), n=10, horizon=4, rng=0)
    assert check.agrees
    assert check.settled.all()
    assert check.p_value == 1
    assert check.detectable_bias == 0


def test_the_report_says_what_was_found():
    check = check_lake(n=200_000)
    text = str(check)
    assert text.startswith("agrees: p = ")
    assert f"{check.judged.sum()} judged" in text
    assert f"{check.left_out} left out as too rare" in text
    assert f"worst |z| {np.abs(check.z).max():.3g}" in text
    assert check.require_agreement() is check
    assert check.estimate.n == 200_000


def test_z_is_what_it_says_where_judged():
    check = check_lake(n=200_000)
    error = np.sqrt(check.moments.variance / 200_000)
    z = (check.estimate.mean - check.exact) / np.where(check.judged, error, 1)
    np.testing.assert_allclose(check.estimate.standard_error[check.judged], error[check.judged], rtol=0.1)
    assert np.array_equal(check.z.mask, ~check.judged)
    np.testing.assert_allclose(check.z[check.judged], z[check.judged], rtol=1e-12)


def test_a_sparse_model_larger_than_the_pools_is_judged_through_them(monkeypatch):
    mdp = problems.garnet(500, 4, 3, rng=0, sparse=True)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    options = {"n": 200_000, "horizon": 20, "rng": 0, "false_alarm": ALPHA}
    assert crosscheck(mdp, policy, RewardToGo(), **options).agrees
    sampled_from(monkeypatch, mdp=mdp.discounted(0.8))
    assert crosscheck(mdp, policy, RewardToGo(), **options).verdict == "disagrees"


def test_bad_arguments_are_named():
    for check in (lambda *x, **options: crosscheck(*x, rng=0, **options), detectable_bias):
        for level, rule in ((2, r"be a number in \[0, 1\] but is 2"), (0, "lie between 0 and 1 but is 0")):
            with pytest.raises(InvalidArgument, match=f"false_alarm must {rule}"):
                check(LAKE, UNIFORM, RewardToGo(), n=10, horizon=5, false_alarm=level)
    with pytest.raises(InvalidArgument, match="n must be a positive integer but is 0"):
        crosscheck(LAKE, UNIFORM, RewardToGo(), n=0, horizon=5, rng=0)
    with pytest.raises(SolveError, match="recurrent class"):
        crosscheck(c := problems.chain().discounted(1.0), uniform(c), RewardToGo(), n=9, horizon="geometric", rng=0)


def own_sample(mdp, policy, *, n, horizon, rng, discounted=True):
    """What REINFORCE with rewards to go says of each trajectory, (n, S, A), in plain numpy."""
    paths, out = rollout(mdp, policy, n=n, horizon=horizon, rng=rng), np.zeros((n, mdp.n_states, mdp.n_actions))
    for t in range(horizon):
        i = np.flatnonzero(paths.actions[:, t] >= 0)
        s, a = paths.states[i, t], paths.actions[i, t]
        worth = (paths.rewards[i, t:] @ mdp.discount ** np.arange(horizon - t)) * (mdp.discount**t if discounted else 1)
        out[i, s, a] += worth
        out[i, s] -= worth[:, None] * policy.probabilities[s]
    return out


def test_a_sample_of_other_code_is_judged():
    mdp = problems.random_mdp(5, 3, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)
    right = own_sample(mdp, policy, n=100_000, horizon=8, rng=1)
    for sample in (right, GradientEstimate.from_samples(right)):
        check = crosscheck(mdp, policy, RewardToGo(), horizon=8, sample=sample, false_alarm=ALPHA)
        assert check.agrees
        assert check.rank == 10
        assert "estimate from 100000 trajectories\n" in str(check)
    wrong = own_sample(mdp, policy, n=400_000, horizon=8, rng=1, discounted=False)
    check = crosscheck(mdp, policy, RewardToGo(), horizon=8, sample=wrong, false_alarm=ALPHA)
    assert check.fault == MissingDiscount.what


@pytest.mark.parametrize("n", [100, 4096, 10_001])
def test_statistics_of_a_sample_are_those_of_the_sampler(n):
    # The sampler and `rollout` have the same trajectories.
    mdp = problems.random_mdp(5, 3, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)
    found = GradientEstimate.from_samples(own_sample(mdp, policy, n=n, horizon=8, rng=1))
    known = estimate_gradient(mdp, policy, RewardToGo(), n=n, horizon=8, rng=1)
    for name in ("mean", "standard_error", "contributions", "blocks", "block_sizes"):
        np.testing.assert_allclose(getattr(found, name), getattr(known, name), rtol=1e-9, atol=1e-12)


def test_a_sample_is_validated():
    mdp = problems.bandit([1.0, 0.0])

    def check(sample, estimator=None, **options):
        return crosscheck(
            mdp, SoftmaxPolicy.uniform(mdp), estimator or RewardToGo(), horizon=1, sample=sample, **options
        )

    with pytest.raises(InvalidArgument, match=r"sample must have shape \(n, 2, 2\) but has \(3, 2\)"):
        check(np.zeros((3, 2)))
    with pytest.raises(InvalidArgument, match=r"sample.*nan"):
        check(np.full((3, 2, 2), np.nan))
    with pytest.raises(InvalidArgument, match=r"without a 0 but has \(0, 2, 2\)"):
        check(np.zeros((0, 2, 2)))
    with pytest.raises(InvalidArgument, match="takes the place of n, rng"):
        check(np.zeros((3, 2, 2)), n=3)
    with pytest.raises(InvalidArgument, match="needs n and rng, or a sample"):
        check(None)
    with pytest.raises(InvalidArgument, match=r"of shape \(2, 2\) but has \(1, 2\)"):
        check(GradientEstimate.from_samples(np.ones((3, 1, 2))))
    with pytest.raises(InvalidArgument, match="being no plain mean"):
        check(
            np.zeros((3, 2, 2)),
            RewardToGo(behaviour=SoftmaxPolicy.random(mdp, rng=0), weights="self-normalised"),
        )


def test_an_agreement_without_power_says_so():
    mdp = problems.random_mdp(5, 3, rng=0)
    policy, options = SoftmaxPolicy.uniform(mdp), {"horizon": 8, "rng": 0}
    weak = crosscheck(mdp, policy, RewardToGo(), n=1_000, **options)
    assert weak.agrees
    assert weak.detectable_bias > np.linalg.norm(weak.exact)
    assert "longer than the gradient itself" in str(weak)
    strong = crosscheck(mdp, policy, RewardToGo(), n=400_000, **options)
    assert strong.agrees
    assert "longer than the gradient itself" not in str(strong)
